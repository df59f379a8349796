//! A peer is its address and port, whatever it is called; who connects from an address that several have says who it is.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bgp::action::Action;
use bgp::config::{Config, PeerConfig};
use bgp::event::Event;
use bgp::speaker::Speaker;
use bgp::status::PeerState;
use bgp::types::{Asn, ConnId, PeerName, RouterId};
use bgp::wire::capability::Capability;
use bgp::wire::message::write_keepalive;
use bgp::wire::open::Open;

use crate::network::{Network, address, block, config, peer_config, peer_name};

const SECOND: Duration = Duration::from_secs(1);

fn name(text: &str) -> PeerName {
    PeerName(text.into())
}

fn changes(network: &mut Network) -> usize {
    let nodes = network.nodes.iter_mut();
    nodes.map(|node| node.changes.drain(..).count()).sum()
}

#[test]
fn another_name_for_the_same_endpoint_resets_nothing() {
    let mut network = Network::mesh(1, 3);
    network.run(20 * SECOND);
    changes(&mut network);
    network.reconfigure(0, |config| {
        let mut explicit = config.peers.remove(&peer_name(1)).expect("a peer");
        explicit.restart_time = Some(120 * SECOND);
        explicit.passive = !explicit.passive;
        config.peers.insert(name("Node_10_0_0_2"), explicit);
    });
    network.run(60 * SECOND);
    assert_eq!(changes(&mut network), 0);
    assert!((0..3).all(|node| network.session_downs(node).is_empty()));
    let now = network.now;
    let peers = network.speaker(0).peers(now);
    let renamed = peers.iter().find(|peer| peer.name == name("Node_10_0_0_2"));
    assert_eq!(renamed.expect("its new name").state, PeerState::Established);
    assert_eq!(peers.len(), 2);
    let routes = network.speaker(0).routes();
    let route = routes.iter().find(|route| route.prefix == block(1));
    let path = &route.expect("its route").paths[0];
    assert_eq!(path.peer, Some(name("Node_10_0_0_2")));
}

#[test]
fn names_that_two_peers_exchange_stay_with_their_addresses() {
    let mut network = Network::mesh(2, 3);
    network.run(20 * SECOND);
    network.reconfigure(0, |config| {
        let one = config.peers.remove(&peer_name(1)).expect("a peer");
        let two = config
            .peers
            .insert(peer_name(1), config.peers[&peer_name(2)].clone());
        assert!(two.is_none());
        config.peers.insert(peer_name(2), one);
    });
    network.run(10 * SECOND);
    assert!((0..3).all(|node| network.session_downs(node).is_empty()));
    assert_eq!(network.status(0, 1).address, address(2));
    network.reconfigure(0, |config| drop(config.peers.remove(&peer_name(1))));
    network.run(SECOND);
    assert!(network.has_route(0, block(1)) && !network.has_route(0, block(2)));
}

#[test]
fn a_port_that_moves_leaves_the_session_and_of_two_names_for_one_endpoint_the_first_counts() {
    let mut network = Network::mesh(3, 2);
    network.run(20 * SECOND);
    network.reconfigure(0, |config| {
        let peer = config.peers.get_mut(&peer_name(1)).expect("a peer");
        peer.port = 1179;
        let twice = peer.clone();
        config.peers.insert(name("Second"), twice);
    });
    network.run(60 * SECOND);
    assert!((0..2).all(|node| network.session_downs(node).is_empty()));
    let now = network.now;
    assert_eq!(network.speaker(0).peers(now).len(), 1);
}

/// A speaker with passive peers at one address, by port and AS.
struct Shared {
    speaker: Speaker,
    now: Instant,
    closed: BTreeMap<ConnId, Vec<u8>>,
    events: Vec<Event>,
}

impl Shared {
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant to count from; nothing else is read from the clock"
    )]
    fn new(peers: &[(u16, u32)]) -> Self {
        let mut settings: Config = config(0, 65000, &[]);
        for (port, asn) in peers {
            let peer = PeerConfig {
                port: *port,
                passive: true,
                ..peer_config(1, *asn)
            };
            settings.peers.insert(name(&format!("port {port}")), peer);
        }
        let now = Instant::now();
        let mut speaker = Speaker::new(1, now);
        speaker.handle_config(now, settings);
        Self {
            speaker,
            now,
            closed: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    /// The `n`-th connection from the address.
    fn accept(&mut self, n: u64) -> ConnId {
        let conn = ConnId::incoming(n);
        let remote = SocketAddr::new(address(1), 40_000);
        let local = SocketAddr::new(address(0), 179);
        let accepted = self.speaker.handle_accepted(self.now, conn, remote, local);
        accepted.expect("somebody may be meant");
        conn
    }

    fn say_open(&mut self, conn: ConnId, asn: u32, router_id: [u8; 4]) {
        let open = Open {
            asn: Asn(asn),
            hold_time: 240 * SECOND,
            router_id: RouterId(router_id.into()),
            capabilities: vec![Capability::FourOctetAs(Asn(asn))],
        };
        let mut bytes = Vec::new();
        open.encode(&mut bytes);
        write_keepalive(&mut bytes);
        for cut in bytes.chunks(7) {
            self.speaker.handle_bytes(self.now, conn, cut);
        }
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(action) = self.speaker.poll_action() {
            if let Action::Close { conn, farewell } = action {
                self.closed.insert(conn, farewell);
            }
        }
        self.events
            .extend(std::iter::from_fn(|| self.speaker.poll_event()));
    }

    fn established(&self) -> Vec<String> {
        let peers = self.speaker.peers(self.now).into_iter();
        peers
            .filter(|peer| peer.state == PeerState::Established)
            .map(|peer| peer.name.to_string())
            .collect()
    }
}

#[test]
fn two_peers_at_one_address_are_told_apart_by_the_as_in_the_open() {
    let mut shared = Shared::new(&[(179, 65001), (1179, 65002)]);
    let second = shared.accept(1);
    let first = shared.accept(2);
    shared.say_open(second, 65002, [2, 2, 2, 2]);
    assert_eq!(shared.established(), ["port 1179"]);
    shared.say_open(first, 65001, [1, 1, 1, 1]);
    assert_eq!(shared.established(), ["port 1179", "port 179"]);
    let third = shared.accept(3);
    shared.say_open(third, 65003, [3, 3, 3, 3]);
    assert!(shared.closed[&third].ends_with(&[2, 2]), "Bad Peer AS");
}

#[test]
fn of_one_as_the_identifier_decides_and_what_it_does_not_decide_is_refused_and_reported() {
    let mut shared = Shared::new(&[(179, 65001), (1179, 65001)]);
    let conn = shared.accept(1);
    shared.say_open(conn, 65001, [1, 1, 1, 1]);
    assert!(
        shared.closed[&conn].ends_with(&[6, 5]),
        "Connection Rejected"
    );
    let expected = Event::ConnectionAmbiguous {
        remote: SocketAddr::new(address(1), 40_000),
        asn: Asn(65001),
        router_id: RouterId([1, 1, 1, 1].into()),
        peers: vec![name("port 179"), name("port 1179")],
    };
    assert!(shared.events.contains(&expected), "{:?}", shared.events);
    for peer in shared.speaker.peers(shared.now) {
        let said = peer.last_error.expect("it is reported").to_string();
        assert!(said.contains("1.1.1.1"), "{said}");
    }

    // We connect to one of them, and so know both.
    let mut settings = config(0, 65000, &[]);
    for (port, passive) in [(179, false), (1179, true)] {
        let peer = PeerConfig {
            port,
            passive,
            ..peer_config(1, 65001)
        };
        settings.peers.insert(name(&format!("port {port}")), peer);
    }
    shared.speaker.handle_config(shared.now, settings);
    shared.speaker.handle_timeout(shared.now);
    let connect =
        std::iter::from_fn(|| shared.speaker.poll_action()).find_map(|action| match action {
            Action::Connect(request) => Some(request),
            Action::Close { .. } => None,
        });
    let request = connect.expect("it is not passive");
    assert_eq!(request.remote, SocketAddr::new(address(1), 179));
    let local: SocketAddr = SocketAddr::new(IpAddr::from([10, 0, 0, 1]), 50_000);
    shared
        .speaker
        .handle_connected(shared.now, request.conn, local);
    shared.say_open(request.conn, 65001, [1, 1, 1, 1]);
    assert_eq!(shared.established(), ["port 179"]);
    let conn = shared.accept(2);
    shared.say_open(conn, 65001, [2, 2, 2, 2]);
    assert_eq!(shared.established(), ["port 1179", "port 179"]);
}

#[test]
fn a_connection_that_says_no_open_is_closed() {
    let mut shared = Shared::new(&[(179, 65001), (1179, 65002)]);
    let conn = shared.accept(1);
    let (deadline, _) = shared.speaker.poll_timeout().expect("a deadline");
    assert_eq!(deadline, shared.now + 10 * SECOND);
    shared.now = deadline;
    shared.speaker.handle_timeout(deadline);
    shared.drain();
    assert!(
        shared.closed[&conn].ends_with(&[4, 0]),
        "{:?}",
        shared.closed
    );
}
