//! Addresses of Services between nodes: each hears of the others', and no kernel does.

use std::time::Duration;

use api::key::{Key, Kind};
use api::object::Object;
use api::pool::EncapMode;
use felix::desired::Row;
use sim::check;
use sim::world::World;

/// `parts`: what stands beside the metadata, as JSON.
fn object(key: &Key, parts: &str) -> Object {
    let Key {
        namespace, name, ..
    } = key;
    let json =
        format!(r#"{{"metadata": {{"name": "{name}", "namespace": "{namespace}"}}, {parts}}}"#);
    Object::decode(key, json.as_bytes()).expect("tests give objects")
}

fn ranges() -> Object {
    let spec = r#""spec": {
        "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}],
        "serviceLoadBalancerIPs": [{"cidr": "192.0.2.0/24"}]
    }"#;
    object(&Key::new(Kind::BGPConfiguration, "default"), spec)
}

/// A Service whose packets go to endpoints of the node that they come to.
fn local_service() -> Object {
    let parts = r#"
        "spec": {"type": "LoadBalancer", "clusterIPs": ["10.96.0.9"], "externalTrafficPolicy": "Local"},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}}
    "#;
    object(&Key::namespaced(Kind::Service, "default", "web"), parts)
}

fn endpoints_on(nodes: &[&str]) -> Object {
    let ready = !nodes.is_empty();
    let spec = format!(
        r#""spec": {{"service": "web", "addressType": "IPv4", "ready": {ready}, "nodes": {nodes:?}}}"#
    );
    let key = Key::namespaced(Kind::EndpointSlice, "default", "web-1");
    object(&key, &spec)
}

/// How many nodes announce a prefix, as each node's speaker has it: its own path and the others'.
fn announcers(world: &World, prefix: &str) -> Vec<usize> {
    let agents = world.nodes.iter().filter_map(|node| node.agent.as_ref());
    let paths = agents.map(|agent| {
        let routes = agent.speaker.routes();
        let route = routes
            .iter()
            .find(|route| route.prefix.to_string() == prefix);
        route.map_or(0, |route| route.paths.len())
    });
    paths.collect()
}

/// Routes of kernels that lead to Services' addresses.
fn in_kernels(world: &World) -> Vec<String> {
    let rows = world.nodes.iter().flat_map(|node| node.kernel.rows());
    let routes = rows.filter_map(|row| match row {
        Row::Route(key, _) => Some(key.dst.to_string()),
        _ => None,
    });
    let of_services = |dst: &String| dst.starts_with("10.96.") || dst.starts_with("192.0.2.");
    routes.filter(of_services).collect()
}

#[test]
fn every_node_announces_the_ranges_and_the_one_with_endpoints_its_service_and_kernels_have_neither()
{
    let mut world = super::world("10.244.0.0/16", EncapMode::Never);
    world.apply(&ranges());
    world.apply(&local_service());
    world.apply(&endpoints_on(&["n2"]));
    super::add_nodes_with_a_pod(&mut world, 3);
    super::converge(&mut world, 3 * 2);
    assert_eq!(check::all(&world), super::NONE);
    for range in ["10.96.0.0/12", "192.0.2.0/24"] {
        assert_eq!(announcers(&world, range), [3, 3, 3], "{range}");
    }
    for (nodes, expected) in [(&["n2"][..], 1), (&["n1", "n3"], 2), (&[], 0), (&["n3"], 1)] {
        world.apply(&endpoints_on(nodes));
        world.run_for(Duration::from_secs(1));
        for address in ["10.96.0.9/32", "192.0.2.9/32"] {
            assert_eq!(
                announcers(&world, address),
                [expected; 3],
                "{address}, {nodes:?}"
            );
        }
        assert_eq!(in_kernels(&world), super::NONE);
    }
    world.remove(&Key::namespaced(Kind::EndpointSlice, "default", "web-1"));
    world.run_for(Duration::from_secs(1));
    assert_eq!(announcers(&world, "192.0.2.9/32"), [0; 3]);
    assert_eq!(check::all(&world), super::NONE);
}
