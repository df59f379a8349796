//! Addresses that an IPReservation keeps back.

use std::collections::BTreeSet;

use api::key::Kind;
use ipam::{AssignError, Wanted};
use serde_json::json;

use crate::world::{World, assign, now, request, seconds, texts, wanting};

const ONE_BLOCK: &[(&str, &str, u8)] = &[("pool", "10.0.0.0/29", 29)];

fn reserve(world: &World, name: &str, ranges: &[&str]) {
    world.put(Kind::IPReservation, name, json!({"reservedCIDRs": ranges}));
}

fn any(ipv4: usize) -> Wanted {
    let (ipv6, pools) = (0, Vec::new());
    Wanted::Any { ipv4, ipv6, pools }
}

#[test]
fn reserved_addresses_go_to_nobody_who_does_not_ask_for_them() {
    for folds in [true, false] {
        let world = World::that_folds(folds, ONE_BLOCK);
        reserve(&world, "gateways", &["10.0.0.0/30", "10.0.0.7"]);
        // One that cannot be read does not undo the others.
        reserve(&world, "spoilt", &["ten", "10.0.0.4/32"]);
        let ipam = world.ipam("n1");
        let given = assign(&ipam, wanting("a", any(2))).unwrap();
        assert_eq!(texts(&given), ["10.0.0.5/32", "10.0.0.6/32"]);
        let error = assign(&ipam, request("b")).unwrap_err();
        assert!(matches!(error, AssignError::Exhausted { .. }), "{error}");
        for address in ["10.0.0.0", "10.0.0.7", "10.0.0.4"] {
            let asked = Wanted::Address(address.parse().unwrap());
            let given = assign(&ipam, wanting(address, asked)).unwrap();
            assert_eq!(texts(&given), [format!("{address}/32")]);
        }
        world.assert_sound();
        // A released one stays reserved.
        now(ipam.release_by_handle("10.0.0.7", seconds(1_000))).unwrap();
        assign(&ipam, request("b")).unwrap_err();
    }
}

#[test]
fn a_reservation_that_is_made_or_deleted_counts_as_soon_as_it_is_observed() {
    let world = World::new(ONE_BLOCK);
    let ipam = world.ipam("n1");
    assert_eq!(
        texts(&assign(&ipam, request("a")).unwrap()),
        ["10.0.0.0/32"]
    );
    let observe = |deleted: bool| {
        let key = api::key::Key::new(Kind::IPReservation, "r");
        let item = now(datastore::store::Store::get(&world.store, &key)).unwrap();
        match item.filter(|_| !deleted) {
            Some(item) => ipam.observe(&datastore::store::Change::Put(item)),
            None => {
                let expect = datastore::store::Expect::Any;
                let delete = datastore::store::Op::Delete { key, expect };
                let gone = now(datastore::store::Store::write(&world.store, delete)).unwrap();
                ipam.observe(&gone.expect("it stood there"));
            }
        }
    };
    reserve(&world, "r", &["10.0.0.0/29"]);
    observe(false);
    let error = assign(&ipam, request("b")).unwrap_err();
    assert!(matches!(error, AssignError::Exhausted { .. }), "{error}");
    observe(true);
    assert_eq!(
        texts(&assign(&ipam, request("b")).unwrap()),
        ["10.0.0.1/32"]
    );
}

#[test]
fn no_block_is_claimed_or_borrowed_from_for_reserved_addresses_alone() {
    for folds in [true, false] {
        let world = World::that_folds(folds, &[("pool", "10.0.0.0/28", 30)]);
        // Of four blocks one is left, with two addresses.
        reserve(
            &world,
            "r",
            &["10.0.0.0/29", "10.0.0.12/30", "10.0.0.9", "10.0.0.10"],
        );
        let first = assign(&world.ipam("n1"), request("a")).unwrap();
        let second = assign(&world.ipam("n2"), request("b")).unwrap();
        let given: BTreeSet<String> = [texts(&first), texts(&second)]
            .concat()
            .into_iter()
            .collect();
        assert_eq!(
            given,
            ["10.0.0.11/32", "10.0.0.8/32"].map(str::to_owned).into()
        );
        assert_eq!(world.blocks().len(), 1);
        assign(&world.ipam("n2"), request("c")).unwrap_err();
        assert_eq!(world.blocks().len(), 1);
        world.assert_sound();
    }
}

#[test]
fn a_reserved_half_of_a_huge_pool_is_passed_in_one_step() {
    let world = World::new(&[("pool", "fd00::/48", 122)]);
    reserve(&world, "r", &["fd00::/49"]);
    let (ipv4, ipv6, pools) = (0, 1, Vec::new());
    let given = assign(
        &world.ipam("n1"),
        wanting("a", Wanted::Any { ipv4, ipv6, pools }),
    );
    let given = given.unwrap().addresses[0].addr();
    let reserved: ipnet::IpNet = "fd00::/49".parse().unwrap();
    assert!(!reserved.contains(&given), "{given}");
}
