//! The host's own links, addresses and foreign routes: where the node's address sits and how a next hop is reached.
//!
//! A next hop is looked up as the kernel would, over the host's own routes of table main: the longest prefix, then a
//! connected network before routes, then the lowest metric. This agent's own routes have no say, so a next hop never
//! depends on a route that depends on it (RFC 4271 §9.1.2.1); but for the routes to peers by a gateway that their objects
//! name, which depend on connected networks only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::joint::JointPrefixMap;

use super::next_hop::NextHopLoss;
use crate::desired::{IfName, NextHop, RouteKey, RouteKind, RouteSpec, Row, RowKey};
use crate::kernel::{KernelEvent, LinkState};
use crate::ownership::{Ownership, TABLE_MAIN, is_tunnel};

/// RFC 4291 §2.5.6.
const LINK_LOCAL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);

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
            | KernelEvent::RulesChanged
            | KernelEvent::RoutesChanged
            | KernelEvent::Overrun => {}
        }
    }

    /// Destination → where packets for it go; connected networks before routes, a lower metric before a higher one.
    fn fib(&self) -> Fib {
        let mut fib = Fib::default();
        for (ifname, addrs) in &self.addrs {
            for net in addrs {
                fib.own.insert(net.addr());
                let hop = Hop {
                    gateway: None,
                    ifname: ifname.clone(),
                    onlink: false,
                };
                self.note(&mut fib, net.trunc(), vec![hop], 0);
            }
        }
        // Keys are ordered by destination, TOS, metric.
        for (key, spec) in self.routes.iter().filter(|(key, _)| key.tos == 0) {
            let dst = key.dst.trunc();
            match spec.kind {
                RouteKind::Unicast => {
                    let hops = spec.next_hops.iter().filter_map(|hop| {
                        Some(Hop {
                            gateway: hop.gateway,
                            ifname: hop.ifname.clone()?,
                            onlink: hop.onlink,
                        })
                    });
                    self.note(&mut fib, dst, hops.collect(), key.metric);
                }
                RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit => {
                    fib.routes.entry(dst).or_insert(Route::Dropped);
                }
            }
        }
        fib
    }

    /// A route with all of its hops whose devices are up, unless there is a better one.
    fn note(&self, fib: &mut Fib, dst: IpNet, hops: Vec<Hop>, cost: u32) {
        let mut up = Vec::new();
        for hop in hops {
            match self.links.get(&hop.ifname) {
                Some(link) if link.up => up.push(hop),
                Some(_) => {
                    fib.down.entry(dst).or_insert(hop.ifname);
                }
                None => {}
            }
        }
        if !up.is_empty() {
            fib.routes
                .entry(dst)
                .or_insert(Route::Via { hops: up, cost });
        }
    }
}

/// What the host's routes come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Fib {
    routes: BTreeMap<IpNet, Route>,
    /// What was reached through a device that is down.
    down: BTreeMap<IpNet, IfName>,
    /// The host's addresses, also on devices that are down.
    own: BTreeSet<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Route {
    Via {
        /// At least one.
        hops: Vec<Hop>,
        /// 0 in a connected network, else the route's metric.
        cost: u32,
    },
    /// A blackhole or its like.
    Dropped,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Hop {
    gateway: Option<IpAddr>,
    ifname: IfName,
    onlink: bool,
}

impl Hop {
    /// The next hop on the link of its device for what goes to `to`.
    fn towards(&self, to: IpAddr) -> NextHop {
        NextHop {
            gateway: Some(self.gateway.unwrap_or(to)),
            ifname: Some(self.ifname.clone()),
            onlink: self.onlink,
        }
    }
}

/// The host as the kernel last showed it.
#[derive(Default)]
pub(super) struct Underlay {
    view: View,
    /// What was shown since a re-reading began.
    next: Option<View>,
    synced: bool,
    fib: Fib,
    trie: JointPrefixMap<IpNet, Route>,
    /// Addresses of peers that this agent routes to by a gateway (`reachableBy`).
    gateways: BTreeMap<IpAddr, IpAddr>,
    /// Addresses of peers that are pods of this node, and their devices.
    pods: BTreeMap<IpAddr, IfName>,
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
            KernelEvent::RowSet(_)
            | KernelEvent::RowGone(_)
            | KernelEvent::RulesChanged
            | KernelEvent::RoutesChanged
            | KernelEvent::Overrun => false,
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
        let routes = fib.routes.iter();
        self.trie = routes.map(|(net, route)| (*net, route.clone())).collect();
        self.fib = fib;
        Change::Some
    }

    /// The device that carries an address of this host: one that packets leave by rather than one that they do not.
    pub(super) fn device_of(&self, addr: IpAddr) -> Option<&LinkState> {
        let carriers = self.view.addrs.iter();
        carriers
            .filter(|(_, addrs)| addrs.iter().any(|net| net.addr() == addr))
            .filter_map(|(ifname, _)| self.view.links.get(ifname))
            .min_by_key(|link| stays_inside(link))
    }

    /// The devices that lead to any of these addresses; those of the default route like `own` when none is given.
    pub(super) fn devices_towards(
        &self,
        own: IpAddr,
        addrs: impl Iterator<Item = IpAddr>,
    ) -> Vec<&LinkState> {
        let mut names: BTreeSet<&IfName> = BTreeSet::new();
        let mut any = false;
        for addr in addrs {
            any = true;
            if let Some((_, Route::Via { hops, .. })) = self.trie.get_lpm(&IpNet::from(addr)) {
                names.extend(hops.iter().map(|hop| &hop.ifname));
            }
        }
        let default = match own {
            IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
            IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
        };
        if !any && let Some(Route::Via { hops, .. }) = self.fib.routes.get(&default) {
            names.extend(hops.iter().map(|hop| &hop.ifname));
        }
        let links = names
            .into_iter()
            .filter_map(|name| self.view.links.get(name));
        links.filter(|link| !stays_inside(link)).collect()
    }

    /// The on-link next hops towards a BGP next hop, and the metric of the route there: itself in a connected network, else
    /// the gateways of the host's own route to it, all of them where it has several.
    pub(super) fn look_up(&self, next_hop: IpAddr) -> Result<(Vec<NextHop>, u32), NextHopLoss> {
        if self.fib.own.contains(&next_hop) {
            return Err(NextHopLoss::OwnAddress);
        }
        if self.gateways.contains_key(&next_hop) {
            return self.by_gateway(next_hop).map(|hop| (vec![hop], 0));
        }
        if let Some(ifname) = self.pods.get(&next_hop) {
            let hop = NextHop {
                gateway: Some(next_hop),
                ifname: Some(ifname.clone()),
                onlink: true,
            };
            return Ok((vec![hop], 0));
        }
        match self.trie.get_lpm(&IpNet::from(next_hop)) {
            Some((_, Route::Via { hops, cost })) => {
                let hops = hops.iter().map(|hop| hop.towards(next_hop));
                Ok((hops.collect(), *cost))
            }
            Some((net, Route::Dropped)) => Err(NextHopLoss::Dropped(net)),
            None => Err(self.absence(next_hop)),
        }
    }

    /// As [`look_up`](Self::look_up), without metric and reason.
    pub(super) fn resolve(&self, next_hop: IpAddr) -> Vec<NextHop> {
        self.look_up(next_hop)
            .map(|(hops, _)| hops)
            .unwrap_or_default()
    }

    /// The addresses whose packets leave by a device that fits, as few ranges as they come to. Link-local ones are not among
    /// them: the address alone does not say where they are.
    pub(super) fn leading_by(&self, fits: impl Fn(&str) -> bool) -> Vec<IpNet> {
        let leads = |route: &Route| match route {
            Route::Via { hops, .. } => hops.iter().any(|hop| fits(&hop.ifname.0)),
            Route::Dropped => false,
        };
        let routes = self.fib.routes.iter();
        let mut says: BTreeMap<IpNet, bool> =
            routes.map(|(net, route)| (*net, leads(route))).collect();
        says.insert(IpNet::V6(LINK_LOCAL), false);
        for peer in self.gateways.keys() {
            let hop = self.by_gateway(*peer).ok().and_then(|hop| hop.ifname);
            says.insert(IpNet::from(*peer), hop.is_some_and(|name| fits(&name.0)));
        }
        let pods = self.pods.iter();
        says.extend(pods.map(|(pod, ifname)| (IpNet::from(*pod), fits(&ifname.0))));
        // A range comes before those inside it.
        let mut ranges: BTreeSet<IpNet> = BTreeSet::new();
        for (net, leads) in says {
            let mut wider = std::iter::successors(Some(net), IpNet::supernet);
            let inside = wider.find(|wider| ranges.contains(wider));
            match (inside, leads) {
                (None, true) => drop(ranges.insert(net)),
                (Some(wider), false) => {
                    ranges.remove(&wider);
                    ranges.extend(without(wider, net));
                }
                (Some(_), true) | (None, false) => {}
            }
        }
        ranges.into_iter().collect()
    }

    /// The ways to peers that follow from their objects.
    pub(super) fn to_peers(&self) -> (BTreeMap<IpAddr, IpAddr>, BTreeMap<IpAddr, IfName>) {
        (self.gateways.clone(), self.pods.clone())
    }

    /// The next hop to a peer that is reached by a gateway of its own, which must be on link.
    pub(super) fn by_gateway(&self, peer: IpAddr) -> Result<NextHop, NextHopLoss> {
        let gateway = *self.gateways.get(&peer).ok_or(NextHopLoss::NoRoute)?;
        match self.trie.get_lpm(&IpNet::from(gateway)) {
            Some((_, Route::Via { hops, .. })) => hops
                .iter()
                .find(|hop| hop.gateway.is_none())
                .map(|hop| hop.towards(gateway)),
            Some((_, Route::Dropped)) | None => None,
        }
        .ok_or(NextHopLoss::GatewayNotOnLink(gateway))
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

    pub(super) fn set_pods(&mut self, pods: BTreeMap<IpAddr, IfName>) -> Change {
        if self.pods == pods {
            return Change::None;
        }
        self.pods = pods;
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

/// What is left of a range without one inside it.
fn without(range: IpNet, inner: IpNet) -> Vec<IpNet> {
    let up = std::iter::successors(Some(inner), IpNet::supernet);
    let up = up.take_while(|net| *net != range);
    up.filter_map(|net| {
        let mut halves = net.supernet()?.subnets(net.prefix_len()).ok()?;
        halves.find(|half| *half != net)
    })
    .collect()
}

/// Whether no packet leaves the host by a device: the loopback device, and its likes that people make for addresses.
pub(super) fn stays_inside(link: &LinkState) -> bool {
    *link.ifname.0 == *"lo" || link.kind.as_deref() == Some("dummy")
}
