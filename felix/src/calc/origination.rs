//! What this node announces: its blocks as wholes, the addresses it uses outside of them, and those of Services.

use api::ipam::AffinityState;
use ipnet::IpNet;

use super::route::{Facts, local_pref};
use bgp::route::Origination;

impl Facts<'_> {
    pub(super) fn originate(&self, prefix: IpNet) -> Option<Origination> {
        if !self.is_supported(&prefix) {
            return None;
        }
        let announced = if prefix.prefix_len() == prefix.max_prefix_len() {
            self.announces_address(&prefix)
        } else {
            self.announces_block(&prefix)
        };
        let announced = announced || self.services.announces(&prefix);
        announced.then_some(Origination {
            prefix,
            next_hop: None,
            local_pref: Some(local_pref(self.settings.normal_route_metric)),
        })
    }

    /// A block that is being given up is announced until it is gone.
    fn announces_block(&self, block: &IpNet) -> bool {
        let affinity = self.blocks.affinity(&self.settings.node_name, block);
        let ours = match affinity {
            Some(AffinityState::Confirmed | AffinityState::PendingDeletion) => true,
            Some(AffinityState::Pending) | None => false,
        };
        ours && self.pools.covering(block).is_none_or(|pool| pool.exported)
    }

    /// Addresses inside an announced block are left out; outside every pool none is announced.
    fn announces_address(&self, addr: &IpNet) -> bool {
        let used = self.workloads.at(&addr.addr()).is_some()
            || self.local.tunnel_prefixes().any(|own| own == *addr);
        used && self.pools.covering(addr).is_some_and(|pool| pool.exported)
            && !self.blocks.is_aggregated(&self.settings.node_name, addr)
    }
}
