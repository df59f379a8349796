//! Best routes of BGP, own ones left out.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use bgp::route::{BestRoute, RouteChange, RouteSource};
use ipnet::IpNet;

/// Next hops of a route in an order that is the same for all that have them: that in which the speaker gives them.
pub(super) fn together(next_hops: &[IpAddr]) -> Cow<'_, [IpAddr]> {
    if next_hops.is_sorted_by(|one, next| one < next) {
        return Cow::Borrowed(next_hops);
    }
    let mut together = next_hops.to_vec();
    together.sort_unstable();
    together.dedup();
    Cow::Owned(together)
}

#[derive(Debug, Default)]
pub(super) struct BgpRoutes {
    by_prefix: BTreeMap<IpNet, BestRoute>,
    /// Next hops, sorted → routes that have these together and no others.
    by_next_hops: BTreeMap<Vec<IpAddr>, usize>,
}

impl BgpRoutes {
    /// Returns the prefix when something changed.
    pub(super) fn update(&mut self, change: RouteChange) -> Option<IpNet> {
        let prefix = change.prefix.trunc();
        let best = change
            .best
            .filter(|best| best.source != RouteSource::Local && !best.next_hops.is_empty());
        let now = best.as_ref();
        let now = now.map(|best| (best.next_hops.clone(), best.local_pref));
        let before = match best {
            Some(best) => self.by_prefix.insert(prefix, best),
            None => self.by_prefix.remove(&prefix),
        };
        let before = before.map(|before| (before.next_hops, before.local_pref));
        if before == now {
            return None;
        }
        if let Some((next_hops, _)) = &now {
            let now = together(next_hops);
            match self.by_next_hops.get_mut(&*now) {
                Some(count) => *count += 1,
                None => drop(self.by_next_hops.insert(now.into_owned(), 1)),
            }
        }
        if let Some((next_hops, _)) = &before {
            let before = together(next_hops);
            if let Some(count) = self.by_next_hops.get_mut(&*before) {
                *count -= 1;
                if *count == 0 {
                    self.by_next_hops.remove(&*before);
                }
            }
        }
        Some(prefix)
    }

    /// Next hops that at least so many routes have together, and how many.
    pub(super) fn shared_by(&self, routes: usize) -> impl Iterator<Item = (&[IpAddr], usize)> {
        let shared = self.by_next_hops.iter();
        shared
            .filter(move |(_, count)| **count >= routes)
            .map(|(next_hops, count)| (next_hops.as_slice(), *count))
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
