//! The NOTIFICATIONs that our speaker ends a connection with, read on the wire: codes, subcodes and data of RFC 4271 §6 and its successors.

use std::net::Ipv4Addr;

use bgp::route::Origination;
use bgp::types::AfiSafi;
use bgp_io::Command;
use interop::scripted::{Scripted, Told, kind, message, multiprotocol, open};
use interop::{Begin, FAR, NEAR, OurSpeaker, config, joined, peer};
use lab::NetNs;

use crate::place::{OURS, THEIRS, is_session_up};

/// A speaker that waits for a peer in `far`.
fn waiting(near: &NetNs) -> OurSpeaker {
    let mut there = peer(FAR, THEIRS, NEAR);
    there.passive = true;
    there.families = [AfiSafi::Ipv4Unicast, AfiSafi::Ipv6Unicast].into();
    let configured = config(OURS, NEAR, [there]);
    OurSpeaker::start(near, Begin::Fresh, configured, &[]).unwrap()
}

fn told(code: u8, subcode: u8, data: &[u8]) -> Told {
    Told {
        code,
        subcode,
        data: data.to_vec(),
    }
}

/// An OPEN of the peer that is waited for, changed.
fn opening(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut octets = good_open(240, &[]);
    change(&mut octets);
    octets
}

fn good_open(hold_time: u16, more: &[u8]) -> Vec<u8> {
    let mut capabilities = multiprotocol(1).to_vec();
    capabilities.extend(more);
    open(65001, hold_time, FAR, &capabilities)
}

#[test]
fn a_wrong_beginning_is_answered_with_its_error() {
    let name = "on_the_wire::a_wrong_beginning_is_answered_with_its_error";
    // Where fields stand in an OPEN: after 19 octets of header, version, AS, hold time, identifier, length of parameters.
    const VERSION: usize = 19;
    let wrong: Vec<(&str, Vec<u8>, Told)> = vec![
        (
            "a marker that is none",
            opening(|open| open[3] = 0),
            told(1, 1, &[]),
        ),
        (
            "a length of 18",
            opening(|open| open[17] = 18),
            told(1, 2, &[0, 18]),
        ),
        (
            "an OPEN of 4097 octets",
            message(kind::OPEN, &[4; 4097 - 19]),
            told(1, 2, &[0x10, 0x01]),
        ),
        (
            "a KEEPALIVE of 20 octets",
            message(kind::KEEPALIVE, &[0]),
            told(1, 2, &[0, 20]),
        ),
        (
            "a type of 9",
            opening(|open| open[18] = 9),
            told(1, 3, &[9]),
        ),
        (
            "version 3",
            opening(|open| open[VERSION] = 3),
            told(2, 1, &[0, 4]),
        ),
        (
            "another AS",
            opening(|open| open[VERSION + 2] += 1),
            told(2, 2, &[]),
        ),
        (
            "identifier 0.0.0.0",
            open(65001, 240, Ipv4Addr::UNSPECIFIED, &multiprotocol(1)),
            told(2, 3, &[]),
        ),
        (
            "an optional parameter of type 1",
            opening(|open| open[VERSION + 10] = 1),
            told(2, 4, &[]),
        ),
        ("a hold time of 1 s", good_open(1, &[]), told(2, 6, &[])),
        (
            "no family in common",
            open(65001, 240, FAR, &[1, 4, 0, 25, 0, 70]),
            told(2, 7, &[multiprotocol(1), multiprotocol(2)].concat()),
        ),
        (
            "a capability longer than its parameter",
            good_open(240, &[65, 9, 0]),
            told(2, 0, &[]),
        ),
        (
            "an UPDATE instead",
            message(kind::UPDATE, &[0; 4]),
            told(5, 1, &[kind::UPDATE]),
        ),
        (
            "a KEEPALIVE instead",
            message(kind::KEEPALIVE, &[]),
            told(5, 1, &[kind::KEEPALIVE]),
        ),
    ];
    lab::in_namespaces(name, || {
        let (near, far) = joined().unwrap();
        for (what, octets, answer) in wrong {
            let ours = waiting(&near);
            let mut scripted = Scripted::connect(&far, NEAR);
            scripted.say(&octets);
            assert_eq!(scripted.told(), answer, "{what}");
            ours.stop();
        }
    });
}

#[test]
fn what_does_not_belong_into_a_session_ends_it_with_its_error() {
    let name = "on_the_wire::what_does_not_belong_into_a_session_ends_it_with_its_error";
    let long_borr = message(kind::ROUTE_REFRESH, &[0, 1, 1, 1, 9]);
    let wrong: Vec<(&str, Vec<u8>, Told)> = vec![
        ("a marker that is none", vec![0; 19], told(1, 1, &[])),
        (
            "a KEEPALIVE of 5000 octets",
            message(kind::KEEPALIVE, &[0; 5000 - 19]),
            told(1, 2, &[0x13, 0x88]),
        ),
        (
            "an UPDATE of 22 octets",
            message(kind::UPDATE, &[0; 3]),
            told(1, 2, &[0, 22]),
        ),
        (
            "another OPEN",
            good_open(240, &[]),
            told(5, 3, &[kind::OPEN]),
        ),
        (
            "a BoRR of 24 octets, RFC 7313 §5",
            long_borr.clone(),
            told(7, 1, &long_borr),
        ),
    ];
    lab::in_namespaces(name, || {
        let (near, far) = joined().unwrap();
        // Route refresh and its enhancement.
        let refresh = [2, 0, 70, 0];
        for (what, octets, answer) in wrong {
            let mut ours = waiting(&near);
            let mut scripted = Scripted::connect(&far, NEAR);
            scripted.establish(&good_open(240, &refresh));
            ours.wait_for("the session stands", is_session_up);
            scripted.say(&octets);
            assert_eq!(scripted.told(), answer, "{what}");
            ours.stop();
        }
    });
}

#[test]
fn a_peer_that_falls_silent_hears_that_its_hold_timer_expired() {
    let name = "on_the_wire::a_peer_that_falls_silent_hears_that_its_hold_timer_expired";
    lab::in_namespaces(name, || {
        let (near, far) = joined().unwrap();
        let ours = waiting(&near);
        let mut scripted = Scripted::connect(&far, NEAR);
        let open = scripted.establish(&good_open(3, &[]));
        assert_eq!(open[3..5], [0, 240], "our own hold time is our own");
        assert_eq!(scripted.told(), told(4, 0, &[]));
        ours.stop();
    });
}

#[test]
fn capabilities_that_nobody_knows_are_passed_over() {
    let name = "on_the_wire::capabilities_that_nobody_knows_are_passed_over";
    lab::in_namespaces(name, || {
        let (near, far) = joined().unwrap();
        let mut ours = waiting(&near);
        let mut scripted = Scripted::connect(&far, NEAR);
        // RFC 5492 §4: one of the first come, first served range, and one for private use.
        scripted.establish(&good_open(240, &[100, 2, 1, 2, 250, 0]));
        ours.wait_for("the session stands", is_session_up);
        ours.stop();
        // A stop says nothing (RFC 4724).
        let mut heard = std::iter::from_fn(|| scripted.hear());
        assert!(heard.all(|(kind, _)| kind != kind::NOTIFICATION));
    });
}

#[test]
fn keepalives_carry_a_session_over_many_hold_times() {
    let name = "on_the_wire::keepalives_carry_a_session_over_many_hold_times";
    lab::in_namespaces(name, || {
        let (near, far) = joined().unwrap();
        let mut ours = waiting(&near);
        let mut scripted = Scripted::connect(&far, NEAR);
        scripted.establish(&good_open(3, &[]));
        ours.wait_for("the session stands", is_session_up);
        // RFC 4271 §4.4: one in a third of the hold time. Seven of them outlast two hold times.
        let mut heard = 0;
        while heard < 7 {
            let (kind, body) = scripted.hear().expect("the session stands");
            assert_ne!(kind, kind::NOTIFICATION, "{body:?}");
            if kind == kind::KEEPALIVE {
                heard += 1;
                scripted.say(&message(kind::KEEPALIVE, &[]));
            }
        }
        ours.stop();
    });
}

#[test]
fn a_refresh_is_framed_for_who_understands_it() {
    let name = "on_the_wire::a_refresh_is_framed_for_who_understands_it";
    // AFI, subtype, SAFI (RFC 7313 §3.2).
    let (ask, begin, end) = ([0, 1, 0, 1], vec![0, 1, 1, 1], vec![0, 1, 2, 1]);
    lab::in_namespaces(name, || {
        let (near, far) = joined().unwrap();
        for (capabilities, framed) in [(&[2, 0, 70, 0][..], true), (&[2, 0], false)] {
            let ours = waiting(&near);
            let own = Origination {
                prefix: "192.168.7.0/26".parse().unwrap(),
                next_hop: None,
                local_pref: None,
            };
            ours.tell(Command::Originate(own.prefix, Some(own)));
            let mut scripted = Scripted::connect(&far, NEAR);
            scripted.establish(&good_open(240, capabilities));
            let first = scripted.hear().expect("the session stands");
            assert_eq!(first.0, kind::UPDATE);
            assert!(first.1.ends_with(&[26, 192, 168, 7, 0]), "{first:?}");
            // End-of-RIB (RFC 4724 §2), which is said to every peer.
            assert_eq!(scripted.hear(), Some((kind::UPDATE, vec![0; 4])));
            scripted.say(&message(kind::ROUTE_REFRESH, &ask));
            let expected: Vec<(u8, Vec<u8>)> = match framed {
                true => vec![
                    (kind::ROUTE_REFRESH, begin.clone()),
                    first.clone(),
                    (kind::ROUTE_REFRESH, end.clone()),
                ],
                false => vec![first.clone()],
            };
            for wanted in expected {
                assert_eq!(scripted.hear(), Some(wanted), "framed: {framed}");
            }
            ours.stop();
        }
    });
}
