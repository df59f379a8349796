//! Several agents at once: an executor on one thread that lets them go on in an order drawn from a seed.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use api::key::{Key, Kind};
use datastore::memory::MemoryStore;
use datastore::store::{Expect, KeyValue, Listing, Op, Revision, Store, StoreError, WatchEvent};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

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
    pub(crate) fn new(inner: &MemoryStore, comparing: Comparing) -> Self {
        Self {
            inner: inner.clone(),
            comparing,
        }
    }
}

/// Pending once.
async fn once() {
    let mut polled = false;
    poll_fn(|_| {
        if std::mem::replace(&mut polled, true) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

impl Store for Slow {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KeyValue>, StoreError>> {
        Box::pin(async move {
            once().await;
            let answer = self.inner.get(key).await;
            once().await;
            answer
        })
    }

    fn list<'a>(&'a self, kinds: &'a [Kind]) -> BoxFuture<'a, Result<Listing, StoreError>> {
        Box::pin(async move {
            once().await;
            let answer = self.inner.list(kinds).await;
            once().await;
            answer
        })
    }

    fn transact(&self, mut ops: Vec<Op>) -> BoxFuture<'_, Result<Revision, StoreError>> {
        if self.comparing == Comparing::No {
            for op in &mut ops {
                let (Op::Put { expect, .. } | Op::Delete { expect, .. } | Op::Check { expect, .. }) =
                    op;
                *expect = Expect::Any;
            }
        }
        Box::pin(async move {
            once().await;
            let answer = self.inner.transact(ops).await;
            once().await;
            answer
        })
    }

    fn watch(
        &self,
        kinds: Vec<Kind>,
        after: Revision,
    ) -> BoxStream<'static, Result<WatchEvent, StoreError>> {
        self.inner.watch(kinds, after)
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
