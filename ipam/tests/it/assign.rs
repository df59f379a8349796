use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use api::ipam::AffinityState;
use api::key::Kind;
use api::pool::AllowedUse;
use datastore::memory::Request;
use datastore::scope::Scope;
use datastore::store::{Change, Op, Store};
use ipam::{AssignError, Ipam, Wanted};
use serde_json::json;

use crate::world::{Counting, World, assign, now, request, seconds, texts, wanting};

fn any(ipv4: usize, ipv6: usize, pools: &[&str]) -> Wanted {
    Wanted::Any {
        ipv4,
        ipv6,
        pools: pools.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn the_first_address_claims_a_block_and_writes_calicos_three_objects() {
    let world = World::new(&[("default", "10.0.0.0/26", 26)]);
    let first = assign(&world.ipam("n1"), request("k8s-pod-network.C1")).unwrap();

    assert_eq!(texts(&first), ["10.0.0.0/32"]);
    assert_eq!(first.pools, ["default"]);
    assert_eq!(first.claimed, ["10.0.0.0/26".parse().unwrap()]);
    assert!(!first.existing);
    let [block] = &world.blocks()[..] else {
        panic!("one block")
    };
    assert_eq!(block.affinity.as_deref(), Some("host:n1"));
    assert_eq!(block.allocations[0], Some(0));
    let secondary = &block.attributes[0].secondary;
    assert_eq!(secondary["node"], "n1");
    assert_eq!(secondary["timestamp"], "1970-01-01 00:16:40 +0000 UTC");
    let [affinity] = &world.affinities()[..] else {
        panic!("one affinity")
    };
    assert_eq!(
        (affinity.state, affinity.node.as_str()),
        (AffinityState::Confirmed, "n1")
    );
    let handles = world.handles();
    let handle = &handles["k8s-pod-network.c1"];
    assert_eq!(handle.handle_id, "k8s-pod-network.C1");
    assert_eq!(
        handle.block,
        BTreeMap::from([("10.0.0.0/26".to_owned(), 1)])
    );
    world.assert_sound();
}

#[test]
fn an_address_from_a_known_block_costs_one_round_trip() {
    let world = World::new(&[("default", "10.0.0.0/16", 26)]);
    let store = Counting::new(&world.store);
    let ipam = Ipam::new(Arc::new(store.clone()), "n1");
    assign(&ipam, request("a")).unwrap();
    assert_eq!(
        store.take(),
        ["list", "list", "list", "list", "list", "commit"]
    );
    assign(&ipam, request("b")).unwrap();
    assert_eq!(store.take(), ["commit"]);
    now(ipam.release_by_handle("b", seconds(1_000))).unwrap();
    assert_eq!(store.take(), ["commit"]);
}

#[test]
fn many_requests_are_one_plan_and_one_write_of_the_block() {
    let world = World::new(&[("default", "10.0.0.0/16", 26)]);
    let store = Counting::new(&world.store);
    let ipam = Ipam::new(Arc::new(store.clone()), "n1");
    let requests: Vec<_> = (0..50).map(|i| request(&format!("h{i}"))).collect();
    let all = now(ipam.assign_many(&requests));
    assert_eq!(
        store.take(),
        ["list", "list", "list", "list", "list", "commit"]
    );
    let addresses: BTreeSet<_> = all
        .outcome
        .iter()
        .flat_map(|result| texts(result.as_ref().unwrap()))
        .collect();
    assert_eq!(addresses.len(), 50);
    // Affinity, block and 50 handles.
    assert_eq!(all.written.len(), 52);
    let handles: Vec<String> = (0..50).map(|i| format!("h{i}")).collect();
    now(ipam.release_by_handles(&handles, seconds(1_000))).unwrap();
    assert_eq!(store.take(), ["commit"]);
    assert!(world.taken().is_empty() && world.handles().is_empty());
    world.assert_sound();
}

#[test]
fn a_further_block_costs_the_names_of_those_there_are() {
    let world = World::new(&[("default", "10.0.0.0/24", 32)]);
    for node in 2..9 {
        assign(
            &world.ipam(&format!("n{node}")),
            request(&format!("h{node}")),
        )
        .unwrap();
    }
    let store = Counting::new(&world.store);
    let ipam = Ipam::new(Arc::new(store.clone()), "n1");
    assign(&ipam, request("first")).unwrap();
    store.take();
    let further = assign(&ipam, request("further")).unwrap();
    assert_eq!(further.claimed.len(), 1);
    // Pools and rules as they are, blocks and affinities by name.
    assert_eq!(store.take(), ["list", "list", "names", "names", "commit"]);
    // An affinity of the node's that another process wrote is read.
    assign(&world.ipam("n1"), request("beside")).unwrap();
    assign(&ipam, request("last")).unwrap();
    let calls = store.take();
    assert_eq!(calls[2..5], ["names", "names", "get"], "{calls:?}");
    world.assert_sound();
}

#[test]
fn what_others_have_is_read_before_there_is_no_room() {
    let world = World::new(&[("default", "10.0.0.0/30", 31)]);
    world.config(json!({"strictAffinity": false, "autoAllocateBlocks": true}));
    let ipam = world.ipam("n1");
    for name in ["a", "b"] {
        assign(&ipam, request(name)).unwrap();
    }
    assign(&world.ipam("n2"), request("other")).unwrap();
    let borrowed = assign(&ipam, request("c")).unwrap();
    assert_eq!(borrowed.claimed, []);
    let error = assign(&ipam, request("d")).unwrap_err();
    assert!(matches!(error, AssignError::Exhausted { .. }), "{error}");
    world.assert_sound();
}

#[test]
fn an_address_by_name_is_looked_up_in_the_block_that_may_hold_it() {
    let world = World::new(&[("default", "10.0.0.0/24", 26)]);
    let ipam = world.ipam("n1");
    assign(&ipam, request("first")).unwrap();
    let others = assign(&world.ipam("n2"), request("other")).unwrap();
    let wanted = |address| wanting("wanted", Wanted::Address(address));
    let error = assign(&ipam, wanted(others.addresses[0].addr())).unwrap_err();
    assert!(matches!(error, AssignError::InUse { .. }), "{error}");
    world.assert_sound();
}

#[test]
fn what_was_written_can_be_echoed() {
    let world = World::new(&[("default", "10.0.0.0/26", 26)]);
    let committed = now(world.ipam("n1").assign(request("a"))).unwrap();
    let stored = world.store.objects();
    for event in committed.written {
        let Change::Put(item) = event else {
            panic!("nothing is deleted")
        };
        assert!(stored.contains(&item), "{item:?}");
    }
}

#[test]
fn the_same_handle_gets_the_same_address_and_nothing_is_written() {
    let world = World::new(&[("default", "10.0.0.0/24", 26)]);
    let first = assign(&world.ipam("n1"), request("a")).unwrap();
    let revision = world.store.revision();
    // A new agent, which remembers nothing.
    let second = assign(&world.ipam("n1"), request("a")).unwrap();
    assert_eq!(second.addresses, first.addresses);
    assert_eq!(second.pools, first.pools);
    assert!(second.existing);
    assert_eq!(world.store.revision(), revision);
}

#[test]
fn the_same_handle_twice_in_one_batch_gets_one_address() {
    let world = World::new(&[("default", "10.0.0.0/24", 26)]);
    let all = now(world.ipam("n1").assign_many(&[request("a"), request("a")]));
    let [Ok(first), Ok(second)] = &all.outcome[..] else {
        panic!("{all:?}")
    };
    assert_eq!(first.addresses, second.addresses);
    assert_eq!(world.taken().len(), 1);
}

#[test]
fn both_families_come_together_or_not_at_all() {
    let world = World::new(&[("four", "10.0.0.0/24", 26)]);
    let ipam = world.ipam("n1");
    let error = assign(&ipam, wanting("a", any(1, 1, &[]))).unwrap_err();
    assert!(error.to_string().contains("pools IPv6"), "{error}");
    assert!(world.taken().is_empty());
    world.pool("six", json!({"cidr": "fd00::/48"}));
    let both = assign(&ipam, wanting("a", any(1, 1, &[]))).unwrap();
    assert_eq!(both.pools, ["four", "six"]);
    assert!(both.addresses[1].addr().is_ipv6());
    assert_eq!(both.claimed.len(), 2);
    world.assert_sound();
}

#[test]
fn a_failing_request_does_not_concern_the_others_of_its_batch() {
    let world = World::new(&[("default", "10.0.0.0/30", 30)]);
    let requests = [
        request("a"),
        wanting("b", any(1, 0, &["nowhere"])),
        wanting("c", any(9, 0, &[])),
        request("d"),
    ];
    let all = now(world.ipam("n1").assign_many(&requests)).outcome;
    assert!(all[0].is_ok() && all[3].is_ok());
    let Err(AssignError::UnknownPool { wanted, existing }) = &all[1] else {
        panic!()
    };
    assert_eq!(
        (wanted.as_str(), &existing[..]),
        ("nowhere", &["default".to_owned()][..])
    );
    assert!(matches!(all[2], Err(AssignError::Exhausted { .. })));
    assert_eq!(world.taken().len(), 2);
    world.assert_sound();
}

#[test]
fn each_pool_that_cannot_be_used_says_why() {
    let world = World::new(&[]);
    world.pool("a", json!({"cidr": "10.1.0.0/24", "disabled": true}));
    world.pool(
        "b",
        json!({"cidr": "10.2.0.0/24", "nodeSelector": "rack == 'r2'"}),
    );
    world.pool(
        "c",
        json!({"cidr": "10.3.0.0/24", "allowedUses": ["Tunnel"]}),
    );
    world.pool(
        "d",
        json!({"cidr": "10.4.0.0/24", "assignmentMode": "Manual"}),
    );
    world.pool(
        "e",
        json!({"cidr": "10.5.0.0/24", "nodeSelector": "rack =="}),
    );
    world.pool("f", json!({"cidr": "10.6.0.0/28"}));
    world.pool(
        "g",
        json!({"cidr": "10.7.0.0/24", "namespaceSelector": "team == 'x'"}),
    );
    let error = assign(&world.ipam("n1"), request("h"))
        .unwrap_err()
        .to_string();
    for part in [
        "no configured Calico pools IPv4 for node n1",
        "a: disabled",
        "b: nodeSelector",
        "c: allowedUses does not contain Workload",
        "d: assignmentMode is Manual",
        "e: selector",
        "f: blockSize 26 does not fit",
        "g: namespaceSelector",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(world.blocks().is_empty() && world.affinities().is_empty());
}

#[test]
fn selectors_and_requests_for_pools_decide_which_pool_is_used() {
    let world = World::new(&[]);
    world.pool(
        "manual",
        json!({"cidr": "10.4.0.0/24", "assignmentMode": "Manual"}),
    );
    world.pool(
        "rack",
        json!({"cidr": "10.2.0.0/24", "nodeSelector": "rack == 'r2'"}),
    );
    world.pool(
        "team",
        json!({"cidr": "10.7.0.0/24", "namespaceSelector": "team == 'x'"}),
    );
    let ipam = world.ipam("n1");
    let mut of_rack = request("a");
    of_rack.node_labels = BTreeMap::from([("rack".to_owned(), "r2".to_owned())]);
    assert_eq!(assign(&ipam, of_rack).unwrap().pools, ["rack"]);
    let mut of_team = request("b");
    of_team.namespace_labels = Some(BTreeMap::from([("team".to_owned(), "x".to_owned())]));
    assert_eq!(assign(&ipam, of_team).unwrap().pools, ["team"]);
    for (handle, name) in [("c", "manual"), ("d", "10.4.0.0/24")] {
        let named = assign(&ipam, wanting(handle, any(1, 0, &[name]))).unwrap();
        assert_eq!(named.pools, ["manual"]);
    }
}

#[test]
fn a_disabled_pool_gives_no_address_even_to_who_remembers_it_enabled() {
    let world = World::new(&[("default", "10.0.0.0/24", 26)]);
    let ipam = world.ipam("n1");
    assign(&ipam, request("a")).unwrap();
    world.pool("default", json!({"cidr": "10.0.0.0/24", "disabled": true}));
    let error = assign(&ipam, request("b")).unwrap_err();
    assert!(matches!(error, AssignError::NoPools { .. }), "{error}");
    world.delete(Kind::IPPool, "default");
    let error = assign(&ipam, request("b")).unwrap_err();
    assert!(matches!(error, AssignError::NoPools { .. }), "{error}");
    assert_eq!(world.taken().len(), 1);
}

#[test]
fn step_by_step_a_pool_is_looked_at_again_for_a_claim_only_and_heeded_as_it_was_observed() {
    let world = World::that_folds(false, &[("default", "10.0.0.0/24", 26)]);
    let ipam = world.ipam("n1");
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&looks);
    world.store.set_fault_plan(move |asked| {
        if matches!(asked, Request::Write(Op::Check { .. })) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        None
    });
    for handle in ["a", "b", "c"] {
        assign(&ipam, request(handle)).unwrap();
        assert_eq!(looks.load(Ordering::Relaxed), 2, "{handle}: pool and rules");
    }
    world.pool("default", json!({"cidr": "10.0.0.0/24", "disabled": true}));
    let pools = now(world.store.list(Kind::IPPool, &Scope::All)).unwrap();
    for pool in pools.items {
        ipam.observe(&Change::Put(pool));
    }
    let error = assign(&ipam, request("d")).unwrap_err();
    assert!(matches!(error, AssignError::NoPools { .. }), "{error}");
}

#[test]
fn a_full_block_is_followed_by_another_until_the_limit() {
    let world = World::new(&[("default", "10.0.0.0/24", 30)]);
    world
        .config(json!({"strictAffinity": true, "autoAllocateBlocks": true, "maxBlocksPerHost": 2}));
    let ipam = world.ipam("n1");
    for i in 0..8 {
        assign(&ipam, request(&format!("h{i}"))).unwrap();
    }
    let error = assign(&ipam, request("one more")).unwrap_err();
    assert!(
        matches!(error, AssignError::BlockLimit { limit: 2, .. }),
        "{error}"
    );
    assert_eq!(world.affinities().len(), 2);
    world.assert_sound();
}

#[test]
fn the_limit_is_20_blocks_when_none_is_set() {
    let world = World::new(&[("default", "10.0.0.0/24", 32)]);
    let ipam = world.ipam("n1");
    let wanted = wanting("a", any(20, 0, &[]));
    assert_eq!(assign(&ipam, wanted).unwrap().claimed.len(), 20);
    let error = assign(&ipam, request("b")).unwrap_err();
    assert!(
        matches!(error, AssignError::BlockLimit { limit: 20, .. }),
        "{error}"
    );
}

#[test]
fn a_node_without_room_borrows_unless_affinity_is_strict() {
    for strict in [false, true] {
        let world = World::new(&[("default", "10.0.0.0/30", 30)]);
        world.config(json!({"strictAffinity": strict, "autoAllocateBlocks": true}));
        assign(&world.ipam("n1"), request("a")).unwrap();
        let borrowed = assign(&world.ipam("n2"), request("b"));
        match (strict, borrowed) {
            (true, Err(error)) => {
                assert!(matches!(error, AssignError::Exhausted { .. }), "{error}");
            }
            (false, Ok(borrowed)) => {
                assert_eq!(texts(&borrowed), ["10.0.0.1/32"]);
                assert!(borrowed.claimed.is_empty());
                // It remembers nothing of a block that is not its own, and still finds it again.
                let ipam = world.ipam("n2");
                assert_eq!(
                    now(ipam.release_by_handle("b", seconds(1_000)))
                        .unwrap()
                        .outcome
                        .len(),
                    1
                );
            }
            (_, other) => panic!("strict {strict}: {other:?}"),
        }
        world.assert_sound();
    }
}

#[test]
fn no_block_is_claimed_when_that_is_forbidden() {
    let world = World::new(&[("default", "10.0.0.0/24", 26)]);
    world.config(json!({"strictAffinity": true, "autoAllocateBlocks": false}));
    let error = assign(&world.ipam("n1"), request("a")).unwrap_err();
    assert!(matches!(error, AssignError::Exhausted { .. }), "{error}");
    assert!(world.blocks().is_empty());
}

#[test]
fn an_empty_block_of_another_node_is_taken_over_after_a_minute() {
    let world = World::new(&[("default", "10.0.0.0/30", 30)]);
    world.config(json!({"strictAffinity": true, "autoAllocateBlocks": true}));
    let first = world.ipam("n1");
    assign(&first, request("a")).unwrap();
    now(first.release_by_handle("a", seconds(1_000))).unwrap();
    let later = |after: u64| {
        let mut wanted = request("b");
        wanted.now = seconds(1_000 + after);
        assign(&world.ipam("n2"), wanted)
    };
    assert!(matches!(later(59), Err(AssignError::Exhausted { .. })));
    let taken_over = later(60).unwrap();
    assert_eq!(taken_over.claimed, ["10.0.0.0/30".parse().unwrap()]);
    let [affinity] = &world.affinities()[..] else {
        panic!("one owner")
    };
    assert_eq!(affinity.node, "n2");
    world.assert_sound();
    // The first node remembers the block as its own, and learns better.
    let error = assign(&first, request("c")).unwrap_err();
    assert!(matches!(error, AssignError::Exhausted { .. }), "{error}");
    world.assert_sound();
}

#[test]
fn a_block_of_another_size_is_not_overlaid() {
    let world = World::new(&[("default", "10.0.0.0/24", 26)]);
    assign(&world.ipam("n1"), request("a")).unwrap();
    world.pool("default", json!({"cidr": "10.0.0.0/24", "blockSize": 28}));
    let ipam = world.ipam("n2");
    for i in 0..40 {
        assign(&ipam, request(&format!("h{i}"))).unwrap();
    }
    world.assert_sound();
}

#[test]
fn an_explicit_address_is_given_once() {
    let world = World::new(&[("default", "10.0.0.0/24", 26)]);
    let ipam = world.ipam("n1");
    let wanted = Wanted::Address("10.0.0.77".parse().unwrap());
    let given = assign(&ipam, wanting("a", wanted.clone())).unwrap();
    assert_eq!(texts(&given), ["10.0.0.77/32"]);
    assert_eq!(given.claimed, ["10.0.0.64/26".parse().unwrap()]);
    assert!(
        assign(&ipam, wanting("a", wanted.clone()))
            .unwrap()
            .existing
    );
    let error = assign(&ipam, wanting("b", wanted)).unwrap_err();
    assert_eq!(error.to_string(), "address 10.0.0.77: in use by handle a");
    let outside = Wanted::Address("10.1.0.1".parse().unwrap());
    let error = assign(&ipam, wanting("b", outside)).unwrap_err();
    assert!(matches!(error, AssignError::NotInPool { .. }), "{error}");
    world.config(json!({"strictAffinity": true, "autoAllocateBlocks": true}));
    let foreign = Wanted::Address("10.0.0.78".parse().unwrap());
    let error = assign(&world.ipam("n2"), wanting("b", foreign)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("10.0.0.64/26 belongs to host:n1"),
        "{error}"
    );
    world.assert_sound();
}

#[test]
fn tunnel_use_needs_a_pool_that_allows_it() {
    let world = World::new(&[]);
    world.pool(
        "pods",
        json!({"cidr": "10.0.0.0/24", "allowedUses": ["Workload"]}),
    );
    let mut wanted = request("t");
    wanted.allowed_use = AllowedUse::Tunnel;
    assert!(assign(&world.ipam("n1"), wanted).is_err());
}

#[test]
fn futures_can_be_sent_to_other_threads() {
    fn is_send<T: Send>(_: &T) {}
    let world = World::new(&[]);
    let ipam = world.ipam("n1");
    is_send(&ipam.assign(request("a")));
    is_send(&ipam.assign_many(&[]));
    is_send(&ipam.release_by_handle("a", seconds(1_000)));
    is_send(&ipam.release_host_affinities("n1", true, seconds(1_000)));
}
