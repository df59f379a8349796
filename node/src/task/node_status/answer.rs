//! The answer itself, from what the speaker and the kernel say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Instant, SystemTime};

use api::node_status::{
    AgentStatus, BgpStatus, Class, LearnedFrom, NO_GATEWAY, NodeStatus, PeerStatus, PeerType,
    Readiness, RouteSource, RouteStatus, RouteTable, RoutesStatus, SpeakerStatus,
};
use bgp::status::{PathStanding, PathStatus, PeerState};
use felix::desired::{NextHop, NextHopSpec, RouteKey, RouteKind, RouteSpec, Row};
use felix::kernel::KernelEvent;
use felix_io::{Kernel, Table};
use ipnet::IpNet;

use crate::health::Health;
use crate::task::bgp::Asker;
use crate::task::timestamp;

/// Routing protocol number of the routes that the kernel makes with an address.
const PROTOCOL_KERNEL: u8 = 2;

/// Where [`Facts`] come from.
#[derive(Clone)]
pub struct Sources {
    /// The speaker, when there is one.
    pub bgp: Option<Asker>,
    /// BGP Identifier.
    pub router_id: Option<Ipv4Addr>,
    /// Says whether the speaker has chosen its routes.
    pub health: Health,
}

/// What answers are made from, all of one moment.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Of both families.
    pub speaker: SpeakerStatus,
    /// Sessions.
    pub peers: Vec<bgp::status::PeerStatus>,
    /// The speaker's routes.
    pub routes: Vec<bgp::status::RouteStatus>,
    /// The kernel's.
    pub kernel: Vec<(RouteKey, RouteSpec)>,
    /// That moment, on both clocks.
    pub now: (Instant, SystemTime),
}

impl Sources {
    /// Asks for what these classes need.
    ///
    /// # Errors
    /// The speaker or the kernel did not answer.
    pub async fn ask(self, classes: Vec<Class>) -> Result<Facts, String> {
        let gone = || "the speaker does not answer".to_owned();
        let mut facts = Facts {
            speaker: SpeakerStatus {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                ..SpeakerStatus::default()
            },
            peers: Vec::new(),
            routes: Vec::new(),
            kernel: Vec::new(),
            now: (Instant::now(), SystemTime::now()),
        };
        if classes.contains(&Class::Routes) {
            facts.kernel = kernel_routes().await?;
        }
        let Some(bgp) = &self.bgp else {
            return Ok(facts);
        };
        facts.peers = bgp.peers().await.ok_or_else(gone)?;
        if classes.contains(&Class::Routes) {
            facts.routes = bgp.routes().await.ok_or_else(gone)?;
        }
        if bgp.listen_problems().is_empty() && self.health.selection_complete() {
            facts.speaker.state = Readiness::Ready;
        }
        facts.speaker.router_id = self.router_id;
        facts.speaker.last_boot_time = timestamp(self.health.started()).rfc3339();
        if let Some(at) = bgp.configured() {
            facts.speaker.last_reconfiguration_time = timestamp(at).rfc3339();
        }
        Ok(facts)
    }
}

async fn kernel_routes() -> Result<Vec<(RouteKey, RouteSpec)>, String> {
    let kernel = Kernel::open().map_err(|error| format!("the kernel: {error}"))?;
    let mut events = Vec::new();
    for table in [Table::NextHops, Table::Routes] {
        let dumped = kernel.dump(table).await;
        events.extend(dumped.map_err(|error| error.to_string())?);
    }
    Ok(with_next_hops(events))
}

/// The routes among these rows, those that name a next-hop object with its next hops.
pub(super) fn with_next_hops(events: Vec<KernelEvent>) -> Vec<(RouteKey, RouteSpec)> {
    let mut objects = BTreeMap::new();
    let mut routes = Vec::new();
    for event in events {
        match event {
            KernelEvent::RowSet(Row::NextHop(id, spec)) => {
                objects.insert(id, spec);
            }
            KernelEvent::RowSet(Row::Route(key, spec)) => routes.push((key, spec)),
            _ => {}
        }
    }
    for (_, spec) in &mut routes {
        if let Some(object) = spec.object.and_then(|id| objects.get(&id)) {
            let members = object.members().iter().filter_map(|id| objects.get(id));
            let hops = members.chain([object]).filter_map(NextHopSpec::hop);
            spec.next_hops = hops.cloned().collect();
        }
    }
    routes
}

/// The answer, without its time.
pub(super) fn answer(classes: &[Class], facts: &Facts) -> NodeStatus {
    let mut status = NodeStatus::default();
    for class in classes {
        match class {
            Class::Agent => {
                status.agent = Some(AgentStatus {
                    v4: facts.speaker.clone(),
                    v6: facts.speaker.clone(),
                });
            }
            Class::Bgp => status.bgp = Some(sessions(facts)),
            Class::Routes => status.routes = Some(routes(facts)),
        }
    }
    status
}

fn sessions(facts: &Facts) -> BgpStatus {
    let mut status = BgpStatus::default();
    let (now, wall) = facts.now;
    for peer in &facts.peers {
        let ago = now.saturating_duration_since(peer.since);
        let since = wall.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
        let shown = PeerStatus {
            address: peer.address,
            origin: peer_type(&peer.name.0),
            state: peer.state.to_string(),
            since: timestamp(since).rfc3339(),
        };
        let stands = peer.state == PeerState::Established;
        let (peers, count) = match (peer.address, stands) {
            (IpAddr::V4(_), true) => (&mut status.peers_v4, &mut status.established_v4),
            (IpAddr::V4(_), false) => (&mut status.peers_v4, &mut status.not_established_v4),
            (IpAddr::V6(_), true) => (&mut status.peers_v6, &mut status.established_v6),
            (IpAddr::V6(_), false) => (&mut status.peers_v6, &mut status.not_established_v6),
        };
        peers.push(shown);
        *count += 1;
    }
    status
}

/// By the beginning of the session's name.
fn peer_type(name: &str) -> PeerType {
    match name.split_once('_').map(|(class, _)| class) {
        Some("Mesh") => PeerType::NodeMesh,
        Some("Global") => PeerType::GlobalPeer,
        _ => PeerType::NodePeer,
    }
}

fn routes(facts: &Facts) -> RoutesStatus {
    let peers: BTreeMap<&str, &bgp::status::PeerStatus> = facts
        .peers
        .iter()
        .map(|peer| (&*peer.name.0, peer))
        .collect();
    let mut all = Vec::new();
    let mut told = BTreeSet::new();
    for route in &facts.routes {
        told.insert(route.prefix);
        for path in &route.paths {
            let peer = path
                .peer
                .as_ref()
                .and_then(|name| peers.get(&*name.0).copied());
            all.push(speakers(route.prefix, path, peer, &facts.kernel));
        }
    }
    let others = facts
        .kernel
        .iter()
        .filter(|(key, _)| !told.contains(&key.dst) && !is_link_local(&key.dst));
    all.extend(others.flat_map(|(key, spec)| kernels(key.dst, spec)));
    all.sort_by_key(|route| route.destination);
    let (v4, v6) = all
        .into_iter()
        .partition(|route| matches!(route.destination, IpNet::V4(_)));
    RoutesStatus { v4, v6 }
}

fn is_link_local(destination: &IpNet) -> bool {
    matches!(destination, IpNet::V6(net) if net.addr().is_unicast_link_local() || net.addr().is_multicast())
}

/// A path of the speaker's. Packets follow it when the kernel has it.
fn speakers(
    prefix: IpNet,
    path: &PathStatus,
    peer: Option<&bgp::status::PeerStatus>,
    kernel: &[(RouteKey, RouteSpec)],
) -> RouteStatus {
    let here = kernel.iter().find(|(key, _)| key.dst == prefix);
    let chosen = matches!(path.standing, PathStanding::Best | PathStanding::Multipath);
    let found = here.map(|(_, spec)| spec).filter(|_| chosen);
    let (table, interface) = match (found, path.next_hop) {
        // Own routes lead to a device, or nowhere.
        (Some(spec), None) => (RouteTable::Fib, device(spec, spec.next_hops.first())),
        (Some(spec), Some(_)) => match hop_to(spec, path.next_hop) {
            Some(hop) => (RouteTable::Fib, device(spec, Some(hop))),
            None => (RouteTable::Rib, towards(path.next_hop, kernel)),
        },
        (None, next_hop) => (RouteTable::Rib, towards(next_hop, kernel)),
    };
    RouteStatus {
        table,
        destination: prefix,
        gateway: path
            .next_hop
            .map_or_else(|| NO_GATEWAY.to_owned(), |next_hop| next_hop.to_string()),
        interface,
        learned_from: match peer {
            Some(peer) => LearnedFrom {
                source: match peer_type(&peer.name.0) {
                    PeerType::NodeMesh => RouteSource::NodeMesh,
                    PeerType::NodePeer | PeerType::GlobalPeer => RouteSource::BgpPeer,
                },
                peer: Some(peer.address),
            },
            None => LearnedFrom {
                source: RouteSource::Static,
                peer: None,
            },
        },
    }
}

fn hop_to(spec: &RouteSpec, gateway: Option<IpAddr>) -> Option<&NextHop> {
    spec.next_hops.iter().find(|hop| hop.gateway == gateway)
}

/// A route that only the kernel has: one line for each of its next hops.
fn kernels(destination: IpNet, spec: &RouteSpec) -> Vec<RouteStatus> {
    let line = |hop: Option<&NextHop>| {
        let gateway = hop.and_then(|hop| hop.gateway);
        let source = match (spec.protocol, gateway) {
            (PROTOCOL_KERNEL, None) => RouteSource::Direct,
            _ => RouteSource::Kernel,
        };
        RouteStatus {
            table: RouteTable::Fib,
            destination,
            gateway: gateway.map_or_else(|| NO_GATEWAY.to_owned(), |gateway| gateway.to_string()),
            interface: device(spec, hop),
            learned_from: LearnedFrom { source, peer: None },
        }
    };
    if spec.next_hops.is_empty() {
        return vec![line(None)];
    }
    spec.next_hops.iter().map(|hop| line(Some(hop))).collect()
}

fn device(spec: &RouteSpec, hop: Option<&NextHop>) -> String {
    match spec.kind {
        RouteKind::Unicast => hop
            .and_then(|hop| hop.ifname.as_ref())
            .map_or_else(String::new, ToString::to_string),
        RouteKind::Blackhole => "blackhole".to_owned(),
        RouteKind::Unreachable | RouteKind::Prohibit => "unreachable".to_owned(),
    }
}

/// The device through which a next hop is reached: the longest prefix in the kernel.
fn towards(next_hop: Option<IpAddr>, kernel: &[(RouteKey, RouteSpec)]) -> String {
    let Some(next_hop) = next_hop else {
        return String::new();
    };
    let fitting = kernel.iter().filter(|(key, _)| key.dst.contains(&next_hop));
    let longest = fitting.max_by_key(|(key, _)| key.dst.prefix_len());
    longest.map_or_else(String::new, |(_, spec)| {
        device(spec, spec.next_hops.first())
    })
}
