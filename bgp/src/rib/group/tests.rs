use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use ipnet::{IpNet, Ipv4Net};
use proptest::prelude::*;

use super::*;
use crate::policy::{Edit, Match, PrefixRange, Term, Verdict};
use crate::rib::Rib;
use crate::rib::group::log::{path_id_of, whole_messages};
use crate::rib::source::Source;
use crate::rib::table::PathKey;
use crate::types::{PathId, PeerName, RouterId};
use crate::wire::attr::community::{Community, ExtendedCommunity};
use crate::wire::attr::{AttributeCode, NextHop, PathAttributes, RawAttribute};
use crate::wire::message::{HEADER_LENGTH, Message, MessageType, RawMessage};
use crate::wire::update::{FirstAsCheck, ReceiveContext, decode_update};

mod bounds;
mod exported;
mod policies;

const FAMILY: AfiSafi = AfiSafi::Ipv4Unicast;

fn key() -> GroupKey {
    GroupKey {
        family: FAMILY,
        kind: PeerKind::Ibgp,
        local_asn: Asn(1),
        local_address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
        next_hop: NextHopMode::Auto,
        client: true,
        cluster_id: Ipv4Addr::new(9, 9, 9, 9),
        width: AsnWidth::Four,
        limit: MessageLimit::Standard,
        ipv6_next_hops: false,
        role: None,
        add_paths: false,
        policy: RoutePolicy::accept_all(),
    }
}

fn net(n: u32) -> IpNet {
    IpNet::V4(Ipv4Net::new(Ipv4Addr::from_bits(n << 8), 24).expect("24 bits"))
}

/// A receiver: what it was told, message by message.
#[derive(Default)]
struct Receiver {
    table: BTreeMap<IpNet, u32>,
    /// With path identifiers, if there are any.
    paths: BTreeMap<(IpNet, PathId), u32>,
    messages: Vec<Message>,
}

struct Bench {
    rib: Rib,
    peers: Vec<SourceId>,
    receivers: BTreeMap<SourceId, Receiver>,
    /// Numbers of those that do not have the first one.
    policies: BTreeMap<SourceId, usize>,
    /// All paths are sent.
    add_paths: bool,
}

/// Everything; no odd prefixes; another MED for every third one; nothing.
fn policy(number: usize) -> RoutePolicy {
    let exactly = |keep: &dyn Fn(u32) -> bool| {
        let all = (0..12).filter(|n| keep(*n));
        vec![Match::Prefix(
            all.map(|n| PrefixRange::exactly(net(n))).collect(),
        )]
    };
    let term = |matches, edits, verdict| RoutePolicy {
        terms: vec![Term {
            name: "test".into(),
            matches,
            edits,
            verdict,
        }],
        ..RoutePolicy::accept_all()
    };
    match number {
        0 => RoutePolicy::accept_all(),
        1 => term(exactly(&|n| n % 2 == 1), Vec::new(), Verdict::Reject),
        2 => term(
            exactly(&|n| n % 3 == 0),
            vec![Edit::SetMed(Some(OTHER_MED))],
            Verdict::Accept,
        ),
        _ => RoutePolicy::reject_all(),
    }
}

/// What the policy makes of a route.
fn by_policy(number: usize, prefix: IpNet, med: u32) -> Option<u32> {
    let is = |every: u32, rest: u32| (0..12).any(|n| n % every == rest && net(n) == prefix);
    match number {
        0 => Some(med),
        1 => (!is(2, 1)).then_some(med),
        2 => Some(if is(3, 0) { OTHER_MED } else { med }),
        _ => None,
    }
}

const OTHER_MED: u32 = 77;

impl Bench {
    fn new(peers: u8) -> Self {
        let mut rib = Rib::new(5);
        let peers = (1..=peers)
            .map(|number| {
                rib.table.add_source(Source {
                    peer: Some(PeerName(format!("{number}").into())),
                    kind: PeerKind::Ibgp,
                    asn: Asn(1),
                    address: IpAddr::V4(Ipv4Addr::new(10, 0, 1, number)),
                    port: 179,
                    router_id: RouterId(Ipv4Addr::new(10, 0, 1, number)),
                    client: true,
                    deferred: false,
                    held: Default::default(),
                })
            })
            .collect();
        Self {
            rib,
            peers,
            receivers: BTreeMap::new(),
            policies: BTreeMap::new(),
            add_paths: false,
        }
    }

    fn key(&self) -> GroupKey {
        GroupKey {
            add_paths: self.add_paths,
            ..key()
        }
    }

    fn join(&mut self, peer: SourceId) {
        self.receivers.insert(peer, Receiver::default());
        self.rib.join(peer, self.key());
    }

    /// A member gets another export policy: one of those of [`policy`].
    fn change(&mut self, peer: SourceId, number: usize) {
        let key = GroupKey {
            policy: policy(number),
            ..self.key()
        };
        self.policies.insert(peer, number);
        self.rib.join(peer, key);
    }

    fn leave(&mut self, peer: SourceId) {
        self.receivers.remove(&peer);
        self.policies.remove(&peer);
        self.rib.leave(peer, FAMILY);
    }

    fn announce(&mut self, path: impl Into<PathKey>, prefix: u32, med: u32, communities: u32) {
        let attributes = self.rib.table.acquire(&PathAttributes {
            next_hop: Some(NextHop::V4(Ipv4Addr::new(10, 0, 2, 1))),
            med: Some(med),
            communities: (0..communities).map(Community).collect(),
            ..PathAttributes::default()
        });
        let table = &mut self.rib.table;
        let announced = table.announce(net(prefix), path, attributes, None);
        assert_eq!(announced, Ok(()));
        self.rib.table.release(attributes);
        self.rib.decide(usize::MAX);
    }

    fn withdraw(&mut self, path: impl Into<PathKey>, prefix: u32) {
        self.rib.table.withdraw(net(prefix), path);
        self.rib.decide(usize::MAX);
    }

    /// One transmission; true when the peer has everything.
    fn transmit(&mut self, peer: SourceId, room: usize) -> bool {
        let mut out = Vec::new();
        let transmitted = self.rib.transmit(peer, room, &mut out);
        let drained = matches!(transmitted, Transmitted::Drained);
        assert!(
            !matches!(transmitted, Transmitted::Full) || out.len() >= room,
            "stops only when the room is used, nothing is left, or others have their turn"
        );
        let receiver = self.receivers.get_mut(&peer).expect("a member");
        let mut rest = &out[..];
        while !rest.is_empty() {
            let (message, tail) = rest.split_at(whole_messages(rest, 1));
            receiver.receive(message, self.add_paths);
            rest = tail;
        }
        drained
    }

    fn drain(&mut self) {
        let members: Vec<SourceId> = self.receivers.keys().copied().collect();
        for peer in members {
            while !self.transmit(peer, 10_000) {}
        }
    }

    /// What a peer should know: every best route, or every path, that is not its own.
    fn expected(&self, peer: SourceId) -> BTreeMap<(IpNet, PathId), u32> {
        let table = &self.rib.table;
        let mut expected = BTreeMap::new();
        for id in table.ids_in_use() {
            let best = table.best(id).filter(|_| !self.add_paths);
            let best = best.map(|best| (best.source, best.attributes, PathId::ONLY));
            let all = table.eligible(id).filter(|_| self.add_paths);
            let all = all.map(|path| (path.source, path.attributes, path_id_of(path.number)));
            for (source, attributes, path_id) in best.into_iter().chain(all) {
                if source == peer {
                    continue;
                }
                let med = table.attributes(attributes).med.expect("all have one");
                let number = self.policies.get(&peer).copied().unwrap_or(0);
                let prefix = table.prefix(id);
                let told = by_policy(number, prefix, med);
                expected.extend(told.map(|med| ((prefix, path_id), med)));
            }
        }
        expected
    }

    fn check(&mut self) {
        self.drain();
        for (peer, receiver) in &self.receivers {
            assert_eq!(receiver.paths, self.expected(*peer), "{peer:?}");
            let advertised = self.rib.advertised(*peer, FAMILY);
            assert_eq!(advertised, receiver.paths.len(), "{peer:?}");
        }
    }
}

impl Receiver {
    fn receive(&mut self, message: &[u8], add_paths: bool) {
        let raw = RawMessage {
            kind: MessageType::from_code(message[18]).expect("a type"),
            body: Bytes::copy_from_slice(&message[HEADER_LENGTH..]),
        };
        let context = ReceiveContext {
            peer: PeerKind::Ibgp,
            peer_asn: Asn(1),
            asn_width: AsnWidth::Four,
            families: BTreeSet::from([FAMILY]),
            add_paths: add_paths.then_some(FAMILY).into_iter().collect(),
            ipv6_next_hops: false,
            first_as: FirstAsCheck::Off,
        };
        let message = Message::decode(&raw, &context).expect("in order");
        if let Message::Update(update) = &message {
            assert!(update.faults.is_empty(), "{:?}", update.faults);
            for (path_id, prefix) in update.unreach.iter().flat_map(|nlri| nlri.paths()) {
                self.table.remove(&prefix);
                self.paths.remove(&(prefix, path_id));
            }
            let reach = update.reach.iter().flat_map(|reach| reach.nlri.paths());
            for (path_id, prefix) in reach {
                let med = update
                    .attributes
                    .as_ref()
                    .and_then(|a| a.med)
                    .expect("all have one");
                self.table.insert(prefix, med);
                self.paths.insert((prefix, path_id), med);
            }
        }
        self.messages.push(message);
    }

    fn count(&self, wanted: impl Fn(&Message) -> bool) -> usize {
        self.messages
            .iter()
            .filter(|message| wanted(message))
            .count()
    }
}

fn is_end_of_rib(message: &Message) -> bool {
    matches!(message, Message::Update(update) if update.end_of_rib.is_some())
}

#[test]
fn prefixes_of_one_attribute_set_share_messages_and_end_of_rib_follows_once() {
    let mut bench = Bench::new(3);
    let (sender, first, second) = (bench.peers[0], bench.peers[1], bench.peers[2]);
    (0..500).for_each(|n| bench.announce(sender, n, 1, 0));
    bench.join(first);
    bench.check();
    // An existing table is walked for the second one.
    bench.join(second);
    bench.check();
    for peer in [first, second] {
        let receiver = &bench.receivers[&peer];
        assert_eq!(
            receiver.messages.len(),
            2,
            "500 prefixes fit into one UPDATE"
        );
        assert!(is_end_of_rib(&receiver.messages[1]));
    }
    bench.withdraw(sender, 3);
    bench.check();
    assert_eq!(bench.receivers[&first].messages.len(), 3);
}

#[test]
fn who_waits_for_end_of_rib_is_called_once_when_the_last_prefix_is_decided() {
    let mut bench = Bench::new(3);
    let (sender, receiver) = (bench.peers[0], bench.peers[1]);
    bench.announce(sender, 1, 1, 0);
    bench.join(receiver);
    bench.drain();
    assert_eq!(bench.receivers[&receiver].count(is_end_of_rib), 1);
    let second = bench.peers[2];
    bench.join(second);
    while bench.rib.next_woken().is_some() {}
    // It has not been given anything yet, and what others do is no reason to call it again and again.
    for _ in 0..10 {
        bench.rib.decide(usize::MAX);
    }
    assert_eq!(bench.rib.next_woken(), None);
    // While something is to be decided it is told all but the end.
    let prefixes = [2, 3].map(net);
    for prefix in prefixes {
        let attributes = bench.rib.table.acquire(&PathAttributes {
            next_hop: Some(NextHop::V4(Ipv4Addr::new(10, 0, 2, 1))),
            med: Some(1),
            ..PathAttributes::default()
        });
        let announced = bench.rib.table.announce(prefix, sender, attributes, None);
        assert_eq!(announced, Ok(()));
        bench.rib.table.release(attributes);
    }
    bench.rib.decide(1);
    while !bench.transmit(second, 10_000) {}
    while bench.rib.next_woken().is_some() {}
    assert_eq!(bench.receivers[&second].count(is_end_of_rib), 0);
    bench.rib.decide(usize::MAX);
    let woken: Vec<SourceId> = std::iter::from_fn(|| bench.rib.next_woken()).collect();
    assert!(woken.contains(&second), "{woken:?}");
    bench.check();
    assert_eq!(bench.receivers[&second].count(is_end_of_rib), 1);
}

#[test]
fn changes_while_nobody_reads_are_one_change() {
    let mut bench = Bench::new(2);
    let (sender, receiver) = (bench.peers[0], bench.peers[1]);
    bench.join(receiver);
    bench.drain();
    (0..100).for_each(|med| bench.announce(sender, 1, med, 0));
    bench.announce(sender, 2, 7, 0);
    bench.withdraw(sender, 2);
    bench.check();
    let updates = bench.receivers[&receiver].count(|message| matches!(message, Message::Update(_)));
    assert_eq!(updates, 2, "End-of-RIB and the last state");
}

#[test]
fn a_best_route_that_moves_to_a_member_is_withdrawn_from_it_alone() {
    let mut bench = Bench::new(3);
    let (low, high, other) = (bench.peers[0], bench.peers[1], bench.peers[2]);
    [low, high, other]
        .into_iter()
        .for_each(|peer| bench.join(peer));
    bench.announce(high, 1, 5, 0);
    bench.check();
    assert!(bench.receivers[&low].table.contains_key(&net(1)));
    bench.announce(low, 1, 3, 0);
    bench.check();
    assert!(!bench.receivers[&low].table.contains_key(&net(1)));
    assert!(bench.receivers[&high].table.contains_key(&net(1)));
}

#[test]
fn an_enhanced_refresh_is_framed_and_complete() {
    let mut bench = Bench::new(2);
    let (sender, receiver) = (bench.peers[0], bench.peers[1]);
    (0..20_000).for_each(|n| bench.announce(sender, n, n % 10, 0));
    bench.join(receiver);
    bench.check();
    bench.receivers.insert(receiver, Receiver::default());
    bench.rib.refresh(receiver, FAMILY, true);
    bench.check();
    let told = &bench.receivers[&receiver];
    let refresh = |kind| Message::RouteRefresh(RouteRefresh::new(FAMILY, kind));
    assert_eq!(told.messages.first(), Some(&refresh(RefreshKind::Begin)));
    assert_eq!(told.messages.last(), Some(&refresh(RefreshKind::End)));
    assert_eq!(told.count(is_end_of_rib), 0);
}

#[test]
fn a_route_that_fits_into_no_message_replaces_its_former_one_by_a_withdrawal() {
    let mut bench = Bench::new(2);
    let (sender, receiver) = (bench.peers[0], bench.peers[1]);
    bench.join(receiver);
    bench.announce(sender, 1, 1, 0);
    bench.announce(sender, 2, 1, 0);
    bench.check();
    bench.announce(sender, 1, 2, 2000);
    bench.drain();
    assert_eq!(
        bench.receivers[&receiver].table.keys().collect::<Vec<_>>(),
        vec![&net(2)]
    );
    let withheld = bench.rib.take_withheld();
    assert!(withheld.iter().any(|(peer, w)| *peer == receiver
        && w.prefix == net(1)
        && w.reason == ExportRefusal::TooLong));
}

#[test]
fn a_member_that_does_not_read_costs_bounded_memory_and_catches_up() {
    let mut bench = Bench::new(3);
    let (sender, reader, sleeper) = (bench.peers[0], bench.peers[1], bench.peers[2]);
    bench.join(reader);
    bench.join(sleeper);
    bench.drain();
    for round in 0..12 {
        for n in 0..400 {
            // About 3,600 octets of attributes, different for each prefix.
            bench.announce(sender, n + 1000 * (round % 3), n + 10_000 * round, 900);
        }
        if round % 4 == 3 {
            (0..100).for_each(|n| bench.withdraw(sender, n));
        }
        while !bench.transmit(reader, 10_000) {}
        assert!(bench.rib.groups[0].log.octets() <= LOG_OCTETS_IN_ALL);
    }
    assert!(
        !bench.rib.groups[0].members[&sleeper].missed.is_empty(),
        "it was set back"
    );
    bench.check();
    assert_eq!(
        bench.rib.groups[0].log.octets(),
        0,
        "everybody has everything"
    );
}

#[test]
fn nothing_is_left_behind_when_all_routes_and_members_go() {
    let mut bench = Bench::new(2);
    let (sender, receiver) = (bench.peers[0], bench.peers[1]);
    bench.join(receiver);
    (0..100).for_each(|n| bench.announce(sender, n, n, 0));
    bench.check();
    (0..100).for_each(|n| bench.withdraw(sender, n));
    bench.check();
    while bench.rib.table.poll_change().is_some() {}
    assert!(
        bench.rib.table.ids_in_use().is_empty(),
        "all ids are free again"
    );
    assert_eq!(bench.rib.table.attribute_sets(), 0);
    bench.leave(receiver);
    assert!(bench.rib.groups.is_empty());
}

#[test]
fn a_route_that_fills_a_message_to_the_last_octet_is_sent() {
    // An unknown attribute grows octet by octet to the limit and beyond.
    let mut bench = Bench::new(2);
    let (sender, receiver) = (bench.peers[0], bench.peers[1]);
    bench.join(receiver);
    let mut longest = None;
    for filler in 0..12 {
        let attributes = bench.rib.table.acquire(&PathAttributes {
            next_hop: Some(NextHop::V4(Ipv4Addr::new(10, 0, 2, 1))),
            med: Some(1),
            communities: (0..1000).map(Community).collect(),
            unknown: [RawAttribute {
                flags: 0xe0,
                code: AttributeCode(99),
                value: vec![0; 10 + filler].into(),
            }]
            .into(),
            ..PathAttributes::default()
        });
        let announced = bench.rib.table.announce(net(1), sender, attributes, None);
        assert_eq!(announced, Ok(()));
        bench.rib.table.release(attributes);
        bench.rib.decide(usize::MAX);
        let mut out = Vec::new();
        bench.rib.transmit(receiver, 10_000, &mut out);
        let announces = whole_messages(&out, 1) > 100;
        longest = longest.max(announces.then(|| whole_messages(&out, 1)));
    }
    assert_eq!(longest, Some(4096));
}

#[derive(Clone, Debug)]
enum Step {
    Announce(usize, u32, u32, u32),
    Withdraw(usize, u32, u32),
    Join(usize),
    Leave(usize),
    Transmit(usize, usize),
    Refresh(usize, bool),
    Change(usize, usize),
    Resume,
}

fn step() -> impl Strategy<Value = Step> {
    let peer = 0..4usize;
    prop_oneof![
        6 => (peer.clone(), 0..12u32, 0..4u32, 0..3u32)
            .prop_map(|(p, n, med, path)| Step::Announce(p, n, med, path)),
        4 => (peer.clone(), 0..12u32, 0..3u32).prop_map(|(p, n, path)| Step::Withdraw(p, n, path)),
        2 => peer.clone().prop_map(Step::Join),
        1 => peer.clone().prop_map(Step::Leave),
        5 => (peer.clone(), 1..300usize).prop_map(|(p, room)| Step::Transmit(p, room)),
        2 => (peer.clone(), 0..4usize).prop_map(|(p, number)| Step::Change(p, number)),
        2 => Just(Step::Resume),
        1 => (peer, any::<bool>()).prop_map(|(p, enhanced)| Step::Refresh(p, enhanced)),
    ]
}

#[test]
fn where_all_paths_are_sent_each_has_an_identifier_that_stays() {
    let mut bench = Bench::new(4);
    bench.add_paths = true;
    let (low, high, third) = (bench.peers[0], bench.peers[1], bench.peers[2]);
    let receiver = bench.peers[3];
    bench.join(receiver);
    bench.announce(low, 1, 5, 0);
    bench.announce(high, 1, 6, 0);
    bench.check();
    let told = |bench: &Bench| bench.receivers[&receiver].paths.clone();
    let one = |number, med| ((net(1), path_id_of(number)), med);
    assert_eq!(told(&bench), [one(0, 5), one(1, 6)].into());
    // The best one goes: the other is not sent again.
    let before = bench.receivers[&receiver].messages.len();
    bench.withdraw(low, 1);
    bench.check();
    assert_eq!(told(&bench), [one(1, 6)].into());
    assert_eq!(bench.receivers[&receiver].messages.len(), before + 1);
    bench.announce(third, 1, 7, 0);
    bench.check();
    assert_eq!(told(&bench), [one(0, 7), one(1, 6)].into());
}

#[test]
fn a_peer_that_overtook_the_log_is_told_of_every_path_and_of_none_that_went() {
    let mut bench = Bench::new(3);
    bench.add_paths = true;
    let (sender, reader, sleeper) = (bench.peers[0], bench.peers[1], bench.peers[2]);
    let path = |path_id| PathKey {
        source: sender,
        path_id: PathId(path_id),
    };
    bench.join(reader);
    bench.join(sleeper);
    (0..400).for_each(|n| (0..2).for_each(|id| bench.announce(path(id), n, n, 0)));
    bench.drain();
    for round in 0..12 {
        for n in 0..400 {
            bench.announce(path(round % 3), n, n + 10_000 * round, 900);
        }
        (0..100).for_each(|n| bench.withdraw(path((round + 1) % 3), n));
        while !bench.transmit(reader, 10_000) {}
    }
    let member = &bench.rib.groups[0].members[&sleeper];
    assert!(!member.missed.is_empty() && !member.missed_others.is_empty());
    bench.check();
}

proptest! {
    #[test]
    fn every_member_ends_with_every_best_route_or_path_but_its_own(
        steps in prop::collection::vec(step(), 0..120),
        slice in 1..6usize,
        add_paths in any::<bool>(),
        several in any::<bool>(),
    ) {
        let mut bench = Bench::new(4);
        bench.rib.slice = slice;
        bench.add_paths = add_paths;
        let peers = bench.peers.clone();
        let key = |peer: usize, path: u32| PathKey {
            source: peers[peer],
            path_id: PathId(if several { path } else { 0 }),
        };
        for step in steps {
            match step {
                Step::Announce(peer, n, med, path) => bench.announce(key(peer, path), n, med, 0),
                Step::Withdraw(peer, n, path) => bench.withdraw(key(peer, path), n),
                Step::Join(peer) => {
                    if !bench.receivers.contains_key(&bench.peers[peer]) {
                        bench.join(bench.peers[peer]);
                    }
                }
                Step::Leave(peer) => bench.leave(bench.peers[peer]),
                Step::Transmit(peer, room) => {
                    if bench.receivers.contains_key(&bench.peers[peer]) {
                        bench.transmit(bench.peers[peer], room);
                    }
                }
                Step::Resume => bench.rib.resume(5),
                Step::Change(peer, number) => {
                    if bench.receivers.contains_key(&bench.peers[peer]) {
                        bench.change(bench.peers[peer], number);
                    }
                }
                Step::Refresh(peer, enhanced) => {
                    bench.rib.refresh(bench.peers[peer], FAMILY, enhanced);
                }
            }
        }
        bench.check();
        for group in &bench.rib.groups {
            let sent = group.sent.iter().flatten().chain(group.sent_others.values());
            let sent: BTreeSet<ExportId> = sent.map(|sent| sent.exported).collect();
            prop_assert_eq!(group.exports.len(), sent.len(), "no other set is kept");
        }
        let members: Vec<SourceId> = bench.receivers.keys().copied().collect();
        members.into_iter().for_each(|peer| bench.leave(peer));
        while bench.rib.is_interrupted() {
            bench.rib.resume(3);
        }
        let ids = bench.rib.table.ids_in_use();
        prop_assert!(bench.rib.table.attribute_sets() <= ids.len() * 12);
        for id in ids {
            let numbers: BTreeSet<u16> = bench.rib.table.eligible(id).map(|p| p.number).collect();
            prop_assert_eq!(numbers.len(), bench.rib.table.eligible(id).count(), "told apart");
        }
        prop_assert!(bench.rib.groups.is_empty());
    }
}
