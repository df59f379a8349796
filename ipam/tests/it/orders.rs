//! Every order in which the steps of several actors can follow each other, with what can go wrong between two of them.
//!
//! ```text
//! run 1   a a a a │ b b b b                 each run is given by its choices, which are counted through like digits:
//! run 2   a a a b │ a b b b                 the last one that has another way goes that way, what follows begins anew
//! ```
//! A step is one request to the store and all that is decided until the next. Orders with more changes from one actor to
//! another than given are left out: faults that need many are rare, and the runs would never end.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use api::key::{Key, Kind};
use datastore::delegate::Delegate;
use datastore::memory::{Fault, MemoryStore};
use datastore::plan::{Failed, Plan, step_by_step};
use datastore::scope::Scope;
use datastore::store::{Change, Expect, KeyValue, Listing, Op, Store, StoreError};
use datastore::version::Version;
use futures_util::future::BoxFuture;

use crate::interleave::{Order, once};

/// The choices of one run, shared by all who make some. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Choices(Arc<Mutex<Path>>);

#[derive(Default)]
struct Path {
    /// What is chosen, and of how many.
    taken: Vec<(usize, usize)>,
    at: usize,
    /// Draws what is not chosen yet; without it the first way is gone.
    drawn: Option<Order>,
}

impl Choices {
    fn lock(&self) -> MutexGuard<'_, Path> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One of `of` ways; the first unless an earlier run went it.
    pub(crate) fn choose(&self, of: usize) -> usize {
        if of < 2 {
            return 0;
        }
        let mut path = self.lock();
        let at = path.at;
        path.at += 1;
        if at == path.taken.len() {
            let first = path.drawn.as_mut().map_or(0, |order| order.below(of));
            path.taken.push((first, of));
        }
        let (chosen, known) = path.taken[at];
        assert_eq!(
            known, of,
            "a run goes the same way again as far as its choices go"
        );
        chosen
    }

    /// Ways drawn from a seed.
    pub(crate) fn drawn(seed: u64) -> Self {
        let choices = Self::default();
        choices.lock().drawn = Some(Order::new(seed));
        choices
    }

    /// The next run's way; false when all were gone.
    fn next(&self) -> bool {
        let mut path = self.lock();
        path.at = 0;
        while let Some((chosen, of)) = path.taken.pop() {
            if chosen + 1 < of {
                path.taken.push((chosen + 1, of));
                return true;
            }
        }
        false
    }

    /// For messages: what makes this run again.
    pub(crate) fn way(&self) -> Vec<usize> {
        self.lock()
            .taken
            .iter()
            .map(|(chosen, _)| *chosen)
            .collect()
    }
}

/// Runs `run` once for each way its choices can go, and answers how many there were. A run answers what is wrong; the first
/// that says something ends it.
pub(crate) fn explore(
    at_most: usize,
    mut run: impl FnMut(&Choices) -> Vec<String>,
) -> Result<usize, String> {
    let choices = Choices::default();
    for runs in 1..=at_most {
        let problems = run(&choices);
        if !problems.is_empty() {
            return Err(format!("run {runs} {:?}: {problems:#?}", choices.way()));
        }
        if !choices.next() {
            return Ok(runs);
        }
    }
    panic!("more than {at_most} runs: allow fewer changes between actors");
}

/// What may go wrong with a write, besides nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mishap {
    /// The writer is gone before it.
    Crash,
    /// It is done, and the writer does not hear of it.
    LostReply,
    /// The writer hears that it is open, and it is done later.
    Late,
}

/// What a store does wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    None,
    /// Conditions on blocks are dropped.
    NoComparison,
    /// Handles are written after addresses.
    HandlesLast,
    /// The pool is not looked at again.
    NoLook,
    /// What is marked as deleted is written over.
    TombstonesKept,
}

/// A store as an agent sees it: a step is chosen before each request, and mishaps are chosen for writes.
pub(crate) struct Stepped {
    inner: MemoryStore,
    choices: Choices,
    mishaps: Mutex<Vec<Mishap>>,
    sabotage: Sabotage,
    /// Which blocks there were, and how far the store had counted, at each of its steps.
    moments: Mutex<Vec<(u64, Vec<Key>)>>,
}

impl Stepped {
    /// At most one of `mishaps` happens.
    pub(crate) fn new(inner: &MemoryStore, choices: &Choices, mishaps: &[Mishap]) -> Self {
        Self {
            inner: inner.client(),
            choices: choices.clone(),
            mishaps: Mutex::new(mishaps.to_vec()),
            sabotage: Sabotage::None,
            moments: Mutex::default(),
        }
    }

    /// Remembers which blocks there are now.
    fn note_moment(&self) {
        let objects = self.inner.objects();
        let numbers = objects.iter().filter_map(|object| object.version.number());
        let at = numbers.max().unwrap_or(0);
        let blocks = objects.into_iter().map(|object| object.key);
        let blocks = blocks.filter(|key| key.kind == Kind::IPAMBlock).collect();
        let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        moments.push((at, blocks));
    }

    /// The blocks at the first moment that this actor met at which all of `seen` had been written.
    fn oldest_blocks(&self, seen: &[Version]) -> Vec<Key> {
        let wanted = seen.iter().filter_map(Version::number).max().unwrap_or(0);
        let moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        let first = moments.iter().find(|(at, _)| *at >= wanted);
        first
            .map(|(_, blocks)| blocks.clone())
            .expect("the last one is now")
    }

    pub(crate) fn folding(self, folds: bool) -> Self {
        self.inner.set_folds(folds);
        self
    }

    pub(crate) fn sabotaged(self, sabotage: Sabotage) -> Self {
        Self { sabotage, ..self }
    }

    /// What goes wrong with the next write, if anything does.
    fn mishap(&self) -> Option<Mishap> {
        let mut mishaps = self.mishaps.lock().unwrap_or_else(PoisonError::into_inner);
        let chosen = self.choices.choose(mishaps.len() + 1);
        let mishap = *mishaps.get(chosen.checked_sub(1)?)?;
        mishaps.clear();
        Some(mishap)
    }

    /// Does a write, or what became of it.
    async fn mishappened<T>(&self, write: impl Future<Output = T>) -> T {
        once().await;
        self.note_moment();
        match self.mishap() {
            Some(Mishap::Crash) => return gone().await,
            Some(Mishap::LostReply) => self.inner.fail_next(1, Fault::LostReply),
            Some(Mishap::Late) => self.inner.fail_next(1, Fault::Late),
            None => {}
        }
        write.await
    }

    fn sabotaged_plan(&self, mut plan: Plan) -> Plan {
        match self.sabotage {
            Sabotage::None => {}
            Sabotage::NoComparison => {
                for op in plan.stages.iter_mut().flatten() {
                    if op.key().kind == Kind::IPAMBlock {
                        *op = op.clone().expecting(Expect::Any);
                    }
                }
            }
            Sabotage::HandlesLast => {
                let is_handle = |op: &Op| op.key().kind == Kind::IPAMHandle;
                let all = plan.stages.iter().flatten().cloned();
                let handles: Vec<Op> = all.filter(is_handle).collect();
                let keys: std::collections::BTreeSet<_> = handles.iter().map(Op::key).collect();
                // One that is written twice would have to stay in order.
                if keys.len() == handles.len() {
                    for stage in &mut plan.stages {
                        stage.retain(|op| !is_handle(op));
                    }
                    plan.stages.push(handles.clone());
                }
            }
            Sabotage::NoLook => {
                for stage in &mut plan.stages {
                    stage.retain(|op| !matches!(op, Op::Check { .. }));
                }
            }
            Sabotage::TombstonesKept => {
                if let [first, rest @ ..] = &mut plan.stages[..]
                    && first.iter().all(|op| matches!(op, Op::Delete { .. }))
                {
                    for op in rest.iter_mut().flatten() {
                        if *op.expect() == Expect::Absent {
                            *op = op.clone().expecting(Expect::Any);
                        }
                    }
                    first.clear();
                }
            }
        }
        plan
    }
}

/// Never comes back: [`run`] drops who waits for it.
async fn gone<T>() -> T {
    poll_fn(|_| Poll::<T>::Pending).await
}

impl Delegate for Stepped {
    fn inner(&self) -> &dyn Store {
        &self.inner
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KeyValue>, StoreError>> {
        Box::pin(async move {
            once().await;
            self.note_moment();
            self.inner.get(key).await
        })
    }

    fn list<'a>(
        &'a self,
        kind: Kind,
        scope: &'a Scope,
    ) -> BoxFuture<'a, Result<Listing, StoreError>> {
        Box::pin(async move {
            once().await;
            self.note_moment();
            self.inner.list(kind, scope).await
        })
    }

    fn names(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Key>, StoreError>> {
        Box::pin(async move {
            once().await;
            self.inner.names(kind).await
        })
    }

    /// Blocks as long ago as may be.
    fn names_since<'a>(
        &'a self,
        kind: Kind,
        seen: &'a [Version],
    ) -> BoxFuture<'a, Result<Vec<Key>, StoreError>> {
        Box::pin(async move {
            once().await;
            if kind != Kind::IPAMBlock {
                return self.inner.names(kind).await;
            }
            self.note_moment();
            Ok(self.oldest_blocks(seen))
        })
    }

    fn write(&self, op: Op) -> BoxFuture<'_, Result<Option<Change>, StoreError>> {
        Box::pin(async move {
            if matches!(op, Op::Check { .. }) {
                once().await;
                return self.inner.write(op).await;
            }
            self.mishappened(self.inner.write(op)).await
        })
    }

    fn commit(&self, plan: Plan) -> BoxFuture<'_, Result<Vec<Change>, Failed>> {
        let plan = self.sabotaged_plan(plan);
        Box::pin(async move {
            if self.inner.folds() {
                self.mishappened(self.inner.commit(plan)).await
            } else {
                step_by_step(|op| self.write(op), plan).await
            }
        })
    }
}

/// Somebody who does something, step by step.
pub(crate) type Actor<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Polls without a step after which an actor counts as gone: see [`gone`].
const IDLE_MAX: usize = 2;

/// Lets the actors go on in an order that is chosen, which changes from one that could go on to another `changes` times at
/// most. `after` is called after each step.
pub(crate) fn run(
    actors: Vec<Actor<'_>>,
    choices: &Choices,
    mut changes: usize,
    mut after: impl FnMut(),
) {
    let mut actors: Vec<Option<Actor<'_>>> = actors.into_iter().map(Some).collect();
    let mut current = choices.choose(actors.len());
    loop {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        let actor = actors[current].as_mut().expect("it is not done");
        let mut idle = 0;
        let done = loop {
            if actor.as_mut().poll(&mut context).is_ready() {
                break true;
            }
            if woken.take() {
                break false;
            }
            idle += 1;
            if idle == IDLE_MAX {
                break true;
            }
        };
        after();
        let others: Vec<usize> = (0..actors.len())
            .filter(|other| *other != current && actors[*other].is_some())
            .collect();
        if done {
            actors[current] = None;
            if others.is_empty() {
                return;
            }
            current = others[choices.choose(others.len())];
        } else if changes > 0 {
            let chosen = choices.choose(others.len() + 1);
            if let Some(other) = chosen.checked_sub(1) {
                changes -= 1;
                current = others[other];
            }
        }
    }
}

/// Whether an actor said that it can go on.
#[derive(Default)]
struct Woken(std::sync::atomic::AtomicBool);

impl Woken {
    fn take(&self) -> bool {
        self.0.swap(false, std::sync::atomic::Ordering::Relaxed)
    }
}

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}
