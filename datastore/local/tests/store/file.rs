//! What a file keeps from one opening to the next.

use std::collections::BTreeSet;
use std::sync::Arc;

use datastore::store::{Expect, Store, StoreError};
use datastore::version::{Cursor, Order};
use datastore_local::RedbStore;
use datastore_local::redb_store::OpenError;
use futures_util::StreamExt;
use futures_util::future::join_all;

use super::{Folder, events, pool, pools, put, seen, wrote};

#[tokio::test]
async fn objects_revision_and_history_outlive_the_store() {
    let folder = Folder::new("reopen");
    let file = folder.next("redb");
    let store = RedbStore::open(&file).expect("a new file opens");
    let identity = store.identity().await;
    let mut first = None;
    for name in ["a", "b", "c"] {
        let cursor = wrote(&store, name, name).await.expect("it is ours alone");
        first.get_or_insert(cursor);
    }
    let first = first.expect("three were written");
    let before = pools(&store).await;
    drop(store);

    let store = RedbStore::open(&file).expect("it was closed");
    assert_eq!(store.identity().await, identity);
    assert_eq!(pools(&store).await.items, before.items);
    assert_eq!(store.contains(&before.cursor).await, Ok(true));
    let mut watch = events(&store, &first);
    for name in ["b", "c"] {
        assert_eq!(seen(watch.next().await).0, pool(name));
    }
    let next = wrote(&store, "d", "d").await.expect("it is ours alone");
    assert_eq!(next.order(&before.cursor), Order::Newer, "versions go on");
    assert_eq!(seen(watch.next().await), (pool("d"), next));
}

#[tokio::test]
async fn an_older_copy_and_another_file_do_not_know_what_was_read() {
    let folder = Folder::new("older");
    let (file, copy) = (folder.next("redb"), folder.next("redb"));
    let store = RedbStore::open(&file).expect("a new file opens");
    let old = wrote(&store, "a", "1").await.expect("it is ours alone");
    drop(store);
    std::fs::copy(&file, &copy).expect("the folder is ours");
    let store = RedbStore::open(&file).expect("it was closed");
    let lost = wrote(&store, "a", "2").await.expect("it is ours alone");
    let version = store.get(&pool("a")).await.expect("it answers");
    let version = version.expect("it stands").version;
    drop(store);

    let older = RedbStore::open(&copy).expect("nobody has it open");
    let wanted = lost.clone();
    for _ in 0..20 {
        // However much is written to it.
        wrote(&older, "b", "x").await.expect("it is ours alone");
    }
    assert_eq!(older.contains(&old).await, Ok(true));
    assert_eq!(older.contains(&lost).await, Ok(false));
    let told = events(&older, &lost).next().await;
    assert_eq!(told, Some(Err(StoreError::Diverged { wanted })));
    // A write that was decided on what is lost meets nothing.
    let stale = put("b", "y").expecting(Expect::Version(version));
    let refused = older.write(stale).await;
    assert!(
        matches!(refused, Err(StoreError::Conflict { .. })),
        "{refused:?}"
    );

    let other = RedbStore::open(folder.next("redb")).expect("a new file opens");
    assert_ne!(other.identity().await, older.identity().await);
    assert_eq!(other.contains(&old).await, Ok(false));
}

#[tokio::test]
async fn a_short_history_is_short_after_opening_too() {
    let folder = Folder::new("compact");
    let file = folder.next("redb");
    let store = RedbStore::open_with_history(&file, 4).expect("a new file opens");
    let mut cursors = Vec::new();
    for round in 0..10 {
        let cursor = wrote(&store, "a", &round.to_string()).await;
        cursors.push(cursor.expect("it is ours alone"));
    }
    drop(store);
    let store = RedbStore::open_with_history(&file, 4).expect("it was closed");
    let first = events(&store, &cursors[4]).next().await;
    let wanted = cursors[4].clone();
    assert_eq!(first, Some(Err(StoreError::Gone { wanted })));
    let kept = events(&store, &cursors[5]).next().await;
    assert_eq!(seen(kept).1, cursors[6], "four are kept");
}

#[tokio::test]
async fn writes_sent_together_are_all_answered_with_their_own_version() {
    let folder = Folder::new("group");
    let store = RedbStore::open(folder.next("redb")).expect("a new file opens");
    let names: Vec<String> = (0..200).map(|number| format!("p{number}")).collect();
    let answers = join_all(names.iter().map(|name| wrote(&store, name, "x"))).await;
    let cursors: BTreeSet<Cursor> = answers
        .into_iter()
        .map(|answer| answer.expect("none conflicts"))
        .collect();
    assert_eq!(cursors.len(), 200);
}

#[tokio::test]
async fn a_file_in_use_and_a_file_of_something_else_are_refused_by_name() {
    let folder = Folder::new("refused");
    let file = folder.next("redb");
    let _store = Arc::new(RedbStore::open(&file).expect("a new file opens"));
    let error = RedbStore::open(&file).expect_err("it is open");
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    assert!(
        error.to_string().contains(file.to_str().unwrap()),
        "{error}"
    );
    let junk = folder.next("junk");
    std::fs::write(&junk, [7; 5000]).expect("the folder is ours");
    let error = RedbStore::open(&junk).expect_err("it is no store");
    assert!(
        error.to_string().contains(junk.to_str().unwrap()),
        "{error}"
    );
}

#[tokio::test]
async fn a_name_with_a_nul_is_refused() {
    let folder = Folder::new("nul");
    let store = RedbStore::open(folder.next("redb")).expect("a new file opens");
    let refused = store.write(put("a\0b", "x")).await;
    assert!(
        matches!(refused, Err(StoreError::Refused(_))),
        "{refused:?}"
    );
}
