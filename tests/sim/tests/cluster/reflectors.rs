//! No mesh: two route reflectors carry the routes of all nodes.

use std::time::Duration;

use api::bgp::{BGPConfiguration, BGPConfigurationSpec, BGPPeer, BGPPeerSpec};
use api::key::{Key, Kind};
use api::object::Object;
use api::pool::EncapMode;
use bgp::event::Event;
use sim::check;
use sim::node::Start;
use sim::world::World;

use super::{NONE, no_route_was_removed, routes_last_for_the_restart_time};

const CLIENTS: usize = 4;
/// Index of the first of the two.
const REFLECTOR: usize = CLIENTS;
/// Each client with both reflectors, and the reflectors with each other, both ends counted.
const ENDS: usize = (CLIENTS * 2 + 1) * 2;

/// The two objects of Calico's recipe: reflectors among each other, and everybody else with the reflectors.
fn peerings() -> [Object; 3] {
    let peer = |name: &str, nodes: &str| {
        let spec = BGPPeerSpec {
            node_selector: nodes.to_owned(),
            peer_selector: "has(route-reflector)".to_owned(),
            ..BGPPeerSpec::default()
        };
        Object::BGPPeer(BGPPeer::new(&Key::new(Kind::BGPPeer, name), spec))
    };
    let no_mesh = BGPConfigurationSpec {
        node_to_node_mesh_enabled: Some(false),
        ..BGPConfigurationSpec::default()
    };
    [
        Object::BGPConfiguration(BGPConfiguration::new(
            &Key::new(Kind::BGPConfiguration, "default"),
            no_mesh,
        )),
        peer("reflectors", "has(route-reflector)"),
        peer("clients", "!has(route-reflector)"),
    ]
}

/// Clients with a pod each and two reflectors of one cluster, converged.
fn reflected() -> World {
    let mut world = super::world("192.168.0.0/16", EncapMode::Never);
    for object in peerings() {
        world.apply(&object);
    }
    super::add_nodes_with_a_pod(&mut world, CLIENTS);
    let cluster_id = "1.0.0.1".parse().expect("a literal");
    for n in 1..=2 {
        world.add_reflector(&format!("rr{n}"), &format!("10.0.0.10{n}/24"), cluster_id);
    }
    super::converge(&mut world, ENDS);
    world
}

#[test]
fn nodes_with_two_reflectors_and_no_mesh_reach_every_pod_directly() {
    let world = reflected();
    assert_eq!(check::all(&world), NONE);
    for to in 0..CLIENTS {
        let pod = world.nodes[to].pods["p0"].address.addr();
        let from = (to + 1) % CLIENTS;
        let way = check::walk(&world, from, pod);
        assert_eq!(way, Ok(vec![from, to]), "no packet passes a reflector");
    }
}

#[test]
fn a_reflector_that_dies_takes_no_route_with_it_and_comes_back() {
    let mut world = reflected();
    for node in &mut world.nodes {
        node.kernel.take_removed_routes();
        node.events.clear();
    }
    world.kill_agent(REFLECTOR);
    // Past the Restart Time of 120 s: then what the dead one told is gone, too.
    for second in 0..200 {
        world.run_for(Duration::from_secs(1));
        assert_eq!(
            check::reachability(&world),
            NONE,
            "{second} s after its death"
        );
    }
    assert_eq!(check::sessions(&world), CLIENTS * 2);
    assert!(
        world.nodes[0]
            .events
            .iter()
            .any(|event| matches!(event, Event::StaleRoutesRemoved { .. })),
        "the dead reflector's routes were dropped meanwhile"
    );

    // A new block while only one reflector is there.
    let index = world.add_node("n9", "10.0.0.9/24", None);
    world.add_pod(index, "p0").expect("the pool has room");
    world.run_for(Duration::from_secs(30));
    let mut faults = check::reachability(&world);
    // Nobody keeps the kernel of the dead one's own node.
    faults.retain(|fault| !fault.starts_with("rr1 -> n9"));
    assert_eq!(faults, NONE, "with one reflector");

    world.start_agent(REFLECTOR, Start::Restart);
    for second in 0..60 {
        world.run_for(Duration::from_secs(1));
        let mut faults = check::reachability(&world);
        faults.retain(|fault| !fault.starts_with("rr1 -> n9"));
        assert_eq!(faults, NONE, "{second} s after its return");
    }
    assert_eq!(check::sessions(&world), ((CLIENTS + 1) * 2 + 1) * 2);
    assert_eq!(check::all(&world), NONE);
    no_route_was_removed(&mut world);
}

#[test]
fn with_both_reflectors_gone_routes_stay_for_the_restart_time_and_no_longer() {
    let mut world = reflected();
    world.kill_agent(REFLECTOR);
    world.kill_agent(REFLECTOR + 1);
    routes_last_for_the_restart_time(&mut world, "n1 -> n2/p0");
}
