//! What the next flush has to look at again.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use api::key::Key;
use ipnet::IpNet;

use crate::desired::IfName;

#[derive(Debug, Default)]
pub(super) struct Dirty {
    /// Every prefix, whatever `prefixes` says.
    pub(super) all_prefixes: bool,
    /// Every prefix that has a BGP route.
    pub(super) bgp_prefixes: bool,
    pub(super) prefixes: BTreeSet<IpNet>,
    /// Pods' devices whose sysctls and neighbours may change.
    pub(super) ifnames: BTreeSet<IfName>,
    /// Pods' addresses whose neighbours may change.
    pub(super) neighbours: BTreeSet<IpAddr>,
    /// The host's links, addresses or routes.
    pub(super) underlay: bool,
    /// How next hops are reached.
    pub(super) next_hops: bool,
    /// What [`super::local::Local`] is derived from.
    pub(super) local: bool,
    /// The host's own sysctls.
    pub(super) host: bool,
    /// Packet rules.
    pub(super) rules: bool,
    /// What is in the sets that packet rules ask.
    pub(super) elements: bool,
    pub(super) tunnels: bool,
    pub(super) peers: bool,
    /// This node's addresses, or which of them are announced by themselves.
    pub(super) own_addresses: bool,
    /// Services whose addresses may be announced, or no longer.
    pub(super) services: BTreeSet<Key>,
    /// Every Service.
    pub(super) all_services: bool,
}

impl Dirty {
    /// Everything that is not noted by key.
    pub(super) const fn everything(&mut self) {
        self.all_prefixes = true;
        self.underlay = true;
        self.next_hops = true;
        self.local = true;
        self.host = true;
        self.rules = true;
        self.tunnels = true;
        self.peers = true;
        self.all_services = true;
    }
}

/// All prefixes inside `range`, itself included, as a span of the order of prefixes: by address, then by length. Wider
/// prefixes that begin at the same address are left out.
pub(super) fn inside(range: &IpNet) -> RangeInclusive<IpNet> {
    let range = range.trunc();
    range..=IpNet::from(range.broadcast())
}
