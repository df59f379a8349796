//! Next hops: which are used, and what the kernel's routes say of them (RFC 4271 §9.1.2.1).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use crate::route::Reachability;

/// What is known of next hops. A next hop that nothing is known of can be reached at no cost.
#[derive(Debug, Default)]
pub(super) struct NextHops {
    /// How many attribute sets name it.
    named: BTreeMap<IpAddr, u32>,
    watched: BTreeSet<IpAddr>,
    watches: VecDeque<(IpAddr, bool)>,
    reported: BTreeMap<IpAddr, Reachability>,
}

impl NextHops {
    /// A new attribute set names it.
    pub(super) fn named(&mut self, next_hop: IpAddr) {
        *self.named.entry(next_hop).or_default() += 1;
    }

    /// An attribute set that named it is gone.
    pub(super) fn unnamed(&mut self, next_hop: IpAddr) {
        let Some(count) = self.named.get_mut(&next_hop) else {
            return;
        };
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.named.remove(&next_hop);
        if self.watched.remove(&next_hop) {
            self.reported.remove(&next_hop);
            self.watches.push_back((next_hop, false));
        }
    }

    /// A received route uses it.
    pub(super) fn watch(&mut self, next_hop: IpAddr) {
        if self.watched.insert(next_hop) {
            self.watches.push_back((next_hop, true));
        }
    }

    /// Next address that routes began (`true`) or ceased to use.
    pub(super) fn poll_watch(&mut self) -> Option<(IpAddr, bool)> {
        self.watches.pop_front()
    }

    /// Notes what was found out about a next hop; false when that is known, or nobody asks any more.
    pub(super) fn set(&mut self, next_hop: IpAddr, reachability: Reachability) -> bool {
        self.watched.contains(&next_hop)
            && self
                .reported
                .insert(next_hop, reachability)
                .unwrap_or_default()
                != reachability
    }

    pub(super) fn reachability(&self, next_hop: IpAddr) -> Reachability {
        if self.reported.is_empty() {
            return Reachability::default();
        }
        self.reported.get(&next_hop).copied().unwrap_or_default()
    }
}
