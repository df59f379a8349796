//! Best routes of BGP, own ones left out.

use std::collections::BTreeMap;

use bgp::route::{BestRoute, RouteChange, RouteSource};
use ipnet::IpNet;

#[derive(Debug, Default)]
pub(super) struct BgpRoutes {
    by_prefix: BTreeMap<IpNet, BestRoute>,
}

impl BgpRoutes {
    /// Returns the prefix when something changed.
    pub(super) fn update(&mut self, change: RouteChange) -> Option<IpNet> {
        let prefix = change.prefix.trunc();
        let best = change
            .best
            .filter(|best| best.source != RouteSource::Local && !best.next_hops.is_empty());
        let changed = match best {
            Some(best) => {
                let old = self.by_prefix.insert(prefix, best);
                old.map(|old| old.next_hops)
                    != self.by_prefix.get(&prefix).map(|new| new.next_hops.clone())
            }
            None => self.by_prefix.remove(&prefix).is_some(),
        };
        changed.then_some(prefix)
    }

    pub(super) fn at(&self, prefix: &IpNet) -> Option<&BestRoute> {
        self.by_prefix.get(prefix)
    }

    pub(super) fn prefixes(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.by_prefix.keys().copied()
    }

    pub(super) fn prefixes_inside(&self, range: &IpNet) -> impl Iterator<Item = IpNet> + '_ {
        self.by_prefix
            .range(super::dirty::inside(range))
            .map(|(prefix, _)| *prefix)
    }
}
