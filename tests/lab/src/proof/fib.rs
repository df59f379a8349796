//! The forwarding table of every node against what the pods' places demand.

mod wanted;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ipnet::IpNet;

use self::wanted::{POD_DEVICE_PREFIX, Wanted};
use super::tables::Tables;
use crate::cluster::Lab;
use crate::netlink::{Route, RouteKind};
use crate::topology::Site;

/// A row that a node's FIB must have, and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FibRow {
    /// Node whose FIB it is.
    pub node: String,
    /// A pod's address or a block.
    pub destination: IpNet,
    /// Pod or node behind it.
    pub owner: String,
    /// The route in words, as found.
    pub found: String,
    /// What is wrong with it, in words.
    pub fault: Option<String>,
}

/// A destination of a node, what is behind it, and the route that it must have.
struct Demand {
    what: &'static str,
    destination: IpNet,
    owner: String,
    /// Whether other routes of a higher metric may stand behind it.
    alone: bool,
    wanted: Wanted,
}

/// The rows that all nodes' FIBs must have.
pub(crate) fn read(lab: &Lab) -> Vec<FibRow> {
    let sites = lab.topology.sites.iter();
    sites.flat_map(|site| read_site(lab, site)).collect()
}

/// Whether all rows are right, those of the node of number `first` looked at first. Looks no further than the first node with a wrong
/// one, and leaves its number there.
pub(crate) fn all_complete(lab: &Lab, first: &mut usize) -> bool {
    let sites = &lab.topology.sites;
    for step in 0..sites.len() {
        let at = (*first + step) % sites.len();
        let rows = read_site(lab, &sites[at]);
        if rows.iter().any(|row| row.fault.is_some()) {
            *first = at;
            return false;
        }
    }
    true
}

fn read_site(lab: &Lab, site: &Site) -> Vec<FibRow> {
    match Tables::read(site) {
        Ok(tables) => {
            let demands = demands(lab, site);
            let rows = demands
                .iter()
                .map(|demand| row(&site.name, &tables, demand));
            rows.collect()
        }
        Err(error) => vec![FibRow {
            node: site.name.clone(),
            destination: IpNet::default(),
            owner: String::new(),
            found: String::new(),
            fault: Some(format!(
                "FIB of {}: cannot be read: {error}: {}",
                site.name, error.source
            )),
        }],
    }
}

/// What a node's FIB must hold.
fn demands(lab: &Lab, site: &Site) -> Vec<Demand> {
    let mut demands = Vec::new();
    for pod in lab.pods.iter().filter(|pod| pod.node == site.name) {
        for address in pod.addresses() {
            demands.push(Demand {
                what: "pod",
                destination: IpNet::from(address),
                owner: pod.label(),
                alone: true,
                wanted: Wanted::pod(&lab.options, address),
            });
        }
    }
    if !lab.tors.is_empty() {
        let living = lab.tors.iter().filter(|tor| tor.is_alive());
        let addresses = living.flat_map(|tor| tor.addresses_in(site.rack).to_vec());
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.partition(IpAddr::is_ipv4);
        for destination in lab.announced_by_tors() {
            let gateways = if destination.addr().is_ipv4() {
                &v4
            } else {
                &v6
            };
            demands.push(Demand {
                what: "outside",
                destination,
                owner: "the top-of-rack routers".to_owned(),
                // The machine's own default route is the last resort.
                alone: false,
                wanted: Wanted::by_bgp(gateways.clone()),
            });
        }
    }
    for (block, owner) in lab.blocks() {
        let mode = lab.options.mode_of(block.addr());
        let wanted = if owner.name == site.name {
            if block.prefix_len() == block.max_prefix_len() {
                continue;
            }
            Wanted::own_block(mode, block)
        } else if lab.goes_by_tors() {
            // The default routes carry it.
            continue;
        } else {
            let next_hop = lab.plain_next_hop(site, owner, block);
            let owner_address = owner.address_like(block.addr());
            Wanted::remote_block(mode, site.rack == owner.rack, owner_address, next_hop)
        };
        demands.push(Demand {
            what: "block",
            destination: block,
            owner: owner.name.clone(),
            alone: true,
            wanted,
        });
    }
    demands
}

fn row(node: &str, tables: &Tables, demand: &Demand) -> FibRow {
    let destination = demand.destination;
    let to = tables.routes.iter();
    let mut routes: Vec<&Route> = to
        .filter(|route| route.destination == destination)
        .collect();
    // Of several the kernel takes the one of the lowest metric.
    routes.sort_by_key(|route| route.metric);
    let fault = match routes.as_slice() {
        [] => Some("has no route".to_owned()),
        [_, _, ..] if demand.alone => Some(format!("has {} routes", routes.len())),
        [route, ..] => demand.wanted.fault(tables, route),
    };
    let owner = &demand.owner;
    FibRow {
        node: node.to_owned(),
        destination,
        owner: owner.clone(),
        found: tables.describe(&routes),
        fault: fault.map(|fault| {
            format!(
                "FIB of {node}: {} {destination} ({owner}) {fault}",
                demand.what
            )
        }),
    }
}

/// What is still in the kernels after all pods have gone: rows that should have gone with them.
pub(crate) fn leftovers(lab: &Lab, former_pods: &[IpAddr]) -> Vec<String> {
    let mut faults = Vec::new();
    for site in &lab.topology.sites {
        match Tables::read(site) {
            Ok(tables) => faults.extend(leftovers_of(&site.name, &tables, former_pods)),
            // Not known to be clean.
            Err(error) => faults.push(format!(
                "after DEL of all pods {} cannot be read: {error}: {}",
                site.name, error.source
            )),
        }
    }
    faults
}

fn leftovers_of(node: &str, tables: &Tables, former_pods: &[IpAddr]) -> Vec<String> {
    let still = |what: String| format!("after DEL of all pods {node} still has {what}");
    let devices = tables
        .links
        .iter()
        .filter(|link| link.name.starts_with(POD_DEVICE_PREFIX))
        .map(|link| still(format!("the device {}", link.name)));
    let is_former = |address: &IpAddr| former_pods.contains(address);
    let routes = tables
        .routes
        .iter()
        .filter(|route| {
            let destination = route.destination;
            destination.prefix_len() == destination.max_prefix_len()
                && route.kind == RouteKind::Unicast
                && is_former(&destination.addr())
        })
        .map(|route| still(format!("the route {}", route.destination)));
    let neighbours = tables
        .neighbours
        .iter()
        .filter_map(|entry| entry.address.filter(is_former))
        .map(|address| still(format!("the neighbour {address}")));
    devices.chain(routes).chain(neighbours).collect()
}
