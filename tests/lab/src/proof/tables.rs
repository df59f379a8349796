//! What one node's kernel holds of routes, links and neighbours, and how a route is put into words.

use std::net::IpAddr;

use crate::netlink::{Link, Neighbour, NetlinkError, Route, RouteKind};
use crate::topology::Site;

/// One node's kernel, read at about the same time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tables {
    pub(crate) routes: Vec<Route>,
    pub(crate) links: Vec<Link>,
    /// Of both families.
    pub(crate) neighbours: Vec<Neighbour>,
    pub(crate) fdb: Vec<Neighbour>,
}

impl Tables {
    pub(crate) fn read(site: &Site) -> Result<Self, NetlinkError> {
        let mut netlink = site.namespace.netlink().map_err(|source| NetlinkError {
            what: format!("open a netlink socket in {}", site.name),
            source,
        })?;
        Ok(Self {
            routes: netlink.routes()?,
            links: netlink.links()?,
            neighbours: [
                netlink.neighbours(libc::AF_INET)?,
                netlink.neighbours(libc::AF_INET6)?,
            ]
            .concat(),
            fdb: netlink.neighbours(libc::AF_BRIDGE)?,
        })
    }

    pub(crate) fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The other end of the tunnel that a VXLAN next hop stands for: next hop → ARP entry → forwarding entry.
    pub(crate) fn vxlan_remote(&self, device: &Link, next_hop: IpAddr) -> Option<IpAddr> {
        let mac = self
            .neighbours
            .iter()
            .find(|entry| entry.ifindex == device.index && entry.address == Some(next_hop))?
            .mac?;
        self.fdb
            .iter()
            .find(|entry| entry.ifindex == device.index && entry.mac == Some(mac))?
            .address
    }

    /// As `ip route` would show them.
    pub(crate) fn describe(&self, routes: &[&Route]) -> String {
        let words: Vec<String> = routes.iter().map(|route| self.words(route)).collect();
        words.join("; ")
    }

    fn words(&self, route: &Route) -> String {
        let mut words = Vec::new();
        match route.kind {
            RouteKind::Unicast => {}
            RouteKind::Blackhole => words.push("blackhole".to_owned()),
            RouteKind::Other(number) => words.push(format!("type {number}")),
        }
        for hop in &route.hops {
            words.extend(hop.gateway.map(|gateway| format!("via {gateway}")));
            let device = hop.oif.and_then(|index| self.link(index));
            words.extend(device.map(|link| format!("dev {}", link.name)));
            words.extend(hop.onlink.then(|| "onlink".to_owned()));
        }
        words.push(format!("proto {}", route.protocol));
        words.extend(route.scope_link.then(|| "scope link".to_owned()));
        words.extend((route.metric != 0).then(|| format!("metric {}", route.metric)));
        words.extend(route.mtu_bytes.map(|mtu| format!("mtu {mtu}")));
        words.join(" ")
    }
}
