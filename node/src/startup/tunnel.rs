//! Addresses of the node's own tunnel devices, from the pools that use them.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::SystemTime;

use api::key::{Key, Kind};
use api::node::{Node, NodeBGPSpec};
use api::object::Object;
use datastore::store::{Store, StoreError};
use ipam::Ipam;
use ipam::tunnel::{TunnelKind, TunnelRequest};
use tracing::{info, warn};

use super::{StartupError, objects};

/// The tunnels of IPv4 pools.
const KINDS: [(TunnelKind, &str); 2] = [
    (TunnelKind::Ipip, "tunl0"),
    (TunnelKind::VxlanV4, "vxlan.calico"),
];

/// Makes the Node's tunnel addresses what the pools ask for: assigned, kept, or given back.
pub(super) async fn allocate(store: &Arc<dyn Store>, name: &str) -> Result<(), StartupError> {
    let ipam = Ipam::new(Arc::clone(store), name);
    for (kind, device) in KINDS {
        allocate_one(&**store, &ipam, name, kind)
            .await
            .map_err(|reason| StartupError::Tunnel { device, reason })?;
    }
    Ok(())
}

async fn allocate_one(
    store: &dyn Store,
    ipam: &Ipam,
    name: &str,
    kind: TunnelKind,
) -> Result<(), String> {
    let key = Key::new(Kind::Node, name);
    let Some(node) = read(store, &key).await.map_err(|error| error.to_string())? else {
        return Err(format!("{key} is gone"));
    };
    let before = address(&node, kind);
    let request = TunnelRequest {
        kind,
        node_labels: node.metadata.labels.clone(),
        current: before.map(IpAddr::V4),
        now: crate::task::timestamp(SystemTime::now()),
    };
    let wanted = ipam
        .ensure_tunnel_address(&request)
        .await
        .map_err(|error| chain(&error))?
        .outcome;
    let wanted = match wanted {
        Some(IpAddr::V4(addr)) => Some(addr),
        Some(IpAddr::V6(_)) | None => None,
    };
    if wanted == before {
        return Ok(());
    }
    let written = objects::update(store, &key, |stored| match stored {
        Some(Object::Node(mut node)) => {
            set_address(&mut node, kind, wanted);
            Object::Node(node)
        }
        _ => Object::Node(node.clone()),
    })
    .await;
    if let Err(error) = written {
        // What was just assigned would stay nobody's.
        if before.is_none()
            && let Err(error) = ipam.release_by_handle(&kind.handle_id(name)).await
        {
            warn!(%error, handle = kind.handle_id(name), "tunnel address not given back");
        }
        return Err(error.to_string());
    }
    match wanted {
        Some(address) => info!(?kind, %address, "tunnel address assigned"),
        None => info!(?kind, "tunnel address given back: no pool uses it"),
    }
    Ok(())
}

async fn read(store: &dyn Store, key: &Key) -> Result<Option<Node>, StoreError> {
    let stored = store.get(key).await?;
    Ok(
        stored.and_then(|stored| match Object::decode(key, &stored.value) {
            Ok(Object::Node(node)) => Some(node),
            Ok(_) | Err(_) => None,
        }),
    )
}

fn address(node: &Node, kind: TunnelKind) -> Option<Ipv4Addr> {
    match kind {
        TunnelKind::Ipip => node.spec.bgp.as_ref()?.ipv4_ipip_tunnel_addr,
        TunnelKind::VxlanV4 => node.spec.ipv4_vxlan_tunnel_addr,
        TunnelKind::VxlanV6 => None,
    }
}

fn set_address(node: &mut Node, kind: TunnelKind, address: Option<Ipv4Addr>) {
    match kind {
        TunnelKind::Ipip => {
            let bgp = node.spec.bgp.get_or_insert_with(NodeBGPSpec::default);
            bgp.ipv4_ipip_tunnel_addr = address;
        }
        TunnelKind::VxlanV4 => node.spec.ipv4_vxlan_tunnel_addr = address,
        TunnelKind::VxlanV6 => {}
    }
}

/// An error with its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
