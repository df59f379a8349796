//! What exists: resource types, keys, validation, selectors, parameter table.
//!
//! The JSON shapes are those of Calico's v3 API, so that objects written by either product are read by the other;
//! fields this package does not know are kept and written back.
#![forbid(unsafe_code)]

pub mod admin;
pub mod affinity;
pub mod attachment;
pub mod bgp;
pub mod bgp_filter;
pub mod cluster;
mod columns;
pub mod crd;
pub mod duration;
pub mod endpoint;
pub mod felix;
pub mod ipam;
pub mod key;
mod kinds;
pub mod manifest;
pub mod metadata;
pub mod node;
pub mod node_status;
pub mod object;
pub mod params;
pub mod path;
pub mod pod;
pub mod pool;
pub mod selector;
pub mod service;
pub mod shape;
pub mod validate;
pub mod without_effect;
