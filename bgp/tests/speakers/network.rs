//! Speakers joined by byte streams: delivered in order, cut at random, under virtual time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bgp::action::Action;
use bgp::config::{Config, NextHopMode, PeerConfig, PeerOptions, RoutePolicy};
use bgp::event::Event;
use bgp::route::{Origination, RouteChange};
use bgp::speaker::Speaker;
use bgp::status::{PeerState, PeerStatus};
use bgp::types::{AfiSafi, Asn, ConnId, PeerName, RouterId};
use ipnet::IpNet;

/// One end of a connection.
type End = (usize, ConnId);

pub(crate) struct Node {
    pub(crate) speaker: Option<Speaker>,
    pub(crate) config: Config,
    pub(crate) fib: BTreeMap<IpNet, RouteChange>,
    pub(crate) events: Vec<(Duration, Event)>,
    pub(crate) changes: Vec<RouteChange>,
    writable: BTreeSet<ConnId>,
    /// Prefixes in `fib` that an earlier process put there and this one has not named yet.
    adopted: BTreeSet<IpNet>,
}

/// A direction of a connection.
struct Pipe {
    to: End,
    bytes: VecDeque<u8>,
    /// What is in flight arrives, then the end of the stream.
    closing: bool,
}

pub(crate) struct Network {
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    pub(crate) nodes: Vec<Node>,
    pipes: BTreeMap<End, Pipe>,
    accepted: u64,
    random: u64,
    /// Ordered pairs between which nothing is delivered.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    /// Connections on their way to the far end.
    connecting: Vec<(usize, ConnId, SocketAddr)>,
    /// Octets of all UPDATEs sent.
    pub(crate) delivered: usize,
}

pub(crate) fn address(node: usize) -> IpAddr {
    let node = u16::try_from(node).expect("few nodes").to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, 0, node[0], node[1] + 1))
}

pub(crate) fn prefix(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

/// The one block of a node.
pub(crate) fn block(node: usize) -> IpNet {
    let node = u16::try_from(node).expect("few nodes").to_be_bytes();
    prefix(&format!("172.{}.{}.0/26", 16 + node[0], node[1]))
}

pub(crate) fn peer_name(node: usize) -> PeerName {
    PeerName(format!("Mesh_{}", address(node)).into())
}

pub(crate) fn peer_config(node: usize, asn: u32) -> PeerConfig {
    PeerConfig {
        address: address(node),
        port: 179,
        local_address: None,
        asn: Asn(asn),
        local_asn: None,
        families: [AfiSafi::Ipv4Unicast].into(),
        passive: false,
        hold_time: Duration::from_secs(240),
        connect_retry_time: Duration::from_secs(5),
        password: None,
        ttl_security: None,
        multihop: true,
        route_reflector_client: false,
        next_hop: NextHopMode::Auto,
        allow_own_as: 0,
        graceful_restart: true,
        restart_time: None,
        prefix_limit: None,
        import: RoutePolicy::accept_all(),
        export: RoutePolicy::accept_all(),
        options: PeerOptions::default(),
    }
}

pub(crate) fn config(node: usize, asn: u32, peers: &[(usize, u32)]) -> Config {
    Config {
        asn: Asn(asn),
        router_id: RouterId(match address(node) {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) => unreachable!(),
        }),
        listen_port: 179,
        listen_addresses: BTreeSet::new(),
        cluster_id: None,
        restart_time: Duration::from_secs(120),
        deferral_time: Duration::from_secs(240),
        multipath: 1,
        peers: peers
            .iter()
            .map(|(peer, asn)| (peer_name(*peer), peer_config(*peer, *asn)))
            .collect(),
    }
}

impl Network {
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant to count from; nothing else is read from the clock"
    )]
    pub(crate) fn new(seed: u64, configs: Vec<Config>) -> Self {
        let now = Instant::now();
        let nodes = configs.into_iter().map(|config| Node {
            speaker: None,
            config,
            fib: BTreeMap::new(),
            events: Vec::new(),
            changes: Vec::new(),
            writable: BTreeSet::new(),
            adopted: BTreeSet::new(),
        });
        let mut network = Self {
            start: now,
            now,
            nodes: nodes.collect(),
            pipes: BTreeMap::new(),
            accepted: 0,
            random: seed,
            cut: BTreeSet::new(),
            connecting: Vec::new(),
            delivered: 0,
        };
        for node in 0..network.nodes.len() {
            let speaker = Speaker::new(seed + node as u64, now);
            network.boot(node, speaker);
        }
        network
    }

    /// A full iBGP mesh in which each node originates its block.
    pub(crate) fn mesh(seed: u64, size: usize) -> Self {
        let all: Vec<(usize, u32)> = (0..size).map(|node| (node, 64512)).collect();
        let configs = (0..size).map(|node| {
            let peers: Vec<_> = all
                .iter()
                .copied()
                .filter(|(peer, _)| *peer != node)
                .collect();
            config(node, 64512, &peers)
        });
        let mut network = Self::new(seed, configs.collect());
        for node in 0..size {
            network.originate(node, block(node));
        }
        network
    }

    /// Node 0 reflects for all others, which know only it.
    pub(crate) fn reflected(seed: u64, size: usize) -> Self {
        let clients: Vec<(usize, u32)> = (1..size).map(|node| (node, 64512)).collect();
        let mut reflector = config(0, 64512, &clients);
        reflector.cluster_id = Some([1, 1, 1, 1].into());
        for peer in reflector.peers.values_mut() {
            peer.route_reflector_client = true;
        }
        let others = (1..size).map(|node| config(node, 64512, &[(0, 64512)]));
        Self::new(seed, std::iter::once(reflector).chain(others).collect())
    }

    pub(crate) fn boot(&mut self, node: usize, speaker: Speaker) {
        let now = self.now;
        let config = self.nodes[node].config.clone();
        self.nodes[node].speaker = Some(speaker);
        self.nodes[node].adopted = self.nodes[node].fib.keys().copied().collect();
        self.speaker(node).handle_config(now, config);
        self.drain(node);
    }

    pub(crate) fn reconfigure(&mut self, node: usize, change: impl FnOnce(&mut Config)) {
        change(&mut self.nodes[node].config);
        let (now, config) = (self.now, self.nodes[node].config.clone());
        self.speaker(node).handle_config(now, config);
        self.drain(node);
    }

    /// The process dies; the kernel closes its connections.
    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].speaker = None;
        self.connecting.retain(|(from, _, _)| *from != node);
        self.nodes[node].writable.clear();
        let ends: Vec<End> = self
            .pipes
            .keys()
            .copied()
            .filter(|end| end.0 == node)
            .collect();
        for end in ends {
            let orphan = self.orphan(end);
            self.close(orphan);
        }
    }

    /// Gives an end of a dead process an id that none of its successors gives: these count theirs from the first again.
    fn orphan(&mut self, end: End) -> End {
        self.accepted += 1;
        let orphan = (end.0, ConnId::incoming(self.accepted));
        if let Some(pipe) = self.pipes.remove(&end) {
            if let Some(back) = self.pipes.get_mut(&pipe.to) {
                back.to = orphan;
            }
            self.pipes.insert(orphan, pipe);
        }
        orphan
    }

    /// The far ends of a dead node's connections never hear of it.
    pub(crate) fn forget_connections_of(&mut self, node: usize) {
        self.pipes
            .retain(|from, pipe| from.0 != node && pipe.to.0 != node);
    }

    pub(crate) fn restart(&mut self, node: usize, seed: u64) {
        let speaker = Speaker::restarting(seed, self.now);
        self.boot(node, speaker);
    }

    pub(crate) fn originate(&mut self, node: usize, prefix: IpNet) {
        let now = self.now;
        let origination = Origination {
            prefix,
            next_hop: None,
            local_pref: None,
        };
        self.speaker(node)
            .handle_originate(now, prefix, Some(origination));
        self.drain(node);
    }

    pub(crate) fn withdraw(&mut self, node: usize, prefix: IpNet) {
        let now = self.now;
        self.speaker(node).handle_originate(now, prefix, None);
        self.drain(node);
    }

    pub(crate) fn speaker(&mut self, node: usize) -> &mut Speaker {
        self.nodes[node].speaker.as_mut().expect("the node runs")
    }

    pub(crate) fn status(&mut self, node: usize, peer: usize) -> PeerStatus {
        let now = self.now;
        let peers = self.speaker(node).peers(now);
        peers
            .into_iter()
            .find(|status| status.name == peer_name(peer))
            .expect("it is configured")
    }

    pub(crate) fn is_established(&mut self, node: usize, peer: usize) -> bool {
        self.status(node, peer).state == PeerState::Established
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    pub(crate) fn has_route(&self, node: usize, prefix: IpNet) -> bool {
        self.nodes[node].fib.contains_key(&prefix)
    }

    /// Events of a node that are not only about connections that never became sessions.
    pub(crate) fn session_downs(&self, node: usize) -> Vec<&Event> {
        let is_down = |event: &&Event| matches!(event, Event::SessionDown { .. });
        self.nodes[node]
            .events
            .iter()
            .map(|(_, event)| event)
            .filter(is_down)
            .collect()
    }

    /// Lets everything happen that is due until `time` from now.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            while self.step() {}
            let next = self.next_deadline();
            match next {
                Some(at) if at <= end => self.now = at.max(self.now),
                Some(_) | None => break,
            }
            for node in 0..self.nodes.len() {
                let now = self.now;
                if let Some(speaker) = &mut self.nodes[node].speaker
                    && speaker.poll_timeout().is_some_and(|(at, _)| at <= now)
                {
                    speaker.handle_timeout(now);
                    self.drain(node);
                }
            }
        }
        self.now = end;
    }

    fn next_deadline(&self) -> Option<Instant> {
        let speakers = self.nodes.iter().filter_map(|node| node.speaker.as_ref());
        speakers
            .filter_map(|speaker| speaker.poll_timeout().map(|(at, _)| at))
            .min()
    }

    fn random(&mut self, below: usize) -> usize {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.random >> 33).expect("31 bits") % below.max(1)
    }

    /// Delivers some bytes of one pipe, or lets one connection send; false when nothing moves.
    fn step(&mut self) -> bool {
        let sending: Vec<End> = (0..self.nodes.len())
            .flat_map(|node| {
                self.nodes[node]
                    .writable
                    .iter()
                    .map(move |conn| (node, *conn))
            })
            .collect();
        let arriving: Vec<End> = self
            .pipes
            .iter()
            .filter(|(from, pipe)| {
                (!pipe.bytes.is_empty() || pipe.closing) && !self.cut.contains(&(from.0, pipe.to.0))
            })
            .map(|(from, _)| *from)
            .collect();
        let streams = sending.len() + arriving.len();
        if streams + self.connecting.len() == 0 {
            return false;
        }
        let pick = self.random(streams + self.connecting.len());
        if pick >= streams {
            let (from, conn, remote) = self.connecting.swap_remove(pick - streams);
            if self.nodes[from].speaker.is_some() {
                self.connect(from, conn, remote);
            }
            return true;
        }
        match sending.get(pick) {
            Some(end) => self.send(*end),
            None => self.deliver(arriving[pick - sending.len()]),
        }
        true
    }

    fn send(&mut self, end: End) {
        let room = 1 + self.random(5000);
        let now = self.now;
        let mut out = Vec::new();
        if self
            .speaker(end.0)
            .poll_transmit(now, end.1, room, &mut out)
            == 0
        {
            self.nodes[end.0].writable.remove(&end.1);
        }
        self.delivered += octets_of_updates(&out);
        if let Some(pipe) = self.pipes.get_mut(&end) {
            pipe.bytes.extend(out);
        }
        self.drain(end.0);
    }

    fn deliver(&mut self, from: End) {
        let pick = self.random(3000);
        let now = self.now;
        let pipe = self.pipes.get_mut(&from).expect("it was just found");
        let to = pipe.to;
        if pipe.bytes.is_empty() {
            self.pipes.remove(&from);
            self.pipes.remove(&to);
            if let Some(speaker) = &mut self.nodes[to.0].speaker {
                speaker.handle_closed(now, to.1);
            }
        } else {
            let count = (1 + pick).min(pipe.bytes.len());
            let bytes: Vec<u8> = pipe.bytes.drain(..count).collect();
            if let Some(speaker) = &mut self.nodes[to.0].speaker {
                speaker.handle_bytes(now, to.1, &bytes);
            }
        }
        if self.nodes[to.0].speaker.is_some() {
            self.nodes[to.0]
                .writable
                .retain(|conn| self.pipes.contains_key(&(to.0, *conn)));
            self.drain(to.0);
        }
    }

    fn close(&mut self, end: End) {
        self.nodes[end.0].writable.remove(&end.1);
        if let Some(pipe) = self.pipes.get_mut(&end) {
            pipe.closing = true;
            let to = pipe.to;
            // Nothing is read any more at the end that closed.
            if let Some(back) = self.pipes.get_mut(&to) {
                back.bytes.clear();
            }
        }
    }

    fn drain(&mut self, node: usize) {
        while let Some(action) = self.speaker(node).poll_action() {
            match action {
                Action::Connect(request) => {
                    self.connecting.push((node, request.conn, request.remote));
                }
                Action::Close { conn, farewell } => {
                    self.connecting
                        .retain(|(from, other, _)| (*from, *other) != (node, conn));
                    if let Some(pipe) = self.pipes.get_mut(&(node, conn)) {
                        pipe.bytes.extend(farewell);
                    }
                    self.close((node, conn));
                }
            }
        }
        let elapsed = self.elapsed();
        while let Some(change) = self.speaker(node).poll_route() {
            let entry = &mut self.nodes[node];
            entry.changes.push(change.clone());
            entry.adopted.remove(&change.prefix);
            match change.best {
                Some(_) => drop(entry.fib.insert(change.prefix, change)),
                None => drop(entry.fib.remove(&change.prefix)),
            }
        }
        while let Some(event) = self.speaker(node).poll_event() {
            if event == Event::PeersReported {
                let entry = &mut self.nodes[node];
                while let Some(unwanted) = entry.adopted.pop_first() {
                    entry.fib.remove(&unwanted);
                }
            }
            self.nodes[node].events.push((elapsed, event));
        }
        while let Some(conn) = self.speaker(node).poll_writable() {
            self.nodes[node].writable.insert(conn);
        }
    }

    fn connect(&mut self, from: usize, conn: ConnId, remote: SocketAddr) {
        let now = self.now;
        let to = (0..self.nodes.len()).find(|node| address(*node) == remote.ip());
        let blocked =
            to.is_none_or(|to| self.cut.contains(&(from, to)) || self.cut.contains(&(to, from)));
        let Some(to) = to.filter(|to| !blocked && self.nodes[*to].speaker.is_some()) else {
            self.speaker(from)
                .handle_connect_failed(now, conn, "connection refused");
            return;
        };
        self.accepted += 1;
        let other = ConnId::incoming(self.accepted);
        let source = SocketAddr::new(address(from), 40000);
        self.speaker(from).handle_connected(now, conn, source);
        let accepted = self.speaker(to).handle_accepted(now, other, source, remote);
        let refused = accepted.is_err();
        let pipe = |to| Pipe {
            to,
            bytes: VecDeque::new(),
            closing: false,
        };
        self.pipes.insert((from, conn), pipe((to, other)));
        self.pipes.insert((to, other), pipe((from, conn)));
        if refused {
            self.close((to, other));
        }
        self.drain(to);
        self.drain(from);
    }
}

fn octets_of_updates(mut messages: &[u8]) -> usize {
    let mut octets = 0;
    while let [_, .., _] = messages {
        let length = usize::from(u16::from_be_bytes([messages[16], messages[17]]));
        octets += if messages[18] == 2 { length } else { 0 };
        messages = &messages[length..];
    }
    octets
}
