//! A store in memory: for tests and simulation, and the reference for what the other stores must do.
//!
//! It is deterministic and needs no runtime: every request is done at its first poll. Handles made with
//! [`MemoryStore::client`] share the objects, while faults and delays belong to one handle, as a network fault belongs to
//! one node. A handle carries plans out as a whole or, after [`MemoryStore::set_folds`], step by step.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use api::key::{Key, Kind};
use futures_core::Stream;
use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;

use crate::history::{History, Revision, Watch};
use crate::plan::{self, Failed, Net, Plan, fold};
use crate::scope::Scope;
use crate::store::{Change, Expect, KeyValue, Listing, Op, Store, StoreError, WatchEvent};
use crate::version::{Cursor, Version};

/// Changes kept for watches unless set otherwise.
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
    /// The write that made an object which was absent: what Kubernetes calls its uid.
    born: BTreeMap<Key, Revision>,
    revision: Revision,
    step: u64,
    late: VecDeque<Plan>,
}

/// All objects of a store, as a copy of its file holds them.
#[derive(Clone, Debug)]
pub struct Copied {
    objects: BTreeMap<Key, KeyValue>,
    born: BTreeMap<Key, Revision>,
    revision: Revision,
}

/// How one client's requests fare.
#[derive(Default)]
struct Client {
    steps: bool,
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
    List(Kind),
    /// [`Store::write`], or a step of a plan that is carried out step by step.
    Write(&'a Op),
    /// [`Store::commit`] of a whole plan.
    Commit(&'a Plan),
    /// [`Store::watch`].
    Watch(Kind),
    /// [`Store::identity`] and [`Store::contains`].
    Identity,
}

/// How a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The store is not reached; nothing is done.
    Unavailable,
    /// The request is done, its answer gets lost: the caller sees [`StoreError::Unavailable`].
    LostReply,
    /// A write is refused as if somebody had been quicker; other requests are not concerned.
    Conflict,
    /// The store does not allow it: [`StoreError::Refused`]. A watch only ends.
    Refused,
    /// The caller sees [`StoreError::Unavailable`]; the request is done when [`MemoryStore::deliver_late`] is called.
    Late,
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
                born: BTreeMap::new(),
                revision: 0,
                step: 0,
                late: VecDeque::new(),
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

    /// Whether this client's plans are done as a whole, which they are unless set otherwise.
    pub fn set_folds(&self, folds: bool) {
        self.lock_client().steps = !folds;
    }

    /// The write that made an object when there was none of its name.
    pub fn born(&self, key: &Key) -> Option<Version> {
        self.lock().born.get(key).copied().map(Version::from)
    }

    /// Deletes an object, whatever was written to it, if it is the one that `born` made: a deletion whose only condition
    /// is the uid. Whether there was one.
    pub fn delete_born(&self, key: &Key, born: &Version) -> bool {
        let mut shared = self.lock();
        let is_it = shared.born.get(key).copied().map(Version::from).as_ref() == Some(born);
        if is_it {
            let gone = vec![(key.clone(), Expect::Any, Net::Delete)];
            let done = self.apply(&mut shared, gone);
            assert!(
                done.is_ok_and(|changes| changes.len() == 1),
                "it stands there"
            );
        }
        is_it
    }

    /// Does what requests that failed with [`Fault::Late`] asked for, as far as their conditions still hold.
    pub fn deliver_late(&self) {
        loop {
            let Some(plan) = self.lock().late.pop_front() else {
                return;
            };
            // Nobody waits for the answer.
            let _ = self.do_whole(plan);
        }
    }

    /// A copy of everything.
    pub fn copy(&self) -> Copied {
        let shared = self.lock();
        Copied {
            objects: shared.objects.clone(),
            born: shared.born.clone(),
            revision: shared.revision,
        }
    }

    /// The copy takes the place of everything, as an older file would; watches end. What was given out since then is not
    /// known any more.
    pub fn restore(&self, copy: &Copied) {
        let mut shared = self.lock();
        let begun = shared.revision + 1_000;
        shared.objects.clone_from(&copy.objects);
        shared.born.clone_from(&copy.born);
        shared.revision = begun;
        self.history.compact(Revision::MAX);
        self.history.continue_from(begun, vec![0..=copy.revision]);
        drop(shared);
        self.break_watches();
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
        let writes = matches!(request, Request::Write(_) | Request::Commit(_));
        let strikes = |fault: &Fault| writes || !matches!(fault, Fault::Conflict | Fault::Late);
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
            Some(Fault::Refused) => Err(not_allowed()),
            Some(Fault::Unavailable | Fault::Conflict | Fault::Late) => {
                Err(unavailable("not reached"))
            }
        }
    }

    /// Does a plan as a whole, or fails as `fault` says.
    fn do_or_fail(&self, fault: Option<Fault>, plan: Plan) -> Result<Vec<Change>, StoreError> {
        match fault {
            None => self.do_whole(plan),
            Some(Fault::LostReply) => {
                self.do_whole(plan)?;
                Err(unavailable("the answer was lost"))
            }
            Some(Fault::Late) => {
                self.lock().late.push_back(plan);
                Err(unavailable("the answer is late"))
            }
            Some(Fault::Unavailable) => Err(unavailable("not reached")),
            Some(Fault::Refused) => Err(not_allowed()),
            Some(Fault::Conflict) => match plan.ops().next() {
                Some(op) => Err(self.lock().conflict(op.key())),
                None => Ok(Vec::new()),
            },
        }
    }

    fn do_whole(&self, plan: Plan) -> Result<Vec<Change>, StoreError> {
        let sum = fold(plan)?;
        self.apply(&mut self.lock(), sum)
    }

    fn apply(
        &self,
        shared: &mut Shared,
        sum: Vec<(Key, Expect, Net)>,
    ) -> Result<Vec<Change>, StoreError> {
        for (key, expect, _) in &sum {
            let current = shared.objects.get(key).map(|object| &object.version);
            if !expect.holds(current, None) {
                return Err(shared.conflict(key));
            }
        }
        let revision = shared.revision + 1;
        let version = Version::from(revision);
        let mut changes = Vec::new();
        for (key, _, net) in sum {
            let anew = matches!(net, Net::Anew(_));
            match net {
                Net::Put(value) | Net::Anew(value) => {
                    let object = KeyValue {
                        key: key.clone(),
                        value,
                        version: version.clone(),
                    };
                    let before = shared.objects.insert(key.clone(), object.clone());
                    if anew || before.is_none() {
                        shared.born.insert(key, revision);
                    }
                    changes.push(Change::Put(object));
                }
                Net::Delete => {
                    if shared.objects.remove(&key).is_some() {
                        shared.born.remove(&key);
                        let version = version.clone();
                        changes.push(Change::Delete { key, version });
                    }
                }
                Net::Nothing => {}
            }
        }
        if !changes.is_empty() {
            shared.revision = revision;
            // Under the lock, so that the history has the order of the commits.
            self.history.append(revision, changes.clone(), shared.step);
        }
        Ok(changes)
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

    fn list<'a>(
        &'a self,
        kind: Kind,
        scope: &'a Scope,
    ) -> BoxFuture<'a, Result<Listing, StoreError>> {
        Box::pin(async move {
            self.read(&Request::List(kind), |shared| Listing {
                items: shared
                    .objects
                    .values()
                    .filter(|object| object.key.kind == kind && scope.holds(&object.key))
                    .cloned()
                    .collect(),
                cursor: shared.revision.into(),
            })
        })
    }

    fn write(&self, op: Op) -> BoxFuture<'_, Result<Option<Change>, StoreError>> {
        Box::pin(async move {
            let fault = self.fault(&Request::Write(&op));
            let mut changes = self.do_or_fail(fault, Plan::at_once(vec![op]))?;
            Ok(changes.pop())
        })
    }

    fn commit(&self, plan: Plan) -> BoxFuture<'_, Result<Vec<Change>, Failed>> {
        Box::pin(async move {
            if self.folds() {
                let fault = self.fault(&Request::Commit(&plan));
                Ok(self.do_or_fail(fault, plan)?)
            } else {
                plan::step_by_step(|op| self.write(op), plan).await
            }
        })
    }

    fn folds(&self) -> bool {
        !self.lock_client().steps
    }

    fn watch(
        &self,
        kind: Kind,
        scope: Scope,
        after: Cursor,
    ) -> BoxStream<'static, Result<WatchEvent, StoreError>> {
        let refused = self.fault(&Request::Watch(kind)).is_some();
        Box::pin(ClientWatch {
            inner: self.history.watch(kind, scope, after),
            connection: if refused {
                None
            } else {
                Some(self.lock_client().connection)
            },
            store: self.clone(),
            ended: false,
        })
    }

    fn identity(&self) -> BoxFuture<'_, Result<Arc<str>, StoreError>> {
        Box::pin(async move { self.read(&Request::Identity, |_| "memory".into()) })
    }

    fn contains<'a>(&'a self, cursor: &'a Cursor) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move { self.read(&Request::Identity, |_| self.history.contains(cursor)) })
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

fn not_allowed() -> StoreError {
    StoreError::Refused("not allowed".into())
}

fn unavailable(reason: &str) -> StoreError {
    StoreError::Unavailable(reason.into())
}
