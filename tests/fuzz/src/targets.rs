//! What is fed to the speaker and what must hold then: shared by the fuzz targets and by the replay of the corpora in
//! `bgp/tests/corpus.rs`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bgp::action::Action;
use bgp::config::{
    AddPaths, Config, DynamicRange, NextHopMode, Password, PeerConfig, PeerOptions, RoutePolicy,
};
use bgp::speaker::Speaker;
use bgp::types::{AfiSafi, Asn, ConnId, PeerName, RouterId};
use bgp::wire::attr::AsnWidth;
use bgp::wire::capability::{Capability, GracefulFamily, GracefulRestart};
use bgp::wire::family::Family;
use bgp::wire::framer::Framer;
use bgp::wire::message::{Message, write_keepalive};
use bgp::wire::open::Open;
use bgp::wire::update::encode::{MessageLimit, append_attributes, write_reach};
use bgp::wire::update::{FirstAsCheck, PeerKind, ReceiveContext, Update};

const FAMILIES: [AfiSafi; 2] = [AfiSafi::Ipv4Unicast, AfiSafi::Ipv6Unicast];
const SECOND: Duration = Duration::from_secs(1);

/// Message decoder: the first octet chooses what was negotiated, the rest is a stream of messages.
///
/// Nothing panics; an error can be written and read; an OPEN and the attributes of an UPDATE are the same after they were
/// written and read again.
#[allow(dead_code, reason = "each fuzz target uses one of the two")]
pub(crate) fn message(data: &[u8]) {
    let Some((flags, stream)) = data.split_first() else {
        return;
    };
    let bit = |n: u8| flags & (1 << n) != 0;
    let context = ReceiveContext {
        peer: if bit(0) {
            PeerKind::Ebgp
        } else {
            PeerKind::Ibgp
        },
        peer_asn: Asn(65001),
        asn_width: if bit(1) {
            AsnWidth::Two
        } else {
            AsnWidth::Four
        },
        families: FAMILIES
            .into_iter()
            .take(if bit(2) { 1 } else { 2 })
            .collect(),
        add_paths: FAMILIES.into_iter().filter(|_| bit(5)).collect(),
        ipv6_next_hops: bit(6),
        first_as: if bit(3) {
            FirstAsCheck::Enforce
        } else {
            FirstAsCheck::Off
        },
    };
    let mut framer = Framer::new();
    if bit(4) {
        framer.allow_extended();
    }
    framer.extend(stream);
    loop {
        let raw = match framer.next_message() {
            Ok(Some(raw)) => raw,
            Ok(None) => return,
            Err(notification) => {
                let mut out = Vec::new();
                notification.encode(&mut out);
                assert_eq!(whole_messages(&out).len(), 1);
                return;
            }
        };
        match Message::decode(&raw, &context) {
            Ok(Message::Open(open)) => open_again(&open),
            Ok(Message::Update(update)) => update_again(&update),
            Ok(message) => drop(format!("{message:?}")),
            Err(notification) => {
                let mut out = Vec::new();
                notification.encode(&mut out);
                assert_eq!(whole_messages(&out).len(), 1, "{notification}");
            }
        }
    }
}

fn whole_messages(bytes: &[u8]) -> Vec<bgp::wire::message::RawMessage> {
    let mut framer = Framer::new();
    framer.allow_extended();
    framer.extend(bytes);
    std::iter::from_fn(|| framer.next_message().expect("our own header")).collect()
}

fn open_again(open: &Open) {
    // What is longer than the optional parameters of RFC 9072 cannot be written.
    let mut out = Vec::new();
    open.encode(&mut out);
    let raw = whole_messages(&out).pop().expect("one OPEN");
    let again = Open::decode(&raw.body).expect("our own OPEN");
    assert_eq!((again.asn, again.router_id), (open.asn, open.router_id));
    assert_eq!(again.families(), open.families());
}

fn update_again(update: &Update) {
    update
        .faults
        .iter()
        .for_each(|fault| drop(fault.to_string()));
    assert_eq!(update.attributes.is_some(), !update.reach.is_empty());
    let Some(attributes) = &update.attributes else {
        return;
    };
    let all = ReceiveContext {
        peer: PeerKind::Ibgp,
        peer_asn: Asn(65001),
        asn_width: AsnWidth::Four,
        families: FAMILIES.into(),
        add_paths: BTreeSet::new(),
        ipv6_next_hops: true,
        first_as: FirstAsCheck::Off,
    };
    for reach in &update.reach {
        let mut attributes = attributes.clone();
        attributes.next_hop = Some(reach.next_hop);
        let mut encoded = Vec::new();
        append_attributes(&attributes, AsnWidth::Four, &mut encoded);
        let mut prefixes = reach.nlri.iter().peekable();
        let mut out = Vec::new();
        while let Ok(1..) = write_reach(
            &mut out,
            &encoded,
            &reach.next_hop,
            &mut prefixes,
            MessageLimit::Extended,
        ) {}
        let mut told = Vec::new();
        for raw in whole_messages(&out) {
            let Ok(Message::Update(again)) = Message::decode(&raw, &all) else {
                panic!("our own UPDATE ends the session");
            };
            assert_eq!(again.faults, [], "{attributes:?}");
            attributes.next_hop = None;
            assert_eq!(again.attributes.as_ref(), Some(&attributes));
            for reach_again in &again.reach {
                assert_eq!(reach_again.next_hop, reach.next_hop);
                told.extend(&reach_again.nlri);
            }
        }
        if !out.is_empty() {
            assert!(told.iter().copied().eq(&reach.nlri), "{told:?}");
        }
    }
}

/// A whole session: the first octet chooses the peer, the second one how its bytes are cut, the rest is what it sends. With the
/// first octet's last bit, two more octets come before that: [`Turn`].
///
/// Nothing panics; where the bytes are cut makes no difference; the counts are those of the routes there are; what another
/// peer is sent of it is free of faults; when the peer is gone, so are its routes, in the end.
#[allow(dead_code, reason = "each fuzz target uses one of the two")]
pub(crate) fn session(data: &[u8]) {
    let [flags, cut, rest @ ..] = data else {
        return;
    };
    let (turn, stream) = match rest {
        [what, at, stream @ ..] if flags & 128 != 0 => (
            Turn {
                what: *what,
                at: *at,
            },
            stream,
        ),
        _ => (Turn::default(), rest),
    };
    let (before, after) = stream.split_at(stream.len() * usize::from(turn.at) / 255);
    let mut whole = Driven::new(*flags, turn);
    whole.say(before);
    whole.happen();
    whole.say(after);
    let mut pieces = Driven::new(*flags, turn);
    let mut random = u32::from(*cut);
    for mut rest in [before, after] {
        while !rest.is_empty() {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let most = 1 + usize::from(*cut);
            let octets = (1 + (random >> 16) as usize % most).min(rest.len());
            let (piece, left) = rest.split_at(octets);
            pieces.say(piece);
            rest = left;
        }
        pieces.happen();
    }
    assert_same(&mut whole, &mut pieces);
    whole.check_counts();
    whole.check_sent();
    whole.end();
}

fn assert_same(whole: &mut Driven, pieces: &mut Driven) {
    assert_eq!(whole.state(), pieces.state());
}

/// What happens in the middle of a session, and settings that few peers have.
#[derive(Clone, Copy, Default)]
struct Turn {
    /// The low three bits choose what happens, the others are settings of the peer.
    what: u8,
    /// Where, in 255ths of what the peer sends.
    at: u8,
}

impl Turn {
    const fn bit(self, n: u8) -> bool {
        self.what & (1 << n) != 0
    }

    /// RFC 8538's N bit on both sides.
    const fn notification(self) -> bool {
        self.bit(3)
    }

    /// The subject is made from a template.
    const fn dynamic(self) -> bool {
        self.bit(4)
    }

    fn options(self) -> PeerOptions {
        PeerOptions {
            scope_id: 0,
            keepalive_time: self.bit(6).then_some(Duration::from_secs(20)),
            prefix_warning: self.bit(7).then_some(5),
            enforce_first_as: self.bit(6),
            require_policy: self.bit(5),
            notification_restart: self.notification(),
            add_paths: AddPaths::default(),
            ipv6_next_hops: self.bit(5),
            role: self.bit(7).then_some(bgp::types::Role::Customer),
            strict_role: false,
            dynamic: None,
            shutdown: false,
            shutdown_text: self.bit(7).then(|| "moved".into()),
        }
    }
}

/// A speaker, the peer under test (address 10.0.0.2), and an honest one (10.0.0.3).
struct Driven {
    speaker: Speaker,
    now: Instant,
    events: Vec<String>,
    closed: Option<Vec<u8>>,
    sent: Vec<u8>,
    honest: PeerKind,
    config: Config,
    flags: u8,
    /// The settings; what happens, until it did.
    settings: Turn,
    turn: Option<Turn>,
    /// The subject's connection.
    subject: ConnId,
    connections: u64,
}

const HONEST: ConnId = ConnId::incoming(2);

fn address(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
}

fn peer(last: u8, asn: u32, flags: u8) -> PeerConfig {
    PeerConfig {
        address: address(last),
        port: 179,
        local_address: None,
        asn: Asn(asn),
        local_asn: None,
        families: FAMILIES.into(),
        passive: true,
        hold_time: Duration::from_secs(90),
        connect_retry_time: Duration::from_secs(5),
        password: None,
        ttl_security: None,
        multihop: true,
        route_reflector_client: flags & 8 != 0,
        next_hop: NextHopMode::Auto,
        allow_own_as: 0,
        graceful_restart: flags & 4 != 0,
        restart_time: None,
        prefix_limit: (flags & 16 != 0).then_some(20),
        import: RoutePolicy::accept_all(),
        export: RoutePolicy::accept_all(),
        options: PeerOptions::default(),
    }
}

impl Driven {
    #[allow(
        clippy::disallowed_methods,
        reason = "an Instant to count from; nothing else is read from the clock"
    )]
    fn new(flags: u8, turn: Turn) -> Self {
        let now = Instant::now();
        let asn = |ebgp: bool, other| if ebgp { other } else { 65000 };
        let (subject, honest) = (asn(flags & 1 != 0, 65001), asn(flags & 2 != 0, 65002));
        let config = Config {
            asn: Asn(65000),
            router_id: RouterId(Ipv4Addr::new(10, 0, 0, 1)),
            listen_port: 179,
            listen_addresses: BTreeSet::new(),
            cluster_id: None,
            restart_time: 120 * SECOND,
            deferral_time: 120 * SECOND,
            multipath: 4,
            peers: [
                (PeerName("honest".into()), peer(3, honest, flags)),
                (subject_name(), configured_subject(subject, flags, turn)),
            ]
            .into(),
        };
        let mut driven = Self {
            speaker: Speaker::new(1, now),
            now,
            events: Vec::new(),
            closed: None,
            sent: Vec::new(),
            honest: if honest == 65000 {
                PeerKind::Ibgp
            } else {
                PeerKind::Ebgp
            },
            config,
            flags,
            settings: turn,
            turn: Some(turn),
            subject: ConnId::incoming(1),
            connections: 2,
        };
        driven.speaker.handle_config(now, driven.config.clone());
        driven.open(HONEST, 3, honest, true);
        driven.open_subject();
        driven
    }

    fn open(&mut self, conn: ConnId, last: u8, asn: u32, greets: bool) {
        let remote = SocketAddr::new(address(last), 40_000);
        let local = SocketAddr::new(address(1), 179);
        let accepted = self.speaker.handle_accepted(self.now, conn, remote, local);
        if accepted.is_ok() && greets {
            let mut bytes = Vec::new();
            greeting(last, asn, self.settings.notification()).encode(&mut bytes);
            write_keepalive(&mut bytes);
            self.speaker.handle_bytes(self.now, conn, &bytes);
        }
        self.drain();
    }

    /// Without bit 5, the subject says its OPEN itself.
    fn open_subject(&mut self) {
        let asn = self.config.peers[&subject_name()].asn.0;
        self.open(self.subject, 2, asn, self.flags & 32 == 0);
    }

    /// A new connection of the subject's.
    fn open_subject_again(&mut self) {
        self.connections += 1;
        self.subject = ConnId::incoming(self.connections);
        self.closed = None;
        self.open_subject();
    }

    fn say(&mut self, bytes: &[u8]) {
        self.speaker.handle_bytes(self.now, self.subject, bytes);
        self.drain();
    }

    /// What [`Turn`] says, once. A subject that lost its connection by that opens another one.
    fn happen(&mut self) {
        let Some(turn) = self.turn.take() else {
            return;
        };
        match turn.what & 7 {
            0 => return,
            1 => self.configure(|peer| peer.password = Some(Password("another key".into()))),
            2 => self.configure(|peer| peer.password = None),
            3 => {
                self.speaker.handle_closed(self.now, self.subject);
                self.closed = Some(Vec::new());
                self.drain();
            }
            4 => {
                // The old connection stands: the peer restarted, or opens a second one.
                self.open_subject_again();
            }
            5 => self.let_hold_timer_expire(),
            6 => {
                let peers = self.config.peers.clone();
                self.config.peers.remove(&subject_name());
                self.speaker.handle_config(self.now, self.config.clone());
                self.drain();
                self.config.peers = peers;
                self.speaker.handle_config(self.now, self.config.clone());
                self.drain();
            }
            _ => self.configure(|peer| {
                peer.import = RoutePolicy::reject_all();
                peer.export = RoutePolicy::reject_all();
                peer.prefix_limit = Some(3);
            }),
        }
        if self.closed.is_some() {
            self.open_subject_again();
        }
    }

    fn configure(&mut self, change: impl FnOnce(&mut PeerConfig)) {
        let subject = self.config.peers.get_mut(&subject_name());
        change(subject.expect("it is configured"));
        self.speaker.handle_config(self.now, self.config.clone());
        self.drain();
    }

    /// Longer than the subject's 90 s; the honest peer says a KEEPALIVE meanwhile.
    fn let_hold_timer_expire(&mut self) {
        for _ in 0..2 {
            self.now += 60 * SECOND;
            let mut bytes = Vec::new();
            write_keepalive(&mut bytes);
            self.speaker.handle_bytes(self.now, HONEST, &bytes);
            self.drain();
        }
    }

    fn drain(&mut self) {
        while let Some((at, _)) = self.speaker.poll_timeout()
            && at <= self.now
        {
            self.speaker.handle_timeout(self.now);
        }
        while let Some(action) = self.speaker.poll_action() {
            if let Action::Close { conn, farewell } = action
                && conn == self.subject
            {
                self.closed = Some(farewell);
            }
        }
        while self.speaker.poll_route().is_some() {}
        while self.speaker.poll_next_hop_watch().is_some() {}
        while let Some(event) = self.speaker.poll_event() {
            self.events.push(format!("{event:?}"));
        }
    }

    /// Everything that must not depend on the cut.
    fn state(&mut self) -> (Vec<String>, Vec<String>, bool) {
        let routes = self.speaker.routes();
        let routes = routes.iter().map(|route| format!("{route:?}")).collect();
        (routes, self.events.clone(), self.closed.is_some())
    }

    fn check_counts(&mut self) {
        let peers = self.speaker.peers(self.now);
        self.check_counts_of(peers);
    }

    fn check_counts_of(&self, peers: Vec<bgp::status::PeerStatus>) {
        let routes = self.speaker.routes();
        for peer in peers {
            for (family, counts) in peer.prefixes {
                let of_family = |prefix: &ipnet::IpNet| match family {
                    AfiSafi::Ipv4Unicast => prefix.addr().is_ipv4(),
                    AfiSafi::Ipv6Unicast => prefix.addr().is_ipv6(),
                };
                let paths = routes
                    .iter()
                    .filter(|route| of_family(&route.prefix))
                    .flat_map(|route| &route.paths);
                let own = paths.filter(|path| path.peer.as_ref() == Some(&peer.name));
                assert_eq!(counts.received, own.count(), "{}", peer.name);
            }
        }
    }

    fn check_sent(&mut self) {
        while self.speaker.poll_writable().is_some() {}
        while self
            .speaker
            .poll_transmit(self.now, HONEST, 700, &mut self.sent)
            > 0
        {}
        let context = ReceiveContext {
            peer: self.honest,
            peer_asn: Asn(65000),
            asn_width: AsnWidth::Four,
            families: FAMILIES.into(),
            add_paths: BTreeSet::new(),
            ipv6_next_hops: false,
            first_as: FirstAsCheck::Off,
        };
        let sent = whole_messages(&self.sent);
        let octets: usize = sent.iter().map(|raw| 19 + raw.body.len()).sum();
        assert_eq!(octets, self.sent.len(), "whole messages");
        for raw in sent {
            let message = Message::decode(&raw, &context).expect("nothing that ends a session");
            if let Message::Update(update) = message {
                assert_eq!(update.faults, []);
            }
        }
    }

    fn end(&mut self) {
        self.speaker.handle_closed(self.now, self.subject);
        self.let_restart_time_expire();
        self.check_empty();
    }

    fn let_restart_time_expire(&mut self) {
        self.drain();
        // Longer than any restart time that fits into a capability.
        for _ in 0..50 {
            self.now += 100 * SECOND;
            self.drain();
        }
    }

    fn check_empty(&self) {
        let routes = self.speaker.routes();
        assert!(routes.is_empty(), "{routes:?}");
    }
}

fn subject_name() -> PeerName {
    PeerName("subject".into())
}

fn configured_subject(asn: u32, flags: u8, turn: Turn) -> PeerConfig {
    let mut subject = peer(2, asn, flags);
    subject.options = turn.options();
    if turn.dynamic() {
        subject.address = address(0);
        subject.options.dynamic = Some(DynamicRange {
            range: "10.0.0.0/29".parse().expect("a prefix"),
            limit: 1,
        });
    }
    // From one key to another the session stands; from one to none it does not.
    subject.password = (1..=2)
        .contains(&(turn.what & 7))
        .then(|| Password("a key".into()));
    subject
}

fn greeting(last: u8, asn: u32, notification: bool) -> Open {
    let IpAddr::V4(router_id) = address(last) else {
        unreachable!("addresses are IPv4");
    };
    let restart = GracefulRestart {
        restarting: false,
        notification,
        time: 120 * SECOND,
        families: FAMILIES
            .map(|family| GracefulFamily {
                family: Family::from(family),
                forwarding: true,
            })
            .to_vec(),
    };
    Open {
        asn: Asn(asn),
        hold_time: 90 * SECOND,
        router_id: RouterId(router_id),
        capabilities: vec![
            Capability::FourOctetAs(Asn(asn)),
            Capability::Multiprotocol(Family::from(FAMILIES[0])),
            Capability::Multiprotocol(Family::from(FAMILIES[1])),
            Capability::GracefulRestart(restart),
            Capability::RouteRefresh,
            Capability::EnhancedRouteRefresh,
            Capability::ExtendedMessage,
        ],
    }
}

/// Each breaks what one of the invariants guards: the replay shows that they notice.
#[allow(dead_code, reason = "for the replay")]
pub(crate) mod sabotage {
    use bgp::wire::attr::{AttributeCode, RawAttribute};
    use bgp::wire::message::RawMessage;

    use super::*;

    /// 192.168.0.0/16 with ORIGIN at octet 26, AS_PATH 65001, NEXT_HOP 10.0.0.2.
    fn update() -> Vec<u8> {
        let attributes = [
            0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe9, 0x40, 3, 4, 10, 0, 0, 2,
        ];
        let mut bytes = vec![0xff; 16];
        bytes.extend([0, 46, 2, 0, 0, 0, 20]);
        bytes.extend(attributes);
        bytes.extend([16, 192, 168]);
        bytes
    }

    fn with_a_route() -> Driven {
        // The subject is external.
        let mut driven = Driven::new(1, Turn::default());
        driven.say(&update());
        assert_eq!(driven.speaker.routes().len(), 1, "{:?}", driven.events);
        driven
    }

    pub(crate) fn attributes() {
        let raw: RawMessage = whole_messages(&update()).remove(0);
        let context = ReceiveContext {
            peer: PeerKind::Ebgp,
            peer_asn: Asn(65001),
            asn_width: AsnWidth::Four,
            families: FAMILIES.into(),
            add_paths: BTreeSet::new(),
            ipv6_next_hops: false,
            first_as: FirstAsCheck::Enforce,
        };
        let Ok(Message::Update(mut update)) = Message::decode(&raw, &context) else {
            return;
        };
        // Written by rising code, so read otherwise.
        if let Some(attributes) = &mut update.attributes {
            let raw = |code| RawAttribute {
                flags: 0xe0,
                code: AttributeCode(code),
                value: [1].into(),
            };
            attributes.unknown = [raw(99), raw(98)].into();
        }
        update_again(&update);
    }

    pub(crate) fn faulty_update() {
        let mut driven = with_a_route();
        let mut bytes = update();
        // ORIGIN 7.
        bytes[26] = 7;
        driven.sent.extend(bytes);
        driven.check_sent();
    }

    pub(crate) fn cut_message() {
        let mut driven = with_a_route();
        driven.sent.extend(&update()[..30]);
        driven.check_sent();
    }

    pub(crate) fn counts() {
        let mut driven = with_a_route();
        let before = driven.speaker.peers(driven.now);
        driven.speaker.handle_closed(driven.now, driven.subject);
        driven.let_restart_time_expire();
        driven.check_counts_of(before);
    }

    pub(crate) fn routes_that_stay() {
        with_a_route().check_empty();
    }

    pub(crate) fn lost_bytes() {
        let mut pieces = Driven::new(1, Turn::default());
        pieces.say(&update()[..40]);
        assert_same(&mut with_a_route(), &mut pieces);
    }
}
