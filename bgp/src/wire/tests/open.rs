//! OPEN and NOTIFICATION errors by section of their RFCs.

use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;

use super::messages;
use crate::types::{AfiSafi, Asn, RouterId};
use crate::wire::capability::Capability;
use crate::wire::notification::Notification;
use crate::wire::open::Open;
use crate::wire::refresh::{RefreshKind, RouteRefresh};

/// Version 4, AS 65001, hold time 90, 10.0.0.1, then the parameters as given.
fn body(parameters: &[u8]) -> Vec<u8> {
    let mut body = vec![4, 0xfd, 0xe9, 0, 90, 10, 0, 0, 1];
    body.extend_from_slice(parameters);
    body
}

fn decode(body: Vec<u8>) -> Result<Open, Notification> {
    Open::decode(&Bytes::from(body))
}

fn open_with(capabilities: Vec<Capability>) -> Open {
    Open {
        asn: Asn(65001),
        hold_time: Duration::from_secs(90),
        router_id: RouterId(Ipv4Addr::new(10, 0, 0, 1)),
        capabilities,
    }
}

#[test]
fn another_version_is_answered_with_version_4() {
    let mut wrong = body(&[0]);
    wrong[0] = 3;
    assert_eq!(decode(wrong), Err(Notification::unsupported_version()));
}

#[test]
fn as_0_is_refused_in_both_places() {
    let mut wrong = body(&[0]);
    wrong[1] = 0;
    wrong[2] = 0;
    assert_eq!(decode(wrong), Err(Notification::bad_peer_as()));
    let wrong = body(&[8, 2, 6, 65, 4, 0, 0, 0, 0]);
    assert_eq!(decode(wrong), Err(Notification::bad_peer_as()));
}

#[test]
fn hold_times_of_1_and_2_are_refused_and_0_and_3_taken() {
    for (seconds, taken) in [(0, true), (1, false), (2, false), (3, true)] {
        let mut bytes = body(&[0]);
        bytes[4] = seconds;
        assert_eq!(decode(bytes).is_ok(), taken, "{seconds}");
    }
}

#[test]
fn identifier_0_is_refused_and_a_multicast_one_taken() {
    let mut bytes = body(&[0]);
    bytes[5..9].fill(0);
    assert_eq!(decode(bytes), Err(Notification::bad_identifier()));
    // RFC 6286 takes any number but 0.
    let mut bytes = body(&[0]);
    bytes[5] = 224;
    assert!(decode(bytes).is_ok());
}

#[test]
fn an_unknown_parameter_is_unsupported_and_a_cut_one_malformed() {
    let unknown = body(&[3, 1, 1, 0]);
    assert_eq!(decode(unknown), Err(Notification::unsupported_parameter()));
    for malformed in [
        &[1, 2][..],
        &[4, 2, 3, 65, 4],
        &[2, 2, 0, 9],
        &[6, 2, 4, 65, 2, 0, 1],
        &[3, 2, 1, 1],
        &[9, 2],
    ] {
        let result = decode(body(malformed));
        assert_eq!(result, Err(Notification::malformed_open()), "{malformed:?}");
    }
}

#[test]
fn no_multiprotocol_capability_means_ipv4_and_a_foreign_one_means_neither() {
    let open = decode(body(&[0])).expect("valid");
    assert!(open.families().contains(&AfiSafi::Ipv4Unicast));
    assert!(!open.has_four_octet_as());
    let open = decode(body(&[8, 2, 6, 1, 4, 0, 25, 0, 70])).expect("valid");
    assert!(open.families().is_empty());
}

#[test]
fn long_capabilities_take_the_extended_form_and_are_read_back() {
    for octets in [249, 250, 251, 252, 253, 254, 255] {
        let capability = Capability::Unknown {
            code: 73,
            value: vec![1; octets].into(),
        };
        let open = open_with(vec![capability]);
        let mut bytes = Vec::new();
        open.encode(&mut bytes);
        let raw = messages(&bytes).pop().expect("one message");
        assert_eq!(Open::decode(&raw.body), Ok(open), "{octets}");
        assert_eq!(
            raw.body[9] == 255 && raw.body[10] == 255,
            octets > 251,
            "{octets}"
        );
    }
}

#[test]
fn the_extended_form_is_known_by_its_type_not_by_its_length() {
    let parameters = [1, 255, 0, 9, 2, 0, 6, 65, 4, 0, 1, 0, 0];
    let open = decode(body(&parameters)).expect("valid (RFC 9072 §2)");
    assert_eq!(open.asn, Asn(65536));
}

#[test]
fn the_last_graceful_restart_capability_counts() {
    let parameters = [10, 2, 8, 64, 2, 0x80, 7, 64, 2, 0x40, 9];
    let open = decode(body(&parameters)).expect("valid");
    let restart = open.graceful_restart().expect("offered");
    assert_eq!(restart.time, Duration::from_secs(9));
    assert!(restart.notification && !restart.restarting);
}

#[test]
fn a_refresh_mark_of_a_wrong_length_is_answered_with_itself() {
    for (subtype, length, code) in [(1_u8, 5, 7), (2, 6, 7), (0, 5, 1)] {
        let mut body = vec![0, 1, subtype, 1];
        body.resize(length, 0);
        let error = RouteRefresh::decode(&body.clone().into()).expect_err("wrong length");
        assert_eq!(error.code, code);
        if code == 7 {
            assert_eq!(messages(&error.data)[0].body, body);
        }
    }
    let refresh = RouteRefresh::decode(&Bytes::from_static(&[0, 1, 9, 1, 0]));
    assert_eq!(
        refresh.expect("to be ignored").kind,
        RefreshKind::Unknown(9)
    );
}
