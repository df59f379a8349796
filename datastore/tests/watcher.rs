//! A watcher tells what the store holds, whatever happens to its connection.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use api::key::{Key, Kind};
use bytes::Bytes;
use datastore::memory::{Fault, MemoryStore};
use datastore::plan::Plan;
use datastore::scope::Scope;
use datastore::store::{Expect, Op, Store};
use datastore::version::Version;
use datastore::watcher::{Update, Watcher};
use futures_util::FutureExt;
use proptest::prelude::*;

fn key(name: &str) -> Key {
    Key::new(Kind::IPPool, name)
}

fn commit(store: &MemoryStore, ops: Vec<Op>) {
    store
        .commit(Plan::at_once(ops))
        .now_or_never()
        .expect("the memory store never waits")
        .expect("no fault is set");
}

fn put(name: &str) -> Op {
    Op::Put {
        key: key(name),
        value: Bytes::from_static(b"{}"),
        expect: Expect::Any,
    }
}

fn delete(name: &str) -> Op {
    Op::Delete {
        key: key(name),
        expect: Expect::Any,
    }
}

/// A watcher that does not wait between attempts.
fn watcher(client: &MemoryStore) -> Watcher {
    let store = Arc::new(client.clone());
    Watcher::new(store, Kind::IPPool, Scope::All, |_| {
        Box::pin(std::future::ready(()))
    })
}

/// Everything there is to tell now, in short: `+name@version`, `-name@version`, `-name` from a listing, `=cursor`, `!`,
/// `?` for a store that does not know what was read.
fn reported(watcher: &mut Watcher) -> Vec<String> {
    let mut reported = Vec::new();
    while let Some(update) = watcher.next().now_or_never() {
        reported.push(match update {
            Update::Put(object) => format!("+{}@{}", object.key.name, object.version),
            Update::Delete { key, version } => format!("-{}@{version}", key.name),
            Update::Missing { key, .. } => format!("-{}", key.name),
            Update::InSync(cursor) => format!("={cursor}"),
            Update::Lost(_) => "!".to_owned(),
            Update::Diverged(_) => "?".to_owned(),
        });
        if reported.last().is_some_and(|last| last == "?") {
            // It would be asked again for ever.
            break;
        }
    }
    reported
}

#[test]
fn a_listing_comes_first_then_sync_then_changes() {
    let store = MemoryStore::new();
    commit(&store, vec![put("b"), put("a")]);
    let mut watcher = watcher(&store);
    assert_eq!(reported(&mut watcher), ["+a@1", "+b@1", "=1"]);
    commit(&store, vec![put("a"), delete("b")]);
    assert_eq!(reported(&mut watcher), ["+a@2", "-b@2"]);
}

#[test]
fn a_broken_watch_goes_on_where_it_was_and_repeats_nothing() {
    let store = MemoryStore::new();
    let client = store.client();
    let mut watcher = watcher(&client);
    assert_eq!(reported(&mut watcher), ["=0"]);
    commit(&store, vec![put("a"), put("b")]);
    // Cut in the middle of a transaction.
    assert!(matches!(
        watcher.next().now_or_never(),
        Some(Update::Put(_))
    ));
    client.break_watches();
    commit(&store, vec![put("c")]);
    assert_eq!(reported(&mut watcher), ["!", "+b@1", "+c@2"]);
}

#[test]
fn what_vanished_behind_a_compaction_comes_out_as_deleted() {
    let store = MemoryStore::new();
    let client = store.client();
    let mut watcher = watcher(&client);
    commit(&store, vec![put("a"), put("b"), put("c")]);
    assert_eq!(
        reported(&mut watcher).last().map(String::as_str),
        Some("=1")
    );
    client.break_watches();
    commit(&store, vec![delete("a"), put("b")]);
    store.compact(2);
    assert_eq!(reported(&mut watcher), ["!", "-a", "+b@2", "=2"]);
}

#[test]
fn attempts_are_counted_and_begin_anew_after_a_success() {
    let store = MemoryStore::new();
    let longest = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&longest);
    let mut watcher = Watcher::new(
        Arc::new(store.clone()),
        Kind::IPPool,
        Scope::All,
        move |attempt| {
            seen.fetch_max(attempt, Ordering::Relaxed);
            Box::pin(std::future::ready(()))
        },
    );
    store.fail_next(3, Fault::Unavailable);
    assert_eq!(reported(&mut watcher), ["!", "!", "!", "=0"]);
    assert_eq!(longest.swap(0, Ordering::Relaxed), 3);
    store.break_watches();
    assert_eq!(reported(&mut watcher), ["!"]);
    assert_eq!(longest.load(Ordering::Relaxed), 1);
}

#[test]
fn an_older_copy_takes_nothing_back_until_it_is_accepted() {
    let store = MemoryStore::new();
    commit(&store, vec![put("a")]);
    let copy = store.copy();
    let client = store.client();
    let mut watcher = watcher(&client);
    assert_eq!(reported(&mut watcher), ["+a@1", "=1"]);
    commit(&store, vec![put("b")]);
    commit(&store, vec![delete("a")]);
    assert_eq!(reported(&mut watcher), ["+b@2", "-a@3"]);
    store.restore(&copy);
    client.break_watches();
    assert_eq!(reported(&mut watcher), ["!", "?"]);
    // Also when changes are made to it, and when it must be listed.
    commit(&store, vec![put("c")]);
    store.compact(u64::MAX);
    assert_eq!(reported(&mut watcher), ["?"]);
    watcher.accept();
    let cursor = store.revision();
    assert_eq!(
        reported(&mut watcher),
        [
            "-b".to_owned(),
            "+a@1".to_owned(),
            format!("+c@{cursor}"),
            format!("={cursor}")
        ]
    );
}

proptest! {
    /// Whatever is written and whatever breaks, the sum of what is reported is what the store holds, and nothing is reported
    /// twice in a row.
    #[test]
    fn what_is_told_adds_up_to_what_is_there(
        steps in proptest::collection::vec((0_u8..8, 0_u8..4, 0_u8..4), 1..60)
    ) {
        let store = MemoryStore::with_history(6);
        let client = store.client();
        let mut watcher = watcher(&client);
        let mut known: BTreeMap<Key, Version> = BTreeMap::new();
        let mut apply = |update: Update| match update {
            Update::Put(object) => {
                let version = object.version.clone();
                prop_assert_ne!(known.insert(object.key, version), Some(object.version));
                Ok(())
            }
            Update::Delete { key, .. } | Update::Missing { key, .. } => {
                prop_assert!(known.remove(&key).is_some(), "deleted what was not there");
                Ok(())
            }
            Update::InSync(_) | Update::Lost(_) => Ok(()),
            Update::Diverged(error) => {
                prop_assert!(false, "{}", error);
                Ok(())
            }
        };
        for (what, one, other) in steps {
            let (one, other) = (format!("k{one}"), format!("k{other}"));
            match what {
                0..3 => { commit(&store, vec![put(&one)]); }
                3 if one != other => { commit(&store, vec![put(&one), delete(&other)]); }
                4 => { commit(&store, vec![delete(&one)]); }
                5 => client.break_watches(),
                6 => client.fail_next(1, Fault::Unavailable),
                _ => {
                    if let Some(update) = watcher.next().now_or_never() {
                        apply(update)?;
                    }
                }
            }
        }
        while let Some(update) = watcher.next().now_or_never() {
            apply(update)?;
        }
        let there: BTreeMap<Key, Version> =
            store.objects().into_iter().map(|object| (object.key, object.version)).collect();
        prop_assert_eq!(known, there);
    }
}
