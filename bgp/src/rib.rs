//! Routes: what peers sent, what we chose, what we send.
//!
//! ```text
//!  UPDATE ─► Adj-RIB-In ─► decision ─► Loc-RIB ─► Adj-RIB-Out, one per group of peers ─► UPDATE
//!            (paths of a prefix, table.rs)   └──► changes for poll_route      (group.rs)
//! ```
//! Attribute sets are interned, prefixes have dense ids: a path is three small numbers. An Adj-RIB-Out entry is two: the source
//! of the route, and the id of the set that was sent (exported.rs).

pub(crate) mod decision;
pub(crate) mod export;
pub(crate) mod exported;
pub(crate) mod group;
pub(crate) mod ids;
pub(crate) mod intern;
pub(crate) mod packed;
pub(crate) mod source;
pub(crate) mod table;

use std::net::IpAddr;

use crate::rib::group::{Group, GroupKey, Transition};
use crate::rib::source::SourceId;
use crate::rib::table::{PathKey, Place, PrefixId, Table};
use crate::route::Reachability;
use crate::types::AfiSafi;

/// See [`Rib::slice`].
const SLICE: usize = 8192;

/// Table and Adj-RIBs-Out together.
#[derive(Debug)]
pub(crate) struct Rib {
    pub(crate) table: Table,
    groups: Vec<Group>,
    groups_made: u64,
    /// Most prefixes that a group looks at between two glances at the room that is left.
    slice: usize,
    /// Groups that give back what they hold.
    dissolving: Vec<Group>,
    /// Peers whose transmission was interrupted.
    paused: Vec<SourceId>,
    /// Peers that have something to be sent since they had nothing.
    woken: Vec<SourceId>,
    /// End-of-RIB may be sent (RFC 4724 §4.1).
    pub(crate) end_of_rib_allowed: bool,
    /// It could be after the last decisions: nothing was left to decide. Who joins then needs no other call.
    end_of_rib_open: bool,
}

/// What a peer's session needs of its Adj-RIB-Out.
pub(crate) enum Transmitted {
    /// The room is used up.
    Full,
    /// Nothing is left to send.
    Drained,
    /// Slices of work were done and others are to have their turn: [`Rib::resume`] wakes the peer.
    Paused,
}

impl Rib {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            table: Table::new(seed),
            groups: Vec::new(),
            groups_made: 0,
            slice: SLICE,
            dissolving: Vec::new(),
            paused: Vec::new(),
            woken: Vec::new(),
            end_of_rib_allowed: true,
            end_of_rib_open: false,
        }
    }

    /// Decides at most `budget` prefixes; true when work is left.
    pub(crate) fn decide(&mut self, budget: usize) -> bool {
        for _ in 0..budget {
            let Some(id) = self.table.next_undecided() else {
                break;
            };
            let best_changed = self.table.decide(id);
            self.mark_dirty(id, best_changed);
            self.table.free_if_unused(id);
        }
        let left = self.has_work();
        if !left {
            self.trim();
        }
        let open = self.end_of_rib_allowed && !left;
        if open && !self.end_of_rib_open {
            self.wake_for_end_of_rib();
        }
        self.end_of_rib_open = open;
        left
    }

    /// Prefixes wait for their decision, or are to be found first.
    pub(crate) fn has_work(&self) -> bool {
        self.table.has_undecided() || self.table.is_sweeping()
    }

    /// Gives memory back after a flood.
    fn trim(&mut self) {
        if self.table.trim() {
            for group in &mut self.groups {
                group.trim(&self.table);
            }
        }
    }

    /// Visits at most `budget` prefixes for what touches many at once. Returns the paths to check anew.
    pub(crate) fn sweep(&mut self, budget: usize) -> Vec<(PrefixId, PathKey)> {
        let to_check = self.table.sweep(budget);
        for id in self.table.take_readvertised() {
            self.mark_dirty(id, true);
        }
        to_check
    }

    /// A prefix's paths changed, and perhaps the best of them.
    fn mark_dirty(&mut self, id: PrefixId, best_changed: bool) {
        let family = self.table.family(id);
        for group in &mut self.groups {
            if group.family() == family && (best_changed || group.key().add_paths) {
                group.mark_dirty(&mut self.table, id, &mut self.woken);
            }
        }
    }

    fn wake_for_end_of_rib(&mut self) {
        for group in &mut self.groups {
            self.woken.extend(group.members_awaiting_end_of_rib());
        }
    }

    /// Does a slice of what has nothing to do with decisions, and lets interrupted transmissions go on.
    pub(crate) fn resume(&mut self, budget: usize) {
        self.woken.append(&mut self.paused);
        let table = &mut self.table;
        if let Some(group) = self.dissolving.last_mut()
            && !group.dissolve(table, budget)
        {
            self.dissolving.pop();
        }
    }

    /// There is something for [`Self::resume`].
    pub(crate) const fn is_interrupted(&self) -> bool {
        !self.paused.is_empty() || !self.dissolving.is_empty()
    }

    /// Puts a peer's family under a group key: everything that is for it will be sent. Under another key
    /// before, it gets the differences to what it was sent.
    pub(crate) fn join(&mut self, peer: SourceId, key: GroupKey) {
        let old = self.position(peer, key.family);
        if old.is_some_and(|old| *self.groups[old].key() == key) {
            return;
        }
        let new = self.groups.iter().position(|group| *group.key() == key);
        let new = new.unwrap_or_else(|| {
            self.groups_made += 1;
            let group = Group::new(key, self.groups_made, self.slice);
            self.groups.push(group);
            self.groups.len() - 1
        });
        self.woken.push(peer);
        let table = &mut self.table;
        let moving = old.and_then(|old| self.groups[old].depart(table, peer));
        match (old, moving) {
            (Some(old), Some(mut moving)) => {
                if let Some(former) = moving.former
                    && let Some(before) = self.by_serial(former.from)
                {
                    let told: Vec<Place> = before.sent_from(former.next).collect();
                    told.into_iter()
                        .for_each(|place| moving.miss(&mut self.table, place));
                }
                let former = moving.former;
                self.groups[old].add_dependent();
                self.groups[new].admit(peer, moving);
                self.end_transition(former);
            }
            (_, _) => self.groups[new].join(peer),
        }
        self.share_log();
        self.remove_unused();
    }

    fn position(&self, peer: SourceId, family: AfiSafi) -> Option<usize> {
        self.groups
            .iter()
            .position(|group| group.family() == family && group.has(peer))
    }

    fn by_serial(&self, serial: u64) -> Option<&Group> {
        self.groups.iter().find(|group| group.serial() == serial)
    }

    /// A member needs the group it came from no more.
    fn end_transition(&mut self, transition: Option<Transition>) {
        let origin = transition.map(|transition| transition.from);
        let origin = |group: &&mut Group| Some(group.serial()) == origin;
        if let Some(group) = self.groups.iter_mut().find(origin) {
            group.remove_dependent();
        }
    }

    fn remove_unused(&mut self) {
        let before = self.dissolving.len();
        let unused = self.groups.extract_if(.., |group| group.is_unused());
        self.dissolving.extend(unused);
        if self.dissolving.len() > before {
            self.share_log();
        }
    }

    fn share_log(&mut self) {
        let count = self.groups.len();
        for group in &mut self.groups {
            group.share_log(count);
        }
    }

    /// Ends what is sent to a peer of one family.
    pub(crate) fn leave(&mut self, peer: SourceId, family: AfiSafi) {
        if let Some(position) = self.position(peer, family) {
            let transition = self.groups[position].leave(&mut self.table, peer);
            self.end_transition(transition);
            self.remove_unused();
        }
    }

    /// Sends everything of the family again; `enhanced` puts BoRR and EoRR around it (RFC 7313 §4).
    pub(crate) fn refresh(&mut self, peer: SourceId, family: AfiSafi, enhanced: bool) {
        for group in &mut self.groups {
            if group.family() == family && group.has(peer) {
                group.refresh(peer, enhanced);
                self.woken.push(peer);
            }
        }
    }

    /// Appends messages for `peer` until `room` octets were appended.
    pub(crate) fn transmit(
        &mut self,
        peer: SourceId,
        room: usize,
        out: &mut Vec<u8>,
    ) -> Transmitted {
        let end = out.len().saturating_add(room);
        let end_of_rib = self.end_of_rib_allowed && !self.has_work();
        for position in 0..self.groups.len() {
            if !self.groups[position].has(peer) {
                continue;
            }
            match self.transmit_of(position, peer, end_of_rib, (out, end)) {
                Transmitted::Full => return Transmitted::Full,
                Transmitted::Paused => {
                    self.paused.push(peer);
                    return Transmitted::Paused;
                }
                Transmitted::Drained => {}
            }
        }
        self.remove_unused();
        Transmitted::Drained
    }

    /// What one group has for a peer.
    fn transmit_of(
        &mut self,
        position: usize,
        peer: SourceId,
        end_of_rib: bool,
        out: (&mut Vec<u8>, usize),
    ) -> Transmitted {
        let from = self.groups[position].origin_of(peer);
        let origin = from.and_then(|from| {
            let is_origin = |group: &Group| group.serial() == from;
            self.groups.iter().position(is_origin)
        });
        let mut pair = None;
        if let Some(origin) = origin {
            pair = self.groups.get_disjoint_mut([position, origin]).ok();
        }
        let transmitted = match pair {
            Some([group, origin]) => {
                let result = group.transmit(&mut self.table, peer, Some(origin), end_of_rib, out);
                if group.origin_of(peer).is_none() {
                    origin.remove_dependent();
                }
                result
            }
            None => {
                let group = &mut self.groups[position];
                group.transmit(&mut self.table, peer, None, end_of_rib, out)
            }
        };
        let repacked = self.groups[position].take_repacked();
        if !repacked.is_empty() {
            let serial = self.groups[position].serial();
            for group in &mut self.groups {
                group.miss_repacked(&mut self.table, serial, &repacked);
            }
        }
        transmitted
    }

    /// Next peer that has something to be sent since it had nothing; repeats are possible.
    pub(crate) fn next_woken(&mut self) -> Option<SourceId> {
        self.woken.pop()
    }

    /// Prefixes in a peer's Adj-RIB-Out.
    pub(crate) fn advertised(&self, peer: SourceId, family: AfiSafi) -> usize {
        self.groups
            .iter()
            .filter(|group| group.family() == family && group.has(peer))
            .map(|group| group.advertised(peer))
            .sum()
    }

    /// Routes that a group could not send since it was last asked.
    pub(crate) fn take_withheld(&mut self) -> Vec<(SourceId, group::Withheld)> {
        let mut all = Vec::new();
        for group in &mut self.groups {
            all.extend(group.take_withheld());
        }
        all
    }

    /// The way to a next hop changed.
    pub(crate) fn set_next_hop(&mut self, next_hop: IpAddr, reachability: Reachability) {
        self.table.set_next_hop(next_hop, reachability);
    }
}
