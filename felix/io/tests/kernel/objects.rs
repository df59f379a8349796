//! Next-hop objects of the agent's own, as iproute2 shows them.

use std::os::fd::OwnedFd;
use std::process::Command;

use felix::desired::{Leads, NextHopId, NextHopSpec, RouteSpec, Row};
use felix::kernel::{KernelEvent, Op};
use felix::reconcile::Reconciler;
use felix_io::Table;
use felix_io::workload::PairSpec;
use serde_json::{Value, json};

use crate::namespace::kernel_test;
use crate::node::{Node, UNDERLAY, events_until, ip, ip_json, mac, pair, route, via};
use crate::restart::{drain, reconcile, reconciler};

const PEER: &str = "10.0.0.3";
const ROUTES: [&str; 2] = ["10.81.0.0/24", "10.82.0.0/24"];

fn id() -> NextHopId {
    NextHopId::of(&[ip(PEER)])
}

fn object(gateway: &str, ifname: &str) -> Row {
    let [hop] = via(gateway, ifname).try_into().unwrap();
    let leads = Leads::To(hop);
    Row::NextHop(
        id(),
        NextHopSpec {
            protocol: 12,
            leads,
        },
    )
}

fn named(dst: &str) -> Row {
    match route(dst, Vec::new()) {
        Row::Route(key, spec) => {
            let object = Some(id());
            Row::Route(key, RouteSpec { object, ..spec })
        }
        row => row,
    }
}

fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = ROUTES.into_iter().map(named).collect();
    rows.push(object(PEER, UNDERLAY));
    rows
}

/// Gives a node `eth1` with 10.1.0.1/24; the other end is where the answer says.
async fn add_eth1(node: &Node) -> OwnedFd {
    let world = crate::namespace::new();
    let spec = PairSpec {
        host_mac: mac(2),
        ..pair("eth1", "world1")
    };
    node.add_device(&world, spec, "10.1.0.1/24").await;
    world
}

/// An agent that wants the route which every node here has.
fn wanting_default() -> Reconciler {
    let mut agent = reconciler();
    agent.set(route("0.0.0.0/0", via("10.0.0.2", UNDERLAY)));
    agent
}

/// What somebody else does.
fn by_hand(args: &str) {
    let status = Command::new("ip").args(args.split(' ')).status();
    assert!(status.unwrap().success(), "ip {args}");
}

/// Without ip, or on a kernel without objects, the test is skipped.
fn ensure_able() {
    if Command::new("ip").arg("-V").output().is_err() {
        harness::skip("iproute2", "no `ip` here, the independent reader");
    }
    if !felix_io::kernel::has_next_hop_objects().unwrap() {
        harness::skip("nexthop", "the kernel has no next-hop objects (before 5.3)");
    }
}

/// Number, gateway and device of the routes to the test's destinations.
fn shown() -> Vec<Value> {
    let all = ip_json("-4 route show proto bird").unwrap();
    let all = all.as_array().unwrap().iter();
    let of = |dst: &str| {
        let mut all = all.clone();
        let route = all.find(|route| route["dst"] == dst);
        route.map_or(Value::Null, |route| {
            json!([route["nhid"], route["gateway"], route["dev"]])
        })
    };
    ROUTES.into_iter().map(of).collect()
}

fn leading(gateway: &str, ifname: &str) -> Vec<Value> {
    vec![json!([id().0, gateway, ifname]); 2]
}

kernel_test!(
    a_route_names_its_object_and_still_shows_its_gateway_and_a_move_is_one_write,
    async {
        ensure_able();
        let node = Node::new().await;
        let _world = add_eth1(&node).await;
        let mut events = node.kernel.events().unwrap();
        let mut agent = wanting_default();
        for row in rows() {
            agent.set(row);
        }
        agent.allow_deletes();
        agent.allow_bgp_deletes();
        reconcile(&node, &mut agent).await;
        assert_eq!(shown(), leading(PEER, UNDERLAY));
        agent.set(object("10.1.0.3", "eth1"));
        let ops = reconcile(&node, &mut agent).await;
        assert_eq!(ops, [Op::Set(object("10.1.0.3", "eth1"))]);
        assert_eq!(shown(), leading("10.1.0.3", "eth1"));
        let seen = drain(&node, &mut events).await;
        let bad = |event: &&KernelEvent| {
            matches!(event, KernelEvent::RowGone(_) | KernelEvent::RoutesChanged)
        };
        assert_eq!(seen.iter().find(bad), None, "own objects are no news");
        assert!(seen.contains(&KernelEvent::RowSet(object("10.1.0.3", "eth1"))));
        // A new process finds everything as it is wanted, and takes no other's away.
        by_hand("nexthop add id 7 via 10.0.0.9 dev eth0 proto zebra");
        by_hand(&format!(
            "nexthop add id {} via 10.0.0.9 dev eth0 proto zebra",
            id().0 ^ 1
        ));
        by_hand(&format!(
            "nexthop add id {} via 10.0.0.9 dev eth0 proto bird",
            id().0 ^ 2
        ));
        let mut second = wanting_default();
        for dst in ROUTES {
            second.set(named(dst));
        }
        second.set(object("10.1.0.3", "eth1"));
        assert_eq!(reconcile(&node, &mut second).await, []);
        second.allow_deletes();
        second.allow_bgp_deletes();
        let ops = reconcile(&node, &mut second).await;
        assert!(matches!(ops[..], [Op::Remove(Row::NextHop(orphan, _))] if orphan.0 == id().0 ^ 2));
        // What is no longer wanted goes routes first: each is notified.
        for row in rows() {
            second.remove(&row.key());
        }
        drain(&node, &mut events).await;
        reconcile(&node, &mut second).await;
        let mut seen = drain(&node, &mut events).await;
        seen.retain(|event| matches!(event, KernelEvent::RowGone(_)));
        let gone = rows()
            .into_iter()
            .map(|row| KernelEvent::RowGone(row.key()));
        assert_eq!(seen, gone.collect::<Vec<_>>());
        let left = ip_json("nexthop").unwrap();
        let left = left.as_array().unwrap().iter().map(|object| &object["id"]);
        assert_eq!(left.collect::<Vec<_>>(), [&json!(7), &json!(id().0 ^ 1)]);
    }
);

kernel_test!(
    routes_without_an_object_come_to_name_one_and_back_without_a_delete,
    async {
        ensure_able();
        let node = Node::new().await;
        let classic = || ROUTES.map(|dst| route(dst, via(PEER, UNDERLAY)));
        for row in classic() {
            node.set(row).await;
        }
        let mut events = node.kernel.events().unwrap();
        let mut agent = wanting_default();
        agent.allow_deletes();
        agent.allow_bgp_deletes();
        for row in rows() {
            agent.set(row);
        }
        reconcile(&node, &mut agent).await;
        assert_eq!(shown(), leading(PEER, UNDERLAY));
        for row in classic() {
            agent.set(row);
        }
        agent.remove(&object(PEER, UNDERLAY).key());
        reconcile(&node, &mut agent).await;
        assert_eq!(shown(), vec![json!([null, PEER, UNDERLAY]); 2]);
        let mut seen = drain(&node, &mut events).await;
        seen.retain(|event| matches!(event, KernelEvent::RowGone(_)));
        let object = object(PEER, UNDERLAY).key();
        assert_eq!(seen, [KernelEvent::RowGone(object)], "no route is deleted");
    }
);

kernel_test!(
    an_object_that_somebody_deletes_is_back_with_its_routes,
    async {
        ensure_able();
        let node = Node::new().await;
        let mut events = node.kernel.events().unwrap();
        let mut agent = wanting_default();
        for row in rows() {
            agent.set(row);
        }
        reconcile(&node, &mut agent).await;
        by_hand(&format!("nexthop del id {}", id().0));
        assert_eq!(shown(), [Value::Null, Value::Null]);
        for event in drain(&node, &mut events).await {
            agent.kernel_event(&event);
        }
        while let Some(op) = agent.poll_op(1) {
            for (key, result) in node.kernel.apply(vec![op]).await {
                agent.handle_result(std::time::Instant::now(), &key, result);
            }
        }
        assert_eq!(shown(), leading(PEER, UNDERLAY));
        let rows = node.rows(Table::Routes).await;
        assert_eq!(rows.get(&named(ROUTES[0]).key()), Some(&named(ROUTES[0])));
    }
);

/// The group of two peers on two devices, the peers' objects, and routes over both.
fn grouped() -> Vec<Row> {
    let one = |peer: &str, ifname: &str| {
        let [hop] = via(peer, ifname).try_into().unwrap();
        let leads = Leads::To(hop);
        let id = NextHopId::of(&[ip(peer)]);
        Row::NextHop(
            id,
            NextHopSpec {
                protocol: 12,
                leads,
            },
        )
    };
    let mut rows = vec![one(PEER, UNDERLAY), one(SECOND, "eth1")];
    let mut members: Vec<NextHopId> = [PEER, SECOND]
        .iter()
        .map(|peer| NextHopId::of(&[ip(peer)]))
        .collect();
    members.sort();
    let leads = Leads::Over(members);
    rows.push(Row::NextHop(
        group_id(),
        NextHopSpec {
            protocol: 12,
            leads,
        },
    ));
    rows.extend(ROUTES.into_iter().map(|dst| match named(dst) {
        Row::Route(key, spec) => {
            let object = Some(group_id());
            Row::Route(key, RouteSpec { object, ..spec })
        }
        row => row,
    }));
    rows
}

const SECOND: &str = "10.1.0.3";

fn group_id() -> NextHopId {
    NextHopId::of(&[ip(PEER), ip(SECOND)])
}

/// Number and gateways of the routes, as iproute2 shows them.
fn shown_over() -> Vec<(Value, Vec<String>)> {
    let all = ip_json("-4 route show proto bird").unwrap();
    let all = all.as_array().unwrap().iter();
    let gateways = |route: &Value| {
        let hops = route["nexthops"].as_array().cloned().unwrap_or_default();
        let gateway = |hop: &Value| hop["gateway"].as_str().unwrap_or_default().to_owned();
        let mut gateways: Vec<String> = hops.iter().map(gateway).collect();
        gateways.sort();
        gateways
    };
    all.filter(|route| ROUTES.iter().any(|dst| route["dst"] == **dst))
        .map(|route| (route["nhid"].clone(), gateways(route)))
        .collect()
}

kernel_test!(
    routes_over_a_group_are_one_write_away_and_what_a_group_lost_comes_back,
    async {
        ensure_able();
        let node = Node::new().await;
        let _world = add_eth1(&node).await;
        let mut events = node.kernel.events().unwrap();
        let mut agent = wanting_default();
        for row in grouped() {
            agent.set(row);
        }
        agent.allow_deletes();
        agent.allow_bgp_deletes();
        reconcile(&node, &mut agent).await;
        let over_both = || {
            let gateways = vec![PEER.to_owned(), SECOND.to_owned()];
            vec![(json!(group_id().0), gateways); ROUTES.len()]
        };
        assert_eq!(shown_over(), over_both());
        drain(&node, &mut events).await;
        // A new process finds it as it is wanted.
        let mut second = wanting_default();
        for row in grouped() {
            second.set(row);
        }
        second.allow_deletes();
        second.allow_bgp_deletes();
        assert_eq!(reconcile(&node, &mut second).await, []);
        // Somebody deletes a member: the kernel leaves it out of the group.
        by_hand(&format!(
            "nexthop del id {}",
            NextHopId::of(&[ip(SECOND)]).0
        ));
        assert_ne!(shown_over(), over_both());
        for event in drain(&node, &mut events).await {
            second.kernel_event(&event);
        }
        reconcile(&node, &mut second).await;
        assert_eq!(shown_over(), over_both());
        // A device goes down and comes back: of what goes with it the kernel notifies nothing.
        by_hand("link set eth1 down");
        by_hand("link set eth1 up");
        // Its carrier comes later, and no next hop can be made over it before.
        let up = |event: &KernelEvent| matches!(event, KernelEvent::Link(link) if link.up && link.ifname == "eth1".into());
        for event in events_until(&mut events, up).await {
            second.kernel_event(&event);
        }
        reconcile(&node, &mut second).await;
        assert_eq!(shown_over(), over_both());
        for row in grouped() {
            second.remove(&row.key());
        }
        reconcile(&node, &mut second).await;
        assert_eq!(shown_over(), []);
        assert_eq!(ip_json("nexthop").unwrap(), json!([]));
    }
);
