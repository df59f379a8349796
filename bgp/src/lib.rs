//! A BGP speaker in memory: wire, session, rib, policy, speaker.
//!
//! Bytes, connections' fates, deadlines and configuration go in; bytes, connection requests, Loc-RIB changes and
//! events come out. There is no socket, clock, thread or randomness here: time and the seed are arguments.
#![forbid(unsafe_code)]

pub mod action;
pub mod config;
pub mod event;
mod rib;
pub mod route;
mod session;
pub mod speaker;
pub mod status;
pub mod types;
pub mod wire;
