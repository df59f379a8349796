//! Tests over whole messages.

#![allow(clippy::indexing_slicing, reason = "a test that indexes wrongly fails")]

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::types::{AfiSafi, Asn};
use crate::wire::attr::{AsnWidth, PathAttributes};
use crate::wire::framer::Framer;
use crate::wire::message::RawMessage;
use crate::wire::update::encode::append_attributes;
use crate::wire::update::{FirstAsCheck, PeerKind, ReceiveContext};

mod framer;
mod golden;
mod next_hops;
mod open;
mod rfc7606;
mod round_trip;
mod update;

/// A session with 4-octet AS numbers and both families.
fn context(peer: PeerKind, peer_asn: u32) -> ReceiveContext {
    ReceiveContext {
        peer,
        peer_asn: Asn(peer_asn),
        asn_width: AsnWidth::Four,
        families: BTreeSet::from([AfiSafi::Ipv4Unicast, AfiSafi::Ipv6Unicast]),
        add_paths: BTreeSet::new(),
        ipv6_next_hops: false,
        first_as: FirstAsCheck::Enforce,
    }
}

/// The messages in `bytes`, which end with a whole one.
fn messages(bytes: &[u8]) -> Vec<RawMessage> {
    let mut framer = Framer::new();
    framer.allow_extended();
    framer.extend(bytes);
    let mut messages = Vec::new();
    while let Some(message) = framer.next_message().expect("headers are in order") {
        messages.push(message);
    }
    assert_eq!(framer.pending(), 0, "octets after the last message");
    messages
}

/// The octets of a hexadecimal text.
fn hex(text: &str) -> Bytes {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| u8::try_from(c.to_digit(16).expect("hexadecimal")).expect("one digit"))
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// A block of path attributes.
fn encoded(attributes: &PathAttributes, width: AsnWidth) -> Vec<u8> {
    let mut out = Vec::new();
    append_attributes(attributes, width, &mut out);
    out
}

/// An attribute as on the wire, its length in one octet.
fn attribute(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    let length = u8::try_from(value.len()).expect("short values in tests");
    let mut octets = vec![flags, code, length];
    octets.extend_from_slice(value);
    octets
}

/// The body of an UPDATE.
fn update_body(withdrawn: &[u8], attributes: &[Vec<u8>], nlri: &[u8]) -> Bytes {
    let attributes = attributes.concat();
    let mut body = Vec::new();
    for field in [withdrawn, &attributes] {
        let length = u16::try_from(field.len()).expect("short fields in tests");
        body.extend_from_slice(&length.to_be_bytes());
        body.extend_from_slice(field);
    }
    body.extend_from_slice(nlri);
    body.into()
}
