//! A store that answers which blocks there are from a cache that is behind.

use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use api::key::{Key, Kind};
use datastore::delegate::{Delegate, Delegating};
use datastore::memory::MemoryStore;
use datastore::store::{Expect, Op, Store, StoreError};
use datastore::version::Version;
use futures_util::future::BoxFuture;
use ipam::{AssignError, Ipam};
use serde_json::json;

use crate::interleave::{Comparing, Slow, Task, run_polls};
use crate::world::{World, assign, now, request, seconds};

struct Cached {
    store: MemoryStore,
    /// How far the store had counted, and the blocks there were then.
    then: Mutex<(u64, Vec<Key>)>,
}

impl Cached {
    /// The cache is as the store is now, and stays so.
    fn refresh(&self) {
        let objects = self.store.objects();
        let numbers = objects.iter().filter_map(|object| object.version.number());
        let at = numbers.max().unwrap_or_default();
        let keys = objects.into_iter().map(|object| object.key);
        let blocks = keys.filter(|key| key.kind == Kind::IPAMBlock).collect();
        *self.then.lock().expect("one thread") = (at, blocks);
    }
}

impl Delegate for Cached {
    fn inner(&self) -> &dyn Store {
        &self.store
    }

    fn names_since<'a>(
        &'a self,
        kind: Kind,
        seen: &'a [Version],
    ) -> BoxFuture<'a, Result<Vec<Key>, StoreError>> {
        let wanted = seen.iter().filter_map(Version::number).max();
        let (at, blocks) = self.then.lock().expect("one thread").clone();
        if kind == Kind::IPAMBlock && wanted.is_none_or(|wanted| wanted <= at) {
            return Box::pin(async { Ok(blocks) });
        }
        self.store.names(kind)
    }
}

#[test]
fn a_block_of_a_pools_former_cut_is_not_overlooked_by_a_cache_from_before_it() {
    for folds in [true, false] {
        let world = World::that_folds(folds, &[("p", "10.0.0.0/29", 30)]);
        world.config(json!({"strictAffinity": true, "autoAllocateBlocks": true}));
        let store = Arc::new(Delegating(Cached {
            store: world.store.clone(),
            then: Mutex::default(),
        }));
        let ipam = Ipam::new(Arc::clone(&store) as Arc<dyn Store>, "n1");
        for number in 0..4 {
            assign(&ipam, request(&format!("n1.{number}"))).unwrap();
        }
        store.refresh();
        // The other half is another node's; then the pool is cut into smaller blocks.
        assign(&world.ipam("n2"), request("n2.0")).unwrap();
        world.pool("p", json!({"cidr": "10.0.0.0/29", "blockSize": 31}));
        let none = assign(&ipam, request("n1.4"));
        assert!(
            matches!(none, Err(AssignError::Exhausted { .. })),
            "{none:?}"
        );
        assert_eq!(world.blocks().len(), 2, "folds {folds}");
        world.assert_sound();
    }
}

/// Polls an assignment has at most before the block goes, and then before the claim goes.
const POLLS: usize = 24;

#[test]
fn a_claim_that_is_taken_away_with_its_block_meanwhile_is_made_anew_with_it() {
    let ways = [true, false].into_iter();
    let ways = ways.flat_map(|folds| (0..POLLS).map(move |before| (folds, before)));
    for (folds, before, between) in
        ways.flat_map(|(folds, before)| (0..POLLS).map(move |between| (folds, before, between)))
    {
        let world = World::that_folds(folds, &[("p", "10.0.0.0/29", 30)]);
        let ipam = Ipam::new(Arc::new(Slow::new(&world.store, Comparing::Yes)), "n1");
        run_polls(
            Box::pin(async {
                ipam.assign(request("n1.0")).await.unwrap();
                ipam.release_by_handle("n1.0", seconds(1_000))
                    .await
                    .unwrap();
            }),
            usize::MAX,
        );
        let mut assign: Option<Task<'_>> = Some(Box::pin(async {
            ipam.assign(request("n1.1")).await.unwrap();
        }));
        // Its node seemed to be gone: somebody gives up the block, then the claim.
        run_some(&mut assign, before);
        let [block] = &world.blocks()[..] else {
            unreachable!("it has one")
        };
        let is_empty = ipam::block::is_empty(block);
        if is_empty {
            let name = api::ipam::affinity_name("n1", block.cidr);
            let key = Key::new(Kind::BlockAffinity, name);
            let claim = now(world.store.get(&key)).unwrap().unwrap();
            world.delete(Kind::IPAMBlock, &api::ipam::block_name(block.cidr));
            run_some(&mut assign, between);
            let expect = Expect::Version(claim.version);
            // Where it was written meanwhile it stays.
            let _ = now(world.store.write(Op::Delete { key, expect }));
        }
        run_some(&mut assign, usize::MAX);
        let claimed: Vec<_> = world.affinities().iter().map(|claim| claim.cidr).collect();
        let owned: Vec<_> = world.blocks().iter().map(|block| block.cidr).collect();
        assert_eq!(
            claimed, owned,
            "folds {folds}, {before} polls, then {between}"
        );
        world.assert_sound();
    }
}

#[test]
fn a_claim_that_is_made_while_another_agent_reads_what_its_node_has_stays() {
    for (folds, polls) in [true, false]
        .into_iter()
        .flat_map(|folds| (0..POLLS).map(move |polls| (folds, polls)))
    {
        let world = World::that_folds(folds, &[("p", "10.0.0.0/29", 30)]);
        let other = Ipam::new(Arc::new(Slow::new(&world.store, Comparing::Yes)), "n2");
        // The node seemed to be gone; it is back, and a pod gets its first address.
        let mut release: Option<Task<'_>> = Some(Box::pin(async {
            let released = other.release_host_affinities("n1", true, seconds(1_000));
            released.await.unwrap();
        }));
        run_some(&mut release, polls);
        assign(&world.ipam("n1"), request("n1.0")).unwrap();
        run_some(&mut release, usize::MAX);
        let claimed: Vec<_> = world.affinities().iter().map(|claim| claim.cidr).collect();
        let owned: Vec<_> = world.blocks().iter().map(|block| block.cidr).collect();
        assert_eq!(claimed, owned, "folds {folds}, {polls} polls");
        world.assert_sound();
    }
}

/// Nothing is left of one that is done.
fn run_some(task: &mut Option<Task<'_>>, polls: usize) {
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..polls {
        let Some(running) = task else {
            return;
        };
        if running.as_mut().poll(&mut context).is_ready() {
            *task = None;
        }
    }
}
