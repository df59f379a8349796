//! The embedded store: redb in one process, served to others over the relay.
//!
//! ```text
//!   node ── RelayStore ──┐ gRPC over a Unix socket            ┌─► writer thread: groups transactions,
//!   node ── RelayStore ──┼──────────► serve ──► RedbStore ────┤   one durable commit each group
//!   ctl  ── RelayStore ──┘                                    └─► readers: the last committed snapshot
//! ```
//! A transaction is answered when it is on disk. What it does not do: replicate, or serve another machine.
#![forbid(unsafe_code)]

pub mod redb_store;
pub mod relay;

#[expect(
    unreachable_pub,
    reason = "made by tonic-prost-build from proto/relay.proto; tests/generated.rs compares"
)]
mod generated {
    include!("generated/tortie.relay.v2.rs");
}

pub use redb_store::RedbStore;
pub use relay::client::RelayStore;
pub use relay::server::{bind, serve};
