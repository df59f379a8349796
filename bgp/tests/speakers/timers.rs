//! Timers at their true values.

use std::time::Duration;

use bgp::action::Refused;
use bgp::event::{DownReason, Event};
use bgp::status::PeerState;

use crate::network::{Network, block, config};
use crate::scripted::Scripted;

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
