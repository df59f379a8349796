//! Writes of one object.

use std::collections::{BTreeMap, BTreeSet};

use api::key::{Key, Kind};
use bytes::Bytes;
use futures_util::future::join;

use super::{check, conflict, delete, get, pool, put, write};
use crate::store::{Expect, KeyValue, Store, StoreError};
use crate::version::Version;

pub(super) async fn create_needs_absence(store: &dyn Store) {
    let key = pool("a");
    assert_eq!(get(store, &key).await, None, "a new store is empty");
    let version = write(store, put(&key, "1", Expect::Absent)).await;
    let object = get(store, &key).await;
    let expected = KeyValue {
        key: key.clone(),
        value: Bytes::from_static(b"1"),
        version,
    };
    assert_eq!(object, Some(expected), "what was created is read");
    let again = store.write(put(&key, "2", Expect::Absent)).await;
    conflict(again, &key, object.as_ref(), "creating what exists");
    write(store, delete(&key, Expect::Any)).await;
    write(store, put(&key, "3", Expect::Absent)).await;
}

pub(super) async fn compare_and_set_names_key_and_current_value(store: &dyn Store) {
    let key = pool("a");
    let old = write(store, put(&key, "1", Expect::Any)).await;
    write(store, put(&key, "2", Expect::Version(old.clone()))).await;
    let stale = store
        .write(put(&key, "3", Expect::Version(old.clone())))
        .await;
    let current = get(store, &key).await;
    assert_eq!(
        current.as_ref().map(|object| &object.value[..]),
        Some(&b"2"[..]),
        "a stale write changes nothing"
    );
    conflict(stale, &key, current.as_ref(), "a stale version");
    let absent = pool("c");
    let missing = store.write(put(&absent, "1", Expect::Version(old))).await;
    conflict(missing, &absent, None, "a version of what does not exist");
}

pub(super) async fn deletes_obey_conditions(store: &dyn Store) {
    let key = pool("a");
    let nothing = store.write(delete(&key, Expect::Any)).await;
    assert_eq!(nothing, Ok(None), "deleting nothing writes nothing");
    let old = write(store, put(&key, "1", Expect::Any)).await;
    let new = write(store, put(&key, "2", Expect::Any)).await;
    let stale = store
        .write(delete(&key, Expect::Version(old.clone())))
        .await;
    let current = get(store, &key).await;
    conflict(stale, &key, current.as_ref(), "a stale delete");
    write(store, delete(&key, Expect::Version(new))).await;
    assert_eq!(get(store, &key).await, None, "what was deleted is gone");
    let gone = store.write(delete(&key, Expect::Version(old))).await;
    conflict(
        gone,
        &key,
        None,
        "deleting what does not exist at a version",
    );
}

pub(super) async fn checks_compare_and_write_nothing(store: &dyn Store) {
    let (here, absent) = (pool("a"), pool("b"));
    let version = write(store, put(&here, "1", Expect::Any)).await;
    let good = [
        check(&here, Expect::Version(version.clone())),
        check(&absent, Expect::Absent),
    ];
    for op in good {
        assert_eq!(store.write(op).await, Ok(None), "a check changes nothing");
    }
    let current = get(store, &here).await;
    let failing = store.write(check(&here, Expect::Absent)).await;
    conflict(failing, &here, current.as_ref(), "a failing check");
    let failing = store.write(check(&absent, Expect::Version(version))).await;
    conflict(failing, &absent, None, "a check of what does not exist");
}

pub(super) async fn versions_are_never_used_again(store: &dyn Store) {
    let mut seen = BTreeSet::new();
    let mut lasts: BTreeMap<Key, Version> = BTreeMap::new();
    for round in 0..30 {
        let key = pool(&format!("p{}", round % 3));
        let op = if round % 5 == 4 && get(store, &key).await.is_some() {
            delete(&key, Expect::Any)
        } else {
            // A write of what stands there already may be none.
            put(&key, &round.to_string(), Expect::Any)
        };
        let version = write(store, op).await;
        assert!(
            seen.insert(version.clone()),
            "round {round}: version {version} was used before"
        );
        if let Some(last) = lasts.insert(key, version.clone()) {
            assert!(
                !version.is_newer_than(&version) && !version_is_older(&version, &last),
                "round {round}: {version} counts as older than {last}"
            );
        }
    }
    // Made anew after a deletion: a write that expects the first one must not meet it.
    let key = pool("again");
    let first = write(store, put(&key, "1", Expect::Absent)).await;
    write(store, delete(&key, Expect::Any)).await;
    write(store, put(&key, "1", Expect::Absent)).await;
    let current = get(store, &key).await;
    let stale = store.write(put(&key, "2", Expect::Version(first))).await;
    conflict(stale, &key, current.as_ref(), "a version of a former life");
}

fn version_is_older(one: &Version, other: &Version) -> bool {
    one.order(other) == crate::version::Order::Older
}

pub(super) async fn of_two_racing_writes_one_wins(store: &dyn Store) {
    let key = pool("a");
    let mut expect = Expect::Absent;
    for round in 0..20 {
        // Neither writes what stands there already, which may be no write.
        let value = |name: &str| format!("{name} {round}");
        let racer = |name: &str| store.write(put(&key, &value(name), expect.clone()));
        let (one, other) = join(racer("one"), racer("other")).await;
        let (winner, change) = match (one, other) {
            (Ok(Some(change)), Err(StoreError::Conflict { .. })) => ("one", change),
            (Err(StoreError::Conflict { .. }), Ok(Some(change))) => ("other", change),
            both => panic!("round {round}: exactly one must win: {both:?}"),
        };
        let now = get(store, &key).await.expect("somebody won");
        assert_eq!(
            (&now.value[..], &now.version),
            (value(winner).as_bytes(), change.version()),
            "round {round}: the winner's value stands"
        );
        expect = Expect::Version(now.version);
    }
}

pub(super) async fn values_come_back_as_they_were(store: &dyn Store) {
    let key = Key::namespaced(Kind::WorkloadEndpoint, "ns", "node--1-k8s-pod-eth0");
    let large: String = "{\"x\":\"ü\\u0000 \"}".repeat(20_000);
    for value in ["", "{}", large.as_str()] {
        write(store, put(&key, value, Expect::Any)).await;
        let read = get(store, &key).await.expect("it exists");
        assert!(
            read.value == value.as_bytes(),
            "a value of {} bytes",
            value.len()
        );
    }
}
