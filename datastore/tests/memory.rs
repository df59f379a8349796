//! The memory store passes the suite, and its faults and delays are what they say.

use std::sync::Arc;

use api::key::{Key, Kind};
use bytes::Bytes;
use datastore::conformance;
use datastore::memory::{Fault, MemoryStore, Request};
use datastore::scope::Scope;
use datastore::store::{Change, Expect, Op, Store, StoreError, WatchEvent};
use datastore::version::Cursor;
use futures_util::FutureExt;
use futures_util::stream::StreamExt;

/// Runs a future that never waits for anything but other parts of itself.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the memory store never waits")
}

fn put(name: &str) -> Op {
    Op::Put {
        key: Key::new(Kind::IPPool, name),
        value: Bytes::from_static(b"{}"),
        expect: Expect::Any,
    }
}

fn events(
    store: &MemoryStore,
    kind: Kind,
) -> futures_core::stream::BoxStream<'static, Result<WatchEvent, StoreError>> {
    store.watch(kind, Scope::All, Cursor::from(0))
}

/// The revision a write was given.
fn wrote(store: &MemoryStore, name: &str) -> Result<u64, StoreError> {
    let change = at_once(store.write(put(name)))?;
    Ok(change
        .and_then(|change| change.version().number())
        .expect("a write"))
}

#[test]
fn the_memory_store_conforms() {
    at_once(conformance::run(|| async {
        Arc::new(MemoryStore::with_history(conformance::HISTORY_ENTRIES)) as Arc<dyn Store>
    }));
}

#[test]
fn the_memory_store_conforms_when_it_carries_plans_out_step_by_step() {
    at_once(conformance::run(|| async {
        let store = MemoryStore::with_history(conformance::HISTORY_ENTRIES);
        store.set_folds(false);
        Arc::new(store) as Arc<dyn Store>
    }));
}

#[test]
fn a_late_write_is_done_later_as_far_as_its_condition_still_holds() {
    let store = MemoryStore::new();
    let key = Key::new(Kind::IPPool, "a");
    let create = put("a").expecting(Expect::Absent);
    store.fail_next(1, Fault::Late);
    assert!(at_once(store.write(create.clone())).is_err());
    assert_eq!(at_once(store.get(&key)), Ok(None));
    store.deliver_late();
    assert!(at_once(store.get(&key)).expect("it answers").is_some());
    store.fail_next(1, Fault::Late);
    let update = put("a").expecting(Expect::Version(1.into()));
    assert!(at_once(store.write(update)).is_err());
    assert_eq!(wrote(&store, "a"), Ok(2), "somebody else is quicker");
    store.deliver_late();
    assert_eq!(store.revision(), 2);
}

#[test]
fn a_deletion_by_uid_meets_what_was_written_over_but_not_what_was_made_anew() {
    let store = MemoryStore::new();
    let key = Key::new(Kind::IPPool, "a");
    at_once(store.write(put("a"))).expect("no fault is set");
    let born = store.born(&key).expect("it stands");
    at_once(store.write(put("a"))).expect("no fault is set");
    assert!(store.delete_born(&key, &born));
    at_once(store.write(put("a"))).expect("no fault is set");
    assert!(!store.delete_born(&key, &born));
    assert!(at_once(store.get(&key)).expect("it answers").is_some());
}

#[test]
fn faults_strike_one_client_and_as_often_as_told() {
    let store = MemoryStore::new();
    let other = store.client();
    store.fail_next(1, Fault::Unavailable);
    store.fail_next(1, Fault::Conflict);
    store.fail_next(1, Fault::LostReply);
    assert!(matches!(
        wrote(&store, "a"),
        Err(StoreError::Unavailable(_))
    ));
    assert_eq!(wrote(&other, "b"), Ok(1));
    assert!(matches!(
        wrote(&store, "c"),
        Err(StoreError::Conflict { .. })
    ));
    assert!(matches!(
        wrote(&store, "d"),
        Err(StoreError::Unavailable(_))
    ));
    assert_eq!(
        store.revision(),
        2,
        "the write whose answer was lost is done"
    );
    assert_eq!(wrote(&store, "e"), Ok(3));
    other.set_fault_plan(|request| {
        matches!(request, Request::List(_)).then_some(Fault::Unavailable)
    });
    assert!(at_once(other.list(Kind::Node, &Scope::All)).is_err());
    assert!(at_once(other.get(&Key::new(Kind::Node, "n"))).is_ok());
}

#[test]
fn a_client_that_is_down_loses_its_watch_and_resumes_it() {
    let store = MemoryStore::new();
    let client = store.client();
    let mut watch = events(&client, Kind::IPPool);
    assert!(
        watch.next().now_or_never().is_none(),
        "nothing has happened"
    );
    client.set_down(true);
    assert!(matches!(
        at_once(watch.next()),
        Some(Err(StoreError::Unavailable(_)))
    ));
    assert!(at_once(watch.next()).is_none());
    assert_eq!(wrote(&store, "a"), Ok(1));
    let mut refused = events(&client, Kind::IPPool);
    assert!(matches!(
        at_once(refused.next()),
        Some(Err(StoreError::Unavailable(_)))
    ));
    client.set_down(false);
    let mut watch = events(&client, Kind::IPPool);
    assert!(matches!(
        at_once(watch.next()),
        Some(Ok(WatchEvent::Change(Change::Put(_), _)))
    ));
}

fn reached(event: Option<Result<WatchEvent, StoreError>>) -> u64 {
    let event = event.expect("the watch goes on").expect("no fault is set");
    event.cursor().number().expect("the memory store counts")
}

#[test]
fn delayed_watches_deliver_when_the_steps_are_over() {
    let store = MemoryStore::new();
    let slow = store.client();
    slow.delay_watches(2);
    let (mut quick, mut late) = (events(&store, Kind::IPPool), events(&slow, Kind::IPPool));
    at_once(store.write(put("a"))).expect("no fault is set");
    store.step();
    at_once(store.write(put("b"))).expect("no fault is set");
    assert_eq!(reached(at_once(quick.next())), 1);
    assert_eq!(reached(at_once(quick.next())), 2);
    assert!(late.next().now_or_never().is_none());
    store.step();
    assert_eq!(reached(at_once(late.next())), 1);
    assert!(late.next().now_or_never().is_none());
    store.step();
    assert_eq!(reached(at_once(late.next())), 2);
}

#[test]
fn a_watch_of_a_quiet_kind_sends_a_bookmark() {
    let store = MemoryStore::new();
    let mut watch = events(&store, Kind::Node);
    for _ in 0..100 {
        at_once(store.write(put("a"))).expect("no fault is set");
    }
    assert_eq!(
        at_once(watch.next()),
        Some(Ok(WatchEvent::Bookmark(100.into())))
    );
    assert!(watch.next().now_or_never().is_none());
}
