//! A store that answers which blocks there are from a cache that is behind.

use std::sync::{Arc, Mutex};

use api::key::{Key, Kind};
use datastore::delegate::{Delegate, Delegating};
use datastore::memory::MemoryStore;
use datastore::store::{Store, StoreError};
use datastore::version::Version;
use futures_util::future::BoxFuture;
use ipam::{AssignError, Ipam};
use serde_json::json;

use crate::world::{World, assign, request};

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
