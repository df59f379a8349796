//! How a session comes to stand, and what ends it.

use std::net::IpAddr;

use bgp::config::{DynamicRange, NextHopMode, Password};
use bgp::event::Event;
use bgp::types::AfiSafi;
use bgp_io::{Command, Output};
use interop::plan::{Announced, Plan};
use interop::{FAR, FAR6, NEAR, NEAR6, config, eventually, peer};

use crate::place::{
    BLOCK, OURS, OUTSIDE, OWN_PREFERENCE, Place, SECOND, THEIRS, carries_both_ways, down, external,
    is_session_up, learned, originate, prefix, sent, with_external,
};

const BLOCK6: &str = "fd00:7::/64";
const OUTSIDE6: &str = "2001:db8:1::/48";
const BOTH: [AfiSafi; 2] = [AfiSafi::Ipv4Unicast, AfiSafi::Ipv6Unicast];

daemons_test!(
    an_external_ipv4_session_carries_routes_both_ways,
    [bird2, bird1, frr, gobgp, exabgp]
);
fn an_external_ipv4_session_carries_routes_both_ways(place: &Place) {
    let daemon = place.start(&external());
    let mut ours = place.ours(with_external(|_| {}), &[BLOCK, SECOND]);
    let block = carries_both_ways(&*daemon, &mut ours, NEAR.into(), FAR.into());
    assert_eq!(block.origin, "IGP", "{block:?}");
    ours.stop();
}

daemons_test!(
    an_external_ipv6_session_carries_routes_both_ways,
    [bird2, bird1, frr, gobgp, exabgp]
);
fn an_external_ipv6_session_carries_routes_both_ways(place: &Place) {
    let plan = Plan::new(THEIRS, FAR, NEAR, OURS)
        .announcing(Announced::new(OUTSIDE6))
        .with(|neighbour| {
            (neighbour.address, neighbour.local) = (IpAddr::V6(NEAR6), IpAddr::V6(FAR6));
            neighbour.families = vec![AfiSafi::Ipv6Unicast];
        });
    let daemon = place.start(&plan);
    let mut there = peer(FAR6, THEIRS, NEAR6);
    there.families = [AfiSafi::Ipv6Unicast].into();
    let mut configured = config(OURS, NEAR, [there]);
    configured.listen_addresses = [IpAddr::V6(NEAR6)].into();
    let mut ours = place.ours(configured, &[BLOCK6]);
    let block = daemon.wait_seen(BLOCK6, |_| true);
    assert_eq!(block.as_path, [OURS], "{block:?}");
    assert_eq!(block.next_hop, Some(IpAddr::V6(NEAR6)), "{block:?}");
    assert_eq!(learned(&mut ours, OUTSIDE6), [IpAddr::V6(FAR6)]);
    ours.tell(Command::Originate(prefix(BLOCK6), None));
    daemon.wait_gone(BLOCK6);
    ours.stop();
}

daemons_test!(
    one_session_carries_both_families,
    [bird2, frr, gobgp, exabgp]
);
fn one_session_carries_both_families(place: &Place) {
    let outside6 = Announced {
        next_hop: Some(IpAddr::V6(FAR6)),
        ..Announced::new(OUTSIDE6)
    };
    let plan = external()
        .announcing(outside6)
        .with(|neighbour| neighbour.families = BOTH.to_vec());
    let daemon = place.start(&plan);
    let mut ours = place.ours(
        with_external(|peer| {
            peer.families = BOTH.into();
            // The session has no IPv6 address of ours to put in its place.
            peer.next_hop = NextHopMode::Keep;
        }),
        &[BLOCK],
    );
    originate(&ours, BLOCK6, NEAR6);
    let four = daemon.wait_seen(BLOCK, |_| true);
    assert_eq!(four.next_hop, Some(IpAddr::V4(NEAR)), "{four:?}");
    let six = daemon.wait_seen(BLOCK6, |_| true);
    assert_eq!(six.next_hop, Some(IpAddr::V6(NEAR6)), "{six:?}");
    let mut wanted = vec![(OUTSIDE, IpAddr::V4(FAR)), (OUTSIDE6, IpAddr::V6(FAR6))];
    ours.wait_for("routes of both families", |output| {
        if let Output::Route(change) = output
            && let Some(best) = &change.best
        {
            wanted.retain(|(text, hop)| prefix(text) != change.prefix || best.next_hops != [*hop]);
        }
        wanted.is_empty().then_some(())
    });
    ours.stop();
}

daemons_test!(
    an_internal_session_has_local_pref_and_an_empty_path,
    [bird2, bird1, frr, gobgp, exabgp]
);
fn an_internal_session_has_local_pref_and_an_empty_path(place: &Place) {
    let plan = Plan::new(OURS, FAR, NEAR, OURS).announcing(Announced::new(OUTSIDE));
    let daemon = place.start(&plan);
    let mut ours = place.ours(config(OURS, NEAR, [peer(FAR, OURS, NEAR)]), &[BLOCK]);
    let block = daemon.wait_seen(BLOCK, |_| true);
    assert_eq!(block.as_path, [0_u32; 0], "{block:?}");
    assert_eq!(block.local_pref, Some(OWN_PREFERENCE), "{block:?}");
    assert_eq!(block.origin, "IGP", "{block:?}");
    assert_eq!(block.med, None, "{block:?}");
    assert_eq!(block.next_hop, Some(IpAddr::V4(NEAR)), "{block:?}");
    assert_eq!(learned(&mut ours, OUTSIDE), [IpAddr::V4(FAR)]);
    ours.stop();
}

daemons_test!(
    md5_keys_guard_an_ipv4_session,
    [bird2, bird1, frr, gobgp, exabgp]
);
fn md5_keys_guard_an_ipv4_session(place: &Place) {
    let daemon = place.start(&external().with(|neighbour| neighbour.key = Some("right-key")));
    let with_key = |key: &str| with_external(|peer| peer.password = Some(Password(key.into())));
    let mut ours = place.ours(with_key("wrong-key"), &[BLOCK]);
    ours.wait_for("a connection fails", |output| {
        matches!(output, Output::Event(Event::ConnectionFailed { .. })).then_some(())
    });
    daemon.established(IpAddr::V4(NEAR)).unwrap_err();
    ours.tell(Command::Config(Box::new(with_key("right-key"))));
    daemon.wait_seen(BLOCK, |_| true);
    ours.stop();
}

daemons_test!(md5_keys_guard_an_ipv6_session, [bird2, bird1, frr, gobgp]);
fn md5_keys_guard_an_ipv6_session(place: &Place) {
    let plan = Plan::new(THEIRS, FAR, NEAR, OURS).with(|neighbour| {
        (neighbour.address, neighbour.local) = (IpAddr::V6(NEAR6), IpAddr::V6(FAR6));
        neighbour.families = vec![AfiSafi::Ipv6Unicast];
        neighbour.key = Some("right-key");
    });
    let daemon = place.start(&plan);
    let with_key = |key: &str| {
        let mut there = peer(FAR6, THEIRS, NEAR6);
        there.families = [AfiSafi::Ipv6Unicast].into();
        there.password = Some(Password(key.into()));
        let mut configured = config(OURS, NEAR, [there]);
        configured.listen_addresses = [IpAddr::V6(NEAR6)].into();
        configured
    };
    let mut ours = place.ours(with_key("wrong-key"), &[BLOCK6]);
    ours.wait_for("a connection fails", |output| {
        matches!(output, Output::Event(Event::ConnectionFailed { .. })).then_some(())
    });
    daemon.established(IpAddr::V6(NEAR6)).unwrap_err();
    ours.tell(Command::Config(Box::new(with_key("right-key"))));
    daemon.wait_seen(BLOCK6, |_| true);
    ours.stop();
}

daemons_test!(
    ttl_security_lets_a_neighbour_in_that_sends_255,
    [bird2, bird1, frr, gobgp]
);
fn ttl_security_lets_a_neighbour_in_that_sends_255(place: &Place) {
    let daemon = place.start(&external().with(|neighbour| neighbour.ttl_security = true));
    let secure = with_external(|peer| peer.ttl_security = Some(1));
    let mut ours = place.ours(secure, &[BLOCK]);
    daemon.wait_seen(BLOCK, |_| true);
    assert_eq!(learned(&mut ours, OUTSIDE), [IpAddr::V4(FAR)]);
    ours.stop();
}

daemons_test!(
    ttl_security_keeps_out_who_sends_less,
    [bird2, bird1, frr, gobgp]
);
fn ttl_security_keeps_out_who_sends_less(place: &Place) {
    let daemon = place.start(&external());
    let secure = with_external(|peer| peer.ttl_security = Some(1));
    let ours = place.ours(secure, &[BLOCK]);
    // A session that is not there gives no event; what our kernel drops for its TTL is counted.
    eventually("our kernel drops what it sends", || {
        let counters = place
            .near
            .run(|| std::fs::read_to_string("/proc/thread-self/net/netstat"));
        match dropped_for_ttl(&counters.unwrap()) {
            Some(1..) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    daemon.established(IpAddr::V4(NEAR)).unwrap_err();
    ours.stop();
}

/// TCPMinTTLDrop: the table has a line of names, and one of numbers.
fn dropped_for_ttl(table: &str) -> Option<u64> {
    let mut rows = table.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, numbers) = (rows.next()?, rows.next()?);
    let mut pairs = names.split_whitespace().zip(numbers.split_whitespace());
    pairs
        .find(|(name, _)| *name == "TCPMinTTLDrop")?
        .1
        .parse()
        .ok()
}

daemons_test!(
    it_is_waited_for_by_a_passive_peer,
    [bird2, bird1, frr, gobgp, exabgp]
);
fn it_is_waited_for_by_a_passive_peer(place: &Place) {
    let daemon = place.start(&external());
    let mut ours = place.ours(with_external(|peer| peer.passive = true), &[BLOCK]);
    daemon.wait_seen(BLOCK, |_| true);
    assert_eq!(learned(&mut ours, OUTSIDE), [IpAddr::V4(FAR)]);
    ours.stop();
}

daemons_test!(
    it_becomes_a_dynamic_peer_by_connecting,
    [bird2, bird1, frr, gobgp, exabgp]
);
fn it_becomes_a_dynamic_peer_by_connecting(place: &Place) {
    let mut daemon = place.start(&external());
    let dynamic = with_external(|peer| {
        peer.address = IpAddr::V4([10, 0, 0, 0].into());
        peer.graceful_restart = false;
        peer.options.dynamic = Some(DynamicRange {
            range: prefix("10.0.0.0/24"),
            limit: 1,
        });
    });
    let mut ours = place.ours(dynamic, &[BLOCK]);
    daemon.wait_seen(BLOCK, |_| true);
    assert_eq!(learned(&mut ours, OUTSIDE), [IpAddr::V4(FAR)]);
    daemon.kill().unwrap();
    ours.wait_for("its route goes with it", |output| match output {
        Output::Route(change) if change.prefix == prefix(OUTSIDE) => {
            change.best.is_none().then_some(())
        }
        _ => None,
    });
    // The range has room again.
    daemon.restart().unwrap();
    assert_eq!(learned(&mut ours, OUTSIDE), [IpAddr::V4(FAR)]);
    ours.stop();
}

daemons_test!(
    a_silent_daemons_routes_go_with_the_hold_timer,
    [bird2, bird1, frr, gobgp, exabgp]
);
fn a_silent_daemons_routes_go_with_the_hold_timer(place: &Place) {
    let mut daemon = place.start(&external().with(|neighbour| neighbour.hold_time = 3));
    let mut ours = place.ours(with_external(|_| {}), &[BLOCK]);
    assert_eq!(learned(&mut ours, OUTSIDE), [IpAddr::V4(FAR)]);
    daemon.wait_established(IpAddr::V4(NEAR));
    daemon.freeze().unwrap();
    let (reason, kept) = down(&mut ours);
    // RFC 4271 §6.5: Hold Timer Expired.
    assert_eq!(sent(reason).code, 4);
    assert!(!kept);
    ours.stop();
}

daemons_test!(
    too_many_prefixes_end_the_session_with_a_cease,
    [bird2, bird1, frr, gobgp, exabgp]
);
fn too_many_prefixes_end_the_session_with_a_cease(place: &Place) {
    let plan = external()
        .announcing(Announced::new("198.51.100.0/24"))
        .announcing(Announced::new("192.0.2.0/24"));
    let daemon = place.start(&plan);
    let mut ours = place.ours(with_external(|peer| peer.prefix_limit = Some(2)), &[BLOCK]);
    let (reason, _) = down(&mut ours);
    let text = sent(reason);
    // RFC 4486 §4: Maximum Number of Prefixes Reached.
    assert_eq!((text.code, text.subcode), (6, 1));
    ours.tell(Command::Config(Box::new(with_external(|peer| {
        peer.prefix_limit = Some(3)
    }))));
    ours.wait_for("the session stands", is_session_up);
    daemon.wait_seen(BLOCK, |_| true);
    ours.stop();
}
