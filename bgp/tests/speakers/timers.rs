//! Timers at their true values.

use std::time::Duration;

use bgp::action::Refused;
use bgp::event::{DownReason, Event};
use bgp::route::Origination;
use bgp::status::PeerState;
use bgp::wire::capability::Capability;

use crate::network::{Network, block, config};
use crate::scripted::{CONN, Scripted};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_silent_peer_is_given_up_exactly_one_hold_time_after_its_last_message() {
    let mut network = Network::mesh(21, 2);
    network.run(1000 * SECOND);
    assert!(
        network.session_downs(0).is_empty(),
        "keepalives keep an idle session up"
    );
    network.cut.insert((1, 0));
    network.run(160 * SECOND);
    assert!(
        network.is_established(0, 1),
        "80 s of the hold time were used up at most"
    );
    network.run(80 * SECOND);
    let (at, event) = network.nodes[0]
        .events
        .iter()
        .find(|(_, event)| matches!(event, Event::SessionDown { .. }))
        .expect("the hold timer expired");
    let Event::SessionDown {
        reason: DownReason::NotificationSent(sent),
        routes_kept,
        ..
    } = event
    else {
        panic!("{event:?}");
    };
    assert_eq!((sent.code, sent.subcode, *routes_kept), (4, 0, false));
    assert!(*at >= 1160 * SECOND && *at <= 1240 * SECOND, "{at:?}");
    assert!(!network.has_route(0, block(1)));
}

#[test]
fn the_hold_timer_is_exact() {
    let mut network = Network::mesh(22, 2);
    network.run(20 * SECOND);
    // Byte by byte nothing arrives from here on; the last message came at the next keepalive before.
    let last = network.elapsed();
    network.originate(1, crate::network::prefix("192.168.0.0/24"));
    network.run(Duration::ZERO);
    network.cut.insert((1, 0));
    network.run(300 * SECOND);
    let down = network.nodes[0]
        .events
        .iter()
        .find(|(_, e)| matches!(e, Event::SessionDown { .. }));
    assert_eq!(down.expect("the hold timer expired").0, last + 240 * SECOND);
}

#[test]
fn a_peer_that_was_away_is_connected_to_within_the_connect_retry_time() {
    let mut network = Network::new(23, vec![config(0, 1, &[(1, 1)]), config(1, 1, &[(0, 1)])]);
    network.kill(1);
    network.run(600 * SECOND);
    assert!(network.status(0, 1).last_error.is_some());
    let fresh = bgp::speaker::Speaker::new(1, network.now);
    network.nodes[1]
        .config
        .peers
        .values_mut()
        .for_each(|peer| peer.passive = true);
    network.boot(1, fresh);
    network.run(5 * SECOND);
    assert!(network.is_established(0, 1));
}

#[test]
fn errors_make_a_peer_wait_longer_each_time_but_never_more_than_30_s() {
    // Node 1 expects another AS.
    let mut network = Network::new(24, vec![config(0, 1, &[(1, 1)]), config(1, 1, &[(0, 2)])]);
    network.nodes[1]
        .config
        .peers
        .values_mut()
        .for_each(|peer| peer.passive = true);
    let passive = network.nodes[1].config.clone();
    network.reconfigure(1, |config| *config = passive);
    network.run(600 * SECOND);
    assert_eq!(network.status(0, 1).state, PeerState::Idle);
    let failures: Vec<Duration> = network.nodes[0]
        .events
        .iter()
        .filter(|(_, event)| {
            matches!(
                event,
                Event::ConnectionFailed {
                    reason: DownReason::NotificationReceived(_),
                    ..
                }
            )
        })
        .map(|(at, _)| *at)
        .collect();
    let gaps: Vec<Duration> = failures.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps[0] <= 5 * SECOND && gaps[1] > 7 * SECOND, "{gaps:?}");
    // The other end is Idle for as long, and refuses: a retry more of at most 5 s.
    assert!(gaps.iter().all(|gap| *gap <= 35 * SECOND), "{gaps:?}");
    assert!(
        gaps.iter().skip(3).all(|gap| *gap >= 22 * SECOND),
        "{gaps:?}"
    );
}

#[test]
fn a_peer_that_is_idle_after_an_error_refuses_what_comes_in_and_a_passive_one_as_well() {
    for passive in [false, true] {
        let mut settings = config(0, 65000, &[(1, 65001)]);
        settings
            .peers
            .values_mut()
            .for_each(|peer| peer.passive = passive);
        let mut peer = Scripted::new(settings);
        peer.establish(65001, &[]);
        let mut unknown_type = vec![0xff; 16];
        unknown_type.extend([0, 19, 99]);
        peer.say(&unknown_type);
        let farewell = peer.farewell.take().expect("closed");
        assert!(farewell.ends_with(&[1, 3, 99]), "Bad Message Type");
        assert_eq!(peer.connects(), Err(Refused::IdleHold));
        peer.wait(3 * SECOND);
        assert_eq!(peer.connects(), Err(Refused::IdleHold));
        peer.wait(2 * SECOND);
        assert_eq!(peer.connects(), Ok(()), "5 s are over");
    }
}

#[test]
fn a_peer_without_hold_time_that_reads_nothing_is_given_up_by_the_send_hold_timer() {
    let mut settings = config(0, 65000, &[(1, 65001)]);
    for peer in settings.peers.values_mut() {
        peer.hold_time = Duration::ZERO;
    }
    let mut peer = Scripted::new(settings);
    peer.establish(65001, &[]);
    for _ in 0..10 {
        let mut sent = Vec::new();
        while peer
            .speaker
            .poll_transmit(peer.now, CONN, 1 << 20, &mut sent)
            > 0
        {}
        peer.wait(100 * SECOND);
    }
    assert_eq!(peer.farewell, None, "there is nothing to read");
    let prefix = block(0);
    let route = Origination {
        prefix,
        next_hop: None,
        local_pref: None,
    };
    peer.speaker.handle_originate(peer.now, prefix, Some(route));
    peer.drain();
    peer.wait(479 * SECOND);
    assert_eq!(peer.farewell, None);
    peer.wait(SECOND);
    assert_eq!(peer.farewell, Some(Vec::new()), "closed without a word");
}

/// What the speaker sent on the connection, up to its OPEN: the OPEN's optional parameters.
fn parameters_sent(peer: &mut Scripted) -> Vec<u8> {
    let mut sent = Vec::new();
    peer.speaker.poll_transmit(peer.now, CONN, 4096, &mut sent);
    let length = usize::from(u16::from_be_bytes([sent[16], sent[17]]));
    assert_eq!(sent[18], 1, "OPEN");
    sent[29..length].to_vec()
}

#[test]
fn an_open_refused_for_its_parameters_is_sent_without_and_the_session_stands() {
    let mut settings = config(0, 65000, &[(1, 65001)]);
    settings
        .peers
        .values_mut()
        .for_each(|peer| peer.passive = true);
    let mut peer = Scripted::new(settings);
    assert_eq!(peer.connects(), Ok(()));
    assert!(!parameters_sent(&mut peer).is_empty());
    let mut refused = vec![0xff; 16];
    refused.extend([0, 21, 3, 2, 4]);
    peer.say(&refused);
    assert_eq!(peer.connects(), Ok(()), "again at once");
    assert_eq!(parameters_sent(&mut peer), []);
    peer.open(65001, &[Capability::EnhancedRouteRefresh]);
    let status = peer.speaker.peers(peer.now).remove(0);
    assert_eq!(status.state, PeerState::Established);
}

#[test]
fn a_capability_that_the_peer_requires_and_we_lack_is_named_and_waited_for_long() {
    let mut peer = Scripted::new(config(0, 65000, &[(1, 65001)]));
    assert_eq!(peer.connects(), Ok(()));
    let mut refused = vec![0xff; 16];
    refused.extend([0, 24, 3, 2, 7, 9, 1, 3]);
    peer.say(&refused);
    let status = peer.speaker.peers(peer.now).remove(0);
    let error = status.last_error.expect("refused").to_string();
    assert!(error.contains("BGP role"), "{error}");
    peer.wait(22 * SECOND);
    assert_eq!(peer.connects(), Err(Refused::IdleHold));
}

#[test]
fn a_far_ends_operator_who_resets_a_session_has_it_back_at_once_but_not_for_ever() {
    let mut peer = Scripted::new(config(0, 65000, &[(1, 65001)]));
    for round in 0..6 {
        let refused = if round < 4 {
            Ok(())
        } else {
            Err(Refused::IdleHold)
        };
        assert_eq!(peer.connects(), refused, "round {round}");
        if refused.is_ok() {
            peer.open(65001, &[]);
            let mut cease = vec![0xff; 16];
            cease.extend([0, 21, 3, 6, 4]);
            peer.say(&cease);
        }
    }
}

#[test]
fn a_peer_that_connects_is_let_in_while_we_wait_to_retry() {
    let mut network = Network::new(25, vec![config(0, 1, &[(1, 1)]), config(1, 1, &[(0, 1)])]);
    network.reconfigure(0, |config| {
        config
            .peers
            .values_mut()
            .for_each(|peer| peer.connect_retry_time = 500 * SECOND);
    });
    network.kill(1);
    network.run(SECOND);
    let fresh = bgp::speaker::Speaker::new(1, network.now);
    network.boot(1, fresh);
    network.run(Duration::ZERO);
    assert!(network.is_established(0, 1));
}
