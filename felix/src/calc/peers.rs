//! The speaker's configuration: full mesh and explicit peers.
//!
//! Explicit peers are taken in the order of creation: those of all nodes, then those of some, then the mirrored ones that
//! follow from another node's (`reverse`). The first one of an address and port counts. An explicit peer takes the place
//! of a mesh peer with the same address and port.

mod advertised;
mod drain;
mod explicit;
mod filter;
pub(super) mod options;
mod password;
mod pods;
mod reverse;
mod session;
mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use api::bgp::{BGPConfigurationSpec, BGPPeerSpec};
use api::bgp_filter::BGPFilterSpec;
use api::key::{Key, Kind};
use api::params::Backend;
use bgp::config::{Config, PeerConfig, RoutePolicy};
use bgp::types::{Asn, PeerName, RouterId};

use super::Graph;
use super::block::Blocks;
use super::dirty::Dirty;
use super::family::PerFamily;
use super::host::Host;
use super::local::Local;
use super::pool::Pools;
use super::problem::{Problem, Reason, Subject};
use super::service::Ranges;
use super::settings::{ClusterRoutes, Listen, Settings};
use super::underlay::Underlay;
use super::workload::Workloads;
use crate::desired::AddrKey;
use crate::rules::Family;
pub(super) use password::wanted as wanted_passwords;
pub use password::{Secret, SecretRef};
use shared::Holders;

/// AS of a cluster that names none.
const DEFAULT_ASN: u32 = 64512;
const DEFAULT_PORT: u16 = 179;
/// What Calico's speaker tells its peers.
const RESTART_TIME: Duration = Duration::from_secs(120);
/// RFC 4724 §3: 12 bits.
const RESTART_TIME_MAX: Duration = Duration::from_secs(4095);

/// A BGPPeer object, with the time of its creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) created: Option<String>,
    /// Those that are about its sessions.
    pub(super) options: BTreeMap<String, String>,
    pub(super) spec: BGPPeerSpec,
}

/// What the configuration is made of.
pub(super) struct Inputs<'a> {
    pub(super) settings: &'a Settings,
    pub(super) hosts: &'a BTreeMap<String, Host>,
    pub(super) pools: &'a Pools,
    pub(super) workloads: &'a Workloads,
    pub(super) blocks: &'a Blocks,
    pub(super) local: &'a Local,
    /// How next hops are reached.
    pub(super) underlay: &'a Underlay,
    /// Metric of routes that are not elevated.
    pub(super) normal: PerFamily<u32>,
    /// Of Services' addresses.
    pub(super) services: &'a Ranges,
    /// By name: `default`, `node.<name>`.
    pub(super) configs: &'a BTreeMap<String, BGPConfigurationSpec>,
    pub(super) peers: &'a BTreeMap<Key, Peer>,
    /// By name.
    pub(super) filters: &'a BTreeMap<String, BGPFilterSpec>,
    /// What is known of passwords.
    pub(super) passwords: &'a BTreeMap<SecretRef, Secret>,
}

/// The configuration, absent when this node does not speak BGP.
#[derive(Debug, Default)]
pub(super) struct Peers {
    pub(super) config: Option<Config>,
    /// Peers that are reached by a gateway of their own (`reachableBy`), and it.
    pub(super) gateways: BTreeMap<IpAddr, IpAddr>,
    /// Peers that are pods of this node, and its own address on the device of each.
    pub(super) on_pods: BTreeMap<IpAddr, AddrKey>,
    /// What filters say depends on how routes leave this node.
    pub(super) by_interface: bool,
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
                problems: vec![problem],
                ..Self::default()
            };
        };
        let holders = Holders::of(inputs.hosts);
        let mut problems = holders.problems();
        let communities = inputs.advertised(&mut problems);
        problems.extend(inputs.owners_of_routes());
        problems.extend(inputs.other_priorities());
        let mut builder = Builder {
            inputs,
            own,
            asn: Asn(own.asn.unwrap_or_else(|| inputs.global_asn())),
            export: session::export_policy(
                communities,
                inputs.pools,
                session::service_ranges(inputs.services, own.cluster_id.is_some()),
                inputs.settings.learned_routes,
            ),
            taken: BTreeMap::new(),
            peers: BTreeMap::new(),
            gateways: BTreeMap::new(),
            on_pods: BTreeMap::new(),
            problems,
            holders,
        };
        builder.forward();
        builder.pods();
        builder.reverse();
        builder.mesh();
        builder.share_addresses();
        builder.drain();
        let v4 = match own.address(Family::V4) {
            Some(IpAddr::V4(addr)) => Some(addr),
            Some(IpAddr::V6(_)) | None => None,
        };
        let config = Config {
            asn: builder.asn,
            router_id: RouterId(inputs.settings.router_id(v4)),
            listen_port: inputs.listen_port(name),
            listen_addresses: inputs.listen_addresses(own, &builder.on_pods),
            cluster_id: own.cluster_id,
            restart_time: inputs.restart_time(),
            deferral_time: inputs.settings.deferral_time,
            multipath: inputs.settings.multipath,
            peers: builder.peers,
        };
        Self {
            config: Some(config),
            gateways: builder.gateways,
            on_pods: builder.on_pods,
            by_interface: filter::ask_for_interfaces(inputs.filters),
            problems: builder.problems,
        }
    }
}

/// What BGPConfiguration says of pools' routes; `None`: all that Felix's side does not write.
fn cluster_routes(
    settings: &Settings,
    config: Option<&BGPConfigurationSpec>,
) -> Option<ClusterRoutes> {
    let word = config?.program_cluster_routes.as_deref()?;
    ClusterRoutes::of_bgp(word).filter(|_| settings.backend == Backend::Bgp)
}

/// The metric of normal routes: BGPConfiguration's, else that of pods' routes.
fn normal_metric(settings: &Settings, config: Option<&BGPConfigurationSpec>) -> PerFamily<u32> {
    let given = |family| match family {
        Family::V4 => config?.ipv4_normal_route_priority,
        Family::V6 => config?.ipv6_normal_route_priority,
    };
    PerFamily::of(|family| given(family).unwrap_or(settings.normal_route_metric))
}

impl Graph {
    /// Whether pools' routes may come from BGP, and which of them are normal.
    pub(super) fn flush_owner(&mut self, dirty: &mut Dirty) {
        if !dirty.peers {
            return;
        }
        let config = self.bgp_configs.get("default");
        let of_bgp = cluster_routes(&self.settings, config);
        let normal = normal_metric(&self.settings, config);
        let changed = of_bgp != self.of_bgp || normal != self.normal;
        dirty.all_prefixes |= changed;
        dirty.own_addresses |= changed;
        self.of_bgp = of_bgp;
        self.normal = normal;
    }
}

impl Inputs<'_> {
    /// Kinds of pool whose routes both settings ask for, or none.
    fn owners_of_routes(&self) -> Option<Problem> {
        let felix = self.settings.cluster_routes;
        let of_bgp = cluster_routes(self.settings, self.global())?;
        let kinds = [
            ("of IPIP pools", felix.ipip(), of_bgp.ipip()),
            ("of pools without tunnel", felix.plain(), of_bgp.plain()),
        ];
        let told = |(what, by_felix, by_bgp): (&str, bool, bool)| match (by_felix, by_bgp) {
            (true, true) => Some(format!(
                "routes {what} are made from blocks, as FelixConfiguration's programClusterRoutes says"
            )),
            (false, false) => Some(format!(
                "nobody makes routes {what}: FelixConfiguration's programClusterRoutes leaves them out as well"
            )),
            _ => None,
        };
        let faults: Vec<String> = kinds.into_iter().filter_map(told).collect();
        let key = Key::new(Kind::BGPConfiguration, "default");
        let reason = Reason::Invalid(faults.join("; ").into());
        (!faults.is_empty()).then(|| problem(&key, "spec.programClusterRoutes", reason))
    }

    /// Metrics that should be one and are not.
    fn other_priorities(&self) -> impl Iterator<Item = Problem> + use<> {
        let normal = self.normal;
        let metric = self.settings.normal_route_metric;
        Family::ALL.into_iter().filter_map(move |family| {
            let (field, given) = match family {
                Family::V4 => ("spec.ipv4NormalRoutePriority", normal[family]),
                Family::V6 => ("spec.ipv6NormalRoutePriority", normal[family]),
            };
            let comes_of_it = if metric < given {
                "so every pod's address is announced beside its block"
            } else {
                "so an address that is announced by itself is less preferred than a block"
            };
            let why = format!(
                "is {given}, while pods' routes have metric {metric} (FelixConfiguration's ipv4NormalRoutePriority), {comes_of_it}"
            );
            let key = Key::new(Kind::BGPConfiguration, "default");
            (given != metric).then(|| problem(&key, field, Reason::Invalid(why.into())))
        })
    }

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

    fn listen_addresses(
        &self,
        own: &Host,
        on_pods: &BTreeMap<IpAddr, AddrKey>,
    ) -> BTreeSet<IpAddr> {
        let mode = self
            .global()
            .and_then(|config| config.extra.get("bindMode"));
        let only_own = self.settings.listen == Listen::NodeAddresses;
        if only_own || mode.and_then(|mode| mode.as_str()) == Some("NodeIP") {
            let towards_pods = on_pods.values().map(|key| key.addr.addr());
            own.addresses().chain(towards_pods).collect()
        } else {
            BTreeSet::new()
        }
    }

    fn restart_time(&self) -> Duration {
        let time = self
            .global()
            .and_then(|config| config.node_mesh_max_restart_time.as_deref());
        restart_time(time)
    }
}

/// Whose field asks for a session: decides its name and which side waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// Every node has the peer.
    Global,
    /// Some nodes have it.
    Node,
}

impl Scope {
    const fn of(spec: &BGPPeerSpec) -> Self {
        if spec.node.is_empty() && spec.node_selector.is_empty() {
            Self::Global
        } else {
            Self::Node
        }
    }

    const fn class(self) -> &'static str {
        match self {
            Self::Global => "Global",
            Self::Node => "Node",
        }
    }
}

/// One session to be.
struct Remote {
    address: IpAddr,
    port: u16,
    /// The port is part of the name when the object gives it.
    named_port: Option<u16>,
    asn: Asn,
    cluster_id: Option<Ipv4Addr>,
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
    gateways: BTreeMap<IpAddr, IpAddr>,
    on_pods: BTreeMap<IpAddr, AddrKey>,
    problems: Vec<Problem>,
    holders: Holders<'a>,
}

impl Builder<'_> {
    /// Sessions to a node, one for each of its addresses that no older node has. Without an own AS it is in the cluster's, which is what it
    /// thinks itself.
    fn node_remotes(&self, name: &str, host: &Host) -> Vec<Remote> {
        let remote = |address| Remote {
            address,
            port: self.inputs.listen_port(name),
            named_port: None,
            asn: Asn(host.asn.unwrap_or_else(|| self.inputs.global_asn())),
            cluster_id: host.cluster_id,
            passive: false,
        };
        let is_its = |address: &IpAddr| {
            let own = self.own.addresses().any(|own| own == *address);
            !own && self.holders.holder(*address) == Some(name)
        };
        host.addresses().filter(is_its).map(remote).collect()
    }

    fn mesh(&mut self) {
        let inputs = self.inputs;
        if !inputs.mesh_enabled() || self.own.cluster_id.is_some() {
            return;
        }
        let password = match self.mesh_password() {
            Ok(password) => password,
            Err(Refusal { field, reason }) => {
                let key = Key::new(Kind::BGPConfiguration, "default");
                self.problems.push(problem(&key, field, reason));
                return;
            }
        };
        let others = inputs.hosts.iter().filter(|(name, host)| {
            **name != inputs.settings.node_name && host.cluster_id.is_none()
        });
        for (name, host) in others {
            for mut remote in self.node_remotes(name, host) {
                let Some(own) = self.own_address(remote.address) else {
                    continue;
                };
                let at = SocketAddr::new(remote.address, remote.port);
                if let Some(key) = self.taken.get(&at) {
                    let address = remote.address;
                    let reason = Reason::ReplacesMeshPeer { address };
                    self.problems.push(problem(key, "spec.peerIP", reason));
                    continue;
                }
                // Both ends must agree who connects; Calico's nodes compare the addresses as texts.
                remote.passive = own.to_string() < remote.address.to_string();
                if let Some(mut config) = self.session(&remote, None) {
                    config.password.clone_from(&password);
                    let name = session::peer_name("Mesh", &remote);
                    self.peers.insert(name, config);
                }
            }
        }
    }

    /// The node whose session an address and port has; without a port, the one that it listens on is meant.
    fn node_at(&self, address: IpAddr, port: Option<u16>) -> Option<(&str, &Host)> {
        let name = self.holders.holder(address)?;
        let listens = self.inputs.listen_port(name);
        let host = self.inputs.hosts.get(name)?;
        port.is_none_or(|port| port == listens)
            .then_some((name, host))
    }

    /// Of peers that share an address, an incoming connection may be nobody's: none of them waits for one. And the kernel
    /// has one password for an address.
    fn share_addresses(&mut self) {
        let mut by_address: BTreeMap<IpAddr, Vec<&mut PeerConfig>> = BTreeMap::new();
        for peer in self.peers.values_mut() {
            by_address.entry(peer.address).or_default().push(peer);
        }
        for (address, peers) in by_address.iter_mut().filter(|(_, peers)| peers.len() > 1) {
            let password = peers[0].password.clone();
            for peer in peers {
                peer.passive = false;
                let at = SocketAddr::new(*address, peer.port);
                if peer.password != password
                    && let Some(key) = self.taken.get(&at)
                {
                    let reason = Reason::PasswordDiffers { address: *address };
                    self.problems.push(problem(key, "spec.password", reason));
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
}

/// The peers in the order in which they count.
fn in_order(peers: &BTreeMap<Key, Peer>) -> Vec<(&Key, &Peer)> {
    let mut peers: Vec<(&Key, &Peer)> = peers.iter().collect();
    peers.sort_by_key(|(key, peer)| (peer.created.as_deref(), *key));
    peers
}

/// What RFC 4724 can tell of a Restart Time.
fn restart_time(text: Option<&str>) -> Duration {
    text.and_then(api::duration::parse)
        .map_or(RESTART_TIME, |time| time.min(RESTART_TIME_MAX))
}

fn problem(key: &Key, field: &'static str, reason: Reason) -> Problem {
    Problem {
        subject: Subject::Object(key.clone()),
        field,
        reason,
    }
}
