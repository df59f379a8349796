//! A one-thread executor that decides by seed which of several futures goes on, and a store that lets it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use api::key::{Key, Kind};
use datastore::delegate::Delegate;
use datastore::plan::{Failed, Plan, step_by_step};
use datastore::scope::Scope;
use datastore::store::{Change, KeyValue, Listing, Op, Store, StoreError};
use futures_util::future::BoxFuture;
use futures_util::task::noop_waker_ref;

use crate::rng::Rng;

/// Runs all futures to their end, one step of one of them at a time, in an order the seed decides. Answers their
/// results in the order given.
pub fn interleave<T>(
    rng: &mut Rng,
    mut futures: Vec<Pin<Box<dyn Future<Output = T> + '_>>>,
) -> Vec<T> {
    let mut results: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    let mut context = Context::from_waker(noop_waker_ref());
    while results.iter().any(Option::is_none) {
        let waiting: Vec<usize> = (0..results.len())
            .filter(|at| results[*at].is_none())
            .collect();
        let bound = u64::try_from(waiting.len()).expect("a length fits 64 bits");
        let chosen = waiting[usize::try_from(rng.below(bound)).expect("below a length")];
        if let Poll::Ready(result) = futures[chosen].as_mut().poll(&mut context) {
            results[chosen] = Some(result);
        }
    }
    results.into_iter().flatten().collect()
}

/// Runs one future that never waits for anything outside.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    let mut future = Box::pin(future);
    let mut context = Context::from_waker(noop_waker_ref());
    loop {
        if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
            return result;
        }
    }
}

/// A store whose requests let others go first.
pub struct Yielding(pub Arc<dyn Store>);

impl Delegate for Yielding {
    fn inner(&self) -> &dyn Store {
        &*self.0
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KeyValue>, StoreError>> {
        Box::pin(async move {
            YieldNow::default().await;
            self.0.get(key).await
        })
    }

    fn list<'a>(
        &'a self,
        kind: Kind,
        scope: &'a Scope,
    ) -> BoxFuture<'a, Result<Listing, StoreError>> {
        Box::pin(async move {
            YieldNow::default().await;
            self.0.list(kind, scope).await
        })
    }

    fn names(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Key>, StoreError>> {
        Box::pin(async move {
            YieldNow::default().await;
            self.0.names(kind).await
        })
    }

    fn write(&self, op: Op) -> BoxFuture<'_, Result<Option<Change>, StoreError>> {
        Box::pin(async move {
            YieldNow::default().await;
            self.0.write(op).await
        })
    }

    fn commit(&self, plan: Plan) -> BoxFuture<'_, Result<Vec<Change>, Failed>> {
        Box::pin(async move {
            if self.0.folds() {
                YieldNow::default().await;
                self.0.commit(plan).await
            } else {
                step_by_step(|op| self.write(op), plan).await
            }
        })
    }
}

/// Pending once.
#[derive(Default)]
struct YieldNow(bool);

impl Future for YieldNow {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
