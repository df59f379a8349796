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
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use api::key::Kind;
use futures_core::Stream;

use crate::store::{Revision, StoreError, WatchEvent};

/// A watch whose kinds are quiet says how far it has come each time this many revisions went by, so that it need not
/// list again when it reconnects after a compaction.
const PROGRESS_EVERY_REVISIONS: u64 = 100;

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
    event: WatchEvent,
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

    /// Adds the changes of one transaction and wakes the watches. `step` only matters to [`Watch::poll_event`].
    ///
    /// # Panics
    /// When `revision` does not grow.
    pub fn append(&self, revision: Revision, events: Vec<WatchEvent>, step: u64) {
        let wakers = {
            let mut log = self.lock();
            assert!(revision > log.latest, "revisions grow");
            log.latest = revision;
            log.values_bytes += events.iter().map(value_bytes).sum::<usize>();
            log.entries
                .extend(events.into_iter().map(|event| Entry { event, step }));
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
                .is_some_and(|entry| entry.event.revision() <= revision)
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

    /// Every change of these kinds after `after`.
    pub fn watch(&self, kinds: Vec<Kind>, after: Revision) -> Watch {
        let mut log = self.lock();
        let id = log.next_watch;
        log.next_watch += 1;
        // A revision from the future was handed out by a store that is no more: its watcher must list again, too.
        let state = if after < log.floor || after > log.latest {
            WatchState::Gone {
                wanted: after,
                oldest: log.floor,
            }
        } else {
            let index = log
                .entries
                .partition_point(|entry| entry.event.revision() <= after);
            WatchState::At {
                position: log.dropped + index as u64,
                reached: after,
            }
        };
        Watch {
            history: self.clone(),
            id,
            kinds,
            state,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// A transaction is dropped whole, so that no watch can start in its middle.
    fn drop_oldest_revision(&mut self) {
        let Some(oldest) = self.entries.front().map(|entry| entry.event.revision()) else {
            return;
        };
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.event.revision() == oldest)
        {
            if let Some(entry) = self.entries.pop_front() {
                self.values_bytes -= value_bytes(&entry.event);
            }
            self.dropped += 1;
        }
        self.floor = oldest;
    }
}

fn value_bytes(event: &WatchEvent) -> usize {
    match event {
        WatchEvent::Put(object) => object.value.len(),
        WatchEvent::Delete { .. } | WatchEvent::Progress(_) => 0,
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
    kinds: Vec<Kind>,
    state: WatchState,
}

#[derive(Clone, Copy, Debug)]
enum WatchState {
    At {
        /// Counted from the first entry ever appended.
        position: u64,
        /// The revision the last delivered event, progress included, spoke of.
        reached: Revision,
    },
    Gone {
        wanted: Revision,
        oldest: Revision,
    },
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
        let (mut position, mut reached) = match self.state {
            WatchState::At { position, reached } => (position, reached),
            WatchState::Gone { wanted, oldest } => {
                self.state = WatchState::Ended;
                return Poll::Ready(Some(Err(StoreError::Gone { wanted, oldest })));
            }
            WatchState::Ended => return Poll::Ready(None),
        };
        let mut log = self
            .history
            .log
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if position < log.dropped {
            self.state = WatchState::Ended;
            return Poll::Ready(Some(Err(StoreError::Gone {
                wanted: reached,
                oldest: log.floor,
            })));
        }
        let mut found = None;
        let mut scanned = reached;
        let from = usize::try_from(position - log.dropped).unwrap_or(usize::MAX);
        for entry in log.entries.range(from.min(log.entries.len())..) {
            if !visible(entry.step) {
                // The changes of one transaction share a step: nothing of this revision was delivered.
                scanned = scanned.min(entry.event.revision().saturating_sub(1));
                break;
            }
            position += 1;
            scanned = entry.event.revision();
            if entry
                .event
                .key()
                .is_some_and(|key| self.kinds.contains(&key.kind))
            {
                found = Some(entry.event.clone());
                break;
            }
        }
        if found.is_none() && scanned >= reached.saturating_add(PROGRESS_EVERY_REVISIONS) {
            found = Some(WatchEvent::Progress(scanned));
        }
        if let Some(event) = &found {
            reached = event.revision();
        } else {
            log.wakers.insert(self.id, cx.waker().clone());
        }
        self.state = WatchState::At { position, reached };
        match found {
            Some(event) => Poll::Ready(Some(Ok(event))),
            None => Poll::Pending,
        }
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

    fn put(revision: Revision, bytes: usize) -> WatchEvent {
        WatchEvent::Put(KeyValue {
            key: Key::new(Kind::IPPool, "a"),
            value: Bytes::from(vec![0; bytes]),
            revision,
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
        let next = history.watch(vec![Kind::IPPool], 21).next().now_or_never();
        assert_eq!(next, Some(Some(Ok(put(22, 1)))));
    }

    #[test]
    fn a_transaction_is_dropped_whole() {
        let history = History::new(0, 3);
        history.append(1, vec![put(1, 1), put(1, 1)], 0);
        history.append(2, vec![put(2, 1), put(2, 1)], 0);
        assert_eq!(history.floor(), 1);
    }
}
