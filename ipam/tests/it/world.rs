//! A store with pools, and what stands in it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::ipam::{BlockAffinitySpec, IPAMBlockSpec, IPAMHandleSpec};
use api::key::{Key, Kind};
use api::object::Object;
use api::pool::AllowedUse;
use bytes::Bytes;
use datastore::delegate::{Delegate, Delegating};
use datastore::memory::MemoryStore;
use datastore::plan::{Failed, Plan};
use datastore::scope::Scope;
use datastore::store::{Change, Expect, KeyValue, Listing, Op, Store, StoreError};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ipam::{AssignError, AssignRequest, Assignment, Ipam, Timestamp, Wanted};
use serde_json::{Value, json};

/// The result of a future that never waits.
pub(crate) fn now<F: Future>(future: F) -> F::Output {
    future
        .now_or_never()
        .expect("the memory store answers at once")
}

pub(crate) fn seconds(seconds: u64) -> Timestamp {
    Timestamp::from_unix(Duration::from_secs(seconds))
}

pub(crate) struct World {
    pub(crate) store: MemoryStore,
}

impl World {
    /// A store with these pools: name, CIDR, block size.
    pub(crate) fn new(pools: &[(&str, &str, u8)]) -> Self {
        let world = Self {
            store: MemoryStore::new(),
        };
        for (name, cidr, block_size) in pools {
            world.pool(name, json!({"cidr": cidr, "blockSize": block_size}));
        }
        world
    }

    /// The same with a store that carries plans out step by step, when `folds` is false.
    pub(crate) fn that_folds(folds: bool, pools: &[(&str, &str, u8)]) -> Self {
        let world = Self::new(pools);
        world.store.set_folds(folds);
        world
    }

    pub(crate) fn pool(&self, name: &str, spec: Value) {
        self.put(Kind::IPPool, name, spec);
    }

    pub(crate) fn config(&self, spec: Value) {
        self.put(Kind::IPAMConfig, "default", spec);
    }

    pub(crate) fn put(&self, kind: Kind, name: &str, spec: Value) {
        let value = json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": kind.name(),
            "metadata": {"name": name},
            "spec": spec,
        });
        self.write(Op::Put {
            key: Key::new(kind, name),
            value: Bytes::from(value.to_string()),
            expect: Expect::Any,
        });
    }

    pub(crate) fn delete(&self, kind: Kind, name: &str) {
        self.write(Op::Delete {
            key: Key::new(kind, name),
            expect: Expect::Any,
        });
    }

    fn write(&self, op: Op) {
        now(self.store.write(op)).expect("unconditional");
    }

    pub(crate) fn ipam(&self, node: &str) -> Ipam {
        Ipam::new(Arc::new(self.store.clone()), node)
    }

    fn decoded(&self) -> impl Iterator<Item = (String, Object)> {
        self.store.objects().into_iter().map(|item| {
            let object =
                Object::decode(&item.key, &item.value).expect("what is written reads back");
            (item.key.name, object)
        })
    }

    pub(crate) fn blocks(&self) -> Vec<IPAMBlockSpec> {
        let blocks = self.decoded().filter_map(|(_, object)| match object {
            Object::IPAMBlock(block) => Some(block.spec),
            _ => None,
        });
        blocks.collect()
    }

    pub(crate) fn affinities(&self) -> Vec<BlockAffinitySpec> {
        let affinities = self.decoded().filter_map(|(_, object)| match object {
            Object::BlockAffinity(affinity) => Some(affinity.spec),
            _ => None,
        });
        affinities.collect()
    }

    pub(crate) fn handles(&self) -> BTreeMap<String, IPAMHandleSpec> {
        let handles = self.decoded().filter_map(|(name, object)| match object {
            Object::IPAMHandle(handle) => Some((name, handle.spec)),
            _ => None,
        });
        handles.collect()
    }

    /// Every address taken, with its handle.
    pub(crate) fn taken(&self) -> Vec<(String, String)> {
        let mut taken = Vec::new();
        for block in self.blocks() {
            for ordinal in 0..block.allocations.len() {
                if let Some(holder) = ipam::block::holder(&block, ordinal) {
                    let address = ipam::block::address(block.cidr, ordinal).expect("a slot");
                    let handle = holder.handle_id.clone().unwrap_or_default();
                    taken.push((address.addr().to_string(), handle));
                }
            }
        }
        taken
    }

    #[track_caller]
    pub(crate) fn assert_sound(&self) {
        let faults = ipam::check::faults(&self.store.objects());
        assert!(faults.is_empty(), "{faults:#?}");
    }
}

/// A pod's request for one IPv4 address.
pub(crate) fn request(handle: &str) -> AssignRequest {
    AssignRequest {
        node_labels: BTreeMap::new(),
        namespace_labels: None,
        handle_id: handle.to_owned(),
        attributes: BTreeMap::from([("pod".to_owned(), handle.to_owned())]),
        allowed_use: AllowedUse::Workload,
        wanted: Wanted::one_ipv4(),
        now: seconds(1_000),
    }
}

pub(crate) fn wanting(handle: &str, wanted: Wanted) -> AssignRequest {
    AssignRequest {
        wanted,
        ..request(handle)
    }
}

pub(crate) fn assign(ipam: &Ipam, request: AssignRequest) -> Result<Assignment, AssignError> {
    now(ipam.assign(request)).map(|committed| committed.outcome)
}

/// The addresses of an assignment as text.
pub(crate) fn texts(assignment: &Assignment) -> Vec<String> {
    assignment
        .addresses
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// Counts the requests that reach a store, and the objects that it answers with.
#[derive(Clone)]
pub(crate) struct Counting {
    pub(crate) inner: MemoryStore,
    pub(crate) calls: Arc<Mutex<Vec<&'static str>>>,
    objects: Arc<AtomicUsize>,
}

impl Counting {
    pub(crate) fn new(inner: &MemoryStore) -> Delegating<Self> {
        Delegating(Self {
            inner: inner.clone(),
            calls: Arc::default(),
            objects: Arc::default(),
        })
    }

    /// The objects that were read since the last time.
    pub(crate) fn take_objects(&self) -> usize {
        self.objects.swap(0, Ordering::Relaxed)
    }

    /// The requests since the last time.
    pub(crate) fn take(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.calls.lock().expect("not poisoned"))
    }

    fn note(&self, call: &'static str) {
        self.calls.lock().expect("not poisoned").push(call);
    }
}

impl Delegate for Counting {
    fn inner(&self) -> &dyn Store {
        &self.inner
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KeyValue>, StoreError>> {
        self.note("get");
        self.objects.fetch_add(1, Ordering::Relaxed);
        self.inner.get(key)
    }

    fn list<'a>(
        &'a self,
        kind: Kind,
        scope: &'a Scope,
    ) -> BoxFuture<'a, Result<Listing, StoreError>> {
        self.note("list");
        Box::pin(async move {
            let listing = self.inner.list(kind, scope).await?;
            self.objects
                .fetch_add(listing.items.len(), Ordering::Relaxed);
            Ok(listing)
        })
    }

    fn names(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Key>, StoreError>> {
        self.note("names");
        self.inner.names(kind)
    }

    fn write(&self, op: Op) -> BoxFuture<'_, Result<Option<Change>, StoreError>> {
        self.note("write");
        self.inner.write(op)
    }

    fn commit(&self, plan: Plan) -> BoxFuture<'_, Result<Vec<Change>, Failed>> {
        self.note("commit");
        self.inner.commit(plan)
    }
}
