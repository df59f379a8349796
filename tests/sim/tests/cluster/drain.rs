//! A node is drained of its routes.

use std::time::Duration;

use api::key::{Key, Kind};
use api::node::{DRAIN, Drain, Node, NodeBGPSpec, NodeSpec};
use api::object::Object;
use api::pool::EncapMode;
use bgp::event::Event;
use felix::desired::Row;
use sim::check;
use sim::world::World;

/// n1's object, drained so far.
fn own(world: &World, drain: Option<Drain>) -> Object {
    let spec = NodeSpec {
        bgp: Some(NodeBGPSpec {
            ipv4_address: Some(world.nodes[0].address),
            ..NodeBGPSpec::default()
        }),
        ..NodeSpec::default()
    };
    let mut node = Node::new(&Key::new(Kind::Node, "n1"), spec);
    if let Some(drain) = drain {
        let annotations = &mut node.metadata.annotations;
        annotations.insert(DRAIN.to_owned(), drain.word().to_owned());
    }
    Object::Node(node)
}

/// Metrics of n2's routes to n1.
fn metrics(world: &World) -> Vec<u32> {
    let n1 = world.nodes[0].address.addr();
    let rows = world.nodes[1].kernel.rows();
    let metrics = rows.filter_map(|row| match row {
        Row::Route(key, spec) => {
            let to_n1 = spec.next_hops.iter().any(|hop| hop.gateway == Some(n1));
            to_n1.then_some(key.metric)
        }
        _ => None,
    });
    metrics.collect()
}

/// Drains, or takes it back, and looks at every moment whether each pod is reached.
fn drain(world: &mut World, to: Option<Drain>, metric: &[u32]) {
    world.apply(&own(world, to));
    let done = world.run_until(Duration::from_secs(10), |world| {
        assert_eq!(check::reachability(world), super::NONE, "{to:?}");
        metrics(world) == metric
    });
    assert!(done, "{to:?}: {:?}", metrics(world));
    world.run_for(Duration::from_secs(5));
    assert_eq!(check::all(world), super::NONE, "{to:?}");
}

#[test]
fn a_drained_nodes_pods_are_reached_until_they_are_gone_and_no_session_is_reset() {
    let mut world = super::world("192.168.0.0/16", EncapMode::Never);
    super::add_nodes_with_a_pod(&mut world, 3);
    super::converge(&mut world, 3 * 2);
    assert_eq!(metrics(&world), [1024]);
    drain(&mut world, Some(Drain::LastResort), &[2_147_483_647]);
    drain(&mut world, Some(Drain::Withdrawn), &[2_147_483_647]);
    world.remove_pod(0, "p0").expect("it is there");
    let gone = world.run_until(Duration::from_secs(10), |world| metrics(world).is_empty());
    assert!(gone, "{:?}", metrics(&world));
    world.add_pod(0, "p1").expect("the pool has room");
    let back = world.run_until(Duration::from_secs(10), |world| {
        check::reachability(world).is_empty()
    });
    assert!(back, "{:?}", check::reachability(&world));
    drain(&mut world, None, &[1024]);
    let events = world.nodes.iter().flat_map(|node| &node.events);
    let downs = events.filter(|event| matches!(event, Event::SessionDown { .. }));
    assert_eq!(downs.count(), 0);
}
