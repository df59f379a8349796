//! What touches every prefix is done in slices, and what is half done is right.

use std::net::Ipv4Addr;
use std::time::Instant;

use bgp::config::RoutePolicy;
use bgp::policy::{Edit, Match, PrefixRange, Term, Verdict};
use bgp::route::{Origination, Reachability};
use bgp::status::PathStanding;
use bgp::types::AfiSafi;
use ipnet::{IpNet, Ipv4Net};

use crate::network::{address, config, peer_name, prefix};
use crate::scripted::{CONN, Scripted, attributes};

/// More than one slice.
const PREFIXES: u16 = 40_000;
/// A slice of the speaker's, or more: no call may change more prefixes.
const SLICE: usize = 16_384;

/// A peer whose prefixes are in: 10.n.m.0/24 and further ones.
fn filled() -> Scripted {
    let mut config = config(0, 65000, &[(1, 65001)]);
    for peer in config.peers.values_mut() {
        peer.graceful_restart = false;
    }
    let mut scripted = Scripted::new(config);
    scripted.establish(65001, &[]);
    announce_all(&mut scripted);
    while due(&scripted) {
        changes(&mut scripted);
    }
    scripted
}

fn announce_all(scripted: &mut Scripted) {
    for part in (0..PREFIXES).collect::<Vec<_>>().chunks(900) {
        let mut nlri = Vec::new();
        for n in part {
            let [high, low] = n.to_be_bytes();
            nlri.extend([24, 10 + high / 200, high, low]);
        }
        scripted.update(&attributes(65001), &nlri);
    }
}

fn due(scripted: &Scripted) -> bool {
    let next: Option<(Instant, _)> = scripted.speaker.poll_timeout();
    next.is_some_and(|(at, _)| at <= scripted.now)
}

/// One call for what is due; how many best routes changed.
fn changes(scripted: &mut Scripted) -> usize {
    scripted.speaker.handle_timeout(scripted.now);
    told(scripted)
}

fn told(scripted: &mut Scripted) -> usize {
    let count = std::iter::from_fn(|| scripted.speaker.poll_route()).count();
    scripted.drain();
    count
}

/// Calls until nothing is due; how many best routes changed, none of the calls more than a slice.
fn all_changes(scripted: &mut Scripted, first: usize) -> usize {
    let mut all = first;
    assert!(first > 0 && first <= SLICE, "{first} in the first call");
    while due(scripted) {
        let count = changes(scripted);
        assert!(count <= SLICE, "{count} in one call");
        all += count;
    }
    all
}

fn received(scripted: &Scripted) -> usize {
    let peers = scripted.speaker.peers(scripted.now);
    let counts = peers[0].prefixes.get(&AfiSafi::Ipv4Unicast);
    counts.map_or(0, |counts| counts.received)
}

#[test]
fn a_lost_peers_routes_count_for_nothing_at_once_and_go_in_slices() {
    let mut scripted = filled();
    assert_eq!(received(&scripted), usize::from(PREFIXES));
    scripted.speaker.handle_closed(scripted.now, CONN);
    assert_eq!(received(&scripted), 0);
    assert!(scripted.speaker.routes().is_empty());
    let first = told(&mut scripted);
    assert_eq!(all_changes(&mut scripted, first), usize::from(PREFIXES));
}

#[test]
fn a_peer_that_is_back_before_its_routes_are_gone_keeps_what_it_announces() {
    let mut scripted = filled();
    scripted.speaker.handle_closed(scripted.now, CONN);
    told(&mut scripted);
    assert!(due(&scripted), "not all is swept");
    scripted.establish(65001, &[]);
    announce_all(&mut scripted);
    while due(&scripted) {
        changes(&mut scripted);
    }
    assert_eq!(received(&scripted), usize::from(PREFIXES));
    assert_eq!(scripted.prefixes().len(), usize::from(PREFIXES));
}

#[test]
fn a_removed_peer_may_come_back_at_once_under_the_same_name() {
    let mut scripted = filled();
    let whole = config(0, 65000, &[(1, 65001)]);
    let none = config(0, 65000, &[]);
    scripted.speaker.handle_config(scripted.now, none);
    assert!(scripted.speaker.peers(scripted.now).is_empty());
    scripted.speaker.handle_config(scripted.now, whole);
    scripted.drain();
    assert!(due(&scripted), "not all is swept");
    scripted.establish(65001, &[]);
    scripted.update(&attributes(65001), &[24, 10, 0, 0]);
    while due(&scripted) {
        changes(&mut scripted);
    }
    assert_eq!(scripted.prefixes(), [prefix("10.0.0.0/24")]);
}

#[test]
fn an_import_policy_reaches_all_routes_in_slices_and_a_second_one_overtakes_it() {
    let mut scripted = filled();
    let with = |accept: bool, covering: &str| {
        let mut config = config(0, 65000, &[(1, 65001)]);
        let peer = config.peers.get_mut(&peer_name(1)).expect("configured");
        peer.graceful_restart = false;
        peer.import = RoutePolicy {
            terms: vec![Term {
                name: "covered".into(),
                matches: vec![Match::Prefix(vec![PrefixRange::or_longer(prefix(
                    covering,
                ))])],
                edits: Vec::new(),
                verdict: if accept {
                    Verdict::Accept
                } else {
                    Verdict::Reject
                },
            }],
            ..RoutePolicy::accept_all()
        };
        config
    };
    scripted
        .speaker
        .handle_config(scripted.now, with(false, "0.0.0.0/0"));
    let first = told(&mut scripted);
    assert!(first <= SLICE && due(&scripted));
    // 10.0.0.0/24 was refused, and is not any more.
    scripted
        .speaker
        .handle_config(scripted.now, with(false, "10.1.0.0/16"));
    told(&mut scripted);
    while due(&scripted) {
        let count = changes(&mut scripted);
        assert!(count <= SLICE, "{count} in one call");
    }
    for route in scripted.speaker.routes() {
        let refused = prefix("10.1.0.0/16").contains(&route.prefix);
        let is_best = route.paths[0].standing == PathStanding::Best;
        assert_eq!(is_best, !refused, "{}", route.prefix);
    }
}

#[test]
fn a_lost_next_hop_reaches_all_routes_in_slices() {
    let mut scripted = filled();
    let next_hop = address(1);
    scripted
        .speaker
        .handle_next_hop(scripted.now, next_hop, Reachability::Unreachable);
    let first = told(&mut scripted);
    assert_eq!(all_changes(&mut scripted, first), usize::from(PREFIXES));
}

/// What the speaker has for the peer at this moment.
fn sent(scripted: &mut Scripted) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let before = all.len();
        let now = scripted.now;
        scripted.speaker.poll_transmit(now, CONN, 65_536, &mut all);
        if all.len() == before {
            return all;
        }
    }
}

#[test]
fn an_export_policy_is_compared_in_slices_and_sends_the_one_difference() {
    let mut scripted = filled();
    for n in 0..80_000_u32 {
        let own = Ipv4Net::new(Ipv4Addr::from_bits(0x3000_0000 + (n << 8)), 24);
        let prefix = IpNet::V4(own.expect("24 bits"));
        let next_hop = None;
        let origination = Origination {
            prefix,
            next_hop,
            local_pref: None,
        };
        let now = scripted.now;
        scripted
            .speaker
            .handle_originate(now, prefix, Some(origination));
    }
    while !sent(&mut scripted).is_empty() || due(&scripted) {
        changes(&mut scripted);
    }
    let mut config = config(0, 65000, &[(1, 65001)]);
    let peer = config.peers.get_mut(&peer_name(1)).expect("configured");
    peer.graceful_restart = false;
    peer.export.terms = vec![Term {
        name: "test".into(),
        matches: vec![Match::Prefix(vec![PrefixRange::exactly(prefix(
            "48.0.7.0/24",
        ))])],
        edits: vec![Edit::SetMed(Some(5))],
        verdict: Verdict::Accept,
    }];
    scripted.speaker.handle_config(scripted.now, config);
    scripted.drain();
    let mut octets = sent(&mut scripted).len();
    let mut calls = 0;
    while due(&scripted) {
        changes(&mut scripted);
        octets += sent(&mut scripted).len();
        calls += 1;
    }
    assert!(calls > 1, "more than one slice");
    assert!(
        octets > 0 && octets < 100,
        "one UPDATE, not {octets} octets"
    );
}
