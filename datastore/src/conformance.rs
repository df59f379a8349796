//! What every store must do, as one suite that each of them runs.
//!
//! The suite panics at the first thing that is not so, naming it. It waits for watches without a limit of its own: run
//! it under a deadline.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::key::{Key, Kind};
use bytes::Bytes;
use futures_core::stream::BoxStream;
use futures_util::future::join;
use futures_util::stream::StreamExt;

use crate::store::{Expect, KeyValue, Op, Revision, Store, StoreError, WatchEvent};

/// How many changes the stores under test must keep, about: the suite writes past it to see compaction.
pub const HISTORY_ENTRIES: usize = 64;

/// Runs the suite. `make_store` gives a new, empty store each time, which keeps about [`HISTORY_ENTRIES`] changes.
///
/// # Panics
/// When a store does not do what it must.
pub async fn run<F, Made>(make_store: F)
where
    F: Fn() -> Made,
    Made: Future<Output = Arc<dyn Store>>,
{
    create_needs_absence(&*make_store().await).await;
    compare_and_set_names_key_and_current_value(&*make_store().await).await;
    deletes_obey_conditions(&*make_store().await).await;
    checks_compare_and_write_nothing(&*make_store().await).await;
    transactions_are_whole_or_nothing(&*make_store().await).await;
    a_repeated_key_is_refused(&*make_store().await).await;
    revisions_grow(&*make_store().await).await;
    listings_are_ordered_and_of_one_revision(&*make_store().await).await;
    listings_never_show_half_a_transaction(&*make_store().await).await;
    watches_see_everything_once_in_order(&*make_store().await).await;
    watches_see_only_their_kinds(&*make_store().await).await;
    watches_resume_where_they_were(&*make_store().await).await;
    compacted_revisions_are_gone(&*make_store().await).await;
    revisions_from_the_future_are_gone(&*make_store().await).await;
    of_two_racing_transactions_one_wins(&*make_store().await).await;
    values_come_back_as_they_were(&*make_store().await).await;
}

async fn create_needs_absence(store: &dyn Store) {
    let key = pool("a");
    assert_eq!(store.get(&key).await, Ok(None), "a new store is empty");
    let revision = commit(store, vec![put(&key, "1", Expect::Absent)]).await;
    let object = store.get(&key).await.expect("get works");
    assert_eq!(
        object,
        Some(KeyValue {
            key: key.clone(),
            value: Bytes::from_static(b"1"),
            revision,
        }),
        "what was created is read"
    );
    let again = store.transact(vec![put(&key, "2", Expect::Absent)]).await;
    conflict(again, &key, object.as_ref(), "creating what exists");
    commit(store, vec![delete(&key, Expect::Any)]).await;
    commit(store, vec![put(&key, "3", Expect::Absent)]).await;
}

async fn compare_and_set_names_key_and_current_value(store: &dyn Store) {
    let (first, second) = (pool("a"), pool("b"));
    let old = commit(store, vec![put(&first, "1", Expect::Any)]).await;
    commit(store, vec![put(&second, "1", Expect::Any)]).await;
    let new = commit(store, vec![put(&first, "2", Expect::Revision(old))]).await;
    let stale = store
        .transact(vec![
            Op::Check {
                key: second.clone(),
                expect: Expect::Any,
            },
            put(&first, "3", Expect::Revision(old)),
        ])
        .await;
    let current = KeyValue {
        key: first.clone(),
        value: Bytes::from_static(b"2"),
        revision: new,
    };
    conflict(stale, &first, Some(&current), "a stale revision");
    let absent = pool("c");
    let missing = store
        .transact(vec![put(&absent, "1", Expect::Revision(new))])
        .await;
    conflict(missing, &absent, None, "a revision of what does not exist");
}

async fn deletes_obey_conditions(store: &dyn Store) {
    let key = pool("a");
    let before = commit(store, vec![delete(&key, Expect::Any)]).await;
    assert_eq!(before, 0, "deleting nothing writes nothing");
    let gone = store
        .transact(vec![delete(&key, Expect::Revision(1))])
        .await;
    conflict(
        gone,
        &key,
        None,
        "deleting what does not exist at a revision",
    );
    let old = commit(store, vec![put(&key, "1", Expect::Any)]).await;
    let new = commit(store, vec![put(&key, "2", Expect::Any)]).await;
    let stale = store
        .transact(vec![delete(&key, Expect::Revision(old))])
        .await;
    let current = store.get(&key).await.expect("get works");
    conflict(stale, &key, current.as_ref(), "a stale delete");
    commit(store, vec![delete(&key, Expect::Revision(new))]).await;
    assert_eq!(store.get(&key).await, Ok(None), "what was deleted is gone");
}

async fn checks_compare_and_write_nothing(store: &dyn Store) {
    let (here, absent) = (pool("a"), pool("b"));
    let revision = commit(store, vec![put(&here, "1", Expect::Any)]).await;
    let checks = vec![
        check(&here, Expect::Revision(revision)),
        check(&absent, Expect::Absent),
    ];
    assert_eq!(
        store.transact(checks).await,
        Ok(revision),
        "a transaction of checks answers the current revision"
    );
    let failing = store
        .transact(vec![
            put(&absent, "1", Expect::Absent),
            check(&here, Expect::Absent),
        ])
        .await;
    let current = store.get(&here).await.expect("get works");
    conflict(failing, &here, current.as_ref(), "a failing check");
    assert_eq!(
        store.get(&absent).await,
        Ok(None),
        "a failing check stops the writes before it"
    );
}

async fn transactions_are_whole_or_nothing(store: &dyn Store) {
    let keys = [pool("a"), pool("b"), pool("c")];
    let put_all = |expect_of_last| {
        vec![
            put(&keys[0], "x", Expect::Any),
            delete(&keys[1], Expect::Any),
            put(&keys[2], "x", expect_of_last),
        ]
    };
    commit(store, vec![put(&keys[1], "1", Expect::Any)]).await;
    let before = store.list(&Kind::ALL).await.expect("list works");
    let failed = store.transact(put_all(Expect::Revision(99))).await;
    conflict(failed, &keys[2], None, "the last step's condition");
    let after = store.list(&Kind::ALL).await.expect("list works");
    assert_eq!(before, after, "a refused transaction changes nothing");
    let revision = commit(store, put_all(Expect::Absent)).await;
    let after = store.list(&Kind::ALL).await.expect("list works");
    let left: Vec<_> = after
        .items
        .iter()
        .map(|object| (&object.key, object.revision))
        .collect();
    assert_eq!(
        left,
        [(&keys[0], revision), (&keys[2], revision)],
        "all steps are done, at one revision"
    );
}

async fn a_repeated_key_is_refused(store: &dyn Store) {
    let key = pool("a");
    let twice = vec![put(&key, "1", Expect::Any), delete(&key, Expect::Any)];
    match store.transact(twice).await {
        Err(StoreError::Refused(reason)) => assert!(
            reason.contains("IPPool(a)"),
            "the refusal names the key: {reason}"
        ),
        other => panic!("a key twice in one transaction must be refused: {other:?}"),
    }
}

async fn revisions_grow(store: &dyn Store) {
    let mut last = 0;
    for round in 0..20 {
        let key = pool(&format!("p{}", round % 3));
        let ops = if round % 5 == 4 {
            vec![delete(&key, Expect::Any)]
        } else {
            vec![put(&key, "same", Expect::Any)]
        };
        let existed = store.get(&key).await.expect("get works").is_some();
        let writes = existed || !matches!(ops[0], Op::Delete { .. });
        let revision = commit(store, ops).await;
        assert!(
            !writes || revision > last,
            "round {round}: revision {revision} after {last}"
        );
        last = revision;
    }
}

async fn listings_are_ordered_and_of_one_revision(store: &dyn Store) {
    let endpoint =
        |namespace: &str, name: &str| Key::namespaced(Kind::WorkloadEndpoint, namespace, name);
    let mut keys = vec![
        pool("b"),
        Key::new(Kind::Node, "z"),
        pool("a-1"),
        pool("a.1"),
        pool("a"),
        endpoint("ns", "b"),
        endpoint("ns-1", "a"),
        endpoint("n", "c"),
        Key::new(Kind::IPAMBlock, "10-0-0-0-26"),
    ];
    for key in &keys {
        commit(store, vec![put(key, "v", Expect::Absent)]).await;
    }
    keys.sort();
    let wanted = [Kind::WorkloadEndpoint, Kind::IPPool, Kind::Node];
    let listing = store.list(&wanted).await.expect("list works");
    let listed: Vec<_> = listing.items.iter().map(|object| &object.key).collect();
    let expected: Vec<_> = keys
        .iter()
        .filter(|key| wanted.contains(&key.kind))
        .collect();
    assert_eq!(
        listed, expected,
        "a listing is in key order, and of its kinds"
    );
    assert_eq!(listing.revision, keys.len() as Revision);
    assert_eq!(
        store.list(&[]).await.expect("list works").items,
        [],
        "no kinds, no objects"
    );
}

async fn listings_never_show_half_a_transaction(store: &dyn Store) {
    let (one, other) = (pool("a"), Key::new(Kind::Node, "b"));
    let write = async {
        for round in 0..30 {
            let value = round.to_string();
            commit(
                store,
                vec![
                    put(&one, &value, Expect::Any),
                    put(&other, &value, Expect::Any),
                ],
            )
            .await;
        }
    };
    let read = async {
        for _ in 0..30 {
            let listing = store.list(&Kind::ALL).await.expect("list works");
            let values: Vec<_> = listing.items.iter().map(|object| &object.value).collect();
            assert!(
                values.is_empty() || (values.len() == 2 && values[0] == values[1]),
                "a listing between two transactions: {listing:?}"
            );
            assert!(
                listing
                    .items
                    .iter()
                    .all(|object| object.revision <= listing.revision),
                "an object is newer than its listing: {listing:?}"
            );
        }
    };
    join(write, read).await;
}

async fn watches_see_everything_once_in_order(store: &dyn Store) {
    let kinds = vec![Kind::IPPool, Kind::Node];
    let mut early = store.watch(kinds.clone(), 0);
    let (a, b) = (pool("a"), Key::new(Kind::Node, "b"));
    let mut expected = Vec::new();
    for round in 0..10 {
        let value = round.to_string();
        let revision = commit(
            store,
            vec![put(&a, &value, Expect::Any), put(&b, &value, Expect::Any)],
        )
        .await;
        expected.push((a.clone(), Some(value.clone()), revision));
        expected.push((b.clone(), Some(value), revision));
        let revision = commit(store, vec![delete(&a, Expect::Any)]).await;
        expected.push((a.clone(), None, revision));
    }
    assert_eq!(
        changes(&mut early, expected.len()).await,
        expected,
        "a watch from before the changes"
    );
    let mut late = store.watch(kinds.clone(), 0);
    assert_eq!(
        changes(&mut late, expected.len()).await,
        expected,
        "a watch of the past"
    );
    let middle = expected[7].2;
    let after: Vec<_> = expected
        .iter()
        .filter(|change| change.2 > middle)
        .cloned()
        .collect();
    let mut from_middle = store.watch(kinds, middle);
    assert_eq!(
        changes(&mut from_middle, after.len()).await,
        after,
        "a watch from a revision begins behind it"
    );
}

async fn watches_see_only_their_kinds(store: &dyn Store) {
    let mut watch = store.watch(vec![Kind::Node], 0);
    commit(store, vec![put(&pool("a"), "1", Expect::Any)]).await;
    let node = Key::new(Kind::Node, "n");
    let revision = commit(store, vec![put(&node, "1", Expect::Any)]).await;
    assert_eq!(
        changes(&mut watch, 1).await,
        [(node, Some("1".to_owned()), revision)]
    );
}

async fn watches_resume_where_they_were(store: &dyn Store) {
    let listing = store.list(&[Kind::IPPool]).await.expect("list works");
    let mut reached = listing.revision;
    let mut seen = BTreeMap::new();
    for round in 0..6 {
        for place in 0..3 {
            let key = pool(&format!("p{round}-{place}"));
            commit(store, vec![put(&key, "1", Expect::Any)]).await;
        }
        // A new watch each time, which takes fewer changes than there are.
        let mut watch = store.watch(vec![Kind::IPPool], reached);
        for (key, _, revision) in changes(&mut watch, 2).await {
            *seen.entry(key).or_insert(0) += 1;
            assert!(revision > reached, "nothing comes twice");
            reached = revision;
        }
    }
    let mut rest = store.watch(vec![Kind::IPPool], reached);
    for (key, _, _) in changes(&mut rest, 6).await {
        *seen.entry(key).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 18, "nothing is missed");
    assert!(seen.values().all(|times| *times == 1), "{seen:?}");
}

async fn compacted_revisions_are_gone(store: &dyn Store) {
    let key = pool("a");
    let first = commit(store, vec![put(&key, "0", Expect::Any)]).await;
    for round in 0..4 * HISTORY_ENTRIES {
        commit(store, vec![put(&key, &round.to_string(), Expect::Any)]).await;
    }
    let mut old = store.watch(vec![Kind::IPPool], first);
    match next(&mut old).await {
        Some(Err(StoreError::Gone { wanted, oldest })) => {
            assert_eq!(wanted, first, "the error names the revision asked for");
            assert!(oldest > first, "the oldest kept is newer: {oldest}");
        }
        other => panic!("a compacted revision must be gone: {other:?}"),
    }
    assert!(next(&mut old).await.is_none(), "an error ends the watch");
    let listing = store.list(&[Kind::IPPool]).await.expect("list works");
    let mut watch = store.watch(vec![Kind::IPPool], listing.revision);
    let revision = commit(store, vec![delete(&key, Expect::Any)]).await;
    assert_eq!(
        changes(&mut watch, 1).await,
        [(key, None, revision)],
        "a new listing can be watched from"
    );
}

async fn revisions_from_the_future_are_gone(store: &dyn Store) {
    let revision = commit(store, vec![put(&pool("a"), "1", Expect::Any)]).await;
    let mut watch = store.watch(vec![Kind::IPPool], revision + 1000);
    match next(&mut watch).await {
        Some(Err(StoreError::Gone { .. })) => {}
        other => panic!("a revision of a store that is no more must be gone: {other:?}"),
    }
}

async fn of_two_racing_transactions_one_wins(store: &dyn Store) {
    let key = pool("a");
    let mut expect = Expect::Absent;
    for round in 0..20 {
        let racer = |name: &str| {
            let own = Key::new(Kind::Node, format!("{name}-{round}"));
            store.transact(vec![
                put(&own, "1", Expect::Absent),
                put(&key, name, expect),
            ])
        };
        let (one, other) = join(racer("one"), racer("other")).await;
        let (winner, revision) = match (one, other) {
            (Ok(revision), Err(StoreError::Conflict { .. })) => ("one", revision),
            (Err(StoreError::Conflict { .. }), Ok(revision)) => ("other", revision),
            both => panic!("round {round}: exactly one must win: {both:?}"),
        };
        let now = store
            .get(&key)
            .await
            .expect("get works")
            .expect("somebody won");
        assert_eq!(
            (&now.value[..], now.revision),
            (winner.as_bytes(), revision),
            "round {round}: the winner's value stands"
        );
        let nodes = store.list(&[Kind::Node]).await.expect("list works").items;
        assert_eq!(nodes.len(), round + 1, "the loser wrote nothing");
        expect = Expect::Revision(revision);
    }
}

async fn values_come_back_as_they_were(store: &dyn Store) {
    let key = Key::namespaced(Kind::WorkloadEndpoint, "ns", "node--1-k8s-pod-eth0");
    let large: String = "{\"x\":\"ü\\u0000 \"}".repeat(20_000);
    for value in ["", "{}", large.as_str()] {
        commit(store, vec![put(&key, value, Expect::Any)]).await;
        let read = store
            .get(&key)
            .await
            .expect("get works")
            .expect("it exists");
        assert!(
            read.value == value.as_bytes(),
            "a value of {} bytes",
            value.len()
        );
    }
}

type Change = (Key, Option<String>, Revision);

/// The next `count` changes, progress left out.
async fn changes(
    watch: &mut BoxStream<'static, Result<WatchEvent, StoreError>>,
    count: usize,
) -> Vec<Change> {
    let mut seen = Vec::new();
    while seen.len() < count {
        match next(watch).await {
            Some(Ok(WatchEvent::Put(object))) => seen.push((
                object.key,
                Some(String::from_utf8_lossy(&object.value).into_owned()),
                object.revision,
            )),
            Some(Ok(WatchEvent::Delete { key, revision })) => seen.push((key, None, revision)),
            Some(Ok(WatchEvent::Progress(_))) => {}
            end => panic!("the watch ended after {seen:?}: {end:?}"),
        }
    }
    seen
}

async fn next(
    watch: &mut BoxStream<'static, Result<WatchEvent, StoreError>>,
) -> Option<Result<WatchEvent, StoreError>> {
    watch.next().await
}

async fn commit(store: &dyn Store, ops: Vec<Op>) -> Revision {
    match store.transact(ops.clone()).await {
        Ok(revision) => revision,
        Err(error) => panic!("{ops:?} must go through: {error}"),
    }
}

fn conflict(
    answer: Result<Revision, StoreError>,
    key: &Key,
    current: Option<&KeyValue>,
    what: &str,
) {
    let wanted = Err(StoreError::Conflict {
        key: key.clone(),
        current: current.cloned().map(Box::new),
    });
    assert_eq!(
        answer, wanted,
        "{what} is a conflict that names the key and what stands there"
    );
}

fn pool(name: &str) -> Key {
    Key::new(Kind::IPPool, name)
}

fn put(key: &Key, value: &str, expect: Expect) -> Op {
    Op::Put {
        key: key.clone(),
        value: Bytes::copy_from_slice(value.as_bytes()),
        expect,
    }
}

fn delete(key: &Key, expect: Expect) -> Op {
    Op::Delete {
        key: key.clone(),
        expect,
    }
}

fn check(key: &Key, expect: Expect) -> Op {
    Op::Check {
        key: key.clone(),
        expect,
    }
}
