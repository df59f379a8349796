//! Where paths come from, as the decision and the export rules see it.

use std::net::IpAddr;

use crate::types::{AfiSafi, PeerName, RouterId};
use crate::wire::update::PeerKind;

/// A dense number for a configured peer, or for ourselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SourceId(pub(crate) u32);

impl SourceId {
    /// Routes originated here.
    pub(crate) const OWN: Self = Self(0);

    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A source of paths.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) peer: Option<PeerName>,
    pub(crate) kind: PeerKind,
    pub(crate) address: IpAddr,
    /// BGP Identifier of the last session.
    pub(crate) router_id: RouterId,
    /// Route reflector client.
    pub(crate) client: bool,
    /// After our own restart: its paths wait for its End-of-RIB.
    pub(crate) deferred: bool,
    pub(crate) counts: [Counts; 2],
}

/// Paths in the Adj-RIB-In.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) received: usize,
    pub(crate) accepted: usize,
    pub(crate) stale: usize,
}

/// Place of a family in small arrays.
pub(crate) const fn slot(family: AfiSafi) -> usize {
    match family {
        AfiSafi::Ipv4Unicast => 0,
        AfiSafi::Ipv6Unicast => 1,
    }
}
