//! The seam between the agent and whatever keeps its objects.

use std::sync::Arc;

use api::key::{Key, Kind};
use api::pod::PodWords;
use bytes::Bytes;
use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;

use crate::plan::{self, Failed, Plan};
use crate::scope::Scope;
use crate::version::{Cursor, Version};

/// An object as it stands in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// Name.
    pub key: Key,
    /// JSON, without `metadata.resourceVersion`.
    pub value: Bytes,
    /// The write that made it so.
    pub version: Version,
}

/// What must hold of an object for a step to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Anything.
    Any,
    /// It does not exist.
    Absent,
    /// It exists, as this write made it.
    Version(Version),
    /// It exists, as an earlier stage of the same plan made it.
    Own,
}

/// One step: a write of one object, or a look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Write.
    Put {
        /// Name.
        key: Key,
        /// JSON.
        value: Bytes,
        /// Condition.
        expect: Expect,
    },
    /// Delete; deleting what does not exist is no error under [`Expect::Any`].
    Delete {
        /// Name.
        key: Key,
        /// Condition.
        expect: Expect,
    },
    /// Only compare.
    Check {
        /// Name.
        key: Key,
        /// Condition.
        expect: Expect,
    },
}

/// All objects of a kind within a scope, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Objects in key order.
    pub items: Vec<KeyValue>,
    /// The moment they were read at: where a watch goes on.
    pub cursor: Cursor,
}

/// What a write made of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Written.
    Put(KeyValue),
    /// Deleted.
    Delete {
        /// Name.
        key: Key,
        /// The deletion's own version.
        version: Version,
    },
}

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// A change, and where to go on after it. A watch that goes on there may say it again, but leaves nothing out.
    Change(Change, Cursor),
    /// Nothing before this cursor is missing; sent now and then, so that a watch of quiet objects keeps up.
    Bookmark(Cursor),
}

/// Why a store did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A condition did not hold; read again and decide anew.
    #[error("{key}: changed by somebody else in the meantime")]
    Conflict {
        /// The first key whose condition failed.
        key: Key,
        /// What stands there now.
        current: Option<Box<KeyValue>>,
    },
    /// Changes after the watch's cursor are no longer kept; list again.
    #[error("changes after {wanted} are no longer kept")]
    Gone {
        /// Asked for.
        wanted: Cursor,
    },
    /// The store does not hold what was read at this cursor: it is another one, or an older copy. What it lacks is
    /// unknown, not absent.
    #[error(
        "the datastore does not know {wanted}, which was read from it: it is another one, or an older copy"
    )]
    Diverged {
        /// Asked for.
        wanted: Cursor,
    },
    /// The store cannot be reached or did not answer; retry later. Whether a write took effect is unknown, and it may
    /// still take effect later.
    #[error("datastore not available: {0}")]
    Unavailable(Arc<str>),
    /// The store refused the request for what it is; retrying does not help.
    #[error("datastore refused the request: {0}")]
    Refused(Arc<str>),
}

/// A datastore. Cheap to share as `Arc<dyn Store>`.
///
/// What every store can do is to compare and write **one** object. What must change together is a [`Plan`] of stages,
/// sound after each of its steps; a store that has transactions does it at once.
pub trait Store: Send + Sync {
    /// Reads one object, as it stands after every write that was answered before.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KeyValue>, StoreError>>;

    /// Reads all objects of a kind within a scope.
    fn list<'a>(
        &'a self,
        kind: Kind,
        scope: &'a Scope,
    ) -> BoxFuture<'a, Result<Listing, StoreError>>;

    /// The names of all objects of a kind, in key order, as they stand after every write that was answered before. For
    /// who wants to know what there is: a store need not read and send the objects.
    fn names(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Key>, StoreError>> {
        Box::pin(async move {
            let listing = self.list(kind, &Scope::All).await?;
            Ok(listing.items.into_iter().map(|item| item.key).collect())
        })
    }

    /// As [`list`](Self::list) of all objects, as the store has them at hand: as they stood after each of `seen` was written,
    /// or later. What was written since may be missing: only good for a decision that what is written of it tests.
    fn list_since<'a>(
        &'a self,
        kind: Kind,
        seen: &'a [Version],
    ) -> BoxFuture<'a, Result<Listing, StoreError>> {
        let _ = seen;
        self.list(kind, &Scope::All)
    }

    /// As [`names`](Self::names), as the store has them at hand: see [`list_since`](Self::list_since).
    fn names_since<'a>(
        &'a self,
        kind: Kind,
        seen: &'a [Version],
    ) -> BoxFuture<'a, Result<Vec<Key>, StoreError>> {
        let _ = seen;
        self.names(kind)
    }

    /// Does one step on one object. Answers what it changed, if anything. A write of what stands there already may be none:
    /// then the version stays.
    fn write(&self, op: Op) -> BoxFuture<'_, Result<Option<Change>, StoreError>>;

    /// Writes the `status` of an object that still stands as `object.version`. Of a kind whose status is written apart from
    /// the rest nothing else of `object.value` is written; of others it is a write of the whole.
    fn write_status(&self, object: KeyValue) -> BoxFuture<'_, Result<Option<Change>, StoreError>> {
        self.write(Op::Put {
            key: object.key,
            value: object.value,
            expect: Expect::Version(object.version),
        })
    }

    /// Carries out a plan: at once where the store [`folds`](Self::folds), else stage by stage, up to the first that fails.
    /// Answers what it changed, at most one change for each key and stage, in order.
    fn commit(&self, plan: Plan) -> BoxFuture<'_, Result<Vec<Change>, Failed>> {
        Box::pin(async move { plan::step_by_step(|op| self.write(op), plan).await })
    }

    /// Whether [`commit`](Self::commit) does a plan as a whole or not at all.
    fn folds(&self) -> bool {
        false
    }

    /// Every change of a kind within a scope after `after`. The stream ends with its first error.
    fn watch(
        &self,
        kind: Kind,
        scope: Scope,
        after: Cursor,
    ) -> BoxStream<'static, Result<WatchEvent, StoreError>>;

    /// Which store this is: another name means other objects, whatever their names.
    fn identity(&self) -> BoxFuture<'_, Result<Arc<str>, StoreError>>;

    /// Whether the store still holds all that was read from it at `cursor`: no when it is another one or an older copy.
    fn contains<'a>(&'a self, cursor: &'a Cursor) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// The condition of a write over what stands under `key`: that it is absent, or at its version. What the store saw of it
    /// last is good enough, since the write compares. `uid`: of the object that is meant, where the caller knows it (a Pod's).
    fn condition<'a>(
        &'a self,
        key: &'a Key,
        uid: &'a str,
    ) -> BoxFuture<'a, Result<Expect, StoreError>> {
        let _ = uid;
        Box::pin(async move {
            let current = self.get(key).await?;
            Ok(Expect::standing(current.map(|current| current.version)))
        })
    }

    /// What people ask for of the pod whose endpoint is to stand under `endpoint`, with the UID `uid` where the caller knows it.
    /// `None` where the store knows no such pods. What the store saw last of the Pod is good enough; of its namespace it is not.
    fn pod_words<'a>(
        &'a self,
        endpoint: &'a Key,
        uid: &'a str,
    ) -> BoxFuture<'a, Result<Option<PodWords>, StoreError>> {
        let _ = (endpoint, uid);
        Box::pin(std::future::ready(Ok(None)))
    }

    /// From now on the store counts as it is, whatever was read from it or written before.
    fn accept(&self) {}
}

impl Op {
    /// The key it is about.
    pub const fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } | Self::Check { key, .. } => key,
        }
    }

    /// What must hold of that key.
    pub const fn expect(&self) -> &Expect {
        match self {
            Self::Put { expect, .. } | Self::Delete { expect, .. } | Self::Check { expect, .. } => {
                expect
            }
        }
    }

    /// The same under another condition.
    #[must_use]
    pub fn expecting(mut self, wanted: Expect) -> Self {
        match &mut self {
            Self::Put { expect, .. } | Self::Delete { expect, .. } | Self::Check { expect, .. } => {
                *expect = wanted;
            }
        }
        self
    }
}

impl Expect {
    /// That what was read is still so: an object at this version, or none.
    pub fn standing(current: Option<Version>) -> Self {
        current.map_or(Self::Absent, Self::Version)
    }

    /// Whether the condition holds of an object at `current` (`None`: it does not exist), of which the same plan made
    /// `own`.
    pub fn holds(&self, current: Option<&Version>, own: Option<&Version>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => current.is_none(),
            Self::Version(wanted) => current == Some(wanted),
            Self::Own => own.is_some() && current == own,
        }
    }
}

impl Change {
    /// The object it is about.
    pub const fn key(&self) -> &Key {
        match self {
            Self::Put(object) => &object.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The write that made it.
    pub const fn version(&self) -> &Version {
        match self {
            Self::Put(object) => &object.version,
            Self::Delete { version, .. } => version,
        }
    }
}

impl WatchEvent {
    /// The change; `None` for a bookmark.
    pub fn change(self) -> Option<Change> {
        match self {
            Self::Change(change, _) => Some(change),
            Self::Bookmark(_) => None,
        }
    }

    /// Where to go on after it.
    pub const fn cursor(&self) -> &Cursor {
        match self {
            Self::Change(_, cursor) | Self::Bookmark(cursor) => cursor,
        }
    }
}
