//! A store that hands what it is asked for on to another, but for what a test wants otherwise.

use std::ops::Deref;
use std::sync::Arc;

use api::key::{Key, Kind};
use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;

use crate::plan::{Failed, Plan};
use crate::scope::Scope;
use crate::store::{Change, KeyValue, Listing, Op, Store, StoreError, WatchEvent};
use crate::version::{Cursor, Version};

/// What is done otherwise: whatever is not written here, the inner store does.
#[expect(
    missing_docs,
    reason = "each is the method of `Store` that has its name"
)]
pub trait Delegate: Send + Sync {
    fn inner(&self) -> &dyn Store;

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KeyValue>, StoreError>> {
        self.inner().get(key)
    }

    fn list<'a>(
        &'a self,
        kind: Kind,
        scope: &'a Scope,
    ) -> BoxFuture<'a, Result<Listing, StoreError>> {
        self.inner().list(kind, scope)
    }

    fn names(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Key>, StoreError>> {
        self.inner().names(kind)
    }

    fn names_since<'a>(
        &'a self,
        kind: Kind,
        seen: &'a [Version],
    ) -> BoxFuture<'a, Result<Vec<Key>, StoreError>> {
        let _ = seen;
        self.names(kind)
    }

    fn write(&self, op: Op) -> BoxFuture<'_, Result<Option<Change>, StoreError>> {
        self.inner().write(op)
    }

    fn commit(&self, plan: Plan) -> BoxFuture<'_, Result<Vec<Change>, Failed>> {
        self.inner().commit(plan)
    }
}

/// The store that a [`Delegate`] makes.
#[derive(Clone)]
pub struct Delegating<D>(pub D);

impl<D> Deref for Delegating<D> {
    type Target = D;

    fn deref(&self) -> &D {
        &self.0
    }
}

impl<D: Delegate> Store for Delegating<D> {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KeyValue>, StoreError>> {
        self.0.get(key)
    }

    fn list<'a>(
        &'a self,
        kind: Kind,
        scope: &'a Scope,
    ) -> BoxFuture<'a, Result<Listing, StoreError>> {
        self.0.list(kind, scope)
    }

    fn names(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Key>, StoreError>> {
        self.0.names(kind)
    }

    fn names_since<'a>(
        &'a self,
        kind: Kind,
        seen: &'a [Version],
    ) -> BoxFuture<'a, Result<Vec<Key>, StoreError>> {
        self.0.names_since(kind, seen)
    }

    fn write(&self, op: Op) -> BoxFuture<'_, Result<Option<Change>, StoreError>> {
        self.0.write(op)
    }

    fn commit(&self, plan: Plan) -> BoxFuture<'_, Result<Vec<Change>, Failed>> {
        self.0.commit(plan)
    }

    fn folds(&self) -> bool {
        self.0.inner().folds()
    }

    fn watch(
        &self,
        kind: Kind,
        scope: Scope,
        after: Cursor,
    ) -> BoxStream<'static, Result<WatchEvent, StoreError>> {
        self.0.inner().watch(kind, scope, after)
    }

    fn identity(&self) -> BoxFuture<'_, Result<Arc<str>, StoreError>> {
        self.0.inner().identity()
    }

    fn contains<'a>(&'a self, cursor: &'a Cursor) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.0.inner().contains(cursor)
    }

    fn accept(&self) {
        self.0.inner().accept();
    }
}
