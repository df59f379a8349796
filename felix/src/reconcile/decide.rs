//! From what is wanted and what the kernel has to what is to be done.

use std::ops::RangeInclusive;

use super::entry::{Entry, Stage, devices, route_devices};
use super::{Reconciler, Stuck};
use crate::desired::{
    FdbKey, IfName, LinkSpec, NeighKey, Parent, RouteKey, RouteKind, Row, RowKey,
};
use crate::ownership::{PROTOCOL_BGP, is_tunnel};
use crate::rules::Family;

/// What is to be done about a row.
pub(super) enum Decision {
    /// It is as it is wanted.
    Done,
    /// Nothing, for now.
    Wait,
    /// To be deleted once another route to the same destination is there.
    WaitForRoute,
    Stuck(Stuck),
    Execute(Stage),
}

impl Reconciler {
    pub(super) fn edit(&mut self, key: &RowKey, change: impl FnOnce(&mut Entry)) {
        let entry = self.entries.or_default(key);
        let before = entry.workloads(&self.ownership);
        let (object, members) = (entry.object(), entry.members().to_vec());
        let stood = entry.stands();
        change(entry);
        let after = entry.workloads(&self.ownership);
        let (named, stands) = (entry.object(), entry.stands());
        let members_now = entry.members().to_vec();
        if before != after {
            for ifname in before.iter().filter(|name| !after.contains(*name)) {
                self.unindex(ifname, key);
            }
            for ifname in after {
                let keys = self.on_device.entry(ifname).or_default();
                keys.insert(key.clone());
            }
        }
        self.review(key);
        self.review_destination(key);
        if object != named {
            self.named_instead(object, named);
        }
        if members != members_now {
            for member in members_now {
                self.named_instead(None, Some(member));
            }
            for member in members {
                self.named_instead(Some(member), None);
            }
        }
        if let (RowKey::NextHop(id), true, false) = (key, stood, stands) {
            self.object_lost(*id);
        }
    }

    pub(super) fn unindex(&mut self, ifname: &IfName, key: &RowKey) {
        if let Some(keys) = self.on_device.get_mut(ifname) {
            keys.remove(key);
            if keys.is_empty() {
                self.on_device.remove(ifname);
            }
        }
    }

    /// Puts a row among the operations to execute, or takes it from there.
    pub(super) fn review(&mut self, key: &RowKey) {
        let Some(entry) = self.entries.get(key) else {
            return;
        };
        let decision = self.decide(key, entry);
        let stage = match &decision {
            Decision::Execute(stage) => Some(*stage),
            Decision::Done | Decision::Wait | Decision::WaitForRoute | Decision::Stuck(_) => None,
        };
        let is_going = matches!(
            decision,
            Decision::Execute(Stage::RemoveRoute) | Decision::WaitForRoute
        );
        if is_going {
            self.going.insert(key.clone());
        } else if !self.going.is_empty() {
            self.going.remove(key);
        }
        let programmed = matches!(decision, Decision::Done);
        let entry = self
            .entries
            .get_mut(key)
            .expect("it was there three lines above");
        if entry.stage != stage {
            if let Some(old) = std::mem::replace(&mut entry.stage, stage) {
                self.ready.remove(&(old, key.clone()));
            }
            if let Some(new) = stage {
                self.ready.insert((new, key.clone()));
            }
        }
        let is_void = entry.is_void();
        let turned = entry.programmed != programmed;
        if turned {
            entry.programmed = programmed;
            if programmed {
                if !std::mem::take(&mut entry.written) {
                    self.stats.adopted += 1;
                }
                self.news.insert(key.clone());
            } else {
                self.news.remove(key);
            }
        }
        if let Decision::Stuck(Stuck::WaitsForRow(awaited)) = decision {
            self.awaited.entry(awaited).or_default().insert(key.clone());
        }
        let is_awaited = self.awaited.contains_key(key) && !self.is_on_its_way(key);
        if is_void {
            self.reset_backoff(key);
            self.entries.remove(key);
        }
        if let (RowKey::Rules(family), true) = (key, turned) {
            self.review_elements(*family);
            self.review_leftovers();
        }
        if is_awaited {
            for waiting in self.awaited.remove(key).into_iter().flatten() {
                self.review(&waiting);
            }
        }
    }

    /// Whether a row is wanted and not there.
    fn is_on_its_way(&self, key: &RowKey) -> bool {
        let entry = self.entries.get(key);
        entry.is_some_and(|entry| entry.is_wanted() && !entry.programmed)
    }

    /// The neighbour, or the forwarding entry, that a route through a VXLAN device is to lead over and that is not there yet; the
    /// table that brings connection tracking along.
    fn awaited_by(&self, row: &Row) -> Option<RowKey> {
        let spec = match row {
            Row::Route(_, spec) => match spec.object.map(RowKey::NextHop) {
                Some(object) => return Some(object).filter(|key| !self.is_programmed(key)),
                None => spec,
            },
            Row::NextHop(_, spec) => {
                let mut members = spec.members().iter().map(|id| RowKey::NextHop(*id));
                return members.find(|key| !self.is_programmed(key));
            }
            Row::Sysctl(key, _) if key.is_of_conntrack() => {
                return Some(RowKey::Rules(Family::V4)).filter(|table| self.is_on_its_way(table));
            }
            _ => return None,
        };
        spec.next_hops.iter().find_map(|hop| {
            let ifname = hop.ifname.clone().filter(is_tunnel)?;
            let addr = hop.gateway?;
            let neighbour = RowKey::Neigh(NeighKey {
                ifname: ifname.clone(),
                addr,
            });
            if self.is_on_its_way(&neighbour) {
                return Some(neighbour);
            }
            let Some(Row::Neigh(_, mac)) = self.entries.get(&neighbour)?.wanted() else {
                return None;
            };
            let entry = RowKey::Fdb(FdbKey { ifname, mac: *mac });
            self.is_on_its_way(&entry).then_some(entry)
        })
    }

    /// Routes to the same destination whose deletion may have waited for this one.
    pub(super) fn review_destination(&mut self, key: &RowKey) {
        let RowKey::Route(route) = key else {
            return;
        };
        if self.going.is_empty() {
            return;
        }
        let waiting = self.going.range(destination(route));
        let waiting: Vec<RowKey> = waiting.filter(|other| *other != key).cloned().collect();
        for other in waiting {
            self.review(&other);
        }
    }

    pub(super) fn same_destination(
        &self,
        key: &RouteKey,
    ) -> impl Iterator<Item = (&RowKey, &Entry)> {
        let (first, last) = destination(key).into_inner();
        let entries = self.entries.from(&first);
        entries.take_while(move |(other, _)| **other <= last)
    }

    pub(super) fn review_unwanted(&mut self) {
        let unwanted = self.entries.iter();
        let keys: Vec<RowKey> = unwanted
            .filter(|(_, entry)| !entry.is_wanted())
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            self.review(&key);
        }
    }

    pub(super) fn decide(&self, key: &RowKey, entry: &Entry) -> Decision {
        if entry.flight.is_some() || !self.read.contains(&key.kind()) {
            return Decision::Wait;
        }
        let Some(wanted) = entry.wanted() else {
            return self.decide_unwanted(key, entry);
        };
        if entry.stands_as_wanted() {
            return Decision::Done;
        }
        if let Some(held) = entry.held().filter(|held| !self.ownership.owns(held)) {
            return Decision::Stuck(Stuck::Foreign(held.clone()));
        }
        if self.is_held_back(key, entry) {
            return Decision::Wait;
        }
        if let RowKey::Element(element) = key
            && !self.table_stands(element.family)
        {
            // It is written with its table.
            return Decision::Wait;
        }
        match self.obstacle(wanted) {
            Some(stuck) => Decision::Stuck(stuck),
            None => Decision::Execute(Stage::of_set(key)),
        }
    }

    pub(super) fn decide_unwanted(&self, key: &RowKey, entry: &Entry) -> Decision {
        let Some(held) = entry.held() else {
            return Decision::Wait;
        };
        let is_leftover = matches!(key, RowKey::Leftover(_));
        if is_leftover && !self.table_stands(Family::V4) {
            // Until the agent's own rules are there.
            return Decision::Wait;
        }
        if self.keeps_unasked && !entry.asked_for && !is_leftover {
            return Decision::Wait;
        }
        let allowed = match held {
            Row::Route(_, spec) if spec.protocol == PROTOCOL_BGP => {
                self.deletes.any && self.deletes.bgp
            }
            // Routes that name it go with it, and nobody is told.
            Row::NextHop(id, _) => {
                self.deletes.any && self.deletes.bgp && !self.named.contains_key(id)
            }
            // The kernel's own fallback device cannot be deleted; settings of a device go with it.
            Row::Link(_, LinkSpec::Ipip { .. }) | Row::Mac(..) | Row::Sysctl(..) => false,
            _ => self.deletes.any,
        };
        if !allowed || !self.ownership.owns(held) || self.is_held_back(key, entry) {
            return Decision::Wait;
        }
        if let RowKey::Route(key) = key
            && self
                .same_destination(key)
                .any(|(_, other)| self.is_to_come(other))
        {
            return Decision::WaitForRoute;
        }
        if let RowKey::Element(element) = key
            && !self.table_stands(element.family)
        {
            // It goes with its table.
            return Decision::Wait;
        }
        Decision::Execute(Stage::of_remove(key))
    }

    /// Whether it would go but for [`Reconciler::keep_unasked`](super::Reconciler::keep_unasked).
    pub(super) fn is_kept(&self, entry: &Entry) -> bool {
        let stays_anyway = |row: &Row| {
            matches!(
                row,
                Row::Link(_, LinkSpec::Ipip { .. }) | Row::Mac(..) | Row::Sysctl(..)
            )
        };
        !entry.asked_for
            && entry
                .held()
                .is_some_and(|held| self.ownership.owns(held) && !stays_anyway(held))
    }

    /// Whether a route is wanted that the kernel does not have, and may yet take: it is being written, waits for what it
    /// builds on, or was refused and is tried again.
    fn is_to_come(&self, entry: &Entry) -> bool {
        let is_foreign = |held: &Row| !self.ownership.owns(held);
        entry.is_wanted()
            && (entry.stage.is_some()
                || entry.flight.is_some()
                || !(entry.programmed || entry.held().is_some_and(is_foreign)))
    }

    pub(super) fn is_held_back(&self, key: &RowKey, entry: &Entry) -> bool {
        entry
            .failure
            .as_ref()
            .is_some_and(|failure| self.retries.contains(&(failure.retry_at, key.clone())))
    }

    /// What must be there before a row can be written.
    pub(super) fn obstacle(&self, row: &Row) -> Option<Stuck> {
        let missing = |ifname: &IfName| !self.links.contains_key(ifname);
        let down = |ifname: &IfName| !self.links.get(ifname).is_some_and(|link| link.up);
        let needed = match row {
            Row::Link(_, LinkSpec::Vxlan { parent, .. }) => match parent {
                Parent::Unknown => return Some(Stuck::NoParent),
                Parent::Routed => None,
                Parent::Device(parent) => missing(parent).then(|| parent.clone()),
            },
            Row::Link(_, LinkSpec::Ipip { .. })
            | Row::Rules(..)
            | Row::Element(_)
            | Row::Leftover(_) => None,
            Row::Mac(name, _) => missing(name).then(|| name.clone()),
            Row::Addr(key) => missing(&key.ifname).then(|| key.ifname.clone()),
            Row::Fdb(key, _) => missing(&key.ifname).then(|| key.ifname.clone()),
            Row::Route(_, spec) if spec.kind == RouteKind::Blackhole => None,
            Row::Route(_, spec) => route_devices(spec).find(|name| down(name)).cloned(),
            Row::Neigh(..) | Row::NextHop(..) | Row::Sysctl(..) => {
                devices(row).into_iter().find(down)
            }
        };
        needed
            .map(Stuck::WaitsForDevice)
            .or_else(|| self.awaited_by(row).map(Stuck::WaitsForRow))
    }
}

/// Keys of all routes to a route's destination.
fn destination(key: &RouteKey) -> RangeInclusive<RowKey> {
    let bound = |tos, metric| {
        RowKey::Route(RouteKey {
            tos,
            metric,
            ..key.clone()
        })
    };
    bound(0, 0)..=bound(u8::MAX, u32::MAX)
}
