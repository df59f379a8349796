//! The next hops that the speaker asks about: whether the host's own routes lead there, at what cost, and if not, why.
//!
//! Every question is answered, also a repeated one: the speaker forgets the answer with the last route that used
//! the next hop. Afterwards only changes are reported. An answer needs the host's routes: while they are not known, there is
//! none.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use bgp::route::Reachability;
use ipnet::IpNet;

use super::underlay::Underlay;
use crate::desired::IfName;

/// Why packets for a next hop go nowhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NextHopLoss {
    /// No route of the host covers it. Routes that come from BGP do not count (RFC 4271 §9.1.2.1).
    NoRoute,
    /// What covered it leads through this device, which is down.
    DeviceDown(IfName),
    /// The route that covers it is a blackhole or its like.
    Dropped(IpNet),
    /// It is an address of this host.
    OwnAddress,
    /// The gateway that its BGPPeer names (`reachableBy`) is in no connected network.
    GatewayNotOnLink(IpAddr),
}

impl fmt::Display for NextHopLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute => f.write_str("no route"),
            Self::DeviceDown(ifname) => write!(f, "device {ifname} is down"),
            Self::Dropped(net) => write!(f, "the route {net} drops its packets"),
            Self::GatewayNotOnLink(gateway) => write!(f, "its gateway {gateway} is not on link"),
            Self::OwnAddress => f.write_str("it is an address of this host"),
        }
    }
}

/// The questions and what was found out.
#[derive(Debug, Default)]
pub(super) struct NextHops {
    found: BTreeMap<IpAddr, Result<u32, NextHopLoss>>,
    /// Asked, and not looked at since.
    asked: BTreeSet<IpAddr>,
    pending: BTreeSet<IpAddr>,
}

impl NextHops {
    /// Routes began (`true`) or ceased to use a next hop.
    pub(super) fn watch(&mut self, next_hop: IpAddr, used: bool) {
        self.found.remove(&next_hop);
        self.pending.remove(&next_hop);
        if used {
            self.asked.insert(next_hop);
        } else {
            self.asked.remove(&next_hop);
        }
    }

    /// Looks up what was asked.
    pub(super) fn answer(&mut self, underlay: &Underlay) {
        for next_hop in std::mem::take(&mut self.asked) {
            self.found.insert(next_hop, cost(underlay, next_hop));
            self.pending.insert(next_hop);
        }
    }

    /// The host's routes have changed.
    pub(super) fn review(&mut self, underlay: &Underlay) {
        for (next_hop, found) in &mut self.found {
            let now = cost(underlay, *next_hop);
            // Another reason for the same loss is no news for the speaker.
            if found.as_ref().ok() != now.as_ref().ok() {
                self.pending.insert(*next_hop);
            }
            *found = now;
        }
    }

    /// The next answer for the speaker.
    pub(super) fn poll(&mut self) -> Option<(IpAddr, Reachability)> {
        let next_hop = self.pending.pop_first()?;
        let reachability = match self.found.get(&next_hop)? {
            Ok(cost) => Reachability::Reachable { cost: *cost },
            Err(_) => Reachability::Unreachable,
        };
        Some((next_hop, reachability))
    }

    /// The next hops in use that lead nowhere.
    pub(super) fn lost(&self) -> impl Iterator<Item = (IpAddr, &NextHopLoss)> {
        self.found
            .iter()
            .filter_map(|(next_hop, found)| Some((*next_hop, found.as_ref().err()?)))
    }
}

fn cost(underlay: &Underlay, next_hop: IpAddr) -> Result<u32, NextHopLoss> {
    underlay.look_up(next_hop).map(|(_, cost)| cost)
}
