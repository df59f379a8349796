//! Plans of several steps.

use super::{check, commit, conflict, delete, get, list, node, pool, put, write};
use crate::plan::Plan;
use crate::store::{Expect, KeyValue, Store, StoreError};
use api::key::Kind;

pub(super) async fn stages_come_one_after_the_other(store: &dyn Store) {
    let (first, second) = (pool("a"), node("b"));
    let old = write(store, put(&second, "0", Expect::Any)).await;
    let changes = commit(
        store,
        vec![
            vec![put(&first, "pending", Expect::Absent)],
            vec![put(&second, "1", Expect::Version(old.clone()))],
            vec![put(&first, "confirmed", Expect::Own)],
        ],
    )
    .await;
    for key in [&first, &second] {
        let last = changes.iter().rev().find(|change| change.key() == key);
        let stored = get(store, key).await.expect("it was written");
        let answered = last.expect("a change of each key is answered").version();
        assert_eq!(answered, &stored.version, "the last version is answered");
    }
    let stored = get(store, &first).await.expect("it was written");
    assert_eq!(&stored.value[..], b"confirmed", "the last stage counts");
    // A name that is freed and taken again.
    commit(
        store,
        vec![
            vec![delete(&first, Expect::Version(stored.version.clone()))],
            vec![put(&first, "anew", Expect::Absent)],
        ],
    )
    .await;
    let anew = get(store, &first).await.expect("it was made anew");
    assert_ne!(anew.version, stored.version, "it is another write");
    assert_eq!(&anew.value[..], b"anew");
}

pub(super) async fn what_cannot_be_meant_is_refused(store: &dyn Store) {
    let key = pool("a");
    for stages in [
        vec![vec![put(&key, "1", Expect::Any), delete(&key, Expect::Any)]],
        vec![vec![put(&key, "1", Expect::Own)]],
        vec![
            vec![put(&key, "1", Expect::Absent)],
            vec![put(&key, "2", Expect::Absent)],
        ],
    ] {
        match store.commit(Plan { stages }).await {
            Err(failed) => match failed.error {
                StoreError::Refused(reason) => assert!(
                    reason.contains("IPPool(a)") && failed.done.is_empty(),
                    "the refusal names the key, and nothing is done: {reason}"
                ),
                other => panic!("it must be refused: {other:?}"),
            },
            Ok(changes) => panic!("it must be refused: {changes:?}"),
        }
        assert_eq!(get(store, &key).await, None, "a refused plan does nothing");
    }
}

pub(super) async fn a_failed_plan_says_what_was_done(store: &dyn Store) {
    let (first, second, third) = (pool("a"), pool("b"), pool("c"));
    write(store, put(&second, "0", Expect::Any)).await;
    let failed = store
        .commit(Plan {
            stages: vec![
                vec![put(&first, "1", Expect::Absent)],
                vec![put(&second, "1", Expect::Absent)],
                vec![put(&third, "1", Expect::Absent)],
            ],
        })
        .await
        .expect_err("the second stage cannot be done");
    let current = get(store, &second).await;
    conflict(
        Err::<(), _>(failed.error),
        &second,
        current.as_ref(),
        "the stage that failed",
    );
    let there: Vec<_> = list(store, Kind::IPPool)
        .await
        .items
        .into_iter()
        .filter(|object| object.key != second)
        .map(|object| (object.key, object.version))
        .collect();
    let done: Vec<_> = failed
        .done
        .into_iter()
        .map(|change| (change.key().clone(), change.version().clone()))
        .collect();
    assert_eq!(
        there, done,
        "what was done before is answered, no more was done"
    );
    assert!(
        !store.folds() || done.is_empty(),
        "a store that folds does nothing of a plan that fails"
    );
}

pub(super) async fn folded_plans_are_whole_or_nothing(store: &dyn Store) {
    if !store.folds() {
        return;
    }
    let keys = [pool("a"), pool("b"), pool("c")];
    let put_all = |expect_of_last| {
        vec![vec![
            put(&keys[0], "x", Expect::Any),
            delete(&keys[1], Expect::Any),
            put(&keys[2], "x", expect_of_last),
        ]]
    };
    let other = write(store, put(&keys[1], "1", Expect::Any)).await;
    let before = list(store, Kind::IPPool).await;
    for stages in [
        put_all(Expect::Version(other)),
        vec![
            vec![put(&keys[0], "x", Expect::Absent)],
            vec![check(&keys[1], Expect::Absent)],
        ],
    ] {
        let failed = store.commit(Plan { stages }).await;
        assert!(
            matches!(&failed, Err(failed) if matches!(failed.error, StoreError::Conflict { .. })),
            "{failed:?}"
        );
        let after = list(store, Kind::IPPool).await;
        assert_eq!(before.items, after.items, "a refused plan changes nothing");
    }
    commit(store, put_all(Expect::Absent)).await;
    let after = list(store, Kind::IPPool).await.items;
    let left: Vec<_> = after.iter().map(|KeyValue { key, .. }| key).collect();
    assert_eq!(left, [&keys[0], &keys[2]], "all steps are done");
}
