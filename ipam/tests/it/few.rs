//! Large clusters and full pools: what a pod waits for must not grow with them.

use std::sync::Arc;

use api::key::Kind;
use datastore::store::Store;
use ipam::{AssignError, Ipam};
use serde_json::json;

use crate::world::{Counting, World, assign, now, request, seconds};

/// Blocks of the pool, of four addresses each.
const BLOCKS: usize = 64;
/// As many blocks of others as are read one by one.
const FEW: usize = 16;

/// A pool of which `n1` has one block, full, and other nodes the others, with a pod in each; an agent of `n1` that
/// remembers its own, and what it asks the store.
fn crowded(
    folds: bool,
    strict: bool,
) -> (World, Ipam, Arc<datastore::delegate::Delegating<Counting>>) {
    let world = World::that_folds(folds, &[("pool", "10.0.0.0/24", 30)]);
    world.config(json!({"strictAffinity": strict, "autoAllocateBlocks": true}));
    let counting = Arc::new(Counting::new(&world.store));
    let ipam = Ipam::new(Arc::clone(&counting) as Arc<dyn Store>, "n1");
    for pod in 0..4 {
        assign(&ipam, request(&format!("own-{pod}"))).expect("there is room");
    }
    for other in 1..BLOCKS {
        let node = world.ipam(&format!("other-{other}"));
        assign(&node, request(&format!("of-{other}"))).expect("there is room");
    }
    assert_eq!(world.blocks().len(), BLOCKS);
    counting.take();
    (world, ipam, counting)
}

fn count(calls: &[&str], call: &str) -> usize {
    calls.iter().filter(|made| **made == call).count()
}

#[test]
fn an_address_is_borrowed_without_reading_every_block() {
    for folds in [true, false] {
        let (world, ipam, counting) = crowded(folds, false);
        for pod in 0..3 {
            let given = assign(&ipam, request(&format!("more-{pod}"))).unwrap();
            assert!(given.claimed.is_empty());
            let calls = counting.take();
            // Pools and rules, names of blocks and claims, one block.
            assert_eq!(
                (count(&calls, "list"), count(&calls, "names")),
                (2, 2),
                "{calls:?}"
            );
            assert_eq!(count(&calls, "get"), 1, "{calls:?}");
        }
        world.assert_sound();
    }
}

#[test]
fn an_empty_block_is_taken_over_without_reading_every_block() {
    for folds in [true, false] {
        let (world, ipam, counting) = crowded(folds, true);
        for other in 1..BLOCKS {
            let node = world.ipam(&format!("other-{other}"));
            now(node.release_by_handle(&format!("of-{other}"), seconds(1_000))).unwrap();
        }
        let mut later = request("more");
        later.now = seconds(9_000);
        let given = assign(&ipam, later).unwrap();
        assert_eq!(given.claimed.len(), 1);
        let calls = counting.take();
        assert_eq!(
            (count(&calls, "list"), count(&calls, "names")),
            (2, 2),
            "{calls:?}"
        );
        // The block, and the claim of who had it.
        assert_eq!(count(&calls, "get"), 2, "{calls:?}");
        world.assert_sound();
        assert_eq!(world.affinities().len(), BLOCKS, "the former claim is gone");
    }
}

#[test]
fn every_block_is_read_before_a_pool_is_called_full() {
    let (world, ipam, counting) = crowded(true, true);
    let error = assign(&ipam, request("more")).unwrap_err();
    assert!(matches!(error, AssignError::Exhausted { .. }), "{error}");
    let calls = counting.take();
    assert_eq!(count(&calls, "get"), FEW + 1, "and the handle: {calls:?}");
    // One that is empty is found, wherever it is.
    let node = world.ipam("other-33");
    now(node.release_by_handle("of-33", seconds(1_000))).unwrap();
    let mut later = request("more");
    later.now = seconds(9_000);
    assert_eq!(assign(&ipam, later).unwrap().claimed.len(), 1);
    world.assert_sound();
}

/// What an ADD asks of the store.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    calls: Vec<&'static str>,
    objects: usize,
}

/// What an address from an own block, one from a new block, a borrowed one and a release ask for, where others have all blocks of a pool
/// of this prefix length but the first two, each with a pod in it.
fn asked_beside(folds: bool, prefix_len: u8) -> [Asked; 4] {
    let pool = format!("10.0.0.0/{prefix_len}");
    let world = World::that_folds(folds, &[("pool", &pool, 30)]);
    let blocks = 1_u32 << (30 - prefix_len);
    for number in 2..blocks {
        let at = std::net::Ipv4Addr::from(0x0a00_0000 + 4 * number);
        let (name, node) = (
            format!("{at}-30").replace('.', "-"),
            format!("other-{number}"),
        );
        let block = json!({
            "cidr": format!("{at}/30"), "affinity": format!("host:{node}"), "strictAffinity": false, "deleted": false,
            "allocations": [0, null, null, null], "unallocated": [1, 2, 3],
            "attributes": [{"handle_id": format!("of-{number}"), "secondary": {"node": node}}],
            "sequenceNumber": 1, "sequenceNumberForAllocation": {"0": 1},
        });
        world.put(Kind::IPAMBlock, &name, block);
        let claim = json!({
            "cidr": format!("{at}/30"), "node": node, "state": "confirmed", "type": "host", "deleted": "false",
        });
        world.put(Kind::BlockAffinity, &format!("{node}-{name}"), claim);
    }
    let counting = Arc::new(Counting::new(&world.store));
    let ipam = Ipam::new(Arc::clone(&counting) as Arc<dyn Store>, "n1");
    let asked = || Asked {
        calls: counting.take(),
        objects: counting.take_objects(),
    };
    let add = |pod: usize| {
        asked();
        let given = assign(&ipam, request(&format!("pod-{pod}"))).expect("there is room");
        (given.claimed.len(), asked())
    };
    // The first reads all there is.
    let (claimed, _) = add(0);
    assert_eq!(claimed, 1);
    let (claimed, warm) = add(1);
    assert_eq!(claimed, 0);
    add(2);
    add(3);
    let (claimed, claim) = add(4);
    assert_eq!(claimed, 1, "its first block is full");
    for pod in 5..8 {
        add(pod);
    }
    let (claimed, borrow) = add(8);
    assert_eq!(claimed, 0, "no block is left");
    asked();
    now(ipam.release_by_handle("pod-1", seconds(2_000))).expect("it is there");
    [warm, claim, borrow, asked()]
}

#[test]
fn sixteen_thousand_blocks_ask_for_no_more_than_thirty_two() {
    // Step by step a thousand will do.
    for (folds, prefix_len) in [(true, 16), (false, 20)] {
        let (few, many) = (asked_beside(folds, 25), asked_beside(folds, prefix_len));
        assert_eq!(few, many, "a store that folds: {folds}");
        let [warm, claim, borrow, release] = many;
        assert_eq!(warm.objects, 0, "{warm:?}");
        assert_eq!(release.objects, 0, "{release:?}");
        // The pool; and of others one block.
        assert!(
            claim.objects <= 1 && borrow.objects <= 2,
            "{claim:?} {borrow:?}"
        );
    }
}
