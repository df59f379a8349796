//! The host's own links, addresses and foreign routes: where the node's address sits and how a next hop is reached.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

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
                    addrs.retain(|net| net.addr() != *addr);
                    if addrs.is_empty() {
                        self.addrs.remove(ifname);
                    }
                }
            }
            KernelEvent::RowSet(row @ Row::Route(key, spec)) if key.table == TABLE_MAIN => {
                if ownership.owns(row) || spec.kind != RouteKind::Unicast {
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

    fn is_up(&self, ifname: &IfName) -> bool {
        self.links.get(ifname).is_some_and(|link| link.up)
    }

    /// Destination → how it is reached; connected networks before routes, a lower metric before a higher one.
    fn fib(&self) -> BTreeMap<IpNet, Via> {
        let mut fib = BTreeMap::new();
        for (ifname, addrs) in &self.addrs {
            if !self.is_up(ifname) {
                continue;
            }
            for net in addrs {
                fib.entry(net.trunc()).or_insert_with(|| Via {
                    gateway: None,
                    ifname: ifname.clone(),
                    onlink: false,
                });
            }
        }
        // Keys are ordered by destination, TOS, metric.
        for (key, spec) in &self.routes {
            let hop = spec.next_hops.iter().find_map(|hop| {
                let ifname = hop.ifname.clone()?;
                self.is_up(&ifname).then_some(Via {
                    gateway: hop.gateway,
                    ifname,
                    onlink: hop.onlink,
                })
            });
            if let (Some(hop), 0) = (hop, key.tos) {
                fib.entry(key.dst.trunc()).or_insert(hop);
            }
        }
        fib
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Via {
    gateway: Option<IpAddr>,
    ifname: IfName,
    onlink: bool,
}

/// The host as the kernel last told it.
#[derive(Default)]
pub(super) struct Underlay {
    view: View,
    /// What was told since a re-reading began.
    next: Option<View>,
    synced: bool,
    fib: BTreeMap<IpNet, Via>,
    trie: JointPrefixMap<IpNet, Via>,
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
        self.trie = fib.iter().map(|(net, via)| (*net, via.clone())).collect();
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

    fn is_own(&self, addr: IpAddr) -> bool {
        self.view
            .addrs
            .values()
            .flatten()
            .any(|net| net.addr() == addr)
    }

    /// The on-link next hop towards a BGP next hop: itself in a connected network, else the gateway of the host's own
    /// route to it. `None` when it cannot be reached, or is this host.
    pub(super) fn resolve(&self, next_hop: IpAddr) -> Option<NextHop> {
        if self.is_own(next_hop) {
            return None;
        }
        let (_, via) = self.trie.get_lpm(&IpNet::from(next_hop))?;
        Some(NextHop {
            gateway: Some(via.gateway.unwrap_or(next_hop)),
            ifname: Some(via.ifname.clone()),
            onlink: via.onlink,
        })
    }
}
