//! What the lab sends through the cluster to see what arrives: pings, TCP exchanges, numbered packets.

pub(crate) mod bulk;
pub(crate) mod capture;
pub(crate) mod ping;
pub(crate) mod stream;
pub(crate) mod tcp;
