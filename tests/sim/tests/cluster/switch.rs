//! A pool's mode is switched, and nodes hear of it apart: at no rest is a pod without a way that the receiver takes.

use std::net::IpAddr;
use std::time::Duration;

use api::pool::EncapMode;
use felix::desired::IfName;
use felix::ownership::VXLAN_DEVICE;
use sim::check;
use sim::node::Start;
use sim::world::World;

use super::{NONE, converge, for_seeds, pool, world_of};

const NODES: usize = 3;
const POOL: &str = "192.168.0.0/16";
/// How long an address is named that no pool asks for.
const GRACE: Duration = Duration::from_secs(60);

fn tunnel(index: usize) -> IpAddr {
    IpAddr::from([192, 168, 255, u8::try_from(index).expect("few nodes")])
}

/// What the agents' Keepers do, until all is done; everybody reaches everybody at each rest.
fn keep(world: &mut World, named: &mut [bool; NODES], when: &str) {
    let device = IfName::from(VXLAN_DEVICE);
    loop {
        for (index, node) in world.nodes.iter_mut().enumerate() {
            if let Some(agent) = &mut node.agent {
                let addr = (!named[index]).then(|| tunnel(index));
                agent.graph.handle_tunnel_addr(VXLAN_DEVICE, addr);
            }
        }
        world.run_for(Duration::from_millis(200));
        assert_eq!(check::reachability(world), NONE, "{when}");
        let accepts = |index: &usize| {
            let agent = world.nodes[*index].agent.as_ref();
            agent.is_some_and(|agent| {
                agent
                    .reconciler
                    .accepting(&device)
                    .contains(&tunnel(*index))
            })
        };
        let Some(next) = (0..NODES).find(|index| !named[*index] && accepts(index)) else {
            return;
        };
        named[next] = true;
        world.name_tunnel(next, Some(tunnel(next)));
    }
}

#[test]
fn a_mode_is_switched_with_a_way_at_every_rest_though_one_node_hears_of_it_late() {
    use EncapMode::{Always, CrossSubnet, Never};
    for_seeds(4, |seed| {
        let mut world = world_of(seed, POOL, Never);
        for (name, address) in [
            ("n1", "10.0.1.1/24"),
            ("n2", "10.0.1.2/24"),
            ("n3", "10.0.1.3/24"),
        ] {
            let index = world.add_node(name, address, None);
            world.add_pod(index, "p0").expect("the pool has room");
        }
        converge(&mut world, NODES * (NODES - 1));
        let mut named = [false; NODES];
        for (step, mode) in [Always, CrossSubnet, Never, CrossSubnet, Always, Never]
            .into_iter()
            .enumerate()
        {
            let late = step % NODES;
            world.kill_agent(late);
            world.apply(&pool(POOL, mode));
            keep(
                &mut world,
                &mut named,
                &format!("{mode:?}, n{} is away", late + 1),
            );
            world.start_agent(late, Start::Restart);
            keep(
                &mut world,
                &mut named,
                &format!("{mode:?}, n{} is back", late + 1),
            );
            if mode == Never {
                world.run_for(GRACE);
                for (index, named) in named.iter_mut().enumerate() {
                    world.name_tunnel(index, None);
                    *named = false;
                    keep(&mut world, &mut [true; NODES], "the tunnel is given up");
                }
                let left = world
                    .nodes
                    .iter()
                    .filter(|node| node.kernel.has_link(VXLAN_DEVICE));
                assert_eq!(left.count(), 0);
            }
        }
        assert_eq!(check::all(&world), NONE);
    });
}

#[test]
fn a_tunnel_to_a_node_without_the_device_is_named() {
    let mut world = super::world(POOL, EncapMode::Always);
    for (index, name) in ["n1", "n2"].into_iter().enumerate() {
        let address = format!("10.0.1.{}/24", index + 1);
        world.add_node(name, &address, Some(tunnel(index)));
        world.add_pod(index, "p0").expect("the pool has room");
    }
    converge(&mut world, 2);
    assert_eq!(check::reachability(&world), NONE);
    world.kill_agent(1);
    world.nodes[1].kernel.remove_link(VXLAN_DEVICE);
    let faults = check::reachability(&world);
    let fault = "n1 -> n2/p0: n1 sends through a tunnel to n2, which has no vxlan.calico";
    assert!(faults.contains(&fault.to_owned()), "{faults:?}");
}
