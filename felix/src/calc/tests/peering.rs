//! One test for each rule that makes a BGPPeer a session: who has it, who is meant, the way back, passwords.

use super::world::{World, bgp_config, bgp_peer};
use super::*;
use bgp::config::{Password, PeerConfig};
use bgp::policy::Term;

/// Nodes 10.0.0.<n>/24 with the AS, the cluster ID and the labels given; this one is `name`.
struct Cluster(Vec<(Key, Object)>);

impl Cluster {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn node(mut self, n: u8, more: serde_json::Value, labels: serde_json::Value) -> Self {
        let mut bgp = more;
        bgp["ipv4Address"] = json!(format!("10.0.0.{n}/24"));
        let key = Key::new(Kind::Node, format!("n{n}"));
        let json = json!({
            "metadata": {"name": key.name, "labels": labels},
            "spec": {"bgp": bgp},
        });
        let object = Object::decode(&key, json.to_string().as_bytes()).unwrap();
        self.0.push((key, object));
        self
    }

    fn seen_by(&self, name: &str, objects: &[(Key, Object)]) -> World {
        let mut world = World::new(Settings::new(name));
        world.start();
        for item in self.0.iter().chain(objects) {
            world.put(item.clone());
        }
        world.flush();
        world
    }
}

fn two_reflectors_and_two_clients() -> Cluster {
    Cluster::new()
        .node(1, json!({}), json!({}))
        .node(2, json!({}), json!({}))
        .node(
            8,
            json!({"routeReflectorClusterID": "1.0.0.1"}),
            json!({"rr": "yes"}),
        )
        .node(
            9,
            json!({"routeReflectorClusterID": "1.0.0.1"}),
            json!({"rr": "yes"}),
        )
}

fn peer(world: &World, name: &str) -> PeerConfig {
    let peers = &world.config.as_ref().expect("the node speaks BGP").peers;
    let found = peers.iter().find(|(peer, _)| peer.to_string() == name);
    let Some((_, config)) = found else {
        panic!("no {name} in {:?}", world.peer_names());
    };
    config.clone()
}

const NOTHING: [&str; 0] = [];

#[test]
fn two_objects_make_every_session_of_two_reflectors_and_their_clients() {
    let cluster = two_reflectors_and_two_clients();
    let objects = [
        bgp_config("default", json!({"nodeToNodeMeshEnabled": false})),
        bgp_peer(
            "clients",
            json!({"nodeSelector": "!has(rr)", "peerSelector": "has(rr)"}),
        ),
        bgp_peer(
            "reflectors",
            json!({"nodeSelector": "has(rr)", "peerSelector": "has(rr)"}),
        ),
    ];
    let client = cluster.seen_by("n1", &objects);
    assert_eq!(client.peer_names(), ["Node_10_0_0_8", "Node_10_0_0_9"]);
    assert!(!peer(&client, "Node_10_0_0_8").route_reflector_client);
    let reflector = cluster.seen_by("n8", &objects);
    assert_eq!(
        reflector.peer_names(),
        ["Node_10_0_0_1", "Node_10_0_0_2", "Node_10_0_0_9"]
    );
    assert!(peer(&reflector, "Node_10_0_0_1").route_reflector_client);
    assert!(
        !peer(&reflector, "Node_10_0_0_9").route_reflector_client,
        "reflectors of one cluster are ordinary peers"
    );
    assert_eq!(client.problems(), NOTHING);
    assert_eq!(reflector.problems(), NOTHING);
}

#[test]
fn manual_reverse_peering_makes_no_session_at_the_far_end() {
    let cluster = two_reflectors_and_two_clients();
    let objects = [bgp_peer(
        "clients",
        json!({"node": "n1", "peerSelector": "has(rr)", "reversePeering": "Manual"}),
    )];
    assert_eq!(
        cluster.seen_by("n1", &objects).peer_names(),
        ["Mesh_10_0_0_2", "Node_10_0_0_8", "Node_10_0_0_9"]
    );
    assert_eq!(cluster.seen_by("n8", &objects).peer_names(), NOTHING);
}

#[test]
fn a_node_meant_by_address_and_as_peers_back_with_every_near_node() {
    let cluster = two_reflectors_and_two_clients();
    let back = |spec: serde_json::Value| {
        let objects = [bgp_peer("to-rr", spec)];
        cluster.seen_by("n8", &objects).peer_names()
    };
    assert_eq!(
        back(json!({"peerIP": "10.0.0.8", "asNumber": 64512})),
        ["Node_10_0_0_1", "Node_10_0_0_2", "Node_10_0_0_9"],
        "an object of all nodes"
    );
    assert_eq!(
        back(json!({"peerIP": "10.0.0.8", "asNumber": 64512, "node": "n2"})),
        ["Node_10_0_0_2"]
    );
    assert_eq!(
        back(json!({"peerIP": "10.0.0.8:179", "asNumber": 64512, "node": "n2"})),
        ["Node_10_0_0_2"],
        "the port it listens on"
    );
    assert_eq!(
        back(json!({"peerIP": "10.0.0.8:1790", "asNumber": 64512, "node": "n2"})),
        NOTHING,
        "another port"
    );
    assert_eq!(
        back(json!({"peerIP": "10.0.0.8", "asNumber": 65001, "node": "n2"})),
        NOTHING,
        "another AS"
    );
}

#[test]
fn the_far_end_expects_the_as_that_the_near_end_presents() {
    let cluster = Cluster::new()
        .node(1, json!({"asNumber": 65010}), json!({}))
        .node(2, json!({}), json!({"far": ""}));
    let seen_by = |name, local: Option<u32>| {
        let mut spec = json!({"node": "n1", "peerSelector": "has(far)", "ttlSecurity": 2,
            "numAllowedLocalASNumbers": 1});
        if let Some(local) = local {
            spec["localASNumber"] = json!(local);
        }
        cluster.seen_by(name, &[bgp_peer("p", spec)])
    };
    let near = peer(&seen_by("n1", Some(65099)), "Node_10_0_0_2");
    assert_eq!(
        (
            near.asn.0,
            near.local_asn.map(|asn| asn.0),
            near.allow_own_as
        ),
        (64512, Some(65099), 1),
        "both hold with peerSelector, too"
    );
    let far = peer(&seen_by("n2", Some(65099)), "Node_10_0_0_1");
    assert_eq!(
        (far.asn.0, far.local_asn, far.allow_own_as, far.ttl_security),
        (65099, None, 0, Some(2))
    );
    assert_eq!(peer(&seen_by("n2", None), "Node_10_0_0_1").asn.0, 65010);
}

#[test]
fn what_an_object_names_for_a_node_itself_counts_before_the_way_back() {
    let cluster = two_reflectors_and_two_clients();
    let world = cluster.seen_by(
        "n8",
        &[
            bgp_peer(
                "back",
                json!({"node": "n1", "peerSelector": "has(rr)", "ttlSecurity": 1}),
            ),
            bgp_peer(
                "own",
                json!({"node": "n8", "peerIP": "10.0.0.1", "asNumber": 64512,
                "nextHopMode": "Self"}),
            ),
        ],
    );
    let session = peer(&world, "Node_10_0_0_1");
    assert_eq!(
        (session.ttl_security, session.next_hop),
        (None, NextHopMode::SelfAddress)
    );
    assert_eq!(world.problems(), NOTHING);
}

#[test]
fn of_a_peer_of_all_nodes_that_is_a_node_the_one_with_the_greater_address_as_text_connects() {
    let cluster = two_reflectors_and_two_clients();
    let objects = [
        bgp_peer("to", json!({"peerIP": "10.0.0.8", "asNumber": 64512})),
        bgp_peer("out", json!({"peerIP": "10.0.0.200", "asNumber": 65001})),
        bgp_peer(
            "own",
            json!({"node": "n1", "peerIP": "10.0.0.9", "asNumber": 64512}),
        ),
    ];
    let world = cluster.seen_by("n1", &objects);
    assert!(peer(&world, "Global_10_0_0_8").passive);
    assert!(!peer(&world, "Global_10_0_0_200").passive, "no node");
    assert!(!peer(&world, "Node_10_0_0_9").passive, "not of all nodes");
    assert!(!peer(&cluster.seen_by("n9", &objects), "Global_10_0_0_8").passive);
}

#[test]
fn a_peer_in_a_family_without_an_own_address_is_told() {
    let cluster = two_reflectors_and_two_clients();
    let objects = [bgp_peer(
        "six",
        json!({"peerIP": "fd00::1", "asNumber": 65001}),
    )];
    let world = cluster.seen_by("n1", &objects);
    assert_eq!(world.peer_names(), ["Mesh_10_0_0_2"]);
    assert_eq!(
        world.problems(),
        ["BGPPeer(six): spec.peerIP: this node's Node object has no spec.bgp.ipv6Address"]
    );
}

#[test]
fn an_explicit_session_does_not_inherit_the_restart_time_of_the_mesh() {
    let cluster = two_reflectors_and_two_clients();
    let objects = [
        bgp_config("default", json!({"nodeMeshMaxRestartTime": "45s"})),
        bgp_peer("plain", json!({"peerIP": "10.0.0.200", "asNumber": 65001})),
        bgp_peer(
            "long",
            json!({"peerIP": "10.0.0.201", "asNumber": 65001, "maxRestartTime": "2h"}),
        ),
    ];
    let world = cluster.seen_by("n1", &objects);
    let seconds = |name| peer(&world, name).restart_time.map(|time| time.as_secs());
    assert_eq!(world.config.as_ref().unwrap().restart_time.as_secs(), 45);
    assert_eq!(seconds("Mesh_10_0_0_2"), None);
    assert_eq!(seconds("Global_10_0_0_200"), Some(120));
    assert_eq!(seconds("Global_10_0_0_201"), Some(4095), "12 bits");
}

#[test]
fn a_session_with_a_password_is_held_down_until_the_password_is_known() {
    let cluster = two_reflectors_and_two_clients();
    let reference = json!({"secretKeyRef": {"name": "bgp", "key": "tor"}});
    let objects = [
        bgp_peer(
            "tor",
            json!({"peerIP": "10.0.0.200", "asNumber": 65001, "password": reference}),
        ),
        bgp_config(
            "default",
            json!({"nodeMeshPassword": {"secretKeyRef": {"name": "bgp", "key": "mesh"}}}),
        ),
    ];
    let mut world = cluster.seen_by("n1", &objects);
    let secret = |key: &str| SecretRef {
        name: "bgp".to_owned(),
        key: key.to_owned(),
    };
    assert_eq!(world.peer_names(), NOTHING);
    assert_eq!(
        world.problems(),
        [
            "BGPConfiguration(default): spec.nodeMeshPassword.secretKeyRef: no password is known for key \"mesh\" of \
             secret \"bgp\", so the session is held down",
            "BGPPeer(tor): spec.password.secretKeyRef: no password is known for key \"tor\" of secret \"bgp\", so the \
             session is held down",
        ]
    );
    assert_eq!(
        world
            .graph
            .wanted_passwords()
            .into_iter()
            .collect::<Vec<_>>(),
        [secret("mesh"), secret("tor")]
    );

    for key in ["tor", "mesh"] {
        let password = Password(format!("\"{key}\"\n").into());
        world
            .graph
            .handle_password(&secret(key), Some(password.into()));
    }
    world.flush();
    let held = |name| {
        peer(&world, name)
            .password
            .map(|password| password.0.to_string())
    };
    assert_eq!(
        held("Global_10_0_0_200").as_deref(),
        Some("\"tor\"\n"),
        "bytes as given"
    );
    assert_eq!(held("Mesh_10_0_0_2").as_deref(), Some("\"mesh\"\n"));
    assert_eq!(world.problems(), NOTHING);

    world.graph.handle_password(&secret("mesh"), None);
    let long = Password("x".repeat(81).into());
    world
        .graph
        .handle_password(&secret("tor"), Some(long.into()));
    world.flush();
    assert_eq!(world.peer_names(), NOTHING);
    assert!(
        world.problems()[1]
            .ends_with("key \"tor\" of secret \"bgp\" holds 81 bytes: a password has 1 to 80"),
        "{:?}",
        world.problems()
    );
}

#[test]
fn a_password_that_cannot_be_read_any_more_stays_in_use_and_is_reported_until_it_is_back() {
    let reference = json!({"secretKeyRef": {"name": "bgp", "key": "tor"}});
    let peering = bgp_peer(
        "tor",
        json!({"peerIP": "10.0.0.200", "asNumber": 65001, "password": reference}),
    );
    let mut world = Cluster::new()
        .node(1, json!({}), json!({}))
        .seen_by("n1", &[peering]);
    let secret = SecretRef {
        name: "bgp".to_owned(),
        key: "tor".to_owned(),
    };
    let why = "/etc/p/bgp/tor: No such file or directory (os error 2)";
    let mut unreadable = Secret {
        password: None,
        unreadable: Some(why.into()),
    };
    assert!(!world.graph.passwords_looked_at());
    world
        .graph
        .handle_password(&secret, Some(unreadable.clone()));
    world.flush();
    assert!(world.graph.passwords_looked_at());
    assert_eq!(
        world.problems(),
        [format!(
            "BGPPeer(tor): spec.password.secretKeyRef: no password is known for key \"tor\" of secret \"bgp\", so \
             the session is held down: {why}"
        )]
    );

    let known = Password("topsecret".into());
    world
        .graph
        .handle_password(&secret, Some(known.clone().into()));
    world.flush();
    assert_eq!(world.problems(), NOTHING);
    let before = peer(&world, "Global_10_0_0_200");
    assert_eq!(before.password, Some(known.clone()));

    unreadable.password = Some(known.clone());
    world.graph.handle_password(&secret, Some(unreadable));
    world.flush();
    assert_eq!(peer(&world, "Global_10_0_0_200"), before);
    assert_eq!(
        world.problems(),
        [format!(
            "BGPPeer(tor): spec.password.secretKeyRef: the password of key \"tor\" of secret \"bgp\" cannot be read \
             any more, and the last known one stays in use: {why}"
        )]
    );

    world.graph.handle_password(&secret, Some(known.into()));
    world.flush();
    assert_eq!(world.problems(), NOTHING);
}

#[test]
fn a_reflector_that_is_told_of_no_pools_passes_on_every_route() {
    let mut settings = Settings::new("n8");
    settings.learned_routes = LearnedRoutes::All;
    let mut world = World::new(settings);
    world.start();
    for item in two_reflectors_and_two_clients().0 {
        world.put(item);
    }
    world.put(bgp_peer(
        "clients",
        json!({"node": "n8", "peerSelector": "!has(rr)"}),
    ));
    world.put(pool(
        "hidden",
        json!({"cidr": "10.9.0.0/16", "disableBGPExport": true}),
    ));
    world.flush();
    let export = peer(&world, "Node_10_0_0_1").export;
    assert!(export.default_accept);
    let hides = |term: &Term| {
        term.verdict == Verdict::Reject && matches!(term.matches[..], [Match::Prefix(_)])
    };
    assert!(export.terms.iter().any(hides));
}
