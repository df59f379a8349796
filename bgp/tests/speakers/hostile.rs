//! Peers that mean harm, one after another, beside an honest one: what each attack costs, and that the honest session goes on.
//!
//! | attack | effect |
//! |---|---|
//! | connections from addresses that nobody has | each is refused by a look-up; nothing is said or kept |
//! | connections of a peer that never says OPEN | one is kept, the newest |
//! | ROUTE-REFRESH without end | one pass through the table at the pace at which the peer reads |
//! | a peer that never reads, at Hold Time 0 | the session ends by the send hold timer (RFC 9687) |
//! | routes that are all refused | one event an UPDATE |
//! | faults in every UPDATE | one event an UPDATE and attribute |
//! | prefixes without end, and a limit | the session ends at the limit, its prefixes go |

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bgp::action::{Refused, Ttl};
use bgp::event::Event;
use bgp::speaker::Speaker;
use bgp::status::PeerState;
use bgp::types::{AfiSafi, Asn, ConnId, RouterId};
use bgp::wire::capability::Capability;
use bgp::wire::family::Family;
use bgp::wire::message::write_keepalive;
use bgp::wire::open::Open;
use bgp::wire::refresh::{RefreshKind, RouteRefresh};

use crate::network::{address, config};
use crate::scripted::{attributes, update};

const SECOND: Duration = Duration::from_secs(1);
const HONEST: (ConnId, usize) = (ConnId::incoming(1), 1);
const HOSTILE: (ConnId, usize) = (ConnId::incoming(2), 2);
/// The honest peer's Hold Time is 240 s.
const KEEPALIVE_TIME: Duration = Duration::from_secs(80);

struct Scene {
    speaker: Speaker,
    now: Instant,
    /// When the honest peer's next KEEPALIVE is due.
    keepalive_at: Instant,
    /// When ours came last, and the longest time between two.
    heard_at: Instant,
    longest: Duration,
    events: usize,
    hostile_reads: bool,
    /// Octets that the hostile peer was sent.
    sent: usize,
}

impl Scene {
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant to count from; nothing else is read from the clock"
    )]
    fn new(hold_time: Duration, prefix_limit: Option<u32>) -> Self {
        let now = Instant::now();
        let mut config = config(0, 65000, &[(1, 65001), (2, 65002)]);
        for peer in config.peers.values_mut() {
            peer.passive = true;
            peer.graceful_restart = false;
            peer.multihop = false;
            peer.prefix_limit = prefix_limit;
            if peer.address == address(HOSTILE.1) {
                peer.hold_time = hold_time;
            }
        }
        let mut speaker = Speaker::new(1, now);
        speaker.handle_config(now, config);
        let mut scene = Self {
            speaker,
            now,
            keepalive_at: now + KEEPALIVE_TIME,
            heard_at: now,
            longest: Duration::ZERO,
            events: 0,
            hostile_reads: true,
            sent: 0,
        };
        scene.establish(HONEST, Duration::from_secs(240));
        scene.establish(HOSTILE, hold_time);
        scene.events = 0;
        scene
    }

    fn connect(&mut self, conn: ConnId, node: usize) -> Result<(), Refused> {
        let (remote, local) = (
            SocketAddr::new(address(node), 40_000),
            SocketAddr::new(address(0), 179),
        );
        let accepted = self.speaker.handle_accepted(self.now, conn, remote, local);
        self.drain();
        accepted
    }

    fn establish(&mut self, (conn, node): (ConnId, usize), hold_time: Duration) {
        self.connect(conn, node).expect("it is configured");
        let asn = Asn(65000 + u32::try_from(node).expect("few"));
        let mut bytes = Vec::new();
        let open = Open {
            asn,
            hold_time,
            router_id: RouterId([10, 9, 9, u8::try_from(node).expect("few")].into()),
            capabilities: vec![
                Capability::Multiprotocol(Family::from(AfiSafi::Ipv4Unicast)),
                Capability::RouteRefresh,
                Capability::FourOctetAs(asn),
            ],
        };
        open.encode(&mut bytes);
        write_keepalive(&mut bytes);
        self.say(conn, &bytes);
        assert_eq!(self.state(node), PeerState::Established);
    }

    fn state(&self, node: usize) -> PeerState {
        let mut peers = self.speaker.peers(self.now).into_iter();
        peers
            .find(|peer| peer.address == address(node))
            .expect("it is configured")
            .state
    }

    fn say(&mut self, conn: ConnId, bytes: &[u8]) {
        self.speaker.handle_bytes(self.now, conn, bytes);
        self.drain();
    }

    /// An UPDATE of the hostile peer.
    fn update(&mut self, attributes: &[u8], nlri: &[u8]) {
        self.say(HOSTILE.0, &update(attributes, nlri));
    }

    fn drain(&mut self) {
        while self.speaker.poll_action().is_some() || self.speaker.poll_route().is_some() {}
        while let Some(event) = self.speaker.poll_event() {
            self.events += usize::from(!matches!(event, Event::EndOfRib { .. }));
        }
        while self.speaker.poll_next_hop_watch().is_some() {}
        while let Some(conn) = self.speaker.poll_writable() {
            if conn == HOSTILE.0 && !self.hostile_reads {
                continue;
            }
            let mut out = Vec::new();
            while self.speaker.poll_transmit(self.now, conn, 4096, &mut out) >= 4096 {}
            if conn == HOSTILE.0 {
                self.sent += out.len();
            } else if !out.is_empty() {
                self.longest = self.longest.max(self.now - self.heard_at);
                self.heard_at = self.now;
            }
        }
    }

    /// Lets time pass; the honest peer sends its KEEPALIVEs.
    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let due = self.speaker.poll_timeout().map(|(at, _)| at);
            let next = due.unwrap_or(end).min(self.keepalive_at);
            if next > end {
                break;
            }
            self.now = next.max(self.now);
            if self.keepalive_at <= self.now {
                self.keepalive_at += KEEPALIVE_TIME;
                let mut bytes = Vec::new();
                write_keepalive(&mut bytes);
                self.say(HONEST.0, &bytes);
            }
            self.speaker.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    /// The honest session stands and heard from us in time.
    fn check(&mut self, attack: &str) {
        self.wait(KEEPALIVE_TIME * 2);
        assert_eq!(self.state(HONEST.1), PeerState::Established, "{attack}");
        assert!(
            self.longest <= KEEPALIVE_TIME,
            "{attack}: {:?}",
            self.longest
        );
    }
}

/// `n`-th /24 as NLRI.
fn net(n: u32) -> [u8; 4] {
    let [_, a, b, c] = (0x0b_0000 + n).to_be_bytes();
    [24, a, b, c]
}

#[test]
fn connections_of_strangers_are_refused_and_leave_nothing() {
    let mut scene = Scene::new(240 * SECOND, None);
    for n in 0..20_000u64 {
        let refused = scene.connect(ConnId::incoming(100 + n), 200);
        assert_eq!(refused, Err(Refused::UnknownAddress));
        if n % 1000 == 0 {
            scene.wait(SECOND);
        }
    }
    assert_eq!(scene.events, 0);
    scene.check("a thousand refused connections a second");
}

#[test]
fn a_peer_that_connects_again_and_again_has_one_connection_beside_its_session() {
    let mut scene = Scene::new(240 * SECOND, None);
    scene.speaker.handle_closed(scene.now, HOSTILE.0);
    scene.drain();
    scene.events = 0;
    for n in 0..5_000u64 {
        scene
            .connect(ConnId::incoming(100 + n), HOSTILE.1)
            .expect("it is configured");
    }
    assert_eq!(scene.events, 0, "one that is replaced is no event");
    // A neighbour of another AS is one hop away: what is somebody's has a TTL.
    let is_known = |n: &u64| scene.speaker.ttl(ConnId::incoming(100 + n)) != Ttl::KERNEL;
    assert_eq!((0..5_000).filter(is_known).collect::<Vec<_>>(), [4_999]);
    scene.check("connections without OPEN");
}

#[test]
fn refreshes_without_end_cost_one_pass_for_each_time_the_table_was_read() {
    let mut scene = Scene::new(240 * SECOND, None);
    for first in (0..5_000).step_by(500) {
        let nlri: Vec<u8> = (first..first + 500).flat_map(net).collect();
        scene.say(HONEST.0, &update(&attributes(65001), &nlri));
    }
    scene.wait(SECOND);
    let table = scene.sent;
    assert!(table > 20_000, "{table} octets");
    scene.sent = 0;
    let mut bytes = Vec::new();
    for _ in 0..2_000 {
        RouteRefresh::new(AfiSafi::Ipv4Unicast, RefreshKind::Request).encode(&mut bytes);
    }
    scene.say(HOSTILE.0, &bytes);
    scene.wait(SECOND);
    assert!(
        scene.sent <= table + 1000,
        "{} octets of {table}",
        scene.sent
    );
    scene.check("refreshes in a loop");
}

#[test]
fn a_peer_without_hold_time_that_never_reads_is_given_up() {
    let mut scene = Scene::new(Duration::ZERO, None);
    scene.hostile_reads = false;
    let block = attributes(65001);
    for n in 0..500u32 {
        let nlri = net(n);
        let length = |octets: usize| u16::try_from(octets).expect("short").to_be_bytes();
        let mut bytes = vec![0xff; 16];
        bytes.extend(length(23 + block.len() + nlri.len()));
        bytes.extend([2, 0, 0]);
        bytes.extend(length(block.len()));
        bytes.extend(&block);
        bytes.extend(nlri);
        scene.say(HONEST.0, &bytes);
    }
    scene.wait(479 * SECOND);
    assert_eq!(scene.state(HOSTILE.1), PeerState::Established);
    scene.wait(2 * SECOND);
    assert_ne!(scene.state(HOSTILE.1), PeerState::Established);
    scene.check("never reads, at Hold Time 0");
}

#[test]
fn routes_that_are_all_refused_are_one_event_an_update() {
    let mut scene = Scene::new(240 * SECOND, None);
    // Our own AS stands in the path.
    let looped = attributes(65000);
    for first in (0..50_000).step_by(500) {
        let nlri: Vec<u8> = (first..first + 500).flat_map(net).collect();
        scene.update(&looped, &nlri);
    }
    assert_eq!(scene.events, 100);
    scene.check("refused routes");
}

#[test]
fn faults_in_every_update_are_an_event_each() {
    let mut scene = Scene::new(240 * SECOND, None);
    // MULTI_EXIT_DISC of one octet, a thousand times in one message: RFC 7606 §3 g takes the first.
    let mut faulty = attributes(65002);
    (0..900).for_each(|_| faulty.extend([0x80, 4, 1, 0]));
    for n in 0..100 {
        scene.update(&faulty, &net(n));
    }
    assert!(scene.events <= 300, "{} events", scene.events);
    scene.check("faulty attributes");
}

#[test]
fn a_flood_of_prefixes_ends_at_the_limit_and_leaves_nothing() {
    let mut scene = Scene::new(240 * SECOND, Some(10_000));
    for first in (0..50_000).step_by(500) {
        let nlri: Vec<u8> = (first..first + 500).flat_map(net).collect();
        scene.update(&attributes(65002), &nlri);
    }
    assert_ne!(scene.state(HOSTILE.1), PeerState::Established);
    scene.wait(SECOND);
    assert!(scene.speaker.routes().is_empty());
    assert!(scene.events <= 4, "{} events", scene.events);
    scene.check("prefixes without end");
}
