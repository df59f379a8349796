//! A view of which blocks there are, without the blocks: what the claim of a free one needs of others.
//!
//! A cluster of many nodes has thousands of blocks, each with what it says of its addresses. Where a free range is, and that
//! nothing lies over it, their names say.

use std::collections::BTreeSet;

use api::ipam::{affinity_cidr, block_cidr};
use api::key::{Key, Kind};
use datastore::store::KeyValue;
use ipnet::IpNet;

use super::{Extent, View, block_key};

impl View {
    /// A view of the names in `blocks` and `affinities`, with `node`'s objects and the reservations as `known` has them, and pools
    /// and rules from `listed`, which were read before the names: see [`super::KINDS`]. Answers too which of the node's affinities `known`
    /// lacks: they are to be read.
    pub fn named<'a>(
        listed: impl IntoIterator<Item = &'a KeyValue>,
        blocks: &[Key],
        affinities: &[Key],
        known: &Self,
        node: &str,
    ) -> (Self, Vec<Key>) {
        let mut view = Self::full(listed);
        view.extent = Extent::Names;
        view.adopt_handles(known);
        view.adopt_reservations(known);
        let mut cidrs: BTreeSet<IpNet> = blocks
            .iter()
            .filter_map(|key| block_cidr(&key.name))
            .collect();
        for (cidr, block) in &known.blocks {
            let key = block_key(*cidr);
            if cidrs.remove(cidr)
                && let Some(version) = known.versions.get(&key)
            {
                view.versions.insert(key, version.clone());
                view.blocks.insert(*cidr, block.clone());
            }
        }
        view.named = cidrs;
        let mut missing = Vec::new();
        for key in affinities.iter().filter(|key| may_be_of(key, node)) {
            let found = known.affinities.get(&key.name);
            match (found, known.versions.get(key)) {
                (Some(affinity), Some(version)) => {
                    view.versions.insert(key.clone(), version.clone());
                    view.affinities.insert(key.name.clone(), affinity.clone());
                }
                _ => missing.push(key.clone()),
            }
        }
        (view, missing)
    }
}

/// Whether this is the name of an affinity of `node`'s; it may be one of another node whose name begins alike.
fn may_be_of(key: &Key, node: &str) -> bool {
    key.kind == Kind::BlockAffinity && affinity_cidr(node, &key.name).is_some()
}
