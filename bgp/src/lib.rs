//! A BGP speaker in memory: wire, session, rib, policy, speaker.
//!
//! Bytes, connections' fates, deadlines and configuration go in; bytes, connection requests, Loc-RIB changes and
//! events come out. There is no socket, clock, thread or randomness here: time and the seed are arguments. Kernel routes
//! are not its business either: whoever reads [`route::RouteChange`] decides what becomes of them.
//!
//! ```text
//!            config ──────────────┐
//!                                 ▼
//!  bytes ─► wire ─► session ─► speaker ─► rib: Adj-RIBs-In ─► decision ─► Loc-RIB ─► route changes
//!  bytes ◄─ wire ◄─────────────────────── Adj-RIB-Out, one per group of peers ◄┘
//! ```
//!
//! | Area | Standards |
//! |---|---|
//! | messages, attributes | see [`wire`] |
//! | FSM, collision, timers | RFC 4271 §6.8, §8, §10; 6286; 9687 |
//! | decision, loops, next hops | RFC 4271 §5.1, §9; 1997; 4456 |
//! | several paths of a prefix, IPv6 next hops of IPv4 prefixes | RFC 7911, 8950 |
//! | roles, routes that are for customers only | RFC 9234 |
//! | refresh | RFC 2918, 7313 (answered, never asked for: the Adj-RIB-In keeps what policy refuses) |
//! | graceful restart | RFC 4724, 8538, both sides |
//! | policy terms, eBGP without policies | RFC 8212 |
//! | prefix limit, shutdown reasons | RFC 4486, 9003 |
//!
//! Not here: long-lived graceful restart.
#![forbid(unsafe_code)]

pub mod action;
pub mod config;
pub mod event;
pub mod policy;
mod rib;
pub mod route;
mod session;
pub mod speaker;
pub mod status;
pub mod types;
pub mod wire;
