//! What a group knows of one peer.

use ipnet::IpNet;

use crate::rib::group::transition::Transition;
use crate::rib::ids::IdSet;
use crate::rib::table::{PrefixId, Table};

/// A peer of the group. Each id in `pending` and `missed` is held in the table.
#[derive(Debug)]
pub(super) struct Member {
    /// Chunk to read next, and the place in it.
    pub(super) chunk: u64,
    pub(super) offset: usize,
    /// Prefixes to write next.
    pub(super) pending: Vec<PrefixId>,
    /// Prefixes whose present state it must be told.
    pub(super) missed: IdSet,
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
            transition: None,
            walk: None,
            awaits_end_of_rib: false,
        }
    }

    /// It does not know the present state of a prefix.
    pub(super) fn miss(&mut self, table: &mut Table, id: PrefixId) {
        if self.missed.insert(id) {
            table.hold(id);
        }
    }

    /// As [`Self::miss`], of a prefix that may have no id any more.
    pub(super) fn miss_prefix(&mut self, table: &mut Table, prefix: IpNet) {
        let id = table.find_or_add(prefix);
        self.miss(table, id);
    }

    /// Names no prefix any more.
    pub(super) fn forget_all(&mut self, table: &mut Table) {
        let missed = std::iter::from_fn(|| self.missed.pop_first());
        let all = std::mem::take(&mut self.pending).into_iter().chain(missed);
        all.for_each(|id| table.unhold(id));
    }
}
