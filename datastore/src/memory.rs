//! A store in memory: for tests and simulation, and the reference for what the other stores must do.
//!
//! It is deterministic and needs no runtime: every request is done at its first poll. Handles made with
//! [`MemoryStore::client`] share the objects, while faults and delays belong to one handle, as a network fault belongs to
//! one node.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use api::key::{Key, Kind};
use futures_core::Stream;
use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;

use crate::history::{History, Watch};
use crate::store::{
    KeyValue, Listing, Op, Revision, Store, StoreError, WatchEvent, refuse_repeated_keys,
};

/// Changes kept for watches unless told otherwise.
pub const HISTORY_ENTRIES: usize = 4096;

/// A store in memory, as one of its clients sees it.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Mutex<Shared>>,
    history: History,
    client: Arc<Mutex<Client>>,
}

struct Shared {
    objects: BTreeMap<Key, KeyValue>,
    revision: Revision,
    step: u64,
}

/// What goes wrong for one client.
#[derive(Default)]
struct Client {
    plan: Option<FaultPlan>,
    next: VecDeque<Fault>,
    down: bool,
    /// Watches of an older connection end.
    connection: u64,
    watch_delay_steps: u64,
}

/// Decides for each request whether it fails.
pub type FaultPlan = Box<dyn FnMut(&Request<'_>) -> Option<Fault> + Send>;

/// A request, as a [`FaultPlan`] sees it.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// [`Store::get`].
    Get(&'a Key),
    /// [`Store::list`].
    List(&'a [Kind]),
    /// [`Store::transact`].
    Transact(&'a [Op]),
    /// [`Store::watch`].
    Watch(&'a [Kind]),
}

/// How a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The store is not reached; nothing is done.
    Unavailable,
    /// The request is done, its answer gets lost: the caller sees [`StoreError::Unavailable`].
    LostReply,
    /// A transaction is refused as if somebody had been quicker; other requests are not concerned.
    Conflict,
}

impl MemoryStore {
    /// An empty store that keeps [`HISTORY_ENTRIES`] changes.
    pub fn new() -> Self {
        Self::with_history(HISTORY_ENTRIES)
    }

    /// An empty store that keeps about `entries` changes for watches.
    pub fn with_history(entries: usize) -> Self {
        Self {
            shared: Arc::new(Mutex::new(Shared {
                objects: BTreeMap::new(),
                revision: 0,
                step: 0,
            })),
            history: History::new(0, entries),
            client: Arc::default(),
        }
    }

    /// Another client of the same objects, without this one's faults. (A clone shares them.)
    pub fn client(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            history: self.history.clone(),
            client: Arc::default(),
        }
    }

    /// The current revision.
    pub fn revision(&self) -> Revision {
        self.lock().revision
    }

    /// All objects in key order.
    pub fn objects(&self) -> Vec<KeyValue> {
        self.lock().objects.values().cloned().collect()
    }

    /// Forgets the history up to and including `revision`.
    pub fn compact(&self, revision: Revision) {
        self.history.compact(revision);
    }

    /// Asks `plan` about each of this client's requests.
    pub fn set_fault_plan(&self, plan: impl FnMut(&Request<'_>) -> Option<Fault> + Send + 'static) {
        self.lock_client().plan = Some(Box::new(plan));
    }

    /// Makes this client's next `count` requests that `fault` can strike fail.
    pub fn fail_next(&self, count: usize, fault: Fault) {
        self.lock_client()
            .next
            .extend(std::iter::repeat_n(fault, count));
    }

    /// Cuts this client off, which ends its watches, or lets it in again.
    pub fn set_down(&self, down: bool) {
        self.lock_client().down = down;
        if down {
            self.break_watches();
        }
    }

    /// Ends this client's watches with [`StoreError::Unavailable`].
    pub fn break_watches(&self) {
        self.lock_client().connection += 1;
        self.history.wake_all();
    }

    /// From now on this client's watches deliver a change `steps` calls of [`Self::step`] after it was made.
    pub fn delay_watches(&self, steps: u64) {
        self.lock_client().watch_delay_steps = steps;
        self.history.wake_all();
    }

    /// One step of the simulated world, for all clients.
    pub fn step(&self) {
        self.lock().step += 1;
        self.history.wake_all();
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_client(&self) -> MutexGuard<'_, Client> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What goes wrong with `request`, if anything.
    fn fault(&self, request: &Request<'_>) -> Option<Fault> {
        let mut client = self.lock_client();
        if client.down {
            return Some(Fault::Unavailable);
        }
        let strikes =
            |fault: &Fault| *fault != Fault::Conflict || matches!(request, Request::Transact(_));
        let next = client.next.iter().position(strikes);
        if let Some(fault) = next.and_then(|index| client.next.remove(index)) {
            return Some(fault);
        }
        client
            .plan
            .as_mut()
            .and_then(|plan| plan(request))
            .filter(strikes)
    }

    fn read<T>(
        &self,
        request: &Request<'_>,
        read: impl FnOnce(&Shared) -> T,
    ) -> Result<T, StoreError> {
        match self.fault(request) {
            None => Ok(read(&self.lock())),
            Some(Fault::LostReply) => Err(unavailable("the answer was lost")),
            Some(Fault::Unavailable | Fault::Conflict) => Err(unavailable("not reached")),
        }
    }

    fn write(&self, ops: Vec<Op>) -> Result<Revision, StoreError> {
        match self.fault(&Request::Transact(&ops)) {
            None => self.commit(ops),
            Some(Fault::LostReply) => {
                self.commit(ops)?;
                Err(unavailable("the answer was lost"))
            }
            Some(Fault::Unavailable) => Err(unavailable("not reached")),
            Some(Fault::Conflict) => match ops.first() {
                Some(op) => Err(self.lock().conflict(op.key())),
                None => self.commit(ops),
            },
        }
    }

    fn commit(&self, ops: Vec<Op>) -> Result<Revision, StoreError> {
        refuse_repeated_keys(&ops)?;
        let mut shared = self.lock();
        for op in &ops {
            let current = shared.objects.get(op.key()).map(|object| object.revision);
            if !op.expect().holds(current) {
                return Err(shared.conflict(op.key()));
            }
        }
        let revision = shared.revision + 1;
        let mut events = Vec::new();
        for op in ops {
            match op {
                Op::Put { key, value, .. } => {
                    let object = KeyValue {
                        key: key.clone(),
                        value,
                        revision,
                    };
                    shared.objects.insert(key, object.clone());
                    events.push(WatchEvent::Put(object));
                }
                Op::Delete { key, .. } => {
                    if shared.objects.remove(&key).is_some() {
                        events.push(WatchEvent::Delete { key, revision });
                    }
                }
                Op::Check { .. } => {}
            }
        }
        if !events.is_empty() {
            shared.revision = revision;
            // Under the lock, so that the history has the order of the commits.
            self.history.append(revision, events, shared.step);
        }
        Ok(shared.revision)
    }
}

impl Shared {
    fn conflict(&self, key: &Key) -> StoreError {
        StoreError::Conflict {
            key: key.clone(),
            current: self.objects.get(key).cloned().map(Box::new),
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = self.lock();
        f.debug_struct("MemoryStore")
            .field("objects", &shared.objects.len())
            .field("revision", &shared.revision)
            .finish_non_exhaustive()
    }
}

impl Store for MemoryStore {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KeyValue>, StoreError>> {
        Box::pin(async move {
            self.read(&Request::Get(key), |shared| {
                shared.objects.get(key).cloned()
            })
        })
    }

    fn list<'a>(&'a self, kinds: &'a [Kind]) -> BoxFuture<'a, Result<Listing, StoreError>> {
        Box::pin(async move {
            self.read(&Request::List(kinds), |shared| Listing {
                items: shared
                    .objects
                    .values()
                    .filter(|object| kinds.contains(&object.key.kind))
                    .cloned()
                    .collect(),
                revision: shared.revision,
            })
        })
    }

    fn transact(&self, ops: Vec<Op>) -> BoxFuture<'_, Result<Revision, StoreError>> {
        Box::pin(async move { self.write(ops) })
    }

    fn watch(
        &self,
        kinds: Vec<Kind>,
        after: Revision,
    ) -> BoxStream<'static, Result<WatchEvent, StoreError>> {
        let refused = self.fault(&Request::Watch(&kinds)).is_some();
        Box::pin(ClientWatch {
            inner: self.history.watch(kinds, after),
            connection: if refused {
                None
            } else {
                Some(self.lock_client().connection)
            },
            store: self.clone(),
            ended: false,
        })
    }
}

/// A watch of one client: delayed and broken as that client is.
struct ClientWatch {
    inner: Watch,
    store: MemoryStore,
    /// The connection it came over; `None` when it was refused.
    connection: Option<u64>,
    ended: bool,
}

impl Stream for ClientWatch {
    type Item = Result<WatchEvent, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // What another thread changes between this look and the waker's registration shows at the second look.
        for _ in 0..2 {
            let step = self.store.lock().step;
            let (connection, delay) = {
                let client = self.store.lock_client();
                (client.connection, client.watch_delay_steps)
            };
            if self.connection != Some(connection) {
                self.ended = true;
                return Poll::Ready(Some(Err(unavailable("the watch was cut"))));
            }
            let polled = self
                .inner
                .poll_event(cx, |made| made.saturating_add(delay) <= step);
            if polled.is_ready() {
                return polled;
            }
        }
        Poll::Pending
    }
}

fn unavailable(reason: &str) -> StoreError {
    StoreError::Unavailable(reason.into())
}
