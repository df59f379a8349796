//! What nobody needs any more: addresses without a user, empty blocks, handles without an address, what a node that is gone
//! left. Found by looking at what stands in the store beside what is used; to be freed only after it was found again and
//! again for a while ([`Watchlist`]), and only if it is still what was looked at.
//!
//! An address that nobody uses can be told only where its attributes name its holder: a pod, or a container's interface.
//! Whatever else holds addresses is left alone.

pub mod election;
pub mod looks;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use api::ipam::{AllocationAttribute, BlockAffinitySpec, IPAMBlockSpec};
use api::key::Key;
use datastore::version::Version;
use ipnet::IpNet;

use crate::block;
use crate::cooldown::Cooldown;
use crate::error::Family;
use crate::time::Timestamp;

/// Attributes by which Calico says of which virtual machine of KubeVirt an address is.
const VIRTUAL_MACHINE: [&str; 4] = ["vmi-name", "vmi-uid", "vm-uid", "vmim-uid"];

/// Attribute that says which plugin connects an address's holder, where that is not the agent's own: nothing that the agent knows
/// of shows that such an address is used.
pub const PLUGIN: &str = "plugin";

/// Something that may go. Each names what was looked at: what was changed since is something else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Garbage {
    /// An address that its holder does not use.
    Address {
        /// Address.
        address: IpAddr,
        /// Who holds it.
        handle_id: String,
        /// The block's number when it was given out.
        sequence_number: Option<u64>,
    },
    /// An empty block of a node that has another.
    Block {
        /// Range.
        cidr: IpNet,
        /// Its number.
        sequence_number: u64,
    },
    /// A node's claim on a block that is not its own: a claim that stopped half way.
    Claim {
        /// Name of the affinity.
        name: String,
        /// What it claims.
        cidr: IpNet,
        /// As it stands.
        version: Version,
    },
    /// A handle that no address names, by the name of its object.
    Handle {
        /// Name.
        name: String,
        /// As it stands.
        version: Version,
    },
    /// An object that was marked as deleted by somebody who did not come to delete it.
    Tombstone {
        /// Which.
        key: Key,
        /// As it stands.
        version: Version,
    },
    /// Blocks and claims of a node that does not exist.
    Node(String),
}

/// Since when each piece of garbage is known.
#[derive(Clone, Debug, Default)]
pub struct Watchlist(BTreeMap<Garbage, Timestamp>);

impl Watchlist {
    /// What is found now; answers what was found in every look for at least `grace`, and not for the first time.
    pub fn look(
        &mut self,
        found: BTreeSet<Garbage>,
        now: Timestamp,
        grace: Duration,
    ) -> BTreeSet<Garbage> {
        self.0.retain(|known, _| found.contains(known));
        let mut ripe = BTreeSet::new();
        for garbage in found {
            match self.0.get(&garbage) {
                Some(since) if now.since(*since) >= grace => {
                    ripe.insert(garbage);
                }
                Some(_) => {}
                None => {
                    self.0.insert(garbage, now);
                }
            }
        }
        ripe
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was not seen for a while is found anew.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// What a node finds in its own blocks. `is_used` says whether a pod or a device of the node's has an address.
pub fn of_node(
    node: &str,
    blocks: &[IPAMBlockSpec],
    cooldown: Cooldown,
    is_used: impl Fn(IpAddr, &AllocationAttribute) -> bool,
) -> BTreeSet<Garbage> {
    let ours = |held: &Held<'_>| held.node() == Some(node) && held.has_a_known_user();
    let mut found = unused(held_in(blocks).filter(ours).collect(), is_used);
    for family in [Family::V4, Family::V6] {
        let of_family = |found: &&IPAMBlockSpec| Family::of(found.cidr.addr()) == family;
        let own: Vec<&IPAMBlockSpec> = blocks.iter().filter(of_family).collect();
        let mut empty: Vec<&IPAMBlockSpec> = own
            .iter()
            .copied()
            .filter(|found| cooldown.is_empty(found))
            .collect();
        // The next pod needs one.
        if empty.len() == own.len() {
            empty.pop();
        }
        found.extend(empty.into_iter().map(|found| Garbage::Block {
            cidr: found.cidr,
            sequence_number: found.sequence_number,
        }));
    }
    found
}

/// What stands in the store. Handles are listed before blocks.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Names of all nodes.
    pub nodes: BTreeSet<String>,
    /// Claims of nodes.
    pub affinities: Vec<BlockAffinitySpec>,
    /// Blocks that can be read.
    pub blocks: Vec<IPAMBlockSpec>,
    /// Blocks and claims that are marked as deleted.
    pub tombstones: Vec<(Key, Version)>,
    /// Names of the objects of all handles.
    pub handles: BTreeSet<String>,
}

impl Cluster {
    /// Nodes of which only claims, blocks or addresses are left.
    pub fn nodes_gone(&self) -> BTreeSet<String> {
        let claims = self.affinities.iter();
        let claims = claims.filter(|claim| claim.affinity_type == "host");
        let owners = self.blocks.iter().filter_map(|found| {
            let owner = found.affinity.as_deref()?.strip_prefix("host:")?;
            Some(owner.to_owned())
        });
        let holders = held_in(&self.blocks).filter_map(|held| Some(held.node()?.to_owned()));
        let named = claims.map(|claim| claim.node.clone());
        let named = named.chain(owners).chain(holders);
        named.filter(|node| !self.nodes.contains(node)).collect()
    }

    /// Nodes of whose endpoints it must be known what they use: those that are gone and those that have addresses in others'
    /// blocks. What a node has in its own it finds itself.
    pub fn to_be_asked(&self) -> BTreeSet<String> {
        let holders = held_in(&self.blocks).filter(|held| self.is_ours_to_judge(held));
        holders
            .filter_map(|held| Some(held.node()?.to_owned()))
            .collect()
    }

    /// Addresses that nobody uses, and nodes that are gone; nothing where `asker` itself is not among the nodes: then it is
    /// the list of nodes that is wrong.
    pub fn garbage(
        &self,
        asker: &str,
        is_used: impl Fn(IpAddr, &AllocationAttribute) -> bool,
    ) -> BTreeSet<Garbage> {
        if !self.nodes.contains(asker) {
            return BTreeSet::new();
        }
        let judged = held_in(&self.blocks).filter(|held| self.is_ours_to_judge(held));
        let mut found = unused(judged.collect(), is_used);
        let has_something = |node: &String| {
            let host = block::host_affinity(node);
            let claims = |claim: &BlockAffinitySpec| claim.node == *node;
            self.affinities.iter().any(claims)
                || self
                    .blocks
                    .iter()
                    .any(|found| found.affinity.as_ref() == Some(&host))
        };
        let gone = self.nodes_gone().into_iter().filter(has_something);
        found.extend(gone.map(Garbage::Node));
        let tombstones = self.tombstones.iter().cloned();
        found.extend(tombstones.map(|(key, version)| Garbage::Tombstone { key, version }));
        found
    }

    /// Names of handles that no address has.
    pub fn handles_without_address(&self) -> BTreeSet<String> {
        let mut handles = self.handles.clone();
        for held in held_in(&self.blocks) {
            handles.remove(&held.handle_id.to_lowercase());
        }
        handles
    }

    fn is_ours_to_judge(&self, held: &Held<'_>) -> bool {
        let Some(node) = held.node() else {
            return false;
        };
        if !self.nodes.contains(node) {
            return held.names_its_holder() || held.is_of_a_tunnel();
        }
        let is_own = held.found.affinity == Some(block::host_affinity(node));
        // Of further interfaces only their node knows.
        !is_own && held.has_a_known_user() && held.has(&["pod"])
    }
}

/// An address that a handle holds.
struct Held<'a> {
    found: &'a IPAMBlockSpec,
    ordinal: usize,
    handle_id: &'a str,
    by: &'a AllocationAttribute,
}

impl Held<'_> {
    fn node(&self) -> Option<&str> {
        self.by.secondary.get("node").map(String::as_str)
    }

    fn has(&self, names: &[&str]) -> bool {
        names
            .iter()
            .all(|name| self.by.secondary.contains_key(*name))
    }

    fn is_of_a_tunnel(&self) -> bool {
        let kind = self.by.secondary.get("type");
        kind.is_some_and(|kind| kind.ends_with("TunnelAddress"))
    }

    /// Whether endpoints or devices would say that it is used.
    fn has_a_known_user(&self) -> bool {
        self.names_its_holder() && !self.has(&[PLUGIN])
    }

    /// Whether it is a pod's, or one interface's of a container: those have endpoints. A virtual machine keeps its address while it
    /// has no pod.
    fn names_its_holder(&self) -> bool {
        let is_of_a_machine = VIRTUAL_MACHINE.iter().any(|name| self.has(&[name]));
        !is_of_a_machine
            && !self.has(&["type"])
            && (self.has(&["pod", "namespace"])
                || self.has(&["network", "containerID", "interface"]))
    }
}

/// What handles hold; an address that cools down is nobody's.
fn held_in(blocks: &[IPAMBlockSpec]) -> impl Iterator<Item = Held<'_>> {
    blocks.iter().flat_map(|found| {
        block::held(found).filter_map(move |(ordinal, by)| {
            let handle_id = by
                .handle_id
                .as_deref()
                .filter(|_| by.released_at().is_none())?;
            Some(Held {
                found,
                ordinal,
                handle_id,
                by,
            })
        })
    })
}

/// Addresses of handles of which no address is used: as long as one is, its holder lives.
fn unused(
    judged: Vec<Held<'_>>,
    is_used: impl Fn(IpAddr, &AllocationAttribute) -> bool,
) -> BTreeSet<Garbage> {
    let addressed = judged.into_iter().filter_map(|held| {
        let address = block::address(held.found.cidr, held.ordinal)?.addr();
        Some((address, held))
    });
    let addressed: Vec<(IpAddr, Held<'_>)> = addressed.collect();
    let alive: BTreeSet<&str> = addressed
        .iter()
        .filter(|(address, held)| is_used(*address, held.by))
        .map(|(_, held)| held.handle_id)
        .collect();
    let dead = addressed
        .iter()
        .filter(|(_, held)| !alive.contains(held.handle_id));
    let garbage = dead.map(|(address, held)| Garbage::Address {
        address: *address,
        handle_id: held.handle_id.to_owned(),
        sequence_number: block::sequence_number(held.found, held.ordinal),
    });
    garbage.collect()
}

#[cfg(test)]
mod tests;
