//! Watches.

use std::collections::BTreeMap;

use api::key::{Key, Kind};
use futures_core::stream::BoxStream;
use futures_util::stream::StreamExt;

use super::{commit, delete, list, node, pool, put, write};
use crate::scope::Scope;
use crate::store::{Change, Expect, Store, StoreError, WatchEvent};
use crate::version::{Cursor, Version};

type Events = BoxStream<'static, Result<WatchEvent, StoreError>>;
type Seen = (Key, Option<String>, Version);

pub(super) async fn see_everything_once_in_order(store: &dyn Store) {
    let start = list(store, Kind::IPPool).await.cursor;
    let watch = |after: &Cursor| store.watch(Kind::IPPool, Scope::All, after.clone());
    let mut early = watch(&start);
    let (a, b) = (pool("a"), pool("b"));
    let mut expected = Vec::new();
    for round in 0..10 {
        let value = round.to_string();
        let both = vec![put(&a, &value, Expect::Any), put(&b, &value, Expect::Any)];
        let mut changes = commit(store, vec![both]).await;
        // A stage's steps go side by side.
        if changes[0].version().is_newer_than(changes[1].version()) {
            changes.reverse();
        }
        expected.extend(changes.into_iter().map(seen));
        let version = write(store, delete(&a, Expect::Any)).await;
        expected.push((a.clone(), None, version));
    }
    let (from_before, cursors) = changes(&mut early, expected.len()).await;
    assert_eq!(from_before, expected, "a watch from before the changes");
    let (of_past, _) = changes(&mut watch(&start), expected.len()).await;
    assert_eq!(of_past, expected, "a watch of the past");
    for (at, cursor) in cursors.iter().enumerate().take(expected.len() - 3) {
        // What belongs to one commit with what was seen may come again.
        let (from_middle, _) = changes(&mut watch(cursor), 3).await;
        let missed = expected[at + 1..at + 3]
            .iter()
            .filter(|change| !from_middle.contains(change))
            .count();
        assert_eq!(missed, 0, "a watch from {cursor} begins behind it");
    }
}

pub(super) async fn see_only_their_kind_and_scope(store: &dyn Store) {
    let start = list(store, Kind::Node).await.cursor;
    let mut all = store.watch(Kind::Node, Scope::All, start.clone());
    let mut own = store.watch(Kind::Node, Scope::Node("n".to_owned()), start);
    write(store, put(&pool("n"), "1", Expect::Any)).await;
    let other = write(store, put(&node("m"), "1", Expect::Any)).await;
    let version = write(store, put(&node("n"), "1", Expect::Any)).await;
    let expected = |name, version: &Version| (node(name), Some("1".to_owned()), version.clone());
    let (seen, _) = changes(&mut all, 2).await;
    assert_eq!(seen, [expected("m", &other), expected("n", &version)]);
    let (seen, _) = changes(&mut own, 1).await;
    assert_eq!(seen, [expected("n", &version)], "a scope leaves others out");
}

pub(super) async fn resume_where_they_were(store: &dyn Store) {
    let mut reached = list(store, Kind::IPPool).await.cursor;
    let mut times = BTreeMap::new();
    for round in 0..6 {
        for place in 0..3 {
            let key = pool(&format!("p{round}-{place}"));
            write(store, put(&key, "1", Expect::Any)).await;
        }
        // A new watch each time, which takes fewer changes than there are.
        let mut watch = store.watch(Kind::IPPool, Scope::All, reached.clone());
        let (seen, cursors) = changes(&mut watch, 2).await;
        for (key, _, _) in seen {
            *times.entry(key).or_insert(0) += 1;
        }
        reached = cursors.into_iter().last().expect("two were taken");
    }
    let mut rest = store.watch(Kind::IPPool, Scope::All, reached);
    for (key, _, _) in changes(&mut rest, 6).await.0 {
        *times.entry(key).or_insert(0) += 1;
    }
    assert_eq!(times.len(), 18, "nothing is missed");
    assert!(times.values().all(|times| *times == 1), "{times:?}");
}

pub(super) async fn compacted_changes_are_gone(store: &dyn Store, compact: impl AsyncFn()) {
    let key = pool("a");
    write(store, put(&key, "0", Expect::Any)).await;
    let first = list(store, Kind::IPPool).await.cursor;
    for round in 0..4 * super::HISTORY_ENTRIES {
        write(store, put(&key, &round.to_string(), Expect::Any)).await;
    }
    compact().await;
    let mut old = store.watch(Kind::IPPool, Scope::All, first.clone());
    let gone = Some(Err(StoreError::Gone { wanted: first }));
    assert_eq!(
        old.next().await,
        gone,
        "the error names the cursor asked for"
    );
    assert!(old.next().await.is_none(), "an error ends the watch");
    let now = list(store, Kind::IPPool).await.cursor;
    let mut watch = store.watch(Kind::IPPool, Scope::All, now);
    let version = write(store, delete(&key, Expect::Any)).await;
    assert_eq!(
        changes(&mut watch, 1).await.0,
        [(key, None, version)],
        "a new listing can be watched from"
    );
}

pub(super) async fn cursors_of_another_store_have_diverged(store: &dyn Store) {
    write(store, put(&pool("a"), "1", Expect::Any)).await;
    let wanted = foreign(&list(store, Kind::IPPool).await.cursor);
    let mut watch = store.watch(Kind::IPPool, Scope::All, wanted.clone());
    let diverged = Some(Err(StoreError::Diverged { wanted }));
    assert_eq!(watch.next().await, diverged, "what it never gave out");
    assert!(watch.next().await.is_none(), "an error ends the watch");
}

/// A cursor that a store which stands at `now` has not given out.
pub(super) fn foreign(now: &Cursor) -> Cursor {
    match now.number() {
        Some(number) => Cursor::from(number + 1_000_000),
        None => Cursor::read("of another store"),
    }
}

/// The next `count` changes and their cursors, bookmarks left out.
async fn changes(watch: &mut Events, count: usize) -> (Vec<Seen>, Vec<Cursor>) {
    let (mut all, mut cursors) = (Vec::new(), Vec::new());
    while all.len() < count {
        match watch.next().await {
            Some(Ok(WatchEvent::Change(change, cursor))) => {
                all.push(seen(change));
                cursors.push(cursor);
            }
            Some(Ok(WatchEvent::Bookmark(_))) => {}
            end => panic!("the watch ended after {all:?}: {end:?}"),
        }
    }
    (all, cursors)
}

fn seen(change: Change) -> Seen {
    match change {
        Change::Put(object) => {
            let text = String::from_utf8_lossy(&object.value).into_owned();
            (object.key, Some(text), object.version)
        }
        Change::Delete { key, version } => (key, None, version),
    }
}
