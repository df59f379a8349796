//! What this node has in the datastore, kept so that it can be written back: of an older copy of the datastore, or of
//! another one, only the nodes know what their living pods hold.

use std::collections::BTreeMap;

use api::ipam::{IPAMBlock, IPAMHandle, IPAMHandleSpec};
use api::key::{Key, Kind};
use api::metadata::Resource;
use api::object::Object;
use bytes::Bytes;
use datastore::store::{Expect, KeyValue, Op, Store, StoreError};
use ipam::block;
use ipam::view::handle_key;
use ipnet::IpNet;

/// How often a write is tried anew when somebody else was quicker.
const ATTEMPTS: usize = 10;

/// Objects of this node as the datastore last had them, and whose the ranges of others were.
#[derive(Debug)]
pub(super) struct Own {
    node: String,
    objects: BTreeMap<Key, Bytes>,
    others: BTreeMap<Key, IpNet>,
}

impl Own {
    pub(super) const fn new(node: String) -> Self {
        Self {
            node,
            objects: BTreeMap::new(),
            others: BTreeMap::new(),
        }
    }

    /// An object was written.
    pub(super) fn put(&mut self, item: &KeyValue) {
        self.remove(&item.key);
        let (is_own, others) = match Object::decode(&item.key, &item.value) {
            Ok(Object::Node(node)) => (node.metadata.name == self.node, None),
            Ok(Object::WorkloadEndpoint(endpoint)) => (endpoint.spec.node == self.node, None),
            Ok(Object::BlockAffinity(affinity)) => (affinity.spec.node == self.node, None),
            Ok(Object::IPAMBlock(found)) if !found.spec.deleted => {
                let owned = found.spec.affinity == Some(block::host_affinity(&self.node));
                let holds = !self.held(&found).is_empty();
                (owned || holds, (!owned).then_some(found.spec.cidr))
            }
            _ => (false, None),
        };
        if is_own {
            self.objects.insert(item.key.clone(), item.value.clone());
        }
        if let Some(range) = others {
            self.others.insert(item.key.clone(), range);
        }
    }

    /// An object is gone.
    pub(super) fn remove(&mut self, key: &Key) {
        self.objects.remove(key);
        self.others.remove(key);
    }

    /// Pods of this node.
    pub(super) fn pods(&self) -> usize {
        let kinds = self.objects.keys().map(|key| key.kind);
        kinds.filter(|kind| *kind == Kind::WorkloadEndpoint).count()
    }

    /// Blocks that were others'.
    pub(super) fn ranges_of_others(&self) -> Vec<IpNet> {
        self.others.values().copied().collect()
    }

    /// The slots of a block that this node's pods and tunnels hold.
    fn held(&self, found: &IPAMBlock) -> Vec<usize> {
        let slots = 0..found.spec.allocations.len();
        let holder = |slot: &usize| block::holder(&found.spec, *slot);
        let of_node = |slot: &usize| {
            holder(slot).is_some_and(|by| by.secondary.get("node") == Some(&self.node))
        };
        slots.filter(of_node).collect()
    }

    /// Writes what the datastore lacks of it. Answers what cannot be written because somebody else has it now.
    pub(super) async fn write_back(&self, store: &dyn Store) -> Result<Vec<String>, StoreError> {
        let mut conflicts = Vec::new();
        // Handles before blocks, blocks before endpoints: as when they were given.
        self.write_back_handles(store).await?;
        for kind in [Kind::Node, Kind::BlockAffinity] {
            self.create_missing(store, kind).await?;
        }
        for (key, value) in self.of_kind(Kind::IPAMBlock) {
            if let Ok(Object::IPAMBlock(known)) = Object::decode(key, value) {
                conflicts.extend(self.write_back_block(store, key, &known).await?);
            }
        }
        self.create_missing(store, Kind::WorkloadEndpoint).await?;
        Ok(conflicts)
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&Key, &Bytes)> {
        let all = self.objects.iter();
        all.filter(move |(key, _)| key.kind == kind)
    }

    async fn create_missing(&self, store: &dyn Store, kind: Kind) -> Result<(), StoreError> {
        for (key, value) in self.of_kind(kind) {
            let put = Op::Put {
                key: key.clone(),
                value: value.clone(),
                expect: Expect::Absent,
            };
            match store.write(put).await {
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The later of the known and the stored block, with every address of this node in it.
    async fn write_back_block(
        &self,
        store: &dyn Store,
        key: &Key,
        known: &IPAMBlock,
    ) -> Result<Vec<String>, StoreError> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let stored = store.get(key).await?;
            let (value, conflicts) = self.merged(known, stored.as_ref());
            let Some(value) = value else {
                return Ok(conflicts);
            };
            let put = Op::Put {
                key: key.clone(),
                value,
                expect: stored.map_or(Expect::Absent, |stored| Expect::Version(stored.version)),
            };
            match store.write(put).await {
                Ok(_) => return Ok(conflicts),
                Err(conflict @ StoreError::Conflict { .. }) => last = Some(conflict),
                Err(error) => return Err(error),
            }
        }
        Err(last.expect("every attempt but a conflict returns"))
    }

    /// What is to be stored, if it is another than what is, and which addresses somebody else has.
    fn merged(&self, known: &IPAMBlock, stored: Option<&KeyValue>) -> (Option<Bytes>, Vec<String>) {
        let encoded = |block: &IPAMBlock| Bytes::from(Object::IPAMBlock(block.clone()).encode());
        let decoded = stored.map(|item| Object::decode(&item.key, &item.value));
        let Some(Ok(Object::IPAMBlock(stored))) = decoded else {
            return (Some(encoded(known)), Vec::new());
        };
        let newer = known.spec.sequence_number > stored.spec.sequence_number;
        if newer && known.spec.affinity == stored.spec.affinity {
            return (Some(encoded(known)), Vec::new());
        }
        let (mut merged, mut conflicts) = (stored.clone(), Vec::new());
        for slot in self.held(known) {
            let Some(holder) = block::holder(&known.spec, slot) else {
                continue;
            };
            let now = block::holder(&merged.spec, slot);
            if now.is_some_and(|now| now.handle_id == holder.handle_id) {
                continue;
            }
            if !block::take(&mut merged.spec, slot, holder) {
                let address = block::address(known.spec.cidr, slot);
                conflicts.push(format!(
                    "address {}: held by handle {} here and by {} in the datastore",
                    address.map_or_else(String::new, |net| net.addr().to_string()),
                    holder.handle_id.as_deref().unwrap_or("(none)"),
                    now_holder(&stored, slot)
                ));
            }
        }
        if merged == stored {
            return (None, conflicts);
        }
        merged.spec.sequence_number =
            stored.spec.sequence_number.max(known.spec.sequence_number) + 1;
        (Some(encoded(&merged)), conflicts)
    }

    async fn write_back_handles(&self, store: &dyn Store) -> Result<(), StoreError> {
        let mut handles: BTreeMap<String, BTreeMap<String, u32>> = BTreeMap::new();
        for (key, value) in self.of_kind(Kind::IPAMBlock) {
            let Ok(Object::IPAMBlock(known)) = Object::decode(key, value) else {
                continue;
            };
            for slot in self.held(&known) {
                let holder = block::holder(&known.spec, slot);
                if let Some(handle) = holder.and_then(|by| by.handle_id.clone()) {
                    let counts = handles.entry(handle).or_default();
                    *counts.entry(known.spec.cidr.to_string()).or_default() += 1;
                }
            }
        }
        for (handle_id, counts) in handles {
            let key = handle_key(&handle_id);
            let handle: IPAMHandle = Resource::new(
                &key,
                IPAMHandleSpec {
                    handle_id,
                    block: counts,
                    deleted: false,
                    extra: serde_json::Map::new(),
                },
            );
            let put = Op::Put {
                key,
                value: Object::IPAMHandle(handle).encode().into(),
                expect: Expect::Any,
            };
            store.write(put).await?;
        }
        Ok(())
    }
}

fn now_holder(stored: &IPAMBlock, slot: usize) -> String {
    let holder = block::holder(&stored.spec, slot).and_then(|by| by.handle_id.clone());
    holder.unwrap_or_else(|| "(none)".to_owned())
}
