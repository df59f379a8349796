use std::sync::Arc;

use api::ipam::{AffinityState, affinity_name, block_name};
use api::key::{Key, Kind};
use ipam::{AssignError, Ipam, Wanted};
use serde_json::{Value, json};

use crate::interleave::{Comparing, Slow, run_polls};
use crate::world::{World, assign, now, request, seconds, texts, wanting};

const BLOCK: &str = "10.0.0.0/30";

fn one_block() -> World {
    World::new(&[("default", BLOCK, 30)])
}

fn affinity(world: &World, node: &str, state: &str) {
    world.put(
        Kind::BlockAffinity,
        &format!("{node}-10-0-0-0-30"),
        json!({"node": node, "state": state, "cidr": BLOCK, "deleted": "false", "type": "host"}),
    );
}

fn block(world: &World, affinity: Value, deleted: bool) {
    world.put(
        Kind::IPAMBlock,
        "10-0-0-0-30",
        json!({
            "cidr": BLOCK, "affinity": affinity, "deleted": deleted, "strictAffinity": false,
            "allocations": [null, null, null, null], "unallocated": [0, 1, 2, 3], "attributes": [],
            "affinityClaimTime": "1970-01-01T00:16:40Z",
        }),
    );
}

fn states(world: &World) -> Vec<(String, AffinityState)> {
    let affinities = world.affinities();
    affinities.into_iter().map(|a| (a.node, a.state)).collect()
}

#[test]
fn a_crash_at_any_moment_leaves_nothing_half_made() {
    for polls in 0..12 {
        let world = World::new(&[("default", "10.0.0.0/24", 26)]);
        let ipam = Ipam::new(Arc::new(Slow::new(&world.store, Comparing::Yes)), "n1");
        let batch = [request("a"), request("b")];
        let done = run_polls(
            Box::pin(async {
                ipam.assign_many(&batch).await;
                ipam.release_by_handle("a", seconds(1_000))
                    .await
                    .expect("the store works");
            }),
            polls,
        );
        world.assert_sound();
        assert_eq!(
            world.taken().len(),
            world.handles().len(),
            "after {polls} polls"
        );
        assert_eq!(
            world.blocks().len(),
            world.affinities().len(),
            "after {polls} polls"
        );
        // The agent that comes after it gives the same pods one address each, and can take them back.
        let next = world.ipam("n1");
        for result in now(next.assign_many(&batch)).outcome {
            assert_eq!(result.unwrap().addresses.len(), 1);
        }
        assert_eq!(world.taken().len(), 2, "after {polls} polls, done: {done}");
        now(next.release_by_handles(&["a".to_owned(), "b".to_owned()], seconds(1_000))).unwrap();
        assert!(world.taken().is_empty() && world.handles().is_empty());
    }
}

#[test]
fn a_claim_that_stopped_half_way_is_completed() {
    for state in ["pending", "confirmed", ""] {
        for with_block in [false, true] {
            if state.is_empty() && !with_block {
                continue;
            }
            let world = one_block();
            if state.is_empty() {
                // The affinity object got lost; the block still names its node.
                block(&world, json!("host:n1"), false);
            } else {
                affinity(&world, "n1", state);
                if with_block {
                    block(&world, json!("host:n1"), false);
                }
            }
            let given = assign(&world.ipam("n1"), request("a")).unwrap();
            assert_eq!(texts(&given), ["10.0.0.0/32"]);
            let expected = [("n1".to_owned(), AffinityState::Confirmed)];
            assert_eq!(states(&world), expected, "{state:?} {with_block}");
            world.assert_sound();
        }
    }
}

#[test]
fn a_claim_on_a_block_that_went_to_another_node_is_void() {
    for state in ["pending", "pendingDeletion"] {
        let world = one_block();
        world.config(json!({"strictAffinity": false, "autoAllocateBlocks": true}));
        affinity(&world, "n1", state);
        affinity(&world, "n2", "confirmed");
        block(&world, json!("host:n2"), false);
        // It borrows, and its own claim goes in the same transaction.
        assign(&world.ipam("n1"), request("a")).unwrap();
        assert_eq!(
            states(&world),
            [("n2".to_owned(), AffinityState::Confirmed)]
        );
        world.assert_sound();
    }
}

#[test]
fn a_release_that_stopped_half_way_is_finished_or_undone() {
    let world = one_block();
    affinity(&world, "n1", "pendingDeletion");
    let given = assign(&world.ipam("n1"), request("a")).unwrap();
    assert_eq!(given.claimed.len(), 1);
    assert_eq!(
        states(&world),
        [("n1".to_owned(), AffinityState::Confirmed)]
    );

    let world = one_block();
    affinity(&world, "n1", "pendingDeletion");
    block(&world, json!("host:n1"), false);
    assign(&world.ipam("n1"), request("a")).unwrap();
    assert_eq!(
        states(&world),
        [("n1".to_owned(), AffinityState::Confirmed)]
    );
    world.assert_sound();
}

#[test]
fn a_pending_claim_of_another_node_does_not_block_the_block() {
    let world = one_block();
    affinity(&world, "n2", "pending");
    let given = assign(&world.ipam("n1"), request("a")).unwrap();
    assert_eq!(given.claimed.len(), 1);
    world.assert_sound();
}

#[test]
fn an_affinity_over_another_nodes_block_gives_no_address_and_goes() {
    for (lone, others) in [
        ("10.0.0.0/26", "10.0.0.0/28"),
        ("10.0.0.16/28", "10.0.0.0/26"),
    ] {
        let world = World::new(&[("default", "10.0.0.0/24", 26)]);
        world.config(json!({"strictAffinity": true, "autoAllocateBlocks": true}));
        let (lone, others) = (lone.parse().unwrap(), others.parse().unwrap());
        world.put(
            Kind::BlockAffinity,
            &affinity_name("n1", lone),
            json!({"node": "n1", "state": "confirmed", "cidr": lone, "deleted": "false", "type": "host"}),
        );
        let made = ipam::block::new_block(others, "host:n2".to_owned(), seconds(1)).unwrap();
        world.put(Kind::IPAMBlock, &block_name(others), json!(made));
        let given = assign(&world.ipam("n1"), request("a")).unwrap();
        assert!(!others.contains(&given.addresses[0]), "{given:?}");
        let left = world.affinities();
        assert_eq!(
            left.iter().map(|a| a.cidr).collect::<Vec<_>>(),
            given.claimed,
            "the one without a block is gone"
        );
        world.assert_sound();
    }
}

#[test]
fn an_explicit_address_makes_no_block_over_another() {
    let world = World::new(&[("default", "10.0.0.0/24", 26)]);
    let others = "10.0.0.0/28".parse().unwrap();
    let made = ipam::block::new_block(others, "host:n2".to_owned(), seconds(1)).unwrap();
    world.put(Kind::IPAMBlock, &block_name(others), json!(made));
    let wanted = Wanted::Address("10.0.0.40".parse().unwrap());
    let error = assign(&world.ipam("n1"), wanting("a", wanted)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "address 10.0.0.40: its block 10.0.0.0/26 would overlap block 10.0.0.0/28; allowed: blocks without common \
         addresses"
    );
    world.assert_sound();
}

#[test]
fn tombstones_are_deleted_and_made_anew() {
    for folds in [true, false] {
        let world = World::that_folds(folds, &[("default", BLOCK, 30)]);
        block(&world, json!("host:n9"), true);
        affinity(&world, "n1", "confirmed");
        world.put(
            Kind::BlockAffinity,
            "n1-10-0-0-0-30",
            json!({"node": "n1", "state": "pendingDeletion", "cidr": BLOCK, "deleted": "true", "type": "host"}),
        );
        world.put(
            Kind::IPAMHandle,
            "a",
            json!({"handleID": "a", "block": {BLOCK: 1}, "deleted": true}),
        );
        let names = [
            Key::new(Kind::IPAMBlock, "10-0-0-0-30"),
            Key::new(Kind::BlockAffinity, "n1-10-0-0-0-30"),
            Key::new(Kind::IPAMHandle, "a"),
        ];
        let born = names.clone().map(|key| world.store.born(&key).unwrap());
        let given = assign(&world.ipam("n1"), request("a")).unwrap();
        assert_eq!(texts(&given), ["10.0.0.0/32"]);
        assert!(!world.blocks()[0].deleted && !world.handles()["a"].deleted);
        world.assert_sound();
        // Whoever marked them finishes now, with the uid as only condition, as Calico does.
        for (key, born) in names.iter().zip(&born) {
            let met = world.store.delete_born(key, born);
            assert!(!met, "{key} was written over, folds: {folds}");
        }
        assert_eq!(world.taken().len(), 1);
        world.assert_sound();
        // A handle that is only a tombstone is finished by a release.
        world.put(
            Kind::IPAMHandle,
            "gone",
            json!({"handleID": "gone", "block": {BLOCK: 1}, "deleted": true}),
        );
        now(world.ipam("n1").release_by_handle("gone", seconds(1_000))).unwrap();
        assert!(!world.handles().contains_key("gone"));
    }
}

#[test]
fn a_handle_that_counts_too_much_is_put_right() {
    let world = one_block();
    let too_much = json!({"handleID": "a", "block": {BLOCK: 3, "10.9.0.0/26": 1}});
    world.put(Kind::IPAMHandle, "a", too_much.clone());
    let given = assign(&world.ipam("n1"), request("a")).unwrap();
    assert!(!given.existing);
    let handles = world.handles();
    assert_eq!(
        handles["a"].block.iter().collect::<Vec<_>>(),
        [(&BLOCK.to_owned(), &1)]
    );
    now(world.ipam("n1").release_by_handle("a", seconds(1_000))).unwrap();
    world.put(Kind::IPAMHandle, "a", too_much);
    assert!(
        now(world.ipam("n1").release_by_handle("a", seconds(1_000)))
            .unwrap()
            .outcome
            .is_empty()
    );
    assert!(world.handles().is_empty());
}

#[test]
fn a_handle_keeps_its_address_when_nothing_is_left_for_others() {
    let world = World::new(&[("default", BLOCK, 30)]);
    let ipam = world.ipam("n1");
    for name in ["a", "b", "c", "d"] {
        assign(&ipam, request(name)).unwrap();
    }
    // An agent that has just started knows no handle.
    let again = assign(&world.ipam("n1"), request("c")).unwrap();
    assert_eq!(
        (again.existing, texts(&again)),
        (true, vec!["10.0.0.2/32".to_owned()])
    );
    let error = assign(&world.ipam("n1"), request("e")).unwrap_err();
    assert!(matches!(error, AssignError::Exhausted { .. }), "{error}");
}

#[test]
fn a_block_that_makes_no_sense_is_left_alone() {
    let world = World::new(&[("default", "10.0.0.0/29", 30)]);
    world.config(json!({"strictAffinity": true, "autoAllocateBlocks": true}));
    let broken =
        json!({"cidr": BLOCK, "affinity": "host:n1", "allocations": [5], "unallocated": []});
    world.put(Kind::IPAMBlock, "10-0-0-0-30", broken.clone());
    affinity(&world, "n1", "confirmed");
    for i in 0..4 {
        let given = assign(&world.ipam("n1"), request(&format!("h{i}"))).unwrap();
        assert_eq!(texts(&given), [format!("10.0.0.{}/32", i + 4)]);
    }
    let error = assign(&world.ipam("n1"), request("more")).unwrap_err();
    assert!(matches!(error, AssignError::Exhausted { .. }), "{error}");
    let kept = world
        .store
        .objects()
        .into_iter()
        .find(|item| item.key.name == "10-0-0-0-30");
    let kept: Value = serde_json::from_slice(&kept.unwrap().value).unwrap();
    assert_eq!(kept["spec"], broken);
}
