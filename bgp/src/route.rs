//! Loc-RIB changes and originations: what crosses the border between the speaker and the calculation graph.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::types::PeerName;

/// LOCAL_PREF of an own route of normal priority, as Calico's nodes give it, so that mixed clusters agree: 2147483647 less the
/// metric 1024.
pub const NORMAL_LOCAL_PREF: u32 = 2_147_482_623;

/// The best route of one prefix changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteChange {
    /// The prefix.
    pub prefix: IpNet,
    /// The new best route; `None` when no usable route is left.
    pub best: Option<BestRoute>,
}

/// A route the decision process chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BestRoute {
    /// Next hops as received, lowest first; more than one for an ECMP set.
    pub next_hops: Vec<IpAddr>,
    /// Where it was learned.
    pub source: RouteSource,
    /// LOCAL_PREF that the decision used.
    pub local_pref: u32,
    /// The peer of the best path; `None` for own routes.
    pub peer: Option<PeerName>,
    /// Retained across the peer's restart (RFC 4724 §4.2), not refreshed yet.
    pub stale: bool,
}

/// How a route entered the Loc-RIB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteSource {
    /// Originated here.
    Local,
    /// From a peer of another AS.
    Ebgp,
    /// From a peer of our own AS.
    Ibgp,
}

/// What the kernel's routes say of a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reachability {
    /// Packets for it have a route.
    Reachable {
        /// Interior cost of RFC 4271 §9.1.2.2 e: the metric of the route that leads there, lower is nearer.
        cost: u32,
    },
    /// They have none: routes by this next hop take no part in the decision.
    Unreachable,
}

impl Default for Reachability {
    fn default() -> Self {
        Self::Reachable { cost: 0 }
    }
}

/// A prefix this speaker announces as its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origination {
    /// The prefix.
    pub prefix: IpNet,
    /// NEXT_HOP to announce; `None` means the session's own address.
    pub next_hop: Option<IpAddr>,
    /// LOCAL_PREF to announce it with inside the AS; `None`: [`NORMAL_LOCAL_PREF`].
    pub local_pref: Option<u32>,
}
