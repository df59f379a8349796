//! Whole clusters under virtual time, seeded faults, invariant checkers.
//!
//! Each node is the real machines (`felix::calc::Graph`, `felix::reconcile::Reconciler`, `bgp::speaker::Speaker`,
//! `ipam::Ipam`) around a model of the kernel; the network carries byte streams cut at random places; one
//! `datastore::memory::MemoryStore` stands for the cluster's store. Everything that could differ between two runs comes
//! from one seed.
//!
//! It deliberately does not model time spent computing, packet loss below TCP, or the kernel's forwarding beyond a
//! longest-prefix walk.
#![forbid(unsafe_code)]

pub mod check;
pub mod executor;
pub mod kernel;
pub mod net;
pub mod node;
pub mod rng;
pub mod world;
