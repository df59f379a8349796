//! Following the objects of a kind through lost connections, restarts of the store and compactions.
//!
//! ```text
//!            ┌────────────── Gone ──────────────┐
//!            ▼                                  │
//!         listing ──► Put… Delete… InSync ──► watch ──► Put, Delete
//!            ▲  │                               │ ▲
//!            └──┴─ Unavailable ─► Lost, backoff ◄┘ └─ resumed from where it was
//! ```
//! What vanished while nobody watched comes out of the next listing as [`Update::Missing`] (mark and sweep). No change
//! comes twice. A store that does not know what was read from it lists nothing here: [`Update::Diverged`], until
//! [`Watcher::accept`]. There is no clock here: the caller gives the future that waits before another attempt.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use api::key::{Key, Kind};
use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use futures_util::StreamExt;

use crate::scope::Scope;
use crate::store::{Change, KeyValue, Listing, Store, StoreError, WatchEvent};
use crate::version::{Cursor, Order, Version};

/// What a watcher tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// An object is there, or has changed.
    Put(KeyValue),
    /// An object is gone.
    Delete {
        /// Name.
        key: Key,
        /// The deletion.
        version: Version,
    },
    /// A listing lacks an object that was there.
    Missing {
        /// Name.
        key: Key,
        /// Where it was listed.
        cursor: Cursor,
    },
    /// All that stood in the store here has been reported. Comes after each listing.
    InSync(Cursor),
    /// The store cannot be reached; what was reported stays what is known.
    Lost(StoreError),
    /// The store is another one, or an older copy: [`StoreError::Diverged`]. What was reported stays what is known.
    Diverged(StoreError),
}

/// Makes the future that waits before attempt `n` (from 1, beginning anew after a success).
pub type Backoff = Box<dyn FnMut(u32) -> BoxFuture<'static, ()> + Send>;

/// Follows the objects of a kind within a scope.
pub struct Watcher {
    store: Arc<dyn Store>,
    kind: Kind,
    scope: Scope,
    backoff: Backoff,
    state: State,
    attempts: u32,
    ready: VecDeque<Update>,
    /// What was reported to be there, and as which write made it.
    known: BTreeMap<Key, Version>,
    /// How far the store was read: who asks it for more says so.
    read_to: Option<Cursor>,
}

enum State {
    /// Everything must be listed.
    List,
    /// A watch can go on here.
    Resume(Cursor),
    Watch {
        stream: BoxStream<'static, Result<WatchEvent, StoreError>>,
        after: Cursor,
    },
    Wait {
        until: BoxFuture<'static, ()>,
        /// Where to go on; list when absent.
        after: Option<Cursor>,
    },
}

impl Watcher {
    /// A watcher that has not begun.
    pub fn new(
        store: Arc<dyn Store>,
        kind: Kind,
        scope: Scope,
        backoff: impl FnMut(u32) -> BoxFuture<'static, ()> + Send + 'static,
    ) -> Self {
        Self {
            store,
            kind,
            scope,
            backoff: Box::new(backoff),
            state: State::List,
            attempts: 0,
            ready: VecDeque::new(),
            known: BTreeMap::new(),
            read_to: None,
        }
    }

    /// From now on the store counts, whatever was read before: what it lacks is absent.
    pub fn accept(&mut self) {
        self.read_to = None;
        self.state = State::List;
    }

    /// How far the store was read.
    pub const fn read_to(&self) -> Option<&Cursor> {
        self.read_to.as_ref()
    }

    /// The next thing to know; there always is one, some day. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Update {
        loop {
            if let Some(update) = self.ready.pop_front() {
                return update;
            }
            match &mut self.state {
                State::List => {
                    let read_to = self.read_to.as_ref();
                    match list(&*self.store, self.kind, &self.scope, read_to).await {
                        Ok(listing) => {
                            self.attempts = 0;
                            self.read_to = Some(listing.cursor.clone());
                            self.sweep(listing.items, &listing.cursor);
                            self.state = State::Resume(listing.cursor);
                        }
                        Err(error) => self.lost(error, None),
                    }
                }
                State::Resume(after) => {
                    let after = after.clone();
                    let stream = self
                        .store
                        .watch(self.kind, self.scope.clone(), after.clone());
                    self.state = State::Watch { stream, after };
                }
                State::Watch { stream, after } => match stream.next().await {
                    Some(Ok(event)) => {
                        *after = event.cursor().clone();
                        self.read_to = Some(after.clone());
                        self.take(event);
                    }
                    Some(Err(StoreError::Gone { .. })) => self.state = State::List,
                    Some(Err(error)) => {
                        let after = after.clone();
                        self.lost(error, Some(after));
                    }
                    None => {
                        let after = after.clone();
                        let error = StoreError::Unavailable("the watch ended".into());
                        self.lost(error, Some(after));
                    }
                },
                State::Wait { until, after } => {
                    until.as_mut().await;
                    self.state = after.take().map_or(State::List, State::Resume);
                }
            }
        }
    }

    fn lost(&mut self, error: StoreError, after: Option<Cursor>) {
        self.attempts = self.attempts.saturating_add(1);
        let (update, after) = match error {
            // The next attempt asks again whether the store that was read is back.
            StoreError::Diverged { .. } => (Update::Diverged(error), after),
            error => (Update::Lost(error), after),
        };
        self.ready.push_back(update);
        self.state = State::Wait {
            until: (self.backoff)(self.attempts),
            after,
        };
    }

    /// Compares a listing with what is known and tells the difference.
    fn sweep(&mut self, items: Vec<KeyValue>, cursor: &Cursor) {
        let before = std::mem::take(&mut self.known);
        for item in &items {
            self.known.insert(item.key.clone(), item.version.clone());
        }
        for key in before.keys() {
            if !self.known.contains_key(key) {
                self.ready.push_back(Update::Missing {
                    key: key.clone(),
                    cursor: cursor.clone(),
                });
            }
        }
        // Equality, not order: versions need not have one.
        let changed = items
            .into_iter()
            .filter(|item| before.get(&item.key) != Some(&item.version));
        self.ready.extend(changed.map(Update::Put));
        self.ready.push_back(Update::InSync(cursor.clone()));
    }

    fn take(&mut self, event: WatchEvent) {
        self.attempts = 0;
        let is_news = |reported: Option<&Version>, version: &Version| {
            reported.is_none_or(|reported| {
                matches!(version.order(reported), Order::Newer | Order::Unknown)
            })
        };
        match event.change() {
            Some(Change::Put(object)) if is_news(self.known.get(&object.key), &object.version) => {
                let version = object.version.clone();
                self.known.insert(object.key.clone(), version);
                self.ready.push_back(Update::Put(object));
            }
            Some(Change::Delete { key, version }) => {
                let reported = self.known.get(&key);
                if reported.is_some() && is_news(reported, &version) {
                    self.known.remove(&key);
                    self.ready.push_back(Update::Delete { key, version });
                }
            }
            Some(Change::Put(_)) | None => {}
        }
    }
}

/// Lists a store that holds what was read before: another one's objects say nothing of what this one's became.
async fn list(
    store: &dyn Store,
    kind: Kind,
    scope: &Scope,
    read_to: Option<&Cursor>,
) -> Result<Listing, StoreError> {
    if let Some(wanted) = read_to
        && !store.contains(wanted).await?
    {
        let wanted = wanted.clone();
        return Err(StoreError::Diverged { wanted });
    }
    store.list(kind, scope).await
}
