//! UPDATEs written: an attribute block encoded once, then prefixes after it until the message is full.

use std::iter::Peekable;
use std::ops::ControlFlow;

use crate::types::AfiSafi;
use crate::wire::attr::codec::{append_attribute, write_attribute};
use crate::wire::attr::{AsnWidth, NextHop, PathAttributes, table};
use crate::wire::family::Family;
use crate::wire::message::{
    HEADER_LENGTH, MAX_EXTENDED_LENGTH, MAX_LENGTH, MessageType, begin_message, end_message,
    patch_u16,
};
use crate::wire::nlri::{Entry, max_prefix_octets, path_id_octets, prefix_octets, write_prefix};

/// How long a message the peer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageLimit {
    /// 4096 octets.
    Standard,
    /// 65535 octets, after the peer offered the extended message capability (RFC 8654).
    Extended,
}

impl MessageLimit {
    /// The limit in octets.
    pub const fn octets(self) -> usize {
        match self {
            Self::Standard => MAX_LENGTH,
            Self::Extended => MAX_EXTENDED_LENGTH,
        }
    }
}

/// The attributes leave no room for a prefix. The route cannot be sent; the peer must not keep an older one of it
/// (RFC 4271 §9.2, RFC 8654 §5), so it is to be withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("path attributes of {length} octets leave no room for a prefix in a message of {limit}")]
pub struct AttributesTooLong {
    /// Octets of the attributes.
    pub length: usize,
    /// Octets of the longest message.
    pub limit: usize,
}

/// Appends everything but MP_REACH_NLRI and MP_UNREACH_NLRI, to be used for any number of messages to any number of
/// peers with the same width of AS numbers.
pub fn append_attributes(attributes: &PathAttributes, width: AsnWidth, out: &mut Vec<u8>) {
    let mut unknown = attributes.unknown.iter().peekable();
    for row in &table::ROWS {
        while let Some(raw) = unknown.next_if(|raw| raw.code < row.code) {
            write_attribute(out, raw.flags, raw.code.0, &raw.value);
        }
        let partial = if attributes.partial.contains(row.code) {
            table::PARTIAL
        } else {
            0
        };
        append_attribute(out, row.flags | partial, row.code.0, |out| {
            (row.encode)(attributes, width, out)
        });
    }
    for raw in unknown {
        write_attribute(out, raw.flags, raw.code.0, &raw.value);
    }
}

/// Appends one UPDATE that announces as many of `prefixes` as fit, and returns how many it took from the iterator.
/// Nothing is written when the iterator is empty: call again until 0 comes.
///
/// `attributes` come from [`append_attributes`]. IPv4 prefixes with an IPv4 next hop, which is in `attributes` already, stand in
/// the NLRI field; others go with their next hop into MP_REACH_NLRI (RFC 4760 §3).
///
/// # Errors
/// [`AttributesTooLong`] when not even the first prefix fits; nothing is written or taken then.
///
/// # Panics
/// When the prefixes are of different families.
pub fn write_reach<E: Entry, I: Iterator<Item = E>>(
    out: &mut Vec<u8>,
    attributes: &[u8],
    next_hop: &NextHop,
    prefixes: &mut Peekable<I>,
    limit: MessageLimit,
) -> Result<usize, AttributesTooLong> {
    let Some(first) = prefixes.peek().copied() else {
        return Ok(0);
    };
    let family = AfiSafi::of(first.prefix());
    let is_classic = (family, next_hop.family()) == (AfiSafi::Ipv4Unicast, AfiSafi::Ipv4Unicast);
    // Flags, type, length; AFI, SAFI, next hop with its length, reserved octet.
    let head = match next_hop {
        _ if is_classic => 0,
        NextHop::V4(_) => 4 + 5 + 4,
        NextHop::V6 { link_local, .. } => 4 + 5 + if link_local.is_some() { 32 } else { 16 },
    };
    let fixed = HEADER_LENGTH + 4 + head + attributes.len();
    if fixed + prefix_octets(first) > limit.octets() {
        return Err(AttributesTooLong {
            length: attributes.len().saturating_add(head),
            limit: limit.octets(),
        });
    }
    let start = begin_message(out, MessageType::Update);
    out.extend_from_slice(&[0, 0, 0, 0]);
    let attributes_start = out.len();
    if is_classic {
        out.extend_from_slice(attributes);
        patch_u16(out, attributes_start - 2, attributes.len());
        let count = write_prefixes(out, family, prefixes, start + limit.octets());
        end_message(out, start);
        return Ok(count);
    }
    // MP_REACH_NLRI comes first (RFC 7606 §5.1), its length in two octets.
    out.extend_from_slice(&[0x90, 14, 0, 0]);
    write_family(out, family);
    write_next_hop(out, next_hop);
    out.push(0);
    let end = start + limit.octets() - attributes.len();
    let count = write_prefixes(out, family, prefixes, end);
    let length_at = attributes_start + 2;
    let length = out.len() - length_at - 2;
    patch_u16(out, length_at, length);
    out.extend_from_slice(attributes);
    let length = out.len() - attributes_start;
    patch_u16(out, attributes_start - 2, length);
    end_message(out, start);
    Ok(count)
}

fn write_family(out: &mut Vec<u8>, family: AfiSafi) {
    let Family { afi, safi } = Family::from(family);
    out.extend_from_slice(&afi.to_be_bytes());
    out.push(safi);
}

/// Length and addresses, as MP_REACH_NLRI has them (RFC 4760 §3, RFC 2545 §3).
fn write_next_hop(out: &mut Vec<u8>, next_hop: &NextHop) {
    match next_hop {
        NextHop::V4(address) => {
            out.push(4);
            out.extend_from_slice(&address.octets());
        }
        NextHop::V6 { global, link_local } => {
            out.push(if link_local.is_some() { 32 } else { 16 });
            out.extend_from_slice(&global.octets());
            out.extend(link_local.iter().flat_map(|address| address.octets()));
        }
    }
}

/// Appends one UPDATE that withdraws as many of `prefixes` as fit, and returns how many it took from the iterator.
/// Nothing is written when the iterator is empty: call again until 0 comes.
///
/// # Panics
/// When a prefix is not of `family`.
pub fn write_unreach<E: Entry, I: Iterator<Item = E>>(
    out: &mut Vec<u8>,
    family: AfiSafi,
    prefixes: &mut Peekable<I>,
    limit: MessageLimit,
) -> usize {
    if prefixes.peek().is_none() {
        return 0;
    }
    let start = begin_message(out, MessageType::Update);
    let end = start + limit.octets();
    let count = match family {
        AfiSafi::Ipv4Unicast => {
            out.extend_from_slice(&[0, 0]);
            let field = out.len();
            let count = write_prefixes(out, family, prefixes, end - 2);
            let length = out.len() - field;
            patch_u16(out, field - 2, length);
            out.extend_from_slice(&[0, 0]);
            count
        }
        AfiSafi::Ipv6Unicast => {
            out.extend_from_slice(&[0, 0, 0, 0, 0x90, 15, 0, 0, 0, 2, 1]);
            let value = out.len() - 3;
            let count = write_prefixes(out, family, prefixes, end);
            let length = out.len() - value;
            patch_u16(out, value - 2, length);
            patch_u16(out, value - 6, length + 4);
            count
        }
    };
    end_message(out, start);
    count
}

/// Appends an End-of-RIB marker (RFC 4724 §2).
pub fn write_end_of_rib(out: &mut Vec<u8>, family: AfiSafi) {
    let start = begin_message(out, MessageType::Update);
    match family {
        AfiSafi::Ipv4Unicast => out.extend_from_slice(&[0, 0, 0, 0]),
        AfiSafi::Ipv6Unicast => out.extend_from_slice(&[0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1]),
    }
    end_message(out, start);
}

/// Appends the first prefix, which is known to fit, and then more for as long as the longest of the family would end at `end` or
/// before; the others stay in the iterator.
fn write_prefixes<E: Entry, I: Iterator<Item = E>>(
    out: &mut Vec<u8>,
    family: AfiSafi,
    prefixes: &mut Peekable<I>,
    end: usize,
) -> usize {
    let mut count = 0;
    let id_octets = prefixes.peek().map_or(0, |first| path_id_octets(*first));
    let last_start = end - max_prefix_octets(family) - id_octets;
    // Inner iteration: `Peekable::next` looks each time whether something was peeked at.
    let _full = prefixes.try_for_each(|prefix| {
        write_prefix(out, family, prefix);
        count += 1;
        if out.len() <= last_start {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    count
}
