//! From the environment to a node the cluster knows.

pub mod address;
