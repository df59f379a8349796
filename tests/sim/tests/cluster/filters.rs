//! BGPFilters from the store to the FIB.

use std::time::Duration;

use api::bgp::{BGPPeer, BGPPeerSpec};
use api::bgp_filter::{BGPFilter, BGPFilterRule, BGPFilterSpec};
use api::key::{Key, Kind};
use api::object::Object;
use api::pool::EncapMode;
use bgp::event::Event;
use felix::desired::Row;
use ipnet::IpNet;
use sim::check;
use sim::world::World;

fn filter(import_v4: Vec<BGPFilterRule>) -> Object {
    let spec = BGPFilterSpec {
        import_v4,
        ..BGPFilterSpec::default()
    };
    Object::BGPFilter(BGPFilter::new(&Key::new(Kind::BGPFilter, "f"), spec))
}

/// n1 peers with the others under the filter `f`; they peer back.
fn peering() -> Object {
    let spec = BGPPeerSpec {
        node: "n1".to_owned(),
        peer_selector: "all()".to_owned(),
        filters: vec!["f".to_owned()],
        ..BGPPeerSpec::default()
    };
    Object::BGPPeer(BGPPeer::new(&Key::new(Kind::BGPPeer, "p"), spec))
}

/// The routes by BGP of n1's kernel.
fn learned(world: &World) -> Vec<IpNet> {
    let rows = world.nodes[0].kernel.rows();
    let by_bgp = rows.filter_map(|row| match row {
        Row::Route(key, spec) if spec.protocol == 12 && !spec.next_hops.is_empty() => Some(key.dst),
        _ => None,
    });
    by_bgp.collect()
}

fn downs(world: &World) -> usize {
    let events = world.nodes.iter().flat_map(|node| &node.events);
    events
        .filter(|event| matches!(event, Event::SessionDown { .. }))
        .count()
}

#[test]
fn an_edited_filter_changes_routes_and_resets_no_session() {
    let mut world = super::world("192.168.0.0/16", EncapMode::Never);
    world.apply(&peering());
    super::add_nodes_with_a_pod(&mut world, 3);
    world.run_for(Duration::from_secs(60));
    assert_eq!(
        check::sessions(&world),
        2,
        "without the filter n1 has no session, and the others have theirs"
    );
    world.apply(&filter(Vec::new()));
    super::converge(&mut world, 3 * 2);
    assert_eq!(check::all(&world), [""; 0]);
    let all = learned(&world);
    assert_eq!(all.len(), 2, "{all:?}");

    let before = downs(&world);
    let block = all[0];
    let rejected = BGPFilterRule {
        action: "Reject".to_owned(),
        cidr: Some(block),
        match_operator: Some("In".to_owned()),
        ..BGPFilterRule::default()
    };
    world.apply(&filter(vec![rejected]));
    world.run_for(Duration::from_secs(1));
    assert_eq!(learned(&world), [all[1]]);
    world.apply(&filter(Vec::new()));
    world.run_for(Duration::from_secs(1));
    assert_eq!(learned(&world), all);
    assert_eq!(downs(&world), before);
    assert_eq!(check::all(&world), [""; 0]);
}
