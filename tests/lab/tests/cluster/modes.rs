//! The modes that every kernel can do, and what their packets look like on the way.

use std::time::{Duration, Instant};

use lab::{Capture, Content, Lab, Mode, Options, Packet};

use crate::{converged, options, run, with_programs};

fn holds(options: Options) {
    let run = run(options);
    assert!(run.report.faults.is_empty(), "{:#?}", run.report.faults);
    assert!(
        run.report.add_to_fib_ms.n > 0,
        "{:?}",
        run.report.add_to_fib_ms
    );
}

#[test]
fn plain_routes_connect_three_nodes() {
    with_programs("modes::plain_routes_connect_three_nodes", |_| {
        holds(options())
    });
}

#[test]
fn plain_routes_connect_two_racks_over_a_router_that_knows_the_blocks() {
    with_programs(
        "modes::plain_routes_connect_two_racks_over_a_router_that_knows_the_blocks",
        |_| {
            holds(Options {
                nodes: 4,
                racks: 2,
                ..options()
            });
        },
    );
}

#[test]
fn vxlan_connects_two_racks() {
    with_programs("modes::vxlan_connects_two_racks", |_| {
        holds(Options {
            nodes: 4,
            racks: 2,
            mode: Mode::Vxlan,
            ..options()
        });
    });
}

#[test]
fn vxlan_between_racks_and_plain_routes_within() {
    with_programs("modes::vxlan_between_racks_and_plain_routes_within", |_| {
        holds(Options {
            nodes: 4,
            racks: 2,
            mode: Mode::VxlanCrosssubnet,
            ..options()
        });
    });
}

/// Both families between two racks: sessions, every FIB, pings and source addresses.
fn dual_stack_holds(mode: Mode) {
    let run = run(Options {
        nodes: 4,
        racks: 2,
        mode,
        dual_stack: true,
        ..options()
    });
    assert!(run.report.faults.is_empty(), "{:#?}", run.report.faults);
    let v6 = |pod: &lab::Pod| pod.address6.is_some();
    assert!(run.lab.pods.iter().all(v6), "{:?}", run.lab.pods);
}

#[test]
fn both_families_are_routed_by_bgp() {
    with_programs("modes::both_families_are_routed_by_bgp", |_| {
        dual_stack_holds(Mode::Bgp);
    });
}

#[test]
fn both_families_travel_in_vxlan_of_their_own() {
    with_programs("modes::both_families_travel_in_vxlan_of_their_own", |_| {
        dual_stack_holds(Mode::Vxlan);
    });
}

#[test]
fn both_families_travel_in_vxlan_between_racks_only() {
    with_programs(
        "modes::both_families_travel_in_vxlan_between_racks_only",
        |_| {
            dual_stack_holds(Mode::VxlanCrosssubnet);
        },
    );
}

/// Builds a cluster with a pod on each node and waits until it is complete.
fn complete(options: Options, programs: lab::Programs) -> Lab {
    let mut lab = Lab::start(options, programs).unwrap_or_else(|error| panic!("{error}"));
    lab.fill_pods(1)
        .unwrap_or_else(|errors| panic!("{errors:?}"));
    converged(&mut lab);
    lab
}

#[test]
fn between_racks_pods_packets_travel_in_vxlan_with_vni_4096_and_their_own_addresses() {
    let name =
        "modes::between_racks_pods_packets_travel_in_vxlan_with_vni_4096_and_their_own_addresses";
    with_programs(name, |programs| {
        let lab = complete(
            Options {
                nodes: 2,
                racks: 2,
                mode: Mode::Vxlan,
                ..options()
            },
            programs,
        );
        let mut capture = Capture::open(&lab.topology.router).unwrap();
        assert!(lab.prove().faults.is_empty());
        let [first, second] = lab.pods.as_slice() else {
            panic!("two pods")
        };
        let [n1, n2] = lab.topology.sites.as_slice() else {
            panic!("two nodes")
        };
        let mut is_wanted = |packet: &Packet| {
            let Content::Vxlan {
                vni,
                inner: Some(inner),
            } = &packet.content
            else {
                return false;
            };
            (packet.source, packet.destination, *vni) == (n1.address, n2.address, 4096)
                && (inner.source, inner.destination) == (first.address, second.address)
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        assert!(
            capture.find(deadline, &mut is_wanted).unwrap().is_some(),
            "no such packet passed the router"
        );
    });
}

#[test]
fn within_a_rack_crosssubnet_packets_travel_as_they_are() {
    with_programs(
        "modes::within_a_rack_crosssubnet_packets_travel_as_they_are",
        |programs| {
            let lab = complete(
                Options {
                    nodes: 2,
                    mode: Mode::VxlanCrosssubnet,
                    ..options()
                },
                programs,
            );
            let mut capture = Capture::open(&lab.topology.racks[0].switch).unwrap();
            assert!(lab.prove().faults.is_empty());
            let packets = capture.drain().unwrap();
            let [first, second] = lab.pods.as_slice() else {
                panic!("two pods")
            };
            let plain = |packet: &&Packet| {
                (packet.source, packet.destination) == (first.address, second.address)
            };
            assert!(
                packets.iter().any(|packet| plain(&packet)),
                "no plain packet among {}",
                packets.len()
            );
            let tunnelled = packets
                .iter()
                .find(|packet| matches!(packet.content, Content::Vxlan { .. }));
            assert_eq!(tunnelled, None);
        },
    );
}
