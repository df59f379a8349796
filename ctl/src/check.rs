//! What a manifest must satisfy before any of it is written.

use anyhow::bail;
use api::object::Object;
use api::pool::IPPool;
use api::validate::{overlaps, validate};

use crate::objects::Objects;

/// Checks that concern one object. All faults are named together.
pub(crate) fn each_alone(objects: &[Object]) -> anyhow::Result<()> {
    let faults: Vec<String> = objects
        .iter()
        .flat_map(|object| {
            let key = object.key();
            let unknown = object.unread().unknown;
            let broken = validate(object).into_iter().chain(unknown);
            broken.map(move |fault| format!("{key}: {fault}"))
        })
        .collect();
    refuse(faults)
}

/// What is accepted and means nothing, in words.
pub(crate) fn without_effect(objects: &[Object]) -> Vec<String> {
    let of_one = |object: &Object| {
        let key = object.key();
        let fields = object.unread().without_effect;
        fields.into_iter().map(move |field| {
            format!("note: {key}: {field} is kept and has no effect in this version")
        })
    };
    objects.iter().flat_map(of_one).collect()
}

/// Checks that concern objects together, those in the store included: pools must not overlap, and what is immutable
/// must stay.
pub(crate) async fn against_store(store: &Objects, objects: &[Object]) -> anyhow::Result<()> {
    let wanted: Vec<&IPPool> = objects.iter().filter_map(pool).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let mut pools = store.pools().await?;
    let mut faults = Vec::new();
    for pool in &wanted {
        if let Some(before) = pools.get(&pool.metadata.name) {
            faults.extend(changed(pool, before));
        }
    }
    for pool in &wanted {
        pools.insert(pool.metadata.name.clone(), pool.spec.clone());
    }
    let ranges = pools.iter().map(|(name, spec)| (name.as_str(), spec.cidr));
    faults.extend(
        overlaps(ranges)
            .iter()
            // What overlaps in the store already is not this manifest's fault.
            .filter(|overlap| {
                let named = |name: &str| wanted.iter().any(|pool| pool.metadata.name == name);
                named(&overlap.name) || named(&overlap.other)
            })
            .map(ToString::to_string),
    );
    refuse(faults)
}

fn pool(object: &Object) -> Option<&IPPool> {
    match object {
        Object::IPPool(pool) => Some(pool),
        _ => None,
    }
}

fn changed(pool: &IPPool, before: &api::pool::IPPoolSpec) -> Vec<String> {
    let name = &pool.metadata.name;
    let mut faults = Vec::new();
    if before.cidr != pool.spec.cidr {
        faults.push(format!(
            "IPPool({name}): spec.cidr = {}: must stay {}",
            pool.spec.cidr, before.cidr
        ));
    } else if before.block_len() != pool.spec.block_len() {
        faults.push(format!(
            "IPPool({name}): spec.blockSize = {}: must stay {}",
            pool.spec.block_len(),
            before.block_len()
        ));
    }
    faults
}

fn refuse(faults: Vec<String>) -> anyhow::Result<()> {
    if faults.is_empty() {
        Ok(())
    } else {
        bail!(faults.join("\n"))
    }
}
