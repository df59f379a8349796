//! One speaker and a peer whose bytes the test writes itself.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bgp::action::{Action, Refused};
use bgp::config::Config;
use bgp::event::Event;
use bgp::speaker::Speaker;
use bgp::status::PeerState;
use bgp::types::{AfiSafi, Asn, ConnId, RouterId};
use bgp::wire::capability::{Capability, GracefulFamily, GracefulRestart};
use bgp::wire::family::Family;
use bgp::wire::message::write_keepalive;
use bgp::wire::open::Open;
use bgp::wire::update::encode::write_end_of_rib;
use ipnet::IpNet;

use crate::network::{address, config, prefix};

pub(crate) const CONN: ConnId = ConnId::incoming(1);

/// An UPDATE of these attributes and IPv4 prefixes.
pub(crate) fn update(attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let length = |octets: usize| u16::try_from(octets).expect("short").to_be_bytes();
    let mut bytes = vec![0xff; 16];
    bytes.extend(length(23 + attributes.len() + nlri.len()));
    bytes.extend([2, 0, 0]);
    bytes.extend(length(attributes.len()));
    bytes.extend(attributes);
    bytes.extend(nlri);
    bytes
}

/// The speaker is node 0, the scripted peer node 1.
pub(crate) struct Scripted {
    pub(crate) speaker: Speaker,
    pub(crate) now: Instant,
    pub(crate) events: Vec<Event>,
    pub(crate) farewell: Option<Vec<u8>>,
    /// Prefixes whose best route changed, in order.
    pub(crate) routes: Vec<IpNet>,
}

impl Scripted {
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant to count from; nothing else is read from the clock"
    )]
    pub(crate) fn new(config: Config) -> Self {
        let now = Instant::now();
        Self::with(Speaker::new(1, now), now, config)
    }

    /// As [`Self::new`], after the death of another one.
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant to count from; nothing else is read from the clock"
    )]
    pub(crate) fn restarting(config: Config) -> Self {
        let now = Instant::now();
        Self::with(Speaker::restarting(1, now), now, config)
    }

    fn with(mut speaker: Speaker, now: Instant, config: Config) -> Self {
        speaker.handle_config(now, config);
        Self {
            speaker,
            now,
            events: Vec::new(),
            farewell: None,
            routes: Vec::new(),
        }
    }

    pub(crate) fn has(&self, event: &Event) -> bool {
        self.events.contains(event)
    }

    /// Lets time pass.
    pub(crate) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some((at, _)) = self.speaker.poll_timeout()
            && at <= end
        {
            self.now = at.max(self.now);
            self.speaker.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    /// The peer's connection is gone.
    pub(crate) fn closed(&mut self) {
        self.speaker.handle_closed(self.now, CONN);
        self.drain();
    }

    /// Connects and exchanges OPENs.
    pub(crate) fn establish(&mut self, asn: u32, extra: &[Capability]) {
        self.connects().expect("the peer is configured");
        self.open(asn, extra);
    }

    /// The peer connects.
    pub(crate) fn connects(&mut self) -> Result<(), Refused> {
        let remote = SocketAddr::new(address(1), 40_000);
        let local = SocketAddr::new(address(0), 179);
        self.speaker.handle_accepted(self.now, CONN, remote, local)
    }

    /// The peer sends an OPEN and a KEEPALIVE.
    pub(crate) fn open(&mut self, asn: u32, extra: &[Capability]) {
        self.open_without_keepalive(asn, extra);
        self.keepalive();
        assert_eq!(self.state(), PeerState::Established, "{:?}", self.events);
    }

    /// The peer sends an OPEN only.
    pub(crate) fn open_without_keepalive(&mut self, asn: u32, extra: &[Capability]) {
        let mut capabilities = vec![Capability::FourOctetAs(Asn(asn))];
        for family in [AfiSafi::Ipv4Unicast, AfiSafi::Ipv6Unicast] {
            capabilities.push(Capability::Multiprotocol(Family::from(family)));
        }
        capabilities.extend_from_slice(extra);
        let IpAddr::V4(router_id) = address(1) else {
            unreachable!("nodes have IPv4 addresses");
        };
        let open = Open {
            asn: Asn(asn),
            hold_time: Duration::from_secs(240),
            router_id: RouterId(router_id),
            capabilities,
        };
        let mut bytes = Vec::new();
        open.encode(&mut bytes);
        self.say(&bytes);
    }

    /// The state of the peer.
    pub(crate) fn state(&self) -> PeerState {
        self.speaker.peers(self.now)[0].state
    }

    /// The peer sends a KEEPALIVE.
    pub(crate) fn keepalive(&mut self) {
        let mut bytes = Vec::new();
        write_keepalive(&mut bytes);
        self.say(&bytes);
    }

    /// The peer sends bytes.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.speaker.handle_bytes(self.now, CONN, bytes);
        self.drain();
    }

    /// The peer sends an UPDATE of these attributes and IPv4 prefixes.
    pub(crate) fn update(&mut self, attributes: &[u8], nlri: &[u8]) {
        self.say(&update(attributes, nlri));
    }

    /// The peer sends End-of-RIB for IPv4.
    pub(crate) fn end_of_rib(&mut self) {
        let mut bytes = Vec::new();
        write_end_of_rib(&mut bytes, AfiSafi::Ipv4Unicast);
        self.say(&bytes);
    }

    pub(crate) fn drain(&mut self) {
        while let Some(action) = self.speaker.poll_action() {
            if let Action::Close {
                conn: CONN,
                farewell,
            } = action
            {
                self.farewell = Some(farewell);
            }
        }
        while let Some(change) = self.speaker.poll_route() {
            self.routes.push(change.prefix);
        }
        while self.speaker.poll_writable().is_some() {}
        while let Some(event) = self.speaker.poll_event() {
            self.events.push(event);
        }
    }

    /// Prefixes with a path.
    pub(crate) fn prefixes(&self) -> Vec<IpNet> {
        let routes = self.speaker.routes();
        routes.into_iter().map(|route| route.prefix).collect()
    }
}

/// Graceful restart of IPv4 with the F bit and a Restart Time of 120 s; `restarting` is the R bit.
pub(crate) fn graceful_restart(restarting: bool) -> Capability {
    Capability::GracefulRestart(GracefulRestart {
        restarting,
        notification: false,
        time: Duration::from_secs(120),
        families: vec![GracefulFamily {
            family: AfiSafi::Ipv4Unicast.into(),
            forwarding: true,
        }],
    })
}

/// ORIGIN, an AS_PATH of one AS, NEXT_HOP 10.0.0.2.
pub(crate) fn attributes(asn: u32) -> Vec<u8> {
    let mut octets = vec![0x40, 1, 1, 0, 0x40, 2, 6, 2, 1];
    octets.extend(asn.to_be_bytes());
    octets.extend([0x40, 3, 4, 10, 0, 0, 2]);
    octets
}

/// MP_REACH_NLRI of fd00:n::/32, with this many octets more after it.
fn reach_v6(n: u8, junk: &[u8]) -> Vec<u8> {
    let mut value = vec![0, 2, 1, 16];
    value.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    value.extend([0, 32, 0xfd, 0, 0, n]);
    value.extend(junk);
    let mut octets = vec![0x80, 14, u8::try_from(value.len()).expect("short")];
    octets.extend(value);
    octets
}

fn both_families() -> Config {
    let mut config = config(0, 65000, &[(1, 65001)]);
    for peer in config.peers.values_mut() {
        peer.families = [AfiSafi::Ipv4Unicast, AfiSafi::Ipv6Unicast].into();
    }
    config
}

fn with_v6(n: u8, junk: &[u8]) -> Vec<u8> {
    let mut all = attributes(65001);
    all.extend(reach_v6(n, junk));
    all
}

#[test]
fn a_family_that_cannot_be_read_is_emptied_and_ignored_until_the_session_ends() {
    let mut peer = Scripted::new(both_families());
    peer.establish(65001, &[]);
    peer.update(&with_v6(1, &[]), &[24, 192, 168, 1]);
    assert_eq!(
        peer.prefixes(),
        [prefix("192.168.1.0/24"), prefix("fd00:1::/32")]
    );
    // A prefix length of 200 cannot be read; IPv4 of the same message can.
    peer.update(&with_v6(2, &[200, 1]), &[24, 192, 168, 2]);
    assert_eq!(
        peer.prefixes(),
        [prefix("192.168.1.0/24"), prefix("192.168.2.0/24")]
    );
    let disabled = |event: &&Event| {
        matches!(
            event,
            Event::FamilyDisabled { family: AfiSafi::Ipv6Unicast, removed: 1, fault, .. }
                if fault.contains("MP_REACH_NLRI")
        )
    };
    assert_eq!(
        peer.events.iter().filter(disabled).count(),
        1,
        "{:?}",
        peer.events
    );
    peer.update(&with_v6(3, &[]), &[24, 192, 168, 3]);
    assert_eq!(peer.prefixes().len(), 3, "IPv6 is ignored, IPv4 is not");
    peer.speaker.handle_closed(peer.now, CONN);
    peer.drain();
    peer.establish(65001, &[]);
    peer.update(&with_v6(3, &[]), &[]);
    assert_eq!(
        peer.prefixes(),
        [prefix("fd00:3::/32")],
        "a new session hears again"
    );
}

#[test]
fn what_is_ignored_holds_nothing_back_however_often_it_comes() {
    let mut peer = Scripted::new(both_families());
    peer.establish(65001, &[]);
    for n in 0..9 {
        peer.update(&with_v6(n, &[]), &[24, 192, 168, n]);
    }
    for n in 0..100 {
        let bytes = with_v6(n, &[200, 1]);
        peer.update(&bytes, &[]);
    }
    let now = peer.now;
    let pending = peer.speaker.poll_timeout().filter(|(at, _)| *at <= now);
    assert_eq!(pending, None, "nothing is left to sweep for");
    assert_eq!(peer.prefixes().len(), 9);
}

#[test]
fn the_real_as_is_a_loop_beside_the_one_that_is_presented() {
    let mut config = config(0, 65000, &[(1, 65001)]);
    for peer in config.peers.values_mut() {
        peer.local_asn = Some(Asn(65010));
    }
    let mut peer = Scripted::new(config);
    peer.establish(65001, &[]);
    for (n, other) in [65000_u32, 65010, 65020].into_iter().enumerate() {
        let mut path = vec![0x40, 1, 1, 0, 0x40, 2, 10, 2, 2];
        path.extend(65001_u32.to_be_bytes());
        path.extend(other.to_be_bytes());
        path.extend([0x40, 3, 4, 10, 0, 0, 2]);
        let n = u8::try_from(n).expect("three");
        peer.update(&path, &[24, 192, 168, n]);
    }
    assert_eq!(peer.routes, [prefix("192.168.2.0/24")]);
}

#[test]
fn of_another_as_a_set_and_an_empty_path_are_refused_and_a_foreign_first_as_and_class_e_are_not() {
    let mut peer = Scripted::new(config(0, 65000, &[(1, 65001)]));
    peer.establish(65001, &[]);
    let path = |segments: &[u8], next_hop: [u8; 4]| {
        let length = u8::try_from(segments.len()).expect("short");
        let mut octets = vec![0x40, 1, 1, 0, 0x40, 2, length];
        octets.extend(segments);
        octets.extend([0x40, 3, 4]);
        octets.extend(next_hop);
        octets
    };
    let near = [10, 0, 0, 2];
    let [a, b, c, d] = 65001_u32.to_be_bytes();
    let cases = [
        (
            path(&[2, 1, a, b, c, d, 1, 1, 0, 0, 0xfd, 0xee], near),
            false,
        ),
        (path(&[], near), false),
        (path(&[2, 1, 0, 0, 0xfd, 0xee], near), true),
        (path(&[2, 1, a, b, c, d], [240, 0, 0, 9]), true),
    ];
    for (n, (attributes, is_used)) in (1..).zip(cases) {
        peer.update(&attributes, &[24, 192, 168, n]);
        let prefix = prefix(&format!("192.168.{n}.0/24"));
        assert_eq!(peer.routes.contains(&prefix), is_used, "{prefix}");
        assert!(peer.prefixes().contains(&prefix), "shown with its reason");
    }
    let mut internal = Scripted::new(config(0, 65001, &[(1, 65001)]));
    internal.establish(65001, &[]);
    internal.update(&path(&[], near), &[24, 192, 168, 1]);
    internal.update(&path(&[1, 1, a, b, 0xfd, 0xee], near), &[24, 192, 168, 2]);
    assert_eq!(
        internal.routes.len(),
        2,
        "an own route of its AS, and an aggregate that its border let in"
    );
}

#[test]
fn an_originator_that_is_us_and_a_prefix_that_is_not_show_a_shared_router_id() {
    let mut peer = Scripted::new(config(0, 65001, &[(1, 65001)]));
    peer.establish(65001, &[]);
    let mut reflected = vec![
        0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4, 10, 0, 0, 2, 0x40, 5, 4, 0, 0, 0, 100,
    ];
    reflected.extend([0x80, 9, 4, 10, 0, 0, 1]);
    peer.update(&reflected, &[24, 192, 168, 1]);
    let shared = |peer: &Scripted| peer.speaker.peers(peer.now)[0].shared_router_id;
    assert_eq!(shared(&peer), Some(prefix("192.168.1.0/24")));
    peer.speaker.handle_closed(peer.now, CONN);
    peer.drain();
    peer.establish(65001, &[]);
    assert_eq!(shared(&peer), None);
}

#[test]
fn a_listing_in_slices_is_the_whole_listing() {
    let mut peer = Scripted::new(config(0, 65000, &[(1, 65001)]));
    peer.establish(65001, &[]);
    for n in 0..10 {
        peer.update(&attributes(65001), &[24, 192, 168, n]);
    }
    let mut slices = Vec::new();
    let mut next = Some(bgp::speaker::RoutesFrom::default());
    let mut count = 0;
    while let Some(from) = next {
        next = peer.speaker.routes_slice(from, 3, &mut slices);
        count += 1;
    }
    assert_eq!(count, 4);
    let listed: Vec<IpNet> = slices.iter().map(|route| route.prefix).collect();
    assert_eq!(listed, peer.prefixes());
}

#[test]
fn a_session_whose_last_family_is_disabled_ends() {
    let mut peer = Scripted::new(both_families());
    peer.establish(65001, &[]);
    peer.update(&with_v6(1, &[200, 1]), &[]);
    assert_eq!(peer.farewell, None);
    // MP_REACH_NLRI of IPv4 with a prefix of 33 bits.
    let mut bad = attributes(65001);
    bad.extend([0x80, 14, 15, 0, 1, 1, 4, 10, 0, 0, 2, 0, 33, 1, 2, 3, 4, 0]);
    peer.update(&bad, &[]);
    let farewell = peer.farewell.expect("closed");
    assert!(farewell.ends_with(&[3, 3, 9]), "NOTIFICATION 3/9");
}
