//! `ipam split`: a pool cut into smaller ones, which have its blocks from then on.

use anyhow::{Context, bail};
use api::key::{Key, Kind};
use api::object::Object;
use api::pool::IPPool;
use ipnet::IpNet;

use super::must_be_locked;
use crate::cli::IpamSplit;
use crate::objects::Objects;
use crate::print::outln;

pub(super) async fn split(split: IpamSplit) -> anyhow::Result<()> {
    let objects = Objects::open(&split.datastore).await?;
    must_be_locked(&objects, "`ipam split`").await?;
    let pools = objects.list(Kind::IPPool).await?.0;
    let wanted = |pool: &IPPool| match (&split.name, split.cidr) {
        (Some(name), _) => pool.metadata.name == *name,
        (None, cidr) => Some(pool.spec.cidr) == cidr,
    };
    let pool = pools.into_iter().find_map(|object| match object {
        Object::IPPool(pool) if wanted(&pool) => Some(pool),
        _ => None,
    });
    let asked = split
        .name
        .clone()
        .or(split.cidr.map(|cidr| cidr.to_string()));
    let pool = pool.with_context(|| {
        let asked = asked.unwrap_or_default();
        format!("there is no pool {asked}; see: tortiectl get ippools")
    })?;
    let parts = parts(&pool, split.parts)?;
    // One way round or the other the ranges lie over each other meanwhile: nothing is given out while the datastore is locked,
    // and blocks always have a pool.
    for part in &parts {
        let object = Object::IPPool(part.clone());
        match objects.create(&object).await {
            Ok(()) => {}
            // An earlier attempt came as far.
            Err(crate::objects::Refused::Exists) if stands(&objects, part).await? => {}
            Err(refused) => return Err(refused.error(&object.key())),
        }
        outln!("Created pool {} ({})", part.metadata.name, part.spec.cidr);
    }
    let key = Key::new(Kind::IPPool, pool.metadata.name.as_str());
    let removed = objects.remove(&key).await;
    removed.map_err(|refused| refused.error(&key))?;
    outln!(
        "Deleted pool {} ({}). Unlock the datastore: tortiectl datastore migrate unlock",
        pool.metadata.name,
        pool.spec.cidr
    );
    Ok(())
}

async fn stands(objects: &Objects, part: &IPPool) -> anyhow::Result<bool> {
    let key = Key::new(Kind::IPPool, part.metadata.name.as_str());
    let found = objects.get(&key).await?;
    Ok(matches!(found, Some(Object::IPPool(found)) if found.spec == part.spec))
}

fn parts(pool: &IPPool, count: u32) -> anyhow::Result<Vec<IPPool>> {
    let cidr = pool.spec.cidr;
    let block_len = pool.spec.block_len();
    let bits = count.checked_ilog2().filter(|_| count.is_power_of_two());
    let len = bits.and_then(|bits| Some(cidr.prefix_len() + u8::try_from(bits).ok()?));
    let Some(len) = len.filter(|len| count > 1 && *len <= block_len) else {
        bail!(
            "{count} parts of pool {} ({cidr}): allowed: a power of two, from 2 to {}, as a part holds at least one block of /{block_len}",
            pool.metadata.name,
            1_u128 << (block_len - cidr.prefix_len()).min(31)
        );
    };
    let part = |(number, cidr): (usize, IpNet)| {
        let name = format!("split-{}-{number}", pool.metadata.name);
        let mut spec = pool.spec.clone();
        spec.cidr = cidr;
        spec.block_size = Some(block_len);
        let mut part = IPPool::new(&Key::new(Kind::IPPool, name), spec);
        part.metadata.labels = pool.metadata.labels.clone();
        part.metadata.annotations = pool.metadata.annotations.clone();
        part
    };
    Ok(cidr.subnets(len)?.enumerate().map(part).collect())
}
