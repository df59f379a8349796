//! Graceful restart, both sides, at true times (RFC 4724).

use std::time::Duration;

use bgp::event::{DownReason, Event, StaleEnd};
use bgp::status::{GracefulRestartState, PeerState};
use ipnet::IpNet;

use crate::network::{Network, block, config, peer_name, prefix};
use crate::scripted::{Scripted, attributes, graceful_restart};

const SECOND: Duration = Duration::from_secs(1);

fn converged(seed: u64, size: usize) -> Network {
    let mut network = Network::mesh(seed, size);
    network.run(20 * SECOND);
    for node in &mut network.nodes {
        node.events.clear();
        node.changes.clear();
    }
    network
}

fn lost_anything(network: &Network, node: usize) -> bool {
    network.nodes[node]
        .changes
        .iter()
        .any(|change| change.best.is_none())
}

fn reported_at(network: &Network, node: usize, stage: &Event) -> Option<Duration> {
    let mut events = network.nodes[node].events.iter();
    events.find(|(_, event)| event == stage).map(|(at, _)| *at)
}

fn is_reported(network: &Network, node: usize, stage: &Event) -> bool {
    reported_at(network, node, stage).is_some()
}

#[test]
fn routes_of_a_killed_peer_stay_until_it_is_back_and_nothing_is_ever_withdrawn() {
    for seed in 0..50 {
        let mut network = converged(seed, 3);
        network.kill(1);
        network.run(SECOND);
        assert!(network.has_route(0, block(1)), "seed {seed}");
        let best = network.nodes[0].fib[&block(1)]
            .best
            .clone()
            .expect("it is there");
        assert!(best.stale, "seed {seed}");
        network.restart(1, seed + 100);
        network.originate(1, block(1));
        let now = network.now;
        network.speaker(1).handle_originations_complete(now);
        network.run(60 * SECOND);
        assert!(
            !lost_anything(&network, 0) && !lost_anything(&network, 1),
            "seed {seed}"
        );
        let best = network.nodes[0].fib[&block(1)]
            .best
            .clone()
            .expect("it is there");
        assert!(!best.stale, "seed {seed}");
        for stage in [Event::SelectionComplete, Event::PeersReported] {
            assert!(is_reported(&network, 1, &stage), "seed {seed}: {stage:?}");
        }
        assert_eq!(network.nodes[1].fib.len(), 3, "seed {seed}");
        assert_eq!(
            network.status(0, 1).graceful_restart,
            GracefulRestartState::Ready
        );
    }
}

#[test]
fn a_route_that_does_not_come_back_goes_at_end_of_rib() {
    let mut network = converged(1, 3);
    let extra = prefix("192.168.7.0/24");
    network.originate(1, extra);
    network.run(SECOND);
    network.kill(1);
    network.restart(1, 7);
    network.originate(1, block(1));
    network.run(20 * SECOND);
    assert!(network.is_established(0, 1));
    assert!(
        network.has_route(0, extra),
        "End-of-RIB waits for the restarted one's own routes"
    );
    let now = network.now;
    network.speaker(1).handle_originations_complete(now);
    network.originate(1, prefix("192.168.8.0/24"));
    network.run(SECOND);
    assert!(!network.has_route(0, extra));
    assert!(network.has_route(0, block(1)));
}

#[test]
fn routes_of_a_peer_that_stays_away_go_after_its_restart_time() {
    let mut network = converged(2, 3);
    network.kill(1);
    network.run(119 * SECOND);
    assert!(network.has_route(0, block(1)));
    network.run(2 * SECOND);
    assert!(!network.has_route(0, block(1)));
    let (at, event) = network.nodes[0]
        .events
        .iter()
        .find(|(_, event)| matches!(event, Event::StaleRoutesRemoved { .. }))
        .expect("it is told");
    assert_eq!(*at, 140 * SECOND);
    let expected = Event::StaleRoutesRemoved {
        peer: peer_name(1),
        count: 1,
        reason: StaleEnd::RestartTimeOver,
    };
    assert_eq!(*event, expected);
}

#[test]
fn one_dead_peer_delays_only_the_end_of_the_selection() {
    let mut network = converged(3, 4);
    network.kill(3);
    network.kill(1);
    network.restart(1, 5);
    network.run(20 * SECOND);
    assert!(network.has_route(1, block(0)) && network.has_route(1, block(2)));
    let stages = [Event::SelectionComplete, Event::PeersReported];
    for stage in &stages {
        assert_eq!(reported_at(&network, 1, stage), None);
    }
    network.run(300 * SECOND);
    for stage in &stages {
        let at = reported_at(&network, 1, stage);
        assert_eq!(at, Some(260 * SECOND), "240 s after the restart");
    }
}

#[test]
fn all_restarting_at_once_do_not_wait_for_each_other() {
    let mut network = converged(4, 3);
    (0..3).for_each(|node| network.kill(node));
    for node in 0..3 {
        network.restart(node, 50 + node as u64);
        network.originate(node, block(node));
        let now = network.now;
        network.speaker(node).handle_originations_complete(now);
    }
    network.run(20 * SECOND);
    for node in 0..3 {
        assert_eq!(network.nodes[node].fib.len(), 3);
        assert!(is_reported(&network, node, &Event::PeersReported));
    }
}

#[test]
fn a_fresh_speaker_completes_its_selection_at_once_and_stale_routes_of_it_go_when_it_is_back() {
    let mut network = converged(5, 2);
    network.kill(1);
    let fresh = bgp::speaker::Speaker::new(3, network.now);
    network.boot(1, fresh);
    network.run(10 * SECOND);
    assert!(is_reported(&network, 1, &Event::PeersReported));
    assert!(network.is_established(0, 1));
    assert!(
        !network.has_route(0, block(1)),
        "no F bit: nothing was preserved"
    );
}

#[test]
fn a_peer_that_restarts_unseen_replaces_its_old_session() {
    let mut network = converged(6, 2);
    // Node 1 dies without a FIN reaching node 0.
    network.cut.insert((1, 0));
    network.kill(1);
    network.forget_connections_of(1);
    network.cut.clear();
    assert!(network.is_established(0, 1));
    network.restart(1, 9);
    network.originate(1, block(1));
    let now = network.now;
    network.speaker(1).handle_originations_complete(now);
    network.run(20 * SECOND);
    assert!(network.is_established(0, 1) && network.is_established(1, 0));
    assert!(!lost_anything(&network, 0));
    let down = network.session_downs(0);
    assert!(
        matches!(
            down[..],
            [Event::SessionDown {
                reason: DownReason::PeerRestarted,
                routes_kept: true,
                ..
            }]
        ),
        "{down:?}"
    );
}

/// A peer that announced two prefixes, and whose transport is lost after two minutes.
fn lost_with_two_routes() -> (Scripted, [IpNet; 2]) {
    let mut peer = Scripted::new(config(0, 65000, &[(1, 65001)]));
    peer.establish(65001, &[graceful_restart(false)]);
    peer.update(&attributes(65001), &[24, 192, 168, 1, 24, 192, 168, 2]);
    peer.end_of_rib();
    peer.wait(120 * SECOND);
    peer.closed();
    let both = ["192.168.1.0/24", "192.168.2.0/24"].map(prefix);
    assert_eq!(peer.prefixes(), both);
    peer.events.clear();
    (peer, both)
}

fn stale(peer: &Scripted) -> Vec<IpNet> {
    let routes = peer.speaker.routes().into_iter();
    routes
        .filter(|route| route.paths.iter().all(|path| path.stale))
        .map(|route| route.prefix)
        .collect()
}

#[test]
fn a_connection_that_ends_before_it_is_established_is_no_restart() {
    let (mut peer, both) = lost_with_two_routes();
    for state in [PeerState::OpenSent, PeerState::OpenConfirm].repeat(3) {
        peer.wait(19 * SECOND);
        peer.connects().expect("the peer is configured");
        if state == PeerState::OpenConfirm {
            peer.open_without_keepalive(65001, &[graceful_restart(true)]);
        }
        assert_eq!(peer.state(), state);
        peer.closed();
        assert_eq!(stale(&peer), both, "{state:?}: nothing was lost");
    }
    let is_failure = |event: &Event| matches!(event, Event::ConnectionFailed { .. });
    assert!(peer.events.iter().all(is_failure), "{:?}", peer.events);
    peer.wait(5 * SECOND);
    assert_eq!(stale(&peer), both, "119 s");
    peer.wait(SECOND);
    assert_eq!(
        peer.prefixes(),
        [],
        "the Restart Time began with the session's end"
    );
}

#[test]
fn a_session_that_ends_again_before_end_of_rib_keeps_only_what_was_sent_again() {
    for again in [0, 1] {
        let (mut peer, both) = lost_with_two_routes();
        peer.establish(65001, &[graceful_restart(true)]);
        if again == 1 {
            peer.update(&attributes(65001), &[24, 192, 168, 1]);
        }
        assert_eq!(stale(&peer), both[again..], "End-of-RIB is to come");
        peer.closed();
        assert_eq!(stale(&peer), both[..again]);
        assert_eq!(peer.prefixes(), both[..again]);
        let removed = Event::StaleRoutesRemoved {
            peer: peer_name(1),
            count: 2 - again,
            reason: StaleEnd::RestartedAgain,
        };
        assert!(peer.has(&removed), "{:?}", peer.events);
    }
}

#[test]
fn a_session_that_ends_again_after_end_of_rib_keeps_all_that_was_sent_again() {
    let (mut peer, both) = lost_with_two_routes();
    peer.establish(65001, &[graceful_restart(true)]);
    peer.update(&attributes(65001), &[24, 192, 168, 1, 24, 192, 168, 2]);
    peer.end_of_rib();
    assert_eq!(stale(&peer), []);
    peer.closed();
    assert_eq!(stale(&peer), both);
}
