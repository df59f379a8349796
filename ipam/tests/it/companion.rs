//! An endpoint that is written with its address, and deleted with its release.

use std::sync::Arc;

use api::endpoint::{WorkloadEndpoint, WorkloadEndpointSpec};
use api::key::{Key, Kind};
use api::object::Object;
use bytes::Bytes;
use datastore::store::{Expect, KeyValue, Op, Store};
use ipam::{Accompanied, Companion, Ipam};
use ipnet::IpNet;

use crate::world::{Counting, World, now, request, seconds};

fn key(name: &str) -> Key {
    Key::namespaced(Kind::WorkloadEndpoint, "default", name)
}

fn endpoint(name: &str, addresses: &[IpNet]) -> Object {
    let spec = WorkloadEndpointSpec {
        node: "n1".to_owned(),
        ip_networks: addresses.to_vec(),
        ..WorkloadEndpointSpec::default()
    };
    Object::WorkloadEndpoint(WorkloadEndpoint::new(&key(name), spec))
}

fn written(name: &str) -> Option<Companion> {
    let of = name.to_owned();
    let compose = move |addresses: &[IpNet]| endpoint(&of, addresses);
    Some(Companion::put(key(name), Expect::Absent, Box::new(compose)))
}

fn stands(world: &World, name: &str) -> Option<KeyValue> {
    now(world.store.get(&key(name))).expect("it answers")
}

fn put(world: &World, name: &str) -> KeyValue {
    let put = Op::Put {
        key: key(name),
        value: Bytes::from(endpoint(name, &[]).encode()),
        expect: Expect::Any,
    };
    now(world.store.write(put)).expect("unconditional");
    stands(world, name).expect("just written")
}

#[test]
fn an_address_and_its_endpoint_are_one_transaction_and_so_is_their_end() {
    let world = World::new(&[("default", "10.0.0.0/16", 26)]);
    let store = Counting::new(&world.store);
    let ipam = Ipam::new(Arc::new(store.clone()), "n1");
    now(ipam.assign(request("first"))).unwrap();
    store.take();
    let all = now(ipam.assign_with(&[request("a"), request("b")], &[written("a"), None]));
    assert_eq!(store.take(), ["commit"]);
    let (given, became) = all.outcome[0].as_ref().unwrap();
    let stored = stands(&world, "a").unwrap();
    let Accompanied::Done(change) = became else {
        panic!("{became:?}")
    };
    assert_eq!(
        (change.key(), change.version()),
        (&key("a"), &stored.version)
    );
    let text = String::from_utf8_lossy(&stored.value).into_owned();
    assert!(text.contains(&given.addresses[0].to_string()), "{text}");
    assert!(all.written.contains(change), "it is echoed");
    assert_eq!(all.outcome[1].as_ref().unwrap().1, Accompanied::None);

    let held = now(ipam.held(&["a".to_owned()])).unwrap().remove(0);
    let look = [("a".to_owned(), held)];
    let gone = [Some(Companion::delete(key("a"), stored.version))];
    let done = now(ipam.release_with(&look, &gone, seconds(2_000))).unwrap();
    assert_eq!(store.take(), ["commit"]);
    assert_eq!(done.outcome[0].0.released.len(), 1);
    assert!(matches!(done.outcome[0].1, Accompanied::Done(_)));
    assert_eq!(stands(&world, "a"), None);
    assert!(!world.handles().contains_key("a"));
    world.assert_sound();
}

#[test]
fn one_pods_refused_endpoint_takes_no_address_from_the_others() {
    let world = World::new(&[("default", "10.0.0.0/16", 26)]);
    let ipam = world.ipam("n1");
    let before = put(&world, "b");
    let requests = ["a", "b", "c", "c2"].map(request);
    let companions = ["a", "b", "c", "c"].map(written);
    let all = now(ipam.assign_with(&requests, &companions));
    let became = |number: usize| &all.outcome[number].as_ref().unwrap().1;
    assert!(matches!(became(0), Accompanied::Done(_)));
    assert_eq!(*became(1), Accompanied::Refused(Some(before.clone())));
    assert!(matches!(became(2), Accompanied::Done(_)));
    assert_eq!(
        *became(3),
        Accompanied::Refused(None),
        "the same object again"
    );
    assert_eq!(stands(&world, "b"), Some(before));
    for given in &all.outcome {
        let given = &given.as_ref().unwrap().0;
        assert!(!given.existing && given.addresses.len() == 1);
    }
    world.assert_sound();
}

#[test]
fn an_endpoint_that_was_written_since_keeps_its_address() {
    let world = World::new(&[("default", "10.0.0.0/16", 26)]);
    let ipam = world.ipam("n1");
    now(ipam.assign_with(&[request("a")], &[written("a")]))
        .outcome
        .remove(0)
        .unwrap();
    let stored = stands(&world, "a").unwrap();
    let newer = put(&world, "a");
    let held = now(ipam.held(&["a".to_owned()])).unwrap().remove(0);
    let look = [("a".to_owned(), held)];
    let gone = |version| [Some(Companion::delete(key("a"), version))];
    let done = now(ipam.release_with(&look, &gone(stored.version), seconds(2_000))).unwrap();
    assert_eq!(done.outcome[0].1, Accompanied::Refused(Some(newer.clone())));
    assert!(done.outcome[0].0.released.is_empty(), "nor is the address");
    assert!(world.handles().contains_key("a"));
    let done = now(ipam.release_with(&look, &gone(newer.version), seconds(2_000))).unwrap();
    assert_eq!(done.outcome[0].0.released.len(), 1);
    assert_eq!(stands(&world, "a"), None);
}

#[test]
fn what_is_remembered_does_not_grow_with_the_endpoints_that_were() {
    let world = World::new(&[("default", "10.0.0.0/16", 26)]);
    let ipam = world.ipam("n1");
    let remembered = |ipam: &Ipam| format!("{:?}", ipam.remembered_keys());
    let mut first = None;
    for number in 0..50 {
        let name = format!("p{number}");
        now(ipam.assign_with(&[request(&name)], &[written(&name)]))
            .outcome
            .remove(0)
            .unwrap();
        let version = stands(&world, &name).unwrap().version;
        let held = now(ipam.held(std::slice::from_ref(&name)))
            .unwrap()
            .remove(0);
        let gone = [Some(Companion::delete(key(&name), version))];
        now(ipam.release_with(&[(name, held)], &gone, seconds(2_000))).unwrap();
        let now_remembered = remembered(&ipam);
        assert_eq!(
            *first.get_or_insert_with(|| now_remembered.clone()),
            now_remembered
        );
    }
}
