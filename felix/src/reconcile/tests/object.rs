//! Next-hop objects: made before the routes that name them, deleted after, and written again with them.

use super::*;
use crate::desired::{Hops, Leads, NextHopId, NextHopSpec};

const PEER: &str = "10.0.0.3";

fn id() -> NextHopId {
    NextHopId::of(&[PEER.parse().unwrap()])
}

pub(super) fn object(ifname: &str) -> Row {
    let spec = NextHopSpec {
        protocol: 12,
        leads: Leads::To(hop(Some(PEER), ifname)),
    };
    Row::NextHop(id(), spec)
}

fn by_hop(dst: &str) -> Row {
    route(dst, 1024, 12, Some(PEER), "eth0")
}

pub(super) fn by_object(dst: &str) -> Row {
    match by_hop(dst) {
        Row::Route(key, spec) => {
            let spec = RouteSpec {
                next_hops: Hops::default(),
                object: Some(id()),
                ..spec
            };
            Row::Route(key, spec)
        }
        row => row,
    }
}

const ROUTES: [&str; 2] = ["10.2.0.0/26", "10.2.1.0/26"];

fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = ROUTES.into_iter().map(by_object).collect();
    rows.push(object("eth0"));
    rows
}

/// Rows are wanted and written.
fn standing() -> Bench {
    let mut bench = Bench::new(Kernel::with_links(&["eth0", "eth1"]));
    bench.reconciler.allow_deletes();
    bench.reconciler.allow_bgp_deletes();
    for row in rows() {
        bench.reconciler.set(row);
    }
    let first = bench.run().into_iter().next();
    assert_eq!(first, Some(Op::Set(object("eth0"))), "before its routes");
    assert!(rows().iter().all(|row| bench.kernel.has(row)));
    bench
}

#[test]
fn a_peer_that_moves_is_one_write() {
    let mut bench = standing();
    bench.reconciler.set(object("eth1"));
    assert_eq!(bench.run(), [Op::Set(object("eth1"))]);
}

#[test]
fn an_object_is_deleted_once_no_route_names_it() {
    let mut bench = standing();
    for row in rows() {
        bench.reconciler.remove(&row.key());
    }
    let ops = bench.run();
    assert_eq!(ops.last(), Some(&Op::Remove(object("eth0"))));
    assert_eq!(removes(&ops).len(), 3);

    // The kernel does not let one of the routes go.
    let mut bench = standing();
    let stays = by_object(ROUTES[0]);
    bench.kernel.refuse(stays.key());
    for row in rows() {
        bench.reconciler.remove(&row.key());
    }
    assert!(!removes(&bench.run()).contains(&object("eth0").key()));
    assert!(bench.kernel.has(&stays));
}

#[test]
fn an_object_is_not_deleted_while_a_route_is_being_written() {
    let mut bench = standing();
    let another = by_object("10.2.9.0/26");
    bench.reconciler.set(another.clone());
    let op = bench.reconciler.poll_op(9).expect("the route is written");
    for row in rows() {
        bench.reconciler.remove(&row.key());
    }
    bench.reconciler.remove(&another.key());
    let given = std::iter::from_fn(|| bench.reconciler.poll_op(9));
    let given: Vec<Op> = given.collect();
    assert!(
        !removes(&given).contains(&object("eth0").key()),
        "{given:?}"
    );
    for op in given.iter().chain([&op]) {
        let result = bench.kernel.execute(op);
        bench.reconciler.handle_result(bench.now, &op.key(), result);
    }
    let last = [Op::Remove(another), Op::Remove(object("eth0"))];
    assert_eq!(bench.run(), last);
}

#[test]
fn routes_of_a_former_version_are_replaced_and_none_is_deleted() {
    let mut kernel = Kernel::with_links(&["eth0"]);
    for dst in ROUTES {
        kernel.insert(by_hop(dst));
    }
    let mut bench = Bench::new(kernel);
    bench.reconciler.allow_deletes();
    bench.reconciler.allow_bgp_deletes();
    for row in rows() {
        bench.reconciler.set(row);
    }
    assert_eq!(removes(&bench.run()), []);
    assert!(rows().iter().all(|row| bench.kernel.has(row)));
    // And back.
    for dst in ROUTES {
        bench.reconciler.set(by_hop(dst));
    }
    bench.reconciler.remove(&object("eth0").key());
    assert_eq!(removes(&bench.run()), [object("eth0").key()]);
}

#[test]
fn a_restart_adopts_objects_and_routes_and_removes_orphans_only() {
    let mut kernel = standing().kernel;
    let foreign = match object("eth0") {
        Row::NextHop(id, spec) => Row::NextHop(
            NextHopId(id.0 ^ 1),
            NextHopSpec {
                protocol: 11,
                ..spec
            },
        ),
        row => row,
    };
    let orphan = match object("eth0") {
        Row::NextHop(id, spec) => Row::NextHop(NextHopId(id.0 ^ 2), spec),
        row => row,
    };
    kernel.insert(foreign.clone());
    kernel.insert(orphan.clone());
    let mut bench = Bench::new(kernel);
    for row in rows() {
        bench.reconciler.set(row);
    }
    assert_eq!(bench.run(), []);
    bench.reconciler.allow_deletes();
    assert_eq!(bench.run(), [], "BGP has not chosen yet");
    bench.reconciler.allow_bgp_deletes();
    assert_eq!(bench.run(), [Op::Remove(orphan)]);
    assert!(bench.kernel.has(&foreign));
}

#[test]
fn a_foreign_object_in_its_place_stays_and_is_told() {
    let foreign = match object("eth0") {
        Row::NextHop(id, spec) => Row::NextHop(
            id,
            NextHopSpec {
                protocol: 11,
                ..spec
            },
        ),
        row => row,
    };
    let mut kernel = Kernel::with_links(&["eth0"]);
    kernel.insert(foreign.clone());
    let mut bench = Bench::new(kernel);
    for row in rows() {
        bench.reconciler.set(row);
    }
    assert_eq!(bench.run(), []);
    let problems = bench.reconciler.problems();
    let reasons: Vec<&Stuck> = problems.iter().map(|problem| &problem.reason).collect();
    assert!(reasons.contains(&&Stuck::Foreign(foreign)), "{reasons:?}");
}

#[test]
fn what_goes_with_an_object_is_written_again() {
    // By hand, which is notified; with a device's carrier, which is not.
    for by_hand in [true, false] {
        let mut bench = standing();
        if by_hand {
            bench.kernel.remove_by_hand(&object("eth0").key());
        } else {
            bench.kernel.link("eth0", false);
            assert_eq!(
                bench.run(),
                [],
                "nothing leads through a device that is down"
            );
            bench.kernel.link("eth0", true);
        }
        let ops = bench.run();
        assert_eq!(ops.first(), Some(&Op::Set(object("eth0"))));
        assert!(rows().iter().all(|row| bench.kernel.has(row)), "{ops:?}");
    }
}

const OTHER: &str = "10.0.0.4";

fn number(next_hops: &[&str]) -> NextHopId {
    let next_hops: Vec<IpAddr> = next_hops.iter().map(|hop| hop.parse().unwrap()).collect();
    NextHopId::of(&next_hops)
}

/// Both peers, and their group.
pub(super) fn group() -> [Row; 3] {
    let protocol = 12;
    let one = |peer, ifname| {
        let leads = Leads::To(hop(Some(peer), ifname));
        Row::NextHop(number(&[peer]), NextHopSpec { protocol, leads })
    };
    let mut members = vec![number(&[PEER]), number(&[OTHER])];
    members.sort();
    let leads = Leads::Over(members);
    let both = Row::NextHop(number(&[PEER, OTHER]), NextHopSpec { protocol, leads });
    [one(PEER, "eth0"), one(OTHER, "eth1"), both]
}

/// A route over both.
pub(super) fn over(dst: &str) -> Row {
    match by_object(dst) {
        Row::Route(key, spec) => {
            let object = Some(number(&[PEER, OTHER]));
            Row::Route(key, RouteSpec { object, ..spec })
        }
        row => row,
    }
}

fn over_group() -> Bench {
    let mut bench = Bench::new(Kernel::with_links(&["eth0", "eth1"]));
    bench.reconciler.allow_deletes();
    bench.reconciler.allow_bgp_deletes();
    for row in ROUTES.into_iter().map(over).chain(group()) {
        bench.reconciler.set(row);
    }
    bench
}

#[test]
fn a_group_is_made_after_its_members_and_before_its_routes_and_goes_between_them() {
    let mut bench = over_group();
    let [first, second, both] = group();
    let ops = bench.run();
    assert!(
        ops[..2].contains(&Op::Set(first.clone())) && ops[..2].contains(&Op::Set(second.clone()))
    );
    assert_eq!(ops[2], Op::Set(both.clone()));
    assert_eq!(ops.len(), 5);
    // Another process finds it as it is wanted.
    let mut bench = Bench::new(bench.kernel);
    for row in ROUTES.into_iter().map(over).chain(group()) {
        bench.reconciler.set(row);
    }
    bench.reconciler.allow_deletes();
    bench.reconciler.allow_bgp_deletes();
    assert_eq!(bench.run(), []);
    // A member that moves is one write.
    let Row::NextHop(id, spec) = &first else {
        unreachable!()
    };
    let leads = Leads::To(hop(Some(PEER), "eth1"));
    let moved = Row::NextHop(
        *id,
        NextHopSpec {
            leads,
            ..spec.clone()
        },
    );
    bench.reconciler.set(moved.clone());
    assert_eq!(bench.run(), [Op::Set(moved.clone())]);
    for row in ROUTES.into_iter().map(over).chain(group()) {
        bench.reconciler.remove(&row.key());
    }
    let ops = removes(&bench.run());
    assert_eq!(ops.len(), 5);
    assert_eq!(ops[2], both.key(), "{ops:?}");
}

#[test]
fn a_group_that_lost_a_member_gets_it_back_with_what_went_along() {
    for name in ["eth0", "eth1"] {
        let mut bench = over_group();
        bench.run();
        bench.kernel.link(name, false);
        bench.run();
        bench.kernel.link(name, true);
        bench.run();
        let all = ROUTES.into_iter().map(over).chain(group());
        for row in all {
            assert!(bench.kernel.has(&row), "{name}: {row}");
        }
    }
    let mut bench = over_group();
    bench.run();
    for row in group() {
        bench.kernel.remove_by_hand(&row.key());
    }
    bench.run();
    let mut all = ROUTES.into_iter().map(over).chain(group());
    assert!(all.all(|row| bench.kernel.has(&row)));
}
