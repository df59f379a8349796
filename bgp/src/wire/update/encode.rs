//! UPDATEs written: an attribute block encoded once, then prefixes after it until the message is full.

use bytes::Bytes;
use ipnet::IpNet;

use crate::types::AfiSafi;
use crate::wire::attr::codec::{append_attribute, write_attribute};
use crate::wire::attr::{AsnWidth, NextHop, PathAttributes, table};
use crate::wire::message::{
    HEADER_LENGTH, MAX_EXTENDED_LENGTH, MAX_LENGTH, MessageType, begin_message, end_message,
    patch_u16,
};
use crate::wire::nlri::{max_prefix_octets, write_prefix};

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

/// Encodes everything but MP_REACH_NLRI and MP_UNREACH_NLRI, to be used for any number of messages to any number of
/// peers with the same width of AS numbers.
pub fn encode_attributes(attributes: &PathAttributes, width: AsnWidth) -> Bytes {
    let mut out = Vec::with_capacity(64);
    append_attributes(attributes, width, &mut out);
    out.into()
}

/// Appends what [`encode_attributes`] returns.
pub(crate) fn append_attributes(attributes: &PathAttributes, width: AsnWidth, out: &mut Vec<u8>) {
    let mut unknown = attributes.unknown.iter().peekable();
    for row in &table::ROWS {
        while let Some(raw) = unknown.next_if(|raw| raw.code < row.code) {
            write_attribute(out, raw.flags, raw.code.0, &raw.value);
        }
        append_attribute(out, row.flags, row.code.0, |out| {
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
/// `attributes` come from [`encode_attributes`]; an IPv6 `next_hop` goes into MP_REACH_NLRI, an IPv4 one is in
/// `attributes` already.
///
/// # Errors
/// [`AttributesTooLong`]; nothing is written or taken then.
///
/// # Panics
/// When a prefix is not of the next hop's family.
pub fn write_reach(
    out: &mut Vec<u8>,
    attributes: &[u8],
    next_hop: &NextHop,
    prefixes: &mut impl Iterator<Item = IpNet>,
    limit: MessageLimit,
) -> Result<usize, AttributesTooLong> {
    let family = next_hop.family();
    // Flags, type, length; AFI, SAFI, next hop with its length, reserved octet.
    let head = match next_hop {
        NextHop::V4(_) => 0,
        NextHop::V6 { link_local, .. } => 4 + 5 + if link_local.is_some() { 32 } else { 16 },
    };
    let longest_attributes = limit.octets() - HEADER_LENGTH - 4 - max_prefix_octets(family) - head;
    if attributes.len() > longest_attributes {
        return Err(AttributesTooLong {
            length: attributes.len().saturating_add(head),
            limit: limit.octets(),
        });
    }
    let Some(first) = prefixes.next() else {
        return Ok(0);
    };
    let start = begin_message(out, MessageType::Update);
    out.extend_from_slice(&[0, 0, 0, 0]);
    let attributes_start = out.len();
    let mp = match next_hop {
        NextHop::V4(_) => {
            out.extend_from_slice(attributes);
            patch_u16(out, attributes_start - 2, attributes.len());
            None
        }
        NextHop::V6 { global, link_local } => {
            // MP_REACH_NLRI comes first (RFC 7606 §5.1), its length in two octets.
            out.extend_from_slice(&[0x90, 14, 0, 0, 0, 2, 1]);
            out.push(if link_local.is_some() { 32 } else { 16 });
            out.extend_from_slice(&global.octets());
            out.extend(link_local.iter().flat_map(|address| address.octets()));
            out.push(0);
            Some(attributes_start + 2)
        }
    };
    let tail = if mp.is_some() { attributes.len() } else { 0 };
    let last_start = start + limit.octets() - tail - max_prefix_octets(family);
    let count = write_prefixes(out, family, first, prefixes, last_start);
    if let Some(length_at) = mp {
        let length = out.len() - length_at - 2;
        patch_u16(out, length_at, length);
        out.extend_from_slice(attributes);
        let length = out.len() - attributes_start;
        patch_u16(out, attributes_start - 2, length);
    }
    end_message(out, start);
    Ok(count)
}

/// Appends one UPDATE that withdraws as many of `prefixes` as fit, and returns how many it took from the iterator.
/// Nothing is written when the iterator is empty: call again until 0 comes.
///
/// # Panics
/// When a prefix is not of `family`.
pub fn write_unreach(
    out: &mut Vec<u8>,
    family: AfiSafi,
    prefixes: &mut impl Iterator<Item = IpNet>,
    limit: MessageLimit,
) -> usize {
    let Some(first) = prefixes.next() else {
        return 0;
    };
    let start = begin_message(out, MessageType::Update);
    let last_start = start + limit.octets() - 2 - max_prefix_octets(family);
    let count = match family {
        AfiSafi::Ipv4Unicast => {
            out.extend_from_slice(&[0, 0]);
            let field = out.len();
            let count = write_prefixes(out, family, first, prefixes, last_start);
            let length = out.len() - field;
            patch_u16(out, field - 2, length);
            out.extend_from_slice(&[0, 0]);
            count
        }
        AfiSafi::Ipv6Unicast => {
            out.extend_from_slice(&[0, 0, 0, 0, 0x90, 15, 0, 0, 0, 2, 1]);
            let value = out.len() - 3;
            let count = write_prefixes(out, family, first, prefixes, last_start);
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

/// Appends `first` and then whatever starts at `last_start` or before; a prefix is taken from the iterator only when
/// the longest one would fit, so none is lost.
fn write_prefixes(
    out: &mut Vec<u8>,
    family: AfiSafi,
    first: IpNet,
    prefixes: &mut impl Iterator<Item = IpNet>,
    last_start: usize,
) -> usize {
    write_prefix(out, family, first);
    let mut count = 1;
    while out.len() <= last_start {
        let Some(prefix) = prefixes.next() else {
            break;
        };
        write_prefix(out, family, prefix);
        count += 1;
    }
    count
}
