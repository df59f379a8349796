//! Changes laid over a view, until they are written as one plan.

mod stages;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::ipam::{
    AffinityState, BlockAffinity, BlockAffinitySpec, IPAMBlock, IPAMBlockSpec, IPAMHandle,
    IPAMHandleSpec,
};
use api::key::{Key, Kind};
use api::metadata::Resource;
use datastore::store::{KeyValue, Op};
use ipnet::IpNet;
use serde_json::Map;

use crate::companion::RefusedKeys;
use crate::cooldown::Cooldown;
use crate::plan::Halt;
use crate::time::Timestamp;
use crate::view::{self, Known, View, affinity_key, block_key, config_key, handle_key, is_of_node};

/// A view and the changes decided so far; `None` deletes.
pub(crate) struct Draft<'v> {
    view: &'v View,
    cooldown: Cooldown,
    /// Ranges that may be others' although nothing says so.
    doubtful: &'v [IpNet],
    blocks: BTreeMap<IpNet, Option<IPAMBlock>>,
    /// Blocks that this draft makes, as they are before an address is taken.
    made: BTreeMap<IpNet, IPAMBlock>,
    affinities: BTreeMap<String, Option<BlockAffinity>>,
    handles: BTreeMap<String, Option<IPAMHandle>>,
    /// What else the decision rests on: it must not have changed when the changes are written.
    relied_on: BTreeSet<Key>,
    /// Whether that is looked at again in any case.
    look: Look,
    /// What is written last, of objects that are not IPAM's.
    beside: Vec<Op>,
    refused: &'v RefusedKeys,
}

/// Nothing was refused.
static NONE_REFUSED: RefusedKeys = RefusedKeys::new();

/// Whether pool and rules are looked at again before an address is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Look {
    /// Where the plan is one transaction, in which a look costs nothing.
    IfFree,
    /// In every store: otherwise blocks could come to lie over each other.
    Always,
}

impl<'v> Draft<'v> {
    pub(crate) fn new(view: &'v View, doubtful: &'v [IpNet], now: Timestamp) -> Self {
        Self {
            view,
            cooldown: Cooldown::of(view.config(), now),
            doubtful,
            blocks: BTreeMap::new(),
            made: BTreeMap::new(),
            affinities: BTreeMap::new(),
            handles: BTreeMap::new(),
            relied_on: BTreeSet::new(),
            look: Look::IfFree,
            beside: Vec::new(),
            refused: &NONE_REFUSED,
        }
    }

    /// Companions that the store has refused are left out.
    pub(crate) fn without(self, refused: &'v RefusedKeys) -> Self {
        Self { refused, ..self }
    }

    /// What stands in the place of a companion that was refused; `None` for one that was not.
    pub(crate) fn refused(&self, key: &Key) -> Option<&'v Option<KeyValue>> {
        self.refused.get(key)
    }

    /// Lays a companion over the view; whether it is the first one about its object.
    pub(crate) fn lay_beside(&mut self, op: Op) -> bool {
        let is_first = self.beside.iter().all(|other| other.key() != op.key());
        if is_first {
            self.beside.push(op);
        }
        is_first
    }

    /// The objects of all companions.
    pub(crate) fn companions(&self) -> BTreeSet<Key> {
        self.beside.iter().map(|op| op.key().clone()).collect()
    }

    pub(crate) const fn view(&self) -> &'v View {
        self.view
    }

    pub(crate) const fn cooldown(&self) -> Cooldown {
        self.cooldown
    }

    pub(crate) fn rely_on_pool(&mut self, name: &str, look: Look) {
        self.look = self.look.max(look);
        self.relied_on.insert(Key::new(Kind::IPPool, name));
        self.relied_on.insert(config_key());
    }

    /// What a block does not have must not be there when the changes are written.
    pub(crate) fn rely_on_block(&mut self, cidr: IpNet) {
        self.look = Look::Always;
        self.relied_on.insert(block_key(cidr));
    }

    pub(crate) fn block(&self, cidr: IpNet) -> Known<'_, IPAMBlock> {
        match self.blocks.get(&cidr) {
            Some(Some(block)) => Known::Present(block),
            Some(None) => Known::Absent,
            None => self.view.block(cidr),
        }
    }

    pub(crate) fn handle(&self, handle_id: &str) -> Known<'_, IPAMHandle> {
        match self.handles.get(&handle_key(handle_id).name) {
            Some(Some(handle)) => Known::Present(handle),
            Some(None) => Known::Absent,
            None => self.view.handle(handle_id),
        }
    }

    /// The ranges of all blocks, in no order, of those that cannot be read as well: nothing is decoded.
    pub(crate) fn block_cidrs(&self) -> impl Iterator<Item = IpNet> {
        let unchanged = self
            .view
            .block_cidrs()
            .filter(|cidr| !self.blocks.contains_key(cidr));
        let changed = self.blocks.iter().filter(|(_, block)| block.is_some());
        unchanged.chain(changed.map(|(cidr, _)| *cidr))
    }

    /// The readable block that holds `address`: of several the first. One that may hold it must be read first.
    pub(crate) fn block_with(&self, address: IpAddr) -> Result<Option<(IpNet, &IPAMBlock)>, Halt> {
        let with = |cidr: &IpNet| cidr.contains(&address);
        let unread = |cidr: &IpNet| matches!(self.block(*cidr), Known::Unknown);
        match self.block_cidrs().filter(with).find(unread) {
            Some(unread) => Err(Halt::Read(block_key(unread))),
            None => Ok(self.first_readable(with)),
        }
    }

    /// The readable blocks with this affinity (`host:<node>`).
    pub(crate) fn blocks_of(&self, host: &str) -> impl Iterator<Item = (IpNet, &IPAMBlock)> {
        let unchanged = self
            .view
            .blocks_of(host)
            .filter(|(cidr, _)| !self.blocks.contains_key(cidr));
        let changed = self
            .blocks
            .iter()
            .filter_map(|(cidr, block)| Some((*cidr, block.as_ref()?)))
            .filter(move |(_, block)| block.spec.affinity.as_deref() == Some(host));
        unchanged.chain(changed)
    }

    /// Whether a block stands at `cidr` that surely has another affinity than `host` (`host:<node>`).
    pub(crate) fn is_foreign(&self, cidr: IpNet, host: &str) -> bool {
        !self.blocks.contains_key(&cidr) && self.view.is_foreign(cidr, host)
    }

    fn first_readable(&self, wanted: impl Fn(&IpNet) -> bool) -> Option<(IpNet, &IPAMBlock)> {
        let cidrs: BTreeSet<IpNet> = self.block_cidrs().filter(wanted).collect();
        cidrs.into_iter().find_map(|cidr| match self.block(cidr) {
            Known::Present(found) => Some((cidr, found)),
            Known::Absent | Known::Unreadable(_) | Known::Unknown => None,
        })
    }

    /// Every readable block, in address order: all are decoded.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (IpNet, &IPAMBlock)> {
        let unchanged = self
            .view
            .blocks()
            .filter(|(cidr, _)| !self.blocks.contains_key(cidr));
        let changed = self
            .blocks
            .iter()
            .filter_map(|(cidr, block)| Some((*cidr, block.as_ref()?)));
        let all: BTreeMap<IpNet, &IPAMBlock> = unchanged.chain(changed).collect();
        all.into_iter()
    }

    /// Whether others may have addresses of `cidr` although nothing says so.
    pub(crate) fn is_doubtful(&self, cidr: IpNet) -> bool {
        let shared = |range: &IpNet| range.contains(&cidr) || cidr.contains(range);
        self.doubtful.iter().any(shared)
    }

    /// Another block than that of `cidr` that shares addresses with it.
    pub(crate) fn shared_with(&self, cidr: IpNet) -> Option<IpNet> {
        let shared = |other: &IpNet| *other != cidr && view::share(cidr, *other);
        self.block_cidrs().find(shared)
    }

    /// Whether there is one.
    pub(crate) fn is_shared(&self, cidr: IpNet) -> bool {
        self.shared_with(cidr).is_some()
    }

    /// A block that shares addresses with `cidr`, which is no block itself: of several the first.
    pub(crate) fn overlapping(&self, cidr: IpNet) -> Option<IpNet> {
        let shared = |other: &IpNet| other.contains(&cidr) || cidr.contains(other);
        self.block_cidrs().filter(shared).min()
    }

    /// The affinities of `node`, by name.
    pub(crate) fn affinities_of(&self, node: &str) -> Vec<(String, BlockAffinitySpec)> {
        let unchanged = self
            .view
            .affinities_of(node)
            .filter(|(name, _)| !self.affinities.contains_key(*name));
        let changed = self
            .affinities
            .iter()
            .filter_map(|(name, affinity)| Some((name.as_str(), affinity.as_ref()?)));
        let mut found: Vec<_> = unchanged
            .chain(changed)
            .filter(|(_, affinity)| is_of_node(affinity, node))
            .map(|(name, affinity)| (name.to_owned(), affinity.spec.clone()))
            .collect();
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        found
    }

    /// Whether `node`'s claim on a block was finished before this draft.
    pub(crate) fn is_confirmed(&self, node: &str, cidr: IpNet) -> bool {
        let mut claims = self.view.affinities_of(node);
        claims.any(|(name, affinity)| {
            let is_finished = affinity.spec.state == AffinityState::Confirmed;
            affinity.spec.cidr == cidr && is_finished && !self.affinities.contains_key(name)
        })
    }

    /// Changes a block that is there; what has cooled down in it is free.
    pub(crate) fn edit_block(&mut self, cidr: IpNet) -> Option<&mut IPAMBlockSpec> {
        if !self.blocks.contains_key(&cidr) {
            let Known::Present(block) = self.view.block(cidr) else {
                return None;
            };
            let mut block = block.clone();
            block.spec.sequence_number += 1;
            self.cooldown.sweep(&mut block.spec);
            self.blocks.insert(cidr, Some(block));
        }
        self.blocks
            .get_mut(&cidr)?
            .as_mut()
            .map(|block| &mut block.spec)
    }

    /// Makes a block that is not there.
    pub(crate) fn make_block(&mut self, spec: IPAMBlockSpec) {
        let cidr = spec.cidr;
        let mut block = Resource::new(&block_key(cidr), spec);
        self.made.insert(cidr, block.clone());
        block.spec.sequence_number += 1;
        self.blocks.insert(cidr, Some(block));
    }

    pub(crate) fn delete_block(&mut self, cidr: IpNet) {
        self.blocks.insert(cidr, None);
    }

    /// A claim of `node` on a block, as it is written first.
    pub(crate) fn pending_affinity(node: &str, cidr: IpNet) -> BlockAffinity {
        let spec = BlockAffinitySpec {
            state: AffinityState::Pending,
            node: node.to_owned(),
            cidr,
            affinity_type: "host".to_owned(),
            deleted: "false".to_owned(),
            extra: Map::new(),
        };
        let mut affinity = Resource::new(&affinity_key(node, cidr), spec);
        api::affinity::label(&mut affinity);
        affinity
    }

    /// Makes `node`'s claim on a block a confirmed one. One that is confirmed already stays unless the block is to be made: then it is
    /// written all the same, as whoever took the block away may be taking away the claim, too.
    pub(crate) fn confirm_affinity(&mut self, node: &str, cidr: IpNet) {
        let is_made = !matches!(self.block(cidr), Known::Present(_));
        let stored = self
            .view
            .affinities_of(node)
            .find(|(_, affinity)| affinity.spec.cidr == cidr)
            .map(|(name, affinity)| (name.to_owned(), affinity.clone()));
        let (name, affinity) = match stored {
            Some((name, affinity)) if !self.affinities.contains_key(&name) => {
                if affinity.spec.state == AffinityState::Confirmed && !is_made {
                    return;
                }
                let mut affinity = affinity;
                affinity.spec.state = AffinityState::Confirmed;
                (name, affinity)
            }
            _ => {
                let mut affinity = Self::pending_affinity(node, cidr);
                affinity.spec.state = AffinityState::Confirmed;
                (affinity_key(node, cidr).name, affinity)
            }
        };
        self.affinities.insert(name, Some(affinity));
    }

    pub(crate) fn delete_affinity(&mut self, name: &str) {
        self.affinities.insert(name.to_owned(), None);
    }

    /// Writes which blocks a handle has addresses in; without any the handle goes.
    pub(crate) fn set_handle(&mut self, handle_id: &str, counts: BTreeMap<String, u32>) {
        let key = handle_key(handle_id);
        if counts.is_empty() {
            self.handles.insert(key.name, None);
            return;
        }
        let handle = match self.handle(handle_id) {
            Known::Present(handle) => {
                let mut handle = handle.clone();
                handle.spec.block = counts;
                handle
            }
            Known::Absent | Known::Unknown | Known::Unreadable(_) => Resource::new(
                &key,
                IPAMHandleSpec {
                    handle_id: handle_id.to_owned(),
                    block: counts,
                    deleted: false,
                    extra: Map::new(),
                },
            ),
        };
        self.handles.insert(key.name, Some(handle));
    }
}
