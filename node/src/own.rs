//! What this node has in the datastore, kept so that it can be written back: of an older copy of the datastore, or of
//! another one, only the nodes know what their living pods hold. A file has it too, for an agent that starts over such a
//! datastore.

mod file;

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::endpoint::WorkloadEndpoint;
use api::ipam::{IPAMBlock, IPAMHandle, IPAMHandleSpec};
use api::key::{Key, Kind};
use api::metadata::Resource;
use api::object::Object;
use bytes::Bytes;
use datastore::store::{Expect, KeyValue, Op, Store, StoreError};
use ipam::block;
use ipam::view::{block_key, handle_key};
use ipnet::IpNet;

/// How often a write is tried anew when somebody else was quicker.
const ATTEMPTS: usize = 10;

/// Objects of this node as the datastore last had them, and whose the ranges of others were.
#[derive(Debug)]
pub(crate) struct Own {
    node: String,
    objects: BTreeMap<Key, Bytes>,
    others: BTreeMap<Key, IpNet>,
    /// Since it was last written to a file.
    changed: bool,
}

/// What a store lacks.
#[derive(Debug, Default)]
pub(crate) struct Lacking {
    /// A block stands there with a lower sequence number than it had: it is an older copy, whatever it has counted since.
    pub(crate) writes: bool,
    /// Addresses whose blocks are not there: given up, or lost.
    pub(crate) addresses: Vec<IpAddr>,
}

impl Own {
    pub(crate) const fn new(node: String) -> Self {
        Self {
            node,
            objects: BTreeMap::new(),
            others: BTreeMap::new(),
            changed: true,
        }
    }

    /// An object was written.
    pub(crate) fn put(&mut self, item: &KeyValue) {
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
        let own = is_own.then(|| item.value.clone());
        self.changed |= replace(&mut self.objects, &item.key, own);
        self.changed |= replace(&mut self.others, &item.key, others);
    }

    /// An object is gone.
    pub(crate) fn remove(&mut self, key: &Key) {
        self.changed |= replace(&mut self.objects, key, None);
        self.changed |= replace(&mut self.others, key, None);
    }

    /// Pods of this node.
    pub(crate) fn pods(&self) -> usize {
        let kinds = self.objects.keys().map(|key| key.kind);
        kinds.filter(|kind| *kind == Kind::WorkloadEndpoint).count()
    }

    /// Leaves out endpoints that `lives` does not know: their pods are gone, and who takes pods away takes their addresses
    /// back.
    pub(crate) fn keep_living(&mut self, lives: impl Fn(&WorkloadEndpoint) -> bool) {
        self.objects
            .retain(|key, value| match Object::decode(key, value) {
                Ok(Object::WorkloadEndpoint(endpoint)) => lives(&endpoint),
                _ => true,
            });
    }

    /// Whether this node holds an address.
    pub(crate) fn holds(&self, address: IpAddr) -> bool {
        self.of_kind(Kind::IPAMBlock).any(|(key, value)| {
            let Ok(Object::IPAMBlock(found)) = Object::decode(key, value) else {
                return false;
            };
            let slot = block::ordinal(found.spec.cidr, address);
            slot.is_some_and(|slot| self.held(&found).contains(&slot))
        })
    }

    /// What a store lacks of this node's blocks.
    pub(crate) async fn lacking_in(&self, store: &dyn Store) -> Result<Lacking, StoreError> {
        let mut lacking = Lacking::default();
        for (key, value) in self.of_kind(Kind::IPAMBlock) {
            let Ok(Object::IPAMBlock(known)) = Object::decode(key, value) else {
                continue;
            };
            let stored = store.get(key).await?;
            match stored.map(|item| Object::decode(&item.key, &item.value)) {
                Some(Ok(Object::IPAMBlock(stored))) => {
                    let (stored, known) = (stored.spec, known.spec);
                    lacking.writes |= stored.affinity == known.affinity
                        && stored.sequence_number < known.sequence_number;
                }
                Some(_) => {}
                None => {
                    let held = self.held(&known).into_iter();
                    let addresses = held.filter_map(|slot| block::address(known.spec.cidr, slot));
                    lacking.addresses.extend(addresses.map(|net| net.addr()));
                }
            }
        }
        Ok(lacking)
    }

    /// Affinities without the labels that Calico lists them by: an older Calico's, or an earlier agent's.
    pub(crate) fn unlabelled_affinities(&self) -> Vec<Key> {
        let unlabelled = |(key, value): (&Key, &Bytes)| match Object::decode(key, value) {
            Ok(Object::BlockAffinity(mut affinity)) => {
                api::affinity::label(&mut affinity).then(|| key.clone())
            }
            _ => None,
        };
        self.of_kind(Kind::BlockAffinity)
            .filter_map(unlabelled)
            .collect()
    }

    /// Blocks that were others'.
    pub(crate) fn ranges_of_others(&self) -> Vec<IpNet> {
        self.others.values().copied().collect()
    }

    /// The slots of a block that this node's pods and tunnels hold.
    fn held(&self, found: &IPAMBlock) -> Vec<usize> {
        let slots = 0..found.spec.allocations.len();
        let holder = |slot: &usize| block::holder(&found.spec, *slot);
        let of_node = |slot: &usize| {
            holder(slot).is_some_and(|by| {
                by.secondary.get("node") == Some(&self.node) && by.released_at().is_none()
            })
        };
        slots.filter(of_node).collect()
    }

    /// Writes what the datastore lacks of it. Answers what cannot be written because somebody else has it now, or because the
    /// datastore lets others make it: over an API server, the Node that kubelet registers, and the Pod that holds an endpoint.
    pub(crate) async fn write_back(&self, store: &dyn Store) -> Result<Vec<String>, StoreError> {
        let mut conflicts = Vec::new();
        // Handles before blocks, blocks before endpoints: as when they were given.
        self.write_back_handles(store).await?;
        conflicts.extend(self.write_back_node(store).await?);
        conflicts.extend(self.create_missing(store, Kind::BlockAffinity).await?);
        for (key, value) in self.of_kind(Kind::IPAMBlock) {
            if let Ok(Object::IPAMBlock(known)) = Object::decode(key, value) {
                conflicts.extend(self.write_back_block(store, key, &known).await?);
            }
        }
        conflicts.extend(self.create_missing(store, Kind::WorkloadEndpoint).await?);
        Ok(conflicts)
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&Key, &Bytes)> {
        let all = self.objects.iter();
        all.filter(move |(key, _)| key.kind == kind)
    }

    /// Answers what was refused.
    async fn create_missing(
        &self,
        store: &dyn Store,
        kind: Kind,
    ) -> Result<Vec<String>, StoreError> {
        let mut refused = Vec::new();
        for (key, value) in self.of_kind(kind) {
            let put = Op::Put {
                key: key.clone(),
                value: value.clone(),
                expect: Expect::Absent,
            };
            match store.write(put).await {
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(StoreError::Refused(why)) => refused.push(why.to_string()),
                Err(error) => return Err(error),
            }
        }
        Ok(refused)
    }

    /// This node's own object, made anew; one that was registered meanwhile and is bare gets back what the agent had written there.
    async fn write_back_node(&self, store: &dyn Store) -> Result<Vec<String>, StoreError> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let Some((key, known)) = self.of_kind(Kind::Node).next() else {
                return Ok(Vec::new());
            };
            let stored = store.get(key).await?;
            if stored.as_ref().is_some_and(has_addresses) {
                return Ok(Vec::new());
            }
            let put = Op::Put {
                key: key.clone(),
                value: known.clone(),
                expect: Expect::standing(stored.map(|stored| stored.version)),
            };
            match store.write(put).await {
                Ok(_) => return Ok(Vec::new()),
                Err(StoreError::Refused(why)) => return Ok(vec![why.to_string()]),
                Err(conflict @ StoreError::Conflict { .. }) => last = Some(conflict),
                Err(error) => return Err(error),
            }
        }
        Err(last.expect("every attempt but a conflict returns"))
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
                expect: Expect::standing(stored.map(|stored| stored.version)),
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

/// Puts `value` in a key's place, or takes away what is there; whether that is a change.
fn replace<T: PartialEq + Clone>(map: &mut BTreeMap<Key, T>, key: &Key, value: Option<T>) -> bool {
    let before = match value.clone() {
        Some(value) => map.insert(key.clone(), value),
        None => map.remove(key),
    };
    before != value
}

/// Whether an agent has written a node's object.
pub(crate) fn has_addresses(node: &KeyValue) -> bool {
    match Object::decode(&node.key, &node.value) {
        Ok(Object::Node(node)) => node.spec.bgp.is_some(),
        // Not ours to mend.
        _ => true,
    }
}

fn now_holder(stored: &IPAMBlock, slot: usize) -> String {
    let holder = block::holder(&stored.spec, slot).and_then(|by| by.handle_id.clone());
    holder.unwrap_or_else(|| "(none)".to_owned())
}

#[cfg(test)]
mod tests {
    use datastore::delegate::{Delegate, Delegating};
    use datastore::memory::MemoryStore;
    use datastore::store::Change;
    use futures_util::future::BoxFuture;

    use super::*;

    /// A store that lets others make Nodes and endpoints, as one over an API server.
    struct OthersMake(MemoryStore);

    impl Delegate for OthersMake {
        fn inner(&self) -> &dyn Store {
            &self.0
        }

        fn write(&self, op: Op) -> BoxFuture<'_, Result<Option<Change>, StoreError>> {
            Box::pin(async move {
                let made_by_others = [Kind::Node, Kind::WorkloadEndpoint].contains(&op.key().kind);
                if made_by_others && self.0.get(op.key()).await?.is_none() {
                    return Err(StoreError::Refused(format!("{} is not", op.key()).into()));
                }
                self.0.write(op).await
            })
        }
    }

    fn item(key: Key, spec: &str) -> KeyValue {
        let value = format!(
            r#"{{"metadata": {{"name": "{}"}}, "spec": {spec}}}"#,
            key.name
        );
        KeyValue {
            key,
            value: value.into(),
            version: 1.into(),
        }
    }

    /// A node with a pod, and the affinity of a block.
    fn own() -> Own {
        let mut own = Own::new("n1".to_owned());
        own.put(&item(
            Key::new(Kind::Node, "n1"),
            r#"{"bgp": {"ipv4Address": "10.10.1.11/24"}}"#,
        ));
        own.put(&item(
            Key::new(Kind::BlockAffinity, "n1-10-0-0-0-30"),
            r#"{"node": "n1", "cidr": "10.0.0.0/30", "state": "confirmed"}"#,
        ));
        own.put(&item(
            Key::namespaced(Kind::WorkloadEndpoint, "default", "n1-k8s-p-eth0"),
            r#"{"node": "n1", "orchestrator": "k8s", "pod": "p", "endpoint": "eth0"}"#,
        ));
        own
    }

    #[tokio::test]
    async fn what_others_make_is_named_and_does_not_keep_the_rest_from_being_written() {
        let store = Delegating(OthersMake(MemoryStore::new()));
        let own = own();
        assert_eq!(own.objects.len(), 3);
        let refused = own.write_back(&store).await.unwrap();
        assert!(
            refused.iter().any(|why| why.contains("Node")),
            "{refused:?}"
        );
        assert!(
            refused.iter().any(|why| why.contains("n1-k8s-p")),
            "{refused:?}"
        );
        let written: Vec<Kind> = store
            .0
            .0
            .objects()
            .iter()
            .map(|item| item.key.kind)
            .collect();
        assert_eq!(written, [Kind::BlockAffinity]);
    }

    #[tokio::test]
    async fn a_node_that_was_registered_anew_gets_its_addresses_back_and_one_that_has_some_keeps_them()
     {
        let key = Key::new(Kind::Node, "n1");
        for (stored, expected) in [
            ("{}", "10.10.1.11/24"),
            (
                r#"{"bgp": {"ipv4Address": "10.10.1.99/24"}}"#,
                "10.10.1.99/24",
            ),
        ] {
            let store = Delegating(OthersMake(MemoryStore::new()));
            let put = Op::Put {
                key: key.clone(),
                value: item(key.clone(), stored).value,
                expect: Expect::Any,
            };
            store.0.0.write(put).await.unwrap();
            own().write_back(&store).await.unwrap();
            let now = store.get(&key).await.unwrap().unwrap();
            let text = String::from_utf8_lossy(&now.value).into_owned();
            assert!(text.contains(expected), "{text}");
        }
    }
}
