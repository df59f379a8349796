//! In which order a draft's changes are written.
//!
//! ```text
//! 1  what is marked as deleted is deleted       (never written over: another may be about to delete it by its uid)
//! 2  affinities pending, or pending deletion
//! 3  blocks given up
//! 4  blocks made, taken over: one may lie over another that is given up
//! 5  pools and rules looked at once more (of blocks that are the node's, where that costs nothing); handles that gain
//! 6  affinities confirmed, or deleted; addresses taken and freed in blocks
//! 7  handles that lose; affinities confirmed of blocks that stood before: that they are the node's, 6 has shown
//! 8  companions: a pod's endpoint
//! ```
//! The steps of a stage may be done side by side: an address from a block that the node has costs two round trips, one
//! with a new block four. Whatever part of it is done, no address is given twice, none is held without its handle saying
//! so, and what is left is what Calico leaves after a crash: an affinity that is pending, a handle that counts too much.
//! The next draft repairs it.

use std::collections::BTreeMap;

use api::ipam::{AffinityState, BlockAffinity, IPAMBlock, IPAMHandle};
use api::key::{Key, Kind};
use api::object::Object;
use bytes::Bytes;
use datastore::plan::Plan;
use datastore::store::{Expect, Op};
use ipnet::IpNet;

use super::{Draft, Look};
use crate::view::{Known, View, block_key};

/// The stages that are being filled, by their numbers above.
struct Stages<'v> {
    view: &'v View,
    ops: [Vec<Op>; 7],
}

#[derive(Clone, Copy)]
enum Stage {
    Tombstones,
    PendingAffinities,
    ReleasedBlocks,
    ClaimedBlocks,
    /// What must hold, and be noted, before an address is given.
    Preconditions,
    /// What others see of the plan in the end.
    Effects,
    Last,
}

impl Stages<'_> {
    /// What the first write of `key` in this plan has to expect; a tombstone goes first.
    fn expect(&mut self, key: &Key) -> Expect {
        let expect = self.view.expect(key);
        if !self.view.is_tombstone(key) {
            return expect;
        }
        let key = key.clone();
        self.push(Stage::Tombstones, Op::Delete { key, expect });
        Expect::Absent
    }

    fn push(&mut self, stage: Stage, op: Op) {
        self.ops[stage as usize].push(op);
    }

    fn put(&mut self, stage: Stage, key: &Key, object: Object, expect: Expect) {
        let put = Op::Put {
            key: key.clone(),
            value: Bytes::from(object.encode()),
            expect,
        };
        self.push(stage, put);
    }

    fn delete(&mut self, stage: Stage, key: &Key, expect: Expect) {
        let key = key.clone();
        self.push(stage, Op::Delete { key, expect });
    }
}

impl Draft<'_> {
    /// The plan, for a store that folds plans or does them step by step; empty when nothing changes.
    pub(crate) fn into_plan(self, folds: bool) -> Plan {
        let mut stages = Stages {
            view: self.view,
            ops: Default::default(),
        };
        for (name, after) in &self.affinities {
            self.plan_affinity(&mut stages, name, after.as_ref());
        }
        for (cidr, after) in &self.blocks {
            self.plan_block(&mut stages, *cidr, after.as_ref());
        }
        for (name, after) in &self.handles {
            plan_handle(&mut stages, name, after.as_ref());
        }
        let looks = folds || self.look == Look::Always;
        if looks && stages.ops.iter().any(|ops| !ops.is_empty()) {
            for key in self.relied_on {
                let expect = self.view.expect(&key);
                stages.push(Stage::Preconditions, Op::Check { key, expect });
            }
        }
        let stages = stages.ops.into_iter().chain([self.beside]);
        Plan {
            stages: stages.filter(|ops| !ops.is_empty()).collect(),
        }
    }

    fn plan_affinity(&self, stages: &mut Stages<'_>, name: &str, after: Option<&BlockAffinity>) {
        let key = Key::new(Kind::BlockAffinity, name);
        let before = self
            .view
            .affinity(name)
            .map(|affinity| (affinity, affinity.spec.state));
        match (before, after) {
            (None, None) => {}
            (None, Some(after)) => {
                let expect = stages.expect(&key);
                stages.put(
                    Stage::PendingAffinities,
                    &key,
                    in_state(after, AffinityState::Pending),
                    expect,
                );
                let stage = self.confirming(after.spec.cidr);
                stages.put(stage, &key, confirmed(after), Expect::Own);
            }
            // One whose block is gone is as good as new: that it still stands is shown before the block is made again.
            (Some((_, state)), Some(after))
                if state == AffinityState::PendingDeletion
                    || (state == AffinityState::Confirmed
                        && self.made.contains_key(&after.spec.cidr)) =>
            {
                let expect = stages.expect(&key);
                stages.put(
                    Stage::PendingAffinities,
                    &key,
                    in_state(after, AffinityState::Pending),
                    expect,
                );
                let stage = self.confirming(after.spec.cidr);
                stages.put(stage, &key, confirmed(after), Expect::Own);
            }
            (Some(_), Some(after)) => {
                let expect = stages.expect(&key);
                let stage = self.confirming(after.spec.cidr);
                stages.put(stage, &key, confirmed(after), expect);
            }
            (Some((before, state)), None) => {
                let mut expect = stages.expect(&key);
                let gives_up = self.changes_owner(before.spec.cidr);
                if gives_up && state != AffinityState::PendingDeletion {
                    let leaving = in_state(before, AffinityState::PendingDeletion);
                    stages.put(Stage::PendingAffinities, &key, leaving, expect);
                    expect = Expect::Own;
                }
                stages.delete(Stage::Effects, &key, expect);
            }
        }
    }

    /// When a claim is confirmed: of a block that stood before, whoever's it was, after the last write that only succeeds if
    /// the block is the node's. Of one that this plan makes nobody knows yet.
    fn confirming(&self, cidr: IpNet) -> Stage {
        match self.view.block(cidr) {
            Known::Present(_) => Stage::Last,
            Known::Absent | Known::Unreadable(_) | Known::Unknown => Stage::Effects,
        }
    }

    /// Whether a block that stands becomes somebody else's, nobody's, or goes.
    fn changes_owner(&self, cidr: IpNet) -> bool {
        let (Known::Present(before), Some(after)) = (self.view.block(cidr), self.blocks.get(&cidr))
        else {
            return false;
        };
        after
            .as_ref()
            .is_none_or(|after| after.spec.affinity != before.spec.affinity)
    }

    fn plan_block(&self, stages: &mut Stages<'_>, cidr: IpNet, after: Option<&IPAMBlock>) {
        let key = block_key(cidr);
        let before = match self.view.block(cidr) {
            Known::Present(before) => Some(before),
            Known::Absent | Known::Unreadable(_) | Known::Unknown => None,
        };
        let taken_over = |before: &IPAMBlock, after: &IPAMBlock| {
            let mut owned = before.clone();
            owned.spec.affinity.clone_from(&after.spec.affinity);
            owned
                .spec
                .affinity_claim_time
                .clone_from(&after.spec.affinity_claim_time);
            owned.spec.sequence_number = after.spec.sequence_number;
            owned
        };
        let (owned, after) = match (before, after) {
            (None, None) => return,
            (Some(before), None) => {
                let stage = match before.spec.affinity {
                    Some(_) => Stage::ReleasedBlocks,
                    None => Stage::Effects,
                };
                let expect = stages.expect(&key);
                stages.delete(stage, &key, expect);
                return;
            }
            (None, Some(after)) => (self.made.get(&cidr).cloned(), after),
            (Some(before), Some(after)) if before.spec.affinity != after.spec.affinity => {
                (Some(taken_over(before, after)), after)
            }
            (Some(_), Some(after)) => (None, after),
        };
        let mut expect = stages.expect(&key);
        let mut after = after.clone();
        if let Some(owned) = owned {
            let is_all = owned.spec.allocations == after.spec.allocations;
            let number = owned.spec.sequence_number;
            let stage = match owned.spec.affinity {
                Some(_) => Stage::ClaimedBlocks,
                None => Stage::ReleasedBlocks,
            };
            stages.put(stage, &key, Object::IPAMBlock(owned), expect);
            if is_all {
                return;
            }
            expect = Expect::Own;
            after.spec.sequence_number = after.spec.sequence_number.max(number + 1);
        }
        stages.put(Stage::Effects, &key, Object::IPAMBlock(after), expect);
    }
}

fn in_state(affinity: &BlockAffinity, state: AffinityState) -> Object {
    let mut affinity = affinity.clone();
    affinity.spec.state = state;
    api::affinity::label(&mut affinity);
    Object::BlockAffinity(affinity)
}

fn confirmed(affinity: &BlockAffinity) -> Object {
    in_state(affinity, affinity.spec.state)
}

fn plan_handle(stages: &mut Stages<'_>, name: &str, after: Option<&IPAMHandle>) {
    let key = Key::new(Kind::IPAMHandle, name);
    let before = match stages.view.handle(name) {
        Known::Present(before) => Some(before.spec.block.clone()),
        Known::Absent | Known::Unreadable(_) | Known::Unknown => None,
    };
    let count = |counts: Option<&BTreeMap<String, u32>>, block: &String| {
        let counted = counts.and_then(|counts| counts.get(block));
        counted.copied().unwrap_or(0)
    };
    let gains = after.is_some_and(|after| {
        let mut counts = after.spec.block.iter();
        counts.any(|(block, after)| *after > count(before.as_ref(), block))
    });
    if let Some(after) = after.filter(|_| gains) {
        // What it loses it keeps until the blocks are written.
        let mut both = after.clone();
        for (block, known) in before.iter().flatten() {
            let counted = both.spec.block.entry(block.clone()).or_default();
            *counted = (*counted).max(*known);
        }
        let is_all = both.spec.block == after.spec.block;
        let expect = stages.expect(&key);
        stages.put(Stage::Preconditions, &key, Object::IPAMHandle(both), expect);
        if !is_all {
            let last = Object::IPAMHandle(after.clone());
            stages.put(Stage::Last, &key, last, Expect::Own);
        }
        return;
    }
    match after {
        // An earlier attempt that stopped half way wrote it.
        Some(after) if before.as_ref() == Some(&after.spec.block) => {}
        Some(after) => {
            let expect = stages.expect(&key);
            let last = Object::IPAMHandle(after.clone());
            stages.put(Stage::Last, &key, last, expect);
        }
        None => {
            let expect = stages.view.expect(&key);
            // Made and unmade in this draft.
            if expect != Expect::Absent {
                stages.delete(Stage::Last, &key, expect);
            }
        }
    }
}
