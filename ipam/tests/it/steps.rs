//! Something goes wrong between any two steps of a plan: both where the store does plans as a whole and where it does
//! them step by step.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use api::key::Kind;
use datastore::memory::{Fault, Request};
use ipam::Ipam;

use crate::interleave::{Comparing, Slow, run_polls};
use crate::world::{World, now, request, seconds};

/// Polls after which every plan of these tests is done, and more.
const POLLS: usize = 60;

fn pools() -> [(&'static str, &'static str, u8); 1] {
    [("default", "10.0.0.0/24", 26)]
}

#[test]
fn after_a_crash_between_any_two_steps_the_next_agent_goes_on() {
    for (folds, polls) in [true, false]
        .into_iter()
        .flat_map(|folds| (0..POLLS).map(move |polls| (folds, polls)))
    {
        let world = World::that_folds(folds, &pools());
        let batch = [request("a"), request("b")];
        let ipam = Ipam::new(Arc::new(Slow::new(&world.store, Comparing::Yes)), "n1");
        run_polls(
            Box::pin(async {
                ipam.assign_many(&batch).await;
                ipam.release_by_handle("a", seconds(1_000))
                    .await
                    .expect("the store works");
            }),
            polls,
        );
        // Another node sees something sound, and takes nothing of it.
        world.assert_sound();
        let other = now(world.ipam("n2").assign(request("other"))).unwrap();
        world.assert_sound();
        let next = world.ipam("n1");
        for given in now(next.assign_many(&batch)).outcome {
            let given = given.unwrap();
            assert_eq!(given.addresses.len(), 1);
            assert_ne!(given.addresses, other.outcome.addresses);
        }
        assert_eq!(world.taken().len(), 3, "folds {folds}, {polls} polls");
        now(next.release_by_handles(&["a".to_owned(), "b".to_owned()], seconds(1_000))).unwrap();
        assert_eq!(world.taken().len(), 1, "folds {folds}, {polls} polls");
        assert_eq!(world.handles().len(), 1, "folds {folds}, {polls} polls");
        world.assert_sound();
    }
}

/// The `at`-th write of an assignment from a block that stands fails with `fault`; then its pod is given up.
fn unanswered(folds: bool, at: usize, fault: Fault) -> World {
    let world = World::that_folds(folds, &pools());
    let client = world.store.client();
    client.set_folds(folds);
    let ipam = Ipam::new(Arc::new(client.clone()), "n1");
    now(ipam.assign(request("first"))).expect("there is room");
    let writes = AtomicUsize::new(0);
    client.set_fault_plan(move |asked| {
        let is_write = matches!(asked, Request::Commit(_))
            || matches!(asked, Request::Write(op) if !matches!(op, datastore::store::Op::Check { .. }));
        (is_write && writes.fetch_add(1, Ordering::Relaxed) == at).then_some(fault)
    });
    // It may go through: then there were fewer writes.
    let _ = now(ipam.assign(request("late")));
    client.set_fault_plan(|_| None);
    now(ipam.release_by_handle("late", seconds(1_000))).expect("the store works");
    world.store.deliver_late();
    world
}

#[test]
fn an_answer_that_is_lost_or_late_leaves_no_address_behind() {
    for folds in [true, false] {
        for at in 0..4 {
            for fault in [Fault::LostReply, Fault::Late] {
                let world = unanswered(folds, at, fault);
                let taken = world.taken();
                let held: Vec<&str> = taken.iter().map(|(_, handle)| handle.as_str()).collect();
                assert_eq!(held, ["first"], "folds {folds}, write {at}, {fault:?}");
                world.assert_sound();
            }
        }
    }
}

#[test]
fn what_an_earlier_attempt_took_is_no_address_of_before() {
    let world = World::that_folds(false, &pools());
    let client = world.store.client();
    client.set_folds(false);
    let ipam = Ipam::new(Arc::new(client.clone()), "n1");
    let confirmations = AtomicUsize::new(0);
    // Beside the address the affinity is confirmed; its second write is that.
    client.set_fault_plan(move |asked| match asked {
        Request::Write(op) if op.key().kind == Kind::BlockAffinity => {
            (confirmations.fetch_add(1, Ordering::Relaxed) == 1).then_some(Fault::Conflict)
        }
        _ => None,
    });
    let given = now(ipam.assign(request("a")))
        .expect("there is room")
        .outcome;
    assert!(!given.existing, "{given:?}");
    let again = now(ipam.assign(request("a"))).expect("it has one").outcome;
    assert!(again.existing, "{again:?}");
    assert_eq!(given.addresses, again.addresses);
    world.assert_sound();
}

/// A claim that is done after its pod was given up.
#[test]
fn a_claim_that_comes_late_takes_no_address() {
    for folds in [true, false] {
        let world = World::new(&pools());
        let client = world.store.client();
        client.set_folds(folds);
        let ipam = Ipam::new(Arc::new(client.clone()), "n1");
        client.fail_next(1, Fault::Late);
        now(ipam.assign(request("late"))).expect_err("nothing was answered");
        now(ipam.release_by_handle("late", seconds(1_000))).expect("the store works");
        world.store.deliver_late();
        assert_eq!(world.taken(), [], "folds {folds}");
        assert!(world.handles().is_empty(), "folds {folds}");
        // What keeps it from being done is a block that the node uses.
        let next = now(ipam.assign(request("next")))
            .expect("there is room")
            .outcome;
        assert_eq!(world.blocks().len(), 1, "folds {folds}, {next:?}");
        world.assert_sound();
    }
}
