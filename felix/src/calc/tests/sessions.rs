//! The speaker's configuration as Calico's resources ask for it.

use super::world::{World, bgp_config, bgp_peer};
use super::*;
use bgp::config::PeerConfig;

/// A node with more in its `spec.bgp`; its label `name` is its name.
fn node_with(name: &str, address: &str, more: serde_json::Value) -> (Key, Object) {
    let mut bgp = more;
    bgp["ipv4Address"] = json!(address);
    decode(
        Key::new(Kind::Node, name),
        json!({"metadata": {"name": name, "labels": {"name": name}}, "spec": {"bgp": bgp}}),
    )
}

fn decode(key: Key, json: serde_json::Value) -> (Key, Object) {
    let object = Object::decode(&key, json.to_string().as_bytes()).unwrap();
    (key, object)
}

fn nodes(nodes: &[(&str, &str, serde_json::Value)]) -> World {
    let mut world = World::started();
    for (name, address, more) in nodes {
        world.put(node_with(name, address, more.clone()));
    }
    world
}

fn peer(world: &World, name: &str) -> PeerConfig {
    let config = world.config.as_ref().expect("the node speaks BGP");
    let found = config
        .peers
        .iter()
        .find(|(peer, _)| peer.to_string() == name);
    found
        .unwrap_or_else(|| panic!("no {name} in {:?}", world.peer_names()))
        .1
        .clone()
}

#[test]
fn of_two_mesh_nodes_the_one_with_the_greater_address_as_text_connects() {
    let mut world = World::started();
    world.put(node_with("n1", "10.0.0.9/24", json!({})));
    world.put(node_with("n2", "10.0.0.10/24", json!({})));
    world.put(node_with("n3", "10.0.0.95/24", json!({})));
    world.flush();
    // "10.0.0.9" comes after "10.0.0.10" and before "10.0.0.95".
    assert!(!peer(&world, "Mesh_10_0_0_10").passive);
    assert!(peer(&world, "Mesh_10_0_0_95").passive);

    // The same for a node that a BGPPeer for all nodes names by its address, but not for another router.
    for address in ["10.0.0.10", "10.0.0.95", "10.0.0.99"] {
        world.put(bgp_peer(
            address,
            json!({"peerIP": address, "asNumber": 64512}),
        ));
    }
    world.flush();
    assert!(!peer(&world, "Global_10_0_0_10").passive);
    assert!(peer(&world, "Global_10_0_0_95").passive);
    assert!(!peer(&world, "Global_10_0_0_99").passive);
}

#[test]
fn a_mesh_peer_without_an_own_as_is_in_the_clusters_and_not_in_ours() {
    let mut world = nodes(&[
        ("n1", "10.0.0.1/24", json!({"asNumber": 65010})),
        ("n2", "10.0.0.2/24", json!({})),
        ("n3", "10.0.0.3/24", json!({"asNumber": 65030})),
    ]);
    world.put(bgp_config("default", json!({"asNumber": 65000})));
    world.flush();
    assert_eq!(world.config.as_ref().unwrap().asn.0, 65010);
    assert_eq!(peer(&world, "Mesh_10_0_0_2").asn.0, 65000);
    assert_eq!(peer(&world, "Mesh_10_0_0_3").asn.0, 65030);
}

#[test]
fn a_reflector_has_clients_but_not_among_reflectors_of_its_cluster() {
    let mut world = nodes(&[
        (
            "n1",
            "10.0.0.1/24",
            json!({"routeReflectorClusterID": "1.0.0.1"}),
        ),
        (
            "n2",
            "10.0.0.2/24",
            json!({"routeReflectorClusterID": "1.0.0.1"}),
        ),
        (
            "n3",
            "10.0.0.3/24",
            json!({"routeReflectorClusterID": "1.0.0.2"}),
        ),
        ("n4", "10.0.0.4/24", json!({})),
        ("n5", "10.0.0.5/24", json!({"asNumber": 65050})),
    ]);
    world.put(bgp_peer("all", json!({"peerSelector": "all()"})));
    world.put(bgp_peer(
        "router",
        json!({"peerIP": "10.0.0.200", "asNumber": 64512}),
    ));
    world.flush();
    let client = |name: &str| peer(&world, name).route_reflector_client;
    assert!(!client("Global_10_0_0_2"), "the same cluster");
    assert!(client("Global_10_0_0_3"), "another cluster");
    assert!(client("Global_10_0_0_4"), "no reflector");
    assert!(!client("Global_10_0_0_5"), "another AS");
    assert!(client("Global_10_0_0_200"), "a router of our AS");
    let cluster_id = world.config.as_ref().unwrap().cluster_id;
    assert_eq!(cluster_id, Some("1.0.0.1".parse().unwrap()));

    // A node that is named by its address is the same node.
    world.remove(&Key::new(Kind::BGPPeer, "all"));
    world.put(bgp_peer(
        "by-address",
        json!({"peerIP": "10.0.0.2", "asNumber": 64512}),
    ));
    world.flush();
    assert!(!peer(&world, "Global_10_0_0_2").route_reflector_client);
}

#[test]
fn ports_times_and_addresses_to_listen_on_come_from_bgpconfiguration() {
    let mut world = nodes(&[
        ("n1", "10.0.0.1/24", json!({})),
        ("n2", "10.0.0.2/24", json!({})),
        ("n3", "10.0.0.3/24", json!({})),
    ]);
    world.flush();
    let config = world.config.clone().unwrap();
    assert_eq!(
        (config.listen_port, config.restart_time.as_secs()),
        (179, 120)
    );
    assert!(config.listen_addresses.is_empty(), "every address");

    world.put(bgp_config(
        "default",
        json!({"listenPort": 1790, "bindMode": "NodeIP", "nodeMeshMaxRestartTime": "45s"}),
    ));
    world.put(bgp_config("node.n1", json!({"listenPort": 1791})));
    world.put(bgp_config("node.n3", json!({"listenPort": 1793})));
    world.flush();
    let config = world.config.clone().unwrap();
    assert_eq!(
        (config.listen_port, config.restart_time.as_secs()),
        (1791, 45)
    );
    let listening: Vec<String> = config
        .listen_addresses
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(listening, ["10.0.0.1"]);
    assert_eq!(peer(&world, "Mesh_10_0_0_2").port, 1790);
    assert_eq!(peer(&world, "Mesh_10_0_0_3").port, 1793);
}

#[test]
fn each_field_of_a_bgppeer_reaches_its_session() {
    let mut world = nodes(&[("n1", "10.0.0.1/24", json!({}))]);
    let put = |world: &mut World, name: &str, spec: serde_json::Value| {
        world.put(bgp_peer(name, spec));
    };
    put(
        &mut world,
        "plain",
        json!({"peerIP": "10.0.0.201", "asNumber": 65001}),
    );
    put(
        &mut world,
        "keep-outside",
        json!({"peerIP": "10.0.0.202", "asNumber": 65001, "keepOriginalNextHop": true}),
    );
    put(
        &mut world,
        "keep-inside",
        json!({"peerIP": "10.0.0.203", "asNumber": 64512, "keepOriginalNextHop": true}),
    );
    put(
        &mut world,
        "more",
        json!({"peerIP": "10.0.0.204", "asNumber": 65001, "nextHopMode": "Keep", "sourceAddress": "None",
            "localASNumber": 65099, "numAllowedLocalASNumbers": 2, "ttlSecurity": 3, "keepaliveTime": "20s",
            "maxRestartTime": "300s"}),
    );
    world.flush();
    let plain = peer(&world, "Global_10_0_0_201");
    assert_eq!(plain.local_address, Some("10.0.0.1".parse().unwrap()));
    assert_eq!((plain.local_asn, plain.allow_own_as), (None, 0));
    assert_eq!(
        (plain.ttl_security, plain.next_hop),
        (None, NextHopMode::Auto)
    );
    assert_eq!(plain.hold_time.as_secs(), 240);
    assert_eq!(
        plain.options.keepalive_time, None,
        "a third of the hold time"
    );
    assert_eq!(plain.restart_time.map(|time| time.as_secs()), Some(120));
    assert!(plain.multihop && plain.graceful_restart && !plain.passive);
    assert_eq!(
        peer(&world, "Global_10_0_0_202").next_hop,
        NextHopMode::Keep
    );
    assert_eq!(
        peer(&world, "Global_10_0_0_203").next_hop,
        NextHopMode::Auto
    );
    let more = peer(&world, "Global_10_0_0_204");
    assert_eq!(
        (more.next_hop, more.local_address),
        (NextHopMode::Keep, None)
    );
    assert_eq!(more.local_asn.map(|asn| asn.0), Some(65099));
    assert_eq!((more.allow_own_as, more.ttl_security), (2, Some(3)));
    let seconds = |time: Option<std::time::Duration>| time.map(|time| time.as_secs());
    assert_eq!(seconds(more.options.keepalive_time), Some(20));
    assert_eq!(more.hold_time.as_secs(), 240);
    assert_eq!(seconds(more.restart_time), Some(300));
}

#[test]
fn sessions_to_selected_nodes_take_the_fields_of_their_object_and_the_nodes_as() {
    let mut world = nodes(&[
        ("n1", "10.0.0.1/24", json!({})),
        ("n2", "10.0.0.2/24", json!({"asNumber": 65020})),
        ("n3", "10.0.0.3/24", json!({})),
    ]);
    world.put(bgp_config("node.n2", json!({"listenPort": 1792})));
    world.put(bgp_peer(
        "selected",
        json!({"peerSelector": "name in {'n1', 'n2'}", "node": "n1", "localASNumber": 65099,
            "numAllowedLocalASNumbers": 1, "nextHopMode": "Self"}),
    ));
    world.flush();
    assert_eq!(world.peer_names(), ["Mesh_10_0_0_3", "Node_10_0_0_2"]);
    let peer = peer(&world, "Node_10_0_0_2");
    assert_eq!((peer.asn.0, peer.port, peer.passive), (65020, 1792, false));
    assert_eq!(peer.local_asn.map(|asn| asn.0), Some(65099));
    assert_eq!(
        (peer.allow_own_as, peer.next_hop),
        (1, NextHopMode::SelfAddress)
    );
}

#[test]
fn a_bgppeer_for_all_nodes_counts_before_one_for_this_node() {
    let mut world = nodes(&[("n1", "10.0.0.1/24", json!({}))]);
    world.put(bgp_peer(
        "a-node",
        json!({"peerIP": "10.0.0.200", "asNumber": 65002, "node": "n1"}),
    ));
    world.put(bgp_peer(
        "b-global",
        json!({"peerIP": "10.0.0.200", "asNumber": 65001}),
    ));
    world.flush();
    assert_eq!(world.peer_names(), ["Global_10_0_0_200"]);
    assert_eq!(peer(&world, "Global_10_0_0_200").asn.0, 65001);
}

#[test]
fn a_peer_behind_a_gateway_gets_a_host_route_that_carries_its_next_hop() {
    let mut world = nodes(&[("n1", "10.0.0.1/24", json!({}))]);
    world.kernel(&KernelEvent::RowGone(
        route("0.0.0.0/0", "10.0.0.254", "eth0").key(),
    ));
    let peer_at = |gateway: &str| {
        let spec = json!({"peerIP": "192.0.2.7", "asNumber": 65001, "reachableBy": gateway});
        bgp_peer("tor", spec)
    };
    let next_hop: IpAddr = "192.0.2.7".parse().unwrap();
    world.bgp("203.0.113.0/24", &["192.0.2.7"]);
    world.put(peer_at("10.0.0.253"));
    world.flush();
    assert_eq!(world.peer_names(), ["Global_192_0_2_7"]);
    let by = |gateway: &str| Some(format!("via {gateway} dev eth0 proto 12 metric 1024"));
    assert_eq!(fib(&world, "192.0.2.7/32"), by("10.0.0.253"));
    assert_eq!(fib(&world, "203.0.113.0/24"), by("10.0.0.253"));
    world.graph.handle_next_hop_watch(next_hop, true);
    world.flush();
    let found = world.graph.poll_next_hop();
    assert_eq!(found, Some((next_hop, Reachability::Reachable { cost: 0 })));

    world.put(peer_at("10.0.0.252"));
    world.flush();
    assert_eq!(fib(&world, "192.0.2.7/32"), by("10.0.0.252"));
    assert_eq!(fib(&world, "203.0.113.0/24"), by("10.0.0.252"));

    // A gateway of which nobody knows where it is carries nothing, and says so.
    world.put(peer_at("198.51.100.1"));
    world.flush();
    assert_eq!(fib(&world, "192.0.2.7/32"), None);
    let texts = world.problems();
    let told = "route 192.0.2.7/32: unreachable: its gateway 198.51.100.1 is not on link";
    assert!(texts.contains(&told.to_owned()), "{texts:?}");
    let lost = world.graph.poll_next_hop();
    assert_eq!(lost, Some((next_hop, Reachability::Unreachable)));

    world.remove(&Key::new(Kind::BGPPeer, "tor"));
    world.flush();
    assert_eq!(fib(&world, "192.0.2.7/32"), None);
    assert_eq!(fib(&world, "203.0.113.0/24"), None);
    let texts = world.problems();
    assert!(!texts.contains(&told.to_owned()), "{texts:?}");
}

#[test]
fn of_two_bgppeers_for_one_address_the_older_counts_and_the_other_is_told() {
    let mut world = nodes(&[("n1", "10.0.0.1/24", json!({}))]);
    for (name, created, asn) in [
        ("a-younger", "2026-02-01T00:00:00Z", 65002),
        ("b-older", "2026-01-01T00:00:00Z", 65001),
    ] {
        world.put(decode(
            Key::new(Kind::BGPPeer, name),
            json!({
                "metadata": {"name": name, "creationTimestamp": created},
                "spec": {"peerIP": "10.0.0.200", "asNumber": asn},
            }),
        ));
    }
    world.flush();
    assert_eq!(peer(&world, "Global_10_0_0_200").asn.0, 65001);
    assert_eq!(
        world.graph.problems()[0].to_string(),
        "BGPPeer(a-younger): spec.peerIP: 10.0.0.200:179 is taken by BGPPeer(b-older)"
    );
}

#[test]
fn the_router_id_is_the_nodes_address_a_literal_or_a_hash_of_its_name() {
    let router_id = |source| {
        let mut settings = Settings::new("n1");
        settings.router_id = source;
        let mut world = World::new(settings);
        world.put(node_with("n1", "10.0.0.1/24", json!({})));
        world.start();
        world.flush();
        world.config.unwrap().router_id.to_string()
    };
    use api::params::RouterIdSource::{Hash, Literal, NodeAddress};
    assert_eq!(router_id(NodeAddress), "10.0.0.1");
    assert_eq!(router_id(Literal("9.9.9.9".parse().unwrap())), "9.9.9.9");
    // `printf n1 | sha256sum`, the first four bytes.
    assert_eq!(router_id(Hash), "103.107.139.184");
}
