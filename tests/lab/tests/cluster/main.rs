//! The whole product on the lab's machines.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its place fails where it stands"
)]

#[macro_use]
extern crate harness;

mod attachments;
mod bad_input;
mod checks;
mod cleanup;
mod datastore;
mod faults;
mod filter;
mod gone;
mod instances;
mod modes;
mod nat;
mod next_hops;
mod outage;
mod plugin;
mod pods;
mod reflectors;
mod restart;
mod results;
mod switch;
mod sysctls;
mod telemetry;
mod tors;

use std::process::Output;
use std::time::Duration;

use lab::{Lab, Options, Programs, Progress, RouteMonitor, Run};

fn main() -> std::process::ExitCode {
    harness::run()
}

/// Runs `body` in a private world, with the product's programs built before. `name` is the test's full name.
fn with_programs(name: &str, body: impl FnOnce(Programs)) {
    if !lab::is_inside() {
        Programs::build(lab::Store::Local).unwrap_or_else(|error| panic!("{error}"));
    }
    lab::in_namespaces(name, || body(Programs::find().expect("built a moment ago")));
}

/// What tests start from: patient, because machines are shared and programs unoptimised.
fn options() -> Options {
    Options {
        patience: Duration::from_secs(60),
        ..Options::default()
    }
}

/// Waits until every session, route and pod is there.
fn converged(lab: &mut Lab) {
    lab.converge().unwrap_or_else(|why| panic!("{why}"));
}

/// One for each node's kernel: what happens to its routes from now on.
fn route_monitors(lab: &Lab) -> Vec<RouteMonitor> {
    let sites = lab.topology.sites.iter();
    sites
        .map(|site| RouteMonitor::open(&site.namespace).unwrap())
        .collect()
}

/// Runs `tortiectl` on the first machine.
fn ctl(lab: &Lab, arguments: &[&str]) -> Output {
    let site = &lab.topology.sites[0];
    site.namespace
        .command(lab.programs().ctl())
        .envs(lab.options.environment_of(site))
        .args(arguments)
        .output()
        .unwrap()
}

/// `tortiectl apply` of these documents, which must be taken.
fn apply(lab: &Lab, manifest: &str) {
    // In the file system that this test alone sees.
    let file = format!("{}/manifest.yaml", lab::BASE);
    std::fs::write(&file, manifest).unwrap();
    let output = ctl(lab, &["apply", "-f", &file]);
    assert!(output.status.success(), "{manifest}: {output:?}");
}

/// Runs everything that `cargo lab` runs and tears down.
fn run(options: Options) -> Run {
    let mut run = lab::run(options, Progress::new()).unwrap_or_else(|error| panic!("{error}"));
    println!("{}", run.tables);
    run.tear_down(Progress::new());
    run
}
