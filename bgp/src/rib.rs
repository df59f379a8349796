//! Routes: what peers sent, what we chose, what we send.
//!
//! ```text
//!  UPDATE ─► Adj-RIB-In ─► decision ─► Loc-RIB ─► Adj-RIB-Out, one per group of peers ─► UPDATE
//!            (paths of a prefix, table.rs)   └──► changes for poll_route      (group.rs)
//! ```
//! Attribute sets are interned, prefixes have dense ids: a path is three small numbers, an Adj-RIB-Out entry two:
//! what was sent is not kept, since it can be made again of the best route.

pub(crate) mod decision;
pub(crate) mod export;
pub(crate) mod group;
pub(crate) mod intern;
pub(crate) mod packed;
pub(crate) mod policy;
pub(crate) mod source;
pub(crate) mod table;

use std::net::IpAddr;

use crate::rib::group::{Group, GroupKey};
use crate::rib::source::SourceId;
use crate::rib::table::{PrefixId, Table};
use crate::route::Reachability;
use crate::types::AfiSafi;

/// Table and Adj-RIBs-Out together.
#[derive(Debug)]
pub(crate) struct Rib {
    pub(crate) table: Table,
    groups: Vec<Group>,
    /// Peers that have something to be sent since they had nothing.
    woken: Vec<SourceId>,
    /// End-of-RIB may be sent (RFC 4724 §4.1).
    pub(crate) end_of_rib_allowed: bool,
}

/// What a peer's session needs of its Adj-RIB-Out.
pub(crate) enum Transmitted {
    /// The room is used up.
    Full,
    /// Nothing is left to send.
    Drained,
}

impl Rib {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            table: Table::new(seed),
            groups: Vec::new(),
            woken: Vec::new(),
            end_of_rib_allowed: true,
        }
    }

    /// Decides at most `budget` prefixes; true when work is left.
    pub(crate) fn decide(&mut self, budget: usize) -> bool {
        for _ in 0..budget {
            let Some(id) = self.table.next_undecided() else {
                break;
            };
            if self.table.decide(id) {
                self.mark_dirty(id);
            }
            self.table.free_if_unused(id);
        }
        let left = self.has_work();
        if !left && self.end_of_rib_allowed {
            self.wake_for_end_of_rib();
        }
        left
    }

    /// Prefixes wait for their decision, or are to be found first.
    pub(crate) fn has_work(&self) -> bool {
        self.table.has_undecided() || self.table.is_sweeping()
    }

    fn mark_dirty(&mut self, id: PrefixId) {
        let family = self.table.family(id);
        for group in &mut self.groups {
            if group.family() == family {
                group.mark_dirty(&mut self.table, id, &mut self.woken);
            }
        }
    }

    fn wake_for_end_of_rib(&mut self) {
        for group in &mut self.groups {
            self.woken.extend(group.members_owing_end_of_rib());
        }
    }

    /// Puts a peer's family under an export treatment: everything that is for it will be sent. Under another treatment
    /// before, it gets the differences to what it was sent; to find them, all that the new treatment makes of the
    /// table is packed at once.
    pub(crate) fn join(&mut self, peer: SourceId, key: GroupKey) {
        let family = key.family;
        let old = self
            .groups
            .iter()
            .position(|group| group.family() == family && group.has(peer));
        if old.is_some_and(|old| *self.groups[old].key() == key) {
            return;
        }
        let new = self.groups.iter().position(|group| *group.key() == key);
        let new = new.unwrap_or_else(|| {
            let mut group = Group::new(key);
            for id in self.table.ids_of(family) {
                group.mark_dirty(&mut self.table, id, &mut self.woken);
            }
            self.groups.push(group);
            self.groups.len() - 1
        });
        self.woken.push(peer);
        let Some(old) = old else {
            self.groups[new].join(peer);
            return;
        };
        self.groups[new].pack_all(&mut self.table);
        let moving = self.groups[old].moving(&self.table, peer, &self.groups[new]);
        self.groups[old].leave(peer);
        self.groups[new].admit(peer, moving);
        if self.groups[old].is_empty() {
            self.groups.swap_remove(old).dissolve(&mut self.table);
        }
    }

    /// Ends what is sent to a peer of one family.
    pub(crate) fn leave(&mut self, peer: SourceId, family: AfiSafi) {
        let Some(position) = self
            .groups
            .iter()
            .position(|group| group.family() == family && group.has(peer))
        else {
            return;
        };
        self.groups[position].leave(peer);
        if self.groups[position].is_empty() {
            self.groups.swap_remove(position).dissolve(&mut self.table);
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
        for group in &mut self.groups {
            if group.has(peer)
                && let Transmitted::Full =
                    group.transmit(&mut self.table, peer, end, end_of_rib, out)
            {
                return Transmitted::Full;
            }
        }
        Transmitted::Drained
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
