//! Released addresses that are kept for a while.

use std::net::IpAddr;

use ipam::request::ReleaseAddress;
use ipam::{AssignError, AssignRequest, Ipam, Wanted};
use serde_json::json;

use crate::world::{World, assign, now, request, seconds, texts, wanting};

const ONE_BLOCK: &[(&str, &str, u8)] = &[("pool", "10.0.0.0/30", 30)];

fn at(time: u64, request: AssignRequest) -> AssignRequest {
    AssignRequest {
        now: seconds(time),
        ..request
    }
}

fn release(ipam: &Ipam, handle: &str, time: u64) -> usize {
    let released = now(ipam.release_by_handle(handle, seconds(time)));
    released.expect("the store works").outcome.len()
}

/// A block of four addresses, all given out, and a cool-down of 30 s.
fn full(folds: bool) -> (World, Ipam) {
    let world = World::that_folds(folds, ONE_BLOCK);
    world.config(
        json!({"strictAffinity": false, "autoAllocateBlocks": true, "ipCooldownSeconds": 30}),
    );
    let ipam = world.ipam("n1");
    for handle in ["a", "b", "c", "d"] {
        assign(&ipam, at(1_000, request(handle))).expect("there is room");
    }
    (world, ipam)
}

#[test]
fn a_released_address_is_given_out_again_after_the_cool_down_and_not_before() {
    for folds in [true, false] {
        let (world, ipam) = full(folds);
        assert_eq!(release(&ipam, "b", 2_000), 1);
        assert!(!world.handles().contains_key("b"));
        assert_eq!(world.taken().len(), 4, "the slot stays taken");
        // It is nobody's: released again nothing happens, whatever is asked for.
        let before = world.store.objects();
        assert_eq!(release(&ipam, "b", 2_010), 0);
        let again = ReleaseAddress {
            address: "10.0.0.1".parse().unwrap(),
            handle_id: None,
            sequence_number: None,
        };
        let done = now(ipam.release_ips(&[again], seconds(2_010)))
            .unwrap()
            .outcome;
        assert_eq!(done.unallocated, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(
            world.store.objects(),
            before,
            "nothing to do writes nothing"
        );

        let error = assign(&ipam, at(2_029, request("e"))).unwrap_err();
        assert!(matches!(error, AssignError::Exhausted { .. }), "{error}");
        // Nor does another node take it, or whoever asks for it by name.
        assign(&world.ipam("n2"), at(2_029, request("e"))).unwrap_err();
        let asked = wanting("e", Wanted::Address("10.0.0.1".parse().unwrap()));
        let error = assign(&ipam, at(2_029, asked.clone())).unwrap_err();
        assert!(
            matches!(error, AssignError::Cooling { seconds: 1, .. }),
            "{error}"
        );
        world.assert_sound();

        assert_eq!(
            texts(&assign(&ipam, at(2_030, request("e"))).unwrap()),
            ["10.0.0.1/32"]
        );
        assert_eq!(release(&ipam, "e", 2_040), 1);
        assert_eq!(
            texts(&assign(&ipam, at(2_070, asked)).unwrap()),
            ["10.0.0.1/32"]
        );
        world.assert_sound();
    }
}

#[test]
fn a_block_that_cools_down_stays_with_its_node() {
    for folds in [true, false] {
        let (world, ipam) = full(folds);
        for handle in ["a", "b", "c", "d"] {
            release(&ipam, handle, 2_000);
        }
        // Claimed more than a minute ago and without a user, but not empty.
        let other = world.ipam("n2");
        assign(&other, at(2_029, request("e"))).unwrap_err();
        let kept = now(other.release_host_affinities("n1", true, seconds(2_029)));
        assert_eq!(kept.unwrap().outcome.in_use.len(), 1);
        let taken = assign(&other, at(2_030, request("e"))).unwrap();
        assert_eq!(taken.claimed.len(), 1);
        assert_eq!(world.taken().len(), 1);
        world.assert_sound();
    }
}

#[test]
fn a_shorter_cool_down_counts_for_what_was_released_before() {
    let (world, ipam) = full(true);
    release(&ipam, "b", 2_000);
    world.config(json!({"strictAffinity": false, "autoAllocateBlocks": true}));
    ipam.forget();
    assert_eq!(
        texts(&assign(&ipam, at(2_001, request("e"))).unwrap()),
        ["10.0.0.1/32"]
    );
}
