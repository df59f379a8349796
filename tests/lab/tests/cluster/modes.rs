//! The modes that every kernel can do, and what their packets look like on the way.

use std::net::IpAddr;

use lab::{Capture, Content, Families, Lab, Mode, NetNs, Options, Packet};

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

/// Builds a cluster with a pod on each node and waits until it is complete.
fn complete(options: Options, programs: lab::Programs) -> Lab {
    let mut lab = Lab::start(options, programs).unwrap_or_else(|error| panic!("{error}"));
    lab.fill_pods(1)
        .unwrap_or_else(|errors| panic!("{errors:?}"));
    converged(&mut lab);
    lab
}

/// Whether a packet went from one machine to another in VXLAN 4096 and carried the pods' own addresses, of one family.
fn is_tunnelled(packet: &Packet, nodes: (IpAddr, IpAddr), pods: (IpAddr, IpAddr)) -> bool {
    let Content::Vxlan {
        vni: 4096,
        inner: Some(inner),
    } = &packet.content
    else {
        return false;
    };
    (packet.source, packet.destination) == nodes && (inner.source, inner.destination) == pods
}

/// The first and the second one's addresses, by family.
fn both(
    first: impl Iterator<Item = IpAddr>,
    second: impl Iterator<Item = IpAddr>,
) -> Vec<(IpAddr, IpAddr)> {
    let pairs: Vec<_> = first.zip(second).collect();
    assert_eq!(pairs.len(), 2, "{pairs:?}");
    pairs
}

/// What passed, of each family, while every pair of pods of a cluster of two nodes was proved: the nodes' addresses, the pods', the packets.
type Passed = (Vec<(IpAddr, IpAddr)>, Vec<(IpAddr, IpAddr)>, Vec<Packet>);

fn passed(lab: &Lab, place: &NetNs) -> Passed {
    let mut capture = Capture::open(place).unwrap();
    assert!(lab.prove().faults.is_empty());
    let packets = capture.drain().unwrap();
    let [first, second] = lab.pods.as_slice() else {
        panic!("two pods")
    };
    let [n1, n2] = lab.topology.sites.as_slice() else {
        panic!("two nodes")
    };
    let nodes = both(n1.addresses(), n2.addresses());
    (nodes, both(first.addresses(), second.addresses()), packets)
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
                families: Families::Both,
                ..options()
            },
            programs,
        );
        let (nodes, pods, packets) = passed(&lab, &lab.topology.router);
        for (nodes, pods) in nodes.into_iter().zip(pods) {
            let wanted = |packet: &Packet| is_tunnelled(packet, nodes, pods);
            assert!(
                packets.iter().any(wanted),
                "{nodes:?} {pods:?}: not among {} packets",
                packets.len()
            );
            // Never without.
            let bare = |packet: &&Packet| (packet.source, packet.destination) == pods;
            assert_eq!(packets.iter().find(bare), None);
        }
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
                    families: Families::Both,
                    ..options()
                },
                programs,
            );
            let (_, pods, packets) = passed(&lab, &lab.topology.racks[0].switch);
            for pods in pods {
                let plain = |packet: &Packet| (packet.source, packet.destination) == pods;
                assert!(
                    packets.iter().any(plain),
                    "{pods:?}: not among {} packets",
                    packets.len()
                );
            }
            let tunnelled = |packet: &&Packet| matches!(packet.content, Content::Vxlan { .. });
            assert_eq!(packets.iter().find(tunnelled), None);
        },
    );
}
