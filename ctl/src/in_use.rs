//! What it means for pods that a pool is deleted, disabled, or carries their packets in another way: said before it is done.

use std::collections::BTreeSet;

use api::key::{Key, Kind};
use api::object::Object;
use api::pool::{IPPool, IPPoolSpec};

use crate::objects::Objects;

/// Warns when pods have addresses of the pool `key`, which is about to be deleted.
pub(crate) async fn before_delete(objects: &Objects, key: &Key) -> anyhow::Result<()> {
    if key.kind == Kind::IPPool
        && let Some(Object::IPPool(pool)) = readable(objects, key).await
        && let Some(users) = users(objects, &pool.spec).await?
    {
        eprintln!(
            "warning: {key}: in use by {users}. They keep them, and nodes with a VXLAN address reach them through \
             VXLAN, others by BGP, until they end. To move them first: set spec.disabled, make the pods anew, then delete \
             the pool."
        );
    }
    Ok(())
}

/// Warns when pods have addresses of a pool that is about to be written otherwise.
pub(crate) async fn before_write(objects: &Objects, wanted: &Object) -> anyhow::Result<()> {
    let Object::IPPool(new) = wanted else {
        return Ok(());
    };
    let key = wanted.key();
    let Some(Object::IPPool(old)) = readable(objects, &key).await else {
        return Ok(());
    };
    let Some(what) = consequence(&old, new) else {
        return Ok(());
    };
    if let Some(users) = users(objects, &old.spec).await? {
        eprintln!("warning: {key}: in use by {users}. {what}");
    }
    Ok(())
}

/// The object as it stands. One that cannot be read has no users to warn of, and is deleted or written over all the same.
async fn readable(objects: &Objects, key: &Key) -> Option<Object> {
    objects.get(key).await.ok().flatten()
}

fn consequence(old: &IPPool, new: &IPPool) -> Option<&'static str> {
    let modes = |pool: &IPPool| (pool.spec.ipip_mode, pool.spec.vxlan_mode);
    if old.spec.cidr != new.spec.cidr {
        Some("They keep them, as if their pool was deleted.")
    } else if modes(old) != modes(new) {
        Some(
            "Their packets between nodes travel in another way as soon as each node has seen the change, which may lose \
             some; pods made before keep their MTU.",
        )
    } else if new.spec.disabled && !old.spec.disabled {
        Some("They keep them and are reached as before; new pods get addresses of other pools.")
    } else {
        None
    }
}

/// The pods with addresses of a pool, in words; `None` when there are none.
async fn users(objects: &Objects, pool: &IPPoolSpec) -> anyhow::Result<Option<String>> {
    // What cannot be read is named by `get`.
    let (endpoints, _) = objects.list(Kind::WorkloadEndpoint).await?;
    let nodes: Vec<&str> = endpoints
        .iter()
        .filter_map(|object| match object {
            Object::WorkloadEndpoint(endpoint) => Some(&endpoint.spec),
            _ => None,
        })
        .filter(|spec| spec.ip_networks.iter().any(|net| pool.cidr.contains(net)))
        .map(|spec| spec.node.as_str())
        .collect();
    let different: BTreeSet<&str> = nodes.iter().copied().collect();
    let counted = |count: usize, noun: &str| {
        let plural = if count == 1 { "" } else { "s" };
        format!("{count} {noun}{plural}")
    };
    let text = |pods| {
        format!(
            "{} on {}",
            counted(pods, "pod"),
            counted(different.len(), "node")
        )
    };
    Ok((!nodes.is_empty()).then(|| text(nodes.len())))
}
