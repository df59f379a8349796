//! The lab's cluster with BIRD 2 as the rack's router, configured on our side by `tortiectl`.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its place fails where it stands"
)]

#[macro_use]
extern crate harness;

mod leaving;
mod peering;
mod place;
mod pods;
mod refused;
mod restart;

use interop::bird::Bird;
use lab::Programs;

fn main() -> std::process::ExitCode {
    harness::run()
}

/// Runs `body` in a private world, with the product's programs built before; says so when BIRD is not there.
fn with_bird(name: &str, body: impl FnOnce(Programs)) {
    if Bird::find().is_none() {
        harness::skip(
            "bird",
            "no program `bird` on PATH or in /usr/sbin (Debian: bird2)",
        );
    }
    if !lab::is_inside() {
        Programs::build(lab::Store::Local).unwrap_or_else(|error| panic!("{error}"));
    }
    lab::in_namespaces(name, || body(Programs::find().expect("built a moment ago")));
}
