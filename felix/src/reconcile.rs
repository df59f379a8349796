//! The reconciler: wanted rows against the kernel's, as operations in a safe order.
//!
//! For each key it keeps what is wanted, what the kernel has (read back and notified), and the operation in flight. Rules:
//!
//! - A row that the kernel has as it is wanted is adopted without a write; another one is replaced, never deleted first.
//! - Nothing is deleted that is not [`Ownership::owns`]d, and nothing before it is allowed: routes of BGP need
//!   [`Reconciler::allow_bgp_deletes`] besides [`Reconciler::allow_deletes`]. A foreign row under a wanted key stays.
//! - While what the inputs lack may still come ([`Reconciler::keep_unasked`]), rows that nobody has wanted yet stay.
//! - Elements of a table's address sets are written and deleted one by one while the table stands; a table is written with all of
//!   its elements at the same moment.
//! - A route is not deleted while another one for the same destination is wanted and not there yet.
//! - A route through a VXLAN device waits for its gateway's neighbour and forwarding entry, one that names a next-hop object for that.
//!   An object is deleted once no route of the kernel names it. The kernel deletes routes with their object and notifies none of them:
//!   when one is lost, its routes are written again.
//! - A row on a device that does not exist, or is down, waits for it. The kernel does not notify what goes with a device
//!   that goes down, nor the IPv4 routes that go with a device's last address, so these rows are stale then: they are
//!   written again.
//! - What the kernel refuses is tried again after 100 ms, then twice as long each time, at most 30 s.

mod decide;
mod elements;
mod entry;
mod object;
mod observed;
mod ordered;
mod result;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use crate::desired::{IfName, Mac, NextHopId, Row, RowKey, RowKind, SysctlKey};
use crate::kernel::{KernelEvent, Op, OpError};
use crate::ownership::Ownership;
use decide::Decision;
use entry::{Entry, Flight, Held, Stage};
use ordered::Ordered;

/// Keeps the kernel as it is wanted.
#[derive(Debug)]
pub struct Reconciler {
    ownership: Ownership,
    entries: Ordered<RowKey, Entry>,
    links: BTreeMap<IfName, Link>,
    /// Pod's device → rows on it. Other devices change rarely: their rows are looked for.
    on_device: BTreeMap<IfName, BTreeSet<RowKey>>,
    ready: BTreeSet<(Stage, RowKey)>,
    /// Own next-hop objects that routes of the kernel name, and how many do.
    named: BTreeMap<NextHopId, usize>,
    /// Row → routes that wait for it.
    awaited: BTreeMap<RowKey, BTreeSet<RowKey>>,
    /// Routes to be deleted now, or once another one to the same destination is there.
    going: BTreeSet<RowKey>,
    retries: BTreeSet<(Instant, RowKey)>,
    /// Entries with a failure.
    failing: usize,
    in_flight: usize,
    resyncs: BTreeMap<RowKind, Resync>,
    /// Number of the last reading.
    readings: u32,
    /// Kinds that were read completely at least once.
    read: BTreeSet<RowKind>,
    deletes: Deletes,
    keeps_unasked: bool,
    news: BTreeSet<RowKey>,
    stats: Stats,
}

/// A device that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    up: bool,
    /// Unknown between the making of a device and its first notification.
    ifindex: Option<u32>,
    /// As it was last notified.
    mac: Option<Mac>,
}

/// What may be deleted.
#[derive(Clone, Copy, Debug, Default)]
struct Deletes {
    any: bool,
    bgp: bool,
}

/// A reading that is going on. Rows that it has shown, or that are known from a result or notification since it began, bear its
/// number.
#[derive(Debug)]
struct Resync {
    number: u32,
    /// Notified as gone since it began: the reading may be older than that.
    gone: BTreeSet<RowKey>,
    links: BTreeSet<IfName>,
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
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stuck {
    /// Its device does not exist or is down.
    #[error("waits for device {0}, which does not exist or is down")]
    WaitsForDevice(IfName),
    /// What it leads over is not there yet.
    #[error("waits for {0}, which is not there yet")]
    WaitsForRow(RowKey),
    /// No device of the host carries the tunnel's outer address.
    #[error("no device of the host carries the tunnel's outer address")]
    NoParent,
    /// The kernel has a foreign row with the same key.
    #[error("another program's {0} is in its place; remove that one, or what asks for this one")]
    Foreign(Row),
    /// The kernel refused; tried again later.
    #[error("{0}")]
    Failed(OpError),
}

/// How much is wanted, and how much of it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows that are wanted.
    pub wanted: usize,
    /// Wanted rows that the kernel does not have as they are wanted.
    pub pending: usize,
    /// Wanted routes that the kernel has.
    pub routes: usize,
    /// Own rows that nobody has wanted and that stay all the same ([`Reconciler::keep_unasked`]).
    pub kept: usize,
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
    /// read (sysctls and MACs excepted: these are written anyway).
    pub fn new(ownership: Ownership) -> Self {
        Self {
            ownership,
            entries: Ordered::new(),
            links: BTreeMap::new(),
            on_device: BTreeMap::new(),
            ready: BTreeSet::new(),
            named: BTreeMap::new(),
            awaited: BTreeMap::new(),
            going: BTreeSet::new(),
            retries: BTreeSet::new(),
            failing: 0,
            in_flight: 0,
            resyncs: BTreeMap::new(),
            readings: 0,
            read: BTreeSet::from([RowKind::Mac, RowKind::Sysctl]),
            deletes: Deletes::default(),
            keeps_unasked: false,
            news: BTreeSet::new(),
            stats: Stats::default(),
        }
    }

    /// This row is wanted.
    pub fn set(&mut self, row: Row) {
        let key = row.key();
        let same = |entry: &Entry| entry.wanted() == Some(&row);
        if !self.entries.get(&key).is_some_and(same) {
            self.reset_backoff(&key);
            let known = self.known_mac(&key);
            self.edit(&key, |entry| {
                if entry.is_absent()
                    && let Some(known) = known
                {
                    entry.hold(Held::Has(known));
                }
                entry.want(Some(row));
                entry.asked_for = true;
            });
        }
    }

    /// No row with this key is wanted.
    pub fn remove(&mut self, key: &RowKey) {
        if self.entries.contains_key(key) {
            self.reset_backoff(key);
            self.edit(key, |entry| {
                entry.want(None);
                if is_setting(key) {
                    entry.hold(Held::Absent);
                }
            });
        }
    }

    /// Rows of this kind are being read from the kernel. Notifications go on meanwhile.
    pub fn resync_begin(&mut self, kind: RowKind) {
        self.readings = self.readings.wrapping_add(1);
        let resync = Resync {
            number: self.readings,
            gone: BTreeSet::new(),
            links: BTreeSet::new(),
        };
        self.resyncs.insert(kind, resync);
    }

    /// A row the kernel has, foreign ones included.
    pub fn resync_entry(&mut self, row: Row) {
        let key = row.key();
        let resync = self.resyncs.get(&key.kind());
        let is_gone = resync.is_some_and(|resync| resync.gone.contains(&key));
        let held = if is_gone { Held::Stale } else { Held::Has };
        self.observe(&key, held(row));
    }

    /// All rows of this kind have been given. For [`RowKind::Link`] all devices have been given as
    /// [`KernelEvent::Link`], too, since [`resync_begin`](Self::resync_begin).
    pub fn resync_end(&mut self, kind: RowKind) {
        let Some(resync) = self.resyncs.remove(&kind) else {
            return;
        };
        if kind == RowKind::Link {
            let known = self.links.keys();
            let gone: Vec<IfName> = known
                .filter(|name| !resync.links.contains(*name))
                .cloned()
                .collect();
            for name in gone {
                self.link_gone(&name);
            }
        }
        let first = self.read.insert(kind);
        let keys: Vec<RowKey> = self
            .of_kind(kind)
            .filter(|(_, entry)| {
                let missing = !entry.is_absent() && entry.seen != resync.number;
                entry.flight.is_none() && (first || missing)
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            self.edit(&key, |entry| {
                if entry.seen != resync.number {
                    entry.hold(Held::Absent);
                }
            });
        }
    }

    /// The kernel notified something. [`KernelEvent::RulesChanged`], [`KernelEvent::RoutesChanged`] and
    /// [`KernelEvent::Overrun`] have no effect here: the caller reads again.
    pub fn kernel_event(&mut self, event: &KernelEvent) {
        match event {
            KernelEvent::Link(link) => self.link_observed(link),
            KernelEvent::LinkGone(ifname) => self.link_gone(ifname),
            KernelEvent::RowSet(row) => self.row_set(row.clone()),
            KernelEvent::RowGone(key) => self.row_gone(key),
            KernelEvent::HostAddr { .. } => self.retry_unreachable(),
            KernelEvent::HostAddrGone { ifname, addr } => self.addr_gone(ifname, addr),
            KernelEvent::RulesChanged | KernelEvent::RoutesChanged | KernelEvent::Overrun => {}
        }
    }

    /// All inputs are complete: what is not wanted may be deleted, except routes of BGP.
    pub fn allow_deletes(&mut self) {
        if !std::mem::replace(&mut self.deletes.any, true) {
            self.review_unwanted();
        }
    }

    /// The speaker's first selection is complete, and its routes have been worked off: routes of BGP that are not wanted
    /// may be deleted, too.
    pub fn allow_bgp_deletes(&mut self) {
        if !std::mem::replace(&mut self.deletes.bgp, true) {
            self.review_unwanted();
        }
    }

    /// From here on, rows that nobody has wanted stay, whatever is allowed: what asks for them may not have been written into
    /// the datastore again.
    pub const fn keep_unasked(&mut self) {
        self.keeps_unasked = true;
    }

    /// The next operation, if the caller has room for one more. Each is answered with
    /// [`handle_result`](Self::handle_result); they are to be executed in the order in which they are given.
    pub fn poll_op(&mut self, room: usize) -> Option<Op> {
        if room == 0 {
            return None;
        }
        let (stage, key) = self.ready.pop_first()?;
        if stage == Stage::RemoveNextHop && self.in_flight > 0 {
            // A route in flight may name it, and would go with it.
            self.ready.insert((stage, key));
            return None;
        }
        let entry = self
            .entries
            .get_mut(&key)
            .expect("an entry leaves `ready` before it goes");
        entry.stage = None;
        let op = match (entry.wanted(), stage) {
            (
                Some(row),
                Stage::SetLink
                | Stage::SetAddr
                | Stage::SetMac
                | Stage::SetSysctl
                | Stage::SetNeigh
                | Stage::SetRules
                | Stage::SetElement
                | Stage::SetNextHop
                | Stage::SetRoute,
            ) => Op::Set(row.clone()),
            (Some(_) | None, _) => {
                let held = entry.held().cloned();
                Op::Remove(held.expect("what is not there is not to be removed"))
            }
        };
        let whole = self.with_elements(&op);
        let op = whole.unwrap_or(op);
        let entry = (self.entries.get_mut(&key)).expect("it was there some lines above");
        entry.flight = Some(Box::new(Flight {
            op: op.clone(),
            observed: false,
        }));
        self.in_flight += 1;
        Some(op)
    }

    /// All of a kind, in order.
    fn of_kind(&self, kind: RowKind) -> impl Iterator<Item = (&RowKey, &Entry)> {
        let entries = self.entries.from(&RowKey::least(kind));
        entries.take_while(move |(key, _)| key.kind() == kind)
    }

    /// Notes that a reading of this kind of row, if one is going on, need not show this one.
    fn see(&mut self, key: &RowKey) {
        if let Some(resync) = self.resyncs.get(&key.kind())
            && let Some(entry) = self.entries.get_mut(key)
        {
            entry.seen = resync.number;
        }
    }

    /// An operation was executed.
    pub fn handle_result(&mut self, now: Instant, key: &RowKey, result: Result<(), OpError>) {
        let flight = self
            .entries
            .get_mut(key)
            .and_then(|entry| entry.flight.take());
        let Some(flight) = flight else {
            return;
        };
        let Flight { op, observed } = *flight;
        self.in_flight -= 1;
        self.see(key);
        match (op, result) {
            (Op::Set(row), Ok(())) => {
                let row = self.elements_were_set(row);
                self.was_set(now, key, row, observed);
            }
            (Op::Remove(_), Ok(())) => self.was_removed(key),
            (Op::Remove(_), Err(error)) if error.says_absent() => self.was_removed(key),
            (Op::Set(_) | Op::Remove(_), Err(error)) => self.failed(now, key, error),
        }
        self.review_destination(key);
    }

    /// Whatever is to be tried again by now.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, key)) = self.retries.first().cloned() {
            if at > now {
                break;
            }
            self.retries.remove(&(at, key.clone()));
            self.review(&key);
        }
    }

    /// When something is to be tried again.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let (at, _) = self.retries.first()?;
        Some((*at, "retry of a refused operation"))
    }

    /// A wanted row that the kernel now has.
    pub fn poll_programmed(&mut self) -> Option<RowKey> {
        self.news.pop_first()
    }

    /// Whether the row is wanted and the kernel has it.
    pub fn is_programmed(&self, key: &RowKey) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.programmed)
    }

    /// Whether this very row is wanted and the kernel has it.
    pub fn has(&self, row: &Row) -> bool {
        let entry = self.entries.get(&row.key());
        entry.is_some_and(|entry| entry.programmed && entry.wanted() == Some(row))
    }

    /// Whether nothing is in flight or to be tried again. Rows that wait for a device do not count.
    pub fn is_converged(&self) -> bool {
        self.ready.is_empty() && self.in_flight == 0 && self.retries.is_empty()
    }

    /// Rows that are not as they are wanted, sorted by key.
    pub fn problems(&self) -> Vec<RowProblem> {
        self.entries
            .iter()
            .filter_map(|(key, entry)| {
                let failure = entry.failure.as_ref();
                let reason = match (failure, self.decide(key, entry)) {
                    (_, Decision::Done) => return None,
                    (Some(failure), _) => Stuck::Failed(failure.error.clone()),
                    (None, Decision::Stuck(stuck)) => stuck,
                    (None, Decision::Wait | Decision::WaitForRoute | Decision::Execute(_)) => {
                        return None;
                    }
                };
                Some(RowProblem {
                    key: key.clone(),
                    reason,
                    attempts: failure.map_or(0, |failure| failure.attempts),
                })
            })
            .collect()
    }

    /// The sysctls that are wanted. Of most the kernel does not notify changes: the caller reads them now and then and
    /// gives what it read to [`kernel_event`](Self::kernel_event).
    pub fn wanted_sysctls(&self) -> impl Iterator<Item = &SysctlKey> {
        let entries = self.of_kind(RowKind::Sysctl);
        entries.filter_map(|(_, entry)| match entry.wanted() {
            Some(Row::Sysctl(key, _)) => Some(key),
            Some(_) | None => None,
        })
    }

    /// The addresses of a tunnel device that is as it is wanted, and takes packets, wherever their answers go. None without an
    /// address: even where the way back may be any, Linux takes no IPv4 packet in on a device that has none.
    pub fn accepting(&self, ifname: &IfName) -> BTreeSet<IpAddr> {
        if !self.takes_packets(ifname) {
            return BTreeSet::new();
        }
        let rows = self.keys_on(ifname).into_iter();
        rows.filter(|key| self.is_programmed(key))
            .filter_map(|key| match key {
                RowKey::Addr(key) => Some(key.addr.addr()),
                _ => None,
            })
            .collect()
    }

    fn takes_packets(&self, ifname: &IfName) -> bool {
        let loose = SysctlKey::of_ipv4(ifname, "rp_filter");
        let loose = self.entries.get(&RowKey::Sysctl(loose));
        self.is_programmed(&RowKey::Link(ifname.clone()))
            && self.links.get(ifname).is_some_and(|link| link.up)
            && loose.is_none_or(|entry| !entry.is_wanted() || entry.programmed)
    }

    /// The value of a sysctl that is wanted and, as far as is known, in the kernel.
    pub fn programmed_sysctl(&self, key: &SysctlKey) -> Option<&str> {
        let entry = self.entries.get(&RowKey::Sysctl(key.clone()))?;
        match entry.wanted() {
            Some(Row::Sysctl(_, value)) if entry.programmed => Some(value),
            Some(_) | None => None,
        }
    }

    /// How much is wanted, and how much of it is there. Looks at every row.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for (key, entry) in self.entries.iter() {
            if entry.is_wanted() {
                counts.wanted += 1;
                counts.pending += usize::from(!entry.programmed);
                counts.routes += usize::from(entry.programmed && key.kind() == RowKind::Route);
            } else if self.keeps_unasked && self.deletes.any {
                counts.kept += usize::from(self.is_kept(entry));
            }
        }
        counts
    }

    /// Whether the device of this name is known to be the one of this index: what was notified of a former device of the
    /// name has then been taken in.
    pub fn is_link(&self, ifname: &IfName, ifindex: u32) -> bool {
        self.links
            .get(ifname)
            .is_some_and(|link| link.ifindex == Some(ifindex))
    }

    /// Counters.
    pub const fn stats(&self) -> Stats {
        self.stats
    }

    /// Its rules of ownership.
    pub const fn ownership(&self) -> &Ownership {
        &self.ownership
    }
}

/// Whether a row is a setting of a device or the host: it has no absence in the kernel.
const fn is_setting(key: &RowKey) -> bool {
    matches!(key, RowKey::Mac(_) | RowKey::Sysctl(_))
}
