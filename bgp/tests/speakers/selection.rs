//! What a restarted speaker waits for, and what it keeps back until then (RFC 4724 §4.1).

use std::net::IpAddr;
use std::time::Duration;

use bgp::event::Event;

use crate::network::{Network, address, block, config, prefix};
use crate::scripted::{Scripted, attributes, graceful_restart};

const SECOND: Duration = Duration::from_secs(1);
const NLRI: [u8; 4] = [24, 192, 168, 1];

fn restarted() -> Scripted {
    Scripted::restarting(config(0, 65000, &[(1, 65001)]))
}

fn keepalive(peer: &mut Scripted, after: Duration) {
    peer.wait(after);
    peer.keepalive();
}

#[test]
fn a_peer_without_graceful_restart_has_sent_its_routes_at_the_keepalive_after_its_updates() {
    let mut peer = restarted();
    assert!(!peer.has(&Event::SelectionComplete), "it did not come yet");
    peer.establish(65001, &[]);
    assert!(peer.has(&Event::SelectionComplete), "it is not waited for");
    peer.wait(3 * SECOND);
    peer.update(&attributes(65001), &NLRI);
    assert_eq!(peer.routes, [prefix("192.168.1.0/24")], "used at once");
    keepalive(&mut peer, SECOND / 2);
    assert!(
        !peer.has(&Event::PeersReported),
        "a KEEPALIVE among UPDATEs ends nothing"
    );
    peer.update(&attributes(65001), &[24, 192, 168, 2]);
    keepalive(&mut peer, 70 * SECOND);
    assert!(peer.has(&Event::PeersReported));
}

#[test]
fn a_peer_that_says_nothing_is_given_time_to_begin() {
    let mut peer = restarted();
    peer.establish(65001, &[]);
    keepalive(&mut peer, 5 * SECOND);
    assert!(!peer.has(&Event::PeersReported));
    keepalive(&mut peer, 5 * SECOND);
    assert!(peer.has(&Event::PeersReported));
}

#[test]
fn a_peer_that_restarts_as_well_holds_adopted_routes_until_its_end_of_rib_and_nothing_else() {
    let mut peer = restarted();
    peer.establish(65001, &[graceful_restart(true)]);
    assert!(peer.has(&Event::SelectionComplete), "nobody waits for us");
    peer.update(&attributes(65001), &NLRI);
    assert!(!peer.has(&Event::PeersReported));
    peer.end_of_rib();
    assert!(peer.has(&Event::PeersReported));
}

#[test]
fn a_peer_with_end_of_rib_is_awaited_to_it_whatever_keepalives_come() {
    let mut peer = restarted();
    peer.establish(65001, &[graceful_restart(false)]);
    peer.update(&attributes(65001), &NLRI);
    keepalive(&mut peer, 80 * SECOND);
    assert!(!peer.has(&Event::SelectionComplete));
    assert_eq!(peer.routes, [], "it may have better ones to come");
    peer.end_of_rib();
    assert!(peer.has(&Event::SelectionComplete) && peer.has(&Event::PeersReported));
    assert_eq!(peer.routes, [prefix("192.168.1.0/24")]);
}

#[test]
fn a_session_that_ends_before_it_has_sent_its_routes_is_awaited_again_but_not_for_ever() {
    let mut peer = restarted();
    peer.establish(65001, &[]);
    peer.closed();
    keepalive(&mut peer, 200 * SECOND);
    assert!(!peer.has(&Event::PeersReported));
    peer.wait(40 * SECOND);
    assert!(peer.has(&Event::PeersReported), "240 s after the start");
}

/// Reflector 0, and its clients 1 and 2 that both announce one prefix; the reflector prefers client 1.
fn anycast(seed: u64) -> (Network, ipnet::IpNet) {
    let mut network = Network::reflected(seed, 4);
    let shared = prefix("192.168.9.0/24");
    network.originate(1, shared);
    network.originate(2, shared);
    network.originate(3, block(3));
    network.run(30 * SECOND);
    (network, shared)
}

/// Restarts the reflector while client 1 cannot be reached, for half a minute.
fn restart_without_client_1(network: &mut Network) {
    network.cut.extend([(0, 1), (1, 0)]);
    network.kill(0);
    network.restart(0, 99);
    let now = network.now;
    network.speaker(0).handle_originations_complete(now);
    for node in &mut network.nodes {
        node.changes.clear();
    }
    network.run(30 * SECOND);
}

fn next_hops_heard(network: &Network, node: usize, of: ipnet::IpNet) -> Vec<Option<IpAddr>> {
    let changes = network.nodes[node].changes.iter();
    changes
        .filter(|change| change.prefix == of)
        .map(|change| Some(*change.best.as_ref()?.next_hops.first()?))
        .collect()
}

#[test]
fn a_restarted_reflector_passes_on_what_it_chose_of_all_and_nothing_before() {
    for seed in 0..200 {
        let (mut network, shared) = anycast(seed);
        restart_without_client_1(&mut network);
        let heard = next_hops_heard(&network, 3, shared);
        let kept = Some(address(1));
        assert!(
            heard.iter().all(|hop| *hop == kept),
            "seed {seed}: {heard:?}"
        );
        network.cut.clear();
        network.run(60 * SECOND);
        let heard = next_hops_heard(&network, 3, shared);
        assert!(
            heard.iter().all(|hop| *hop == kept),
            "seed {seed}: {heard:?}"
        );
        let stale = network.nodes[3].fib[&shared].best.as_ref().unwrap().stale;
        assert!(!stale, "seed {seed}: it is sent once all have come");
        let downs = network.session_downs(3);
        assert_eq!(downs.len(), 1, "seed {seed}: one restart, {downs:?}");
    }
}

#[test]
fn a_client_that_keeps_nothing_over_our_restart_gets_the_first_that_comes() {
    let (mut network, shared) = anycast(7);
    network.reconfigure(3, |config| {
        for peer in config.peers.values_mut() {
            peer.graceful_restart = false;
        }
    });
    network.run(30 * SECOND);
    restart_without_client_1(&mut network);
    let heard = next_hops_heard(&network, 3, shared);
    assert_eq!(heard.last(), Some(&Some(address(2))), "{heard:?}");
}

#[test]
fn own_routes_wait_for_nobody() {
    let mut network = Network::mesh(3, 3);
    network.run(20 * SECOND);
    network.kill(2);
    network.kill(1);
    network.restart(1, 5);
    let new = prefix("192.168.7.0/24");
    network.originate(1, new);
    network.run(10 * SECOND);
    assert!(network.has_route(0, new), "node 2 is dead");
}
