//! The forwarding table of every node against what the pods' places demand.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::cluster::Lab;
use crate::netlink::{Link, Neighbour, NetlinkError, Route, RouteKind};
use crate::options::Path;
use crate::topology::Site;
use crate::tors::OUTSIDE;

/// Name of Calico's VXLAN device.
const VXLAN_DEVICE: &str = "vxlan.calico";
/// Name of the kernel's IP in IP device.
const IPIP_DEVICE: &str = "tunl0";
/// How the host's ends of pods' veth pairs begin.
const POD_DEVICE_PREFIX: &str = "cali";
/// Routes learnt by BGP carry BIRD's protocol number, as Calico's do.
const PROTO_BIRD: u8 = 12;

/// A row that a node's FIB must have, and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FibRow {
    /// Node whose FIB it is.
    pub node: String,
    /// A pod's /32 or a block.
    pub destination: Ipv4Net,
    /// Pod or node behind it.
    pub owner: String,
    /// The route in words, as found.
    pub found: String,
    /// What is wrong with it, in words.
    pub fault: Option<String>,
}

/// What one node's kernel holds.
struct Tables {
    routes: Vec<Route>,
    links: Vec<Link>,
    arp: Vec<Neighbour>,
    fdb: Vec<Neighbour>,
}

impl Tables {
    fn read(site: &Site) -> Result<Self, NetlinkError> {
        let mut netlink = site.namespace.netlink().map_err(|source| NetlinkError {
            what: format!("open a netlink socket in {}", site.name),
            source,
        })?;
        Ok(Self {
            routes: netlink.routes()?,
            links: netlink.links()?,
            arp: netlink.neighbours(libc::AF_INET)?,
            fdb: netlink.neighbours(libc::AF_BRIDGE)?,
        })
    }

    fn device_of(&self, route: &Route) -> Option<&Link> {
        self.links.iter().find(|link| Some(link.index) == route.oif)
    }

    /// The other end of the tunnel that a VXLAN next hop stands for: next hop → ARP entry → forwarding entry.
    fn vxlan_remote(&self, device: &Link, next_hop: Ipv4Addr) -> Option<Ipv4Addr> {
        let mac = self
            .arp
            .iter()
            .find(|entry| entry.ifindex == device.index && entry.address == Some(next_hop))?
            .mac?;
        self.fdb
            .iter()
            .find(|entry| entry.ifindex == device.index && entry.mac == Some(mac))?
            .address
    }
}

/// The rows that all nodes' FIBs must have.
pub(crate) fn read(lab: &Lab) -> Vec<FibRow> {
    let blocks = lab.blocks();
    let mut rows = Vec::new();
    for site in &lab.topology.sites {
        match Tables::read(site) {
            Ok(tables) => {
                rows.extend(local_rows(lab, site, &tables));
                rows.extend(tor_rows(lab, site, &tables));
                // The default routes carry what goes to other nodes.
                let by_name = blocks.iter().filter(|_| !lab.goes_by_tors());
                rows.extend(
                    by_name
                        .filter(|(_, owner)| owner.name != site.name)
                        .map(|(block, owner)| remote_row(lab, site, &tables, *block, owner)),
                );
            }
            Err(error) => rows.push(FibRow {
                node: site.name.clone(),
                destination: Ipv4Net::default(),
                owner: String::new(),
                found: String::new(),
                fault: Some(format!(
                    "FIB of {}: cannot be read: {error}: {}",
                    site.name, error.source
                )),
            }),
        }
    }
    rows
}

/// Each local pod: its /32, scope link, on its own device.
fn local_rows(lab: &Lab, site: &Site, tables: &Tables) -> Vec<FibRow> {
    let pods = lab.pods.iter().filter(|pod| pod.node == site.name);
    pods.map(|pod| {
        let destination = Ipv4Net::from(pod.address);
        let routes: Vec<_> = tables
            .routes
            .iter()
            .filter(|route| route.destination == destination)
            .collect();
        let fault = match routes.as_slice() {
            [] => Some("has no route".to_owned()),
            [route] => local_fault(tables, route),
            several => Some(format!("has {} routes", several.len())),
        };
        row(
            site,
            destination,
            pod.label(),
            &describe(tables, &routes),
            fault,
            "pod",
        )
    })
    .collect()
}

fn local_fault(tables: &Tables, route: &Route) -> Option<String> {
    let device = tables.device_of(route)?;
    if !device.name.starts_with(POD_DEVICE_PREFIX) {
        return Some(format!(
            "leads to {}, expected a device {POD_DEVICE_PREFIX}…",
            device.name
        ));
    }
    if !route.scope_link || route.gateway.is_some() || route.kind != RouteKind::Unicast {
        return Some("is not a plain route of scope link".to_owned());
    }
    (!device.up).then(|| format!("leads to {}, which is not operationally up", device.name))
}

/// Each remote block: one route, by the way that the mode prescribes.
fn remote_row(lab: &Lab, site: &Site, tables: &Tables, block: Ipv4Net, owner: &Site) -> FibRow {
    let routes: Vec<_> = tables
        .routes
        .iter()
        .filter(|route| route.destination == block)
        .collect();
    let fault = match routes.as_slice() {
        [] => Some("has no route".to_owned()),
        [route] => remote_fault(lab, site, tables, route, owner),
        several => Some(format!("has {} routes", several.len())),
    };
    row(
        site,
        block,
        owner.name.clone(),
        &describe(tables, &routes),
        fault,
        "block",
    )
}

/// What the top-of-rack routers announce: one route by BGP, over all of them.
fn tor_rows(lab: &Lab, site: &Site, tables: &Tables) -> Vec<FibRow> {
    if lab.tors.is_empty() {
        return Vec::new();
    }
    let living = lab.tors.iter().filter(|tor| tor.is_alive());
    let mut expected: Vec<Ipv4Addr> = living.map(|tor| tor.address_in(site.rack)).collect();
    expected.sort_unstable();
    let one = |destination: Ipv4Net| {
        // Of several the kernel takes the one of the lowest metric.
        let to = tables
            .routes
            .iter()
            .filter(|route| route.destination == destination);
        let routes: Vec<_> = to.min_by_key(|route| route.metric).into_iter().collect();
        let fault = match routes.as_slice() {
            [] => Some("has no route".to_owned()),
            [route] if route.protocol != PROTO_BIRD => Some(format!(
                "is made by protocol {}, expected {PROTO_BIRD}",
                route.protocol
            )),
            [route] => {
                let mut found: Vec<Ipv4Addr> = route.gateway.into_iter().collect();
                found.extend(&route.gateways);
                found.sort_unstable();
                (found != expected).then(|| format!("goes via {found:?}, expected {expected:?}"))
            }
            several => Some(format!("has {} routes", several.len())),
        };
        let owner = "the top-of-rack routers".to_owned();
        row(
            site,
            destination,
            owner,
            &describe(tables, &routes),
            fault,
            "outside",
        )
    };
    vec![one(Ipv4Net::default()), one(OUTSIDE)]
}

fn remote_fault(
    lab: &Lab,
    site: &Site,
    tables: &Tables,
    route: &Route,
    owner: &Site,
) -> Option<String> {
    let (Some(device), Some(next_hop)) = (tables.device_of(route), route.gateway) else {
        return Some("has no next hop".to_owned());
    };
    let (expected_device, expected_hop) = match lab.options.mode.path(site.rack == owner.rack) {
        Path::Plain => ("eth0", lab.plain_next_hop(site, owner)),
        Path::Ipip => (IPIP_DEVICE, owner.address),
        Path::Vxlan => {
            let remote = tables.vxlan_remote(device, next_hop);
            if device.name == VXLAN_DEVICE && remote == Some(owner.address) {
                return None;
            }
            let remote = remote.map_or("nowhere".to_owned(), |remote| remote.to_string());
            return Some(format!(
                "goes via {next_hop} on {} to tunnel end {remote}, expected {VXLAN_DEVICE} to {}",
                device.name, owner.address
            ));
        }
    };
    if device.name == expected_device && next_hop == expected_hop {
        return None;
    }
    Some(format!(
        "goes via {next_hop} on {}, expected via {expected_hop} on {expected_device}",
        device.name
    ))
}

fn row(
    site: &Site,
    destination: Ipv4Net,
    owner: String,
    found: &str,
    fault: Option<String>,
    what: &str,
) -> FibRow {
    let fault = fault.map(|fault| {
        format!(
            "FIB of {}: {what} {destination} ({owner}) {fault}",
            site.name
        )
    });
    FibRow {
        node: site.name.clone(),
        destination,
        owner,
        found: found.to_owned(),
        fault,
    }
}

fn describe(tables: &Tables, routes: &[&Route]) -> String {
    let words = routes.iter().map(|route| {
        let device = tables
            .device_of(route)
            .map_or_else(String::new, |link| format!("dev {} ", link.name));
        let via = route
            .gateway
            .into_iter()
            .chain(route.gateways.iter().copied())
            .map(|gateway| format!("via {gateway} "))
            .collect::<String>();
        let scope = if route.scope_link { " scope link" } else { "" };
        let kind = match route.kind {
            RouteKind::Unicast => String::new(),
            RouteKind::Blackhole => "blackhole ".to_owned(),
            RouteKind::Other(number) => format!("type {number} "),
        };
        format!("{kind}{via}{device}proto {}{scope}", route.protocol)
    });
    words.collect::<Vec<_>>().join("; ")
}

/// What is still in the kernels after all pods have gone: rows that should have gone with them.
pub(crate) fn leftovers(lab: &Lab, former_pods: &[Ipv4Addr]) -> Vec<String> {
    let mut faults = Vec::new();
    for site in &lab.topology.sites {
        let Ok(tables) = Tables::read(site) else {
            continue;
        };
        for link in tables
            .links
            .iter()
            .filter(|link| link.name.starts_with(POD_DEVICE_PREFIX))
        {
            faults.push(format!(
                "after DEL of all pods {} still has the device {}",
                site.name, link.name
            ));
        }
        for route in tables.routes.iter().filter(|route| {
            route.destination.prefix_len() == 32
                && route.kind == RouteKind::Unicast
                && former_pods.contains(&route.destination.addr())
        }) {
            faults.push(format!(
                "after DEL of all pods {} still has the route {}",
                site.name, route.destination
            ));
        }
    }
    faults
}
