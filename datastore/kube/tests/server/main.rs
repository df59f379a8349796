//! The store against a real API server. What it did is read with kubectl.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its place fails where it stands"
)]

#[macro_use]
extern crate harness;

mod cluster;
mod conformance;
mod faults;
mod fixtures;
mod garbage;
mod groups;
mod kubernetes;
mod requests;
mod secrets;
mod services;
mod setup;
mod status;

fn main() -> std::process::ExitCode {
    kube_lab::run()
}
