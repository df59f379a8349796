//! BGPFilters as the terms of sessions.

use bgp::config::PeerConfig;
use bgp::policy::{Edit, Match, PrefixRange, Term, Verdict};
use bgp::route::RouteSource;
use bgp::types::Asn;
use bgp::wire::attr::community::Community;
use serde_json::Value;

use super::world::{
    World, addr, affinity, bgp_filter, bgp_peer, block, endpoint, link, node, pool, route,
};
use super::*;

fn peer(world: &World, name: &str) -> Option<PeerConfig> {
    let peers = &world.config.as_ref().expect("the node speaks BGP").peers;
    let found = peers.iter().find(|(peer, _)| peer.to_string() == name);
    found.map(|(_, config)| config.clone())
}

/// A router of another AS and one of ours, under the same filters; `f` holds the lists given.
fn filtered(filter: Value) -> World {
    let mut world = World::started();
    world.put(node("n1", "10.0.0.1/24", None));
    world.put(bgp_filter("f", filter));
    for (name, address, asn) in [("a", "10.0.0.201", 65001), ("b", "10.0.0.202", 64512)] {
        let spec = json!({"peerIP": address, "asNumber": asn, "filters": ["f"]});
        world.put(bgp_peer(name, spec));
    }
    world.flush();
    world
}

fn external(world: &World) -> PeerConfig {
    peer(world, "Global_10_0_0_201").expect("a session")
}

fn internal(world: &World) -> PeerConfig {
    peer(world, "Global_10_0_0_202").expect("a session")
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn listed(prefix: &str, ge: u8, le: u8) -> Match {
    let prefix = net(prefix);
    Match::Prefix(vec![PrefixRange { prefix, ge, le }])
}

/// What a session exports by its filters; the terms that every session has are behind them.
fn exports(config: PeerConfig) -> Vec<Term> {
    let terms = config.export.terms.into_iter();
    terms
        .take_while(|term| term.name.contains(": spec."))
        .collect()
}

/// The conditions of one import rule, on the external session.
fn conditions(rule: Value) -> Vec<Match> {
    let mut rule = rule;
    rule["action"] = json!("Accept");
    let mut terms = external(&filtered(json!({"importV4": [rule]})))
        .import
        .terms;
    assert_eq!(terms.len(), 1, "{terms:?}");
    terms.remove(0).matches
}

#[test]
fn each_way_to_compare_a_prefix_is_its_own_condition() {
    let compare = |operator: &str, length: Value| {
        conditions(json!({
            "cidr": "10.1.0.0/16", "matchOperator": operator, "prefixLength": length,
        }))
    };
    let not = |inner| vec![Match::Not(Box::new(inner))];
    let any = json!({});
    assert_eq!(
        compare("Equal", any.clone()),
        [listed("10.1.0.0/16", 16, 16)]
    );
    assert_eq!(
        compare("NotEqual", any.clone()),
        not(listed("10.1.0.0/16", 16, 16))
    );
    assert_eq!(compare("In", any.clone()), [listed("10.1.0.0/16", 16, 32)]);
    assert_eq!(compare("NotIn", any), not(listed("10.1.0.0/16", 16, 32)));
    let short = json!({"min": 8, "max": 24});
    assert_eq!(compare("In", short), [listed("10.1.0.0/16", 16, 24)]);
    let long = json!({"min": 26});
    assert_eq!(compare("NotIn", long), not(listed("10.1.0.0/16", 26, 32)));
}

#[test]
fn each_other_condition_of_a_rule_is_a_condition_of_its_term() {
    assert_eq!(conditions(json!({})), []);
    let learned = vec![RouteSource::Ebgp, RouteSource::Ibgp];
    let rule = json!({"source": "RemotePeers"});
    assert_eq!(conditions(rule), [Match::PeerType(learned)]);
    let rule = json!({"communities": {"values": ["65000:100"]}});
    let community = Community(65000 << 16 | 100);
    assert_eq!(conditions(rule), [Match::Community(vec![community])]);
    let rule = json!({"communities": {"values": ["65000:1:2"]}});
    let large = "65000:1:2".parse().unwrap();
    assert_eq!(conditions(rule), [Match::LargeCommunity(vec![large])]);
    let rule = json!({"asPathPrefix": [65001, "1.10"]});
    let path = vec![Asn(65001), Asn(65546)];
    assert_eq!(conditions(rule), [Match::AsPathBegins(path)]);
    let rule = json!({"priority": 1024});
    assert_eq!(conditions(rule), [Match::LocalPref(2_147_482_623)]);
}

#[test]
fn a_rule_for_one_type_of_peer_is_left_out_of_sessions_of_the_other() {
    let world = filtered(json!({
        "importV4": [{"action": "Reject", "peerType": "eBGP"}],
        "exportV4": [{"action": "Reject", "peerType": "iBGP"}],
    }));
    let counts = |config: PeerConfig| (config.import.terms.len(), exports(config).len());
    assert_eq!(counts(external(&world)), (1, 0));
    assert_eq!(counts(internal(&world)), (0, 1));
}

#[test]
fn an_exported_path_begins_with_the_sessions_own_as_towards_another_as_only() {
    let path =
        |asns: Value| filtered(json!({"exportV4": [{"action": "Reject", "asPathPrefix": asns}]}));
    let matches = |config: PeerConfig| {
        let terms = exports(config).into_iter();
        terms.map(|term| term.matches).collect::<Vec<_>>()
    };
    let world = path(json!([64512, 65009]));
    let begins = |asns: &[u32]| {
        vec![vec![Match::AsPathBegins(
            asns.iter().copied().map(Asn).collect(),
        )]]
    };
    assert_eq!(matches(external(&world)), begins(&[65009]));
    assert_eq!(matches(internal(&world)), begins(&[64512, 65009]));
    let world = path(json!([64512]));
    assert_eq!(matches(external(&world)), vec![Vec::new()], "every route");
    let world = path(json!([65009]));
    assert_eq!(matches(external(&world)), Vec::<Vec<Match>>::new(), "none");
    assert_eq!(matches(internal(&world)), begins(&[65009]));
}

#[test]
fn operations_are_edits_in_their_order_and_an_as_path_reads_as_written() {
    let world = filtered(json!({"exportV4": [{"action": "Accept", "operations": [
        {"addCommunity": {"value": "65000:1"}},
        {"prependASPath": {"prefix": [65007, 65008]}},
        {"setPriority": {"value": 512}},
        {"addCommunity": {"value": "65000:1:2"}},
    ]}]}));
    let prepend = |asn| Edit::Prepend {
        asn: Asn(asn),
        times: 1,
    };
    let term = Term {
        name: "f: spec.exportV4[0]".into(),
        matches: Vec::new(),
        edits: vec![
            Edit::AddCommunities(vec![Community(65000 << 16 | 1)]),
            prepend(65008),
            prepend(65007),
            Edit::SetLocalPref(2_147_483_135),
            Edit::AddLargeCommunities(vec!["65000:1:2".parse().unwrap()]),
        ],
        verdict: Verdict::Accept,
    };
    let config = external(&world);
    assert!(config.export.terms.len() > 1, "the pools' terms follow");
    assert_eq!(exports(config), [term]);
}

#[test]
fn lists_count_by_family_and_direction_and_filters_in_the_order_of_the_peer() {
    let mut world = filtered(json!({
        "importV4": [{"action": "Reject", "cidr": "10.9.0.0/16", "matchOperator": "In"}, {"action": "Accept"}],
        "importV6": [{"action": "Reject"}],
        "exportV6": [{"action": "Reject"}],
    }));
    world.put(bgp_filter("g", json!({"importV4": [{"action": "Reject"}]})));
    let spec = json!({"peerIP": "10.0.0.201", "asNumber": 65001, "filters": ["g", "f"]});
    world.put(bgp_peer("a", spec));
    world.flush();
    let names = |config: &PeerConfig| {
        let terms = config.import.terms.iter();
        terms.map(|term| term.name.to_string()).collect::<Vec<_>>()
    };
    let (a, b) = (external(&world), internal(&world));
    let of_f = ["f: spec.importV4[0]", "f: spec.importV4[1]"];
    assert_eq!(names(&a), ["g: spec.importV4[0]", of_f[0], of_f[1]]);
    assert_eq!(names(&b), of_f);
    assert_eq!(b.import.terms[0].verdict, Verdict::Reject);
    assert_eq!(b.import.terms[1].verdict, Verdict::Accept);
    assert_eq!((exports(a), exports(b)), (Vec::new(), Vec::new()));
}

#[test]
fn a_session_waits_for_its_filters_and_does_not_go_without_one() {
    let mut world = filtered(json!({}));
    world.remove(&Key::new(Kind::BGPFilter, "f"));
    world.flush();
    assert_eq!(world.peer_names(), Vec::<String>::new());
    let texts = world.problems();
    let held = "spec.filters: there is no valid BGPFilter \"f\", so the session is held down";
    assert_eq!(
        texts,
        ["a", "b"].map(|name| format!("BGPPeer({name}): {held}"))
    );

    world.put(bgp_filter("f", json!({})));
    world.flush();
    assert_eq!(world.peer_names().len(), 2);
    assert!(world.graph.problems().is_empty());
}

/// What each term of a rule on `interface` is about: `own` or `learned`, and the prefixes or next hops.
fn ways(terms: &[Term]) -> Vec<String> {
    let one = |term: &Term| {
        let parts = term.matches.iter().map(|condition| match condition {
            Match::PeerType(of) if *of == [RouteSource::Local] => "own".to_owned(),
            Match::PeerType(_) => "learned".to_owned(),
            Match::NextHop(ranges) => {
                let ranges = ranges.iter().map(ToString::to_string);
                ranges.collect::<Vec<_>>().join(" ")
            }
            Match::Prefix(ranges) => {
                let ranges = ranges.iter().map(|range| range.prefix.to_string());
                ranges.collect::<Vec<_>>().join(" ")
            }
            other => format!("{other:?}"),
        });
        parts.collect::<Vec<_>>().join(": ")
    };
    terms.iter().map(one).collect()
}

#[test]
fn a_rule_on_a_device_is_about_next_hops_that_lead_there_and_follows_the_hosts_routes() {
    let mut world = filtered(json!({"importV4": [{"action": "Accept", "interface": "eth0"}]}));
    let import = |world: &World| ways(&external(world).import.terms);
    assert_eq!(import(&world), ["learned: 0.0.0.0/0"]);

    // A network inside it leads elsewhere.
    world.kernel(&link("docker0", true, 1500));
    world.kernel(&addr("docker0", "192.0.2.1/31"));
    world.flush();
    let wider = import(&world).remove(0);
    let ranges: Vec<IpNet> = wider["learned: ".len()..].split(' ').map(net).collect();
    let has = |addr: &str| ranges.iter().any(|range| range.contains(&net(addr)));
    assert!(has("10.0.0.201/32") && has("192.0.2.2/32") && has("192.0.1.255/32"));
    assert!(!has("192.0.2.0/32") && !has("192.0.2.1/32"));
    assert_eq!(ranges.len(), 31, "{wider}");

    // The default route goes; the connected network is left.
    let default = route("0.0.0.0/0", "10.0.0.254", "eth0");
    world.kernel(&KernelEvent::RowGone(default.key()));
    world.flush();
    assert_eq!(import(&world), ["learned: 10.0.0.0/24"]);
    world.kernel(&link("eth0", false, 1500));
    world.flush();
    assert_eq!(import(&world), Vec::<String>::new(), "no route fits");
    assert!(world.graph.problems().is_empty(), "{:?}", world.problems());
}

#[test]
fn an_exported_address_leaves_by_the_device_of_its_pod_and_a_block_by_none() {
    let rules = json!([{"action": "Reject", "interface": "cali*"}]);
    let mut world = filtered(json!({"exportV4": rules}));
    let export = |world: &World| ways(&exports(external(world)));
    world.put(pool("p", json!({"cidr": "10.1.0.0/16"})));
    world.put(block("10.1.0.0/26", Some("n1"), &[]));
    world.put(affinity("n1", "10.1.0.0/26", "confirmed"));
    world.put(endpoint("inside", "n1", "cali1", &["10.1.0.5/32"]));
    world.flush();
    assert_eq!(export(&world), Vec::<String>::new());

    // An address of another node's block goes by itself.
    world.put(endpoint("borrowed", "n1", "cali2", &["10.1.9.5/32"]));
    world.flush();
    assert_eq!(export(&world), ["own: 10.1.9.5/32"]);
    assert!(world.announced().contains(&"10.1.9.5/32".to_owned()));

    // As does that of a block that is being given up.
    world.put(affinity("n1", "10.1.0.0/26", "pendingDeletion"));
    world.flush();
    assert_eq!(export(&world), ["own: 10.1.0.5/32 10.1.9.5/32"]);
    world.remove(&Key::namespaced(
        Kind::WorkloadEndpoint,
        "default",
        "borrowed",
    ));
    world.flush();
    assert_eq!(export(&world), ["own: 10.1.0.5/32"]);
}

#[test]
fn by_device_a_peer_behind_a_gateway_is_where_its_gateway_is() {
    let rules = json!([{"action": "Accept", "interface": "eth1"}]);
    let mut world = filtered(json!({"importV4": rules}));
    world.kernel(&link("eth1", true, 1500));
    world.kernel(&addr("eth1", "10.8.0.1/24"));
    let spec = json!({"peerIP": "192.0.2.7", "asNumber": 65001, "reachableBy": "10.8.0.9", "filters": ["f"]});
    world.put(bgp_peer("far", spec));
    world.flush();
    let far = peer(&world, "Global_192_0_2_7").expect("a session");
    let terms = ways(&far.import.terms);
    assert_eq!(terms, ["learned: 10.8.0.0/24 192.0.2.7/32"]);
}

#[test]
fn filters_hold_for_the_far_end_as_well_and_never_for_the_mesh() {
    let mut world = World::new(Settings::new("n2"));
    world.start();
    for (name, address) in [
        ("n1", "10.0.0.1/24"),
        ("n2", "10.0.0.2/24"),
        ("n3", "10.0.0.3/24"),
    ] {
        world.put(node(name, address, None));
    }
    world.put(bgp_filter("f", json!({"importV4": [{"action": "Reject"}]})));
    let spec = json!({"node": "n1", "peerSelector": "name == 'n2'", "filters": ["f"]});
    world.put(bgp_peer("x", spec));
    world.flush();
    let terms = |name| peer(&world, name).expect("a session").import.terms.len();
    assert_eq!(terms("Node_10_0_0_1"), 1);
    assert_eq!(terms("Mesh_10_0_0_3"), 0);
}

#[test]
fn the_mesh_does_not_take_the_place_of_a_session_that_is_held_down() {
    let secret = json!({"secretKeyRef": {"name": "bgp", "key": "x"}});
    for (field, value) in [("filters", json!(["f"])), ("password", secret)] {
        for own in ["n1", "n2"] {
            let mut world = World::new(Settings::new(own));
            world.start();
            world.put(node("n1", "10.0.0.1/24", None));
            world.put(node("n2", "10.0.0.2/24", None));
            world.put(node("n3", "10.0.0.3/24", None));
            let mut spec = json!({"node": "n1", "peerSelector": "name == 'n2'"});
            spec[field] = value.clone();
            world.put(bgp_peer("x", spec));
            world.flush();
            assert_eq!(world.peer_names(), ["Mesh_10_0_0_3"], "{field}, {own}");
        }
    }
}
