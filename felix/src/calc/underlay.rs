//! The host's own links, addresses and foreign routes: where the node's address sits and how a next hop is reached.
//!
//! A next hop is looked up as the kernel would, over the host's own routes of table main: the longest prefix, then a
//! connected network before routes, then the lowest metric. This agent's own routes have no say, so a next hop never
//! depends on a route that depends on it (RFC 4271 §9.1.2.1); but for the routes to peers by a gateway that their objects
//! name, which depend on connected networks only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

use super::next_hop::NextHopLoss;
use crate::desired::{IfName, NextHop, RouteKey, RouteKind, RouteSpec, Row, RowKey};
use crate::kernel::{KernelEvent, LinkState};
use crate::ownership::{Ownership, TABLE_MAIN, is_tunnel};

/// The part of the kernel that is not this agent's. Pods' devices and tunnels are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct View {
    links: BTreeMap<IfName, LinkState>,
    addrs: BTreeMap<IfName, BTreeSet<IpNet>>,
    routes: BTreeMap<RouteKey, RouteSpec>,
}

impl View {
    fn apply(&mut self, ownership: &Ownership, event: &KernelEvent) {
        let foreign = |ifname: &IfName| !is_tunnel(ifname) && !ownership.is_workload(ifname);
        match event {
            KernelEvent::Link(link) if foreign(&link.ifname) => {
                self.links.insert(link.ifname.clone(), link.clone());
            }
            KernelEvent::LinkGone(ifname) => {
                self.links.remove(ifname);
                self.addrs.remove(ifname);
            }
            KernelEvent::HostAddr { ifname, addr } if foreign(ifname) => {
                self.addrs.entry(ifname.clone()).or_default().insert(*addr);
            }
            KernelEvent::HostAddrGone { ifname, addr } => {
                if let Some(addrs) = self.addrs.get_mut(ifname) {
                    addrs.remove(addr);
                    if addrs.is_empty() {
                        self.addrs.remove(ifname);
                    }
                }
            }
            KernelEvent::RowSet(row @ Row::Route(key, spec)) if key.table == TABLE_MAIN => {
                if ownership.owns(row) {
                    self.routes.remove(key);
                } else {
                    self.routes.insert(key.clone(), spec.clone());
                }
            }
            KernelEvent::RowGone(RowKey::Route(key)) => {
                self.routes.remove(key);
            }
            KernelEvent::Link(_)
            | KernelEvent::HostAddr { .. }
            | KernelEvent::RowSet(_)
            | KernelEvent::RowGone(_)
            | KernelEvent::Overrun => {}
        }
    }

    /// Destination → where packets for it go; connected networks before routes, a lower metric before a higher one.
    fn fib(&self) -> Fib {
        let mut fib = Fib::default();
        for (ifname, addrs) in &self.addrs {
            for net in addrs {
                fib.own.insert(net.addr());
                let via = Via {
                    gateway: None,
                    ifname: ifname.clone(),
                    onlink: false,
                    cost: 0,
                };
                self.note(&mut fib, net.trunc(), via);
            }
        }
        // Keys are ordered by destination, TOS, metric.
        for (key, spec) in self.routes.iter().filter(|(key, _)| key.tos == 0) {
            let dst = key.dst.trunc();
            match spec.kind {
                RouteKind::Unicast => {
                    for hop in &spec.next_hops {
                        let Some(ifname) = hop.ifname.clone() else {
                            continue;
                        };
                        let via = Via {
                            gateway: hop.gateway,
                            ifname,
                            onlink: hop.onlink,
                            cost: key.metric,
                        };
                        self.note(&mut fib, dst, via);
                    }
                }
                RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit => {
                    fib.ways.entry(dst).or_insert(Way::Dropped);
                }
            }
        }
        fib
    }

    fn note(&self, fib: &mut Fib, dst: IpNet, via: Via) {
        match self.links.get(&via.ifname) {
            Some(link) if link.up => {
                fib.ways.entry(dst).or_insert(Way::Via(via));
            }
            Some(_) => {
                fib.down.entry(dst).or_insert(via.ifname);
            }
            None => {}
        }
    }
}

/// What the host's routes come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Fib {
    ways: BTreeMap<IpNet, Way>,
    /// What was reached through a device that is down.
    down: BTreeMap<IpNet, IfName>,
    /// The host's addresses, also on devices that are down.
    own: BTreeSet<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    Via(Via),
    /// A blackhole or its like.
    Dropped,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Via {
    gateway: Option<IpAddr>,
    ifname: IfName,
    onlink: bool,
    /// 0 in a connected network, else the route's metric.
    cost: u32,
}

/// The host as the kernel last told it.
#[derive(Default)]
pub(super) struct Underlay {
    view: View,
    /// What was told since a re-reading began.
    next: Option<View>,
    synced: bool,
    fib: Fib,
    trie: JointPrefixMap<IpNet, Way>,
    /// Addresses of peers that this agent routes to by a gateway (`reachableBy`).
    gateways: BTreeMap<IpAddr, IpAddr>,
}

/// Whether something that matters here changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Some,
    None,
}

impl Underlay {
    pub(super) fn update(&mut self, ownership: &Ownership, event: &KernelEvent) -> Change {
        if let Some(next) = &mut self.next {
            next.apply(ownership, event);
        }
        if !self.concerns(ownership, event) {
            return Change::None;
        }
        self.view.apply(ownership, event);
        Change::Some
    }

    /// Keeps the many events about pods' devices and the agent's own routes from causing work.
    fn concerns(&self, ownership: &Ownership, event: &KernelEvent) -> bool {
        match event {
            KernelEvent::Link(link) => {
                !is_tunnel(&link.ifname)
                    && !ownership.is_workload(&link.ifname)
                    && self.view.links.get(&link.ifname) != Some(link)
            }
            KernelEvent::LinkGone(ifname) => {
                self.view.links.contains_key(ifname) || self.view.addrs.contains_key(ifname)
            }
            KernelEvent::HostAddr { ifname, .. } | KernelEvent::HostAddrGone { ifname, .. } => {
                !is_tunnel(ifname) && !ownership.is_workload(ifname)
            }
            KernelEvent::RowSet(row @ Row::Route(key, _)) => {
                self.view.routes.contains_key(key) || !ownership.owns(row)
            }
            KernelEvent::RowGone(RowKey::Route(key)) => self.view.routes.contains_key(key),
            KernelEvent::RowSet(_) | KernelEvent::RowGone(_) | KernelEvent::Overrun => false,
        }
    }

    pub(super) fn resync_begin(&mut self) {
        self.next = Some(View::default());
    }

    pub(super) fn resync_end(&mut self) -> Change {
        self.synced = true;
        match self.next.take() {
            Some(next) if next != self.view => {
                self.view = next;
                Change::Some
            }
            Some(_) | None => Change::None,
        }
    }

    pub(super) const fn is_synced(&self) -> bool {
        self.synced
    }

    /// Works out again how things are reached.
    pub(super) fn flush(&mut self) -> Change {
        let fib = self.view.fib();
        if fib == self.fib {
            return Change::None;
        }
        let ways = fib.ways.iter();
        self.trie = ways.map(|(net, way)| (*net, way.clone())).collect();
        self.fib = fib;
        Change::Some
    }

    /// The device that carries an address of this host.
    pub(super) fn device_of(&self, addr: IpAddr) -> Option<&LinkState> {
        self.view
            .addrs
            .iter()
            .filter(|(_, addrs)| addrs.iter().any(|net| net.addr() == addr))
            .find_map(|(ifname, _)| self.view.links.get(ifname))
    }

    /// The on-link next hop towards a BGP next hop, and the metric of the way there: itself in a connected network, else
    /// the gateway of the host's own route to it.
    pub(super) fn look_up(&self, next_hop: IpAddr) -> Result<(NextHop, u32), NextHopLoss> {
        if self.fib.own.contains(&next_hop) {
            return Err(NextHopLoss::OwnAddress);
        }
        if self.gateways.contains_key(&next_hop) {
            return self.by_gateway(next_hop).map(|hop| (hop, 0));
        }
        match self.trie.get_lpm(&IpNet::from(next_hop)) {
            Some((_, Way::Via(via))) => {
                let hop = NextHop {
                    gateway: Some(via.gateway.unwrap_or(next_hop)),
                    ifname: Some(via.ifname.clone()),
                    onlink: via.onlink,
                };
                Ok((hop, via.cost))
            }
            Some((net, Way::Dropped)) => Err(NextHopLoss::Dropped(net)),
            None => Err(self.absence(next_hop)),
        }
    }

    /// As [`look_up`](Self::look_up), without metric and reason.
    pub(super) fn resolve(&self, next_hop: IpAddr) -> Option<NextHop> {
        self.look_up(next_hop).ok().map(|(hop, _)| hop)
    }

    /// The way to a peer that is reached by a gateway of its own, which must be on link.
    pub(super) fn by_gateway(&self, peer: IpAddr) -> Result<NextHop, NextHopLoss> {
        let gateway = *self.gateways.get(&peer).ok_or(NextHopLoss::NoRoute)?;
        match self.trie.get_lpm(&IpNet::from(gateway)) {
            Some((_, Way::Via(via))) if via.gateway.is_none() => Ok(NextHop {
                gateway: Some(gateway),
                ifname: Some(via.ifname.clone()),
                onlink: via.onlink,
            }),
            _ => Err(NextHopLoss::GatewayNotOnLink(gateway)),
        }
    }

    /// The host prefixes of peers with a gateway.
    pub(super) fn gatewayed(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.gateways.keys().map(|peer| IpNet::from(*peer))
    }

    pub(super) fn set_gateways(&mut self, gateways: &BTreeMap<IpAddr, IpAddr>) -> Change {
        if self.gateways == *gateways {
            return Change::None;
        }
        self.gateways.clone_from(gateways);
        Change::Some
    }

    fn absence(&self, next_hop: IpAddr) -> NextHopLoss {
        let down = self
            .fib
            .down
            .iter()
            .filter(|(net, _)| net.contains(&next_hop));
        match down.max_by_key(|(net, _)| net.prefix_len()) {
            Some((_, ifname)) => NextHopLoss::DeviceDown(ifname.clone()),
            None => NextHopLoss::NoRoute,
        }
    }
}
