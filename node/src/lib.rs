//! The node agent: start-up, tasks, mailboxes, sockets, health, metrics.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may panic"))]

pub mod mailbox;
pub mod startup;
