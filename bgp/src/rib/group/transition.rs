//! A member that gets another group key moves to another group, and is told what that group says otherwise.
//!
//! The group it leaves stays, having a *dependent*, until all prefixes were compared, a slice at a time: what it said is
//! known by the ids in `sent`. What it packs in the meantime its dependents miss.

use crate::rib::group::member::{Member, Walk};
use crate::rib::group::{Group, id_of};
use crate::rib::source::SourceId;
use crate::rib::table::{Place, Table};

/// Where a member comes from: of each prefix it knows what that group said, and is told what this one says otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transition {
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
    member: Member,
    /// As it was in the group that the member left.
    pub(crate) former: Option<Transition>,
}

impl Moving {
    /// The member may have been told something of a place by the group before the one it left.
    pub(crate) fn miss(&mut self, table: &mut Table, place: Place) {
        self.member.miss(table, place);
    }
}

impl Group {
    pub(crate) fn add_dependent(&mut self) {
        self.dependents += 1;
    }

    pub(crate) fn remove_dependent(&mut self) {
        self.dependents -= 1;
        if self.dependents == 0 {
            self.repacked = Vec::new();
        }
    }

    /// Removes a member that goes to another group: what it has not got yet, it misses there.
    pub(crate) fn depart(&mut self, table: &mut Table, peer: SourceId) -> Option<Moving> {
        let unread = self.log.unread(self.members.get(&peer)?);
        let mut member = self.remove_member(table, peer)?;
        for (prefix, number) in unread {
            member.miss_prefix(table, prefix, number);
        }
        for place in std::mem::take(&mut member.pending) {
            member.miss(table, place);
            table.unhold(place.id);
        }
        let former = member.transition;
        member.transition = Some(Transition {
            from: self.serial,
            next: 0,
            forced_from: former.map_or(usize::MAX, |former| former.next),
        });
        if let Some(walk) = &mut member.walk {
            *walk = Walk::refresh(walk.enhanced);
        }
        Some(Moving { member, former })
    }

    /// Adds a member that comes from another group.
    pub(crate) fn admit(&mut self, peer: SourceId, moving: Moving) {
        let mut member = moving.member;
        self.awaiting_end_of_rib += usize::from(member.awaits_end_of_rib);
        member.chunk = self.log.end();
        member.offset = 0;
        self.members.insert(peer, member);
    }

    /// Places that the group has sent, from a prefix id on.
    pub(crate) fn sent_from(&self, first: usize) -> impl Iterator<Item = Place> {
        let sent = self.sent.iter().enumerate().skip(first);
        let sent = sent.filter(|(_, sent)| sent.is_some());
        let others = self.others_of(first..self.sent.len().max(first));
        sent.map(|(index, _)| Place::from(id_of(index)))
            .chain(others.map(|(place, _)| place))
    }

    /// Serial number of the group that a member comes from.
    pub(crate) fn origin_of(&self, peer: SourceId) -> Option<u64> {
        Some(self.members.get(&peer)?.transition?.from)
    }

    /// Places that this group packed while others were told the differences to it.
    pub(crate) fn take_repacked(&mut self) -> Vec<Place> {
        std::mem::take(&mut self.repacked)
    }

    /// The members that come from `origin` do not know what it says of these places any more.
    pub(crate) fn miss_repacked(&mut self, table: &mut Table, origin: u64, places: &[Place]) {
        for member in self.members.values_mut() {
            if let Some(transition) = member.transition
                && transition.from == origin
            {
                let is_unknown = |place: &&Place| place.id.index() >= transition.next;
                let unknown = places.iter().filter(is_unknown);
                unknown.for_each(|place| member.miss(table, *place));
            }
        }
    }

    /// Finds out, for a slice of the prefixes, what a member is to be told that comes from another group.
    pub(super) fn compare(
        &mut self,
        table: &mut Table,
        peer: SourceId,
        origin: &Self,
        transition: Transition,
    ) {
        let all = origin.sent.len().max(self.sent.len());
        let next = (transition.next + self.slice).min(all);
        // Neighbours mostly share a set.
        let mut compared = None;
        let mut differs = |place: &Place| {
            let (was, is) = match (origin.told(peer, *place), self.told(peer, *place)) {
                (None, None) => return false,
                (Some(_), None) | (None, Some(_)) => return true,
                (Some(_), Some(_)) if place.id.index() >= transition.forced_from => return true,
                (Some(was), Some(is)) => (was, is),
            };
            match compared {
                Some((pair, differs)) if pair == (was, is) => differs,
                Some(_) | None => {
                    let differs = !origin.looks_same(table, was, self, is);
                    compared = Some(((was, is), differs));
                    differs
                }
            }
        };
        // Of what both have, one is as good as the other, and twice is once.
        let ids = transition.next..next;
        let others = origin
            .others_of(ids.clone())
            .chain(self.others_of(ids.clone()));
        let places = ids.map(|index| Place::from(id_of(index)));
        let places = places.chain(others.map(|(place, _)| place));
        let differing: Vec<Place> = places.filter(|place| differs(place)).collect();
        if let Some(member) = self.members.get_mut(&peer) {
            let differing = differing.iter();
            differing.for_each(|place| member.miss(table, *place));
            member.transition = (next < all).then_some(Transition { next, ..transition });
        }
    }

    /// The group that the member came from is gone, and with it all it could be compared with.
    pub(super) fn end_transition(&mut self, peer: SourceId) {
        if let Some(member) = self.members.get_mut(&peer) {
            member.transition = None;
        }
    }
}
