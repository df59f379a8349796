//! What must hold: each checker names the cell where it does not.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::ipam::AffinityState;
use api::object::Object;
use felix::desired::{NextHop, RouteKind};
use felix::ownership::VXLAN_DEVICE;

use crate::net::NodeIndex;
use crate::node::Node;
use crate::world::World;

/// Faults reported at once: more say no more.
const FAULTS_MAX: usize = 12;

/// Hops after which a packet counts as going round in circles.
const HOPS_MAX: usize = 8;

/// Every pod and every node that is there reaches every pod. Names each pair that does not.
pub fn reachability(world: &World) -> Vec<String> {
    let mut faults = Vec::new();
    let there = |index: &NodeIndex| !world.nodes[*index].lost;
    for from in (0..world.nodes.len()).filter(there) {
        for to in &world.nodes {
            for (pod, there) in &to.pods {
                if faults.len() == FAULTS_MAX {
                    return faults;
                }
                if let Err(why) = walk(world, from, there.address.addr()) {
                    faults.push(format!(
                        "{} -> {}/{pod}: {why}",
                        world.nodes[from].name, to.name
                    ));
                }
            }
        }
    }
    faults
}

/// Follows packets from a node through the kernels, on every next hop that one may take. Answers the way of the first.
pub fn walk(world: &World, from: NodeIndex, to: IpAddr) -> Result<Vec<NodeIndex>, String> {
    walk_on(world, vec![from], to)
}

fn walk_on(world: &World, way: Vec<NodeIndex>, to: IpAddr) -> Result<Vec<NodeIndex>, String> {
    if way.len() > HOPS_MAX {
        return Err(format!("a packet to {to} goes round: {way:?}"));
    }
    let node = &world.nodes[*way.last().expect("a way begins somewhere")];
    let (kind, hops) = node
        .kernel
        .look_up(to)
        .ok_or_else(|| format!("{} has no route to {to}", node.name))?;
    if kind == RouteKind::Blackhole {
        return Err(format!("{} drops what goes to {to}", node.name));
    }
    let mut ways = Vec::new();
    for hop in hops {
        ways.push(match next(world, node, hop, to)? {
            None => way.clone(),
            Some(next) => walk_on(world, [way.as_slice(), &[next]].concat(), to)?,
        });
    }
    let first = ways.into_iter().next();
    first.ok_or_else(|| format!("{} has a route to {to} that leads nowhere", node.name))
}

/// The node that a next hop leads to; `None` when it is the pod itself.
fn next(
    world: &World,
    node: &Node,
    hop: &NextHop,
    to: IpAddr,
) -> Result<Option<NodeIndex>, String> {
    let outer = match (hop.gateway, &hop.ifname) {
        (None, Some(device)) => {
            let pod = node.pods.values().find(|pod| pod.ifname == *device);
            return match pod {
                Some(pod) if pod.address.addr() == to => Ok(None),
                _ => Err(format!("{} delivers {to} to {device}", node.name)),
            };
        }
        (Some(gateway), Some(device)) if &*device.0 == VXLAN_DEVICE => {
            let outer = node.kernel.tunnel_destination(device, gateway);
            let outer = outer.ok_or_else(|| {
                format!("{} knows no tunnel endpoint behind {gateway}", node.name)
            })?;
            let receiver = world.node_at(outer).map(|index| &world.nodes[index]);
            if let Some(receiver) = receiver
                && !receiver.kernel.has_link(VXLAN_DEVICE)
            {
                let (from, to) = (&node.name, &receiver.name);
                return Err(format!(
                    "{from} sends through a tunnel to {to}, which has no {VXLAN_DEVICE}"
                ));
            }
            outer
        }
        (Some(gateway), _) => gateway,
        (None, None) => {
            return Err(format!(
                "{} has a route to {to} that leads nowhere",
                node.name
            ));
        }
    };
    let next = world.node_at(outer);
    next.map(Some)
        .ok_or_else(|| format!("{} sends to {outer}, nobody", node.name))
}

/// No address is given twice and no block has two owners, by the store's contents.
pub fn addresses(world: &World) -> Vec<String> {
    let mut faults = Vec::new();
    let mut holders: BTreeMap<IpAddr, String> = BTreeMap::new();
    for node in &world.nodes {
        for (name, pod) in &node.pods {
            let holder = format!("{}/{name}", node.name);
            if let Some(other) = holders.insert(pod.address.addr(), holder.clone()) {
                faults.push(format!("{} is held by {other} and {holder}", pod.address));
            }
        }
    }
    let mut owners = BTreeMap::new();
    for item in world.store.objects() {
        if let Ok(Object::BlockAffinity(affinity)) = Object::decode(&item.key, &item.value)
            && affinity.spec.state == AffinityState::Confirmed
            && let Some(other) = owners.insert(affinity.spec.cidr, affinity.spec.node.clone())
        {
            faults.push(format!(
                "block {} is claimed by {other} and {}",
                affinity.spec.cidr, affinity.spec.node
            ));
        }
    }
    faults
}

/// The store holds an address for each pod, and no other: for a cluster at rest whose failed pods were given up.
pub fn leaks(world: &World) -> Vec<String> {
    let items = world.store.objects();
    let mut pods: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for node in &world.nodes {
        let held = node.pods.iter();
        pods.extend(held.map(|(name, pod)| (pod.address.addr(), name.as_str())));
    }
    let mut faults: Vec<String> = ipam::check::faults(&items)
        .into_iter()
        .map(|fault| format!("{}: {}", fault.key, fault.what))
        .collect();
    for item in &items {
        let Ok(Object::IPAMBlock(found)) = Object::decode(&item.key, &item.value) else {
            continue;
        };
        for ordinal in 0..found.spec.allocations.len() {
            if let Some(holder) = ipam::block::holder(&found.spec, ordinal)
                && let Some(address) = ipam::block::address(found.spec.cidr, ordinal)
                && pods.remove(&address.addr()).is_none()
            {
                faults.push(format!(
                    "{address} is held by {:?}, no pod",
                    holder.handle_id
                ));
            }
        }
    }
    let lost = pods.into_iter();
    faults.extend(lost.map(|(address, pod)| format!("{address} of {pod} is free in the store")));
    faults
}

/// Every agent that lives has the kernel as it wants it.
pub fn converged(world: &World) -> Vec<String> {
    let agents = world
        .nodes
        .iter()
        .filter_map(|node| Some((node, node.agent.as_ref()?)));
    agents
        .filter(|(_, agent)| {
            !agent.reconciler.is_converged() || !agent.reconciler.problems().is_empty()
        })
        .map(|(node, agent)| format!("{}: {:?}", node.name, agent.reconciler.problems()))
        .collect()
}

/// Ends of sessions that are established.
pub fn sessions(world: &World) -> usize {
    let agents = world.nodes.iter().filter_map(|node| node.agent.as_ref());
    agents
        .flat_map(|agent| agent.speaker.peers(world.now))
        .filter(|peer| peer.state == bgp::status::PeerState::Established)
        .count()
}

/// All of it, at rest.
pub fn all(world: &World) -> Vec<String> {
    [reachability(world), addresses(world), converged(world)].concat()
}
