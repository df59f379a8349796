//! Addresses are given, taken back and collected in a [`Cluster`] in which everything happens at any time: nobody has an
//! address that another has, no block has two owners, and when all has come to rest nothing is left over.
//!
//! `IPAM_RUNS=100000 cargo test --release -p ipam --test it garbage` lets more happen; `IPAM_SEED=<n>` begins with that seed.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;

use api::ipam::IPAMBlockSpec;

use crate::cluster::{Cluster, Sabotage, Way};
use crate::world::World;

/// Runs of a test unless `IPAM_RUNS` says otherwise.
const RUNS: u64 = 50;

/// Sabotaged runs of which one must be noticed.
const SABOTAGED: u64 = 1_000;

#[expect(
    clippy::disallowed_methods,
    reason = "how much is to be tried comes from outside"
)]
fn from_outside(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number below 2^64"))
}

fn run(seed: u64, folds: bool, sabotage: Sabotage) -> BTreeSet<String> {
    let way = Way {
        seed,
        folds,
        moves: 600,
        sabotage,
    };
    Cluster::new(way).run()
}

/// What is left that nobody needs, or lacks that somebody has.
pub(crate) fn left_over(
    world: &World,
    living: &BTreeSet<String>,
    believed: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut found = Vec::new();
    let taken: BTreeMap<String, String> = world.taken().into_iter().collect();
    for (address, handle) in &taken {
        if believed.get(address) != Some(handle) {
            found.push(format!("left over: {address} of {handle}"));
        }
    }
    for name in world.handles().into_keys() {
        if !believed.values().any(|handle| *handle == name) {
            found.push(format!("left over: handle {name}"));
        }
    }
    let affinities = world.affinities();
    let blocks = world.blocks();
    for affinity in &affinities {
        let host = format!("host:{}", affinity.node);
        let of_it = |block: &&IPAMBlockSpec| {
            block.cidr == affinity.cidr && block.affinity.as_ref() == Some(&host)
        };
        let block = blocks.iter().find(of_it);
        // While another node's pod has an address of it the block stays with who is gone. A living node's claim on a block of
        // its own, in whatever state, is confirmed when the block is used.
        let is_of_use = |block| living.contains(&affinity.node) || !ipam::block::is_empty(block);
        if !block.is_some_and(is_of_use) {
            found.push(format!("left over: {affinity:?}"));
        }
    }
    let mut empty: BTreeMap<&str, usize> = BTreeMap::new();
    for block in &blocks {
        let owner = block
            .affinity
            .as_deref()
            .and_then(|of| of.strip_prefix("host:"));
        let claims = affinities.iter().filter(|claim| claim.cidr == block.cidr);
        let is_empty = ipam::block::is_empty(block);
        if block.deleted
            || claims.count() != usize::from(owner.is_some())
            || (owner.is_none() && is_empty)
        {
            found.push(format!("left over: block {} of {owner:?}", block.cidr));
        }
        if is_empty {
            *empty.entry(owner.unwrap_or_default()).or_default() += 1;
        }
    }
    let many = empty.into_iter().filter(|(_, count)| *count > 1);
    found.extend(many.map(|(owner, count)| format!("left over: {count} empty blocks of {owner}")));
    found
}

fn all_ends_well(folds: bool) {
    let first = from_outside("IPAM_SEED").unwrap_or_else(|| RandomState::new().hash_one(0) >> 1);
    let runs = from_outside("IPAM_RUNS").unwrap_or(RUNS);
    println!("seeds from {first}: replay with IPAM_SEED={first}");
    for seed in first..first + runs {
        let problems = run(seed, folds, Sabotage::None);
        assert!(
            problems.is_empty(),
            "IPAM_SEED={seed} IPAM_RUNS=1, folds {folds}: {problems:#?}"
        );
    }
}

#[test]
fn with_whole_plans_no_address_is_given_twice_and_none_is_left_over() {
    all_ends_well(true);
}

#[test]
fn with_plans_step_by_step_no_address_is_given_twice_and_none_is_left_over() {
    all_ends_well(false);
}

/// Runs sabotaged clusters until one has such a problem; answers which. The first is one that is known to show it.
fn noticed(sabotage: Sabotage, such: impl Fn(&str) -> bool) -> Option<u64> {
    let first = match sabotage {
        Sabotage::NoComparison => 44,
        Sabotage::NoGrace => 310,
        Sabotage::NoEvidence | Sabotage::None => 0,
    };
    (first..first + SABOTAGED).find(|seed| {
        let problems = run(seed / 2, seed % 2 == 0, sabotage);
        problems.iter().any(|problem| such(problem))
    })
}

#[test]
fn each_sabotage_is_noticed_and_names_the_address_or_the_block() {
    let address = |problem: &str| {
        let is_of_one = problem.starts_with("10.");
        is_of_one && (problem.contains("was given to") || problem.contains("the store says"))
    };
    for sabotage in [
        Sabotage::NoComparison,
        Sabotage::NoGrace,
        Sabotage::NoEvidence,
    ] {
        let runs = noticed(sabotage, address);
        println!("{sabotage:?}: an address, run {runs:?}");
        assert!(runs.is_some(), "{sabotage:?}");
    }
    let runs = noticed(Sabotage::NoComparison, |problem| {
        problem.contains("claims 10.")
    });
    println!("{:?}: a block, run {runs:?}", Sabotage::NoComparison);
    assert!(runs.is_some(), "no block with two owners");
}
