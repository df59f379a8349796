//! `prefixAdvertisements` of BGPConfiguration: communities of what is announced.

use bgp::config::PeerConfig;
use bgp::policy::{Edit, Match, PrefixRange, Verdict};
use bgp::wire::attr::community::{Community, LargeCommunity};
use serde_json::Value;

use super::world::{World, bgp_config, bgp_filter, bgp_peer, node, pool};
use super::*;

fn world() -> World {
    let mut world = World::started();
    world.put(node("n1", "10.0.0.1/24", None));
    world.put(node("n2", "10.0.0.2/24", None));
    world.put(pool("p", json!({"cidr": "10.1.0.0/16"})));
    world
}

/// What the only session's export terms add, by range, in order; each goes on to the next term.
fn added(world: &mut World) -> Vec<(IpNet, Vec<Edit>)> {
    world.flush();
    let terms = session(world).export.terms;
    let adding = terms.into_iter().filter(|term| !term.edits.is_empty());
    let range = |matches: &[Match]| match matches {
        [Match::Prefix(ranges)] if ranges.len() == 1 => {
            assert_eq!(ranges[0], PrefixRange::or_longer(ranges[0].prefix));
            ranges[0].prefix
        }
        other => panic!("{other:?}"),
    };
    adding
        .map(|term| {
            assert_eq!(term.verdict, Verdict::Continue, "{term:?}");
            (range(&term.matches), term.edits)
        })
        .collect()
}

fn session(world: &World) -> PeerConfig {
    let config = world.config.as_ref().expect("the node speaks BGP");
    let mut peers = config.peers.values();
    peers.next().expect("a session").clone()
}

fn standard(high: u32, low: u32) -> Edit {
    Edit::AddCommunities(vec![Community(high << 16 | low)])
}

fn large(global: u32, local1: u32, local2: u32) -> Edit {
    Edit::AddLargeCommunities(vec![LargeCommunity {
        global,
        local1,
        local2,
    }])
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn advertise(cidr: &str, communities: &[&str]) -> Value {
    json!({"cidr": cidr, "communities": communities})
}

#[test]
fn each_entry_that_holds_a_route_adds_its_communities_by_name_or_value() {
    let mut world = world();
    world.put(bgp_config(
        "default",
        json!({
            "communities": [
                {"name": "rack", "value": "64512:100"},
                {"name": "row", "value": "64512:7:9"},
            ],
            "prefixAdvertisements": [
                advertise("10.1.0.0/16", &["rack", "64512:120"]),
                advertise("10.1.1.1/24", &["row"]),
                advertise("fd00::/64", &["4200000000:1:2"]),
            ],
        }),
    ));
    let wanted = [
        (
            net("10.1.0.0/16"),
            vec![standard(64512, 100), standard(64512, 120)],
        ),
        (net("10.1.1.0/24"), vec![large(64512, 7, 9)]),
        (net("fd00::/64"), vec![large(4_200_000_000, 1, 2)]),
    ];
    assert_eq!(added(&mut world), wanted);
    let terms = session(&world).export.terms;
    let first_verdict = terms.iter().position(|term| term.edits.is_empty());
    assert_eq!(first_verdict, Some(3), "before pools decide: {terms:?}");
    assert_eq!(world.problems(), Vec::<String>::new());
}

#[test]
fn an_own_list_takes_the_place_of_the_clusters_whole_list_and_knows_its_own_names_only() {
    let mut world = world();
    world.put(bgp_config(
        "default",
        json!({
            "communities": [{"name": "rack", "value": "64512:100"}],
            "prefixAdvertisements": [
                advertise("10.1.0.0/16", &["rack"]),
                advertise("fd00::/64", &["rack"]),
            ],
        }),
    ));
    let clusters = added(&mut world);
    assert_eq!(clusters.len(), 2);
    let name = "node.n2";
    let own = json!({"prefixAdvertisements": [advertise("10.1.0.0/16", &["rack", "1:2"])]});
    world.put(bgp_config(name, own.clone()));
    world.flush();
    assert_eq!(world.problems(), Vec::<String>::new(), "another node's");

    world.put(bgp_config("node.n1", own));
    let wanted = [(net("10.1.0.0/16"), vec![standard(1, 2)])];
    assert_eq!(added(&mut world), wanted);
    let [problem] = &world.problems()[..] else {
        panic!("{:?}", world.problems());
    };
    assert!(
        problem.contains("node.n1")
            && problem.contains("spec.prefixAdvertisements: 10.1.0.0/16: \"rack\" is no name"),
        "{problem}"
    );
    world.put(bgp_config("node.n1", json!({"listenPort": 1790})));
    assert_eq!(added(&mut world), clusters, "an empty list is none");
}

#[test]
fn an_export_filter_that_accepts_a_route_sends_it_without_communities_of_advertisements() {
    let mut world = world();
    world.put(bgp_config(
        "default",
        json!({"nodeToNodeMeshEnabled": false, "prefixAdvertisements": [advertise("10.1.0.0/16", &["1:2"])]}),
    ));
    world.put(bgp_filter("f", json!({"exportV4": [{"action": "Accept"}]})));
    let spec = json!({"peerIP": "10.0.0.201", "asNumber": 65001, "filters": ["f"]});
    world.put(bgp_peer("a", spec));
    world.flush();
    let terms = session(&world).export.terms;
    let verdicts: Vec<Verdict> = terms.iter().map(|term| term.verdict).collect();
    assert_eq!(
        verdicts[..2],
        [Verdict::Accept, Verdict::Continue],
        "{terms:?}"
    );
}
