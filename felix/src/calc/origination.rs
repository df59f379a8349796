//! What this node announces: its blocks as wholes, the addresses it uses outside of them, and those of Services.

use api::ipam::AffinityState;
use ipnet::IpNet;

use super::route::{Facts, local_pref};
use crate::rules::Family;
use bgp::route::Origination;

impl Facts<'_> {
    pub(super) fn originate(&self, prefix: IpNet) -> Option<Origination> {
        if !self.is_supported(&prefix) {
            return None;
        }
        let normal = self.normal[Family::of(prefix.addr())];
        let is_address = prefix.prefix_len() == prefix.max_prefix_len();
        let metric = if is_address && self.announces_address(&prefix, normal) {
            self.settings.normal_route_metric
        } else if !self.is_withdrawn(&prefix)
            && (self.services.announces(&prefix) || (!is_address && self.announces_block(&prefix)))
        {
            normal
        } else {
            return None;
        };
        Some(Origination {
            prefix,
            next_hop: None,
            local_pref: Some(local_pref(metric)),
        })
    }

    /// This node is drained, and nothing of its own is inside.
    fn is_withdrawn(&self, prefix: &IpNet) -> bool {
        let mut tunnels = self.local.tunnel_prefixes();
        self.withdraws
            && self.workloads.addrs_inside(prefix).next().is_none()
            && !tunnels.any(|own| prefix.contains(&own))
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

    /// Addresses inside an announced block are left out, unless their routes are better than normal ones; outside every pool none is
    /// announced.
    fn announces_address(&self, addr: &IpNet, normal: u32) -> bool {
        let used = self.workloads.at(&addr.addr()).is_some()
            || self.local.tunnel_prefixes().any(|own| own == *addr);
        used && self.pools.covering(addr).is_some_and(|pool| pool.exported)
            && (self.settings.normal_route_metric < normal
                || !self.blocks.is_aggregated(&self.settings.node_name, addr))
    }
}
