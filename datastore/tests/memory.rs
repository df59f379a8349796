//! The memory store passes the suite, and its faults and delays are what they say.

use std::sync::Arc;

use api::key::{Key, Kind};
use bytes::Bytes;
use datastore::conformance;
use datastore::memory::{Fault, MemoryStore, Request};
use datastore::store::{Expect, Op, Store, StoreError, WatchEvent};
use futures_util::FutureExt;
use futures_util::stream::StreamExt;

/// Runs a future that never waits for anything but other parts of itself.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the memory store never waits")
}

fn put(name: &str) -> Vec<Op> {
    vec![Op::Put {
        key: Key::new(Kind::IPPool, name),
        value: Bytes::from_static(b"{}"),
        expect: Expect::Any,
    }]
}

#[test]
fn the_memory_store_conforms() {
    at_once(conformance::run(|| async {
        Arc::new(MemoryStore::with_history(conformance::HISTORY_ENTRIES)) as Arc<dyn Store>
    }));
}

#[test]
fn faults_strike_one_client_and_as_often_as_told() {
    let store = MemoryStore::new();
    let other = store.client();
    store.fail_next(1, Fault::Unavailable);
    store.fail_next(1, Fault::Conflict);
    store.fail_next(1, Fault::LostReply);
    assert!(matches!(
        at_once(store.transact(put("a"))),
        Err(StoreError::Unavailable(_))
    ));
    assert_eq!(at_once(other.transact(put("b"))), Ok(1));
    assert!(matches!(
        at_once(store.transact(put("c"))),
        Err(StoreError::Conflict { .. })
    ));
    assert!(matches!(
        at_once(store.transact(put("d"))),
        Err(StoreError::Unavailable(_))
    ));
    assert_eq!(
        store.revision(),
        2,
        "the transaction whose answer was lost is done"
    );
    assert_eq!(at_once(store.transact(put("e"))), Ok(3));
    other.set_fault_plan(|request| {
        matches!(request, Request::List(_)).then_some(Fault::Unavailable)
    });
    assert!(at_once(other.list(&Kind::ALL)).is_err());
    assert!(at_once(other.get(&Key::new(Kind::Node, "n"))).is_ok());
}

#[test]
fn a_client_that_is_down_loses_its_watch_and_resumes_it() {
    let store = MemoryStore::new();
    let client = store.client();
    let mut watch = client.watch(vec![Kind::IPPool], 0);
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
    assert_eq!(at_once(store.transact(put("a"))), Ok(1));
    let mut refused = client.watch(vec![Kind::IPPool], 0);
    assert!(matches!(
        at_once(refused.next()),
        Some(Err(StoreError::Unavailable(_)))
    ));
    client.set_down(false);
    let mut watch = client.watch(vec![Kind::IPPool], 0);
    assert!(matches!(
        at_once(watch.next()),
        Some(Ok(WatchEvent::Put(_)))
    ));
}

#[test]
fn delayed_watches_deliver_when_the_steps_are_over() {
    let store = MemoryStore::new();
    let slow = store.client();
    slow.delay_watches(2);
    let (mut quick, mut late) = (
        store.watch(vec![Kind::IPPool], 0),
        slow.watch(vec![Kind::IPPool], 0),
    );
    at_once(store.transact(put("a"))).expect("no fault is set");
    store.step();
    at_once(store.transact(put("b"))).expect("no fault is set");
    assert_eq!(at_once(quick.next()).unwrap().unwrap().revision(), 1);
    assert_eq!(at_once(quick.next()).unwrap().unwrap().revision(), 2);
    assert!(late.next().now_or_never().is_none());
    store.step();
    assert_eq!(at_once(late.next()).unwrap().unwrap().revision(), 1);
    assert!(late.next().now_or_never().is_none());
    store.step();
    assert_eq!(at_once(late.next()).unwrap().unwrap().revision(), 2);
}

#[test]
fn a_watch_of_quiet_kinds_tells_its_progress() {
    let store = MemoryStore::new();
    let mut watch = store.watch(vec![Kind::Node], 0);
    for _ in 0..100 {
        at_once(store.transact(put("a"))).expect("no fault is set");
    }
    assert_eq!(at_once(watch.next()), Some(Ok(WatchEvent::Progress(100))));
    assert!(watch.next().now_or_never().is_none());
}
