//! What is known of the store: the ground a decision stands on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::ipam::{
    BlockAffinity, IPAMBlock, IPAMConfigSpec, IPAMHandle, affinity_name, block_cidr, block_name,
};
use api::key::{Key, Kind};
use api::object::Object;
use api::pool::IPPool;
use datastore::store::{Expect, KeyValue, Listing, Revision, WatchEvent};
use ipnet::IpNet;

use crate::block;

/// The kinds a full view is listed from.
pub const KINDS: [Kind; 4] = [
    Kind::IPPool,
    Kind::IPAMConfig,
    Kind::IPAMBlock,
    Kind::BlockAffinity,
];

/// Whether an object stands in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known<'a, T> {
    /// Yes.
    Present(&'a T),
    /// No.
    Absent,
    /// It stands there and cannot be used; why.
    Unreadable(&'a str),
    /// Not looked at.
    Unknown,
}

/// A part of the store, each object with its revision.
///
/// A *full* view holds every pool, block and affinity at one revision; one that is not full holds those of one node.
/// Handles are known only as far as they were read or written. A view may be out of date: each write compares
/// revisions, and a conflict brings the view up to date.
#[derive(Clone, Debug, Default)]
pub struct View {
    full: bool,
    /// `None`: known not to exist.
    revisions: BTreeMap<Key, Option<Revision>>,
    pools: BTreeMap<String, Arc<IPPool>>,
    config: Arc<IPAMConfigSpec>,
    blocks: BTreeMap<IpNet, Arc<IPAMBlock>>,
    affinities: BTreeMap<String, Arc<BlockAffinity>>,
    handles: BTreeMap<String, Arc<IPAMHandle>>,
    unreadable: BTreeMap<Key, String>,
}

/// The key of a block.
pub fn block_key(cidr: IpNet) -> Key {
    Key::new(Kind::IPAMBlock, block_name(cidr))
}

/// The key of a handle.
pub fn handle_key(handle_id: &str) -> Key {
    Key::new(Kind::IPAMHandle, handle_id.to_lowercase())
}

/// The key of a node's claim on a block.
pub fn affinity_key(node: &str, cidr: IpNet) -> Key {
    Key::new(Kind::BlockAffinity, affinity_name(node, cidr))
}

/// The key of the rules for allocation.
pub fn config_key() -> Key {
    Key::new(Kind::IPAMConfig, "default")
}

impl View {
    /// A full view from a listing of [`KINDS`].
    pub fn full(listing: &Listing) -> Self {
        let mut view = Self {
            full: true,
            ..Self::default()
        };
        for item in &listing.items {
            view.put(item);
        }
        view
    }

    /// Whether every pool, block and affinity is in it.
    pub const fn is_full(&self) -> bool {
        self.full
    }

    /// Takes in what a read, a conflict or a watch says of a key.
    pub fn learn(&mut self, key: &Key, current: Option<&KeyValue>) {
        match current {
            Some(item) => self.put(item),
            None => self.remove(key),
        }
    }

    /// Takes in a change unless something newer is known.
    pub fn follow(&mut self, event: &WatchEvent) {
        match event {
            WatchEvent::Put(item) if self.is_older(&item.key, item.revision) => self.put(item),
            WatchEvent::Delete { key, revision } if self.is_older(key, *revision) => {
                self.remove(key);
            }
            WatchEvent::Put(_) | WatchEvent::Delete { .. } | WatchEvent::Progress(_) => {}
        }
    }

    fn is_older(&self, key: &Key, revision: Revision) -> bool {
        match self.revisions.get(key) {
            Some(Some(known)) => *known < revision,
            Some(None) | None => true,
        }
    }

    /// Keeps pools, configuration, handles that exist, and what is `node`'s.
    pub fn narrow(&mut self, node: &str) {
        self.full = false;
        let host = block::host_affinity(node);
        self.blocks
            .retain(|_, block| block.spec.affinity.as_deref() == Some(&host));
        self.affinities
            .retain(|_, affinity| is_of_node(affinity, node));
        let blocks: BTreeSet<String> = self.blocks.keys().map(|cidr| block_name(*cidr)).collect();
        let affinities = &self.affinities;
        self.revisions.retain(|key, revision| match key.kind {
            Kind::IPAMBlock => blocks.contains(&key.name),
            Kind::BlockAffinity => affinities.contains_key(&key.name),
            // One entry for each container that ever was would only grow.
            Kind::IPAMHandle => revision.is_some(),
            _ => true,
        });
        self.unreadable.clear();
    }

    /// Whether a change to `key` matters to a view that is not full.
    pub fn concerns(&self, node: &str, event: &WatchEvent) -> bool {
        let item = match event {
            WatchEvent::Put(item) => item,
            WatchEvent::Delete { key, .. } => return self.revisions.contains_key(key),
            WatchEvent::Progress(_) => return false,
        };
        if self.revisions.contains_key(&item.key) {
            return true;
        }
        match Object::decode(&item.key, &item.value) {
            Ok(Object::IPPool(_) | Object::IPAMConfig(_)) => true,
            Ok(Object::BlockAffinity(affinity)) => is_of_node(&affinity, node),
            Ok(Object::IPAMBlock(found)) => found.spec.affinity == Some(block::host_affinity(node)),
            _ => false,
        }
    }

    fn put(&mut self, item: &KeyValue) {
        self.remove(&item.key);
        self.revisions.insert(item.key.clone(), Some(item.revision));
        let name = item.key.name.clone();
        let problem = match Object::decode(&item.key, &item.value) {
            Err(error) => Some(error.message),
            Ok(Object::IPPool(pool)) => {
                self.pools.insert(name, Arc::new(pool));
                None
            }
            Ok(Object::IPAMConfig(config)) if item.key == config_key() => {
                self.config = Arc::new(config.spec);
                None
            }
            // Tombstones of Calico's Kubernetes store: the object is gone, its name is still taken at a revision.
            Ok(Object::IPAMBlock(found)) if found.spec.deleted => None,
            Ok(Object::BlockAffinity(found)) if found.spec.deleted == "true" => None,
            Ok(Object::IPAMHandle(found)) if found.spec.deleted => None,
            Ok(Object::IPAMBlock(found)) => {
                let problem = match block::fault(&found.spec) {
                    None if block_cidr(&name) != Some(found.spec.cidr) => {
                        Some(format!("cidr {} belongs to another name", found.spec.cidr))
                    }
                    other => other,
                };
                if problem.is_none() {
                    self.blocks.insert(found.spec.cidr, Arc::new(found));
                }
                problem
            }
            Ok(Object::BlockAffinity(found)) => {
                self.affinities.insert(name, Arc::new(found));
                None
            }
            Ok(Object::IPAMHandle(found)) => {
                self.handles.insert(name, Arc::new(found));
                None
            }
            Ok(_) => None,
        };
        if let Some(problem) = problem {
            self.unreadable.insert(item.key.clone(), problem);
        }
    }

    fn remove(&mut self, key: &Key) {
        self.revisions.insert(key.clone(), None);
        self.unreadable.remove(key);
        match key.kind {
            Kind::IPPool => {
                self.pools.remove(&key.name);
            }
            Kind::IPAMConfig if *key == config_key() => self.config = Arc::default(),
            // Only a block of its own name is kept: see `put`.
            Kind::IPAMBlock => {
                if let Some(cidr) = block_cidr(&key.name) {
                    self.blocks.remove(&cidr);
                }
            }
            Kind::BlockAffinity => {
                self.affinities.remove(&key.name);
            }
            Kind::IPAMHandle => {
                self.handles.remove(&key.name);
            }
            _ => {}
        }
    }

    /// What a write of `key` has to expect.
    pub fn expect(&self, key: &Key) -> Expect {
        match self.revisions.get(key) {
            Some(Some(revision)) => Expect::Revision(*revision),
            Some(None) | None => Expect::Absent,
        }
    }

    /// Pools in name order.
    pub fn pools(&self) -> impl Iterator<Item = &IPPool> {
        self.pools.values().map(AsRef::as_ref)
    }

    /// Rules for allocation.
    pub fn config(&self) -> &IPAMConfigSpec {
        &self.config
    }

    /// Readable blocks in address order.
    pub fn blocks(&self) -> impl Iterator<Item = (IpNet, &IPAMBlock)> {
        self.blocks
            .iter()
            .map(|(cidr, block)| (*cidr, block.as_ref()))
    }

    /// Affinities by name.
    pub fn affinities(&self) -> impl Iterator<Item = (&str, &BlockAffinity)> {
        self.affinities
            .iter()
            .map(|(name, affinity)| (name.as_str(), affinity.as_ref()))
    }

    /// A block.
    pub fn block(&self, cidr: IpNet) -> Known<'_, IPAMBlock> {
        self.state(&block_key(cidr), self.blocks.get(&cidr))
    }

    /// A handle.
    pub fn handle(&self, handle_id: &str) -> Known<'_, IPAMHandle> {
        let key = handle_key(handle_id);
        self.state(&key, self.handles.get(&key.name))
    }

    fn state<'a, T>(&'a self, key: &Key, found: Option<&'a Arc<T>>) -> Known<'a, T> {
        if let Some(found) = found {
            return Known::Present(found);
        }
        if let Some(problem) = self.unreadable.get(key) {
            return Known::Unreadable(problem);
        }
        let listed = self.full && KINDS.contains(&key.kind);
        if listed || self.revisions.contains_key(key) {
            Known::Absent
        } else {
            Known::Unknown
        }
    }
}

/// Whether `affinity` is `node`'s own.
pub fn is_of_node(affinity: &BlockAffinity, node: &str) -> bool {
    affinity.spec.node == node && affinity.spec.affinity_type == "host"
}
