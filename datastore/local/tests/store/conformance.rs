//! The suite that every store passes.

use std::sync::Arc;
use std::time::Duration;

use datastore::conformance::{self, HISTORY_ENTRIES};
use datastore::store::Store;
use datastore_local::{RedbStore, RelayStore, bind, serve};

use super::Folder;

/// A suite that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(120);

fn store(folder: &Folder) -> RedbStore {
    RedbStore::open_with_history(folder.next("redb"), HISTORY_ENTRIES).expect("a new file opens")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_redb_store_conforms() {
    let folder = Folder::new("redb-suite");
    let suite = conformance::run(|| async { Arc::new(store(&folder)) as Arc<dyn Store> });
    tokio::time::timeout(DEADLINE, suite)
        .await
        .expect("the suite hangs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_relay_conforms() {
    let folder = Folder::new("relay-suite");
    let suite = conformance::run(|| async {
        let socket = folder.next("sock");
        let listener = bind(&socket).await.expect("the folder is ours");
        tokio::spawn(serve(
            Arc::new(store(&folder)),
            listener,
            std::future::pending(),
        ));
        Arc::new(RelayStore::new(socket)) as Arc<dyn Store>
    });
    tokio::time::timeout(DEADLINE, suite)
        .await
        .expect("the suite hangs");
}
