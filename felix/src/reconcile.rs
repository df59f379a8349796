//! The reconciler: wanted rows against the kernel's, as operations in a safe order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::desired::{Row, RowKey, RowKind};
use crate::kernel::{KernelEvent, Op, OpError};
use crate::ownership::Ownership;

/// Keeps the kernel as it is wanted.
#[derive(Debug)]
pub struct Reconciler {
    ownership: Ownership,
    wanted: BTreeMap<RowKey, Row>,
    ready: BTreeSet<RowKey>,
    programmed: BTreeSet<RowKey>,
    news: BTreeSet<RowKey>,
}

/// A row that is not as it is wanted, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowProblem {
    /// The row.
    pub key: RowKey,
    /// Why.
    pub reason: Stuck,
    /// Failed attempts since the last success.
    pub attempts: u32,
}

/// Why a row is not as it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// Its device does not exist or is down.
    WaitsForDevice(crate::desired::IfName),
    /// No device of the host carries the tunnel's outer address.
    NoParent,
    /// The kernel has a foreign row with the same key.
    Foreign(Row),
    /// The kernel refused; tried again later.
    Failed(OpError),
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Rows written.
    pub sets: u64,
    /// Rows deleted.
    pub removes: u64,
    /// Operations the kernel refused.
    pub failures: u64,
    /// Wanted rows found in the kernel as they are wanted, so not written.
    pub adopted: u64,
}

impl Reconciler {
    /// A reconciler that knows nothing of the kernel: no operation on a kind of row comes out before that kind has been
    /// read (sysctls excepted).
    pub fn new(ownership: Ownership) -> Self {
        Self {
            ownership,
            wanted: BTreeMap::new(),
            ready: BTreeSet::new(),
            programmed: BTreeSet::new(),
            news: BTreeSet::new(),
        }
    }

    /// This row is wanted.
    pub fn set(&mut self, row: Row) {
        let key = row.key();
        self.wanted.insert(key.clone(), row);
        self.ready.insert(key);
    }

    /// No row with this key is wanted.
    pub fn remove(&mut self, key: &RowKey) {
        self.wanted.remove(key);
    }

    /// Rows of this kind are being read from the kernel.
    pub fn resync_begin(&mut self, kind: RowKind) {
        let _ = kind;
    }

    /// A row the kernel has, foreign ones included.
    pub fn resync_entry(&mut self, row: Row) {
        let _ = row;
    }

    /// All rows of this kind have been given. For [`RowKind::Link`] all devices have been given as
    /// [`KernelEvent::Link`], too.
    pub fn resync_end(&mut self, kind: RowKind) {
        let _ = kind;
    }

    /// The kernel told something. [`KernelEvent::Overrun`] has no effect here: the caller reads everything again.
    pub fn kernel_event(&mut self, event: &KernelEvent) {
        let _ = event;
    }

    /// All inputs are complete: what is not wanted may be deleted, except routes of BGP.
    pub fn allow_deletes(&mut self) {}

    /// The speaker's first selection is complete: routes of BGP that are not wanted may be deleted, too.
    pub fn allow_bgp_deletes(&mut self) {}

    /// The next operation, if the caller has room for one more. Each is answered with
    /// [`handle_result`](Self::handle_result); they are to be executed in the order in which they are given.
    pub fn poll_op(&mut self, room: usize) -> Option<Op> {
        if room == 0 {
            return None;
        }
        let key = self.ready.pop_first()?;
        self.wanted.get(&key).cloned().map(Op::Set)
    }

    /// An operation was executed.
    pub fn handle_result(&mut self, now: Instant, key: &RowKey, result: Result<(), OpError>) {
        let _ = now;
        if result.is_ok() {
            self.programmed.insert(key.clone());
            self.news.insert(key.clone());
        }
    }

    /// Whatever is to be tried again by now.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// When something is to be tried again.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }

    /// A wanted row that the kernel now has.
    pub fn poll_programmed(&mut self) -> Option<RowKey> {
        self.news.pop_first()
    }

    /// Whether the row is wanted and the kernel has it.
    pub fn is_programmed(&self, key: &RowKey) -> bool {
        self.programmed.contains(key)
    }

    /// Whether every wanted row is in the kernel and nothing else of ours is, as far as deletes are allowed.
    pub fn is_converged(&self) -> bool {
        self.ready.is_empty()
    }

    /// Rows that are not as they are wanted, sorted by key.
    pub fn problems(&self) -> Vec<RowProblem> {
        Vec::new()
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }

    /// Its rules of ownership.
    pub const fn ownership(&self) -> &Ownership {
        &self.ownership
    }
}
