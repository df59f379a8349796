//! Values of the attributes, read and written; the table's rows point here.

use std::net::Ipv4Addr;

use crate::types::{Asn, RouterId};
use crate::wire::attr::as_path::AsPath;
use crate::wire::attr::community::{Community, ExtendedCommunity, LargeCommunity};
use crate::wire::attr::{
    Aggregator, AsnWidth, NextHop, Origin, PathAttributes, RawAttribute, table,
};
use crate::wire::reader::Reader;
use crate::wire::update::draft::{Draft, Flaw, Received};
use crate::wire::update::{Reason, ReceiveContext};

/// Appends one attribute, its length in one octet when that is enough.
pub(in crate::wire) fn write_attribute(out: &mut Vec<u8>, flags: u8, code: u8, value: &[u8]) {
    append_attribute(out, flags, code, |out| {
        out.extend_from_slice(value);
        true
    });
}

/// As [`write_attribute`], of a value that is appended in its place; nothing when `value` returns false.
///
/// A value may be longer than 65535 octets: AS numbers of a long 2-octet path double when widened. No message has room
/// for it, so [`write_reach`](crate::wire::update::encode::write_reach) refuses the block, whatever its length says.
pub(in crate::wire) fn append_attribute(
    out: &mut Vec<u8>,
    flags: u8,
    code: u8,
    value: impl FnOnce(&mut Vec<u8>) -> bool,
) {
    let start = out.len();
    out.extend_from_slice(&[flags, code, 0]);
    let value_start = out.len();
    if !value(out) {
        out.truncate(start);
        return;
    }
    let length = out.len().saturating_sub(value_start);
    let head = out.get_mut(start..value_start);
    match (u8::try_from(length), head) {
        (Ok(short), Some([_, _, octet])) => *octet = short,
        (Err(_), Some([flags, _, high])) => {
            *flags |= table::EXTENDED_LENGTH;
            let [first, second] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
            *high = first;
            out.insert(value_start, second);
        }
        (_, _) => unreachable!("three octets were appended above"),
    }
}

// ORIGIN, RFC 4271 §4.3 a, RFC 7606 §7.1.

pub(super) fn decode_origin(
    draft: &mut Draft<'_>,
    received: &Received<'_>,
    _: &ReceiveContext,
) -> Result<(), Flaw> {
    let [found] = fixed(received, "1")?;
    draft.attributes.origin = Origin::from_code(found).ok_or(Reason::Origin { found })?;
    Ok(())
}

pub(super) fn encode_origin(attributes: &PathAttributes, _: AsnWidth, out: &mut Vec<u8>) -> bool {
    out.push(attributes.origin.code());
    true
}

// AS_PATH, RFC 4271 §4.3 b, RFC 6793 §4, RFC 7606 §7.2.

pub(super) fn decode_as_path(
    draft: &mut Draft<'_>,
    received: &Received<'_>,
    context: &ReceiveContext,
) -> Result<(), Flaw> {
    let path = AsPath::decode(received.value, context.asn_width).map_err(Reason::Path)?;
    draft.attributes.as_path = path;
    Ok(())
}

pub(super) fn encode_as_path(
    attributes: &PathAttributes,
    width: AsnWidth,
    out: &mut Vec<u8>,
) -> bool {
    attributes.as_path.encode(width, out);
    true
}

pub(super) fn decode_as4_path(
    draft: &mut Draft<'_>,
    received: &Received<'_>,
    _: &ReceiveContext,
) -> Result<(), Flaw> {
    draft.as4_path = Some(AsPath::decode_as4(received.value).map_err(Reason::Path)?);
    Ok(())
}

/// Sent only when the 2-octet path would lose something (RFC 6793 §4.2.2).
pub(super) fn encode_as4_path(
    attributes: &PathAttributes,
    width: AsnWidth,
    out: &mut Vec<u8>,
) -> bool {
    attributes.as_path.encode(AsnWidth::Four, out);
    width == AsnWidth::Two && attributes.as_path.asns().any(needs_four_octets)
}

// NEXT_HOP, RFC 4271 §4.3 c, RFC 7606 §7.3. Whether it is a host's address is judged when it is used.

pub(super) fn decode_next_hop(
    draft: &mut Draft<'_>,
    received: &Received<'_>,
    _: &ReceiveContext,
) -> Result<(), Flaw> {
    draft.next_hop = Some(Ipv4Addr::from(fixed::<4>(received, "4")?));
    Ok(())
}

pub(super) fn encode_next_hop(attributes: &PathAttributes, _: AsnWidth, out: &mut Vec<u8>) -> bool {
    match attributes.next_hop {
        Some(NextHop::V4(address)) => {
            out.extend_from_slice(&address.octets());
            true
        }
        Some(NextHop::V6 { .. }) | None => false,
    }
}

// MULTI_EXIT_DISC and LOCAL_PREF, RFC 4271 §4.3 d and e, RFC 7606 §7.4 and §7.5.

pub(super) fn decode_med(
    draft: &mut Draft<'_>,
    received: &Received<'_>,
    _: &ReceiveContext,
) -> Result<(), Flaw> {
    draft.attributes.med = Some(u32::from_be_bytes(fixed(received, "4")?));
    Ok(())
}

pub(super) fn encode_med(attributes: &PathAttributes, _: AsnWidth, out: &mut Vec<u8>) -> bool {
    put_u32(attributes.med, out)
}

pub(super) fn decode_local_pref(
    draft: &mut Draft<'_>,
    received: &Received<'_>,
    _: &ReceiveContext,
) -> Result<(), Flaw> {
    draft.attributes.local_pref = Some(u32::from_be_bytes(fixed(received, "4")?));
    Ok(())
}

pub(super) fn encode_local_pref(
    attributes: &PathAttributes,
    _: AsnWidth,
    out: &mut Vec<u8>,
) -> bool {
    put_u32(attributes.local_pref, out)
}

// ATOMIC_AGGREGATE and AGGREGATOR, RFC 4271 §4.3 f and g, RFC 7606 §7.6 and §7.7.

pub(super) fn decode_atomic_aggregate(
    draft: &mut Draft<'_>,
    received: &Received<'_>,
    _: &ReceiveContext,
) -> Result<(), Flaw> {
    let [] = fixed(received, "0")?;
    draft.attributes.atomic_aggregate = true;
    Ok(())
}

pub(super) fn encode_atomic_aggregate(
    attributes: &PathAttributes,
    _: AsnWidth,
    _: &mut Vec<u8>,
) -> bool {
    attributes.atomic_aggregate
}

pub(super) fn decode_aggregator(
    draft: &mut Draft<'_>,
    received: &Received<'_>,
    context: &ReceiveContext,
) -> Result<(), Flaw> {
    let aggregator = match context.asn_width {
        AsnWidth::Two => {
            let [high, low, a, b, c, d] = fixed(received, "6")?;
            let asn = Asn(u32::from(u16::from_be_bytes([high, low])));
            aggregator(asn, [a, b, c, d])
        }
        AsnWidth::Four => wide_aggregator(received),
    }?;
    draft.attributes.aggregator = Some(aggregator);
    Ok(())
}

pub(super) fn encode_aggregator(
    attributes: &PathAttributes,
    width: AsnWidth,
    out: &mut Vec<u8>,
) -> bool {
    let Some(aggregator) = attributes.aggregator else {
        return false;
    };
    put_asn(aggregator.asn, width, out);
    out.extend_from_slice(&aggregator.router_id.0.octets());
    true
}

pub(super) fn decode_as4_aggregator(
    draft: &mut Draft<'_>,
    received: &Received<'_>,
    _: &ReceiveContext,
) -> Result<(), Flaw> {
    draft.as4_aggregator = Some(wide_aggregator(received)?);
    Ok(())
}

/// Sent only when the AS number needs four octets (RFC 6793 §4.2.2).
pub(super) fn encode_as4_aggregator(
    attributes: &PathAttributes,
    width: AsnWidth,
    out: &mut Vec<u8>,
) -> bool {
    let lost = attributes
        .aggregator
        .is_some_and(|aggregator| needs_four_octets(aggregator.asn));
    width == AsnWidth::Two && lost && encode_aggregator(attributes, AsnWidth::Four, out)
}

fn wide_aggregator(received: &Received<'_>) -> Result<Aggregator, Reason> {
    let [e, f, g, h, a, b, c, d] = fixed(received, "8")?;
    aggregator(Asn(u32::from_be_bytes([e, f, g, h])), [a, b, c, d])
}

fn aggregator(asn: Asn, router_id: [u8; 4]) -> Result<Aggregator, Reason> {
    if asn == Asn(0) {
        return Err(Reason::AsZero);
    }
    Ok(Aggregator {
        asn,
        router_id: RouterId(Ipv4Addr::from(router_id)),
    })
}

// COMMUNITIES, RFC 1997, RFC 7606 §7.8.

pub(super) fn decode_communities(
    draft: &mut Draft<'_>,
    received: &Received<'_>,
    _: &ReceiveContext,
) -> Result<(), Flaw> {
    let chunks = list::<4>(received, "a non-zero multiple of 4")?;
    draft.attributes.communities = chunks
        .iter()
        .map(|chunk| Community(u32::from_be_bytes(*chunk)))
        .collect();
    Ok(())
}

pub(super) fn encode_communities(
    attributes: &PathAttributes,
    _: AsnWidth,
    out: &mut Vec<u8>,
) -> bool {
    for community in &attributes.communities {
        out.extend_from_slice(&community.0.to_be_bytes());
    }
    !attributes.communities.is_empty()
}

// ORIGINATOR_ID and CLUSTER_LIST, RFC 4456 §8, RFC 7606 §7.9 and §7.10.

pub(super) fn decode_originator_id(
    draft: &mut Draft<'_>,
    received: &Received<'_>,
    _: &ReceiveContext,
) -> Result<(), Flaw> {
    let id = Ipv4Addr::from(fixed::<4>(received, "4")?);
    draft.attributes.originator_id = Some(RouterId(id));
    Ok(())
}

pub(super) fn encode_originator_id(
    attributes: &PathAttributes,
    _: AsnWidth,
    out: &mut Vec<u8>,
) -> bool {
    put_u32(attributes.originator_id.map(|id| id.0.to_bits()), out)
}

pub(super) fn decode_cluster_list(
    draft: &mut Draft<'_>,
    received: &Received<'_>,
    _: &ReceiveContext,
) -> Result<(), Flaw> {
    let chunks = list::<4>(received, "a non-zero multiple of 4")?;
    draft.attributes.cluster_list = chunks.iter().copied().map(Ipv4Addr::from).collect();
    Ok(())
}

pub(super) fn encode_cluster_list(
    attributes: &PathAttributes,
    _: AsnWidth,
    out: &mut Vec<u8>,
) -> bool {
    for cluster in &attributes.cluster_list {
        out.extend_from_slice(&cluster.octets());
    }
    !attributes.cluster_list.is_empty()
}

// EXTENDED COMMUNITIES, RFC 4360, RFC 5701, RFC 7606 §7.14 and §7.15.

pub(super) fn decode_extended_communities(
    draft: &mut Draft<'_>,
    received: &Received<'_>,
    _: &ReceiveContext,
) -> Result<(), Flaw> {
    let chunks = list::<8>(received, "a non-zero multiple of 8")?;
    draft.attributes.extended_communities = chunks.iter().copied().map(ExtendedCommunity).collect();
    Ok(())
}

pub(super) fn encode_extended_communities(
    attributes: &PathAttributes,
    _: AsnWidth,
    out: &mut Vec<u8>,
) -> bool {
    for community in &attributes.extended_communities {
        out.extend_from_slice(&community.0);
    }
    !attributes.extended_communities.is_empty()
}

pub(super) fn decode_ipv6_extended_communities(
    draft: &mut Draft<'_>,
    received: &Received<'_>,
    _: &ReceiveContext,
) -> Result<(), Flaw> {
    list::<20>(received, "a non-zero multiple of 20")?;
    keep(draft, received);
    Ok(())
}

// LARGE_COMMUNITY, RFC 8092 §3, §5, §6.

pub(super) fn decode_large_communities(
    draft: &mut Draft<'_>,
    received: &Received<'_>,
    _: &ReceiveContext,
) -> Result<(), Flaw> {
    let chunks = list::<12>(received, "a non-zero multiple of 12")?;
    let mut communities: Vec<LargeCommunity> = Vec::with_capacity(chunks.len());
    for [a, b, c, d, e, f, g, h, i, j, k, l] in chunks.iter().copied() {
        communities.push(LargeCommunity {
            global: u32::from_be_bytes([a, b, c, d]),
            local1: u32::from_be_bytes([e, f, g, h]),
            local2: u32::from_be_bytes([i, j, k, l]),
        });
    }
    // Through a set: a message of 65535 octets holds thousands, and comparing all pairs would be the sender's weapon.
    let mut seen = std::collections::BTreeSet::new();
    communities.retain(|community| seen.insert(*community));
    draft.attributes.large_communities = communities.into();
    Ok(())
}

pub(super) fn encode_large_communities(
    attributes: &PathAttributes,
    _: AsnWidth,
    out: &mut Vec<u8>,
) -> bool {
    for community in &attributes.large_communities {
        for part in [community.global, community.local1, community.local2] {
            out.extend_from_slice(&part.to_be_bytes());
        }
    }
    !attributes.large_communities.is_empty()
}

// OTC, RFC 9234 §5.

pub(super) fn decode_otc(
    draft: &mut Draft<'_>,
    received: &Received<'_>,
    _: &ReceiveContext,
) -> Result<(), Flaw> {
    fixed::<4>(received, "4")?;
    keep(draft, received);
    Ok(())
}

// ATTR_SET, RFC 6368 §5, RFC 7606 §7.16: an origin AS, then attributes that are the customer's business.

pub(super) fn decode_attr_set(
    draft: &mut Draft<'_>,
    received: &Received<'_>,
    _: &ReceiveContext,
) -> Result<(), Flaw> {
    let found = received.value.len();
    let mut reader = Reader::new(received.value);
    let allowed = "at least 4";
    reader
        .u32()
        .map_err(|_| Reason::Length { found, allowed })?;
    keep(draft, received);
    Ok(())
}

/// Keeps an attribute whose value is not looked at further.
fn keep(draft: &mut Draft<'_>, received: &Received<'_>) {
    draft.unknown.push(RawAttribute {
        flags: received.flags & (table::OPTIONAL | table::TRANSITIVE | table::PARTIAL),
        code: received.code,
        value: received.value.into(),
    });
}

/// The value as exactly `N` octets.
fn fixed<const N: usize>(
    received: &Received<'_>,
    allowed: &'static str,
) -> Result<[u8; N], Reason> {
    let found = received.value.len();
    received
        .value
        .try_into()
        .map_err(|_| Reason::Length { found, allowed })
}

/// The value as entries of `N` octets, at least one.
fn list<'a, const N: usize>(
    received: &Received<'a>,
    allowed: &'static str,
) -> Result<&'a [[u8; N]], Reason> {
    let found = received.value.len();
    match received.value.as_chunks::<N>() {
        (chunks @ [_, ..], []) => Ok(chunks),
        _ => Err(Reason::Length { found, allowed }),
    }
}

fn put_u32(value: Option<u32>, out: &mut Vec<u8>) -> bool {
    out.extend(value.iter().flat_map(|value| value.to_be_bytes()));
    value.is_some()
}

/// Appends an AS number; one that needs four octets is AS_TRANS in two.
pub(super) fn put_asn(asn: Asn, width: AsnWidth, out: &mut Vec<u8>) {
    match width {
        AsnWidth::Two => {
            let short = u16::try_from(asn.0).unwrap_or(23456);
            out.extend_from_slice(&short.to_be_bytes());
        }
        AsnWidth::Four => out.extend_from_slice(&asn.0.to_be_bytes()),
    }
}

fn needs_four_octets(asn: Asn) -> bool {
    u16::try_from(asn.0).is_err()
}
