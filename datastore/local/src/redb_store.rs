//! A store in one redb file, for one process.
//!
//! Conditions are compared inside redb's write transaction, by the one thread that writes. Each commit is durable
//! before it is answered. Readers see the last published snapshot, which the watch history is never behind.

mod format;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use api::key::{Key, Kind};
use datastore::history::{History, Revision};
use datastore::plan::{Failed, Plan};
use datastore::scope::Scope;
use datastore::store::{Change, KeyValue, Listing, Op, Store, StoreError, WatchEvent};
use datastore::version::Cursor;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use redb::{Database, DatabaseError, ReadTransaction};
use tokio::sync::{mpsc, oneshot};

use writer::{Job, Writer};

/// Page cache. A cluster's objects are a few MiB; redb's own default is 1 GiB.
const CACHE_BYTES: usize = 4 << 20;

/// Changes kept for watches unless set otherwise.
pub const HISTORY_ENTRIES: usize = 4096;

/// Transactions that may wait for the writer; the next one waits for a place.
const QUEUE_TRANSACTIONS: usize = 1024;

/// A store in one redb file. Dropping the last handle closes the file.
pub struct RedbStore {
    path: PathBuf,
    identity: Arc<str>,
    published: Arc<Published>,
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
}

/// What readers and watches see: always a finished commit.
struct Published {
    history: History,
    shown: Mutex<Shown>,
}

impl Published {
    fn show(&self, shown: Shown) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown;
    }
}

/// What readers get.
#[derive(Clone)]
enum Shown {
    Snapshot(Snapshot),
    /// The file does not work, and why.
    Failed(Arc<str>),
    Closed,
}

#[derive(Clone)]
struct Snapshot {
    transaction: Arc<ReadTransaction>,
    revision: Revision,
}

/// Why the file could not be opened as a store. None of them goes away by trying again, [`OpenError::InUse`] apart.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{}: in use by another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The folder could not be made.
    #[error("{}: cannot make the folder", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// redb refused the file, or reading it failed.
    #[error("{}: cannot open as a store", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
    /// The file is a redb database with something else in it.
    #[error("{}: not a store of this release: {what}", path.display())]
    Contents {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

impl RedbStore {
    /// Opens or makes the file, and its folder, and starts the writer thread.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open_with_history(path, HISTORY_ENTRIES)
    }

    /// Like [`Self::open`], keeping about `entries` changes for watches.
    pub fn open_with_history(path: impl AsRef<Path>, entries: usize) -> Result<Self, OpenError> {
        let path = path.as_ref().to_owned();
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            std::fs::create_dir_all(folder).map_err(|source| OpenError::Folder {
                path: folder.to_owned(),
                source,
            })?;
        }
        let database = builder().create(&path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { path: path.clone() },
            other => OpenError::Open {
                path: path.clone(),
                source: Box::new(other.into()),
            },
        })?;
        let opened = format::load(&database, entries).map_err(|error| match error {
            format::LoadError::Redb(source) => OpenError::Open {
                path: path.clone(),
                source,
            },
            format::LoadError::Contents(what) => OpenError::Contents {
                path: path.clone(),
                what,
            },
        })?;
        let published = Arc::new(Published {
            history: opened.history,
            shown: Mutex::new(Shown::Snapshot(opened.snapshot)),
        });
        let (jobs, queue) = mpsc::channel(QUEUE_TRANSACTIONS);
        let writer = Writer {
            database: Some(database),
            path: path.clone(),
            revision: opened.revision,
            log_entries: opened.log_entries,
            log_entries_max: entries as u64,
            published: Arc::clone(&published),
        };
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|source| OpenError::Open {
                path: path.clone(),
                source: Box::new(redb::Error::Io(source)),
            })?;
        Ok(Self {
            path,
            identity: opened.identity.into(),
            published,
            jobs: Some(jobs),
            writer: Some(writer),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let shown = self.published.shown.lock();
        match &*shown.unwrap_or_else(PoisonError::into_inner) {
            Shown::Snapshot(snapshot) => Ok(snapshot.clone()),
            Shown::Failed(reason) => Err(StoreError::Unavailable(Arc::clone(reason))),
            Shown::Closed => Err(self.closed()),
        }
    }

    fn closed(&self) -> StoreError {
        StoreError::Unavailable(format!("{}: the store is closing", self.path.display()).into())
    }

    /// A failed reading spoils the file for the writer, too: an empty transaction lets it find out and open it again.
    fn failed(&self, error: &redb::Error) -> StoreError {
        if let Some(jobs) = &self.jobs {
            let (reply, _) = oneshot::channel();
            let plan = Plan::default();
            // When the queue is full the writer has work enough to notice by.
            let _ = jobs.try_send(Job { plan, reply });
        }
        StoreError::Unavailable(format!("{}: {error}", self.path.display()).into())
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!(path = %self.path.display(), "the store's writer had failed");
        }
    }
}

impl std::fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedbStore")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Store for RedbStore {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KeyValue>, StoreError>> {
        Box::pin(async move {
            format::get(&self.snapshot()?.transaction, key).map_err(|error| self.failed(&error))
        })
    }

    fn list<'a>(
        &'a self,
        kind: Kind,
        scope: &'a Scope,
    ) -> BoxFuture<'a, Result<Listing, StoreError>> {
        Box::pin(async move {
            let snapshot = self.snapshot()?;
            Ok(Listing {
                items: format::list(&snapshot.transaction, kind, scope)
                    .map_err(|error| self.failed(&error))?,
                cursor: snapshot.revision.into(),
            })
        })
    }

    fn names(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Key>, StoreError>> {
        Box::pin(async move {
            format::names(&self.snapshot()?.transaction, kind).map_err(|error| self.failed(&error))
        })
    }

    fn write(&self, op: Op) -> BoxFuture<'_, Result<Option<Change>, StoreError>> {
        Box::pin(async move {
            let plan = Plan::at_once(vec![op]);
            let done = self.commit(plan).await.map_err(|failed| failed.error)?;
            Ok(done.into_iter().next())
        })
    }

    fn commit(&self, plan: Plan) -> BoxFuture<'_, Result<Vec<Change>, Failed>> {
        Box::pin(async move {
            format::refuse_unstorable(&plan)?;
            let (reply, answer) = oneshot::channel();
            let jobs = self.jobs.as_ref().ok_or_else(|| self.closed())?;
            jobs.send(Job { plan, reply })
                .await
                .map_err(|_| self.closed())?;
            Ok(answer.await.map_err(|_| self.closed())??)
        })
    }

    fn folds(&self) -> bool {
        true
    }

    fn watch(
        &self,
        kind: Kind,
        scope: Scope,
        after: Cursor,
    ) -> BoxStream<'static, Result<WatchEvent, StoreError>> {
        Box::pin(self.published.history.watch(kind, scope, after))
    }

    fn identity(&self) -> BoxFuture<'_, Result<Arc<str>, StoreError>> {
        Box::pin(async { Ok(Arc::clone(&self.identity)) })
    }

    fn contains<'a>(&'a self, cursor: &'a Cursor) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async { Ok(self.published.history.contains(cursor)) })
    }
}
