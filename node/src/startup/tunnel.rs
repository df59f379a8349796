//! Addresses of the node's own tunnel devices, from the pools that use them.

pub mod announcement;

use std::net::IpAddr;
use std::time::SystemTime;

use api::ipam::IPAMBlockSpec;
use api::key::{Key, Kind};
use api::node::{Node, NodeBGPSpec};
use api::object::Object;
use api::pool::{EncapMode, IPPoolSpec};
use datastore::scope::Scope;
use datastore::store::{Store, StoreError};
use ipam::Ipam;
use ipam::request::ReleaseAddress;
use ipam::tunnel::{TunnelKind, TunnelRequest};
use ipnet::IpNet;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{StartupError, objects as stored_objects};
use announcement::Announcement;

pub(crate) const KINDS: [(TunnelKind, &str); 3] = [
    (TunnelKind::Ipip, "tunl0"),
    (TunnelKind::VxlanV4, "vxlan.calico"),
    (TunnelKind::VxlanV6, "vxlan-v6.calico"),
];

/// Makes the Node's tunnel addresses the first of its range of Kubernetes (host-local gives that to no pod), where a pool
/// uses the tunnel. Without a range none is known, and what stands there stays.
pub(super) async fn first_of_pod_cidr(
    store: &dyn Store,
    name: &str,
    said: &mut Announcement,
) -> Result<(), StartupError> {
    for (kind, device) in KINDS {
        let set = set_first_of_pod_cidr(store, name, (kind, device), said).await;
        set.map_err(|error| StartupError::Tunnel {
            device,
            reason: error.to_string(),
        })?;
    }
    Ok(())
}

async fn set_first_of_pod_cidr(
    store: &dyn Store,
    name: &str,
    (kind, device): (TunnelKind, &'static str),
    said: &mut Announcement,
) -> Result<(), StoreError> {
    let pools = objects(store, Kind::IPPool).await?;
    let is_v4 = kind != TunnelKind::VxlanV6;
    let used = pools.iter().any(|object| match object {
        Object::IPPool(pool) => pool.spec.cidr.addr().is_ipv4() == is_v4 && uses(kind, &pool.spec),
        _ => false,
    });
    let key = Key::new(Kind::Node, name);
    stored_objects::change(store, &key, |stored| {
        let Object::Node(mut node) = stored else {
            return None;
        };
        let ranges = api::node::pod_cidrs(&node);
        let range = ranges
            .into_iter()
            .find(|range| range.addr().is_ipv4() == is_v4)?;
        let first = first_address(range)?;
        let before = address(&node, kind);
        let wanted = used.then_some(first);
        let settled = said.settle((kind, device), before, wanted, Instant::now());
        set_address(&mut node, kind, settled);
        Some(Object::Node(node))
    })
    .await
    .map(drop)
}

/// The first address behind a range's own.
fn first_address(range: IpNet) -> Option<IpAddr> {
    match range {
        IpNet::V4(range) => range.hosts().next().map(IpAddr::V4),
        IpNet::V6(range) => range.hosts().nth(1).map(IpAddr::V6),
    }
}

/// Makes the Node's tunnel addresses what the pools ask for, as soon as [`Announcement`] lets it: assigned, kept, or given back.
pub(super) async fn allocate(
    store: &dyn Store,
    ipam: &Ipam,
    name: &str,
    said: &mut Announcement,
) -> Result<(), StartupError> {
    for (kind, device) in KINDS {
        allocate_one(store, ipam, name, (kind, device), said)
            .await
            .map_err(|reason| StartupError::Tunnel { device, reason })?;
    }
    Ok(())
}

async fn allocate_one(
    store: &dyn Store,
    ipam: &Ipam,
    name: &str,
    (kind, device): (TunnelKind, &'static str),
    said: &mut Announcement,
) -> Result<(), String> {
    let key = Key::new(Kind::Node, name);
    let Some(node) = read(store, &key).await.map_err(|error| error.to_string())? else {
        return Err(format!("{key} is gone"));
    };
    let before = address(&node, kind);
    if let Some(address) = before
        && stays(store, kind, address)
            .await
            .map_err(|error| error.to_string())?
    {
        said.in_use(kind);
        return Ok(());
    }
    let request = TunnelRequest {
        kind,
        node_labels: node.metadata.labels.clone(),
        current: before,
        now: crate::task::timestamp(SystemTime::now()),
    };
    let ensured = ipam
        .ensure_tunnel_address(&request)
        .await
        .map_err(|error| chain(&error))?
        .outcome;
    let wanted = said.settle((kind, device), before, ensured.wanted, Instant::now());
    if wanted == before {
        // What is to be named later stays held, too.
        let mut others = ensured.all_but(wanted);
        others.retain(|held| Some(held.address) != ensured.wanted);
        return give_back(ipam, others).await;
    }
    let written = stored_objects::update(store, &key, |stored| match stored {
        Some(Object::Node(mut node)) => {
            set_address(&mut node, kind, wanted);
            Object::Node(node)
        }
        _ => Object::Node(node.clone()),
    })
    .await;
    if let Err(error) = written {
        // What was just assigned would stay nobody's. Without an answer the Node may name it, now or later: it stays held
        // under the tunnel's handle, and the next attempt finds it there.
        if !matches!(error, StoreError::Unavailable(_))
            && let Err(error) = give_back(ipam, ensured.all_but(before)).await
        {
            warn!(%error, handle = kind.handle_id(name), "tunnel address not given back");
        }
        return Err(error.to_string());
    }
    match wanted {
        Some(address) => info!(device, %address, "tunnel address assigned"),
        None => info!(device, "tunnel address released: no pool uses it"),
    }
    // Nobody sends to the former one any more.
    give_back(ipam, ensured.all_but(wanted)).await
}

async fn give_back(ipam: &Ipam, addresses: Vec<ReleaseAddress>) -> Result<(), String> {
    if addresses.is_empty() {
        return Ok(());
    }
    let released = ipam
        .release_ips(&addresses, crate::task::timestamp(SystemTime::now()))
        .await;
    let released = released.map_err(|error| chain(&error))?.outcome;
    for (address, why) in released.refused {
        warn!(%address, %why, "tunnel address not given back");
    }
    Ok(())
}

/// Whether the present address stays although no address is assigned from its pool any more: pods of it live on. Its pool is
/// disabled; or, for VXLAN, it was deleted while addresses outside every pool are in use.
async fn stays(store: &dyn Store, kind: TunnelKind, address: IpAddr) -> Result<bool, StoreError> {
    let pools = objects(store, Kind::IPPool).await?;
    let pools: Vec<&IPPoolSpec> = pools
        .iter()
        .filter_map(|object| match object {
            Object::IPPool(pool) => Some(&pool.spec),
            _ => None,
        })
        .collect();
    let covering = pools
        .iter()
        .filter(|pool| pool.cidr.contains(&address))
        .max_by_key(|pool| pool.cidr.prefix_len());
    match (covering, kind) {
        (Some(pool), _) => Ok(pool.disabled && uses(kind, pool)),
        (None, TunnelKind::VxlanV4 | TunnelKind::VxlanV6) => {
            let blocks = objects(store, Kind::IPAMBlock).await?;
            Ok(blocks.iter().any(|block| match block {
                Object::IPAMBlock(block) => {
                    let block = &block.spec;
                    block.cidr.addr().is_ipv4() == address.is_ipv4()
                        && !pools.iter().any(|pool| pool.cidr.contains(&block.cidr))
                        && has_pods(block)
                }
                _ => false,
            }))
        }
        (None, TunnelKind::Ipip) => Ok(false),
    }
}

const fn uses(kind: TunnelKind, pool: &IPPoolSpec) -> bool {
    let mode = match kind {
        TunnelKind::Ipip => pool.ipip_mode,
        TunnelKind::VxlanV4 | TunnelKind::VxlanV6 => pool.vxlan_mode,
    };
    !matches!(mode, EncapMode::Never)
}

/// Whether an address of the block is held by anything but a tunnel device.
fn has_pods(block: &IPAMBlockSpec) -> bool {
    block.allocations.iter().flatten().any(|slot| {
        let attributes = block.attributes.get(*slot);
        let held_as = attributes.and_then(|attributes| attributes.secondary.get("type"));
        !held_as.is_some_and(|held_as| held_as.ends_with("TunnelAddress"))
    })
}

/// The readable objects of a kind.
async fn objects(store: &dyn Store, kind: Kind) -> Result<Vec<Object>, StoreError> {
    let listing = store.list(kind, &Scope::All).await?;
    let decoded = listing.items.iter();
    Ok(decoded
        .filter_map(|item| Object::decode(&item.key, &item.value).ok())
        .collect())
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

fn address(node: &Node, kind: TunnelKind) -> Option<IpAddr> {
    match kind {
        TunnelKind::Ipip => (node.spec.bgp.as_ref()?.ipv4_ipip_tunnel_addr).map(IpAddr::V4),
        TunnelKind::VxlanV4 => node.spec.ipv4_vxlan_tunnel_addr.map(IpAddr::V4),
        TunnelKind::VxlanV6 => node.spec.ipv6_vxlan_tunnel_addr.map(IpAddr::V6),
    }
}

/// An address of the other family than the tunnel's counts as none.
fn set_address(node: &mut Node, kind: TunnelKind, address: Option<IpAddr>) {
    let (v4, v6) = match address {
        Some(IpAddr::V4(v4)) => (Some(v4), None),
        Some(IpAddr::V6(v6)) => (None, Some(v6)),
        None => (None, None),
    };
    match kind {
        TunnelKind::Ipip => {
            let bgp = node.spec.bgp.get_or_insert_with(NodeBGPSpec::default);
            bgp.ipv4_ipip_tunnel_addr = v4;
        }
        TunnelKind::VxlanV4 => node.spec.ipv4_vxlan_tunnel_addr = v4,
        TunnelKind::VxlanV6 => node.spec.ipv6_vxlan_tunnel_addr = v6,
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

#[cfg(test)]
mod tests {
    use datastore::memory::{Fault, MemoryStore, Request};
    use datastore::store::{Expect, Op};
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    async fn put(store: &MemoryStore, kind: Kind, name: &str, spec: Value) {
        let key = Key::new(kind, name);
        let text = json!({"metadata": {"name": name}, "spec": spec}).to_string();
        Object::decode(&key, text.as_bytes()).expect("tests give objects");
        let put = Op::Put {
            key,
            value: text.into(),
            expect: Expect::Any,
        };
        store.write(put).await.unwrap();
    }

    /// A block of the tunnel's pool that holds one address, of a pod or of a tunnel device.
    async fn put_block(store: &MemoryStore, held_as: Option<&str>) {
        let mut allocations = vec![Value::Null; 64];
        allocations[3] = json!(0);
        let secondary = held_as.map_or_else(|| json!({}), |held_as| json!({"type": held_as}));
        let spec = json!({
            "cidr": "10.1.0.0/26", "affinity": "host:n2", "allocations": allocations,
            "unallocated": [], "attributes": [{"secondary": secondary}],
        });
        put(store, Kind::IPAMBlock, "10-1-0-0-26", spec).await;
    }

    async fn stays_at(store: &MemoryStore, kind: TunnelKind) -> bool {
        let address = IpAddr::from([10, 1, 0, 0]);
        stays(store, kind, address).await.unwrap()
    }

    #[tokio::test]
    async fn with_pod_cidrs_the_first_address_is_the_tunnels_while_a_pool_uses_it() {
        let store = MemoryStore::new();
        let put_node = async |ranges: Value| {
            let key = Key::new(Kind::Node, "n1");
            let mut text = json!({"metadata": {"name": "n1"}, "spec": {}});
            text["status"] = json!({"podCIDRs": ranges});
            let put = Op::Put {
                key,
                value: text.to_string().into(),
                expect: Expect::Any,
            };
            store.write(put).await.unwrap();
        };
        let client = store.client();
        let shared: &dyn Store = &client;
        let addresses = async || {
            first_of_pod_cidr(shared, "n1", &mut Announcement::at_once())
                .await
                .unwrap();
            let key = Key::new(Kind::Node, "n1");
            let node = read(shared, &key).await.unwrap().unwrap();
            let shown = KINDS.map(|(kind, _)| address(&node, kind));
            shown.map(|address| address.map(|address| address.to_string()))
        };
        let pool = |mode: &str| json!({"cidr": "10.1.0.0/16", "vxlanMode": mode});
        put(&store, Kind::IPPool, "p", pool("Always")).await;
        put_node(json!([])).await;
        put(
            &store,
            Kind::IPPool,
            "p6",
            json!({"cidr": "fd00::/48", "vxlanMode": "Always"}),
        )
        .await;
        assert_eq!(addresses().await, [None, None, None], "not known yet");
        put_node(json!(["fd00::/64", "10.1.3.0/24"])).await;
        let first = Some("10.1.3.1".to_owned());
        let first6 = Some("fd00::1".to_owned());
        assert_eq!(addresses().await, [None, first.clone(), first6.clone()]);
        assert_eq!(
            addresses().await,
            [None, first, first6.clone()],
            "they stay"
        );
        put(&store, Kind::IPPool, "p", pool("Never")).await;
        assert_eq!(addresses().await, [None, None, first6]);
        let blocks = objects(shared, Kind::IPAMBlock).await.unwrap();
        assert!(blocks.is_empty(), "IPAM has no part in it");
    }

    #[tokio::test]
    async fn an_address_that_the_node_may_name_is_not_given_back() {
        for (fault, held) in [
            (Fault::LostReply, true),
            (Fault::Late, true),
            (Fault::Conflict, false),
        ] {
            let store = MemoryStore::new();
            let pool = json!({"cidr": "10.1.0.0/16", "vxlanMode": "Always"});
            put(&store, Kind::IPPool, "p", pool).await;
            put(&store, Kind::Node, "n1", json!({})).await;
            let client = store.client();
            client.set_fault_plan(move |request| match request {
                Request::Write(op) if op.key().kind == Kind::Node => Some(fault),
                _ => None,
            });
            let ipam = Ipam::new(Arc::new(client.clone()), "n1");
            allocate(&client, &ipam, "n1", &mut Announcement::at_once())
                .await
                .unwrap_err();
            store.deliver_late();
            let addresses = async || {
                let store: &dyn Store = &store;
                let blocks = objects(store, Kind::IPAMBlock).await.unwrap();
                let taken = blocks.iter().map(|block| match block {
                    Object::IPAMBlock(block) => block.spec.allocations.iter().flatten().count(),
                    _ => 0,
                });
                let node = read(store, &Key::new(Kind::Node, "n1")).await.unwrap();
                (
                    taken.sum::<usize>(),
                    address(&node.unwrap(), TunnelKind::VxlanV4),
                )
            };
            let (taken, named) = addresses().await;
            assert_eq!(
                (taken, named.is_some()),
                (usize::from(held), held),
                "{fault:?}"
            );
            // The next attempt leaves one address, which the Node names.
            let ipam = Ipam::new(Arc::new(store.clone()), "n1");
            allocate(&store, &ipam, "n1", &mut Announcement::at_once())
                .await
                .unwrap();
            let (taken, again) = addresses().await;
            assert_eq!((taken, again.is_some()), (1, true), "{fault:?}");
            assert!(named.is_none() || named == again);
        }
    }

    #[tokio::test]
    async fn a_tunnel_address_is_held_as_long_as_the_node_says_it() {
        for fault in [Fault::Conflict, Fault::LostReply] {
            let store = MemoryStore::new();
            let pool = |mode: &str| json!({"cidr": "10.1.0.0/16", "vxlanMode": mode});
            put(&store, Kind::IPPool, "p", pool("Always")).await;
            put(&store, Kind::Node, "n1", json!({})).await;
            let ipam = Ipam::new(Arc::new(store.clone()), "n1");
            allocate(&store, &ipam, "n1", &mut Announcement::at_once())
                .await
                .unwrap();
            put(&store, Kind::IPPool, "p", pool("Never")).await;

            let client = store.client();
            client.set_fault_plan(move |request| match request {
                Request::Write(op) if op.key().kind == Kind::Node => Some(fault),
                _ => None,
            });
            let ipam = Ipam::new(Arc::new(client.clone()), "n1");
            allocate(&client, &ipam, "n1", &mut Announcement::at_once())
                .await
                .unwrap_err();
            let taken = async || {
                let blocks = objects(&store, Kind::IPAMBlock).await.unwrap();
                let taken = blocks.iter().map(|block| match block {
                    Object::IPAMBlock(block) => block.spec.allocations.iter().flatten().count(),
                    _ => 0,
                });
                taken.sum::<usize>()
            };
            assert_eq!(taken().await, 1, "{fault:?}: the Node may say it");
            let ipam = Ipam::new(Arc::new(store.clone()), "n1");
            allocate(&store, &ipam, "n1", &mut Announcement::at_once())
                .await
                .unwrap();
            let node = read(&store, &Key::new(Kind::Node, "n1")).await.unwrap();
            assert_eq!(address(&node.unwrap(), TunnelKind::VxlanV4), None);
            assert_eq!(taken().await, 0, "{fault:?}");
        }
    }

    #[tokio::test]
    async fn a_tunnel_address_stays_while_its_pool_is_only_disabled() {
        let store = MemoryStore::new();
        let pool = |disabled: bool| json!({"cidr": "10.1.0.0/16", "vxlanMode": "Always", "disabled": disabled});
        put(&store, Kind::IPPool, "p", pool(false)).await;
        assert!(!stays_at(&store, TunnelKind::VxlanV4).await, "IPAM decides");
        put(&store, Kind::IPPool, "p", pool(true)).await;
        assert!(stays_at(&store, TunnelKind::VxlanV4).await);
        assert!(!stays_at(&store, TunnelKind::Ipip).await);
        // A smaller pool inside it is the address's own.
        let inner = json!({"cidr": "10.1.0.0/24", "disabled": true});
        put(&store, Kind::IPPool, "q", inner).await;
        assert!(!stays_at(&store, TunnelKind::VxlanV4).await);
    }

    #[tokio::test]
    async fn a_tunnel_address_stays_while_pods_of_a_deleted_pool_live() {
        let store = MemoryStore::new();
        assert!(!stays_at(&store, TunnelKind::VxlanV4).await);
        put_block(&store, Some("vxlanTunnelAddress")).await;
        assert!(!stays_at(&store, TunnelKind::VxlanV4).await, "no pod");
        put_block(&store, None).await;
        assert!(stays_at(&store, TunnelKind::VxlanV4).await);
        let other = json!({"cidr": "10.2.0.0/16"});
        put(&store, Kind::IPPool, "other", other).await;
        assert!(stays_at(&store, TunnelKind::VxlanV4).await);
    }
}
