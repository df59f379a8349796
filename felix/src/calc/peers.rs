//! The speaker's configuration: full mesh and explicit peers.
//!
//! Explicit peers are taken in the order of creation, those of all nodes before those of some; the first one of an address
//! and port counts. An explicit peer takes the place of a mesh peer with the same address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use api::bgp::{BGPConfigurationSpec, BGPPeerSpec};
use api::key::{Key, Kind};
use api::params::Backend;
use api::selector::Selector;
use bgp::config::{Config, NextHopMode, PeerConfig, PolicyRule, RoutePolicy};
use bgp::types::{AfiSafi, Asn, PeerName, RouterId};

use super::host::Host;
use super::pool::Pools;
use super::problem::{Problem, Reason, Subject};
use super::settings::Settings;

/// AS of a cluster that names none.
const DEFAULT_ASN: u32 = 64512;
const DEFAULT_PORT: u16 = 179;
/// What Calico's speaker offers and waits, so that its peers see no difference.
const HOLD_TIME: Duration = Duration::from_secs(240);
const CONNECT_RETRY_TIME: Duration = Duration::from_secs(5);
const RESTART_TIME: Duration = Duration::from_secs(120);
/// RFC 4724 §3: 12 bits.
const RESTART_TIME_MAX: Duration = Duration::from_secs(4095);
/// Fields of a BGPPeer without which its session would be another one than the operator asked for.
const UNSUPPORTED: [(&str, &str); 3] = [
    ("password", "spec.password"),
    ("filters", "spec.filters"),
    ("localWorkloadSelector", "spec.localWorkloadSelector"),
];

/// A BGPPeer object, with the time of its creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) created: Option<String>,
    pub(super) spec: BGPPeerSpec,
}

/// What the configuration is made of.
pub(super) struct Inputs<'a> {
    pub(super) settings: &'a Settings,
    pub(super) hosts: &'a BTreeMap<String, Host>,
    pub(super) pools: &'a Pools,
    /// By name: `default`, `node.<name>`.
    pub(super) configs: &'a BTreeMap<String, BGPConfigurationSpec>,
    pub(super) peers: &'a BTreeMap<Key, Peer>,
}

/// The configuration, absent when this node does not speak BGP.
#[derive(Debug, Default)]
pub(super) struct Peers {
    pub(super) config: Option<Config>,
    pub(super) problems: Vec<Problem>,
}

impl Peers {
    pub(super) fn derive(inputs: &Inputs<'_>) -> Self {
        if inputs.settings.backend != Backend::Bgp {
            return Self::default();
        }
        let name = &inputs.settings.node_name;
        let own = inputs.hosts.get(name);
        let Some(own) = own.filter(|host| host.addresses().next().is_some()) else {
            let problem = Problem {
                subject: Subject::Object(Key::new(Kind::Node, name.as_str())),
                field: "spec.bgp",
                reason: Reason::OwnNodeLacks {
                    field: "spec.bgp.ipv4Address",
                },
            };
            return Self {
                config: None,
                problems: vec![problem],
            };
        };
        let mut builder = Builder {
            inputs,
            own,
            asn: Asn(own.asn.unwrap_or_else(|| inputs.global_asn())),
            export: export_policy(inputs.pools),
            taken: BTreeMap::new(),
            peers: BTreeMap::new(),
            problems: Vec::new(),
        };
        builder.explicit();
        builder.mesh();
        let v4 = own.v4.map(|net| net.addr());
        let config = Config {
            asn: builder.asn,
            router_id: RouterId(inputs.settings.router_id(v4)),
            listen_port: inputs.listen_port(name),
            listen_addresses: inputs.listen_addresses(own),
            cluster_id: own.cluster_id,
            restart_time: inputs.restart_time(),
            deferral_time: inputs.settings.deferral_time,
            peers: builder.peers,
        };
        Self {
            config: Some(config),
            problems: builder.problems,
        }
    }
}

impl Inputs<'_> {
    fn global(&self) -> Option<&BGPConfigurationSpec> {
        self.configs.get("default")
    }

    fn global_asn(&self) -> u32 {
        self.global()
            .and_then(|config| config.as_number)
            .unwrap_or(DEFAULT_ASN)
    }

    fn mesh_enabled(&self) -> bool {
        self.global()
            .and_then(|config| config.node_to_node_mesh_enabled)
            .unwrap_or(true)
    }

    fn listen_port(&self, node: &str) -> u16 {
        self.configs
            .get(&format!("node.{node}"))
            .and_then(|config| config.listen_port)
            .or_else(|| self.global()?.listen_port)
            .unwrap_or(DEFAULT_PORT)
    }

    fn listen_addresses(&self, own: &Host) -> BTreeSet<IpAddr> {
        let mode = self
            .global()
            .and_then(|config| config.extra.get("bindMode"));
        if mode.and_then(|mode| mode.as_str()) == Some("NodeIP") {
            own.addresses().collect()
        } else {
            BTreeSet::new()
        }
    }

    fn restart_time(&self) -> Duration {
        self.global()
            .and_then(|config| config.node_mesh_max_restart_time.as_deref())
            .and_then(api::duration::parse)
            .map_or(RESTART_TIME, |time| time.min(RESTART_TIME_MAX))
    }

    /// The node that has this address.
    fn node_at(&self, addr: IpAddr) -> Option<(&String, &Host)> {
        self.hosts
            .iter()
            .find(|(_, host)| host.addresses().any(|own| own == addr))
    }
}

/// Where an explicit peer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Global,
    Node,
}

/// One session to be.
struct Remote {
    address: IpAddr,
    port: u16,
    /// The port is part of the name when the object gives it.
    named_port: Option<u16>,
    asn: Asn,
    cluster_id: Option<std::net::Ipv4Addr>,
    passive: bool,
}

/// Why a BGPPeer is left out.
struct Refusal {
    field: &'static str,
    reason: Reason,
}

const fn refusal(field: &'static str, reason: Reason) -> Refusal {
    Refusal { field, reason }
}

struct Builder<'a> {
    inputs: &'a Inputs<'a>,
    own: &'a Host,
    asn: Asn,
    export: RoutePolicy,
    /// Address and port → the object that has it.
    taken: BTreeMap<SocketAddr, Key>,
    peers: BTreeMap<PeerName, PeerConfig>,
    problems: Vec<Problem>,
}

impl Builder<'_> {
    fn explicit(&mut self) {
        let inputs = self.inputs;
        let mut peers: Vec<(&Key, &Peer)> = inputs.peers.iter().collect();
        peers.sort_by_key(|(key, peer)| (peer.created.clone(), *key));
        for wanted in [Scope::Global, Scope::Node] {
            for (key, peer) in &peers {
                let scope = if peer.spec.node.is_empty() && peer.spec.node_selector.is_empty() {
                    Scope::Global
                } else {
                    Scope::Node
                };
                if scope == wanted
                    && let Err(Refusal { field, reason }) =
                        self.explicit_peer(key, &peer.spec, scope)
                {
                    self.problems.push(problem(key, field, reason));
                }
            }
        }
    }

    fn explicit_peer(
        &mut self,
        key: &Key,
        spec: &BGPPeerSpec,
        scope: Scope,
    ) -> Result<(), Refusal> {
        if !self.is_for_us(spec)? {
            return Ok(());
        }
        for (name, field) in UNSUPPORTED {
            if spec.extra.get(name).is_some_and(|value| !is_empty(value)) {
                return Err(refusal(field, Reason::Unsupported));
            }
        }
        if spec.reachable_by.is_some() {
            return Err(refusal("spec.reachableBy", Reason::Unsupported));
        }
        for remote in self.remotes(spec, scope)? {
            let at = SocketAddr::new(remote.address, remote.port);
            if let Some(of) = self.taken.get(&at) {
                let reason = Reason::Duplicate {
                    value: at.to_string(),
                    of: of.clone(),
                };
                self.problems.push(problem(key, "spec.peerIP", reason));
                continue;
            }
            let Some(config) = self.peer_config(&remote, Some(spec)) else {
                continue;
            };
            self.taken.insert(at, key.clone());
            let class = match scope {
                Scope::Global => "Global",
                Scope::Node => "Node",
            };
            self.peers.insert(peer_name(class, &remote), config);
        }
        Ok(())
    }

    fn is_for_us(&self, spec: &BGPPeerSpec) -> Result<bool, Refusal> {
        if !spec.node.is_empty() {
            return Ok(spec.node == self.inputs.settings.node_name);
        }
        if spec.node_selector.is_empty() {
            return Ok(true);
        }
        let selector = parse_selector("spec.nodeSelector", &spec.node_selector)?;
        Ok(selector.matches(&self.own.labels))
    }

    fn remotes(&self, spec: &BGPPeerSpec, scope: Scope) -> Result<Vec<Remote>, Refusal> {
        if !spec.peer_selector.is_empty() {
            return self.selected_nodes(spec);
        }
        let (address, named_port) = parse_peer_ip(&spec.peer_ip).ok_or_else(|| {
            let why = format!(
                "{:?}: must be an address, IPv4:port or [IPv6]:port",
                spec.peer_ip
            );
            refusal("spec.peerIP", Reason::Invalid(why.into()))
        })?;
        let asn = spec.as_number.filter(|asn| *asn != 0).ok_or_else(|| {
            let why = "missing: a peer given by address needs its AS number, 1 to 4294967295";
            refusal("spec.asNumber", Reason::Invalid(why.into()))
        })?;
        let node = self.inputs.node_at(address);
        let own = self.own_address(address);
        Ok(vec![Remote {
            address,
            port: named_port
                .or_else(|| node.map(|(name, _)| self.inputs.listen_port(name)))
                .unwrap_or(DEFAULT_PORT),
            named_port,
            asn: Asn(asn),
            cluster_id: node.and_then(|(_, host)| host.cluster_id),
            passive: scope == Scope::Global
                && node.is_some()
                && own.is_some_and(|own| address.to_string() > own.to_string()),
        }])
    }

    fn selected_nodes(&self, spec: &BGPPeerSpec) -> Result<Vec<Remote>, Refusal> {
        let selector = parse_selector("spec.peerSelector", &spec.peer_selector)?;
        let own = &self.inputs.settings.node_name;
        Ok(self
            .inputs
            .hosts
            .iter()
            .filter(|(name, host)| *name != own && selector.matches(&host.labels))
            .flat_map(|(name, host)| self.node_remotes(name, host, self.inputs.global_asn()))
            .collect())
    }

    /// Sessions to a node, one for each of its addresses.
    fn node_remotes(&self, name: &str, host: &Host, default_asn: u32) -> Vec<Remote> {
        let remote = |address| Remote {
            address,
            port: self.inputs.listen_port(name),
            named_port: None,
            asn: Asn(host.asn.unwrap_or(default_asn)),
            cluster_id: host.cluster_id,
            passive: false,
        };
        host.addresses().map(remote).collect()
    }

    /// Mesh peers without an own AS are in the cluster's, which is what they think themselves.
    fn mesh(&mut self) {
        let inputs = self.inputs;
        if !inputs.mesh_enabled() || self.own.cluster_id.is_some() {
            return;
        }
        let others = inputs.hosts.iter().filter(|(name, host)| {
            **name != inputs.settings.node_name && host.cluster_id.is_none()
        });
        for (name, host) in others {
            for mut remote in self.node_remotes(name, host, inputs.global_asn()) {
                let Some(own) = self.own_address(remote.address) else {
                    continue;
                };
                let explicit = self.taken.iter().find(|(at, _)| at.ip() == remote.address);
                if let Some((_, key)) = explicit {
                    let address = remote.address;
                    let reason = Reason::ReplacesMeshPeer { address };
                    self.problems.push(problem(key, "spec.peerIP", reason));
                    continue;
                }
                // Both ends must agree who connects; Calico's nodes compare the addresses as texts.
                remote.passive = own.to_string() < remote.address.to_string();
                if let Some(config) = self.peer_config(&remote, None) {
                    self.peers.insert(peer_name("Mesh", &remote), config);
                }
            }
        }
    }

    /// This node's address of the same family.
    fn own_address(&self, like: IpAddr) -> Option<IpAddr> {
        self.own
            .addresses()
            .find(|own| own.is_ipv4() == like.is_ipv4())
    }

    /// `None` for this node itself, and for a family it has no address of.
    fn peer_config(&self, remote: &Remote, spec: Option<&BGPPeerSpec>) -> Option<PeerConfig> {
        let own = self.own_address(remote.address)?;
        if own == remote.address {
            return None;
        }
        let local_asn = spec.and_then(|spec| spec.local_as_number).map(Asn);
        let internal = remote.asn == local_asn.unwrap_or(self.asn);
        let other_cluster = remote.cluster_id.is_none() || remote.cluster_id != self.own.cluster_id;
        let uses_node_ip = spec.and_then(|spec| spec.source_address.as_deref()) != Some("None");
        Some(PeerConfig {
            address: remote.address,
            port: remote.port,
            local_address: uses_node_ip.then_some(own),
            asn: remote.asn,
            local_asn,
            families: BTreeSet::from([match remote.address {
                IpAddr::V4(_) => AfiSafi::Ipv4Unicast,
                IpAddr::V6(_) => AfiSafi::Ipv6Unicast,
            }]),
            passive: remote.passive,
            hold_time: HOLD_TIME,
            connect_retry_time: CONNECT_RETRY_TIME,
            password: None,
            ttl_security: spec.and_then(|spec| spec.ttl_security),
            multihop: true,
            route_reflector_client: self.own.cluster_id.is_some() && internal && other_cluster,
            next_hop: spec.map_or(NextHopMode::Auto, |spec| next_hop_mode(spec, internal)),
            allow_own_as: spec
                .and_then(|spec| spec.num_allowed_local_as_numbers)
                .unwrap_or(0),
            graceful_restart: true,
            prefix_limit: None,
            import: RoutePolicy::accept_all(),
            export: self.export.clone(),
        })
    }
}

fn next_hop_mode(spec: &BGPPeerSpec, internal: bool) -> NextHopMode {
    match spec.next_hop_mode.as_deref() {
        Some("Self") => NextHopMode::SelfAddress,
        Some("Keep") => NextHopMode::Keep,
        _ if spec.keep_original_next_hop && !internal => NextHopMode::Keep,
        _ => NextHopMode::Auto,
    }
}

/// What a node sends to every peer: what it originates, and what it learned inside pools that are exported.
fn export_policy(pools: &Pools) -> RoutePolicy {
    let rule = |prefix, originated, accept| PolicyRule {
        prefix,
        min_len: None,
        max_len: None,
        originated,
        accept,
    };
    let mut rules: Vec<PolicyRule> = pools
        .export_rules()
        .into_iter()
        .map(|(range, exported)| rule(Some(range), None, exported))
        .collect();
    rules.push(rule(None, Some(true), true));
    RoutePolicy {
        rules,
        default_accept: false,
    }
}

fn peer_name(class: &str, remote: &Remote) -> PeerName {
    let address = remote.address.to_string().replace(['.', ':'], "_");
    let name = match remote.named_port {
        Some(port) => format!("{class}_{address}_port_{port}"),
        None => format!("{class}_{address}"),
    };
    PeerName(Arc::from(name))
}

/// Reads `10.0.0.1`, `10.0.0.1:1790`, `fd00::1`, `[fd00::1]:1790`.
fn parse_peer_ip(text: &str) -> Option<(IpAddr, Option<u16>)> {
    if let Ok(address) = text.parse() {
        return Some((address, None));
    }
    let at: SocketAddr = text.parse().ok()?;
    (at.port() != 0).then(|| (at.ip(), Some(at.port())))
}

fn parse_selector(field: &'static str, text: &str) -> Result<Selector, Refusal> {
    Selector::parse(text).map_err(|error| refusal(field, Reason::Invalid(error.to_string().into())))
}

fn is_empty(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Null => true,
        serde_json::Value::String(text) => text.is_empty(),
        serde_json::Value::Array(items) => items.is_empty(),
        serde_json::Value::Object(fields) => fields.is_empty(),
        serde_json::Value::Bool(_) | serde_json::Value::Number(_) => false,
    }
}

fn problem(key: &Key, field: &'static str, reason: Reason) -> Problem {
    Problem {
        subject: Subject::Object(key.clone()),
        field,
        reason,
    }
}
