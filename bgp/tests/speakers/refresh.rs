//! Enhanced route refresh of the peer's routes (RFC 7313 §4), and of ours to a peer that does not read.

use std::time::Duration;

use bgp::event::{Event, StaleEnd};
use bgp::types::AfiSafi;
use bgp::wire::capability::{Capability, GracefulFamily, GracefulRestart};
use bgp::wire::refresh::{RefreshKind, RouteRefresh};
use bgp::wire::update::encode::write_end_of_rib;
use ipnet::IpNet;

use crate::network::{config, peer_name, prefix};
use crate::scripted::{CONN, Scripted, attributes};

const SECOND: Duration = Duration::from_secs(1);
const A: [u8; 4] = [24, 192, 168, 1];
const B: [u8; 4] = [24, 192, 168, 2];

fn established(more: &[Capability]) -> Scripted {
    let mut peer = Scripted::new(config(0, 65000, &[(1, 65001)]));
    let mut capabilities = vec![Capability::RouteRefresh, Capability::EnhancedRouteRefresh];
    capabilities.extend_from_slice(more);
    peer.establish(65001, &capabilities);
    announce(&mut peer, &[A, B]);
    peer
}

fn announce(peer: &mut Scripted, routes: &[[u8; 4]]) {
    peer.update(&attributes(65001), &routes.concat());
}

fn say(peer: &mut Scripted, kind: RefreshKind) {
    let mut bytes = Vec::new();
    RouteRefresh::new(AfiSafi::Ipv4Unicast, kind).encode(&mut bytes);
    peer.say(&bytes);
}

fn routes(of: &[[u8; 4]]) -> Vec<IpNet> {
    of.iter()
        .map(|route| prefix(&format!("192.168.{}.0/24", route[3])))
        .collect()
}

#[test]
fn what_a_refresh_leaves_out_goes_at_its_end_and_not_before() {
    let mut peer = established(&[]);
    say(&mut peer, RefreshKind::Begin);
    announce(&mut peer, &[A]);
    assert_eq!(peer.prefixes(), routes(&[A, B]));
    say(&mut peer, RefreshKind::End);
    assert_eq!(peer.prefixes(), routes(&[A]));
    let removed = Event::StaleRoutesRemoved {
        peer: peer_name(1),
        count: 1,
        reason: StaleEnd::RefreshEnded,
    };
    assert!(peer.has(&removed), "{:?}", peer.events);
}

#[test]
fn a_refresh_that_begins_again_is_over_at_one_end_and_removes_nothing_before() {
    let mut peer = established(&[]);
    for _ in 0..300 {
        say(&mut peer, RefreshKind::Begin);
        announce(&mut peer, &[A]);
        assert_eq!(peer.prefixes(), routes(&[A, B]));
    }
    announce(&mut peer, &[B]);
    say(&mut peer, RefreshKind::End);
    assert_eq!(peer.prefixes(), routes(&[A, B]));
    // What came in the first pass and not in the second one is not there any more.
    say(&mut peer, RefreshKind::Begin);
    announce(&mut peer, &[B]);
    say(&mut peer, RefreshKind::Begin);
    announce(&mut peer, &[A]);
    say(&mut peer, RefreshKind::End);
    assert_eq!(peer.prefixes(), routes(&[A]));
}

#[test]
fn an_end_without_a_beginning_means_nothing_and_a_beginning_without_an_end_has_its_time() {
    let mut peer = established(&[]);
    say(&mut peer, RefreshKind::End);
    assert_eq!(peer.prefixes(), routes(&[A, B]));
    say(&mut peer, RefreshKind::Begin);
    announce(&mut peer, &[A]);
    for _ in 0..4 {
        peer.wait(80 * SECOND);
        peer.keepalive();
        assert_eq!(peer.prefixes(), routes(&[A, B]));
    }
    peer.wait(80 * SECOND);
    assert_eq!(peer.prefixes(), routes(&[A]), "360 s");
}

#[test]
fn a_beginning_before_end_of_rib_is_ignored() {
    let restart = Capability::GracefulRestart(GracefulRestart {
        restarting: false,
        notification: false,
        time: 120 * SECOND,
        families: vec![GracefulFamily {
            family: AfiSafi::Ipv4Unicast.into(),
            forwarding: true,
        }],
    });
    let mut peer = established(&[restart]);
    say(&mut peer, RefreshKind::Begin);
    announce(&mut peer, &[A]);
    say(&mut peer, RefreshKind::End);
    assert_eq!(peer.prefixes(), routes(&[A, B]), "RFC 7313 §4");
    let mut bytes = Vec::new();
    write_end_of_rib(&mut bytes, AfiSafi::Ipv4Unicast);
    peer.say(&bytes);
    say(&mut peer, RefreshKind::Begin);
    announce(&mut peer, &[A]);
    // All of them outlive the peer's restart in the middle of it, also those that were not sent again yet.
    peer.closed();
    assert_eq!(peer.prefixes(), routes(&[A, B]));
    peer.wait(121 * SECOND);
    assert_eq!(peer.prefixes(), []);
}

#[test]
fn a_peer_that_asks_again_and_again_and_does_not_read_gets_one_answer() {
    let mut peer = established(&[]);
    let mut first = Vec::new();
    peer.speaker
        .poll_transmit(peer.now, CONN, 1 << 20, &mut first);
    for _ in 0..10_000 {
        say(&mut peer, RefreshKind::Request);
    }
    let mut sent = Vec::new();
    while peer
        .speaker
        .poll_transmit(peer.now, CONN, 1 << 20, &mut sent)
        > 0
    {}
    let mut markers = Vec::new();
    let mut rest = &sent[..];
    while let [_, .., _] = rest {
        let length = usize::from(u16::from_be_bytes([rest[16], rest[17]]));
        if rest[18] == 5 {
            markers.push(rest[21]);
        }
        rest = &rest[length..];
    }
    assert_eq!(markers, [1, 2], "BoRR and EoRR once");
}
