//! Endpoints that nobody removed.

use std::time::Duration;

use api::attachment::AttachmentId;
use api::endpoint::{WorkloadEndpoint, WorkloadEndpointSpec};
use api::object::Object;
use api::pool::EncapMode;
use ipnet::IpNet;
use sim::check;
use sim::node::Start;
use sim::world::{World, endpoint_key};

use super::NONE;

/// An endpoint of a pod that is gone, whose name sorts before every other.
fn stale(address: IpNet) -> Object {
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".to_owned(),
        node: "n1".to_owned(),
        pod: "a".to_owned(),
        ip_networks: vec![address],
        interface_name: "caligone".to_owned(),
        mac: "02:00:00:00:00:09".to_owned(),
        ..WorkloadEndpointSpec::default()
    };
    let mut endpoint = WorkloadEndpoint::new(&endpoint_key("n1", "a"), spec);
    endpoint.set_attachment(&AttachmentId {
        network: "k8s-pod-network".to_owned(),
        container_id: "gone".to_owned(),
        ifname: "eth0".to_owned(),
    });
    Object::WorkloadEndpoint(endpoint)
}

fn cluster() -> World {
    let mut world = super::world("192.168.0.0/16", EncapMode::Never);
    world.add_node("n1", "10.0.1.1/24", None);
    world.add_node("n2", "10.0.1.2/24", None);
    world.add_pod(1, "other").expect("the pool has room");
    world
}

#[test]
fn a_pod_is_reached_although_a_stale_endpoint_has_its_address() {
    let mut world = cluster();
    let address = world.add_pod(0, "living").expect("the pool has room");
    // Its device is still there, too.
    world.nodes[0].kernel.add_link("caligone", Some("veth"));
    world.apply(&stale(address));
    world.run_for(Duration::from_secs(10));
    assert_eq!(check::reachability(&world), NONE);
    // Now all is listed rather than told one after the other, the stale one first.
    world.kill_agent(0);
    world.start_agent(0, Start::Restart);
    world.run_for(Duration::from_secs(150));
    assert_eq!(check::reachability(&world), NONE);
    let key = stale(address).key();
    world.remove(&key);
    world.run_for(Duration::from_secs(1));
    assert_eq!(check::all(&world), NONE);
}

#[test]
fn a_new_pod_is_reached_although_a_stale_endpoint_had_its_address_before() {
    let mut world = cluster();
    let first = world.add_pod(0, "first").expect("the pool has room");
    world.remove_pod(0, "first").expect("it is there");
    world.apply(&stale(first));
    // The block is given out in order: in the end the stale one's address comes round.
    let mut given = Vec::new();
    for index in 0..64 {
        let pod = format!("p{index}");
        given.push(world.add_pod(0, &pod).expect("the block has 64 addresses"));
    }
    assert!(given.contains(&first), "the test's own assumption");
    world.run_for(Duration::from_secs(10));
    assert_eq!(check::reachability(&world), NONE);
}
