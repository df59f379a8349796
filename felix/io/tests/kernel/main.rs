//! Against the real kernel, each test in a network namespace of its own, as root or as an ordinary
//! user. Where the machine allows neither, a test says `skipped` and why.
#![expect(clippy::unwrap_used, reason = "helpers of tests panic with them")]

#[macro_use]
extern crate harness;

mod connections;
mod filter;
mod floating;
mod leftovers;
mod monitor;
mod namespace;
mod node;
mod objects;
mod pieces;
mod restart;
mod rows;
mod rules;
mod table;
mod tunnels;
mod workload;

fn main() -> std::process::ExitCode {
    harness::run()
}
