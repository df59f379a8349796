//! The CNI plugin: one request to the node's agent, one result.

fn main() {}
