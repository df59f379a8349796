//! What the kernel shows: read back, notified.

use ipnet::IpNet;

use super::entry::{Held, devices, matches};
use super::{Link, Reconciler, is_setting};
use crate::desired::{IfName, LinkSpec, Parent, Row, RowKey, RowKind};
use crate::kernel::LinkState;

impl Reconciler {
    pub(super) fn row_set(&mut self, row: Row) {
        let key = row.key();
        if let Some(resync) = self.resyncs.get_mut(&key.kind()) {
            resync.gone.remove(&key);
        }
        self.observe(&key, Held::Has(row));
    }

    pub(super) fn row_gone(&mut self, key: &RowKey) {
        if let Some(resync) = self.resyncs.get_mut(&key.kind()) {
            resync.gone.insert(key.clone());
        }
        if self.entries.contains_key(key) {
            self.observe(key, Held::Absent);
        }
    }

    pub(super) fn observe(&mut self, key: &RowKey, held: Held) {
        let reading = self.resyncs.get(&key.kind()).map(|resync| resync.number);
        let mut wanted = false;
        if let Some(entry) = self.entries.get_mut(key) {
            entry.seen = reading.unwrap_or(entry.seen);
            wanted = entry.is_wanted();
            // What is known already: most of what is read again, and every notification of an own write.
            if entry.is_at_rest() && entry.holds(&held) {
                return;
            }
        }
        if is_setting(key) && !wanted {
            return;
        }
        // Foreign rows count only where they may have the key of a wanted one.
        let may_collide = matches!(key.kind(), RowKind::Route | RowKind::NextHop);
        let counts = held
            .row()
            .is_none_or(|row| may_collide || self.ownership.owns(row));
        if !counts && !self.entries.contains_key(key) {
            return;
        }
        let fits = match (
            self.entries.get(key).and_then(|entry| entry.wanted()),
            &held,
        ) {
            (Some(wanted), Held::Has(held)) => matches(wanted, held),
            _ => false,
        };
        if fits {
            self.reset_backoff(key);
        }
        self.edit(key, |entry| {
            entry.repeats = match (fits, entry.programmed) {
                (true, _) => 0,
                (false, true) => entry.repeats.saturating_add(1),
                (false, false) => entry.repeats,
            };
            entry.hold(held);
            entry.seen = reading.unwrap_or(entry.seen);
            entry.disturb();
        });
    }

    pub(super) fn link_observed(&mut self, link: &LinkState) {
        if let Some(resync) = self.resyncs.get_mut(&RowKind::Link) {
            resync.links.insert(link.ifname.clone());
        }
        let mut before = self.links.get(&link.ifname).copied();
        let index = before.and_then(|before| before.ifindex);
        if index.is_some_and(|index| index != link.ifindex) {
            self.link_gone(&link.ifname);
            before = None;
        }
        let now = Link {
            up: link.up,
            ifindex: Some(link.ifindex),
            mac: link.mac,
        };
        self.links.insert(link.ifname.clone(), now);
        if let Some(mac) = link.mac {
            let row = Row::Mac(link.ifname.clone(), mac);
            self.observe(&row.key(), Held::Has(row));
        }
        if before.is_some_and(|before| before.up == link.up) {
            return;
        }
        for key in self.keys_on(&link.ifname) {
            if link.up {
                self.reset_backoff(&key);
            }
            self.edit(&key, |entry| {
                entry.disturb();
                match key.kind() {
                    RowKind::NextHop | RowKind::Route | RowKind::Neigh if !link.up => {
                        entry.mark_stale();
                    }
                    RowKind::Sysctl if link.up => entry.mark_stale(),
                    RowKind::Link if !link.up && before.is_some() => entry.mark_stale(),
                    RowKind::Link
                    | RowKind::Mac
                    | RowKind::Addr
                    | RowKind::Neigh
                    | RowKind::Fdb
                    | RowKind::NextHop
                    | RowKind::Route
                    | RowKind::Rules
                    | RowKind::Element
                    | RowKind::Leftover
                    | RowKind::Sysctl => {}
                }
            });
        }
        if link.up {
            self.retry_unreachable();
        }
    }

    /// The MAC that a device had before anybody wanted one. Written again, even the same would cost the device its neighbours, the
    /// permanent ones as well.
    pub(super) fn known_mac(&self, key: &RowKey) -> Option<Row> {
        let RowKey::Mac(ifname) = key else {
            return None;
        };
        let mac = self.links.get(ifname)?.mac?;
        Some(Row::Mac(ifname.clone(), mac))
    }

    pub(super) fn link_gone(&mut self, ifname: &IfName) {
        self.links.remove(ifname);
        for key in self.keys_on(ifname) {
            self.edit(&key, |entry| {
                entry.disturb();
                let held = entry.held().map(devices).unwrap_or_default();
                if held.iter().all(|device| device == ifname) && !held.is_empty() {
                    entry.hold(Held::Absent);
                } else if held.contains(ifname) {
                    entry.mark_stale();
                }
            });
        }
    }

    /// With its last IPv4 address a device loses its IPv4 routes and neighbours, and routes lose the source address they
    /// name: the kernel notifies none of the routes. A write of one that is still there changes nothing.
    pub(super) fn addr_gone(&mut self, ifname: &IfName, addr: &IpNet) {
        if let IpNet::V6(_) = addr {
            return;
        }
        let sourced = self.entries.iter().filter_map(|(key, entry)| {
            let mut sources = entry.rows().filter_map(|row| match row {
                Row::Route(_, spec) => spec.prefsrc,
                _ => None,
            });
            sources
                .any(|source| source == addr.addr())
                .then(|| key.clone())
        });
        let sourced: Vec<RowKey> = sourced.collect();
        for key in self.keys_on(ifname).into_iter().chain(sourced) {
            let lost = match &key {
                RowKey::Route(key) => key.dst.addr().is_ipv4(),
                RowKey::Neigh(key) => key.addr.is_ipv4(),
                RowKey::NextHop(_) => true,
                RowKey::Link(_)
                | RowKey::Mac(_)
                | RowKey::Addr(_)
                | RowKey::Fdb(_)
                | RowKey::Rules(_)
                | RowKey::Element(_)
                | RowKey::Leftover(_)
                | RowKey::Sysctl(_) => false,
            };
            if lost {
                self.edit(&key, |entry| {
                    entry.disturb();
                    entry.mark_stale();
                });
            }
        }
    }

    /// Rows on a device, and the device's own.
    pub(super) fn keys_on(&self, ifname: &IfName) -> Vec<RowKey> {
        if self.ownership.is_workload(ifname) {
            let keys = self.on_device.get(ifname);
            return keys.into_iter().flatten().cloned().collect();
        }
        self.entries
            .iter()
            .filter(|(_, entry)| {
                let waits = match entry.wanted() {
                    Some(Row::Link(_, LinkSpec::Vxlan { parent, .. })) => {
                        matches!(parent, Parent::Device(parent) if parent == ifname)
                    }
                    Some(_) | None => false,
                };
                waits || entry.is_on(ifname)
            })
            .map(|(key, _)| key.clone())
            .collect()
    }
}
