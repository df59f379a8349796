//! What a group knows of one peer.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::rib::group::transition::Transition;
use crate::rib::ids::IdSet;
use crate::rib::table::{Place, Table};

/// A peer of the group. The prefix of each place in `pending` and of what it missed is held in the table.
#[derive(Debug)]
pub(super) struct Member {
    /// Chunk to read next, and the place in it.
    pub(super) chunk: u64,
    pub(super) offset: usize,
    /// Places to write next.
    pub(super) pending: Vec<Place>,
    /// Prefixes of whose first place it must be told the present state.
    pub(super) missed: IdSet,
    /// Other places of which it must be told that.
    pub(super) missed_others: BTreeSet<Place>,
    pub(super) transition: Option<Transition>,
    pub(super) walk: Option<Walk>,
    pub(super) awaits_end_of_rib: bool,
}

/// A pass through everything sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    pub(super) next: usize,
    /// What follows comes by the log.
    pub(super) end: usize,
    /// BoRR and EoRR stand around it (RFC 7313 §4).
    pub(super) enhanced: bool,
}

impl Walk {
    /// For a member that holds nothing; ids from `end` on come by the log.
    pub(super) const fn initial(end: usize) -> Self {
        Self {
            next: 0,
            end,
            enhanced: false,
        }
    }

    pub(super) const fn refresh(enhanced: bool) -> Self {
        Self {
            next: 0,
            end: usize::MAX,
            enhanced,
        }
    }
}

impl Member {
    /// A member that waits for this chunk and for nothing else.
    pub(super) fn at(chunk: u64) -> Self {
        Self {
            chunk,
            offset: 0,
            pending: Vec::new(),
            missed: IdSet::default(),
            missed_others: BTreeSet::new(),
            transition: None,
            walk: None,
            awaits_end_of_rib: false,
        }
    }

    /// It does not know the present state of a place.
    pub(super) fn miss(&mut self, table: &mut Table, place: impl Into<Place>) {
        let place = place.into();
        let is_new = match place.number {
            0 => self.missed.insert(place.id),
            _ => self.missed_others.insert(place),
        };
        if is_new {
            table.hold(place.id);
        }
    }

    /// As [`Self::miss`], of a prefix that may have no id any more.
    pub(super) fn miss_prefix(&mut self, table: &mut Table, prefix: IpNet, number: u16) {
        let id = table.find_or_add(prefix);
        self.miss(table, Place { id, number });
    }

    pub(super) fn has_missed(&self) -> bool {
        !(self.missed.is_empty() && self.missed_others.is_empty())
    }

    /// Removes a place from what it missed. Its prefix stays held.
    pub(super) fn pop_missed(&mut self) -> Option<Place> {
        let first = self.missed.pop_first().map(Place::from);
        first.or_else(|| self.missed_others.pop_first())
    }

    /// Names no prefix any more.
    pub(super) fn forget_all(&mut self, table: &mut Table) {
        let pending = std::mem::take(&mut self.pending);
        let missed = std::iter::from_fn(|| self.pop_missed());
        let all = pending.into_iter().chain(missed);
        all.for_each(|place| table.unhold(place.id));
    }
}
