//! The CNI plugin: specification types, agent socket protocol, thin client.
