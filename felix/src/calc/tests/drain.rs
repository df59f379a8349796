//! A node that is drained of its routes.

use bgp::config::PeerConfig;
use bgp::policy::{Edit, Match, Verdict};
use bgp::wire::attr::community::Community;

use super::world::{World, affinity, bgp_config, bgp_peer, block, endpoint, node, pool};
use super::*;

/// This node's object with the annotation.
fn own(drain: Option<&str>) -> (Key, Object) {
    let (key, mut object) = node("n1", "10.0.0.1/24", None);
    if let Object::Node(node) = &mut object
        && let Some(drain) = drain
    {
        let name = "networking.tortie.dev/drain".to_owned();
        node.metadata.annotations.insert(name, drain.to_owned());
    }
    (key, object)
}

/// A node with a mesh peer and a router, a block with a pod and one without, and a range of Services.
fn world() -> World {
    let mut world = World::started();
    world.put(own(None));
    world.put(node("n2", "10.0.0.2/24", None));
    world.put(pool("p", json!({"cidr": "10.1.0.0/16"})));
    for range in ["10.1.0.0/26", "10.1.1.0/26"] {
        world.put(block(range, Some("n1"), &[]));
        world.put(affinity("n1", range, "confirmed"));
    }
    world.put(endpoint("a", "n1", "cali1", &["10.1.0.5/32"]));
    let ranges = json!({"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}]});
    world.put(bgp_config("default", ranges));
    let router = json!({"peerIP": "10.0.0.200", "asNumber": 65001});
    world.put(bgp_peer("router", router));
    for kind in super::super::Graph::ON_DEMAND {
        world.graph.handle_in_sync(kind);
    }
    world.flush();
    world
}

fn peers(world: &World) -> [PeerConfig; 2] {
    let config = world.config.as_ref().expect("the node speaks BGP");
    ["Mesh_10_0_0_2", "Global_10_0_0_200"].map(|wanted| {
        let mut found = config.peers.iter();
        let found = found.find(|(name, _)| name.to_string() == wanted);
        found.expect("a session").1.clone()
    })
}

#[test]
fn a_drained_nodes_routes_are_the_last_resort_and_then_only_pods_keep_theirs() {
    let mut world = world();
    let all = ["10.1.0.0/26", "10.1.1.0/26", "10.96.0.0/12"];
    assert_eq!(world.announced(), all);
    let before = peers(&world);

    world.put(own(Some("last-resort")));
    world.flush();
    assert_eq!(world.announced(), all);
    let last = [
        Edit::AddCommunities(vec![Community::GRACEFUL_SHUTDOWN]),
        Edit::SetLocalPref(0),
    ];
    for (mut now, before) in peers(&world).into_iter().zip(&before) {
        assert_eq!(now.export.last, last);
        now.export.last.clear();
        assert_eq!(now, *before, "nothing else, so no session is reset");
    }
    let told = world.problems();
    assert!(told.len() == 1 && told[0].contains("drained"), "{told:?}");

    world.put(own(Some("withdrawn")));
    world.flush();
    assert_eq!(world.announced(), ["10.1.0.0/26"]);
    let [mesh, router] = peers(&world);
    assert_eq!(mesh.export.terms, before[0].export.terms);
    let first = &router.export.terms[0];
    assert_eq!(first.verdict, Verdict::Reject);
    assert!(matches!(first.matches.as_slice(), [Match::PeerType(_)]));
    // The last pod of the block goes, one comes to the other block.
    world.remove(&Key::namespaced(Kind::WorkloadEndpoint, "default", "a"));
    world.flush();
    assert_eq!(world.announced(), Vec::<String>::new());
    world.put(endpoint("b", "n1", "cali2", &["10.1.1.5/32"]));
    world.flush();
    assert_eq!(world.announced(), ["10.1.1.0/26"]);

    world.put(own(None));
    world.flush();
    assert_eq!(world.announced(), all);
    assert_eq!(peers(&world), before);
    assert_eq!(world.problems(), Vec::<String>::new());
}

#[test]
fn a_drain_that_says_nothing_is_told_with_what_is_allowed_and_drains_nothing() {
    let mut world = world();
    let before = (world.announced(), peers(&world));
    world.put(own(Some("yes")));
    world.flush();
    assert_eq!((world.announced(), peers(&world)), before);
    let told = world.problems();
    assert_eq!(
        told,
        [
            "Node(n1): metadata.annotations: networking.tortie.dev/drain: \"yes\": must be last-resort or withdrawn"
        ]
    );
}
