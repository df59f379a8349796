//! The seam between the agent and whatever keeps its objects.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::key::{Key, Kind};
use bytes::Bytes;
use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;

/// A store-wide, growing number. 0 is before the first write.
pub type Revision = u64;

/// An object as it stands in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// Name.
    pub key: Key,
    /// JSON, without `metadata.resourceVersion`.
    pub value: Bytes,
    /// The revision that last wrote it.
    pub revision: Revision,
}

/// What must hold of a key for a transaction to go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Anything.
    Any,
    /// The key does not exist.
    Absent,
    /// The key exists, last written at this revision.
    Revision(Revision),
}

/// One step of a transaction.
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

/// All objects of a kind (or some kinds) at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Objects in key order.
    pub items: Vec<KeyValue>,
    /// The revision they were read at: where a watch goes on.
    pub revision: Revision,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// Written.
    Put(KeyValue),
    /// Deleted.
    Delete {
        /// Name.
        key: Key,
        /// When.
        revision: Revision,
    },
    /// Nothing before this revision is missing; sent now and then so that a watcher knows it lives.
    Progress(Revision),
}

/// Why a store did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A condition of the transaction did not hold; read again and decide anew.
    #[error("{key}: changed by somebody else in the meantime")]
    Conflict {
        /// The first key whose condition failed.
        key: Key,
        /// What stands there now.
        current: Option<Box<KeyValue>>,
    },
    /// The watch's revision is no longer kept; list again.
    #[error("revision {wanted} is compacted away (oldest kept is {oldest})")]
    Gone {
        /// Asked for.
        wanted: Revision,
        /// Oldest kept.
        oldest: Revision,
    },
    /// The store cannot be reached or did not answer; retry later. Whether a write took effect is unknown.
    #[error("datastore not available: {0}")]
    Unavailable(Arc<str>),
    /// The store refused the request for what it is; retrying does not help.
    #[error("datastore refused the request: {0}")]
    Refused(Arc<str>),
}

/// A datastore. Cheap to share as `Arc<dyn Store>`.
pub trait Store: Send + Sync {
    /// Reads one object.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KeyValue>, StoreError>>;

    /// Reads all objects of these kinds, at one revision.
    fn list<'a>(&'a self, kinds: &'a [Kind]) -> BoxFuture<'a, Result<Listing, StoreError>>;

    /// Does all of `ops` or none. Answers the new revision; when nothing is written, the current one.
    fn transact(&self, ops: Vec<Op>) -> BoxFuture<'_, Result<Revision, StoreError>>;

    /// Every change of these kinds after `after`. The stream ends with its first error.
    fn watch(
        &self,
        kinds: Vec<Kind>,
        after: Revision,
    ) -> BoxStream<'static, Result<WatchEvent, StoreError>>;
}

impl Op {
    /// The key it is about.
    pub const fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } | Self::Check { key, .. } => key,
        }
    }

    /// What must hold of that key.
    pub const fn expect(&self) -> Expect {
        match self {
            Self::Put { expect, .. } | Self::Delete { expect, .. } | Self::Check { expect, .. } => {
                *expect
            }
        }
    }
}

impl Expect {
    /// Whether the condition holds of a key last written at `current` (`None`: it does not exist).
    pub fn holds(self, current: Option<Revision>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => current.is_none(),
            Self::Revision(wanted) => current == Some(wanted),
        }
    }
}

impl WatchEvent {
    /// The object it is about; `None` for progress.
    pub const fn key(&self) -> Option<&Key> {
        match self {
            Self::Put(object) => Some(&object.key),
            Self::Delete { key, .. } => Some(key),
            Self::Progress(_) => None,
        }
    }

    /// The revision it belongs to.
    pub const fn revision(&self) -> Revision {
        match self {
            Self::Put(object) => object.revision,
            Self::Delete { revision, .. } | Self::Progress(revision) => *revision,
        }
    }
}

/// Refuses a transaction that names a key twice: which of two steps on one key would win is nobody's wish.
pub fn refuse_repeated_keys(ops: &[Op]) -> Result<(), StoreError> {
    let mut seen = BTreeSet::new();
    for op in ops {
        if !seen.insert(op.key()) {
            return Err(StoreError::Refused(
                format!(
                    "{} stands twice in one transaction; each key may stand once",
                    op.key()
                )
                .into(),
            ));
        }
    }
    Ok(())
}
