//! The simulator's own checks, each made to fail: a check that cannot fail proves nothing.

use std::time::Duration;

use api::ipam::{BlockAffinity, BlockAffinitySpec};
use api::object::Object;
use api::pool::EncapMode;
use felix::desired::{NextHop, RouteKind, Row, RowKey};
use felix::kernel::{Op, OpError};
use sim::check;
use sim::world::World;

use super::{NONE, no_route_was_removed};

fn three() -> World {
    let mut world = super::world("192.168.0.0/16", EncapMode::Never);
    super::add_nodes_with_a_pod(&mut world, 3);
    super::converge(&mut world, 3 * 2);
    assert_eq!(check::all(&world), NONE);
    world
}

/// The key of n1's route to the pod of another node.
fn route_to(world: &World, node: usize) -> RowKey {
    let pod = world.nodes[node].pods["p0"].address;
    let mut keys = world.nodes[0].kernel.rows().map(Row::key);
    keys.find(|key| matches!(key, RowKey::Route(route) if route.dst.contains(&pod)))
        .expect("n1 has a route to every block")
}

#[test]
fn an_address_without_a_pod_and_a_pod_without_an_address_are_named() {
    let mut world = three();
    assert_eq!(check::leaks(&world), NONE);
    let mut pod = world.nodes[1].pods.remove("p0").expect("it was made");
    let leaked = pod.address.addr();
    pod.address = "192.168.255.255/32".parse().expect("an address");
    world.nodes[1].pods.insert("lost".to_owned(), pod);
    let faults = check::leaks(&world);
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].contains(&leaked.to_string()) && faults[0].contains("no pod"));
    assert!(faults[1].contains("lost is free"), "{faults:?}");
}

#[test]
fn an_address_held_twice_is_named_with_both_holders() {
    let mut world = three();
    let pod = world.nodes[0].pods["p0"].clone();
    let address = pod.address;
    world.nodes[1].pods.insert("twin".to_owned(), pod);
    assert_eq!(
        check::addresses(&world),
        [format!("{address} is held by n1/p0 and n2/twin")]
    );
}

#[test]
fn a_block_of_two_owners_is_named_with_both() {
    let mut world = three();
    let affinities: Vec<BlockAffinity> = world
        .store
        .objects()
        .iter()
        .filter_map(|item| match Object::decode(&item.key, &item.value) {
            Ok(Object::BlockAffinity(affinity)) => Some(affinity),
            _ => None,
        })
        .collect();
    let mut second = affinities
        .iter()
        .find(|affinity| affinity.spec.node == "n1")
        .expect("n1 has a block")
        .clone();
    second.metadata.name = second.metadata.name.replacen("n1-", "n3-", 1);
    second.spec = BlockAffinitySpec {
        node: "n3".to_owned(),
        ..second.spec
    };
    let cidr = second.spec.cidr;
    world.apply(&Object::BlockAffinity(second));
    assert_eq!(
        check::addresses(&world),
        [format!("block {cidr} is claimed by n1 and n3")]
    );
}

#[test]
fn a_kernel_that_refuses_a_row_is_not_converged() {
    let mut world = three();
    let refusal = OpError::Kernel {
        errno: 22,
        text: "the scenario's".into(),
    };
    // The new pod's route, and each attempt after it.
    world.nodes[1].kernel.refuse_next(vec![refusal; 1000]);
    world.add_pod(1, "p1").expect("the block has room");
    world.run_for(Duration::from_secs(5));
    let faults = check::converged(&world);
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].starts_with("n2: ") && faults[0].contains("the scenario's"));
    world.nodes[1].kernel.refuse_no_more();
    world.run_for(Duration::from_secs(300));
    assert_eq!(check::all(&world), NONE, "it was tried again");
}

#[test]
fn ends_of_sessions_that_a_death_ended_are_not_counted() {
    let mut world = three();
    assert_eq!(check::sessions(&world), 3 * 2);
    world.kill_agent(2);
    world.run_for(Duration::from_secs(1));
    assert_eq!(check::sessions(&world), 2);
}

#[test]
#[should_panic(expected = "n1 deleted [Route(")]
fn a_removed_route_is_told_with_its_node() {
    let mut world = three();
    no_route_was_removed(&mut world);
    let key = route_to(&world, 2);
    let mut rows: Vec<Row> = world.nodes[0].kernel.rows().cloned().collect();
    rows.retain(|row| row.key() == key);
    let delete = Op::Remove(rows.remove(0));
    let removed = world.nodes[0].kernel.apply(&delete);
    removed.expect("removing is no error");
    no_route_was_removed(&mut world);
}

#[test]
fn a_packet_is_followed_on_every_next_hop() {
    let mut world = three();
    let RowKey::Route(key) = route_to(&world, 2) else {
        unreachable!("it was searched as a route");
    };
    let hop = |address: &str| NextHop {
        gateway: Some(address.parse().expect("a literal")),
        ifname: Some("eth0".into()),
        onlink: true,
    };
    let mut spec = felix::desired::RouteSpec {
        kind: RouteKind::Unicast,
        scope: 0,
        protocol: 12,
        next_hops: vec![hop("10.0.0.3"), hop("10.0.0.2")].into(),
        object: None,
        prefsrc: None,
        mtu_bytes: None,
    };
    let pod = world.nodes[2].pods["p0"].address.addr();
    // n2 knows the way: both hops lead there.
    let kernel = &mut world.nodes[0].kernel;
    kernel.set_foreign(Row::Route(key.clone(), spec.clone()));
    assert_eq!(check::walk(&world, 0, pod), Ok(vec![0, 2]));
    spec.next_hops = vec![hop("10.0.0.3"), hop("10.0.0.9")].into();
    let kernel = &mut world.nodes[0].kernel;
    kernel.set_foreign(Row::Route(key, spec));
    assert_eq!(
        check::walk(&world, 0, pod),
        Err("n1 sends to 10.0.0.9, nobody".to_owned())
    );
}
