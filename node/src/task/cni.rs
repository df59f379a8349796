//! The CNI task.
pub mod connection;
