//! What is known of the store: the ground a decision stands on.

mod lazy;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::ipam::{
    BlockAffinity, IPAMBlock, IPAMConfigSpec, IPAMHandle, IPReservation, affinity_name, block_cidr,
    block_name,
};
use api::key::{Key, Kind};
use api::object::Object;
use api::pool::IPPool;
use datastore::store::{Change, Expect, KeyValue};
use datastore::version::{Order, Version};
use ipnet::IpNet;

use crate::block;
use crate::reserved::Reserved;
use lazy::Lazy;

/// The kinds a full view is listed from, in the order in which they must be read.
///
/// Pools come first: a node that makes a block looks at its pool once more before it gives an address. If the pool still
/// was another one then, the block stood before the pool became what was read here, and so before blocks were listed.
/// That is how blocks of two sizes over the same addresses are kept apart without a transaction.
///
/// Claims come before blocks: a claim is confirmed once its block stands, so the block of a confirmed claim that is not among
/// the blocks that are read after it is gone, and not one that is being made.
pub const KINDS: [Kind; 5] = [
    Kind::IPPool,
    Kind::IPAMConfig,
    Kind::IPReservation,
    Kind::BlockAffinity,
    Kind::IPAMBlock,
];

/// Those of [`KINDS`] that nobody but IPAM needs: who watches for [`crate::Ipam::observe`] watches them, too.
pub const RULES: [Kind; 2] = [Kind::IPAMConfig, Kind::IPReservation];

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

/// How much of the store a view holds, besides all pools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// Blocks and affinities of one node.
    #[default]
    Own,
    /// The same, and which blocks there are.
    Names,
    /// Every block and affinity.
    All,
}

/// A part of the store, each object with its version.
///
/// Handles are known only as far as they were read or written. A view may be out of date: each write compares versions,
/// and a conflict brings the view up to date.
#[derive(Clone, Debug, Default)]
pub struct View {
    extent: Extent,
    /// Blocks of which only the name is known.
    named: BTreeSet<IpNet>,
    /// `None`: known not to exist.
    versions: BTreeMap<Key, Option<Version>>,
    /// Objects that are marked as deleted and still stand there.
    tombstones: BTreeSet<Key>,
    pools: BTreeMap<String, Arc<IPPool>>,
    config: Arc<IPAMConfigSpec>,
    reservations: BTreeMap<String, Arc<IPReservation>>,
    /// What these come to.
    reserved: Arc<Reserved>,
    blocks: BTreeMap<IpNet, Lazy<IPAMBlock>>,
    affinities: BTreeMap<String, Lazy<BlockAffinity>>,
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
    /// A full view from the objects of [`KINDS`], read in that order.
    pub fn full<'a>(items: impl IntoIterator<Item = &'a KeyValue>) -> Self {
        let mut view = Self::default();
        for item in items {
            view.insert(item);
        }
        view.extent = Extent::All;
        view
    }

    /// How much is in it.
    pub const fn extent(&self) -> Extent {
        self.extent
    }

    /// Takes in what a read, a conflict or a watch says of a key.
    pub fn learn(&mut self, key: &Key, current: Option<&KeyValue>) {
        match (current, self.versions.get(key)) {
            // Known as it is: a pool must not count as changed.
            (Some(item), Some(Some(known))) if item.version == *known => {}
            (None, Some(None)) => {}
            (Some(item), _) => self.put(item),
            (None, _) => self.remove(key),
        }
    }

    /// Takes over what `other` knows of handles, which are not listed.
    pub fn adopt_handles(&mut self, other: &Self) {
        let is_handle = |key: &Key| key.kind == Kind::IPAMHandle;
        for (key, version) in other.versions.iter().filter(|(key, _)| is_handle(key)) {
            self.versions.insert(key.clone(), version.clone());
            if other.tombstones.contains(key) {
                self.tombstones.insert(key.clone());
            }
            if let Some(handle) = other.handles.get(&key.name) {
                self.handles.insert(key.name.clone(), Arc::clone(handle));
            }
            if let Some(problem) = other.unreadable.get(key) {
                self.unreadable.insert(key.clone(), problem.clone());
            }
        }
    }

    /// Takes in a change unless something newer is known.
    pub fn follow(&mut self, change: &Change) {
        if self.is_news(change.key(), change.version()) {
            match change {
                Change::Put(item) => self.put(item),
                Change::Delete { key, .. } => self.remove(key),
            }
        }
    }

    fn is_news(&self, key: &Key, version: &Version) -> bool {
        match self.versions.get(key) {
            Some(Some(known)) => matches!(version.order(known), Order::Newer | Order::Unknown),
            Some(None) | None => true,
        }
    }

    /// Keeps pools, configuration, handles that exist, what is `node`'s, and blocks that lie over its own.
    pub fn narrow(&mut self, node: &str) {
        self.extent = Extent::Own;
        let host = block::host_affinity(node);
        let own: BTreeSet<IpNet> = self.blocks_of(&host).map(|(cidr, _)| cidr).collect();
        let lies_over = |cidr: &IpNet| own.iter().any(|own| share(*own, *cidr));
        self.blocks.retain(|cidr, _| lies_over(cidr));
        self.named.retain(|cidr| lies_over(cidr));
        for (cidr, block) in &mut self.blocks {
            block.shrink(|| block_key(*cidr));
        }
        self.affinities
            .retain(|name, affinity| of_node(name, affinity, node).is_some());
        for (name, affinity) in &mut self.affinities {
            affinity.shrink(|| Key::new(Kind::BlockAffinity, name.clone()));
        }
        let blocks: BTreeSet<String> = self.blocks.keys().map(|cidr| block_name(*cidr)).collect();
        let affinities = &self.affinities;
        self.versions.retain(|key, version| match key.kind {
            Kind::IPAMBlock => blocks.contains(&key.name),
            Kind::BlockAffinity => affinities.contains_key(&key.name),
            // One entry for each container that ever was would only grow.
            Kind::IPAMHandle => version.is_some(),
            _ => true,
        });
        let versions = &self.versions;
        self.tombstones.retain(|key| versions.contains_key(key));
        self.unreadable.clear();
    }

    /// Whether a change to `key` matters to a view that is not full.
    pub fn concerns(&self, node: &str, change: &Change) -> bool {
        if self.versions.contains_key(change.key()) {
            return true;
        }
        let Change::Put(item) = change else {
            return false;
        };
        if let Some(cidr) = block_cidr(&item.key.name)
            && item.key.kind == Kind::IPAMBlock
            && self.blocks.keys().any(|own| share(*own, cidr))
        {
            return true;
        }
        match Object::decode(&item.key, &item.value) {
            Ok(Object::IPPool(_) | Object::IPAMConfig(_) | Object::IPReservation(_)) => true,
            Ok(Object::BlockAffinity(affinity)) => is_of_node(&affinity, node),
            Ok(Object::IPAMBlock(found)) => found.spec.affinity == Some(block::host_affinity(node)),
            _ => false,
        }
    }

    fn put(&mut self, item: &KeyValue) {
        self.remove(&item.key);
        self.insert(item);
    }

    /// Takes in an object of which nothing is known.
    fn insert(&mut self, item: &KeyValue) {
        let version = item.version.clone();
        self.versions.insert(item.key.clone(), Some(version));
        let name = item.key.name.clone();
        match item.key.kind {
            Kind::IPAMBlock if let Some(cidr) = block_cidr(&name) => {
                self.named.remove(&cidr);
                let block = Lazy::new(item.value.clone());
                if !block.may_be_tombstone() {
                    self.blocks.insert(cidr, block);
                    return;
                }
            }
            Kind::BlockAffinity => {
                let affinity = Lazy::new(item.value.clone());
                if !affinity.may_be_tombstone() {
                    self.affinities.insert(name, affinity);
                    return;
                }
            }
            _ => {}
        }
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
            Ok(Object::IPReservation(reservation)) => {
                self.reservations.insert(name, Arc::new(reservation));
                self.sum_reservations();
                None
            }
            Ok(object) if is_tombstone(&object) => {
                self.tombstones.insert(item.key.clone());
                None
            }
            Ok(Object::IPAMBlock(_)) => match block_cidr(&name) {
                Some(cidr) => {
                    self.blocks.insert(cidr, Lazy::new(item.value.clone()));
                    None
                }
                None => Some("its name is no block's".to_owned()),
            },
            Ok(Object::BlockAffinity(_)) => {
                self.affinities.insert(name, Lazy::new(item.value.clone()));
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
        self.versions.insert(key.clone(), None);
        self.unreadable.remove(key);
        self.tombstones.remove(key);
        match key.kind {
            Kind::IPPool => {
                // Blocks must be listed after it was read: see `KINDS`.
                self.extent = Extent::Own;
                self.pools.remove(&key.name);
            }
            Kind::IPAMConfig if *key == config_key() => self.config = Arc::default(),
            Kind::IPReservation if self.reservations.remove(&key.name).is_some() => {
                self.sum_reservations();
            }
            // Only a block of its own name is kept: see `put`.
            Kind::IPAMBlock => {
                if let Some(cidr) = block_cidr(&key.name) {
                    self.blocks.remove(&cidr);
                    self.named.remove(&cidr);
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

    fn sum_reservations(&mut self) {
        let all = self.reservations.values();
        let ranges = all.flat_map(|reservation| reservation.spec.ranges());
        self.reserved = Arc::new(Reserved::of(ranges));
    }

    /// Takes over the reservations that `other` knows.
    pub fn adopt_reservations(&mut self, other: &Self) {
        self.reservations.clone_from(&other.reservations);
        self.reserved = Arc::clone(&other.reserved);
        let is_one = |key: &Key| key.kind == Kind::IPReservation;
        for (key, version) in other.versions.iter().filter(|(key, _)| is_one(key)) {
            self.versions.insert(key.clone(), version.clone());
        }
    }

    /// The versions of all objects of a kind that are known to stand: what is read anew must not be older.
    pub(crate) fn seen(&self, kind: Kind) -> Vec<Version> {
        let of_kind = self.versions.iter().filter(|(key, _)| key.kind == kind);
        of_kind.filter_map(|(_, version)| version.clone()).collect()
    }

    /// What a write of `key` has to expect.
    pub fn expect(&self, key: &Key) -> Expect {
        match self.versions.get(key) {
            Some(Some(version)) => Expect::Version(version.clone()),
            Some(None) | None => Expect::Absent,
        }
    }

    /// Every key of which something is remembered.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.versions.keys()
    }

    /// Whether the object counts as deleted and its name is still taken.
    pub fn is_tombstone(&self, key: &Key) -> bool {
        self.tombstones.contains(key)
    }

    /// Pools in name order.
    pub fn pools(&self) -> impl Iterator<Item = &IPPool> {
        self.pools.values().map(AsRef::as_ref)
    }

    /// Rules for allocation.
    pub fn config(&self) -> &IPAMConfigSpec {
        &self.config
    }

    /// Addresses that only who asks for them by name is given.
    pub fn reserved(&self) -> &Reserved {
        &self.reserved
    }

    /// How many blocks and affinities were decoded.
    #[cfg(test)]
    pub(crate) fn decoded(&self) -> usize {
        let blocks = self.blocks.values().filter(|block| block.is_decoded());
        let affinities = self.affinities.values().filter(|found| found.is_decoded());
        blocks.count() + affinities.count()
    }

    /// Readable blocks in address order. Decodes all of them.
    pub fn blocks(&self) -> impl Iterator<Item = (IpNet, &IPAMBlock)> {
        self.blocks
            .iter()
            .filter_map(|(cidr, block)| Some((*cidr, block.get(|| block_key(*cidr)).ok()?)))
    }

    /// The ranges of all blocks that are known to stand there, also of those that were not or cannot be read.
    pub fn block_cidrs(&self) -> impl Iterator<Item = IpNet> {
        self.blocks.keys().chain(&self.named).copied()
    }

    /// Readable blocks with this affinity (`host:<node>`), in address order.
    pub fn blocks_of(&self, host: &str) -> impl Iterator<Item = (IpNet, &IPAMBlock)> {
        self.blocks
            .iter()
            .filter_map(move |(cidr, block)| Some((*cidr, owned(*cidr, block, host)?)))
    }

    /// Whether a block stands at `cidr` that surely has another affinity than `host` (`host:<node>`).
    pub fn is_foreign(&self, cidr: IpNet, host: &str) -> bool {
        let block = self.blocks.get(&cidr);
        block.is_some_and(|block| owned(cidr, block, host).is_none())
    }

    /// The affinities of `node` by name.
    pub fn affinities_of(&self, node: &str) -> impl Iterator<Item = (&str, &BlockAffinity)> {
        self.affinities.iter().filter_map(move |(name, affinity)| {
            Some((name.as_str(), of_node(name, affinity, node)?))
        })
    }

    /// Claims of `node` on blocks that are not its own, by name, each with its version.
    pub fn lone_claims(&self, node: &str) -> Vec<(String, IpNet, Version)> {
        let host = block::host_affinity(node);
        let own: BTreeSet<IpNet> = self.blocks_of(&host).map(|(cidr, _)| cidr).collect();
        let lone = self.affinities_of(node).filter_map(|(name, claim)| {
            let key = Key::new(Kind::BlockAffinity, name);
            let version = self.versions.get(&key)?.clone()?;
            let cidr = claim.spec.cidr;
            (!own.contains(&cidr)).then(|| (name.to_owned(), cidr, version))
        });
        lone.collect()
    }

    /// Whether an object was read or written, whether it stands or not.
    pub fn was_looked_at(&self, key: &Key) -> bool {
        self.versions.contains_key(key)
    }

    /// An affinity that stands in the view, by name.
    pub fn affinity(&self, name: &str) -> Option<&BlockAffinity> {
        let key = || Key::new(Kind::BlockAffinity, name);
        self.affinities.get(name)?.get(key).ok()
    }

    /// A block.
    pub fn block(&self, cidr: IpNet) -> Known<'_, IPAMBlock> {
        match self.blocks.get(&cidr) {
            Some(block) => match block.get(|| block_key(cidr)) {
                Ok(found) => Known::Present(found),
                Err(problem) => Known::Unreadable(problem),
            },
            None if self.named.contains(&cidr) => Known::Unknown,
            None => self.state(&block_key(cidr), None),
        }
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
        let listed = match key.kind {
            Kind::IPAMHandle => false,
            Kind::BlockAffinity => self.extent == Extent::All,
            _ => self.extent >= Extent::Names,
        };
        if listed || self.versions.contains_key(key) {
            Known::Absent
        } else {
            Known::Unknown
        }
    }
}

/// The block if its affinity is `host`.
fn owned<'a>(cidr: IpNet, block: &'a Lazy<IPAMBlock>, host: &str) -> Option<&'a IPAMBlock> {
    let found = block.may_hold(host).then(|| block.get(|| block_key(cidr)));
    let found = found?.ok()?;
    (found.spec.affinity.as_deref() == Some(host)).then_some(found)
}

/// Whether two ranges have addresses in common.
pub fn share(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

/// The affinity if it is `node`'s own.
fn of_node<'a>(
    name: &str,
    affinity: &'a Lazy<BlockAffinity>,
    node: &str,
) -> Option<&'a BlockAffinity> {
    let key = || Key::new(Kind::BlockAffinity, name);
    let found = affinity.may_hold(node).then(|| affinity.get(key))?.ok()?;
    is_of_node(found, node).then_some(found)
}

/// Whether Calico's Kubernetes store marked it as deleted, on the way to deleting it.
pub(crate) fn is_tombstone(object: &Object) -> bool {
    match object {
        Object::IPAMBlock(found) => found.spec.deleted,
        Object::BlockAffinity(found) => found.spec.deleted == "true",
        Object::IPAMHandle(found) => found.spec.deleted,
        _ => false,
    }
}

/// Whether `affinity` is `node`'s own.
pub fn is_of_node(affinity: &BlockAffinity, node: &str) -> bool {
    affinity.spec.node == node && affinity.spec.affinity_type == "host"
}
