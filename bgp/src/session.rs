//! Sessions: one connection's FSM, a peer with its connections and timers, and what an OPEN exchange agrees on.

pub(crate) mod connection;
pub(crate) mod jitter;
pub(crate) mod offer;
pub(crate) mod peer;
