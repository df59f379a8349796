//! Facts into a planned kernel: calculation graph, desired tables, reconciler.
//!
//! ```text
//! api objects ─┐
//! BGP routes ──┼─► calc::Graph ─ changed rows ─► reconcile::Reconciler ─ kernel::Op ─► felix/io
//! host links ──┘        │                               ▲                                  │
//!                       ├─► bgp::config::Config         └── read-back, notifications, results
//!                       └─► originated prefixes
//! ```
//! Not here: sockets, the clock, retries against the store, addresses for pods (`ipam`), BGP itself (`bgp`).
#![forbid(unsafe_code)]

pub mod calc;
pub mod desired;
pub mod kernel;
pub mod ownership;
pub mod reconcile;
pub mod rules;
