//! Following some kinds of object through lost connections, restarts of the store and compactions.
//!
//! ```text
//!            ┌────────────── Gone ──────────────┐
//!            ▼                                  │
//!         listing ──► Put… Delete… InSync ──► watch ──► Put, Delete
//!            ▲  │                               │ ▲
//!            └──┴─ Unavailable ─► Lost, backoff ◄┘ └─ resumed from where it was
//! ```
//! What vanished while nobody watched comes out of the next listing as [`Update::Delete`] (mark and sweep). No change
//! comes twice. There is no clock here: the caller gives the future that waits before another attempt.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use api::key::{Key, Kind};
use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use futures_util::StreamExt;

use crate::store::{KeyValue, Revision, Store, StoreError, WatchEvent};

/// What a watcher tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// An object is there, or has changed.
    Put(KeyValue),
    /// An object is gone; the revision is at or after its deletion.
    Delete {
        /// Name.
        key: Key,
        /// When it was seen to be gone.
        revision: Revision,
    },
    /// All that stood in the store at this revision has been told. Comes after each listing.
    InSync(Revision),
    /// The store is away; what was told stays what is known.
    Lost(StoreError),
}

/// Makes the future that waits before attempt `n` (from 1, beginning anew after a success).
pub type Backoff = Box<dyn FnMut(u32) -> BoxFuture<'static, ()> + Send>;

/// Follows some kinds of object.
pub struct Watcher {
    store: Arc<dyn Store>,
    kinds: Vec<Kind>,
    backoff: Backoff,
    state: State,
    attempts: u32,
    ready: VecDeque<Update>,
    /// What was told to be there, and its revision.
    known: BTreeMap<Key, Revision>,
}

enum State {
    /// Everything must be listed.
    List,
    /// A watch can go on after this revision.
    Resume(Revision),
    Watch {
        stream: BoxStream<'static, Result<WatchEvent, StoreError>>,
        after: Revision,
    },
    Wait {
        until: BoxFuture<'static, ()>,
        /// Where to go on; list when absent.
        after: Option<Revision>,
    },
}

impl Watcher {
    /// A watcher that has not begun.
    pub fn new(
        store: Arc<dyn Store>,
        kinds: Vec<Kind>,
        backoff: impl FnMut(u32) -> BoxFuture<'static, ()> + Send + 'static,
    ) -> Self {
        Self {
            store,
            kinds,
            backoff: Box::new(backoff),
            state: State::List,
            attempts: 0,
            ready: VecDeque::new(),
            known: BTreeMap::new(),
        }
    }

    /// The next thing to know; there always is one, some day. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Update {
        loop {
            if let Some(update) = self.ready.pop_front() {
                return update;
            }
            match &mut self.state {
                State::List => match self.store.list(&self.kinds).await {
                    Ok(listing) => {
                        self.attempts = 0;
                        self.sweep(listing.items, listing.revision);
                        self.state = State::Resume(listing.revision);
                    }
                    Err(error) => self.lost(error, None),
                },
                State::Resume(after) => {
                    let after = *after;
                    let stream = self.store.watch(self.kinds.clone(), after);
                    self.state = State::Watch { stream, after };
                }
                State::Watch { stream, after } => {
                    let after = *after;
                    match stream.next().await {
                        Some(Ok(event)) => self.take(event),
                        Some(Err(StoreError::Gone { .. })) => self.state = State::List,
                        Some(Err(error)) => self.lost(error, Some(after)),
                        None => {
                            let error = StoreError::Unavailable("the watch ended".into());
                            self.lost(error, Some(after));
                        }
                    }
                }
                State::Wait { until, after } => {
                    until.as_mut().await;
                    self.state = after.map_or(State::List, State::Resume);
                }
            }
        }
    }

    fn lost(&mut self, error: StoreError, after: Option<Revision>) {
        self.attempts = self.attempts.saturating_add(1);
        self.ready.push_back(Update::Lost(error));
        self.state = State::Wait {
            until: (self.backoff)(self.attempts),
            after,
        };
    }

    /// Compares a listing with what is known and tells the difference.
    fn sweep(&mut self, items: Vec<KeyValue>, revision: Revision) {
        let before = std::mem::take(&mut self.known);
        for item in &items {
            self.known.insert(item.key.clone(), item.revision);
        }
        for key in before.keys() {
            if !self.known.contains_key(key) {
                self.ready.push_back(Update::Delete {
                    key: key.clone(),
                    revision,
                });
            }
        }
        // Equality, not order: a store that was replaced counts from the beginning again.
        let changed = items
            .into_iter()
            .filter(|item| before.get(&item.key) != Some(&item.revision));
        self.ready.extend(changed.map(Update::Put));
        self.ready.push_back(Update::InSync(revision));
    }

    fn take(&mut self, event: WatchEvent) {
        self.attempts = 0;
        let revision = event.revision();
        if let State::Watch { after, .. } = &mut self.state {
            *after = match event {
                WatchEvent::Progress(_) => revision,
                // More of the same transaction may follow, so a resumed watch must see this revision again.
                _ => (*after).max(revision.saturating_sub(1)),
            };
        }
        match event {
            WatchEvent::Put(object) => {
                let told = self.known.get(&object.key).copied();
                if told.is_none_or(|told| told < revision) {
                    self.known.insert(object.key.clone(), revision);
                    self.ready.push_back(Update::Put(object));
                }
            }
            WatchEvent::Delete { key, revision } => {
                if self.known.get(&key).is_some_and(|told| *told < revision) {
                    self.known.remove(&key);
                    self.ready.push_back(Update::Delete { key, revision });
                }
            }
            WatchEvent::Progress(_) => {}
        }
    }
}
