//! The lab's own checks, each made to fail: a check that cannot fail proves nothing.

use std::time::{Duration, Instant};

use ipnet::IpNet;
use lab::{Families, Lab, Mode, Options, Sabotage, Stream, Traffic};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{converged, options, run, with_programs};

/// Runs a sabotaged cluster and returns its faults.
fn faults(sabotage: Sabotage, patience: Duration) -> Vec<String> {
    let run = run(Options {
        sabotage: Some(sabotage),
        patience,
        ..options()
    });
    run.report.faults
}

fn has(faults: &[String], start: &str, parts: &[&str]) -> bool {
    faults
        .iter()
        .any(|fault| fault.starts_with(start) && parts.iter().all(|part| fault.contains(part)))
}

#[test]
fn a_removed_route_is_named_with_the_pings_that_it_costs() {
    with_programs(
        "checks::a_removed_route_is_named_with_the_pings_that_it_costs",
        |_| {
            let faults = faults(Sabotage::Route, options().patience);
            assert!(
                has(&faults, "FIB of n1: block ", &["(n3) has no route"]),
                "{faults:#?}"
            );
            assert!(
                has(&faults, "ping n1/p0 -> n3/p1: no answer", &[]),
                "{faults:#?}"
            );
            assert!(!has(&faults, "ping n1/p0 -> n2/", &[]), "{faults:#?}");
        },
    );
}

#[test]
fn a_removed_route_of_ipv6_is_named_with_the_pings_that_it_costs() {
    with_programs(
        "checks::a_removed_route_of_ipv6_is_named_with_the_pings_that_it_costs",
        |_| {
            let run = run(Options {
                sabotage: Some(Sabotage::Route),
                families: Families::Both,
                ..options()
            });
            let faults = run.report.faults;
            for (start, part) in [
                ("FIB of n1: block fd00:", "(n3) has no route"),
                ("ping n1/p0 -> n3/p1 over IPv6: no answer", ""),
            ] {
                assert!(has(&faults, start, &[part]), "{faults:#?}");
            }
            assert!(!has(&faults, "ping n1/p0 -> n2/", &[]), "{faults:#?}");
        },
    );
}

#[test]
fn a_masquerade_rule_is_named_with_the_address_that_the_receiver_saw() {
    if !lab::has_nft() {
        harness::skip(
            "lab-masquerade-sabotage",
            "the program nft is not installed",
        );
    }
    with_programs(
        "checks::a_masquerade_rule_is_named_with_the_address_that_the_receiver_saw",
        |_| {
            let faults = faults(Sabotage::Masquerade, options().patience);
            assert!(
                has(
                    &faults,
                    "source address n1/p0 -> n2/p0: receiver saw ",
                    &["(n1's)"]
                ),
                "{faults:#?}"
            );
            assert!(
                faults
                    .iter()
                    .all(|fault| fault.starts_with("source address n1/")),
                "{faults:#?}"
            );
        },
    );
}

#[test]
fn a_blocked_session_is_named_at_both_ends() {
    with_programs("checks::a_blocked_session_is_named_at_both_ends", |_| {
        let faults = faults(Sabotage::Session, Duration::from_secs(10));
        assert!(
            has(&faults, "session n1 -> n3 ", &["not established"]),
            "{faults:#?}"
        );
        assert!(
            has(&faults, "session n3 -> n1 ", &["not established"]),
            "{faults:#?}"
        );
        assert!(!has(&faults, "session n1 -> n2 ", &[]), "{faults:#?}");
    });
}

#[test]
fn a_claimed_block_whose_route_does_not_come_is_named_with_the_farthest_node() {
    let name = "checks::a_claimed_block_whose_route_does_not_come_is_named_with_the_farthest_node";
    with_programs(name, |programs| {
        let two = Options {
            nodes: 2,
            ..options()
        };
        let mut lab = Lab::start(two, programs).unwrap_or_else(|error| panic!("{error}"));
        assert!(lab.wait_sessions().unwrap());
        // It learns of the block, and writes nothing.
        lab.freeze_agent(1).unwrap();
        lab.options.patience = Duration::from_secs(3);
        let fault = lab.timed_add(0).unwrap_err();
        let starts = fault.starts_with("CNI ADD of n1/p0 claimed block ");
        assert!(
            starts && fault.contains("no route notification on n2"),
            "{fault}"
        );
        lab.thaw_agent(1).unwrap();
    });
}

#[test]
fn lost_packets_other_ways_than_the_modes_and_kernels_that_cannot_be_read_are_named() {
    let name =
        "checks::lost_packets_other_ways_than_the_modes_and_kernels_that_cannot_be_read_are_named";
    with_programs(name, |programs| {
        let two_racks = Options {
            racks: 2,
            ..options()
        };
        let mut lab = Lab::start(two_racks, programs).unwrap_or_else(|error| panic!("{error}"));
        lab.fill_pods(1)
            .unwrap_or_else(|errors| panic!("{errors:?}"));
        converged(&mut lab);
        lab.options.mode = Mode::VxlanCrosssubnet;
        let faults = lab::wire::faults(&lab).unwrap();
        let way = "travel {Right(None)}, expected {Right(Vxlan)}";
        assert!(
            has(&faults, "packets from ", &["(n1 to n2)", way]),
            "{faults:#?}"
        );
        assert!(
            !has(&faults, "packets from ", &["(n1 to n3)"]),
            "{faults:#?}"
        );
        lab.options.mode = Mode::Bgp;

        let mut traffic = Traffic::start(&lab).unwrap();
        assert!(traffic.flows(options().patience));
        traffic.befalls("a route goes");
        // Its block's route is behind the pod's: what comes is dropped.
        lab.freeze_agent(2).unwrap();
        let (n3, pod) = (
            &lab.topology.sites[2].namespace,
            IpNet::from(lab.pods[2].address),
        );
        n3.netlink().unwrap().delete_route(pod).unwrap();
        // From n2 to n1 nothing is missing: what arrives shows that others had the time to be lost.
        let others = Stream::between(&lab.pods[1], &lab.pods[0], 100).unwrap();
        let some = lab::wait_until(Instant::now() + options().patience, || {
            (others.arrived() > 5).then_some(())
        });
        assert!(some.is_some());
        lab.thaw_agent(2).unwrap();
        assert!(traffic.flows(options().patience));
        let faults = traffic.finish().unwrap();
        assert!(
            has(&faults, "a route goes: n1/p0 -> n3/p0 ", &["packets lost"]),
            "{faults:#?}"
        );
        assert!(
            !has(&faults, "a route goes: n1/p0 -> n2/p0 ", &[]),
            "{faults:#?}"
        );

        // No more files: no socket to read a kernel by.
        let before = getrlimit(Resource::Nofile);
        let none = Rlimit {
            current: Some(1),
            ..before
        };
        setrlimit(Resource::Nofile, none).unwrap();
        let faults = lab.prove().faults;
        setrlimit(Resource::Nofile, before).unwrap();
        for node in ["n1", "n2", "n3"] {
            let start = format!("FIB of {node}: cannot be read: ");
            assert!(
                has(&faults, &start, &["Too many open files"]),
                "{faults:#?}"
            );
        }
    });
}
