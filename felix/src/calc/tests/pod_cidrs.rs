//! Ranges of Kubernetes in the place of IPAM's blocks.

use super::*;
use serde_json::json;

/// A node with ranges of Kubernetes.
fn with_ranges(name: &str, address: &str, ranges: &[&str]) -> (Key, Object) {
    let (key, object) = node(name, address, None);
    let Object::Node(mut node) = object else {
        unreachable!("it is a node")
    };
    let status = json!({"podCIDRs": ranges});
    node.extra.insert("status".to_owned(), status);
    (key, Object::Node(node))
}

fn started(mode: serde_json::Value) -> World {
    let mut world = World::new(Settings {
        blocks_from: BlocksFrom::PodCidrs,
        ..Settings::new("n1")
    });
    world.put(pool("p", mode));
    world.put(with_ranges(
        "n1",
        "10.0.0.1/24",
        &["10.1.0.0/24", "fd00:1::/64"],
    ));
    world.put(with_ranges("n2", "10.0.0.2/24", &["10.1.1.0/24"]));
    // IPAM's say something else, and are not looked at.
    world.put(block("10.1.7.0/26", Some("n1"), &[]));
    world.put(affinity("n1", "10.1.7.0/26", "confirmed"));
    world.start();
    world.flush();
    world
}

fn is_routed(world: &World, range: &str) -> bool {
    let range: IpNet = range.parse().unwrap();
    world
        .rows
        .keys()
        .any(|key| matches!(key, RowKey::Route(key) if key.dst == range))
}

#[test]
fn the_nodes_own_ranges_are_announced_and_blocks_are_not() {
    let mut world = started(plain());
    assert!(world.announced().contains(&"10.1.0.0/24".to_owned()));
    for other in ["10.1.1.0/24", "10.1.7.0/26"] {
        assert!(!world.announced().contains(&other.to_owned()), "{other}");
    }
    assert!(
        is_routed(&world, "10.1.0.0/24"),
        "unused addresses go nowhere"
    );
    assert!(!is_routed(&world, "10.1.7.0/26"));
    // A pod of it is not announced by itself.
    world.put(endpoint("w", "n1", "cali1", &["10.1.0.5/32"]));
    world.flush();
    assert!(!world.announced().contains(&"10.1.0.5/32".to_owned()));

    world.put(with_ranges("n1", "10.0.0.1/24", &["10.1.4.0/24"]));
    world.flush();
    let announced = world.announced();
    assert!(
        announced.contains(&"10.1.4.0/24".to_owned()),
        "{announced:?}"
    );
    assert!(
        !announced.contains(&"10.1.0.0/24".to_owned()),
        "{announced:?}"
    );
    assert!(!is_routed(&world, "10.1.0.0/24"));
    world.remove(&Key::new(Kind::Node, "n1"));
    world.flush();
    assert!(!is_routed(&world, "10.1.4.0/24"));
}

#[test]
fn another_nodes_range_is_routed_into_the_tunnel_while_it_has_it() {
    let mut world = started(vxlan("Always"));
    for (name, address, tunnel, ranges) in [
        ("n1", "10.0.0.1/24", "10.1.0.1", ["10.1.0.0/24"]),
        ("n2", "10.0.0.2/24", "10.1.1.1", ["10.1.1.0/24"]),
    ] {
        let (key, object) = with_ranges(name, address, &ranges);
        let Object::Node(mut node) = object else {
            unreachable!("it is a node")
        };
        node.spec.ipv4_vxlan_tunnel_addr = Some(tunnel.parse().unwrap());
        world.put((key, Object::Node(node)));
    }
    world.flush();
    assert!(is_routed(&world, "10.1.1.0/24"));
    world.put(with_ranges("n2", "10.0.0.2/24", &[]));
    world.flush();
    assert!(!is_routed(&world, "10.1.1.0/24"));
}

#[test]
fn one_range_of_two_nodes_is_neither_announced_nor_silent() {
    let mut world = started(plain());
    world.put(with_ranges("n2", "10.0.0.2/24", &["10.1.0.0/25"]));
    world.flush();
    assert!(!world.announced().contains(&"10.1.0.0/24".to_owned()));
    let problems = world.problems().join("\n");
    assert!(problems.contains("podCIDR 10.1.0.0/24"), "{problems}");
}

#[test]
fn a_pod_of_a_range_that_is_another_nodes_now_is_named_and_reached_until_it_is_made_anew() {
    let mut world = started(plain());
    world.put(endpoint("w", "n1", "cali1", &["10.1.0.5/32"]));
    world.flush();
    let before = world.problems().join("\n");
    assert!(!before.contains("10.1.0.5"), "{before}");
    // The cluster's Nodes were lost, and registered in another order.
    world.put(with_ranges("n1", "10.0.0.1/24", &["10.1.1.0/24"]));
    world.put(with_ranges("n2", "10.0.0.2/24", &["10.1.0.0/24"]));
    world.flush();
    let problems = world.problems().join("\n");
    for word in ["10.1.0.5", "10.1.0.0/24", "n2", "anew"] {
        assert!(problems.contains(word), "{word}: {problems}");
    }
    assert!(world.announced().contains(&"10.1.0.5/32".to_owned()));
    assert!(is_routed(&world, "10.1.0.5/32"));
}
