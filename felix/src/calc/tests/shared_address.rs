//! Two endpoints with one address: the stale one must not take it from the living one.

use super::world::{held_under, with_handle};
use super::*;

const LIVING: &str = "dev cali2 proto 3 scope link metric 1024";
const STALE: &str = "dev cali1 proto 3 scope link metric 1024";

fn stale() -> (Key, Object) {
    with_handle(endpoint("a", "n1", "cali1", &["10.1.0.5/32"]), "net.old")
}

fn living() -> (Key, Object) {
    with_handle(endpoint("b", "n1", "cali2", &["10.1.0.5/32"]), "net.new")
}

fn given_to(handle: &str) -> (Key, Object) {
    held_under(block("10.1.0.0/26", Some("n1"), &[(5, "n1")]), handle)
}

fn neighbours(world: &World) -> Vec<String> {
    let rows = world.rows.values().filter_map(|row| match row {
        Row::Neigh(key, _) => Some(key.ifname.to_string()),
        _ => None,
    });
    rows.collect()
}

#[test]
fn the_address_is_the_endpoints_that_ipam_gave_it_to_in_whatever_order_that_is_learned() {
    let facts = [stale(), living(), given_to("net.new")];
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let mut world = cluster(plain());
        for index in order {
            world.put(facts[index].clone());
            world.flush();
        }
        assert_eq!(
            fib(&world, "10.1.0.5/32").as_deref(),
            Some(LIVING),
            "{order:?}"
        );
        assert_eq!(neighbours(&world), ["cali2"], "{order:?}");
        let problems = world.graph.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(
            (problems[0].subject.to_string(), problems[0].field),
            ("WorkloadEndpoint(default/a)".to_owned(), "spec.ipNetworks")
        );
    }
}

#[test]
fn the_route_moves_when_ipam_gives_the_address_to_the_other() {
    let mut world = cluster(plain());
    for fact in [stale(), living(), given_to("net.old")] {
        world.put(fact);
    }
    world.flush();
    assert_eq!(fib(&world, "10.1.0.5/32").as_deref(), Some(STALE));
    world.put(given_to("NET.new"));
    world.flush();
    assert_eq!(fib(&world, "10.1.0.5/32").as_deref(), Some(LIVING));
    world.remove(&living().0);
    world.flush();
    assert_eq!(fib(&world, "10.1.0.5/32").as_deref(), Some(STALE));
}

#[test]
fn an_endpoint_that_calico_wrote_is_known_by_its_container() {
    let mut world = cluster(plain());
    world.put(stale());
    let (key, mut object) = endpoint("b", "n1", "cali2", &["10.1.0.5/32"]);
    if let Object::WorkloadEndpoint(endpoint) = &mut object {
        endpoint.spec.container_id = "new".to_owned();
    }
    world.put((key, object));
    world.put(given_to("net.new"));
    world.flush();
    assert_eq!(fib(&world, "10.1.0.5/32").as_deref(), Some(LIVING));
}

#[test]
fn what_another_node_holds_says_nothing_about_this_nodes_endpoints() {
    let mut world = cluster(plain());
    for fact in [stale(), living()] {
        world.put(fact);
    }
    let elsewhere = block("10.1.0.0/26", Some("n1"), &[(5, "n2")]);
    world.put(held_under(elsewhere, "net.new"));
    world.flush();
    assert_eq!(
        fib(&world, "10.1.0.5/32").as_deref(),
        Some(STALE),
        "the first by name"
    );
}
