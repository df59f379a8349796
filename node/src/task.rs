//! The tasks of the agent. Each owns what it works on; they exchange state through mailboxes and ask each other by
//! request with a one-shot reply.
//!
//! ```text
//! watch ──► calc ──► dataplane ──► kernel
//!            ▲ │         │
//!  best      │ │ config, └─► kernel events back to calc
//!  routes    │ ▼ originations
//!            bgp                  cni ──► ipam, veth, store; echo to calc; waits for dataplane
//!                                 admin ──► asks bgp; reads the accounts of calc and dataplane
//! ```

pub mod admin;
pub mod bgp;
pub mod calc;
pub mod cni;
pub mod collector;
pub mod completion;
pub mod dataplane;
pub mod endpoint_status;
pub mod keeper;
pub mod namesake;
pub mod node_status;
pub mod token;
pub mod watch;
pub mod without_effect;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment as `ipam` and the objects spell it.
pub fn timestamp(time: SystemTime) -> ipam::Timestamp {
    ipam::Timestamp::from_unix(time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
}
