//! Routed hosts: the node's address on the loopback device, uplinks chosen by the host's own routes.

use super::*;
use crate::desired::NextHop;

/// A host whose address is on `lo`, with uplinks of these names and MTUs and one route to each other node over all of them.
fn routed(pool_spec: serde_json::Value, uplinks: &[(&str, u32)]) -> World {
    let mut world = World::new(Settings::new("n1"));
    world.kernel(&link("lo", true, 65536));
    world.kernel(&addr("lo", "127.0.0.1/8"));
    world.kernel(&addr("lo", "10.0.0.1/32"));
    for (index, (name, mtu_bytes)) in uplinks.iter().enumerate() {
        world.kernel(&link(name, true, *mtu_bytes));
        world.kernel(&addr(name, &format!("172.16.{index}.1/31")));
    }
    for other in ["10.0.0.2/32", "10.9.0.3/32"] {
        world.kernel(&KernelEvent::RowSet(over(other, uplinks)));
    }
    for (number, name, address) in [
        (0, "n1", "10.0.0.1/32"),
        (1, "n2", "10.0.0.2/32"),
        (2, "n3", "10.9.0.3/32"),
    ] {
        world.put(node_in(&pool_spec, name, address, number));
    }
    world.put(pool("p", pool_spec));
    for (name, range) in [
        ("n1", "10.1.0.0/26"),
        ("n2", "10.1.1.0/26"),
        ("n3", "10.1.2.0/26"),
    ] {
        world.put(block(range, Some(name), &[]));
        world.put(affinity(name, range, "confirmed"));
    }
    for kind in Graph::KINDS {
        world.graph.handle_in_sync(kind);
    }
    world.graph.handle_kernel_in_sync();
    world.flush();
    world
}

/// A route of the host over all uplinks side by side.
fn over(dst: &str, uplinks: &[(&str, u32)]) -> Row {
    let Row::Route(key, mut spec) = route(dst, "172.16.0.0", "eth0") else {
        unreachable!("it is a route")
    };
    spec.next_hops = uplinks
        .iter()
        .enumerate()
        .map(|(index, (name, _))| NextHop {
            gateway: Some(format!("172.16.{index}.0").parse().unwrap()),
            ifname: Some(IfName::from(*name)),
            onlink: false,
        })
        .collect();
    Row::Route(key, spec)
}

fn parent(world: &World) -> Parent {
    match &world.rows[&RowKey::Link(IfName::from(VXLAN_DEVICE))] {
        Row::Link(_, LinkSpec::Vxlan { parent, .. }) => parent.clone(),
        other => panic!("{other:?}"),
    }
}

const BOTH: [(&str, u32); 2] = [("eth0", 1500), ("eth1", 1400)];

#[test]
fn the_least_mtu_of_the_uplinks_counts_and_vxlan_has_no_parent() {
    for (uplinks, mtu_bytes) in [(&BOTH[..1], 1500), (&BOTH[..], 1400)] {
        let world = routed(plain(), uplinks);
        assert_eq!(world.graph.pod_mtu_bytes(), Some(mtu_bytes), "{uplinks:?}");
        let world = routed(vxlan("Always"), uplinks);
        assert_eq!(world.graph.pod_mtu_bytes(), Some(mtu_bytes - 50));
        assert_eq!(parent(&world), Parent::Routed, "a flap makes no new device");
        assert_eq!(world.problems(), Vec::<String>::new());
    }
}

#[test]
fn a_lone_node_goes_by_the_default_route_until_there_are_others() {
    let mut world = routed(vxlan("Always"), &BOTH);
    world.remove(&Key::new(Kind::Node, "n2"));
    world.remove(&Key::new(Kind::Node, "n3"));
    world.flush();
    assert_eq!(world.graph.pod_mtu_bytes(), None, "nothing leads anywhere");
    world.kernel(&KernelEvent::RowSet(over("0.0.0.0/0", &BOTH[..1])));
    world.flush();
    assert_eq!(world.graph.pod_mtu_bytes(), Some(1450));
}

#[test]
fn the_routes_of_bgp_take_every_next_hop_of_the_hosts_route() {
    let mut world = routed(plain(), &BOTH);
    world.bgp("10.1.1.0/26", &["10.0.0.2"]);
    world.flush();
    let both = "via 172.16.0.0 dev eth0 via 172.16.1.0 dev eth1 proto 12 metric 1024";
    assert_eq!(fib(&world, "10.1.1.0/26").as_deref(), Some(both));
    world.kernel(&link("eth0", false, 1500));
    world.flush();
    let one = "via 172.16.1.0 dev eth1 proto 12 metric 1024";
    assert_eq!(fib(&world, "10.1.1.0/26").as_deref(), Some(one));
    world.kernel(&link("eth0", true, 1500));
    world.flush();
    assert_eq!(fib(&world, "10.1.1.0/26").as_deref(), Some(both));
}

#[test]
fn routes_from_blocks_follow_the_hosts_route_to_the_node() {
    let mut settings = Settings::new("n1");
    settings.cluster_routes = ClusterRoutes::Enabled;
    let mut world = World::new(settings);
    for event in [
        link("lo", true, 65536),
        addr("lo", "10.0.0.1/32"),
        link("eth0", true, 1500),
        link("eth1", true, 1400),
        KernelEvent::RowSet(over("10.0.0.2/32", &BOTH)),
    ] {
        world.kernel(&event);
    }
    for (key, object) in routed(plain(), &BOTH).objects {
        world.put((key, object));
    }
    for kind in Graph::KINDS {
        world.graph.handle_in_sync(kind);
    }
    world.graph.handle_kernel_in_sync();
    world.flush();
    assert_eq!(
        fib(&world, "10.1.1.0/26").unwrap(),
        "via 172.16.0.0 dev eth0 via 172.16.1.0 dev eth1 proto 80"
    );
    assert_eq!(fib(&world, "10.1.2.0/26"), None);
    assert_eq!(
        world.problems(),
        ["route 10.1.2.0/26: unreachable: no route"]
    );
}

#[test]
fn an_address_on_lo_and_on_an_uplink_is_the_uplinks() {
    let mut world = routed(vxlan("CrossSubnet"), &BOTH);
    world.kernel(&addr("eth1", "10.0.0.1/24"));
    world.flush();
    assert_eq!(parent(&world), Parent::Device(IfName::from("eth1")));
    assert_eq!(world.graph.pod_mtu_bytes(), Some(1350));
}

#[test]
fn an_mtu_above_what_the_devices_carry_is_limited_and_said_so() {
    let mut settings = Settings::new("n1");
    settings.vxlan_mtu_bytes = Some(9000);
    settings.ipip_mtu_bytes = Some(1480);
    settings.ipip_enabled = Some(true);
    let mut world = World::new(settings);
    for (key, object) in cluster(vxlan("Always")).objects {
        world.put((key, object));
    }
    world.start();
    world.flush();
    assert_eq!(world.graph.pod_mtu_bytes(), Some(1450));
    assert!(fib(&world, "10.1.1.0/26").unwrap().ends_with("mtu 1450"));
    let said = "device vxlan.calico: FELIX_VXLANMTU=9000 is more than the host's devices carry less the tunnel's header; \
                1450 is used";
    assert_eq!(
        world.problems(),
        [
            "device tunl0: this node's Node object has no spec.bgp.ipv4IPIPTunnelAddr",
            said
        ]
    );
    world.kernel(&link("eth0", true, 9050));
    world.flush();
    assert!(fib(&world, "10.1.1.0/26").unwrap().ends_with("mtu 9000"));
    assert!(!world.problems().contains(&said.to_owned()));
}
