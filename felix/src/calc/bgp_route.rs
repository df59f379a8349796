//! Best routes of BGP, own ones left out.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bgp::route::{BestRoute, RouteChange, RouteSource};
use ipnet::IpNet;

#[derive(Debug, Default)]
pub(super) struct BgpRoutes {
    by_prefix: BTreeMap<IpNet, BestRoute>,
    /// Next hop → routes that have it alone.
    by_next_hop: BTreeMap<IpAddr, usize>,
}

impl BgpRoutes {
    /// Returns the prefix when something changed.
    pub(super) fn update(&mut self, change: RouteChange) -> Option<IpNet> {
        let prefix = change.prefix.trunc();
        let best = change
            .best
            .filter(|best| best.source != RouteSource::Local && !best.next_hops.is_empty());
        let now = best.as_ref().map(|best| best.next_hops.clone());
        let before = match best {
            Some(best) => self.by_prefix.insert(prefix, best),
            None => self.by_prefix.remove(&prefix),
        };
        let before = before.map(|before| before.next_hops);
        if before == now {
            return None;
        }
        if let Some([alone]) = now.as_deref() {
            *self.by_next_hop.entry(*alone).or_default() += 1;
        }
        if let Some([alone]) = before.as_deref()
            && let Some(count) = self.by_next_hop.get_mut(alone)
        {
            *count -= 1;
            if *count == 0 {
                self.by_next_hop.remove(alone);
            }
        }
        Some(prefix)
    }

    /// Next hops that at least so many routes have alone, and how many.
    pub(super) fn shared_by(&self, routes: usize) -> impl Iterator<Item = (IpAddr, usize)> + '_ {
        let shared = self.by_next_hop.iter();
        shared
            .filter(move |(_, count)| **count >= routes)
            .map(|(next_hop, count)| (*next_hop, *count))
    }

    /// Prefixes with the next hops of their routes.
    pub(super) fn next_hops(&self) -> impl Iterator<Item = (&IpNet, &[IpAddr])> {
        let all = self.by_prefix.iter();
        all.map(|(prefix, best)| (prefix, best.next_hops.as_slice()))
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
