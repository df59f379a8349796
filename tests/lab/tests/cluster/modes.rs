//! The modes that every kernel can do, and what their packets look like on the way.

use lab::{Families, Lab, Mode, Options};

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
        families: Families::Both,
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

/// No IPv4 address on any node or pod, two racks: sessions, every FIB, pings and source addresses.
fn ipv6_alone_holds(mode: Mode) {
    let run = run(Options {
        nodes: 4,
        racks: 2,
        mode,
        families: Families::V6,
        ..options()
    });
    assert!(run.report.faults.is_empty(), "{:#?}", run.report.faults);
    let sites = run.lab.topology.sites.iter();
    let addresses = sites.flat_map(|site| site.namespace.netlink().unwrap().addresses().unwrap());
    let v4: Vec<_> =
        (addresses.filter(|address| address.is_ipv4() && !address.is_loopback())).collect();
    assert!(v4.is_empty(), "{v4:?}");
}

#[test]
fn ipv6_alone_is_routed_by_bgp() {
    with_programs("modes::ipv6_alone_is_routed_by_bgp", |_| {
        ipv6_alone_holds(Mode::Bgp);
    });
}

#[test]
fn ipv6_alone_travels_in_vxlan() {
    with_programs("modes::ipv6_alone_travels_in_vxlan", |_| {
        ipv6_alone_holds(Mode::Vxlan);
    });
}

/// Packets of both families between racks and within one, and out of the cluster, as captures and a machine outside see them.
fn travel_as_they_must(name: &str, mode: Mode) {
    with_programs(name, |programs| {
        let three = Options {
            racks: 2,
            mode,
            families: Families::Both,
            ..options()
        };
        let mut lab = Lab::start(three, programs).unwrap_or_else(|error| panic!("{error}"));
        lab.fill_pods(1)
            .unwrap_or_else(|errors| panic!("{errors:?}"));
        converged(&mut lab);
        assert_eq!(lab::wire::faults(&lab).unwrap(), Vec::<String>::new());
    });
}

#[test]
fn by_plain_routes_packets_travel_as_they_are() {
    travel_as_they_must(
        "modes::by_plain_routes_packets_travel_as_they_are",
        Mode::Bgp,
    );
}

#[test]
fn between_racks_pods_packets_travel_in_vxlan_with_vni_4096_and_their_own_addresses() {
    travel_as_they_must(
        "modes::between_racks_pods_packets_travel_in_vxlan_with_vni_4096_and_their_own_addresses",
        Mode::Vxlan,
    );
}

#[test]
fn within_a_rack_crosssubnet_packets_travel_as_they_are() {
    travel_as_they_must(
        "modes::within_a_rack_crosssubnet_packets_travel_as_they_are",
        Mode::VxlanCrosssubnet,
    );
}
