//! The reconciler: wanted rows against the kernel's, as operations in a safe order.
//!
//! For each key it keeps what is wanted, what the kernel has (read back and told), and the operation under way. Rules:
//!
//! - A row that the kernel has as it is wanted is adopted without a write; another one is replaced, never deleted first.
//! - Nothing is deleted that is not [`Ownership::owns`]d, and nothing before it is allowed: routes of BGP need
//!   [`Reconciler::allow_bgp_deletes`] besides [`Reconciler::allow_deletes`]. A foreign row under a wanted key stays.
//! - A route is not deleted while another one for the same destination is about to be written.
//! - A row on a device that does not exist, or is down, waits for it. A device that goes down takes its routes and
//!   neighbours along without a word, so they are written again when it is back.
//! - What the kernel refuses is tried again after 100 ms, then twice as long each time, at most 30 s.

mod entry;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::desired::{IfName, LinkSpec, RouteKey, RouteKind, Row, RowKey, RowKind};
use crate::kernel::{KernelEvent, LinkState, Op, OpError};
use crate::ownership::{Ownership, PROTOCOL_BGP, is_tunnel};
use entry::{Entry, Failure, Flight, Held, Stage, devices, matches, same_device};

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Times in a row that the kernel may show another row than was written before writing slows down.
const REPEATS_MAX: u32 = 3;

/// errno(3): what a deletion answers when there is nothing to delete.
const NOTHING_THERE: [i32; 5] = [2, 3, 6, 19, 99]; // ENOENT, ESRCH, ENXIO, ENODEV, EADDRNOTAVAIL

/// Keeps the kernel as it is wanted.
#[derive(Debug)]
pub struct Reconciler {
    ownership: Ownership,
    entries: BTreeMap<RowKey, Entry>,
    links: BTreeMap<IfName, Link>,
    /// Pod's device → rows on it. Other devices change rarely: their rows are looked for.
    on_device: BTreeMap<IfName, BTreeSet<RowKey>>,
    ready: BTreeSet<(Stage, RowKey)>,
    retries: BTreeSet<(Instant, RowKey)>,
    in_flight: usize,
    resyncs: BTreeMap<RowKind, Resync>,
    /// Kinds that were read completely at least once.
    read: BTreeSet<RowKind>,
    deletes: Deletes,
    news: BTreeSet<RowKey>,
    stats: Stats,
}

/// A device that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    up: bool,
    /// Unknown between the making of a device and its first notification.
    ifindex: Option<u32>,
}

/// What may be deleted.
#[derive(Clone, Copy, Debug, Default)]
struct Deletes {
    any: bool,
    bgp: bool,
}

/// A reading that is going on.
#[derive(Debug, Default)]
struct Resync {
    /// Told by the reading, or known from a result or notification since it began.
    known: BTreeSet<RowKey>,
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
    /// No device of the host carries the tunnel's outer address.
    #[error("no device of the host carries the tunnel's outer address")]
    NoParent,
    /// The kernel has a foreign row with the same key.
    #[error("a foreign row is in its place: {0:?}")]
    Foreign(Row),
    /// The kernel refused; tried again later.
    #[error("the kernel refused: {0}")]
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

/// What is to be done about a row.
enum Decision {
    /// It is as it is wanted.
    Done,
    /// Nothing, for now.
    Rest,
    Stuck(Stuck),
    Give(Stage),
}

impl Reconciler {
    /// A reconciler that knows nothing of the kernel: no operation on a kind of row comes out before that kind has been
    /// read (sysctls excepted).
    pub fn new(ownership: Ownership) -> Self {
        Self {
            ownership,
            entries: BTreeMap::new(),
            links: BTreeMap::new(),
            on_device: BTreeMap::new(),
            ready: BTreeSet::new(),
            retries: BTreeSet::new(),
            in_flight: 0,
            resyncs: BTreeMap::new(),
            read: BTreeSet::from([RowKind::Sysctl]),
            deletes: Deletes::default(),
            news: BTreeSet::new(),
            stats: Stats::default(),
        }
    }

    /// This row is wanted.
    pub fn set(&mut self, row: Row) {
        let key = row.key();
        let same = |entry: &Entry| entry.wanted.as_ref() == Some(&row);
        if !self.entries.get(&key).is_some_and(same) {
            self.forgive(&key);
            self.edit(&key, |entry| entry.wanted = Some(row));
        }
    }

    /// No row with this key is wanted.
    pub fn remove(&mut self, key: &RowKey) {
        if self.entries.contains_key(key) {
            self.forgive(key);
            self.edit(key, |entry| {
                entry.wanted = None;
                // A setting has no absence in the kernel.
                if key.kind() == RowKind::Sysctl {
                    entry.held = Held::Absent;
                }
            });
        }
    }

    /// Rows of this kind are being read from the kernel. Notifications go on meanwhile.
    pub fn resync_begin(&mut self, kind: RowKind) {
        self.resyncs.insert(kind, Resync::default());
    }

    /// A row the kernel has, foreign ones included.
    pub fn resync_entry(&mut self, row: Row) {
        let key = row.key();
        let mut held = Held::Has(row);
        if let Some(resync) = self.resyncs.get_mut(&key.kind()) {
            if resync.gone.contains(&key) {
                held.doubt();
            }
            resync.known.insert(key.clone());
        }
        self.told(&key, held);
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
            .entries
            .iter()
            .filter(|(key, entry)| {
                let missing = entry.held != Held::Absent && !resync.known.contains(*key);
                key.kind() == kind && entry.flight.is_none() && (first || missing)
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            let missing = !resync.known.contains(&key);
            self.edit(&key, |entry| {
                if missing {
                    entry.held = Held::Absent;
                }
            });
        }
    }

    /// The kernel told something. [`KernelEvent::Overrun`] has no effect here: the caller reads everything again.
    pub fn kernel_event(&mut self, event: &KernelEvent) {
        match event {
            KernelEvent::Link(link) => self.link_told(link),
            KernelEvent::LinkGone(ifname) => self.link_gone(ifname),
            KernelEvent::RowSet(row) => self.row_set(row.clone()),
            KernelEvent::RowGone(key) => self.row_gone(key),
            KernelEvent::HostAddr { ifname, addr } if is_tunnel(ifname) => {
                self.row_set(Row::Addr(crate::desired::AddrKey {
                    ifname: ifname.clone(),
                    addr: *addr,
                }));
            }
            KernelEvent::HostAddrGone { ifname, addr } if is_tunnel(ifname) => {
                let keys = self.entries.keys();
                let gone: Vec<RowKey> = keys
                    .filter(|key| match key {
                        RowKey::Addr(key) => key.ifname == *ifname && key.addr.addr() == *addr,
                        _ => false,
                    })
                    .cloned()
                    .collect();
                for key in &gone {
                    self.row_gone(key);
                }
            }
            KernelEvent::HostAddr { .. } => self.retry_unreachable(),
            KernelEvent::HostAddrGone { .. } | KernelEvent::Overrun => {}
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

    /// The next operation, if the caller has room for one more. Each is answered with
    /// [`handle_result`](Self::handle_result); they are to be executed in the order in which they are given.
    pub fn poll_op(&mut self, room: usize) -> Option<Op> {
        if room == 0 {
            return None;
        }
        let (stage, key) = self.ready.pop_first()?;
        let entry = self
            .entries
            .get_mut(&key)
            .expect("an entry leaves `ready` before it goes");
        entry.stage = None;
        let op = match (&entry.wanted, stage) {
            (
                Some(row),
                Stage::SetLink
                | Stage::SetAddr
                | Stage::SetSysctl
                | Stage::SetNeigh
                | Stage::SetRoute,
            ) => Op::Set(row.clone()),
            (Some(_) | None, _) => Op::Remove(key),
        };
        entry.flight = Some(Flight {
            op: op.clone(),
            told: false,
        });
        self.in_flight += 1;
        Some(op)
    }

    /// An operation was executed.
    pub fn handle_result(&mut self, now: Instant, key: &RowKey, result: Result<(), OpError>) {
        let flight = self
            .entries
            .get_mut(key)
            .and_then(|entry| entry.flight.take());
        let Some(Flight { op, told }) = flight else {
            return;
        };
        self.in_flight -= 1;
        if let Some(resync) = self.resyncs.get_mut(&key.kind()) {
            resync.known.insert(key.clone());
        }
        match (op, result) {
            (Op::Set(row), Ok(())) => self.was_set(now, key, row, told),
            (Op::Remove(_), Ok(())) => self.was_removed(key),
            (Op::Remove(_), Err(error)) if nothing_there(&error) => self.was_removed(key),
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

    /// Whether nothing is under way or to be tried again. Rows that wait for a device do not count.
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
                    (None, Decision::Rest | Decision::Give(_)) => return None,
                };
                Some(RowProblem {
                    key: key.clone(),
                    reason,
                    attempts: failure.map_or(0, |failure| failure.attempts),
                })
            })
            .collect()
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

/// What the kernel tells.
impl Reconciler {
    fn row_set(&mut self, row: Row) {
        let key = row.key();
        if let Some(resync) = self.resyncs.get_mut(&key.kind()) {
            resync.gone.remove(&key);
            resync.known.insert(key.clone());
        }
        self.told(&key, Held::Has(row));
    }

    fn row_gone(&mut self, key: &RowKey) {
        if let Some(resync) = self.resyncs.get_mut(&key.kind()) {
            resync.gone.insert(key.clone());
            resync.known.insert(key.clone());
        }
        if self.entries.contains_key(key) {
            self.told(key, Held::Absent);
        }
    }

    fn told(&mut self, key: &RowKey, held: Held) {
        // Foreign rows count only where they may stand in the way of a wanted one: among routes.
        let counts = held
            .row()
            .is_none_or(|row| key.kind() == RowKind::Route || self.ownership.owns(row));
        if !counts && !self.entries.contains_key(key) {
            return;
        }
        let fits = match (
            self.entries
                .get(key)
                .and_then(|entry| entry.wanted.as_ref()),
            &held,
        ) {
            (Some(wanted), Held::Has(held)) => matches(wanted, held),
            _ => false,
        };
        if fits {
            self.forgive(key);
        }
        self.edit(key, |entry| {
            entry.repeats = match (fits, entry.programmed) {
                (true, _) => 0,
                (false, true) => entry.repeats.saturating_add(1),
                (false, false) => entry.repeats,
            };
            entry.held = held;
            entry.disturb();
        });
    }

    fn link_told(&mut self, link: &LinkState) {
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
        };
        self.links.insert(link.ifname.clone(), now);
        if before.is_some_and(|before| before.up == link.up) {
            return;
        }
        for key in self.keys_on(&link.ifname) {
            if link.up {
                self.forgive(&key);
            }
            self.edit(&key, |entry| {
                entry.disturb();
                match key.kind() {
                    RowKind::Route | RowKind::Neigh if !link.up => entry.held.doubt(),
                    RowKind::Sysctl if link.up => entry.held.doubt(),
                    RowKind::Link if !link.up && before.is_some() => entry.held.doubt(),
                    RowKind::Link
                    | RowKind::Addr
                    | RowKind::Neigh
                    | RowKind::Fdb
                    | RowKind::Route
                    | RowKind::Sysctl => {}
                }
            });
        }
        if link.up {
            self.retry_unreachable();
        }
    }

    fn link_gone(&mut self, ifname: &IfName) {
        self.links.remove(ifname);
        for key in self.keys_on(ifname) {
            self.edit(&key, |entry| {
                entry.disturb();
                let held = entry.held.row().map(devices).unwrap_or_default();
                if held.iter().all(|device| device == ifname) && !held.is_empty() {
                    entry.held = Held::Absent;
                } else if held.contains(ifname) {
                    entry.held.doubt();
                }
            });
        }
    }

    /// Rows on a device, and the device's own.
    fn keys_on(&self, ifname: &IfName) -> Vec<RowKey> {
        if self.ownership.is_workload(ifname) {
            let keys = self.on_device.get(ifname);
            return keys.into_iter().flatten().cloned().collect();
        }
        self.entries
            .iter()
            .filter(|(_, entry)| {
                let waits_for = match &entry.wanted {
                    Some(Row::Link(_, LinkSpec::Vxlan { parent, .. })) => parent.as_ref(),
                    Some(_) | None => None,
                };
                waits_for == Some(ifname) || entry.devices().contains(ifname)
            })
            .map(|(key, _)| key.clone())
            .collect()
    }
}

/// Results.
impl Reconciler {
    fn was_set(&mut self, now: Instant, key: &RowKey, row: Row, told: bool) {
        self.stats.sets += 1;
        self.forgive(key);
        let repeats = self.entries.get(key).map_or(0, |entry| entry.repeats);
        if repeats >= REPEATS_MAX {
            // Somebody undoes what is written, or the kernel shows it in another form: no race with either.
            let text = "the kernel shows another row than the one written".into();
            self.hold_back(now, key, OpError::Kernel { errno: 0, text }, repeats);
        }
        if let (RowKey::Link(name), Row::Link(_, spec)) = (key, &row) {
            self.links.entry(name.clone()).or_insert(Link {
                up: true,
                ifindex: None,
            });
            let held = self.entries.get(key).and_then(|entry| entry.held.row());
            let made_anew = match held {
                Some(Row::Link(_, held)) => !same_device(spec, held),
                Some(_) | None => true,
            };
            for on in self.keys_on(name) {
                self.edit(&on, |entry| {
                    if made_anew && on != *key {
                        entry.held.doubt();
                    }
                });
            }
        }
        self.edit(key, |entry| {
            entry.written = true;
            // What was told meanwhile may be older or newer than the write: if newer, its word stands; if older, the
            // notification of the write is still to come.
            let shown = entry.held.row().is_some_and(|held| matches(&row, held));
            if entry.wanted.is_none() && key.kind() == RowKind::Sysctl {
                entry.held = Held::Absent;
            } else if !told {
                entry.held = Held::Has(row);
            } else if !shown {
                entry.repeats = entry.repeats.saturating_add(1);
                if entry.held == Held::Absent {
                    entry.held = Held::Unsure(row);
                }
            }
        });
    }

    fn was_removed(&mut self, key: &RowKey) {
        self.stats.removes += 1;
        self.forgive(key);
        self.edit(key, |entry| entry.held = Held::Absent);
    }

    fn failed(&mut self, now: Instant, key: &RowKey, error: OpError) {
        self.stats.failures += 1;
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let attempts = entry
            .failure
            .as_ref()
            .map_or(1, |failure| failure.attempts.saturating_add(1));
        self.hold_back(now, key, error, attempts);
        self.review(key);
    }

    /// No further attempt for a while.
    fn hold_back(&mut self, now: Instant, key: &RowKey, error: OpError, attempts: u32) {
        let wait = match error {
            OpError::Unsupported(_) => BACKOFF_MAX,
            OpError::NoDevice(_) | OpError::Unreachable | OpError::Kernel { .. } => BACKOFF_MIN
                .saturating_mul(1 << attempts.saturating_sub(1).min(16))
                .min(BACKOFF_MAX),
        };
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let retry_at = now + wait;
        entry.failure = Some(Failure {
            error,
            attempts,
            retry_at,
        });
        self.retries.insert((retry_at, key.clone()));
    }

    /// Forgets failures, so that the next attempt is not held back.
    fn forgive(&mut self, key: &RowKey) {
        if let Some(entry) = self.entries.get_mut(key)
            && let Some(failure) = entry.failure.take()
        {
            self.retries.remove(&(failure.retry_at, key.clone()));
        }
    }

    fn retry_unreachable(&mut self) {
        let retries = self.retries.iter();
        let keys: Vec<RowKey> = retries
            .filter(|(_, key)| {
                let failure = self
                    .entries
                    .get(key)
                    .and_then(|entry| entry.failure.as_ref());
                failure.is_some_and(|failure| failure.error == OpError::Unreachable)
            })
            .map(|(_, key)| key.clone())
            .collect();
        for key in keys {
            self.forgive(&key);
            self.review(&key);
        }
    }
}

/// Decisions.
impl Reconciler {
    fn edit(&mut self, key: &RowKey, change: impl FnOnce(&mut Entry)) {
        let entry = self.entries.entry(key.clone()).or_default();
        let before = entry.devices();
        change(entry);
        let after = entry.devices();
        if before != after {
            for ifname in before.iter().filter(|name| !after.contains(*name)) {
                self.unindex(ifname, key);
            }
            for ifname in after {
                if self.ownership.is_workload(&ifname) {
                    self.on_device
                        .entry(ifname)
                        .or_default()
                        .insert(key.clone());
                }
            }
        }
        self.review(key);
        self.review_destination(key);
    }

    fn unindex(&mut self, ifname: &IfName, key: &RowKey) {
        if let Some(keys) = self.on_device.get_mut(ifname) {
            keys.remove(key);
            if keys.is_empty() {
                self.on_device.remove(ifname);
            }
        }
    }

    /// Puts a row among the operations to give out, or takes it from there.
    fn review(&mut self, key: &RowKey) {
        let Some(entry) = self.entries.get(key) else {
            return;
        };
        let decision = self.decide(key, entry);
        let stage = match decision {
            Decision::Give(stage) => Some(stage),
            Decision::Done | Decision::Rest | Decision::Stuck(_) => None,
        };
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
        if entry.programmed != programmed {
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
        if entry.is_void() {
            self.forgive(key);
            self.entries.remove(key);
        }
    }

    /// Routes to the same destination whose deletion may have waited for this one.
    fn review_destination(&mut self, key: &RowKey) {
        let RowKey::Route(key) = key else {
            return;
        };
        let waiting: Vec<RowKey> = self
            .same_destination(key)
            .filter(|(other, entry)| {
                entry.wanted.is_none() && **other != RowKey::Route(key.clone())
            })
            .map(|(other, _)| other.clone())
            .collect();
        for other in waiting {
            self.review(&other);
        }
    }

    fn same_destination(&self, key: &RouteKey) -> impl Iterator<Item = (&RowKey, &Entry)> {
        let bound = |tos, metric| {
            RowKey::Route(RouteKey {
                tos,
                metric,
                ..key.clone()
            })
        };
        self.entries.range(bound(0, 0)..=bound(u8::MAX, u32::MAX))
    }

    fn review_unwanted(&mut self) {
        let unwanted = self.entries.iter();
        let keys: Vec<RowKey> = unwanted
            .filter(|(_, entry)| entry.wanted.is_none())
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            self.review(&key);
        }
    }

    fn decide(&self, key: &RowKey, entry: &Entry) -> Decision {
        if entry.flight.is_some() || !self.read.contains(&key.kind()) {
            return Decision::Rest;
        }
        let Some(wanted) = &entry.wanted else {
            return self.decide_unwanted(key, entry);
        };
        match &entry.held {
            Held::Has(held) if matches(wanted, held) => return Decision::Done,
            Held::Has(held) | Held::Unsure(held) if !self.ownership.owns(held) => {
                return Decision::Stuck(Stuck::Foreign(held.clone()));
            }
            Held::Absent | Held::Has(_) | Held::Unsure(_) => {}
        }
        if self.is_held_back(key, entry) {
            return Decision::Rest;
        }
        match self.obstacle(wanted) {
            Some(stuck) => Decision::Stuck(stuck),
            None => Decision::Give(Stage::of_set(key)),
        }
    }

    fn decide_unwanted(&self, key: &RowKey, entry: &Entry) -> Decision {
        let Some(held) = entry.held.row() else {
            return Decision::Rest;
        };
        let allowed = match held {
            Row::Route(_, spec) if spec.protocol == PROTOCOL_BGP => {
                self.deletes.any && self.deletes.bgp
            }
            // The kernel's own fallback device cannot be deleted; sysctls go with their device.
            Row::Link(_, LinkSpec::Ipip { .. }) | Row::Sysctl(..) => false,
            _ => self.deletes.any,
        };
        if !allowed || !self.ownership.owns(held) || self.is_held_back(key, entry) {
            return Decision::Rest;
        }
        if let RowKey::Route(key) = key
            && self.same_destination(key).any(|(_, other)| {
                other.wanted.is_some() && (other.stage.is_some() || other.flight.is_some())
            })
        {
            return Decision::Rest;
        }
        Decision::Give(Stage::of_remove(key))
    }

    fn is_held_back(&self, key: &RowKey, entry: &Entry) -> bool {
        entry
            .failure
            .as_ref()
            .is_some_and(|failure| self.retries.contains(&(failure.retry_at, key.clone())))
    }

    /// What must be there before a row can be written.
    fn obstacle(&self, row: &Row) -> Option<Stuck> {
        let missing = |ifname: &IfName| !self.links.contains_key(ifname);
        let down = |ifname: &IfName| !self.links.get(ifname).is_some_and(|link| link.up);
        let needed = match row {
            Row::Link(_, LinkSpec::Vxlan { parent: None, .. }) => return Some(Stuck::NoParent),
            Row::Link(
                _,
                LinkSpec::Vxlan {
                    parent: Some(parent),
                    ..
                },
            ) => missing(parent).then(|| parent.clone()),
            Row::Link(_, LinkSpec::Ipip { .. }) => None,
            Row::Addr(key) => missing(&key.ifname).then(|| key.ifname.clone()),
            Row::Fdb(key, _) => missing(&key.ifname).then(|| key.ifname.clone()),
            Row::Route(_, spec) if spec.kind == RouteKind::Blackhole => None,
            Row::Neigh(..) | Row::Route(..) | Row::Sysctl(..) => {
                devices(row).into_iter().find(down)
            }
        };
        needed.map(Stuck::WaitsForDevice)
    }
}

fn nothing_there(error: &OpError) -> bool {
    match error {
        OpError::NoDevice(_) => true,
        OpError::Kernel { errno, .. } => NOTHING_THERE.contains(errno),
        OpError::Unreachable | OpError::Unsupported(_) => false,
    }
}
