//! The node agent: start-up, tasks, mailboxes, sockets, health, metrics.
//!
//! This crate composes the others and decides nothing about routes: `felix` plans the kernel, `bgp` chooses routes,
//! `ipam` gives addresses. What stands here is who owns what, what waits for what, and what the process looks like from
//! outside (environment, sockets, files, signals).
//!
//! ```text
//! environment ─► api::params ─► startup ─► Identity ─► tasks (see `task`)
//! ```

pub mod agent;
pub mod cli;
pub mod health;
pub mod http;
pub mod instance;
pub mod kubernetes;
pub mod mailbox;
mod own;
pub mod passwords;
pub mod process;
#[cfg(test)]
mod scratch;
pub mod serve;
pub mod shutdown;
pub mod socket;
pub mod startup;
pub mod store;
pub mod task;
pub mod telemetry;
