//! IPv6 beside IPv4: each family by its own addresses, pools and tunnels.

use super::*;
use crate::ownership::VXLAN_V6_DEVICE;
use crate::rules::Family;

/// As [`cluster`], with addresses and a pool of IPv6, too.
fn dual_stack(v4: serde_json::Value, v6: serde_json::Value) -> World {
    dual_stack_with(Settings::new("n1"), v4, v6)
}

fn dual_stack_with(settings: Settings, v4: serde_json::Value, v6: serde_json::Value) -> World {
    let mut world = World::new(settings);
    let has_v4 = v4.get("vxlanMode").is_some();
    for (key, object) in cluster(v4).objects {
        world.put((key, object));
    }
    world.put(pool("six", v6));
    for (name, v4, v6, number) in [
        ("n1", "10.0.0.1/24", "fd00::1/64", 0),
        ("n2", "10.0.0.2/24", "fd00::2/64", 1),
        ("n3", "10.9.0.3/24", "fd00:9::3/64", 2),
    ] {
        let range = format!("fd10:0:0:{number}::/122");
        let spec = json!({
            "bgp": {"ipv4Address": v4, "ipv6Address": v6},
            "ipv4VXLANTunnelAddr": has_v4.then(|| format!("10.1.{number}.0")),
            "ipv6VXLANTunnelAddr": format!("fd10:0:0:{number}::"),
        });
        world.put(world::object(Key::new(Kind::Node, name), &spec));
        world.put(block(&range, Some(name), &[]));
        world.put(affinity(name, &range, "confirmed"));
    }
    world.kernel(&addr("eth0", "fd00::1/64"));
    world.start();
    world.flush();
    world
}

fn six(mode: &str) -> serde_json::Value {
    json!({"cidr": "fd10::/16", "vxlanMode": mode})
}

fn link_of(world: &World, device: &str) -> Option<LinkSpec> {
    match world.rows.get(&RowKey::Link(IfName::from(device)))? {
        Row::Link(_, spec) => Some(spec.clone()),
        other => panic!("{other:?}"),
    }
}

/// Neighbours and forwarding entries of a device.
fn remotes(world: &World, device: &str) -> Vec<String> {
    let rows = world.rows.values().filter(|row| match row.key() {
        RowKey::Fdb(key) => *key.ifname.0 == *device,
        RowKey::Neigh(key) => *key.ifname.0 == *device,
        _ => false,
    });
    rows.map(ToString::to_string).collect()
}

#[test]
fn vxlan_over_ipv6_has_a_device_addresses_and_macs_of_its_own() {
    let mut world = dual_stack(vxlan("Always"), six("Always"));
    let mac = |name| crate::desired::Mac(api::node::vxlan_mac_v6(name));
    assert_eq!(
        link_of(&world, VXLAN_V6_DEVICE),
        Some(LinkSpec::Vxlan {
            vni: 4096,
            port: 4789,
            local: "fd00::1".parse().unwrap(),
            parent: Parent::Device(IfName::from("eth0")),
            mac: mac("n1"),
            mtu_bytes: Some(1430),
            checksums: crate::desired::Checksums::AsIs,
        })
    );
    let expected = [
        format!("neighbour fd10:0:0:1:: on vxlan-v6.calico: {}", mac("n2")),
        format!("neighbour fd10:0:0:2:: on vxlan-v6.calico: {}", mac("n3")),
    ];
    let found = remotes(&world, VXLAN_V6_DEVICE);
    assert!(expected.iter().all(|row| found.contains(row)), "{found:?}");
    for (name, node) in [("n2", "fd00::2"), ("n3", "fd00:9::3")] {
        let row = format!("forwarding entry {} on vxlan-v6.calico: {node}", mac(name));
        assert!(found.contains(&row), "{found:?}");
    }
    assert_eq!(
        fib(&world, "fd10:0:0:2::/122").unwrap(),
        "via fd10:0:0:2:: dev vxlan-v6.calico onlink proto 3 mtu 1430 metric 1024"
    );
    assert_eq!(
        fib(&world, "fd10::/122").unwrap(),
        "blackhole proto 80 metric 1024"
    );
    // IPv4 is as it is without IPv6, but for what pods can send.
    assert_eq!(
        fib(&world, "10.1.2.0/26").unwrap(),
        "via 10.1.2.0 dev vxlan.calico onlink proto 3 mtu 1450"
    );
    assert_eq!(remotes(&world, VXLAN_DEVICE).len(), 4);
    assert_eq!(world.graph.pod_mtu_bytes(), Some(1430));
    world.put(pool("six", six("Never")));
    world.flush();
    let spec = json!({
        "bgp": {"ipv4Address": "10.0.0.1/24", "ipv6Address": "fd00::1/64"},
        "ipv4VXLANTunnelAddr": "10.1.0.0",
    });
    world.put(world::object(Key::new(Kind::Node, "n1"), &spec));
    world.flush();
    assert_eq!(link_of(&world, VXLAN_V6_DEVICE), None);
    assert!(remotes(&world, VXLAN_V6_DEVICE).is_empty());
    assert_eq!(world.graph.pod_mtu_bytes(), Some(1450));
}

#[test]
fn within_a_subnet_of_ipv6_packets_need_no_tunnel() {
    let world = dual_stack(plain(), six("CrossSubnet"));
    assert_eq!(
        fib(&world, "fd10:0:0:1::/122").unwrap(),
        "via fd00::2 dev eth0 onlink proto 80 metric 1024"
    );
    assert_eq!(
        fib(&world, "fd10:0:0:2::/122").unwrap(),
        "via fd10:0:0:2:: dev vxlan-v6.calico onlink proto 3 mtu 1430 metric 1024"
    );
    assert_eq!(link_of(&world, VXLAN_DEVICE), None);
}

#[test]
fn the_mesh_has_a_session_for_each_family() {
    let world = dual_stack(plain(), six("Never"));
    let peers = world.peer_names();
    assert_eq!(
        peers,
        [
            "Mesh_10_0_0_2",
            "Mesh_10_9_0_3",
            "Mesh_fd00_9__3",
            "Mesh_fd00__2"
        ]
    );
    assert!(world.announced().contains(&"fd10::/122".to_owned()));
}

#[test]
fn without_ipv6_support_nothing_of_ipv6_is_written_or_announced() {
    let settings = Settings {
        ipv6_support: false,
        ..Settings::new("n1")
    };
    let mut world = dual_stack_with(settings, vxlan("Always"), six("Always"));
    let address = "fd10::5/128";
    world.put(endpoint("a", "n1", "cali1", &["10.1.0.5/32", address]));
    world.flush();
    assert_eq!(link_of(&world, VXLAN_V6_DEVICE), None);
    assert!(!world.rows.contains_key(&RowKey::Rules(Family::V6)));
    let routes = fibs(&world);
    let v6: Vec<_> = routes
        .iter()
        .filter(|(dst, _)| dst.addr().is_ipv6())
        .collect();
    assert!(v6.is_empty(), "{v6:?}");
    assert!(world.announced().iter().all(|prefix| !prefix.contains(':')));
    assert!(fib(&world, "10.1.0.5/32").is_some());
}

#[test]
fn a_tunnel_that_is_too_small_for_ipv6_is_named_with_the_setting_and_the_other_familys_stays() {
    let mut settings = Settings::new("n1");
    settings.vxlan_mtu_bytes = Some(1000);
    let v4 = json!({"cidr": "10.1.0.0/16", "vxlanMode": "Always"});
    let mut world = dual_stack_with(settings, v4, six("Always"));
    let named = |device, setting, used| {
        format!(
            "device {device}: its MTU would be {used}, and IPv6 needs at least 1280: the device is not used for IPv6, and pods with \
             an IPv6 address are refused; set {setting} to 0 or at least 1280, and give the host's devices room for the tunnel's \
             header"
        )
    };
    let of_v4 = named("vxlan.calico", "FELIX_VXLANMTU", 1000);
    assert_eq!(world.problems(), std::slice::from_ref(&of_v4));
    assert!(link_of(&world, VXLAN_DEVICE).is_some() && link_of(&world, VXLAN_V6_DEVICE).is_some());
    // The host's own device leaves IPv6 too little.
    world.kernel(&link("eth0", true, 1300));
    world.flush();
    let of_v6 = named("vxlan-v6.calico", "FELIX_VXLANMTUV6", 1230);
    assert_eq!(world.problems(), [of_v6, of_v4]);
    assert!(link_of(&world, VXLAN_DEVICE).is_some(), "IPv4 goes on");
    assert_eq!(link_of(&world, VXLAN_V6_DEVICE), None);
    world.kernel(&link("eth0", true, 1350));
    world.flush();
    assert!(link_of(&world, VXLAN_V6_DEVICE).is_some());
}

#[test]
fn a_pool_within_another_of_another_mode_is_named_and_counts_for_its_range() {
    let outer = json!({"cidr": "10.1.0.0/16", "vxlanMode": "Always"});
    let mut world = dual_stack(outer, six("Always"));
    assert_eq!(world.problems(), Vec::<String>::new());
    world.put(pool(
        "inner",
        json!({"cidr": "10.1.2.0/24", "vxlanMode": "CrossSubnet"}),
    ));
    world.put(pool(
        "same",
        json!({"cidr": "10.1.3.0/24", "vxlanMode": "Always"}),
    ));
    world.flush();
    let pool = world.problems().join("\n");
    let said = "10.1.2.0/24 must not overlap IPPool(p), whose spec.cidr is 10.1.0.0/16 and whose ipipMode or vxlanMode is \
                another: this pool's is used for 10.1.2.0/24";
    assert_eq!(pool, format!("IPPool(inner): spec.cidr: {said}"));
}
