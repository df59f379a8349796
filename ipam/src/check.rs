//! Whether stored addresses make sense together. For tests, simulation and `tortiectl`.

use std::collections::{BTreeMap, BTreeSet};

use api::ipam::{AffinityState, BlockAffinitySpec, IPAMBlockSpec};
use api::key::Key;
use api::object::Object;
use datastore::store::KeyValue;
use ipnet::IpNet;

use crate::block::{self, first, last};
use crate::view::{block_key, handle_key};

/// Something that must never be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The object it was found in.
    pub key: Key,
    /// What is wrong.
    pub what: String,
}

/// What is found in a listing, by kind.
#[derive(Default)]
struct Found {
    blocks: BTreeMap<IpNet, IPAMBlockSpec>,
    affinities: Vec<(Key, BlockAffinitySpec)>,
    /// Handle in lower case → block → count.
    handles: BTreeMap<String, BTreeMap<String, u32>>,
    looked: Looked,
}

/// Everything that a listing says of itself.
#[derive(Debug, Default)]
pub struct Looked {
    /// See [`faults`].
    pub faults: Vec<Fault>,
    /// What some writer left half done: harmless, and put right by the next one that comes by it. An object that is marked as
    /// deleted; an affinity that is not confirmed, or has no block; a block whose owner has no affinity for it; a handle that
    /// counts more addresses than blocks have of it.
    pub leftovers: Vec<Fault>,
}

impl Looked {
    fn left(&mut self, key: Key, what: String) {
        self.leftovers.push(Fault { key, what });
    }
}

/// Looks for contradictions among blocks, affinities and handles of one listing, and for what was left half done.
pub fn look(items: &[KeyValue]) -> Looked {
    let mut found = Found::of(items);
    found.check_blocks();
    found.check_claims();
    found.look_for_lone_claims();
    found.look_for_lone_blocks();
    found.look_for_high_counts();
    found.looked
}

/// Looks for contradictions among blocks, affinities and handles of one listing.
///
/// Not faults, because a crash of any writer leaves them: an affinity without a block, or one that is not confirmed, a
/// handle with a higher count than addresses. Faults: a block that contradicts itself or overlaps another, two confirmed
/// claims on one block, a confirmed claim on somebody else's block, an address whose handle does not count it.
pub fn faults(items: &[KeyValue]) -> Vec<Fault> {
    let mut found = Found::of(items);
    found.check_blocks();
    found.check_claims();
    found.looked.faults
}

impl Found {
    fn of(items: &[KeyValue]) -> Self {
        let mut found = Self::default();
        for item in items {
            found.sort_in(item);
        }
        found
    }

    fn sort_in(&mut self, item: &KeyValue) {
        match Object::decode(&item.key, &item.value) {
            Ok(Object::IPAMBlock(block)) if !block.spec.deleted => {
                self.blocks.insert(block.spec.cidr, block.spec);
            }
            Ok(Object::BlockAffinity(affinity)) if affinity.spec.deleted != "true" => {
                self.affinities.push((item.key.clone(), affinity.spec));
            }
            Ok(Object::IPAMHandle(handle)) if !handle.spec.deleted => {
                let name = handle.spec.handle_id.to_lowercase();
                self.handles.insert(name, handle.spec.block);
            }
            Ok(Object::IPAMBlock(_) | Object::BlockAffinity(_) | Object::IPAMHandle(_)) => {
                let what = "is marked as deleted and still there".to_owned();
                self.looked.left(item.key.clone(), what);
            }
            Ok(_) => {}
            Err(error) => self.looked.faults.push(Fault {
                key: item.key.clone(),
                what: error.message,
            }),
        }
    }

    fn check_blocks(&mut self) {
        let mut before: Option<IpNet> = None;
        for (cidr, spec) in &self.blocks {
            let key = block_key(*cidr);
            if let Some(what) = block::fault(spec) {
                self.looked.faults.push(Fault { key, what });
                continue;
            }
            if let Some(before) = before
                && before.addr().is_ipv4() == cidr.addr().is_ipv4()
                && last(before) >= first(*cidr)
            {
                let what = format!("overlaps {before}");
                let key = key.clone();
                self.looked.faults.push(Fault { key, what });
            }
            before = Some(*cidr);
            for (handle, count) in counts(spec) {
                let blocks = self.handles.get(&handle);
                let known = blocks.and_then(|blocks| blocks.get(&cidr.to_string()));
                let known = known.copied().unwrap_or(0);
                if known < count {
                    let what =
                        format!("{count} addresses of handle {handle}, which counts {known}");
                    let key = key.clone();
                    self.looked.faults.push(Fault { key, what });
                }
            }
        }
    }

    fn check_claims(&mut self) {
        let mut owners: BTreeMap<IpNet, &Key> = BTreeMap::new();
        let confirmed =
            |(_, affinity): &&(Key, BlockAffinitySpec)| affinity.state == AffinityState::Confirmed;
        for (key, affinity) in self.affinities.iter().filter(confirmed) {
            let cidr = affinity.cidr;
            if let Some(other) = owners.insert(cidr, key) {
                let what = format!("claims {cidr}, as {other} does");
                let key = key.clone();
                self.looked.faults.push(Fault { key, what });
            }
            let owner = owner_of(affinity);
            if let Some(spec) = self.blocks.get(&cidr)
                && spec.affinity.as_deref() != Some(&owner)
            {
                let holder = spec.affinity.as_deref().unwrap_or("nobody");
                let what = format!("claims {cidr}, which is {holder}'s");
                let key = key.clone();
                self.looked.faults.push(Fault { key, what });
            }
        }
    }

    fn look_for_lone_claims(&mut self) {
        for (key, claim) in &self.affinities {
            let owner = owner_of(claim);
            let cidr = claim.cidr;
            let held = self.blocks.get(&cidr);
            let holder = held.map(|spec| spec.affinity.as_deref().unwrap_or("nobody"));
            let block = match holder {
                None => format!(", and block {cidr} does not exist"),
                Some(holder) if holder != owner => format!(", and block {cidr} is {holder}'s"),
                Some(_) => String::new(),
            };
            let state = match claim.state {
                AffinityState::Confirmed if block.is_empty() => "",
                AffinityState::Confirmed => "is confirmed",
                AffinityState::Pending => "is pending",
                AffinityState::PendingDeletion => "is pendingDeletion",
            };
            if !state.is_empty() {
                self.looked.left(key.clone(), format!("{state}{block}"));
            }
        }
    }

    fn look_for_lone_blocks(&mut self) {
        let claims = self.affinities.iter();
        let claimed: BTreeSet<(String, IpNet)> = claims
            .map(|(_, claim)| (owner_of(claim), claim.cidr))
            .collect();
        for (cidr, spec) in &self.blocks {
            if let Some(owner) = &spec.affinity
                && !claimed.contains(&(owner.clone(), *cidr))
            {
                let what = format!("is {owner}'s, which has no affinity for it");
                self.looked.left(block_key(*cidr), what);
            }
        }
    }

    fn look_for_high_counts(&mut self) {
        let has = |block: &String, handle: &String| {
            let spec = self.blocks.get(&block.parse().ok()?)?;
            counts(spec).get(handle).copied()
        };
        for (handle, blocks) in &self.handles {
            for (block, count) in blocks {
                let held = has(block, handle).unwrap_or(0);
                if held < *count {
                    let what =
                        format!("counts {count} addresses in block {block}, which has {held}");
                    self.looked.left(handle_key(handle), what);
                }
            }
        }
    }
}

/// The owner that a claimed block names.
fn owner_of(claim: &BlockAffinitySpec) -> String {
    format!("{}:{}", claim.affinity_type, claim.node)
}

/// How many addresses each handle has in a block.
fn counts(spec: &IPAMBlockSpec) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for (_, by) in block::held(spec).filter(|(_, by)| by.released_at().is_none()) {
        if let Some(handle) = by.handle_id.as_deref() {
            *counts.entry(handle.to_lowercase()).or_default() += 1;
        }
    }
    counts
}
