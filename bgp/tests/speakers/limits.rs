//! Limits, first ASes, shutdown texts, keys, and restarts over NOTIFICATIONs.

use std::time::Duration;

use bgp::config::{Password, PeerConfig};
use bgp::event::{DownReason, Event, NotificationText};
use bgp::status::PeerState;
use bgp::types::AfiSafi;
use bgp::wire::capability::{Capability, GracefulRestart};

use crate::network::{Network, block, config, peer_name, prefix};
use crate::scripted::{Scripted, attributes};

const SECOND: Duration = Duration::from_secs(1);

fn pair(seed: u64, change: impl Fn(&mut PeerConfig)) -> Network {
    let one = |node: usize, other: usize| {
        let mut config = config(node, 64512, &[(other, 64512)]);
        config.peers.values_mut().for_each(&change);
        config
    };
    let mut network = Network::new(seed, vec![one(0, 1), one(1, 0)]);
    (0..2).for_each(|node| network.originate(node, block(node)));
    network.run(20 * SECOND);
    network
}

fn change_peer(network: &mut Network, node: usize, change: impl Fn(&mut PeerConfig)) {
    network.reconfigure(node, |config| config.peers.values_mut().for_each(change));
    network.run(SECOND);
}

fn last_down(network: &Network, node: usize) -> (DownReason, bool) {
    match network.session_downs(node).last() {
        Some(Event::SessionDown {
            reason,
            routes_kept,
            ..
        }) => (reason.clone(), *routes_kept),
        other => panic!("{other:?}"),
    }
}

fn received(network: &Network, node: usize) -> (NotificationText, bool) {
    match last_down(network, node) {
        (DownReason::NotificationReceived(text), kept) => (text, kept),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_warning_is_given_once_until_there_are_fewer_prefixes_again() {
    let mut network = pair(1, |peer| {
        peer.options.prefix_warning = Some(2);
        peer.prefix_limit = Some(10);
    });
    let net = |n: usize| prefix(&format!("192.168.{n}.0/24"));
    let warnings = |network: &Network| {
        let events = network.nodes[0].events.iter();
        let warnings = events.filter_map(|(_, event)| match event {
            Event::PrefixLimitNear {
                received, limit, ..
            } => Some((*received, *limit)),
            _ => None,
        });
        warnings.collect::<Vec<_>>()
    };
    for n in 0..4 {
        network.originate(1, net(n));
        network.run(SECOND);
    }
    assert_eq!(warnings(&network), [(3, Some(10))]);
    (0..4).for_each(|n| network.withdraw(1, net(n)));
    network.run(SECOND);
    (0..3).for_each(|n| network.originate(1, net(n)));
    network.run(SECOND);
    assert_eq!(warnings(&network).len(), 2);
    assert!(network.session_downs(0).is_empty());
    change_peer(&mut network, 0, |peer| peer.prefix_limit = Some(3));
    let (DownReason::NotificationSent(sent), false) = last_down(&network, 0) else {
        panic!("{:?}", last_down(&network, 0));
    };
    assert_eq!(
        (sent.code, sent.subcode),
        (6, 1),
        "a lower limit holds at once"
    );
}

#[test]
fn a_path_that_does_not_begin_with_the_peers_as_is_withdrawn_if_that_is_asked_for() {
    for enforced in [false, true] {
        let mut config = config(0, 65000, &[(1, 65001)]);
        for peer in config.peers.values_mut() {
            peer.options.enforce_first_as = enforced;
        }
        let mut peer = Scripted::new(config);
        peer.establish(65001, &[]);
        peer.update(&attributes(65001), &[24, 192, 168, 1]);
        peer.update(&attributes(65009), &[24, 192, 168, 2]);
        assert_eq!(peer.prefixes().len(), if enforced { 1 } else { 2 });
    }
}

#[test]
fn a_removed_peer_is_told_the_shutdown_text() {
    let mut network = pair(2, |peer| {
        peer.options.shutdown_text = Some("rack 7 moves, ticket 42".into());
    });
    network.reconfigure(0, |config| config.peers.clear());
    network.run(SECOND);
    let (text, kept) = received(&network, 1);
    assert_eq!((text.code, text.subcode, kept), (6, 2, false));
    assert!(text.text.contains("rack 7 moves, ticket 42"), "{text}");
}

#[test]
fn a_peer_that_is_shut_down_stays_idle_without_routes_until_it_is_wanted_again() {
    for notification_restart in [false, true] {
        let mut network = pair(3, |peer| {
            peer.options.notification_restart = notification_restart;
        });
        change_peer(&mut network, 0, |peer| {
            peer.options.shutdown = true;
            peer.options.shutdown_text = Some("until Monday".into());
        });
        let (text, kept) = received(&network, 1);
        assert!(text.text.contains("until Monday"), "{text}");
        assert!(!kept, "a shutdown is no restart");
        network.run(400 * SECOND);
        let status = network.status(0, 1);
        assert_eq!(status.state, PeerState::Idle);
        assert_eq!(status.state_text(), "Idle (admin shutdown)");
        assert!(!network.has_route(0, block(1)) && !network.has_route(1, block(0)));
        assert_eq!(network.session_downs(0).len(), 1);
        change_peer(&mut network, 0, |peer| peer.options.shutdown = false);
        network.run(40 * SECOND);
        assert_eq!(network.status(0, 1).state_text(), "Established");
        assert!(network.has_route(0, block(1)) && network.has_route(1, block(0)));
    }
}

#[test]
fn a_session_that_stands_goes_on_with_another_key_its_first_and_none() {
    let key = |text: &str| Some(Password(text.into()));
    let mut network = pair(3, |_| ());
    for password in [key("one"), key("two"), None] {
        change_peer(&mut network, 0, |peer| peer.password = password.clone());
        assert!(network.session_downs(0).is_empty(), "{password:?}");
    }
}

#[test]
fn with_the_n_bit_routes_outlive_a_notification_and_a_hold_timer_but_no_hard_reset() {
    let with_n = |peer: &mut PeerConfig| peer.options.notification_restart = true;
    // Other Configuration Change is no Hard Reset.
    let mut network = pair(4, with_n);
    network.reconfigure(0, |config| {
        let peer = config.peers.get_mut(&peer_name(1)).expect("a peer");
        peer.hold_time = 90 * SECOND;
    });
    network.run(Duration::from_millis(1));
    let (text, kept) = received(&network, 1);
    assert_eq!((text.code, text.subcode, kept), (6, 6, true));
    network.run(60 * SECOND);
    assert!(network.has_route(1, block(0)) && network.is_established(1, 0));
    let gone = |change: &bgp::route::RouteChange| change.best.is_none();
    assert!(
        !network.nodes[1].changes.iter().any(gone),
        "never without a route"
    );
    // The hold timer of both ends.
    network.nodes[1].events.clear();
    network.cut.extend([(0, 1), (1, 0)]);
    network.run(95 * SECOND);
    assert!(network.has_route(1, block(0)));
    assert!(matches!(
        last_down(&network, 1),
        (DownReason::NotificationSent(_), true)
    ));
    network.run(600 * SECOND);
    assert!(!network.has_route(1, block(0)), "not for ever");
    // A removed peer is reset hard.
    let mut network = pair(5, with_n);
    network.reconfigure(0, |config| config.peers.clear());
    network.run(SECOND);
    let (text, kept) = received(&network, 1);
    assert_eq!((text.code, text.subcode, kept), (6, 9, false));
    assert!(text.text.contains("Peer De-configured"), "{text}");
    assert!(!network.has_route(1, block(0)));
}

#[test]
fn without_the_peers_n_bit_a_notification_removes_its_routes() {
    let mut config = config(0, 65000, &[(1, 65001)]);
    for peer in config.peers.values_mut() {
        peer.options.notification_restart = true;
    }
    for notification in [false, true] {
        let mut peer = Scripted::new(config.clone());
        let restart = GracefulRestart {
            restarting: false,
            notification,
            time: 120 * SECOND,
            families: vec![bgp::wire::capability::GracefulFamily {
                family: AfiSafi::Ipv4Unicast.into(),
                forwarding: true,
            }],
        };
        peer.establish(65001, &[Capability::GracefulRestart(restart)]);
        peer.update(&attributes(65001), &[24, 192, 168, 1]);
        let mut bytes = Vec::new();
        bgp::wire::notification::Notification::administrative_reset("").encode(&mut bytes);
        peer.say(&bytes);
        assert_eq!(peer.prefixes().len(), usize::from(notification));
    }
}
