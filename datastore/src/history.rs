//! The latest changes of a store, bounded, with streams that follow them.
//!
//! ```text
//!  floor                                   latest
//!    │ compacted ◄──┤ entries, oldest first ├──► append
//!                        ▲         ▲
//!                     watch A   watch B     (each a position; woken by append)
//! ```
//! A watch that falls behind the floor gets [`StoreError::Gone`] and lists again. No runtime is needed: whoever polls a
//! [`Watch`] is woken through its own waker.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use api::key::Kind;
use futures_core::Stream;

use crate::scope::Scope;
use crate::store::{Change, StoreError, WatchEvent};
use crate::version::Cursor;

/// The number a counting store gives each commit. 0 is before the first.
pub type Revision = u64;

/// A watch of quiet objects says how far it has come each time this many revisions went by, so that it need not list
/// again when it reconnects after a compaction.
const BOOKMARK_EVERY_REVISIONS: u64 = 100;

/// Bytes of values kept, at most: a block of 64 addresses has a few kilobytes, and entries alone would bound little.
const VALUES_BYTES_MAX: usize = 16 << 20;

/// The latest changes of a store. Clones share them.
#[derive(Clone, Debug)]
pub struct History {
    log: Arc<Mutex<Log>>,
}

#[derive(Debug)]
struct Log {
    entries: VecDeque<Entry>,
    /// How many entries were dropped before `entries[0]`: positions never shift.
    dropped: u64,
    /// Revisions that were given out before the present run of them, which begins at `begun`.
    earlier: Vec<RangeInclusive<Revision>>,
    begun: Revision,
    /// Changes up to and including this revision are not kept.
    floor: Revision,
    latest: Revision,
    capacity_entries: usize,
    /// Sum of the values' lengths.
    values_bytes: usize,
    wakers: BTreeMap<u64, Waker>,
    next_watch: u64,
}

#[derive(Debug)]
struct Entry {
    change: Change,
    revision: Revision,
    /// The step of the appender's world at which the change was made.
    step: u64,
}

impl History {
    /// Nothing kept yet of a store that stands at `revision`; at most `capacity_entries` changes will be,
    /// fewer when their values are large.
    pub fn new(revision: Revision, capacity_entries: usize) -> Self {
        Self {
            log: Arc::new(Mutex::new(Log {
                entries: VecDeque::new(),
                dropped: 0,
                earlier: Vec::new(),
                begun: revision,
                floor: revision,
                latest: revision,
                capacity_entries,
                values_bytes: 0,
                wakers: BTreeMap::new(),
                next_watch: 0,
            })),
        }
    }

    /// The revision of the last change.
    pub fn latest(&self) -> Revision {
        self.lock().latest
    }

    /// The oldest revision a watch can start after.
    pub fn floor(&self) -> Revision {
        self.lock().floor
    }

    /// From here on revisions are counted from `begun`, which is above all that were given out; those in `earlier` were
    /// given out before, and no others.
    pub fn continue_from(&self, begun: Revision, earlier: Vec<RangeInclusive<Revision>>) {
        let mut log = self.lock();
        log.earlier = earlier;
        log.begun = begun;
        log.latest = log.latest.max(begun);
    }

    /// Whether this revision was given out by this store.
    pub fn contains(&self, cursor: &Cursor) -> bool {
        let log = self.lock();
        cursor
            .number()
            .is_some_and(|revision| log.contains(revision))
    }

    /// Adds the changes of one commit and wakes the watches. `step` only matters to [`Watch::poll_event`].
    ///
    /// # Panics
    /// When `revision` does not grow.
    pub fn append(&self, revision: Revision, changes: Vec<Change>, step: u64) {
        let wakers = {
            let mut log = self.lock();
            assert!(revision > log.latest, "revisions grow");
            log.latest = revision;
            log.values_bytes += changes.iter().map(value_bytes).sum::<usize>();
            log.entries.extend(changes.into_iter().map(|change| Entry {
                change,
                revision,
                step,
            }));
            while log.entries.len() > log.capacity_entries
                || (log.values_bytes > VALUES_BYTES_MAX && !log.entries.is_empty())
            {
                log.drop_oldest_revision();
            }
            std::mem::take(&mut log.wakers)
        };
        wake(wakers);
    }

    /// Forgets all changes up to and including `revision`.
    pub fn compact(&self, revision: Revision) {
        let wakers = {
            let mut log = self.lock();
            let revision = revision.min(log.latest);
            while log
                .entries
                .front()
                .is_some_and(|entry| entry.revision <= revision)
            {
                log.drop_oldest_revision();
            }
            log.floor = log.floor.max(revision);
            std::mem::take(&mut log.wakers)
        };
        wake(wakers);
    }

    /// Makes every watch look again, because what it may see has changed.
    pub fn wake_all(&self) {
        let wakers = std::mem::take(&mut self.lock().wakers);
        wake(wakers);
    }

    /// Every change of this kind within `scope` after `after`.
    pub fn watch(&self, kind: Kind, scope: Scope, after: Cursor) -> Watch {
        let mut log = self.lock();
        let id = log.next_watch;
        log.next_watch += 1;
        let state = match after.number().filter(|after| log.contains(*after)) {
            None => WatchState::Failed(StoreError::Diverged { wanted: after }),
            Some(number) if number < log.floor => {
                WatchState::Failed(StoreError::Gone { wanted: after })
            }
            Some(reached) => {
                let index = log
                    .entries
                    .partition_point(|entry| entry.revision <= reached);
                WatchState::At {
                    position: log.dropped + index as u64,
                    reached,
                }
            }
        };
        Watch {
            history: self.clone(),
            id,
            kind,
            scope,
            state,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn contains(&self, revision: Revision) -> bool {
        (self.begun..=self.latest).contains(&revision)
            || self.earlier.iter().any(|run| run.contains(&revision))
    }

    /// A transaction is dropped whole, so that no watch can start in its middle.
    fn drop_oldest_revision(&mut self) {
        let Some(oldest) = self.entries.front().map(|entry| entry.revision) else {
            return;
        };
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.revision == oldest)
        {
            if let Some(entry) = self.entries.pop_front() {
                self.values_bytes -= value_bytes(&entry.change);
            }
            self.dropped += 1;
        }
        self.floor = oldest;
    }
}

fn value_bytes(change: &Change) -> usize {
    match change {
        Change::Put(object) => object.value.len(),
        Change::Delete { .. } => 0,
    }
}

fn wake(wakers: BTreeMap<u64, Waker>) {
    for waker in wakers.into_values() {
        waker.wake();
    }
}

/// A stream of changes. It ends after its first error.
#[derive(Debug)]
pub struct Watch {
    history: History,
    id: u64,
    kind: Kind,
    scope: Scope,
    state: WatchState,
}

#[derive(Debug)]
enum WatchState {
    At {
        /// Counted from the first entry ever appended.
        position: u64,
        /// The revision the last delivered event spoke of.
        reached: Revision,
    },
    Failed(StoreError),
    Ended,
}

impl Watch {
    /// The next change among those whose step `visible` admits. The first change that is not visible holds up all
    /// after it: order is kept.
    pub fn poll_event(
        &mut self,
        cx: &mut Context<'_>,
        visible: impl Fn(u64) -> bool,
    ) -> Poll<Option<Result<WatchEvent, StoreError>>> {
        let (position, reached) = match std::mem::replace(&mut self.state, WatchState::Ended) {
            WatchState::At { position, reached } => (position, reached),
            WatchState::Failed(error) => return Poll::Ready(Some(Err(error))),
            WatchState::Ended => return Poll::Ready(None),
        };
        let mut log = self
            .history
            .log
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if position < log.dropped {
            let wanted = Cursor::from(reached);
            return Poll::Ready(Some(Err(StoreError::Gone { wanted })));
        }
        let (event, position, scanned) = log.next_event(position, reached, |entry| {
            let key = entry.change.key();
            (
                visible(entry.step),
                key.kind == self.kind && self.scope.holds(key),
            )
        });
        let event = event.or_else(|| {
            (scanned >= reached.saturating_add(BOOKMARK_EVERY_REVISIONS))
                .then(|| WatchEvent::Bookmark(scanned.into()))
        });
        let reached = if event.is_some() { scanned } else { reached };
        self.state = WatchState::At { position, reached };
        match event {
            Some(event) => Poll::Ready(Some(Ok(event))),
            None => {
                log.wakers.insert(self.id, cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Log {
    /// The first entry from `position` on that `look` says is visible and wanted, the position after what was looked
    /// at, and how far that is.
    fn next_event(
        &self,
        mut position: u64,
        reached: Revision,
        look: impl Fn(&Entry) -> (bool, bool),
    ) -> (Option<WatchEvent>, u64, Revision) {
        let mut scanned = reached;
        let from = usize::try_from(position - self.dropped).unwrap_or(usize::MAX);
        let mut entries = self
            .entries
            .range(from.min(self.entries.len())..)
            .peekable();
        while let Some(entry) = entries.next() {
            let (visible, wanted) = look(entry);
            if !visible {
                // The changes of one commit share a step: nothing of this revision was delivered.
                scanned = scanned.min(entry.revision.saturating_sub(1));
                break;
            }
            position += 1;
            scanned = entry.revision;
            if wanted {
                // More of the same commit may follow: who goes on must see it.
                let more = entries.peek().is_some_and(|next| next.revision == scanned);
                let cursor = if more { scanned - 1 } else { scanned };
                let event = WatchEvent::Change(entry.change.clone(), cursor.into());
                return (Some(event), position, scanned);
            }
        }
        (None, position, scanned)
    }
}

impl Stream for Watch {
    type Item = Result<WatchEvent, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_event(cx, |_| true)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.history.lock().wakers.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use api::key::Key;
    use bytes::Bytes;
    use futures_util::FutureExt;
    use futures_util::stream::StreamExt;

    use super::*;
    use crate::store::KeyValue;

    fn put(revision: Revision, bytes: usize) -> Change {
        Change::Put(KeyValue {
            key: Key::new(Kind::IPPool, "a"),
            value: Bytes::from(vec![0; bytes]),
            version: revision.into(),
        })
    }

    #[test]
    fn large_values_shorten_the_history() {
        let history = History::new(0, 1000);
        for revision in 1..=20 {
            history.append(revision, vec![put(revision, 1 << 20)], 0);
        }
        assert_eq!(history.floor(), 4, "sixteen of a mebibyte each are kept");
        history.append(21, vec![put(21, 17 << 20)], 0);
        assert_eq!(history.floor(), 21, "a value larger than all is not kept");
        assert_eq!(history.lock().values_bytes, 0);
        history.append(22, vec![put(22, 1)], 0);
        let mut watch = history.watch(Kind::IPPool, Scope::All, 21.into());
        let expected = WatchEvent::Change(put(22, 1), 22.into());
        assert_eq!(watch.next().now_or_never(), Some(Some(Ok(expected))));
    }

    #[test]
    fn only_revisions_that_were_given_out_are_known() {
        let history = History::new(10, 1000);
        history.continue_from(100, vec![0..=10]);
        history.append(101, vec![put(101, 1)], 0);
        for (revision, known) in [(0, true), (10, true), (11, false), (99, false), (100, true)] {
            assert_eq!(history.contains(&revision.into()), known, "{revision}");
        }
        assert!(history.contains(&101.into()) && !history.contains(&102.into()));
        let next = |after: u64| {
            let mut watch = history.watch(Kind::IPPool, Scope::All, after.into());
            watch.next().now_or_never().flatten()
        };
        let wanted = 50.into();
        assert_eq!(next(50), Some(Err(StoreError::Diverged { wanted })));
        let wanted = 5.into();
        assert_eq!(next(5), Some(Err(StoreError::Gone { wanted })));
        let expected = WatchEvent::Change(put(101, 1), 101.into());
        assert_eq!(next(10), Some(Ok(expected)));
    }

    #[test]
    fn a_transaction_is_dropped_whole() {
        let history = History::new(0, 3);
        history.append(1, vec![put(1, 1), put(1, 1)], 0);
        history.append(2, vec![put(2, 1), put(2, 1)], 0);
        assert_eq!(history.floor(), 1);
    }
}
