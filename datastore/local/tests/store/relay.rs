//! The relay when its other end is late, away, or back.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::key::Kind;
use datastore::scope::Scope;
use datastore::store::{Store, StoreError, WatchEvent};
use datastore::version::Cursor;
use datastore_local::relay::server::BindError;
use datastore_local::{RedbStore, RelayStore, bind, serve};
use futures_util::StreamExt;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Folder, events, pool, pools, put, seen, wrote};

/// A served store that can be stopped.
struct Served {
    store: Arc<RedbStore>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Served {
    async fn start(file: &Path, socket: &Path) -> Self {
        let store = Arc::new(RedbStore::open(file).expect("the file is not in use"));
        let listener = bind(socket).await.expect("the socket is free");
        let (stop, stopped) = oneshot::channel::<()>();
        let served = Arc::clone(&store);
        let task = tokio::spawn(async move {
            let stopped = async {
                stopped.await.ok();
            };
            serve(served, listener, stopped)
                .await
                .expect("serving ends well");
        });
        Self { store, stop, task }
    }

    async fn stop(self) {
        self.stop.send(()).expect("the task waits for it");
        self.task.await.expect("serving ends, open watches or not");
        assert_eq!(
            Arc::strong_count(&self.store),
            1,
            "the last handle closes the file"
        );
    }
}

async fn next(
    watch: &mut (impl StreamExt<Item = Result<WatchEvent, StoreError>> + Unpin),
) -> Option<Result<WatchEvent, StoreError>> {
    tokio::time::timeout(Duration::from_secs(30), watch.next())
        .await
        .expect("a watch must not hang")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_store_goes_on_where_watches_were() {
    let folder = Folder::new("restart");
    let (file, socket) = (folder.next("redb"), folder.next("sock"));
    let served = Served::start(&file, &socket).await;
    let client = RelayStore::new(&socket);
    let start = pools(&client).await.cursor;
    let first = wrote(&client, "a", "1").await.expect("the store is up");
    let mut watch = events(&client, &start);
    assert_eq!(seen(next(&mut watch).await), (pool("a"), first.clone()));

    served.stop().await;
    let ended = next(&mut watch).await;
    assert!(
        matches!(ended, Some(Err(StoreError::Unavailable(_)))),
        "{ended:?}"
    );
    assert_eq!(next(&mut watch).await, None, "an error ends a watch");
    let away = client.get(&pool("a")).await.expect_err("nobody listens");
    assert!(
        away.to_string().contains(socket.to_str().unwrap()),
        "{away}"
    );

    let served = Served::start(&file, &socket).await;
    wrote(&*served.store, "b", "1").await.expect("it is up");
    let found = client
        .get(&pool("a"))
        .await
        .expect("the same client connects again");
    let kept = found.expect("it was kept").version;
    assert_eq!(kept.to_string(), first.to_string());
    let mut watch = events(&client, &first);
    assert_eq!(
        seen(next(&mut watch).await).0,
        pool("b"),
        "what happened in between is not lost"
    );
    drop((watch, client));
    served.stop().await;
}

#[tokio::test]
async fn nobody_listening_is_told_at_once_with_the_socket() {
    let folder = Folder::new("nobody");
    let missing = RelayStore::new(folder.next("sock"));
    let error = missing
        .list(Kind::Node, &Scope::All)
        .await
        .expect_err("there is no socket");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    for part in [folder.path().to_str().unwrap(), "No such file"] {
        assert!(
            error.to_string().contains(part),
            "{part} is not in: {error}"
        );
    }
    let left = folder.next("sock");
    drop(bind(&left).await.expect("the folder is ours"));
    let error = RelayStore::new(&left).write(put("a", "1")).await;
    let error = error.expect_err("the socket is dead");
    assert!(error.to_string().contains("refused"), "{error}");
    let mut watch = events(&RelayStore::new(&left), &Cursor::from(0));
    assert!(matches!(
        next(&mut watch).await,
        Some(Err(StoreError::Unavailable(_)))
    ));
    assert_eq!(next(&mut watch).await, None);
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_given_up_at_the_deadline() {
    let folder = Folder::new("deaf");
    let socket = folder.next("sock");
    // The kernel takes the connection; nobody accepts it.
    let _listener = bind(&socket).await.expect("the folder is ours");
    let client = RelayStore::new(&socket).with_deadline(Duration::from_millis(50));
    let error = client.get(&pool("a")).await.expect_err("nobody answers");
    assert!(
        error.to_string().contains("not answered within 50ms"),
        "{error}"
    );
    assert!(
        error.to_string().contains(socket.to_str().unwrap()),
        "{error}"
    );
}

#[tokio::test]
async fn a_socket_in_use_is_not_taken_and_a_dead_one_is() {
    let folder = Folder::new("bind");
    let socket = folder.next("sock");
    let first = bind(&socket).await.expect("the folder is ours");
    let second = bind(&socket).await;
    assert!(matches!(second, Err(BindError::InUse { .. })), "{second:?}");
    drop(first);
    bind(&socket).await.expect("a dead socket is replaced");
    let file = folder.next("file");
    std::fs::write(&file, "precious").expect("the folder is ours");
    let refused = bind(&file).await;
    assert!(
        matches!(refused, Err(BindError::NoSocket { .. })),
        "{refused:?}"
    );
    assert_eq!(
        std::fs::read_to_string(&file).expect("it stands"),
        "precious"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_listing_comes_in_parts_and_whole() {
    let folder = Folder::new("large");
    let (file, socket) = (folder.next("redb"), folder.next("sock"));
    let served = Served::start(&file, &socket).await;
    let value = "x".repeat(100_000);
    for number in 0..60 {
        let name = format!("p{number:02}");
        let written = wrote(&*served.store, &name, &value).await;
        written.expect("it is up");
    }
    let client = RelayStore::new(&socket);
    assert_eq!(pools(&client).await, pools(&*served.store).await);
    drop(client);
    served.stop().await;
}
