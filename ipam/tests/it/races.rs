use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use datastore::memory::Fault;
use datastore::store::StoreError;
use ipam::{AssignError, Ipam, Wanted};
use proptest::prelude::*;
use serde_json::json;

use crate::interleave::{Comparing, Order, Slow, Task, run_all};
use crate::world::{World, assign, now, request, seconds, wanting};

/// What the agents believe to hold: handle → address.
type Believed = Arc<Mutex<BTreeMap<String, String>>>;

/// Lets `nodes` agents assign and release in an order drawn from `seed`, and answers what they believe to hold.
fn storm(world: &World, nodes: usize, steps: usize, seed: u64, comparing: Comparing) -> Believed {
    let believed = Believed::default();
    let mut tasks: Vec<Task<'_>> = Vec::new();
    for node in 0..nodes {
        let name = format!("n{node}");
        let ipam = Ipam::new(Arc::new(Slow::new(&world.store, comparing)), name.as_str());
        let believed = Arc::clone(&believed);
        let mut order = Order::new(seed.wrapping_add(node as u64 * 7919));
        tasks.push(Box::pin(async move {
            for step in 0..steps {
                let mine = || {
                    let held = believed.lock().expect("one thread");
                    let own = |handle: &&String| handle.starts_with(&format!("{name}."));
                    held.keys().filter(own).cloned().collect::<Vec<_>>()
                };
                let held = mine();
                if !held.is_empty() && order.below(3) == 0 {
                    let handle = &held[order.below(held.len())];
                    ipam.release_by_handle(handle, seconds(1_000))
                        .await
                        .expect("the store works");
                    believed.lock().expect("one thread").remove(handle);
                    continue;
                }
                let batch: Vec<_> = (0..=order.below(3))
                    .map(|i| {
                        let mut wanted = request(&format!("{name}.{step}.{i}"));
                        wanted.now = seconds(1_000 + step as u64 * 30);
                        wanted
                    })
                    .collect();
                let results = ipam.assign_many(&batch).await.outcome;
                let mut held = believed.lock().expect("one thread");
                for (wanted, result) in batch.into_iter().zip(results) {
                    match result {
                        Ok(given) => {
                            held.insert(wanted.handle_id, given.addresses[0].addr().to_string());
                        }
                        Err(AssignError::Exhausted { .. } | AssignError::BlockLimit { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            }
        }));
    }
    run_all(tasks, seed);
    believed
}

/// Nobody shares an address, the store knows what the agents believe, and what it holds makes sense.
fn problems(world: &World, believed: &Believed) -> Vec<String> {
    let believed = believed.lock().expect("one thread");
    let mut found: Vec<String> = ipam::check::faults(&world.store.objects())
        .into_iter()
        .map(|fault| format!("{}: {}", fault.key, fault.what))
        .collect();
    let mut owners = BTreeMap::new();
    for (handle, address) in &*believed {
        if let Some(other) = owners.insert(address, handle) {
            found.push(format!("{address} was given to {other} and to {handle}"));
        }
    }
    let stored: BTreeMap<String, String> = world
        .taken()
        .into_iter()
        .map(|(address, handle)| (handle, address))
        .collect();
    if stored != *believed {
        let more = stored
            .iter()
            .filter(|(handle, _)| !believed.contains_key(*handle));
        let less = believed
            .iter()
            .filter(|held| stored.get(held.0) != Some(held.1));
        found.push(format!(
            "the store holds other addresses than the agents believe: more {:?}, less {:?}",
            more.collect::<Vec<_>>(),
            less.collect::<Vec<_>>()
        ));
    }
    found
}

/// A small pool, so that nodes run out, borrow and take over.
fn crowded(folds: bool, strict: bool) -> World {
    let pools = [("a", "10.0.0.0/28", 30), ("b", "10.1.0.0/29", 31)];
    let world = World::that_folds(folds, &pools);
    world.config(json!({"strictAffinity": strict, "autoAllocateBlocks": true}));
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_address_is_given_twice_whatever_the_interleaving(seed: u64, nodes in 2_usize..5, strict: bool, folds: bool) {
        let world = crowded(folds, strict);
        let believed = storm(&world, nodes, 12, seed, Comparing::Yes);
        prop_assert_eq!(problems(&world, &believed), Vec::<String>::new());
    }

    #[test]
    fn conflicts_out_of_nowhere_change_nothing(seed: u64, folds: bool) {
        let world = crowded(folds, false);
        let mut order = Order::new(seed);
        world.store.set_fault_plan(move |_| (order.below(4) == 0).then_some(Fault::Conflict));
        let believed = storm(&world, 3, 10, seed, Comparing::Yes);
        world.store.set_fault_plan(|_| None);
        prop_assert_eq!(problems(&world, &believed), Vec::<String>::new());
    }
}

#[test]
fn without_comparison_the_checks_find_addresses_given_twice() {
    for folds in [true, false] {
        let caught = (0..20)
            .filter(|seed| {
                let world = crowded(folds, false);
                let believed = storm(&world, 3, 12, *seed, Comparing::No);
                !problems(&world, &believed).is_empty()
            })
            .count();
        assert!(
            caught >= 15,
            "only {caught} of 20 sabotaged runs were noticed, folds: {folds}"
        );
    }
}

#[test]
fn of_two_nodes_that_race_for_one_block_exactly_one_owns_it() {
    for seed in 0..100 {
        let world = World::that_folds(seed % 2 == 0, &[("only", "10.0.0.0/26", 26)]);
        world.config(json!({"strictAffinity": true, "autoAllocateBlocks": true}));
        let won = Mutex::new(Vec::new());
        let tasks: Vec<Task<'_>> = (0..2)
            .map(|node| {
                let store = Arc::new(Slow::new(&world.store, Comparing::Yes));
                let ipam = Ipam::new(store, format!("n{node}"));
                let won = &won;
                let task: Task<'_> = Box::pin(async move {
                    match ipam.assign(request(&format!("h{node}"))).await {
                        Ok(_) => won.lock().expect("one thread").push(format!("n{node}")),
                        Err(AssignError::Exhausted { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                });
                task
            })
            .collect();
        run_all(tasks, seed);
        let won = won.lock().expect("one thread").clone();
        let owners: Vec<String> = world.affinities().into_iter().map(|a| a.node).collect();
        assert_eq!((won.len(), owners), (1, won), "seed {seed}");
        assert_eq!(
            (world.blocks().len(), world.taken().len()),
            (1, 1),
            "seed {seed}"
        );
        world.assert_sound();
    }
}

#[test]
fn overlapping_calls_of_one_node_all_succeed() {
    for seed in 0..20 {
        let world = World::that_folds(seed % 2 == 0, &[("default", "10.0.0.0/24", 26)]);
        let ipam = Ipam::new(Arc::new(Slow::new(&world.store, Comparing::Yes)), "n1");
        let tasks: Vec<Task<'_>> = (0..30)
            .map(|i| {
                let ipam = &ipam;
                let task: Task<'_> = Box::pin(async move {
                    let given = ipam.assign(request(&format!("h{i}"))).await;
                    given.expect("there is room");
                });
                task
            })
            .collect();
        run_all(tasks, seed);
        assert_eq!(world.taken().len(), 30, "seed {seed}");
        world.assert_sound();
    }
}

#[test]
fn endless_conflicts_end_in_an_error_that_says_so() {
    let world = World::new(&[("default", "10.0.0.0/24", 26)]);
    world.store.set_fault_plan(|_| Some(Fault::Conflict));
    let error = assign(&world.ipam("n1"), request("a")).unwrap_err();
    assert_eq!(error, AssignError::Contended { attempts: 100 });
}

#[test]
fn an_answer_that_got_lost_is_found_again_under_the_handle() {
    let world = World::new(&[("default", "10.0.0.0/24", 26)]);
    let ipam = world.ipam("n1");
    assign(&ipam, request("a")).unwrap();
    world.store.fail_next(1, Fault::LostReply);
    let error = assign(&ipam, request("b")).unwrap_err();
    assert!(matches!(error, AssignError::Store(_)), "{error}");
    assert_eq!(world.taken().len(), 2);
    let again = assign(&ipam, request("b")).unwrap();
    assert!(again.existing);
    now(ipam.release_by_handle("b", seconds(1_000))).unwrap();
    assert_eq!(world.taken().len(), 1);
    assign(&ipam, wanting("c", Wanted::one_ipv4())).unwrap();
    world.assert_sound();
}

#[test]
fn over_an_older_copy_that_lost_a_write_nothing_is_given_until_it_is_accepted() {
    let world = World::new(&[("default", "10.0.0.0/24", 26)]);
    let ipam = world.ipam("n1");
    assign(&ipam, request("a")).unwrap();
    let copy = world.store.copy();
    let lost = assign(&ipam, request("lost")).unwrap();
    world.store.restore(&copy);
    for _ in 0..2 {
        let error = assign(&ipam, request("b")).unwrap_err();
        assert!(
            matches!(error, AssignError::Store(StoreError::Diverged { .. })),
            "{error}"
        );
    }
    assert_eq!(world.taken().len(), 1, "nothing was taken");
    // What is meant to be there is written back before this.
    ipam.accept();
    let given = assign(&ipam, request("b")).unwrap();
    assert_eq!(given.addresses, lost.addresses);
}
