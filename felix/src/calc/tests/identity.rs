//! Who a session is with: nodes that share an address, peers that share one, and the same session asked for otherwise.

use super::world::{World, bgp_config, bgp_peer, node};
use super::*;
use bgp::config::PeerConfig;

fn node_of(name: &str, address: &str, asn: u32, created: &str) -> (Key, Object) {
    let key = Key::new(Kind::Node, name);
    let json = json!({
        "metadata": {"name": name, "creationTimestamp": created},
        "spec": {
            "bgp": {"ipv4Address": address, "asNumber": asn},
            "interfaces": [{"name": "eth0", "addresses": ["192.0.2.1"]}],
        },
    });
    let object = Object::decode(&key, json.to_string().as_bytes()).unwrap();
    (key, object)
}

fn peers(world: &World) -> Vec<(String, u32)> {
    let config = world.config.as_ref().expect("the node speaks BGP");
    let peers = config.peers.iter();
    peers
        .map(|(name, peer)| (name.to_string(), peer.asn.0))
        .collect()
}

#[test]
fn of_nodes_with_one_address_the_oldest_keeps_its_session_and_both_are_reported() {
    for ghost in ["zghost", "ghost"] {
        let mut world = World::started();
        world.put(node("n1", "10.0.0.1/24", None));
        world.put(node_of(
            "node2",
            "10.0.0.2/24",
            65002,
            "2026-01-01T00:00:00Z",
        ));
        world.flush();
        world.put(node_of(ghost, "10.0.0.2/24", 65099, "2026-02-01T00:00:00Z"));
        world.flush();
        assert_eq!(peers(&world), [("Mesh_10_0_0_2".to_owned(), 65002)]);
        let problems = world.problems();
        for (one, other) in [("node2", ghost), (ghost, "node2")] {
            let expected = format!(
                "Node({one}): spec.bgp.ipv4Address: 10.0.0.2 is also the address of Node {other}; sessions are made for \"node2\", the oldest that an agent wrote"
            );
            assert!(problems.contains(&expected), "{problems:?}");
        }
        world.remove(&Key::new(Kind::Node, "node2"));
        world.flush();
        assert_eq!(peers(&world), [("Mesh_10_0_0_2".to_owned(), 65099)]);
        assert_eq!(world.problems(), Vec::<String>::new());
    }
}

#[test]
fn a_node_object_that_no_agent_wrote_counts_after_those_of_agents() {
    let mut world = World::started();
    world.put(node("n1", "10.0.0.1/24", None));
    world.put(node("a", "10.0.0.2/24", None));
    world.put(node_of("b", "10.0.0.2/24", 65002, "2026-01-01T00:00:00Z"));
    world.flush();
    assert_eq!(peers(&world), [("Mesh_10_0_0_2".to_owned(), 65002)]);
}

#[test]
fn a_node_with_the_own_address_gets_no_session_and_is_reported() {
    let mut world = World::started();
    world.put(node("n1", "10.0.0.1/24", None));
    world.put(bgp_config("node.n2", json!({"listenPort": 1179})));
    world.put(node_of("n2", "10.0.0.1/24", 64512, "2026-01-01T00:00:00Z"));
    world.put(bgp_peer("all", json!({"peerSelector": "all()"})));
    world.flush();
    assert_eq!(peers(&world), []);
    assert_eq!(world.problems().len(), 2, "{:?}", world.problems());
}

/// What a session is on the wire.
fn wire(peer: &PeerConfig) -> PeerConfig {
    let mut peer = peer.clone();
    peer.passive = false;
    peer.restart_time = None;
    peer
}

#[test]
fn a_session_is_the_same_whoever_asks_for_it() {
    let mut world = World::started();
    world.put(node("n1", "10.0.0.1/24", None));
    world.put(node("n2", "10.0.0.2/24", None));
    world.flush();
    let only = |world: &World| {
        let config = world.config.as_ref().expect("the node speaks BGP");
        let mut peers = config.peers.values();
        let peer = peers.next().expect("a peer").clone();
        assert!(peers.next().is_none());
        wire(&peer)
    };
    let mesh = only(&world);
    let ways = [
        json!({"nodeSelector": "all()", "peerSelector": "all()"}),
        json!({"peerIP": "10.0.0.2", "asNumber": 64512}),
        json!({"peerIP": "10.0.0.2:179", "asNumber": 64512}),
        json!({"node": "n1", "peerIP": "10.0.0.2", "asNumber": 64512}),
        json!({"nodeSelector": "has(name)", "peerSelector": "name == 'n2'"}),
    ];
    for way in ways {
        world.put(bgp_peer("explicit", way.clone()));
        world.flush();
        assert_eq!(only(&world), mesh, "{way}");
        assert_eq!(only(&world).endpoint(), mesh.endpoint(), "{way}");
    }
}

#[test]
fn a_daemon_on_a_nodes_address_and_another_port_is_a_peer_of_its_own() {
    let mut world = World::started();
    world.put(node("n1", "10.0.0.1/24", None));
    world.put(node("n2", "10.0.0.2/24", None));
    for (name, at) in [("here", "10.0.0.1:1790"), ("there", "10.0.0.2:1790")] {
        world.put(bgp_peer(name, json!({"peerIP": at, "asNumber": 65010})));
    }
    world.put(bgp_peer(
        "self",
        json!({"peerIP": "10.0.0.1", "asNumber": 64512, "reversePeering": "Manual"}),
    ));
    world.flush();
    let expected = [
        ("Global_10_0_0_1_port_1790", 65010),
        ("Global_10_0_0_2_port_1790", 65010),
        ("Mesh_10_0_0_2", 64512),
    ];
    let expected = expected.map(|(name, asn)| (name.to_owned(), asn));
    assert_eq!(peers(&world), expected);
    assert_eq!(world.problems(), Vec::<String>::new());
    let config = world.config.as_ref().expect("the node speaks BGP");
    assert!(
        config.peers.values().all(|peer| !peer.passive),
        "an incoming connection may be refused as nobody's"
    );
}

#[test]
fn peers_at_one_address_with_passwords_that_differ_are_reported() {
    let mut world = World::started();
    world.put(node("n1", "10.0.0.1/24", None));
    world.put(bgp_peer(
        "a",
        json!({"peerIP": "10.0.0.9", "asNumber": 65010}),
    ));
    let password = json!({"secretKeyRef": {"name": "s", "key": "k"}});
    world.put(bgp_peer(
        "b",
        json!({"peerIP": "10.0.0.9:1790", "asNumber": 65010, "password": password}),
    ));
    let secret = world.graph.wanted_passwords().into_iter().next().unwrap();
    let known = Some(bgp::config::Password("x".into()).into());
    world.graph.handle_password(&secret, known);
    world.flush();
    let expected = "BGPPeer(b): spec.password: another peer at 10.0.0.9 has another password";
    let problems = world.problems();
    assert!(
        problems.iter().any(|problem| problem.starts_with(expected)),
        "{problems:?}"
    );
}
