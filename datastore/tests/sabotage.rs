//! The conformance suite finds a store that does one thing wrong.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use api::key::{Key, Kind};
use datastore::conformance;
use datastore::memory::MemoryStore;
use datastore::plan::{Failed, Plan};
use datastore::scope::Scope;
use datastore::store::{Change, Expect, KeyValue, Listing, Op, Store, StoreError, WatchEvent};
use datastore::version::{Cursor, Version};
use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use futures_util::FutureExt;
use futures_util::stream::StreamExt;

/// What the store does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    /// Conditions are not compared.
    NoComparison,
    /// Only absence is compared.
    OnlyAbsence,
    /// A conflict does not say what stands there.
    ConflictWithoutValue,
    /// A deletion is not done.
    NoDeletion,
    /// An object that is made anew gets the version of its first life.
    VersionUsedAgain,
    /// Claims to fold, and goes step by step.
    HalfPlans,
    /// A plan is done as a whole, and what a failed one did is not said.
    DoneNotSaid,
    /// Values are cut.
    ShortValue,
    /// A listing forgets the last object.
    ShortListing,
    /// The names forget the last object.
    ShortNames,
    /// A listing's scope is not kept.
    NoScope,
    /// A listing's cursor is too new: what comes between is missed.
    CursorTooNew,
    /// A watch shows a change twice.
    ChangeTwice,
    /// A watch leaves deletions out.
    NoDeletionsSeen,
    /// A watch delivers other scopes, too.
    WatchNoScope,
    /// A watch goes on from the beginning.
    WatchFromBeginning,
    /// A watch's cursors are old.
    OldCursors,
    /// A compacted cursor is served as if nothing were missing.
    GoneNotSaid,
    /// Any cursor is known.
    AllKnown,
    /// A watch from a foreign cursor waits for it.
    ForeignTaken,
}

const ALL: [Wrong; 20] = [
    Wrong::NoComparison,
    Wrong::OnlyAbsence,
    Wrong::ConflictWithoutValue,
    Wrong::NoDeletion,
    Wrong::VersionUsedAgain,
    Wrong::HalfPlans,
    Wrong::DoneNotSaid,
    Wrong::ShortValue,
    Wrong::ShortListing,
    Wrong::ShortNames,
    Wrong::NoScope,
    Wrong::CursorTooNew,
    Wrong::ChangeTwice,
    Wrong::NoDeletionsSeen,
    Wrong::WatchNoScope,
    Wrong::WatchFromBeginning,
    Wrong::OldCursors,
    Wrong::GoneNotSaid,
    Wrong::AllKnown,
    Wrong::ForeignTaken,
];

struct Broken {
    inner: MemoryStore,
    wrong: Wrong,
}

impl Broken {
    fn new(wrong: Wrong) -> Self {
        let inner = MemoryStore::with_history(conformance::HISTORY_ENTRIES);
        inner.set_folds(!matches!(wrong, Wrong::HalfPlans | Wrong::DoneNotSaid));
        Self { inner, wrong }
    }

    /// The step as this store takes it.
    fn step(&self, op: Op) -> Op {
        let any = match (self.wrong, op.expect()) {
            (Wrong::NoComparison, _) => true,
            (Wrong::OnlyAbsence, Expect::Version(_)) => true,
            (Wrong::VersionUsedAgain, Expect::Version(_)) => false,
            _ => false,
        };
        let op = if any { op.expecting(Expect::Any) } else { op };
        match op {
            Op::Delete { key, expect } if self.wrong == Wrong::NoDeletion => {
                Op::Check { key, expect }
            }
            Op::Put { key, value, expect } if self.wrong == Wrong::ShortValue => Op::Put {
                key,
                value: value.slice(..value.len().min(1000)),
                expect,
            },
            op => op,
        }
    }

    fn error(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Conflict { key, .. } if self.wrong == Wrong::ConflictWithoutValue => {
                StoreError::Conflict { key, current: None }
            }
            other => other,
        }
    }

    /// Versions as they come out: of one key always the same, when they are used again.
    fn version(&self, version: Version) -> Version {
        if self.wrong == Wrong::VersionUsedAgain {
            Version::from(version.number().unwrap_or(0) % 7)
        } else {
            version
        }
    }

    fn change(&self, change: Change) -> Change {
        match change {
            Change::Put(object) => Change::Put(self.object(object)),
            Change::Delete { key, version } => {
                let version = self.version(version);
                Change::Delete { key, version }
            }
        }
    }

    fn object(&self, object: KeyValue) -> KeyValue {
        let version = self.version(object.version);
        KeyValue { version, ..object }
    }

    fn scope(&self, scope: &Scope, at: Wrong) -> Scope {
        if self.wrong == at {
            Scope::All
        } else {
            scope.clone()
        }
    }
}

impl Store for Broken {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KeyValue>, StoreError>> {
        let found = self.inner.get(key);
        Box::pin(async move { Ok(found.await?.map(|object| self.object(object))) })
    }

    fn list<'a>(
        &'a self,
        kind: Kind,
        scope: &'a Scope,
    ) -> BoxFuture<'a, Result<Listing, StoreError>> {
        Box::pin(async move {
            let scope = self.scope(scope, Wrong::NoScope);
            let mut listing = self.inner.list(kind, &scope).await?;
            let items = listing.items.into_iter();
            listing.items = items.map(|object| self.object(object)).collect();
            if self.wrong == Wrong::ShortListing {
                listing.items.pop();
            }
            if self.wrong == Wrong::CursorTooNew {
                let number = listing.cursor.number().unwrap_or(0);
                listing.cursor = Cursor::from(number + 1);
            }
            Ok(listing)
        })
    }

    fn names(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Key>, StoreError>> {
        Box::pin(async move {
            let mut names = self.inner.names(kind).await?;
            if self.wrong == Wrong::ShortNames {
                names.pop();
            }
            Ok(names)
        })
    }

    fn write(&self, op: Op) -> BoxFuture<'_, Result<Option<Change>, StoreError>> {
        Box::pin(async move {
            let done = self.inner.write(self.step(op)).await;
            let change = done.map_err(|error| self.error(error))?;
            Ok(change.map(|change| self.change(change)))
        })
    }

    fn commit(&self, mut plan: Plan) -> BoxFuture<'_, Result<Vec<Change>, Failed>> {
        Box::pin(async move {
            for stage in &mut plan.stages {
                let steps = std::mem::take(stage).into_iter();
                *stage = steps.map(|op| self.step(op)).collect();
            }
            match self.inner.commit(plan).await {
                Ok(changes) => Ok(changes.into_iter().map(|c| self.change(c)).collect()),
                Err(mut failed) => {
                    failed.error = self.error(failed.error);
                    if self.wrong == Wrong::DoneNotSaid {
                        failed.done.clear();
                    }
                    Err(failed)
                }
            }
        })
    }

    fn folds(&self) -> bool {
        self.inner.folds() || self.wrong == Wrong::HalfPlans
    }

    fn watch(
        &self,
        kind: Kind,
        scope: Scope,
        after: Cursor,
    ) -> BoxStream<'static, Result<WatchEvent, StoreError>> {
        let wrong = self.wrong;
        let latest = self.inner.revision();
        let after = match wrong {
            Wrong::WatchFromBeginning => Cursor::from(0),
            Wrong::ForeignTaken if after.number().is_some_and(|at| at > latest) => {
                Cursor::from(latest)
            }
            Wrong::GoneNotSaid if after.number().is_some_and(|at| at + 100 < latest) => {
                Cursor::from(latest)
            }
            _ => after,
        };
        let scope = self.scope(&scope, Wrong::WatchNoScope);
        let events = self.inner.watch(kind, scope, after);
        events
            .flat_map(move |event| {
                let times = match (&event, wrong) {
                    (Ok(WatchEvent::Change(..)), Wrong::ChangeTwice) => 2,
                    (Ok(WatchEvent::Change(Change::Delete { .. }, _)), Wrong::NoDeletionsSeen) => 0,
                    _ => 1,
                };
                let event = match (event, wrong) {
                    (Ok(WatchEvent::Change(change, _)), Wrong::OldCursors) => {
                        Ok(WatchEvent::Change(change, Cursor::from(0)))
                    }
                    (event, _) => event,
                };
                futures_util::stream::iter(std::iter::repeat_n(event, times))
            })
            .boxed()
    }

    fn identity(&self) -> BoxFuture<'_, Result<Arc<str>, StoreError>> {
        self.inner.identity()
    }

    fn contains<'a>(&'a self, cursor: &'a Cursor) -> BoxFuture<'a, Result<bool, StoreError>> {
        if self.wrong == Wrong::AllKnown {
            return Box::pin(async { Ok(true) });
        }
        self.inner.contains(cursor)
    }
}

/// Whether the suite goes through; a watch that never delivers what it should is a failure, too.
fn passes(wrong: Wrong) -> bool {
    let suite =
        conformance::run(move || async move { Arc::new(Broken::new(wrong)) as Arc<dyn Store> });
    let done = catch_unwind(AssertUnwindSafe(|| suite.now_or_never()));
    matches!(done, Ok(Some(())))
}

#[test]
fn each_single_fault_is_noticed() {
    assert!(
        passes(Wrong::Nothing),
        "without a fault the suite goes through"
    );
    let unnoticed: Vec<_> = ALL.into_iter().filter(|wrong| passes(*wrong)).collect();
    assert!(unnoticed.is_empty(), "not noticed: {unnoticed:?}");
}
