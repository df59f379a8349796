//! The whole product with its objects in a real Kubernetes API server, and what may befall that.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its place fails where it stands"
)]

#[macro_use]
extern crate harness;

mod addresses;
mod annotations;
mod bad_objects;
mod checks;
mod credentials;
mod former;
mod in_cluster;
mod modes;
mod node_status;
mod objects;
mod old_data;
mod outages;
mod pod_cidr;
mod services;
mod slow;
mod startup;
mod takeover;
mod told;
mod traffic;

use std::time::Duration;

use lab::{Options, Programs, Store};

fn main() -> std::process::ExitCode {
    // Outages last minutes, in which nothing is to be done.
    harness::run_side_by_side(4)
}

/// Runs `body` in a private world, with the product's programs built before. `name` is the test's full name.
fn with_programs(name: &str, body: impl FnOnce(Programs)) {
    if !lab::is_inside() {
        build();
    }
    lab::in_namespaces(name, || body(Programs::find().expect("built a moment ago")));
}

/// The product's programs, beside Kubernetes' own; without those the test is skipped.
fn build() {
    let _ = kube_lab::required(&[]);
    if !lab::uml::is_guest() {
        Programs::build(Store::Kube).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// What tests start from: patient, because machines are shared and programs unoptimised.
fn options() -> Options {
    Options {
        patience: Duration::from_secs(90),
        store: Store::Kube,
        ..Options::default()
    }
}
