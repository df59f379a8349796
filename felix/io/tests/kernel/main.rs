//! Against the real kernel, each test in a network namespace of its own, as root or as an ordinary
//! user. Where the machine allows neither, a test says `skipped` and why.
#![allow(missing_docs, reason = "tests are sentences")]

mod monitor;
mod namespace;
mod node;
mod rows;
mod tunnels;
mod workload;
