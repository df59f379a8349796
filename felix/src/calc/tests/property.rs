//! Outputs depend on the present facts only: whatever the history, a graph gives what a new one gives that is told the
//! same facts at once; and its routes are those of a plain reading of the rules.

use std::collections::BTreeMap;

use api::key::Key;
use api::object::Object;
use bgp::route::RouteChange;
use ipnet::IpNet;
use proptest::prelude::*;
use serde_json::json;

use super::super::Settings;
use super::fibs;
use super::reference::{Facts, Host};
use super::world::{
    World, addr, affinity, bgp_config, bgp_filter, bgp_peer, bgp_route, block, endpoint,
    held_under, link, node, node_in, pool, route, with_handle,
};
use crate::desired::{RouteKey, RouteKind, RouteSpec, Row};
use crate::kernel::KernelEvent;

#[derive(Clone, Debug)]
enum Fact {
    Object(Key, Option<Box<Object>>),
    Bgp(RouteChange),
    Kernel(KernelEvent),
}

/// What a fact is about: a later one about the same replaces it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Id {
    Object(Key),
    Bgp(IpNet),
    Kernel(usize),
}

/// Every subject, with the facts that can be told about it.
fn subjects() -> Vec<(Id, Vec<Fact>)> {
    let objects: Vec<Vec<(Key, Object)>> = vec![
        vec![
            pool("p", json!({"cidr": "10.1.0.0/16"})),
            pool("p", json!({"cidr": "10.1.0.0/16", "vxlanMode": "Always"})),
            pool(
                "p",
                json!({"cidr": "10.1.0.0/16", "vxlanMode": "CrossSubnet"}),
            ),
            pool(
                "p",
                json!({"cidr": "10.1.0.0/16", "ipipMode": "CrossSubnet"}),
            ),
            pool(
                "p",
                json!({"cidr": "10.1.0.0/16", "disableBGPExport": true}),
            ),
        ],
        vec![
            pool("q", json!({"cidr": "10.1.1.0/24", "vxlanMode": "Always"})),
            pool(
                "q",
                json!({"cidr": "10.1.1.0/24", "disableBGPExport": true}),
            ),
            pool("q", json!({"cidr": "10.1.0.0/16", "ipipMode": "Always"})),
        ],
        vec![
            node("n1", "10.0.0.1/24", Some("10.1.0.0")),
            node("n1", "10.0.0.1/32", Some("10.1.0.0")),
            node("n1", "10.0.0.1/24", Some("10.1.1.9")),
            node("n1", "10.0.0.9/24", None),
            drained(node("n1", "10.0.0.1/24", Some("10.1.0.0"))),
            node_in(&json!({"ipipMode": "Always"}), "n1", "10.0.0.1/24", 7),
        ],
        vec![
            node("n2", "10.0.0.2/24", Some("10.1.1.0")),
            node("n2", "10.0.0.2/24", None),
            node_in(&json!({"ipipMode": "Always"}), "n2", "10.0.0.2/24", 8),
            node("n2", "10.9.0.2/24", Some("10.1.0.9")),
        ],
        vec![
            node("n3", "10.9.0.3/24", Some("10.1.2.0")),
            node("n3", "10.9.0.3/24", Some("10.1.1.0")),
            node_in(
                &json!({"ipipMode": "Always", "vxlanMode": "Always"}),
                "n3",
                "10.9.0.3/24",
                9,
            ),
        ],
        vec![
            block("10.1.0.0/28", Some("n1"), &[]),
            held_under(block("10.1.0.0/28", Some("n1"), &[(5, "n1")]), "net.b"),
            block("10.1.0.0/28", Some("n2"), &[(9, "n2")]),
            block("10.1.0.0/28", None, &[(9, "n2"), (3, "n3")]),
        ],
        vec![
            block("10.1.1.0/28", Some("n2"), &[(9, "n1"), (3, "n3")]),
            block("10.1.1.0/28", Some("n1"), &[(3, "n2")]),
        ],
        vec![
            block("10.1.1.3/32", Some("n2"), &[]),
            block("10.1.1.3/32", Some("n1"), &[]),
        ],
        vec![
            affinity("n1", "10.1.0.0/28", "confirmed"),
            affinity("n1", "10.1.0.0/28", "pending"),
            affinity("n1", "10.1.0.0/28", "pendingDeletion"),
        ],
        vec![affinity("n1", "10.1.1.0/28", "confirmed")],
        vec![
            endpoint("a", "n1", "cali1", &["10.1.0.5/32"]),
            endpoint("a", "n1", "cali2", &["10.1.1.9/32", "10.1.0.5/32"]),
            endpoint("a", "n2", "cali1", &["10.1.0.5/32"]),
        ],
        vec![
            endpoint("b", "n1", "cali1", &["10.1.1.3/32"]),
            endpoint("b", "n1", "cali2", &["10.1.0.5/32", "10.7.0.1/32"]),
            with_handle(endpoint("b", "n1", "cali3", &["10.1.0.5/32"]), "net.b"),
        ],
        vec![
            bgp_config("default", json!({"nodeToNodeMeshEnabled": false})),
            bgp_config("default", json!({"asNumber": 65000, "listenPort": 1790})),
            bgp_config("default", json!({"ipv4NormalRoutePriority": 2048})),
        ],
        vec![
            bgp_peer("x", json!({"peerIP": "10.0.0.2", "asNumber": 65001})),
            bgp_peer("x", json!({"peerSelector": "name == 'n3'", "node": "n1"})),
            bgp_peer(
                "x",
                json!({"peerIP": "10.9.0.3", "asNumber": 65001, "reachableBy": "10.0.0.7"}),
            ),
            bgp_peer(
                "x",
                json!({"peerIP": "10.0.0.2", "asNumber": 65001, "filters": ["f"]}),
            ),
        ],
        vec![
            bgp_filter("f", json!({"importV4": [{"action": "Reject"}]})),
            bgp_filter("f", json!({"exportV4": [{"action": "Accept"}]})),
            bgp_filter(
                "f",
                json!({
                    "importV4": [{"action": "Accept", "interface": "eth*"}],
                    "exportV4": [{"action": "Reject", "interface": "cali1"}, {"action": "Accept", "interface": "*"}],
                }),
            ),
        ],
    ];
    let mut subjects: Vec<(Id, Vec<Fact>)> = objects
        .into_iter()
        .map(|versions| {
            let key = versions[0].0.clone();
            let absent = Fact::Object(key.clone(), None);
            let present = versions
                .into_iter()
                .map(|(key, object)| Fact::Object(key, Some(Box::new(object))));
            (Id::Object(key), present.chain([absent]).collect())
        })
        .collect();
    for prefix in ["10.1.0.0/28", "10.1.1.0/28", "10.1.1.3/32", "192.0.2.0/24"] {
        let facts = [
            &["10.0.0.2"][..],
            &["10.9.0.3"],
            &["10.0.0.1", "10.0.0.7"],
            &[],
        ]
        .map(|next_hops| Fact::Bgp(bgp_route(prefix, next_hops)));
        subjects.push((Id::Bgp(prefix.parse().unwrap()), facts.to_vec()));
    }
    let default = route("0.0.0.0/0", "10.0.0.254", "eth0");
    let kernel = [
        vec![
            link("eth0", true, 1500),
            link("eth0", false, 1500),
            link("eth0", true, 9000),
        ],
        vec![
            addr("eth0", "10.0.0.1/24"),
            KernelEvent::HostAddrGone {
                ifname: "eth0".into(),
                addr: "10.0.0.1/24".parse().unwrap(),
            },
        ],
        vec![
            KernelEvent::RowSet(default.clone()),
            KernelEvent::RowGone(default.key()),
        ],
    ];
    for (index, events) in kernel.into_iter().enumerate() {
        let facts = events.into_iter().map(Fact::Kernel).collect();
        subjects.push((Id::Kernel(index), facts));
    }
    subjects
}

/// The node, drained of what others have as well.
fn drained((key, mut object): (Key, Object)) -> (Key, Object) {
    if let Object::Node(node) = &mut object {
        let name = api::node::DRAIN.to_owned();
        node.metadata
            .annotations
            .insert(name, "withdrawn".to_owned());
    }
    (key, object)
}

fn fact() -> impl Strategy<Value = (Id, Fact)> {
    let subjects = subjects();
    (0..subjects.len()).prop_flat_map(move |index| {
        let (id, facts) = subjects[index].clone();
        proptest::sample::select(facts).prop_map(move |fact| (id.clone(), fact))
    })
}

fn tell(world: &mut World, fact: &Fact) {
    match fact {
        Fact::Object(key, Some(object)) => world.put((key.clone(), (**object).clone())),
        Fact::Object(key, None) => world.remove(key),
        Fact::Bgp(change) => world.graph.handle_bgp_route(change.clone()),
        Fact::Kernel(event) => world.kernel(event),
    }
}

fn new_world() -> World {
    let mut world = World::new(Settings::new("n1"));
    for kind in super::super::Graph::KINDS {
        world.graph.handle_in_sync(kind);
    }
    world.graph.handle_kernel_in_sync();
    world
}

/// A graph that is told the present facts at once, in the given order, each as often as said.
fn at_once<'a>(facts: impl Iterator<Item = &'a Fact>, times: usize) -> World {
    let mut world = new_world();
    for fact in facts {
        for _ in 0..times {
            tell(&mut world, fact);
        }
    }
    world.flush();
    world
}

fn assert_same(incremental: &World, whole: &World, what: &str) {
    assert_eq!(incremental.rows, whole.rows, "{what}");
    assert_eq!(incremental.originations, whole.originations, "{what}");
    assert_eq!(
        incremental.graph.problems(),
        whole.graph.problems(),
        "{what}"
    );
    // A node that lost its addresses keeps a configuration without peers; a new one has none.
    if let Some(config) = &whole.config {
        assert_eq!(incremental.config.as_ref(), Some(config), "{what}");
    } else if let Some(config) = &incremental.config {
        assert!(config.peers.is_empty(), "{what}");
    }
}

fn assert_routes(world: &World, present: &BTreeMap<Id, Fact>) {
    let mut bgp = BTreeMap::new();
    let mut host = Host::default();
    for fact in present.values() {
        match fact {
            Fact::Object(..) => {}
            Fact::Bgp(change) => {
                if let Some(best) = &change.best {
                    bgp.insert(change.prefix, best.next_hops.clone());
                }
            }
            Fact::Kernel(KernelEvent::Link(link)) => host.link = Some((link.up, link.mtu_bytes)),
            Fact::Kernel(KernelEvent::HostAddr { .. }) => host.addr = true,
            Fact::Kernel(KernelEvent::RowSet(_)) => host.default = true,
            Fact::Kernel(_) => {}
        }
    }
    let facts = Facts {
        objects: &world.objects,
        bgp: &bgp,
        host,
    };
    let faults = route_faults(&fibs(world), &facts.routes());
    assert_eq!(faults, Vec::<String>::new());
}

/// Where planned routes are not those expected, with the destination of each.
fn route_faults(planned: &[(IpNet, String)], expected: &BTreeMap<IpNet, String>) -> Vec<String> {
    let mut missing = expected.clone();
    let mut faults = Vec::new();
    for (dst, route) in planned {
        match missing.remove(dst) {
            Some(right) if right == *route => {}
            Some(right) => faults.push(format!("{dst}: {route}, and should be {right}")),
            None => faults.push(format!("{dst}: {route}, and should not be there")),
        }
    }
    let missing = missing.into_iter();
    faults.extend(missing.map(|(dst, route)| format!("{dst}: nothing, and should be {route}")));
    faults
}

const PARTS: [&str; 7] = [
    "gateway", "device", "onlink", "MTU", "protocol", "metric", "type",
];

/// Changes one part of a route, if it has it.
fn spoil(what: &str, key: &mut RouteKey, spec: &mut RouteSpec) -> bool {
    let mut hops = spec.next_hops.to_vec();
    match (what, hops.first_mut()) {
        ("gateway", Some(hop)) if hop.gateway.is_some() => {
            hop.gateway = Some("10.0.0.99".parse().unwrap());
        }
        ("device", Some(hop)) => hop.ifname = Some("eth9".into()),
        ("onlink", Some(hop)) => hop.onlink = !hop.onlink,
        ("MTU", _) => spec.mtu_bytes = Some(68),
        ("protocol", _) => spec.protocol = 99,
        ("metric", _) => key.metric = 77,
        ("type", _) => spec.kind = RouteKind::Prohibit,
        _ => return false,
    }
    spec.next_hops = hops.into();
    true
}

#[test]
fn the_comparison_with_the_reference_names_each_spoilt_route() {
    let mut world = new_world();
    for object in [
        pool(
            "p",
            json!({"cidr": "10.1.0.0/16", "vxlanMode": "CrossSubnet"}),
        ),
        node("n1", "10.0.0.1/24", Some("10.1.0.0")),
        node("n2", "10.0.0.2/24", Some("10.1.1.0")),
        node("n3", "10.9.0.3/24", Some("10.1.2.0")),
        block("10.1.0.0/28", Some("n1"), &[]),
        block("10.1.1.0/28", Some("n2"), &[]),
        block("10.1.2.0/28", Some("n3"), &[]),
        endpoint("a", "n1", "cali1", &["10.1.0.5/32"]),
    ] {
        world.put(object);
    }
    let default = route("0.0.0.0/0", "10.0.0.254", "eth0");
    let host = [
        link("eth0", true, 1500),
        addr("eth0", "10.0.0.1/24"),
        KernelEvent::RowSet(default),
    ];
    for event in &host {
        world.kernel(event);
    }
    world.bgp("192.0.2.0/24", &["10.0.0.2"]);
    world.flush();
    let facts = Facts {
        objects: &world.objects,
        bgp: &BTreeMap::from([(
            "192.0.2.0/24".parse().unwrap(),
            vec!["10.0.0.2".parse().unwrap()],
        )]),
        host: Host {
            link: Some((true, 1500)),
            addr: true,
            default: true,
        },
    };
    let expected = facts.routes();
    let sound: Vec<Row> = world.rows.values().cloned().collect();
    assert_eq!(route_faults(&fibs(&world), &expected), Vec::<String>::new());
    for row in sound.iter().filter(|row| matches!(row, Row::Route(..))) {
        let Row::Route(key, spec) = row else { continue };
        let dst = key.dst.to_string();
        for what in PARTS {
            let (mut key, mut spec) = (key.clone(), spec.clone());
            if !spoil(what, &mut key, &mut spec) {
                continue;
            }
            world.rows.remove(&row.key());
            let spoilt = Row::Route(key, spec);
            world.rows.insert(spoilt.key(), spoilt.clone());
            let faults = route_faults(&fibs(&world), &expected);
            assert!(
                faults.len() == 1 && faults[0].starts_with(&dst),
                "{what}: {faults:?}"
            );
            world.rows.remove(&spoilt.key());
            world.rows.insert(row.key(), row.clone());
        }
        world.rows.remove(&row.key());
        let faults = route_faults(&fibs(&world), &expected);
        assert!(
            faults.len() == 1 && faults[0].starts_with(&dst),
            "{faults:?}"
        );
        world.rows.insert(row.key(), row.clone());
    }
    let extra = route("10.77.0.0/16", "10.0.0.254", "eth0");
    world.rows.insert(extra.key(), extra);
    let faults = route_faults(&fibs(&world), &expected);
    assert!(
        faults.len() == 1 && faults[0].starts_with("10.77.0.0/16"),
        "{faults:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn history_does_not_show(
        history in proptest::collection::vec((fact(), proptest::bool::weighted(0.4)), 1..60),
    ) {
        let mut world = new_world();
        let mut present = BTreeMap::new();
        for ((id, fact), flush) in &history {
            tell(&mut world, fact);
            present.insert(id.clone(), fact.clone());
            if *flush {
                world.flush();
            }
        }
        world.flush();
        assert_same(&world, &at_once(present.values(), 1), "in order");
        assert_same(&world, &at_once(present.values().rev(), 1), "in reverse");
        assert_same(&world, &at_once(present.values(), 2), "each twice");

        assert_routes(&world, &present);

        // All objects and routes away: nothing of theirs is left. And back again.
        let before = (world.rows.clone(), world.originations.clone());
        for fact in present.values() {
            match fact {
                Fact::Object(key, _) => world.graph.handle_update(key, None),
                Fact::Bgp(change) => world.graph.handle_bgp_route(RouteChange { best: None, ..change.clone() }),
                Fact::Kernel(_) => {}
            }
        }
        world.flush();
        let left: Vec<_> = world.rows.values().collect();
        prop_assert_eq!(left.len(), 5, "only the host's settings and what is asked of every pod: {:?}", left);
        prop_assert!(world.originations.is_empty());
        for fact in present.values() {
            tell(&mut world, fact);
        }
        world.flush();
        prop_assert_eq!(before, (world.rows.clone(), world.originations.clone()));
    }
}
