//! Which pools a request may use.

use std::collections::BTreeMap;

use api::pool::{AllowedUse, IPPool};
use api::selector::Selector;
use ipnet::IpNet;
use serde_json::Value;

use crate::candidates::candidates;
use crate::error::{Family, PoolRefused};

/// What decides about a pool.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// Labels of the node.
    pub node_labels: &'a BTreeMap<String, String>,
    /// Labels of the pod's namespace.
    pub namespace_labels: Option<&'a BTreeMap<String, String>>,
    /// What for.
    pub allowed_use: AllowedUse,
}

/// Whether a pool gives out addresses at all, to `allowed_use`.
pub fn usable(pool: &IPPool, allowed_use: AllowedUse) -> Result<(), PoolRefused> {
    if pool.metadata.extra.contains_key("deletionTimestamp") {
        return Err(PoolRefused::Terminating);
    }
    if pool.spec.disabled {
        return Err(PoolRefused::Disabled);
    }
    if let Some(reason) = not_allocatable(pool) {
        return Err(PoolRefused::NotAllocatable(reason));
    }
    if !pool.spec.allows(allowed_use) {
        return Err(PoolRefused::Use(match allowed_use {
            AllowedUse::Workload => "Workload",
            AllowedUse::Tunnel => "Tunnel",
            AllowedUse::LoadBalancer => "LoadBalancer",
        }));
    }
    let block_len = pool.spec.block_len();
    if candidates(pool.spec.cidr, block_len, 0).next().is_none() {
        return Err(PoolRefused::BlockSize(block_len));
    }
    Ok(())
}

/// Whether a pool may be used without being asked for.
pub fn selected(pool: &IPPool, asker: Asker<'_>) -> Result<(), PoolRefused> {
    usable(pool, asker.allowed_use)?;
    if pool.spec.is_manual() {
        return Err(PoolRefused::Manual);
    }
    selects_node(pool, asker.node_labels)?;
    if let Some(selector) = pool.spec.namespace_selector() {
        let matches = match asker.namespace_labels {
            Some(labels) => selects(selector, labels)?,
            None => false,
        };
        if !matches {
            return Err(PoolRefused::NamespaceSelector(selector.to_owned()));
        }
    }
    Ok(())
}

/// Whether the pool is for nodes with these labels.
pub fn selects_node(pool: &IPPool, labels: &BTreeMap<String, String>) -> Result<(), PoolRefused> {
    match pool.spec.node_selector.as_deref() {
        Some(selector) if !selects(selector, labels)? => {
            Err(PoolRefused::NodeSelector(selector.to_owned()))
        }
        Some(_) | None => Ok(()),
    }
}

/// Whether `wanted` names the pool, by name or by CIDR.
pub fn is_named(pool: &IPPool, wanted: &str) -> bool {
    pool.metadata.name == wanted
        || wanted
            .parse::<IpNet>()
            .is_ok_and(|cidr| cidr.trunc() == pool.spec.cidr.trunc())
}

/// The pool's family.
pub fn family(pool: &IPPool) -> Family {
    Family::of(pool.spec.cidr.addr())
}

fn not_allocatable(pool: &IPPool) -> Option<String> {
    let conditions = pool.extra.get("status")?.get("conditions")?.as_array()?;
    let condition = conditions
        .iter()
        .find(|condition| condition.get("type").and_then(Value::as_str) == Some("Allocatable"))?;
    if condition.get("status").and_then(Value::as_str) != Some("False") {
        return None;
    }
    let reason = condition.get("reason").and_then(Value::as_str);
    Some(reason.unwrap_or("no reason given").to_owned())
}

fn selects(selector: &str, labels: &BTreeMap<String, String>) -> Result<bool, PoolRefused> {
    match Selector::parse(selector) {
        Ok(parsed) => Ok(parsed.matches(labels)),
        Err(error) => Err(PoolRefused::BadSelector {
            selector: selector.to_owned(),
            reason: error.to_string(),
        }),
    }
}
