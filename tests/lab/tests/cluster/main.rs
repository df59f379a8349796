//! The whole product on the lab's machines.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its place fails where it stands"
)]

mod bad_input;
mod checks;
mod cleanup;
mod modes;
mod pods;
mod restart;

use std::time::Duration;

use lab::{Options, Programs, Progress, Run};

/// Runs `body` in a private world, with the product's programs built before. `name` is the test's full name.
fn with_programs(name: &str, body: impl FnOnce(Programs)) {
    if !lab::is_inside() {
        Programs::build().unwrap_or_else(|error| panic!("{error}"));
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

/// Runs everything that `cargo lab` runs and tears down.
fn run(options: Options) -> Run {
    let mut run = lab::run(options, Progress::new()).unwrap_or_else(|error| panic!("{error}"));
    println!("{}", run.tables);
    run.tear_down(Progress::new());
    run
}
