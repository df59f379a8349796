//! IPAM blocks and this node's affinities to them: who has which part of a pool.

use std::collections::{BTreeMap, BTreeSet};

use api::ipam::{AffinityState, BlockAffinitySpec, IPAMBlockSpec};
use api::key::Key;
use ipnet::IpNet;

use super::pool::Pools;
use super::problem::{Problem, Reason, Subject};

/// What the graph uses of an IPAMBlock object.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Block {
    range: IpNet,
    /// The node whose block it is.
    owner: Option<String>,
    /// Addresses held by nodes other than the owner.
    borrowed: BTreeMap<IpNet, String>,
}

impl Block {
    fn of(spec: &IPAMBlockSpec) -> Self {
        let range = spec.cidr.trunc();
        let owner = spec
            .affinity
            .as_deref()
            .and_then(|affinity| affinity.strip_prefix("host:"))
            .map(str::to_owned);
        let borrowed = spec
            .allocations
            .iter()
            .zip(addresses(range))
            .filter_map(|(slot, addr)| {
                let held = spec.attributes.get((*slot)?)?;
                // What cools down leads nowhere any more.
                let node = held
                    .secondary
                    .get("node")
                    .filter(|_| held.released_at().is_none())?;
                (owner.as_ref() != Some(node)).then(|| (addr, node.clone()))
            })
            .collect();
        Self {
            range,
            owner,
            borrowed,
        }
    }
}

/// Every address of a range, network and broadcast included.
pub(super) fn addresses(range: IpNet) -> Box<dyn Iterator<Item = IpNet>> {
    match range.subnets(range.max_prefix_len()) {
        Ok(addrs) => Box::new(addrs),
        Err(_) => Box::new(std::iter::empty()),
    }
}

/// All blocks, and the affinities of one node.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    by_key: BTreeMap<Key, Block>,
    by_range: BTreeMap<IpNet, BTreeSet<Key>>,
    /// Address → blocks that say another node than their owner has it.
    borrowed: BTreeMap<IpNet, BTreeSet<Key>>,
    /// Node → blocks it owns or has an address of.
    by_node: BTreeMap<String, BTreeSet<Key>>,
    affinities: BTreeMap<Key, (IpNet, AffinityState)>,
    affinities_by_range: BTreeMap<IpNet, BTreeSet<Key>>,
}

impl Blocks {
    /// All ranges that Kubernetes gave a node, in the place of IPAM's blocks; `is_own`: this node. Returns the prefixes for
    /// which something changed.
    pub(super) fn update_pod_cidrs(
        &mut self,
        node: &Key,
        ranges: &[IpNet],
        is_own: bool,
    ) -> BTreeSet<IpNet> {
        let key = |range: &IpNet| Key::new(node.kind, format!("{}: podCIDR {range}", node.name));
        let before = self.by_node.get(&node.name).into_iter().flatten();
        let before: Vec<Key> = before.cloned().collect();
        let gone = before
            .into_iter()
            .filter(|old| ranges.iter().all(|range| key(range) != *old));
        let mut touched = BTreeSet::new();
        for old in gone.collect::<Vec<Key>>() {
            touched.extend(self.update(&old, None));
            touched.extend(self.update_affinity(&old, None));
        }
        for range in ranges {
            let block = IPAMBlockSpec {
                affinity: Some(format!("host:{}", node.name)),
                ..IPAMBlockSpec::of_nobody(*range)
            };
            touched.extend(self.update(&key(range), Some(&block)));
            if is_own {
                let affinity = BlockAffinitySpec::confirmed(&node.name, *range);
                touched.extend(self.update_affinity(&key(range), Some(&affinity)));
            }
        }
        touched
    }

    /// Returns the prefixes for which something changed.
    pub(super) fn update(&mut self, key: &Key, spec: Option<&IPAMBlockSpec>) -> BTreeSet<IpNet> {
        let new = spec.filter(|spec| !spec.deleted).map(Block::of);
        let mut touched = BTreeSet::new();
        if self.by_key.get(key) == new.as_ref() {
            return touched;
        }
        if let Some(old) = self.by_key.remove(key) {
            unindex(&mut self.by_range, &old.range, key);
            for addr in old.borrowed.keys() {
                unindex(&mut self.borrowed, addr, key);
            }
            for node in old.owner.iter().chain(old.borrowed.values()) {
                unindex(&mut self.by_node, node, key);
            }
            touched.insert(old.range);
            touched.extend(old.borrowed.into_keys());
        }
        if let Some(new) = new {
            index(&mut self.by_range, new.range, key);
            for addr in new.borrowed.keys() {
                index(&mut self.borrowed, *addr, key);
            }
            for node in new.owner.iter().chain(new.borrowed.values()) {
                index(&mut self.by_node, node.clone(), key);
            }
            touched.insert(new.range);
            touched.extend(new.borrowed.keys().copied());
            self.by_key.insert(key.clone(), new);
        }
        let ranges: Vec<IpNet> = touched.iter().copied().collect();
        for range in ranges {
            touched.extend(self.overlapping(&range).map(|(_, block)| block.range));
        }
        touched
    }

    /// An affinity of this node, or one that is gone. Returns the ranges for which something changed.
    pub(super) fn update_affinity(
        &mut self,
        key: &Key,
        spec: Option<&BlockAffinitySpec>,
    ) -> Vec<IpNet> {
        let new = spec
            .filter(|spec| spec.deleted != "true")
            .map(|spec| (spec.cidr.trunc(), spec.state));
        if self.affinities.get(key) == new.as_ref() {
            return Vec::new();
        }
        let mut touched = Vec::new();
        if let Some((range, _)) = self.affinities.remove(key) {
            unindex(&mut self.affinities_by_range, &range, key);
            touched.push(range);
        }
        if let Some((range, state)) = new {
            index(&mut self.affinities_by_range, range, key);
            self.affinities.insert(key.clone(), (range, state));
            touched.push(range);
        }
        touched
    }

    fn block(&self, range: &IpNet) -> Option<&Block> {
        self.by_key.get(self.by_range.get(range)?.first()?)
    }

    /// The node that the block with exactly this range belongs to.
    pub(super) fn owner(&self, range: &IpNet) -> Option<&str> {
        self.block(range)?.owner.as_deref()
    }

    /// The smallest block that an address lies in, and whose it is.
    pub(super) fn owner_of_address(&self, addr: &IpNet) -> Option<(IpNet, &str)> {
        std::iter::successors(Some(*addr), IpNet::supernet)
            .find_map(|range| Some((range, self.owner(&range)?)))
    }

    /// The node that has an address although the address's block belongs to another node, or to none.
    pub(super) fn borrower(&self, addr: &IpNet) -> Option<&str> {
        let key = self.borrowed.get(addr)?.first()?;
        self.by_key.get(key)?.borrowed.get(addr).map(String::as_str)
    }

    /// Other blocks that share addresses with `range`.
    fn overlapping(&self, range: &IpNet) -> impl Iterator<Item = (&Key, &Block)> {
        let wider = std::iter::successors(range.supernet(), IpNet::supernet);
        let wider = wider.filter_map(|range| self.by_range.get(&range));
        let own = *range;
        let inside = self.by_range.range(super::dirty::inside(range));
        let inside = inside.filter(move |(range, _)| **range != own && own.contains(*range));
        wider
            .chain(inside.map(|(_, keys)| keys))
            .flatten()
            .filter_map(|key| Some((key, self.by_key.get(key)?)))
    }

    /// A block of another owner that shares addresses with this one of `node`: which of them may give out what cannot
    /// be known here.
    fn contested(&self, node: &str, range: &IpNet) -> Option<(&Key, &Block)> {
        let mut others = self.overlapping(range);
        others.find(|(_, other)| other.owner.as_deref() != Some(node))
    }

    /// The state of this node's affinity to a block that says itself that it is this node's, and that shares no address
    /// with a block of another.
    pub(super) fn affinity(&self, node: &str, range: &IpNet) -> Option<AffinityState> {
        let key = self.affinities_by_range.get(range)?.first()?;
        let (_, state) = self.affinities.get(key)?;
        let owned = self.is_local(node, range) && self.contested(node, range).is_none();
        owned.then_some(*state)
    }

    /// Whether the block with exactly this range is this node's to drop unused addresses of.
    pub(super) fn is_local(&self, node: &str, range: &IpNet) -> bool {
        self.owner(range) == Some(node)
    }

    /// This node's affinities without their block, and its blocks that overlap others: what is not announced as a whole.
    pub(super) fn problems(&self, node: &str) -> Vec<Problem> {
        let problem = |key: &Key, reason| Problem {
            subject: Subject::Object(key.clone()),
            field: "",
            reason,
        };
        let settled = |state: &AffinityState| *state != AffinityState::Pending;
        let affinities = self
            .affinities
            .iter()
            .filter(|(_, (_, state))| settled(state));
        let without = affinities.filter_map(|(key, (range, _))| match self.block(range) {
            None => Some(problem(key, Reason::NoBlock { range: *range })),
            Some(block) if block.owner.as_deref() != Some(node) => {
                let owner = block.owner.clone();
                Some(problem(key, Reason::BlockOfAnother { owner }))
            }
            Some(_) => None,
        });
        let own = self.by_node.get(node).into_iter().flatten();
        let overlaps = own.filter_map(|key| {
            let block = self.by_key.get(key)?;
            if block.owner.as_deref() != Some(node) {
                return None;
            }
            let (other, _) = self.contested(node, &block.range)?;
            Some(problem(
                key,
                Reason::Overlaps {
                    other: other.clone(),
                },
            ))
        });
        without.chain(overlaps).collect()
    }

    /// Whether the address lies in a block that this node announces as a whole.
    pub(super) fn is_aggregated(&self, node: &str, addr: &IpNet) -> bool {
        let mut range = *addr;
        while let Some(wider) = range.supernet() {
            if self.affinity(node, &wider) == Some(AffinityState::Confirmed) {
                return true;
            }
            range = wider;
        }
        false
    }

    /// Prefixes that a node's addresses decide about.
    pub(super) fn of_node(&self, node: &str) -> BTreeSet<IpNet> {
        self.by_node
            .get(node)
            .into_iter()
            .flatten()
            .filter_map(|key| self.by_key.get(key))
            .flat_map(|block| std::iter::once(block.range).chain(block.borrowed.keys().copied()))
            .collect()
    }

    /// Blocks with an affinity to this node that no pool covers.
    pub(super) fn own_without_pool<'a>(
        &'a self,
        pools: &'a Pools,
    ) -> impl Iterator<Item = &'a IpNet> {
        let ranges = self.affinities_by_range.keys();
        ranges.filter(|range| pools.covering(range).is_none())
    }

    pub(super) fn prefixes(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.by_range
            .keys()
            .chain(self.borrowed.keys())
            .chain(self.affinities_by_range.keys())
            .copied()
    }

    pub(super) fn prefixes_inside(&self, range: &IpNet) -> Vec<IpNet> {
        let span = super::dirty::inside(range);
        let blocks = self.by_range.range(span.clone()).map(|(prefix, _)| prefix);
        let borrowed = self.borrowed.range(span.clone()).map(|(prefix, _)| prefix);
        let affinities = self
            .affinities_by_range
            .range(span)
            .map(|(prefix, _)| prefix);
        blocks.chain(borrowed).chain(affinities).copied().collect()
    }
}

fn index<K: Ord>(index: &mut BTreeMap<K, BTreeSet<Key>>, at: K, key: &Key) {
    index.entry(at).or_default().insert(key.clone());
}

fn unindex<K: Ord>(index: &mut BTreeMap<K, BTreeSet<Key>>, at: &K, key: &Key) {
    if let Some(keys) = index.get_mut(at) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(at);
        }
    }
}
