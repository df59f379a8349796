//! Everything that `cargo lab` proves, on objects of Kubernetes.

use lab::{Mode, Options, Progress};

use crate::{options, with_programs};

/// Runs what `cargo lab --store kube` runs, and tears down.
fn holds(name: &str, options: Options) {
    with_programs(name, |_| {
        let mut run = lab::run(options, Progress::new()).unwrap_or_else(|error| panic!("{error}"));
        println!("{}", run.tables);
        run.tear_down(Progress::new());
        assert!(run.report.faults.is_empty(), "{:#?}", run.report.faults);
    });
}

#[test]
fn plain_routes_connect_two_racks() {
    let options = Options {
        nodes: 4,
        racks: 2,
        ..options()
    };
    holds("modes::plain_routes_connect_two_racks", options);
}

#[test]
fn vxlan_between_racks_and_plain_routes_within() {
    let options = Options {
        nodes: 4,
        racks: 2,
        mode: Mode::VxlanCrosssubnet,
        ..options()
    };
    holds(
        "modes::vxlan_between_racks_and_plain_routes_within",
        options,
    );
}

#[test]
fn reflectors_take_the_meshs_place() {
    let options = Options {
        reflectors: 2,
        ..options()
    };
    holds("modes::reflectors_take_the_meshs_place", options);
}
