//! Another writer of the same objects: Calico's own order, over a store without transactions.
//!
//! One request after the other, each comparing one object. A deletion takes two: the object is marked as deleted, compared
//! with what was read, and then deleted with its uid as only condition. Who meets a marked object finishes its deletion.

use api::ipam::{
    AffinityState, AllocationAttribute, BlockAffinity, BlockAffinitySpec, IPAMBlock, IPAMHandle,
    IPAMHandleSpec,
};
use api::key::Key;
use api::metadata::Resource;
use api::object::Object;
use bytes::Bytes;
use datastore::memory::MemoryStore;
use datastore::store::{Change, Expect, Op, Store};
use datastore::version::Version;
use ipam::block;
use ipam::reserved::Reserved;
use ipam::view::{affinity_key, block_key, handle_key};
use ipnet::IpNet;
use serde_json::Map;

use crate::interleave::once;
use crate::world::seconds;

/// Attempts of each step, as Calico's.
const ATTEMPTS: usize = 100;

/// Somebody was quicker.
#[derive(Debug)]
struct Conflict;

/// An object as it was read.
struct Read<T> {
    object: T,
    version: Version,
    uid: Version,
}

/// A kind as this writer handles it.
trait Stored: Sized + Clone {
    fn of(object: Object) -> Option<Self>;
    fn into_object(self) -> Object;
    fn is_deleted(&self) -> bool;
    fn mark_deleted(&mut self);
}

impl Stored for IPAMBlock {
    fn of(object: Object) -> Option<Self> {
        match object {
            Object::IPAMBlock(found) => Some(found),
            _ => None,
        }
    }
    fn into_object(self) -> Object {
        Object::IPAMBlock(self)
    }
    fn is_deleted(&self) -> bool {
        self.spec.deleted
    }
    fn mark_deleted(&mut self) {
        self.spec.deleted = true;
    }
}

impl Stored for BlockAffinity {
    fn of(object: Object) -> Option<Self> {
        match object {
            Object::BlockAffinity(found) => Some(found),
            _ => None,
        }
    }
    fn into_object(self) -> Object {
        Object::BlockAffinity(self)
    }
    fn is_deleted(&self) -> bool {
        self.spec.deleted == "true"
    }
    fn mark_deleted(&mut self) {
        "true".clone_into(&mut self.spec.deleted);
    }
}

impl Stored for IPAMHandle {
    fn of(object: Object) -> Option<Self> {
        match object {
            Object::IPAMHandle(found) => Some(found),
            _ => None,
        }
    }
    fn into_object(self) -> Object {
        Object::IPAMHandle(self)
    }
    fn is_deleted(&self) -> bool {
        self.spec.deleted
    }
    fn mark_deleted(&mut self) {
        self.spec.deleted = true;
    }
}

/// A Calico node, or its controllers.
pub(crate) struct Calico {
    store: MemoryStore,
    node: String,
}

impl Calico {
    pub(crate) fn new(store: &MemoryStore, node: &str) -> Self {
        Self {
            store: store.client(),
            node: node.to_owned(),
        }
    }

    async fn get<T: Stored>(&self, key: &Key) -> Option<Read<T>> {
        once().await;
        let found = self.store.get(key).await.expect("it works")?;
        let uid = self.store.born(key).expect("it stands there");
        let object = Object::decode(key, &found.value).expect("it can be read");
        let object = T::of(object).expect("its kind");
        if object.is_deleted() {
            once().await;
            self.store.delete_born(key, &uid);
            return None;
        }
        Some(Read {
            object,
            version: found.version,
            uid,
        })
    }

    async fn put(&self, key: &Key, object: Object, expect: Expect) -> Result<Version, Conflict> {
        once().await;
        let put = Op::Put {
            key: key.clone(),
            value: Bytes::from(object.encode()),
            expect,
        };
        match self.store.write(put).await {
            Ok(Some(Change::Put(item))) => Ok(item.version),
            Ok(_) => panic!("a put changes something"),
            Err(_) => Err(Conflict),
        }
    }

    async fn create<T: Stored>(&self, key: &Key, object: T) -> Result<(), Conflict> {
        let made = self.put(key, object.into_object(), Expect::Absent).await;
        made.map(drop)
    }

    async fn update<T: Stored>(&self, key: &Key, read: Read<T>) -> Result<Read<T>, Conflict> {
        let expect = Expect::Version(read.version);
        let object = read.object.clone().into_object();
        let version = self.put(key, object, expect).await?;
        Ok(Read { version, ..read })
    }

    async fn delete<T: Stored>(&self, key: &Key, mut read: Read<T>) -> Result<(), Conflict> {
        read.object.mark_deleted();
        let marked = self.update(key, read).await?;
        once().await;
        self.store.delete_born(key, &marked.uid);
        Ok(())
    }

    fn affinity(&self, cidr: IpNet, state: AffinityState) -> (Key, BlockAffinity) {
        let key = affinity_key(&self.node, cidr);
        let spec = BlockAffinitySpec {
            state,
            node: self.node.clone(),
            cidr,
            affinity_type: "host".to_owned(),
            deleted: "false".to_owned(),
            extra: Map::new(),
        };
        (key.clone(), Resource::new(&key, spec))
    }

    /// Affinity pending, block, affinity confirmed. False when the block is another's.
    pub(crate) async fn claim(&self, cidr: IpNet) -> bool {
        for _ in 0..ATTEMPTS {
            let (key, pending) = self.affinity(cidr, AffinityState::Pending);
            let noted = match self.get::<BlockAffinity>(&key).await {
                Some(mut read) => {
                    read.object.spec.state = AffinityState::Pending;
                    self.update(&key, read).await.is_ok()
                }
                None => self.create(&key, pending).await.is_ok(),
            };
            if !noted {
                continue;
            }
            let host = block::host_affinity(&self.node);
            let made = block::new_block(cidr, host.clone(), seconds(1_000)).expect("a block");
            let block_key = block_key(cidr);
            let made = Resource::new(&block_key, made);
            if self.create(&block_key, made).await.is_err() {
                let stands = self.get::<IPAMBlock>(&block_key).await;
                let Some(stands) = stands else {
                    continue;
                };
                if stands.object.spec.affinity.as_deref() != Some(&host) {
                    if let Some(own) = self.get::<BlockAffinity>(&key).await {
                        // Somebody else deletes it otherwise.
                        let _ = self.delete(&key, own).await;
                    }
                    return false;
                }
            }
            if let Some(mut own) = self.get::<BlockAffinity>(&key).await {
                own.object.spec.state = AffinityState::Confirmed;
                if self.update(&key, own).await.is_ok() {
                    return true;
                }
            }
        }
        panic!("endless conflicts");
    }

    /// Handle up, block, and on failure handle down. `None` when there is no block or no room, or with `own` when it is
    /// another's.
    pub(crate) async fn assign(&self, cidr: IpNet, handle: &str, own: bool) -> Option<String> {
        let who = AllocationAttribute {
            handle_id: Some(handle.to_owned()),
            secondary: [("node".to_owned(), self.node.clone())].into(),
            extra: Map::new(),
        };
        let host = block::host_affinity(&self.node);
        for _ in 0..ATTEMPTS {
            let key = block_key(cidr);
            let mut read = self.get::<IPAMBlock>(&key).await?;
            if own && read.object.spec.affinity.as_deref() != Some(&host) {
                return None;
            }
            read.object.spec.sequence_number += 1;
            let ordinal = block::take_next(&mut read.object.spec, &who, &Reserved::default())?;
            self.count(handle, cidr, 1).await;
            if self.update(&key, read).await.is_ok() {
                let address = block::address(cidr, ordinal).expect("a slot");
                return Some(address.addr().to_string());
            }
            self.count(handle, cidr, -1).await;
        }
        panic!("endless conflicts");
    }

    /// Adds to what a handle counts in a block; without anything left the handle goes.
    async fn count(&self, handle: &str, cidr: IpNet, more: i64) {
        let key = handle_key(handle);
        for _ in 0..ATTEMPTS {
            let read = self.get::<IPAMHandle>(&key).await;
            let done = match read {
                Some(mut read) => {
                    let blocks = &mut read.object.spec.block;
                    let known = i64::from(blocks.remove(&cidr.to_string()).unwrap_or(0));
                    let counted = u32::try_from((known + more).max(0)).expect("small");
                    if counted > 0 {
                        blocks.insert(cidr.to_string(), counted);
                    }
                    if blocks.is_empty() {
                        self.delete(&key, read).await
                    } else {
                        self.update(&key, read).await.map(drop)
                    }
                }
                None if more < 0 => Ok(()),
                None => {
                    let spec = IPAMHandleSpec {
                        handle_id: handle.to_owned(),
                        block: [(cidr.to_string(), 1)].into(),
                        deleted: false,
                        extra: Map::new(),
                    };
                    self.create(&key, Resource::new(&key, spec)).await
                }
            };
            if done.is_ok() {
                return;
            }
        }
        panic!("endless conflicts");
    }

    /// Block, handle down: of one handle's addresses in one block, if `number` is the sequence number of the first of
    /// them. Whether something was freed.
    pub(crate) async fn release(&self, cidr: IpNet, handle: &str, number: Option<u64>) -> bool {
        for _ in 0..ATTEMPTS {
            let key = block_key(cidr);
            let Some(mut read) = self.get::<IPAMBlock>(&key).await else {
                return false;
            };
            let spec = &mut read.object.spec;
            let held = block::held_by(spec, handle);
            let Some(first) = held.first() else {
                return false;
            };
            let stored = spec.sequence_number_for_allocation.get(&first.to_string());
            if number.is_some() && stored != number.as_ref() {
                return false;
            }
            block::free(spec, &held);
            spec.sequence_number += 1;
            let goes = spec.affinity.is_none() && block::is_empty(spec);
            let done = if goes {
                self.delete(&key, read).await
            } else {
                self.update(&key, read).await.map(drop)
            };
            if done.is_ok() {
                self.count(handle, cidr, -1).await;
                return true;
            }
        }
        panic!("endless conflicts");
    }

    /// Affinity pending deletion, block deleted, affinity deleted; only of a block that is empty, which it looks at before
    /// and when it deletes it.
    pub(crate) async fn release_empty_affinity(&self, cidr: IpNet) -> bool {
        let (key, _) = self.affinity(cidr, AffinityState::Pending);
        let host = block::host_affinity(&self.node);
        for _ in 0..ATTEMPTS {
            let Some(mut affinity) = self.get::<BlockAffinity>(&key).await else {
                return false;
            };
            let block_key = block_key(cidr);
            if let Some(block) = self.get::<IPAMBlock>(&block_key).await
                && block.object.spec.affinity.as_deref() == Some(&host)
            {
                if !block::is_empty(&block.object.spec) {
                    return false;
                }
                affinity.object.spec.state = AffinityState::PendingDeletion;
                let Ok(marked) = self.update(&key, affinity).await else {
                    continue;
                };
                affinity = marked;
                if self.delete(&block_key, block).await.is_err() {
                    continue;
                }
            }
            if self.delete(&key, affinity).await.is_ok() {
                return true;
            }
        }
        panic!("endless conflicts");
    }
}
