//! Which BGP next hops have a next-hop object of the kernel.

use super::*;
use crate::desired::NextHopId;

const PEER: &str = "10.0.0.3";

/// Objects from three routes on.
fn world() -> World {
    let mut settings = Settings::new("n1");
    settings.next_hop_object_routes = Some(3);
    let mut world = World::new(settings);
    world.start();
    world.flush();
    world
}

fn id() -> NextHopId {
    NextHopId::of(&[PEER.parse().unwrap()])
}

fn prefix(number: u8) -> String {
    format!("10.9.{number}.0/24")
}

/// What routes name, and where the object leads, as iproute2 writes it.
fn shown(world: &World) -> Vec<String> {
    let rows = world.rows.values().filter_map(|row| match row {
        Row::NextHop(_, spec) => Some(format!("object{}", spec.leads)),
        Row::Route(_, spec) if spec.protocol == 12 => Some(match spec.object {
            Some(named) if named == id() => "named".to_owned(),
            Some(other) => format!("{other:?}"),
            None => spec.to_string(),
        }),
        _ => None,
    });
    rows.collect()
}

#[test]
fn a_next_hop_that_many_routes_have_is_an_object_and_one_of_few_is_not() {
    let mut world = world();
    for number in 1..=2 {
        world.bgp(&prefix(number), &[PEER]);
    }
    // Not alone.
    world.bgp(&prefix(8), &[PEER, "10.0.0.4"]);
    world.flush();
    let classic = " via 10.0.0.3 dev eth0";
    let both = " via 10.0.0.3 dev eth0 via 10.0.0.4 dev eth0";
    assert_eq!(shown(&world), [classic, classic, both]);
    world.bgp(&prefix(3), &[PEER]);
    world.flush();
    let object = "object via 10.0.0.3 dev eth0";
    assert_eq!(shown(&world), [object, "named", "named", "named", both]);
    world.bgp(&prefix(3), &[]);
    world.flush();
    assert_eq!(
        shown(&world),
        [object, "named", "named", both],
        "it stands until half of them are gone"
    );
    world.bgp(&prefix(2), &[]);
    world.flush();
    assert_eq!(shown(&world), [classic, both]);
    world.bgp(&prefix(2), &[PEER]);
    world.flush();
    assert_eq!(shown(&world), [classic, classic, both]);
}

#[test]
fn a_change_of_the_way_to_a_next_hop_with_an_object_touches_no_route() {
    let mut world = world();
    for number in 1..=3 {
        world.bgp(&prefix(number), &[PEER]);
    }
    world.flush();
    world.kernel(&link("eth1", true, 1500));
    world.kernel(&KernelEvent::RowSet(route(
        "10.0.0.3/32",
        "10.0.0.9",
        "eth0",
    )));
    world.graph.flush();
    let mut changed = Vec::new();
    while let Some((key, row)) = world.graph.poll_desired() {
        changed.push((key, row.map(|row| row.to_string())));
    }
    let said = format!("{} via 10.0.0.9 dev eth0 proto 12", RowKey::NextHop(id()));
    assert_eq!(changed, [(RowKey::NextHop(id()), Some(said))]);
}

#[test]
fn two_next_hops_never_have_one_number() {
    // 10.0.0.3 and whatever folds to the same number: the greater goes without.
    let mut seen = std::collections::BTreeMap::new();
    let addrs = (0..200_000_u32).map(|number| std::net::Ipv4Addr::from(0x0a00_0000 + number));
    let twice = addrs.map(std::net::IpAddr::V4).find_map(|addr| {
        let before = seen.insert(NextHopId::of(&[addr]), addr)?;
        Some([before, addr])
    });
    let Some(twice) = twice else {
        return;
    };
    let mut settings = Settings::new("n1");
    settings.next_hop_object_routes = Some(1);
    let mut world = World::new(settings);
    world.start();
    for (number, addr) in (1..).zip(twice) {
        world.bgp(&prefix(number), &[&addr.to_string()]);
    }
    world.flush();
    let objects = world
        .rows
        .keys()
        .filter(|key| matches!(key, RowKey::NextHop(_)));
    assert_eq!(objects.count(), 1);
    assert_eq!(shown(&world).len(), 3, "{:?}", shown(&world));
}

#[test]
fn next_hops_that_many_routes_have_together_are_a_group_and_their_ways_change_without_the_routes() {
    let mut world = world();
    let both = [PEER, "10.0.0.4"];
    let id = |next_hops: &[&str]| {
        let next_hops: Vec<std::net::IpAddr> =
            next_hops.iter().map(|hop| hop.parse().unwrap()).collect();
        NextHopId::of(&next_hops)
    };
    let turned = ["10.0.0.4", PEER];
    assert_eq!(id(&both), id(&turned), "in any order");
    for (number, next_hops) in [(1, &both), (2, &turned), (3, &both)] {
        world.bgp(&prefix(number), next_hops);
    }
    // Alone, few routes have it.
    world.bgp(&prefix(9), &[PEER]);
    world.flush();
    let mut members = [id(&[PEER]).0, id(&["10.0.0.4"]).0];
    members.sort_unstable();
    let group = format!("object group {}/{}", members[0], members[1]);
    let found = shown(&world);
    for wanted in [
        "object via 10.0.0.3 dev eth0",
        "object via 10.0.0.4 dev eth0",
        &group,
        " via 10.0.0.3 dev eth0",
    ] {
        assert!(found.iter().any(|row| row == wanted), "{wanted}: {found:?}");
    }
    let named = format!("{:?}", id(&both));
    assert_eq!(
        found.iter().filter(|row| **row == named).count(),
        3,
        "{found:?}"
    );
    assert_eq!(found.len(), 7);
    // One of both is reached otherwise: its object alone changes, and the route of its own.
    world.kernel(&KernelEvent::RowSet(route(
        "10.0.0.3/32",
        "10.0.0.9",
        "eth0",
    )));
    world.graph.flush();
    let mut changed = Vec::new();
    while let Some((key, _)) = world.graph.poll_desired() {
        changed.push(key);
    }
    assert_eq!(changed.len(), 2, "{changed:?}");
    assert!(
        changed.contains(&RowKey::NextHop(id(&[PEER]))),
        "{changed:?}"
    );
    // Both lead to one gateway: no group of a gateway with itself.
    world.kernel(&KernelEvent::RowSet(route(
        "10.0.0.4/32",
        "10.0.0.9",
        "eth0",
    )));
    world.flush();
    for number in 2..=3 {
        world.bgp(&prefix(number), &[]);
    }
    world.flush();
    let found = shown(&world);
    assert_eq!(found.len(), 2, "no object is left: {found:?}");
}
