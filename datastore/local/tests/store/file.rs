//! What a file keeps from one opening to the next.

use std::sync::Arc;

use api::key::Kind;
use datastore::store::{Op, Store, StoreError};
use datastore_local::RedbStore;
use datastore_local::redb_store::OpenError;
use futures_util::StreamExt;
use futures_util::future::join_all;

use super::{Folder, pool, put};

#[tokio::test]
async fn objects_revision_and_history_outlive_the_store() {
    let folder = Folder::new("reopen");
    let file = folder.next("redb");
    let store = RedbStore::open(&file).expect("a new file opens");
    for name in ["a", "b", "c"] {
        store
            .transact(put(name, name))
            .await
            .expect("it is ours alone");
    }
    let before = store.list(&Kind::ALL).await.expect("list works");
    drop(store);

    let store = RedbStore::open(&file).expect("it was closed");
    assert_eq!(store.list(&Kind::ALL).await, Ok(before));
    let mut watch = store.watch(vec![Kind::IPPool], 1);
    for (name, revision) in [("b", 2), ("c", 3)] {
        let event = watch
            .next()
            .await
            .expect("more is to come")
            .expect("it is kept");
        assert_eq!(
            (event.key(), event.revision()),
            (Some(&pool(name)), revision)
        );
    }
    assert_eq!(
        store.transact(put("d", "d")).await,
        Ok(4),
        "revisions go on"
    );
}

#[tokio::test]
async fn a_short_history_is_short_after_opening_too() {
    let folder = Folder::new("compact");
    let file = folder.next("redb");
    let store = RedbStore::open_with_history(&file, 4).expect("a new file opens");
    for round in 0..10 {
        store
            .transact(put("a", &round.to_string()))
            .await
            .expect("it is ours alone");
    }
    drop(store);
    let store = RedbStore::open_with_history(&file, 4).expect("it was closed");
    let first = store.watch(vec![Kind::IPPool], 5).next().await;
    assert_eq!(
        first,
        Some(Err(StoreError::Gone {
            wanted: 5,
            oldest: 6
        }))
    );
    let kept = store.watch(vec![Kind::IPPool], 6).next().await;
    assert_eq!(
        kept.expect("four are kept")
            .expect("four are kept")
            .revision(),
        7
    );
}

#[tokio::test]
async fn transactions_sent_together_are_all_answered_with_their_own_revision() {
    let folder = Folder::new("group");
    let store = RedbStore::open(folder.next("redb")).expect("a new file opens");
    let names: Vec<String> = (0..200).map(|number| format!("p{number}")).collect();
    let answers = join_all(names.iter().map(|name| store.transact(put(name, "x")))).await;
    let mut revisions: Vec<u64> = answers
        .into_iter()
        .map(|answer| answer.expect("none conflicts"))
        .collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=200).collect::<Vec<_>>());
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
    let ops: Vec<Op> = put("a\0b", "x");
    let refused = store.transact(ops).await;
    assert!(
        matches!(refused, Err(StoreError::Refused(_))),
        "{refused:?}"
    );
}
