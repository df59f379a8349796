//! Next-hop objects of the kernel: one for each BGP next hop that very many routes have alone, so that a change of the way there
//! is one message instead of one for each of them.
//!
//! Not for all: a device that loses its carrier, for a moment only, loses its objects with the routes that name them, while a route with
//! its next hop stays and leads again when the carrier is back, agent or no agent.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Graph;
use super::dirty::Dirty;
use crate::desired::{NextHop, NextHopId, NextHopSpec, Row, RowKey};
use crate::ownership::PROTOCOL_BGP;

/// BGP next hops with an object, and where these lead.
pub(super) type Objects = BTreeMap<IpAddr, NextHop>;

impl Graph {
    /// Which next hops have an object, and where these lead. Prefixes of next hops that have come to have one, or ceased to, are
    /// noted, and when the host's routes have changed, those of all next hops without.
    pub(super) fn flush_objects(&mut self, dirty: &mut Dirty) {
        let Some(routes) = self.settings.next_hop_object_routes else {
            dirty.bgp_prefixes |= dirty.next_hops;
            return;
        };
        let mut objects = Objects::new();
        let mut rows = BTreeMap::new();
        for (next_hop, count) in self.bgp_routes.shared_by(routes.div_ceil(2)) {
            // One that stands is worth it for longer: routes that come and go at the limit must not write all of them again.
            if count < routes && !self.objects.contains_key(&next_hop) {
                continue;
            }
            let id = NextHopId::of(next_hop);
            if let [
                hop @ NextHop {
                    gateway: Some(_),
                    ifname: Some(_),
                    ..
                },
            ] = self.underlay.resolve(next_hop).as_slice()
                && !rows.contains_key(&id)
            {
                let spec = NextHopSpec {
                    protocol: PROTOCOL_BGP,
                    hop: hop.clone(),
                };
                rows.insert(id, Row::NextHop(id, spec));
                objects.insert(next_hop, hop.clone());
            }
        }
        let is_same = objects.keys().eq(self.objects.keys());
        if dirty.next_hops || !is_same {
            let stays = |alone: &[IpAddr]| match alone {
                [alone] => {
                    let (had, has) = (
                        self.objects.contains_key(alone),
                        objects.contains_key(alone),
                    );
                    had == has && (has || !dirty.next_hops)
                }
                _ => !dirty.next_hops,
            };
            let all = self.bgp_routes.next_hops();
            let others = all.filter(|(_, next_hops)| !stays(next_hops));
            let others: Vec<_> = others.map(|(prefix, _)| *prefix).collect();
            dirty.prefixes.extend(others);
        }
        for next_hop in self.objects.keys() {
            let id = NextHopId::of(*next_hop);
            if !rows.contains_key(&id) {
                self.rows.put(RowKey::NextHop(id), None);
            }
        }
        for (id, row) in rows {
            self.rows.put(RowKey::NextHop(id), Some(row));
        }
        self.objects = objects;
    }
}
