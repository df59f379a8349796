//! Listings, and what a store knows of itself.

use api::endpoint::endpoint_name;
use api::key::{Key, Kind};
use futures_util::future::join;

use super::{commit, list, node, pool, put, write};
use crate::scope::Scope;
use crate::store::{Expect, Store};

pub(super) async fn listings_are_ordered_and_of_one_kind_and_scope(store: &dyn Store) {
    let endpoint = |namespace: &str, node: &str, pod: &str| {
        let name = endpoint_name(node, "k8s", pod, "eth0");
        Key::namespaced(Kind::WorkloadEndpoint, namespace, name)
    };
    let mut keys = vec![
        pool("b"),
        node("z"),
        pool("a-1"),
        pool("a.1"),
        pool("a"),
        endpoint("ns", "n-1", "b"),
        endpoint("ns-1", "n", "a"),
        endpoint("n", "n", "c"),
        endpoint("n", "n-1", "d"),
        Key::new(Kind::IPAMBlock, "10-0-0-0-26"),
    ];
    for key in &keys {
        write(store, put(key, "v", Expect::Absent)).await;
    }
    keys.sort();
    let scopes = [
        Scope::All,
        Scope::Node("n".to_owned()),
        Scope::Node("n-1".to_owned()),
    ];
    // A store may have Services that nobody wrote here.
    for (kind, scope) in Kind::ALL
        .into_iter()
        .filter(|kind| !kind.only_read())
        .flat_map(|kind| scopes.iter().map(move |scope| (kind, scope)))
    {
        let listing = store.list(kind, scope).await.expect("list works");
        let listed: Vec<_> = listing.items.iter().map(|object| &object.key).collect();
        let expected: Vec<_> = keys
            .iter()
            .filter(|key| key.kind == kind && scope.holds(key))
            .collect();
        assert_eq!(
            listed, expected,
            "a listing is in key order, and of its kind and scope: {kind} {scope:?}"
        );
    }
}

pub(super) async fn names_are_those_of_the_listing(store: &dyn Store) {
    for kind in [Kind::IPAMBlock, Kind::IPPool] {
        let names = store.names(kind).await.expect("names are read");
        assert_eq!(names, [], "an empty store has no names");
    }
    for number in 0..40_u8 {
        let block = Key::new(Kind::IPAMBlock, format!("10-0-{number}-0-26"));
        write(store, put(&block, "v", Expect::Absent)).await;
    }
    write(store, put(&pool("a"), "v", Expect::Absent)).await;
    for kind in [Kind::IPAMBlock, Kind::IPPool, Kind::Node] {
        let listed = list(store, kind).await.items.into_iter();
        let listed: Vec<Key> = listed.map(|item| item.key).collect();
        let names = store.names(kind).await.expect("names are read");
        assert_eq!(names, listed, "{kind}");
    }
}

pub(super) async fn listings_never_show_half_a_folded_plan(store: &dyn Store) {
    if !store.folds() {
        return;
    }
    let (one, other) = (pool("a"), pool("b"));
    let writes = async {
        for round in 0..30 {
            let value = round.to_string();
            let both = vec![
                put(&one, &value, Expect::Any),
                put(&other, &value, Expect::Any),
            ];
            commit(store, vec![both]).await;
        }
    };
    let reads = async {
        for _ in 0..30 {
            let listing = list(store, Kind::IPPool).await;
            let values: Vec<_> = listing.items.iter().map(|object| &object.value).collect();
            assert!(
                values.is_empty() || (values.len() == 2 && values[0] == values[1]),
                "a listing between two commits: {listing:?}"
            );
        }
    };
    join(writes, reads).await;
}

pub(super) async fn a_store_knows_what_was_read_from_it_and_nothing_else(store: &dyn Store) {
    let identity = store.identity().await.expect("it has one");
    write(store, put(&pool("a"), "1", Expect::Any)).await;
    let early = list(store, Kind::IPPool).await.cursor;
    write(store, put(&pool("a"), "2", Expect::Any)).await;
    let late = list(store, Kind::IPPool).await.cursor;
    for cursor in [&early, &late] {
        let known = store.contains(cursor).await;
        assert_eq!(known, Ok(true), "{cursor} was read from it");
    }
    let foreign = super::watches::foreign(&late);
    let known = store.contains(&foreign).await;
    assert_eq!(known, Ok(false), "{foreign} was never read from it");
    let again = store.identity().await.expect("it has one");
    assert_eq!(identity, again, "an identity stays");
}
