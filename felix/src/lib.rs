//! Facts into a planned kernel: calculation graph, desired tables, reconciler.
#![forbid(unsafe_code)]

pub mod desired;
pub mod kernel;
