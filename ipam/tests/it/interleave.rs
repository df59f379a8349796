//! Several agents at once: an executor on one thread that lets them go on in an order drawn from a seed.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use api::key::{Key, Kind};
use datastore::delegate::{Delegate, Delegating};
use datastore::memory::MemoryStore;
use datastore::plan::{Failed, Plan, step_by_step};
use datastore::scope::Scope;
use datastore::store::{Change, Expect, KeyValue, Listing, Op, Store, StoreError};
use futures_util::future::BoxFuture;

/// xorshift64*, for orders.
pub(crate) struct Order(u64);

impl Order {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(drawn).expect("31 bits") % bound
    }
}

/// Whether the store compares.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparing {
    Yes,
    /// Sabotage: every condition is dropped.
    No,
}

/// A store whose every request lets the others go first, before and after it is done.
pub(crate) struct Slow {
    inner: MemoryStore,
    comparing: Comparing,
}

impl Slow {
    pub(crate) fn new(inner: &MemoryStore, comparing: Comparing) -> Delegating<Self> {
        Delegating(Self {
            inner: inner.clone(),
            comparing,
        })
    }

    fn sabotaged(&self, op: Op) -> Op {
        match self.comparing {
            Comparing::Yes => op,
            Comparing::No => op.expecting(Expect::Any),
        }
    }
}

/// Pending once.
pub(crate) async fn once() {
    let mut polled = false;
    poll_fn(|context| {
        if std::mem::replace(&mut polled, true) {
            Poll::Ready(())
        } else {
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

impl Delegate for Slow {
    fn inner(&self) -> &dyn Store {
        &self.inner
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KeyValue>, StoreError>> {
        Box::pin(async move {
            once().await;
            let answer = self.inner.get(key).await;
            once().await;
            answer
        })
    }

    fn list<'a>(
        &'a self,
        kind: Kind,
        scope: &'a Scope,
    ) -> BoxFuture<'a, Result<Listing, StoreError>> {
        Box::pin(async move {
            once().await;
            let answer = self.inner.list(kind, scope).await;
            once().await;
            answer
        })
    }

    fn names(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Key>, StoreError>> {
        Box::pin(async move {
            once().await;
            let answer = self.inner.names(kind).await;
            once().await;
            answer
        })
    }

    fn write(&self, op: Op) -> BoxFuture<'_, Result<Option<Change>, StoreError>> {
        Box::pin(async move {
            once().await;
            let answer = self.inner.write(self.sabotaged(op)).await;
            once().await;
            answer
        })
    }

    fn commit(&self, plan: Plan) -> BoxFuture<'_, Result<Vec<Change>, Failed>> {
        Box::pin(async move {
            if !self.inner.folds() {
                return step_by_step(|op| self.write(op), plan).await;
            }
            let stages = plan.stages.into_iter();
            let stages = stages.map(|ops| ops.into_iter().map(|op| self.sabotaged(op)).collect());
            let plan = Plan {
                stages: stages.collect(),
            };
            once().await;
            let answer = self.inner.commit(plan).await;
            once().await;
            answer
        })
    }
}

/// Something that runs beside others.
pub(crate) type Task<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Polls the tasks in the seed's order until all are done.
pub(crate) fn run_all(mut tasks: Vec<Task<'_>>, seed: u64) {
    let mut order = Order::new(seed);
    let mut context = Context::from_waker(Waker::noop());
    while !tasks.is_empty() {
        let index = order.below(tasks.len());
        if tasks[index].as_mut().poll(&mut context).is_ready() {
            drop(tasks.swap_remove(index));
        }
    }
}

/// Polls a task `polls` times and drops it then: a crash. Answers whether it was done before.
pub(crate) fn run_polls(mut task: Task<'_>, polls: usize) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    (0..polls).any(|_| task.as_mut().poll(&mut context).is_ready())
}
