//! A new configuration has the smallest effect that makes it true.

use std::net::SocketAddr;
use std::time::Duration;

use bgp::action::Refused;
use bgp::config::RoutePolicy;
use bgp::event::{DownReason, Event};
use bgp::policy::{Match, PrefixRange, Term, Verdict};
use bgp::types::ConnId;

use crate::network::{Network, address, block, peer_config, peer_name, prefix};

const SECOND: Duration = Duration::from_secs(1);

fn converged(size: usize) -> Network {
    let mut network = Network::mesh(11, size);
    network.run(20 * SECOND);
    network
        .nodes
        .iter_mut()
        .for_each(|node| node.events.clear());
    network
}

fn down_reasons(network: &Network, node: usize) -> Vec<(String, DownReason)> {
    let reason = |event: &&Event| match event {
        Event::SessionDown { peer, reason, .. } => Some((peer.to_string(), reason.clone())),
        _ => None,
    };
    network
        .session_downs(node)
        .iter()
        .filter_map(reason)
        .collect()
}

#[test]
fn only_the_peer_whose_hold_time_changed_is_reset() {
    let mut network = converged(4);
    network.reconfigure(0, |config| {
        let peer = config.peers.get_mut(&peer_name(2)).expect("a peer");
        peer.hold_time = 90 * SECOND;
    });
    network.run(20 * SECOND);
    let downs = down_reasons(&network, 0);
    assert_eq!(downs.len(), 1, "{downs:?}");
    assert_eq!(downs[0].0, peer_name(2).to_string());
    let [(_, DownReason::NotificationReceived(received))] = &down_reasons(&network, 2)[..] else {
        panic!("{:?}", down_reasons(&network, 2));
    };
    assert_eq!(
        (received.code, received.subcode),
        (6, 6),
        "Cease: Other Configuration Change"
    );
    assert!(network.is_established(0, 2));
    assert_eq!(network.status(0, 2).hold_time, Some(90 * SECOND));
    assert!(network.has_route(0, block(2)) && network.has_route(2, block(0)));
}

#[test]
fn a_removed_peer_gets_cease_peer_deconfigured_and_its_routes_go() {
    let mut network = converged(3);
    network.reconfigure(0, |config| drop(config.peers.remove(&peer_name(2))));
    network.run(SECOND);
    let [(_, DownReason::NotificationReceived(received))] = &down_reasons(&network, 2)[..] else {
        panic!("{:?}", down_reasons(&network, 2));
    };
    assert_eq!((received.code, received.subcode), (6, 3));
    assert!(!network.has_route(0, block(2)) && !network.has_route(2, block(0)));
    assert!(network.has_route(0, block(1)) && network.has_route(2, block(1)));
    network.reconfigure(0, |config| {
        config.peers.insert(peer_name(2), peer_config(2, 64512));
    });
    network.run(60 * SECOND);
    assert!(network.has_route(0, block(2)) && network.has_route(2, block(0)));
}

#[test]
fn a_changed_export_policy_is_applied_without_a_reset() {
    let mut network = converged(3);
    let extra = prefix("192.168.1.0/24");
    network.originate(0, extra);
    network.run(SECOND);
    assert!(network.has_route(1, extra));
    let only_blocks = RoutePolicy {
        terms: vec![Term {
            name: "blocks".into(),
            matches: vec![Match::Prefix(vec![PrefixRange::or_longer(prefix(
                "172.16.0.0/12",
            ))])],
            edits: Vec::new(),
            verdict: Verdict::Accept,
        }],
        default_accept: false,
        last: Vec::new(),
    };
    network.reconfigure(0, |config| {
        config.peers.get_mut(&peer_name(1)).expect("a peer").export = only_blocks.clone();
    });
    network.run(SECOND);
    assert!(!network.has_route(1, extra) && network.has_route(1, block(0)));
    assert!(
        network.has_route(2, extra),
        "the other peer's policy did not change"
    );
    network.reconfigure(0, |config| {
        config.peers.get_mut(&peer_name(1)).expect("a peer").export = RoutePolicy::accept_all();
    });
    network.run(SECOND);
    assert!(network.has_route(1, extra));
    assert!((0..3).all(|node| down_reasons(&network, node).is_empty()));
}

#[test]
fn a_changed_import_policy_is_applied_to_the_routes_at_hand() {
    let mut network = converged(2);
    let refuse = RoutePolicy {
        terms: Vec::new(),
        default_accept: false,
        last: Vec::new(),
    };
    network.reconfigure(0, |config| {
        config.peers.get_mut(&peer_name(1)).expect("a peer").import = refuse.clone();
    });
    network.run(SECOND);
    assert!(!network.has_route(0, block(1)));
    let counts = network.status(0, 1).prefixes;
    let counts = counts.values().next().expect("a family");
    assert_eq!((counts.received, counts.accepted), (1, 0));
    network.reconfigure(0, |config| {
        config.peers.get_mut(&peer_name(1)).expect("a peer").import = RoutePolicy::accept_all();
    });
    network.run(SECOND);
    assert!(network.has_route(0, block(1)));
    assert!(down_reasons(&network, 0).is_empty());
}

#[test]
fn a_new_router_id_resets_every_session() {
    let mut network = converged(3);
    network.reconfigure(0, |config| {
        config.router_id = bgp::types::RouterId("9.9.9.9".parse().expect("an address"));
    });
    network.run(20 * SECOND);
    assert_eq!(down_reasons(&network, 0).len(), 2);
    assert!(network.is_established(0, 1) && network.is_established(0, 2));
    assert!(network.has_route(1, block(0)) && network.has_route(0, block(1)));
}

#[test]
fn one_prefix_too_many_ends_the_session_with_its_numbers() {
    let mut network = converged(2);
    network.reconfigure(0, |config| {
        config
            .peers
            .get_mut(&peer_name(1))
            .expect("a peer")
            .prefix_limit = Some(2);
    });
    network.originate(1, prefix("192.168.1.0/24"));
    network.run(SECOND);
    assert!(network.is_established(0, 1));
    network.originate(1, prefix("192.168.2.0/24"));
    network.run(SECOND);
    let downs = down_reasons(&network, 0);
    let [(_, DownReason::NotificationSent(sent))] = &downs[..] else {
        panic!("{downs:?}");
    };
    assert_eq!((sent.code, sent.subcode), (6, 1));
    assert!(network.nodes[0].fib.len() == 1, "its routes are gone");
}

#[test]
fn connections_are_taken_from_a_peers_present_address_only() {
    let mut network = Network::mesh(12, 1);
    let mut number = 0;
    let mut taken = |network: &mut Network, from: usize| {
        number += 1;
        let (now, conn) = (network.now, ConnId::incoming(1000 + number));
        let remote = SocketAddr::new(address(from), 40_000);
        let local = SocketAddr::new(address(0), 179);
        network.speaker(0).handle_accepted(now, conn, remote, local)
    };
    for (one, two) in [
        (Some(1), Some(2)),
        (Some(2), Some(3)),
        (Some(3), Some(2)),
        (None, Some(2)),
    ] {
        network.reconfigure(0, |config| {
            config.peers.clear();
            for (name, at) in [(1, one), (2, two)] {
                if let Some(at) = at {
                    let mut peer = peer_config(at, 64512);
                    peer.passive = true;
                    config.peers.insert(peer_name(name), peer);
                }
            }
        });
        for from in 1..4 {
            let expected = if [one, two].contains(&Some(from)) {
                Ok(())
            } else {
                Err(Refused::UnknownAddress)
            };
            assert_eq!(
                taken(&mut network, from),
                expected,
                "{one:?} {two:?} {from}"
            );
        }
    }
}
