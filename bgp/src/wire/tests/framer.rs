//! The stream cut into messages.

use proptest::prelude::*;

use super::messages;
use crate::types::AfiSafi;
use crate::wire::framer::Framer;
use crate::wire::message::{MessageType, write_keepalive, write_message};
use crate::wire::notification::Notification;
use crate::wire::update::encode::write_end_of_rib;

fn first_error(bytes: &[u8]) -> Notification {
    let mut framer = Framer::new();
    framer.extend(bytes);
    framer.next_message().expect_err("a bad header")
}

fn header(length: u16, kind: u8) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.push(kind);
    bytes
}

#[test]
fn a_marker_that_is_not_all_ones_is_not_synchronized() {
    let mut bytes = header(19, 4);
    bytes[7] = 0xfe;
    assert_eq!(first_error(&bytes), Notification::not_synchronized());
}

#[test]
fn lengths_that_the_type_cannot_have_are_named_in_the_error() {
    for (length, kind) in [
        (18, 4),
        (20, 4),
        (28, 1),
        (22, 2),
        (20, 3),
        (22, 5),
        (4097, 2),
        (65535, 3),
    ] {
        let expected = Notification::bad_length(length);
        assert_eq!(
            first_error(&header(length, kind)),
            expected,
            "{length} {kind}"
        );
    }
}

#[test]
fn a_type_that_does_not_exist_is_named_in_the_error() {
    assert_eq!(first_error(&header(19, 6)), Notification::bad_type(6));
    assert_eq!(first_error(&header(19, 0)), Notification::bad_type(0));
}

#[test]
fn a_long_update_is_taken_once_extended_messages_are_allowed_but_a_long_open_never() {
    let mut bytes = Vec::new();
    write_message(&mut bytes, MessageType::Update, &[0; 60_000]);
    let mut framer = Framer::new();
    framer.allow_extended();
    framer.extend(&bytes);
    let message = framer.next_message().expect("allowed").expect("whole");
    assert_eq!(message.body.len(), 60_000);

    let mut bytes = Vec::new();
    write_message(&mut bytes, MessageType::Open, &[0; 5000]);
    framer.extend(&bytes);
    assert_eq!(framer.next_message(), Err(Notification::bad_length(5019)));
}

proptest! {
    #[test]
    fn any_cut_gives_the_same_messages(
        bodies in prop::collection::vec((0..4_usize, 4..300_usize), 1..12),
        cuts in prop::collection::vec(1..80_usize, 1..200),
    ) {
        let mut stream = Vec::new();
        for (kind, length) in bodies {
            let body = vec![7; length];
            match kind {
                0 => write_keepalive(&mut stream),
                1 => write_end_of_rib(&mut stream, AfiSafi::Ipv6Unicast),
                2 => write_message(&mut stream, MessageType::Update, &body),
                _ => write_message(&mut stream, MessageType::Notification, &body),
            }
        }
        let whole = messages(&stream);

        let mut framer = Framer::new();
        let mut pieces = Vec::new();
        let mut rest = stream.as_slice();
        for cut in cuts.into_iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, left) = rest.split_at(cut.min(rest.len()));
            rest = left;
            framer.extend(piece);
            while let Some(message) = framer.next_message().expect("valid headers") {
                pieces.push(message);
            }
        }
        prop_assert_eq!(pieces, whole);
        prop_assert_eq!(framer.pending(), 0);
    }

    #[test]
    fn arbitrary_bytes_never_panic_it(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut framer = Framer::new();
        framer.extend(&[0xff; 16]);
        framer.extend(&bytes);
        while let Ok(Some(_)) = framer.next_message() {}
    }
}
