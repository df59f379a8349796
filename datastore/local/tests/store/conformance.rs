//! The redb store and the relay pass the suite that every store passes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use datastore::conformance::{self, HISTORY_ENTRIES};
use datastore::store::Store;
use datastore_local::{RedbStore, RelayStore, bind, serve};

/// A suite that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_redb_store_conforms() {
    let folder = Folder::new("redb");
    let suite = conformance::run(|| async { Arc::new(folder.store()) as Arc<dyn Store> });
    tokio::time::timeout(DEADLINE, suite)
        .await
        .expect("the suite hangs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_relay_conforms() {
    let folder = Folder::new("relay");
    let suite = conformance::run(|| async {
        let socket = folder.next("sock");
        let listener = bind(&socket).await.expect("the folder is ours");
        let store = Arc::new(folder.store());
        tokio::spawn(serve(store, listener, std::future::pending()));
        Arc::new(RelayStore::new(socket)) as Arc<dyn Store>
    });
    tokio::time::timeout(DEADLINE, suite)
        .await
        .expect("the suite hangs");
}

/// A folder of this test, removed at the end.
struct Folder {
    path: PathBuf,
    made: AtomicUsize,
}

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("conformance-{name}-{}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).expect("the target directory is writable");
        Self {
            path,
            made: AtomicUsize::new(0),
        }
    }

    fn next(&self, extension: &str) -> PathBuf {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        self.path.join(format!("{number}.{extension}"))
    }

    fn store(&self) -> RedbStore {
        RedbStore::open_with_history(self.next("redb"), HISTORY_ENTRIES).expect("a new file opens")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.path).expect("the folder is ours");
    }
}
