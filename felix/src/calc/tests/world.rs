//! Builders of facts, and a reader that keeps what a graph gave out.

use std::collections::BTreeMap;

use api::key::{Key, Kind};
use api::object::Object;
use bgp::config::Config;
use bgp::route::{BestRoute, RouteChange, RouteSource};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::super::{Graph, Settings};
use crate::desired::{IfName, NextHop, RouteKey, RouteKind, RouteSpec, Row, RowKey};
use crate::kernel::{KernelEvent, LinkState};

pub(super) struct World {
    pub(super) graph: Graph,
    pub(super) objects: BTreeMap<Key, Object>,
    pub(super) rows: BTreeMap<RowKey, Row>,
    pub(super) originations: BTreeMap<IpNet, bgp::route::Origination>,
    pub(super) config: Option<Config>,
}

impl World {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            graph: Graph::new(settings),
            objects: BTreeMap::new(),
            rows: BTreeMap::new(),
            originations: BTreeMap::new(),
            config: None,
        }
    }

    /// Node `n1`, in sync, on a host with one uplink and a default route.
    pub(super) fn started() -> Self {
        let mut world = Self::new(Settings::new("n1"));
        world.start();
        world
    }

    pub(super) fn start(&mut self) {
        self.kernel(&link("eth0", true, 1500));
        self.kernel(&addr("eth0", "10.0.0.1/24"));
        self.kernel(&KernelEvent::RowSet(route(
            "0.0.0.0/0",
            "10.0.0.254",
            "eth0",
        )));
        for kind in Graph::KINDS {
            self.graph.handle_in_sync(kind);
        }
        self.graph.handle_kernel_in_sync();
    }

    /// The graph's problems, in words.
    pub(super) fn problems(&self) -> Vec<String> {
        let problems = self.graph.problems();
        problems.iter().map(ToString::to_string).collect()
    }

    pub(super) fn put(&mut self, (key, object): (Key, Object)) {
        self.graph.handle_update(&key, Some(&object));
        self.objects.insert(key, object);
    }

    pub(super) fn remove(&mut self, key: &Key) {
        self.graph.handle_update(key, None);
        self.objects.remove(key);
    }

    pub(super) fn bgp(&mut self, prefix: &str, next_hops: &[&str]) {
        self.graph.handle_bgp_route(bgp_route(prefix, next_hops));
    }

    pub(super) fn kernel(&mut self, event: &KernelEvent) {
        self.graph.handle_kernel_event(event);
    }

    pub(super) fn flush(&mut self) {
        self.graph.flush();
        while let Some((key, row)) = self.graph.poll_desired() {
            let old = match &row {
                Some(row) => self.rows.insert(key.clone(), row.clone()),
                None => self.rows.remove(&key),
            };
            assert_ne!(old, row, "{key:?} was given out though it did not change");
        }
        while let Some((prefix, origination)) = self.graph.poll_originate() {
            match origination {
                Some(origination) => self.originations.insert(prefix, origination),
                None => self.originations.remove(&prefix),
            };
        }
        if let Some(config) = self.graph.poll_bgp_config() {
            assert_ne!(self.config.as_ref(), Some(&config));
            self.config = Some(config);
        }
    }

    pub(super) fn announced(&self) -> Vec<String> {
        self.originations.keys().map(ToString::to_string).collect()
    }

    pub(super) fn peer_names(&self) -> Vec<String> {
        let config = self.config.as_ref().expect("the node speaks BGP");
        config.peers.keys().map(ToString::to_string).collect()
    }
}

pub(super) fn object(key: Key, spec: &Value) -> (Key, Object) {
    let json = json!({
        "metadata": {"name": key.name, "namespace": key.namespace, "labels": {"name": key.name}},
        "spec": spec,
    });
    let object = Object::decode(&key, json.to_string().as_bytes()).expect("tests give objects");
    (key, object)
}

pub(super) fn pool(name: &str, spec: Value) -> (Key, Object) {
    object(Key::new(Kind::IPPool, name), &spec)
}

pub(super) fn bgp_config(name: &str, spec: Value) -> (Key, Object) {
    object(Key::new(Kind::BGPConfiguration, name), &spec)
}

pub(super) fn bgp_peer(name: &str, spec: Value) -> (Key, Object) {
    object(Key::new(Kind::BGPPeer, name), &spec)
}

pub(super) fn bgp_filter(name: &str, spec: Value) -> (Key, Object) {
    object(Key::new(Kind::BGPFilter, name), &spec)
}

/// A node; `tunnel` is the address of its VXLAN device.
pub(super) fn node(name: &str, address: &str, tunnel: Option<&str>) -> (Key, Object) {
    let spec = json!({
        "bgp": {"ipv4Address": address},
        "ipv4VXLANTunnelAddr": tunnel,
    });
    object(Key::new(Kind::Node, name), &spec)
}

/// A node with the addresses of tunnel devices that a pool asks for: 10.1.`number`.0 for VXLAN, .63 for IPIP.
pub(super) fn node_in(pool: &Value, name: &str, address: &str, number: u8) -> (Key, Object) {
    let asks = |mode: &str| pool.get(mode).is_some_and(|mode| mode != "Never");
    let vxlan = asks("vxlanMode").then(|| format!("10.1.{number}.0"));
    let ipip = asks("ipipMode").then(|| format!("10.1.{number}.63"));
    let spec = json!({
        "bgp": {"ipv4Address": address, "ipv4IPIPTunnelAddr": ipip},
        "ipv4VXLANTunnelAddr": vxlan,
    });
    object(Key::new(Kind::Node, name), &spec)
}

/// A block; `held` are ordinals and the nodes that have them.
pub(super) fn block(range: &str, owner: Option<&str>, held: &[(usize, &str)]) -> (Key, Object) {
    let range: IpNet = range.parse().unwrap();
    let size = 1_usize << (range.max_prefix_len() - range.prefix_len());
    let mut allocations = vec![Value::Null; size];
    let mut attributes = Vec::new();
    for (ordinal, node) in held {
        allocations[*ordinal] = json!(attributes.len());
        attributes.push(json!({"secondary": {"node": node}}));
    }
    let spec = json!({
        "cidr": range,
        "affinity": owner.map(|owner| format!("host:{owner}")),
        "allocations": allocations,
        "unallocated": [],
        "attributes": attributes,
    });
    object(
        Key::new(Kind::IPAMBlock, api::ipam::block_name(range)),
        &spec,
    )
}

pub(super) fn affinity(node: &str, range: &str, state: &str) -> (Key, Object) {
    let range: IpNet = range.parse().unwrap();
    let name = api::ipam::affinity_name(node, range);
    let spec = json!({"state": state, "node": node, "cidr": range, "type": "host"});
    object(Key::new(Kind::BlockAffinity, name), &spec)
}

/// A pod.
pub(super) fn endpoint(name: &str, node: &str, ifname: &str, addrs: &[&str]) -> (Key, Object) {
    let spec = json!({
        "node": node,
        "endpoint": "eth0",
        "interfaceName": ifname,
        "ipNetworks": addrs,
        "mac": "02:00:00:00:00:05",
    });
    object(
        Key::namespaced(Kind::WorkloadEndpoint, "default", name),
        &spec,
    )
}

/// The pod's endpoint, with its IPAM handle.
pub(super) fn with_handle((key, mut object): (Key, Object), handle: &str) -> (Key, Object) {
    if let Object::WorkloadEndpoint(endpoint) = &mut object {
        let name = "networking.tortie.dev/ipam-handle".to_owned();
        endpoint
            .metadata
            .annotations
            .insert(name, handle.to_owned());
    }
    (key, object)
}

/// The block, with the handle of its first allocation.
pub(super) fn held_under((key, mut object): (Key, Object), handle: &str) -> (Key, Object) {
    if let Object::IPAMBlock(block) = &mut object {
        block.spec.attributes[0].handle_id = Some(handle.to_owned());
    }
    (key, object)
}

pub(super) fn bgp_route(prefix: &str, next_hops: &[&str]) -> RouteChange {
    let best = BestRoute {
        next_hops: next_hops.iter().map(|hop| hop.parse().unwrap()).collect(),
        source: RouteSource::Ibgp,
        // Of a route of normal priority: metric 1024.
        local_pref: 2_147_482_623,
        peer: None,
        stale: false,
    };
    RouteChange {
        prefix: prefix.parse().unwrap(),
        best: (!next_hops.is_empty()).then_some(best),
    }
}

pub(super) fn link(name: &str, up: bool, mtu_bytes: u32) -> KernelEvent {
    KernelEvent::Link(LinkState {
        ifname: IfName::from(name),
        ifindex: 2,
        up,
        mtu_bytes,
        mac: None,
        kind: None,
    })
}

pub(super) fn addr(name: &str, addr: &str) -> KernelEvent {
    KernelEvent::HostAddr {
        ifname: IfName::from(name),
        addr: addr.parse().unwrap(),
    }
}

/// A foreign route.
pub(super) fn route(dst: &str, gateway: &str, ifname: &str) -> Row {
    let key = RouteKey {
        table: 254,
        dst: dst.parse().unwrap(),
        tos: 0,
        metric: 0,
    };
    let spec = RouteSpec {
        kind: RouteKind::Unicast,
        scope: 0,
        protocol: 4,
        next_hops: vec![NextHop {
            gateway: Some(gateway.parse().unwrap()),
            ifname: Some(IfName::from(ifname)),
            onlink: false,
        }]
        .into(),
        object: None,
        prefsrc: None,
        mtu_bytes: None,
    };
    Row::Route(key, spec)
}
