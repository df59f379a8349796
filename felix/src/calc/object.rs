//! Next-hop objects of the kernel: one for each BGP next hop, and for each group of them, that very many routes have, so that a change of
//! the way there is one message instead of one for each of them.
//!
//! Not for all: a device that loses its carrier, for a moment only, loses its objects with the routes that name them, while a route with
//! its next hop stays and leads again when the carrier is back, agent or no agent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Graph;
use super::bgp_route::together;
use super::dirty::Dirty;
use crate::desired::{Leads, NextHop, NextHopId, NextHopSpec, Row, RowKey};
use crate::ownership::PROTOCOL_BGP;

/// Objects that routes name, and those that these need.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// BGP next hops that routes have together, sorted.
    named: BTreeSet<Vec<IpAddr>>,
    rows: BTreeMap<NextHopId, NextHopSpec>,
    /// Whose number each is.
    owners: BTreeMap<NextHopId, Vec<IpAddr>>,
}

impl Objects {
    /// The object of a route's next hops.
    pub(super) fn of(&self, next_hops: &[IpAddr]) -> Option<NextHopId> {
        if self.named.is_empty() {
            return None;
        }
        let next_hops = together(next_hops);
        let is_named = self.named.contains(&*next_hops);
        is_named.then(|| NextHopId::of(&next_hops))
    }

    /// Adds what routes with these next hops name; `hops` is where each of them leads. Nothing where a number is another one's.
    fn add(&mut self, next_hops: &[IpAddr], hops: Vec<NextHop>) {
        let singles = next_hops.iter().map(std::slice::from_ref);
        let singles: Vec<(NextHopId, &[IpAddr])> = singles
            .map(|next_hop| (NextHopId::of(next_hop), next_hop))
            .collect();
        let whole = (NextHopId::of(next_hops), next_hops);
        let is_free = |(id, owner): &(NextHopId, &[IpAddr])| {
            self.owners.get(id).is_none_or(|known| known == owner)
        };
        let mut members: Vec<NextHopId> = singles.iter().map(|(id, _)| *id).collect();
        members.sort_unstable();
        members.dedup();
        if members.len() < next_hops.len() || !singles.iter().chain([&whole]).all(is_free) {
            return;
        }
        let mut put = |(id, owner): (NextHopId, &[IpAddr]), leads| {
            let protocol = PROTOCOL_BGP;
            self.rows.insert(id, NextHopSpec { protocol, leads });
            self.owners.insert(id, owner.to_vec());
        };
        for (single, hop) in singles.into_iter().zip(hops) {
            put(single, Leads::To(hop));
        }
        if next_hops.len() > 1 {
            put(whole, Leads::Over(members));
        }
        self.named.insert(next_hops.to_vec());
    }
}

impl Graph {
    /// Which next hops have an object, and where these lead. Prefixes of next hops that have come to have one, or ceased to, are
    /// noted, and when the host's routes have changed, those of all next hops without.
    pub(super) fn flush_objects(&mut self, dirty: &mut Dirty) {
        let Some(routes) = self.settings.next_hop_object_routes else {
            dirty.bgp_prefixes |= dirty.next_hops;
            return;
        };
        let mut objects = Objects::default();
        for (next_hops, count) in self.bgp_routes.shared_by(routes.div_ceil(2)) {
            // One that stands is worth it for longer: routes that come and go at the limit must not write all of them again.
            if count < routes && !self.objects.named.contains(next_hops) {
                continue;
            }
            let hops: Option<Vec<NextHop>> = next_hops
                .iter()
                .map(|next_hop| self.only_way(*next_hop))
                .collect();
            if let Some(hops) = hops {
                objects.add(next_hops, hops);
            }
        }
        if dirty.next_hops || objects.named != self.objects.named {
            let stays = |next_hops: &[IpAddr]| {
                let next_hops = together(next_hops);
                let had = self.objects.named.contains(&*next_hops);
                let has = objects.named.contains(&*next_hops);
                had == has && (has || !dirty.next_hops)
            };
            let all = self.bgp_routes.next_hops();
            let others = all.filter(|(_, next_hops)| !stays(next_hops));
            let others: Vec<_> = others.map(|(prefix, _)| *prefix).collect();
            dirty.prefixes.extend(others);
        }
        for id in self.objects.rows.keys() {
            if !objects.rows.contains_key(id) {
                self.rows.put(RowKey::NextHop(*id), None);
            }
        }
        for (id, spec) in &objects.rows {
            let row = Row::NextHop(*id, spec.clone());
            self.rows.put(RowKey::NextHop(*id), Some(row));
        }
        self.objects = objects;
    }

    /// Where a BGP next hop leads, if that is one gateway on one device.
    fn only_way(&self, next_hop: IpAddr) -> Option<NextHop> {
        let hops: [NextHop; 1] = self.underlay.resolve(next_hop).try_into().ok()?;
        let [hop] = hops;
        (hop.gateway.is_some() && hop.ifname.is_some()).then_some(hop)
    }
}
