//! A member that gets another export treatment moves to another group, and is told what that group says otherwise.
//!
//! The group it leaves stays, a *follower* having it, until all prefixes were compared, a slice at a time. If it has members
//! still, what it packs in the meantime is owed to the follower; if it has none, it packs nothing, and a changed prefix is
//! known by the mark.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use ipnet::IpNet;

use crate::rib::group::{Group, Walk, chunk_index, prefixes_in};
use crate::rib::source::SourceId;
use crate::rib::table::{PrefixId, Table};

/// Where a member comes from: of each prefix it knows what that group said, and is told what this one says otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transit {
    /// Serial number of the group it was in.
    pub(crate) from: u64,
    /// Prefix to compare next.
    pub(crate) next: usize,
    /// From this id on it is not known what the member was told, so it is told everything: it left that group, too, before
    /// it knew all of it.
    forced_from: usize,
}

/// A member on its way from one group to another.
#[derive(Debug)]
pub(crate) struct Moving {
    pub(super) private: VecDeque<Bytes>,
    pub(crate) owed: BTreeSet<IpNet>,
    /// As it was in the group it leaves.
    pub(crate) former: Option<Transit>,
    pub(super) transit: Option<Transit>,
    pub(super) walk: Option<Walk>,
    pub(super) owes_end_of_rib: bool,
}

impl Group {
    pub(crate) fn add_follower(&mut self) {
        self.followers += 1;
    }

    pub(crate) fn remove_follower(&mut self) {
        self.followers -= 1;
        if self.followers == 0 {
            self.repacked = Vec::new();
        }
    }

    /// What a member takes along to another group, to be told there what that group says otherwise.
    pub(crate) fn moving(&self, peer: SourceId) -> Moving {
        let member = &self.members[&peer];
        let mut owed = member.owed.clone();
        let unread = chunk_index(member.chunk, self.log_start);
        for (index, chunk) in self.log.iter().enumerate().skip(unread) {
            let read = if index == unread { member.offset } else { 0 };
            owed.extend(prefixes_in(&chunk.bytes[read..], &self.key));
        }
        let again = |walk: Walk| Walk {
            next: 0,
            end: usize::MAX,
            ..walk
        };
        Moving {
            private: member.private.clone(),
            owed,
            former: member.transit,
            transit: Some(Transit {
                from: self.serial,
                next: 0,
                forced_from: member.transit.map_or(usize::MAX, |transit| transit.next),
            }),
            walk: member.walk.map(again),
            owes_end_of_rib: member.owes_end_of_rib,
        }
    }

    /// Prefixes that changed and were not packed, for a member that knows this group's state from an id on.
    pub(crate) fn changed_from(&self, table: &Table, first: usize) -> Vec<IpNet> {
        let ids = self.dirty.iter().filter(|id| id.index() >= first);
        ids.map(|id| table.prefix(*id)).collect()
    }

    /// Serial number of the group that a member comes from.
    pub(crate) fn origin_of(&self, peer: SourceId) -> Option<u64> {
        Some(self.members.get(&peer)?.transit?.from)
    }

    /// Prefixes that this group packed while others were told the differences to it.
    pub(crate) fn take_repacked(&mut self) -> Vec<PrefixId> {
        std::mem::take(&mut self.repacked)
    }

    /// The members that come from `origin` do not know what it says of these prefixes any more.
    pub(crate) fn owe_followers(&mut self, table: &Table, origin: u64, ids: &[PrefixId]) {
        for member in self.members.values_mut() {
            if let Some(transit) = member.transit
                && transit.from == origin
            {
                let unknown = ids.iter().filter(|id| id.index() >= transit.next);
                member.owed.extend(unknown.map(|id| table.prefix(*id)));
            }
        }
    }

    /// Finds out, for a slice of the prefixes, what a member is to be told that comes from another group.
    pub(super) fn compare(
        &mut self,
        table: &Table,
        peer: SourceId,
        origin: &Self,
        transit: Transit,
    ) {
        let all = origin.sent.len().max(self.sent.len());
        let next = (transit.next + self.slice).min(all);
        let differing: Vec<IpNet> = (transit.next..next)
            .map(|index| PrefixId(u32::try_from(index).expect("ids are 32 bit")))
            .filter(|id| self.differs(table, peer, origin, *id, transit.forced_from))
            .map(|id| table.prefix(id))
            .collect();
        if let Some(member) = self.members.get_mut(&peer) {
            member.owed.extend(differing);
            member.transit = (next < all).then_some(Transit { next, ..transit });
        }
    }

    fn differs(
        &self,
        table: &Table,
        peer: SourceId,
        origin: &Self,
        id: PrefixId,
        forced_from: usize,
    ) -> bool {
        let sent = |group: &Self| {
            let sent = group.sent.get(id.index()).copied().flatten();
            sent.filter(|sent| sent.source != peer)
        };
        // What it was sent is of a route that is gone, and perhaps its peer is.
        if origin.is_dirty.get(id.index()) == Some(&true) {
            return true;
        }
        if id.index() >= forced_from {
            return table.is_in_use(id) && table.family(id) == self.key.family;
        }
        match (sent(origin), sent(self)) {
            (None, None) => false,
            (Some(was), Some(is)) => self.made_of(table, id, is) != origin.made_of(table, id, was),
            (Some(_), None) | (None, Some(_)) => true,
        }
    }
}
