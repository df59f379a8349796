//! TCP for the speaker: listening, connecting, MD5 and GTSM, byte shuttling.
//!
//! ```text
//!  Command ─► ┌────────┐ ◄─ Accepted, Listening ── one task per listening address
//!             │ driver │ ◄─ Connected, Failed ──── one task per connection being opened
//!  Output  ◄─ │(speaker)│◄─ Bytes, Written, Closed─ one task per connection
//!             └────────┘ ── chunks to write ─────►
//! ```
//! One task owns the speaker; the others move bytes and know nothing of BGP. Every channel is bounded.
#![deny(unsafe_code)]

mod connection;
mod driver;
mod listener;
mod listeners;
mod listing;
mod security;
mod socket;
mod sockopt;

pub use driver::{Command, Output, run};
