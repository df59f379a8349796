//! VXLAN between nodes.

use std::net::IpAddr;
use std::time::Duration;

use api::pool::EncapMode;
use felix::desired::Row;
use sim::check;
use sim::world::World;

use super::NONE;

fn cluster(mode: EncapMode) -> World {
    let mut world = super::world("192.168.0.0/16", mode);
    for (name, address) in [
        ("n1", "10.0.1.1/24"),
        ("n2", "10.0.1.2/24"),
        ("n3", "10.0.2.3/24"),
    ] {
        let tunnel = IpAddr::from([192, 168, 255, address.as_bytes()[7] - b'0']);
        let index = world.add_node(name, address, Some(tunnel));
        world.add_pod(index, "p0").expect("the pool has room");
    }
    world.run_for(Duration::from_secs(10));
    world
}

fn routes_through(world: &World, node: usize, device: &str) -> usize {
    let routes = world.nodes[node].kernel.rows().filter(|row| match row {
        Row::Route(_, spec) => spec.next_hops.iter().any(|hop| {
            hop.gateway.is_some() && hop.ifname.as_ref().is_some_and(|name| &*name.0 == device)
        }),
        _ => false,
    });
    routes.count()
}

#[test]
fn every_remote_block_goes_through_the_tunnel_when_always() {
    let world = cluster(EncapMode::Always);
    assert_eq!(check::all(&world), NONE);
    assert_eq!(routes_through(&world, 0, "vxlan.calico"), 2);
    assert_eq!(routes_through(&world, 0, "eth0"), 0);
}

#[test]
fn only_what_leaves_the_subnet_goes_through_the_tunnel_when_cross_subnet() {
    let world = cluster(EncapMode::CrossSubnet);
    assert_eq!(check::all(&world), NONE);
    assert_eq!(routes_through(&world, 0, "vxlan.calico"), 1);
    assert_eq!(routes_through(&world, 0, "eth0"), 1);
    assert_eq!(routes_through(&world, 2, "vxlan.calico"), 2);
}
