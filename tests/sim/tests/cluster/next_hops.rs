//! Next hops follow the host's own routes.

use std::net::IpAddr;
use std::time::Duration;

use api::pool::EncapMode;
use bgp::route::Origination;
use felix::desired::{Hops, RouteKey, RouteKind, RouteSpec, Row};
use ipnet::IpNet;
use sim::check;
use sim::world::World;

use super::NONE;

fn outside() -> IpNet {
    "203.0.113.0/24".parse().expect("a literal")
}

/// Three nodes, of which n2 and n3 announce the same network.
fn anycast() -> World {
    let mut world = super::world("192.168.0.0/16", EncapMode::Never);
    super::add_nodes_with_a_pod(&mut world, 3);
    super::converge(&mut world, 3 * 2);
    for node in &mut world.nodes[1..] {
        let agent = node.agent.as_mut().expect("all agents run");
        let own = Origination {
            prefix: outside(),
            next_hop: None,
            local_pref: None,
        };
        agent
            .speaker
            .handle_originate(world.now, outside(), Some(own));
        node.awake = true;
    }
    world.run_for(Duration::from_secs(1));
    world
}

/// The gateways by which n1's kernel reaches the network.
fn gateways(world: &World) -> Vec<String> {
    let hops = world.nodes[0].kernel.rows().find_map(|row| match row {
        Row::Route(key, spec) if key.dst == outside() => Some(&spec.next_hops),
        _ => None,
    });
    let hops = hops.into_iter().flat_map(|hops| hops.iter());
    let gateways = hops.filter_map(|hop| hop.gateway);
    gateways.map(|gateway| gateway.to_string()).collect()
}

/// A route of the host's operator that drops what goes to an address.
fn hole(to: &str) -> Row {
    let to: IpAddr = to.parse().expect("a literal");
    let key = RouteKey {
        table: 254,
        dst: IpNet::from(to),
        tos: 0,
        metric: 0,
    };
    let spec = RouteSpec {
        kind: RouteKind::Blackhole,
        scope: 0,
        protocol: 4,
        next_hops: Hops::default(),
        object: None,
        prefsrc: None,
        mtu_bytes: None,
    };
    Row::Route(key, spec)
}

#[test]
fn a_lost_next_hop_leaves_the_fib_while_its_session_stands_and_comes_back() {
    let mut world = anycast();
    assert_eq!(gateways(&world), ["10.0.0.2", "10.0.0.3"]);
    let hole = hole("10.0.0.2");

    world.nodes[0].kernel.set_foreign(hole.clone());
    world.nodes[0].awake = true;
    world.settle();
    assert_eq!(gateways(&world), ["10.0.0.3"], "without any time passing");
    let pod = world.nodes[1].pods["p0"].address.addr();
    let way = check::walk(&world, 0, pod);
    assert!(way.is_err(), "n2's block has no other way: {way:?}");
    assert_eq!(check::sessions(&world), 3 * 2);

    world.nodes[0].kernel.remove_foreign(&hole.key());
    world.nodes[0].awake = true;
    world.settle();
    assert_eq!(gateways(&world), ["10.0.0.2", "10.0.0.3"]);
    assert_eq!(check::all(&world), NONE);
}

#[test]
fn an_agent_that_restarts_beside_a_lost_next_hop_finds_it_lost() {
    let mut world = anycast();
    world.nodes[0].kernel.set_foreign(hole("10.0.0.2"));
    world.nodes[0].awake = true;
    world.settle();
    world.kill_agent(0);
    world.start_agent(0, sim::node::Start::Restart);
    super::converge(&mut world, 3 * 2);
    assert_eq!(gateways(&world), ["10.0.0.3"]);
}
