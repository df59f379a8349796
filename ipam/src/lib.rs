//! One address for each workload: blocks, affinities, assignment, release.
//!
//! A pool is cut into blocks, a node claims whole blocks, and an address is one slot of a block. Every decision is made
//! over a [`view::View`] of the store and written as **one** plan, in which each object is compared with the version the
//! decision saw; who loses a race learns what stands there now, and decides anew. Stores with transactions do the plan as
//! a whole, others stage by stage in Calico's order.
//!
//! ```text
//! requests ─► decision (pure) over View ─► plan of stages ─► assignments + changes to echo
//!                  ▲                          │
//!                  └── what stands there now ─┘ conflict
//! ```
//!
//! The objects are Calico's, and what its claims leave behind after a crash is understood and repaired. It does
//! not route, does not watch, knows no clock: time is an argument. Shapes and rules: Calico's
//! `libcalico-go/lib/ipam`, IPAM resources of `projectcalico.org/v3`.
#![forbid(unsafe_code)]

pub mod allocator;
pub mod audit;
pub mod block;
pub mod candidates;
pub mod check;
pub mod collect;
pub mod companion;
pub mod cooldown;
mod draft;
pub mod error;
mod plan;
pub mod pools;
mod release;
pub mod request;
pub mod reserved;
mod search;
pub mod time;
pub mod tunnel;
pub mod view;

pub use allocator::Ipam;
pub use companion::{Accompanied, Companion};
pub use error::AssignError;
pub use request::{AssignRequest, Assignment, Committed, ReleaseAddress, Released, Wanted};
pub use time::Timestamp;
