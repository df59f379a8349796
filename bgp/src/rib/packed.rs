//! Attribute sets as the table keeps them: one run of octets each, which is what is hashed, compared and counted.
//!
//! ```text
//! +--------+----------+-----+------------+---------------+------------+---------+-----------------------+---------+
//! |  bits  | next hop | MED | LOCAL_PREF | ORIGINATOR_ID | AGGREGATOR | AS_PATH | lists, in fixed order | Partial |
//! +--------+----------+-----+------------+---------------+------------+---------+-----------------------+---------+
//! ```
//! The bits tell what is there. AS_PATH and each list have their octets counted in front. Equal sets are equal octets.
//! A set of a few attributes takes 30 to 40 octets; the decoded form takes 168 without its allocations.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::types::{Asn, RouterId};
use crate::wire::attr::as_path::{AsPath, PathOctets};
use crate::wire::attr::community::{Community, ExtendedCommunity, LargeCommunity};
use crate::wire::attr::{
    Aggregator, AttributeCode, NextHop, Origin, Partial, PathAttributes, RawAttribute,
};

const ORIGIN: u16 = 0b11;
const ATOMIC_AGGREGATE: u16 = 1 << 2;
const MED: u16 = 1 << 3;
const LOCAL_PREF: u16 = 1 << 4;
const AGGREGATOR: u16 = 1 << 5;
const ORIGINATOR_ID: u16 = 1 << 6;
const NEXT_HOP_V4: u16 = 1 << 7;
const NEXT_HOP_V6: u16 = 1 << 8;
const LINK_LOCAL: u16 = 1 << 9;
const COMMUNITIES: u16 = 1 << 10;
const CLUSTER_LIST: u16 = 1 << 11;
const EXTENDED_COMMUNITIES: u16 = 1 << 12;
const LARGE_COMMUNITIES: u16 = 1 << 13;
const UNKNOWN: u16 = 1 << 14;
const PARTIAL: u16 = 1 << 15;

/// Appends a set.
pub(crate) fn pack(attributes: &PathAttributes, out: &mut Vec<u8>) {
    let start = out.len();
    let mut bits = u16::from(attributes.origin.code());
    out.extend_from_slice(&[0, 0]);
    if attributes.atomic_aggregate {
        bits |= ATOMIC_AGGREGATE;
    }
    match attributes.next_hop {
        None => {}
        Some(NextHop::V4(address)) => {
            bits |= NEXT_HOP_V4;
            out.extend_from_slice(&address.octets());
        }
        Some(NextHop::V6 { global, link_local }) => {
            bits |= NEXT_HOP_V6;
            out.extend_from_slice(&global.octets());
            if let Some(link_local) = link_local {
                bits |= LINK_LOCAL;
                out.extend_from_slice(&link_local.octets());
            }
        }
    }
    let originator_id = attributes.originator_id.map(|id| id.0.to_bits());
    for (bit, value) in [
        (MED, attributes.med),
        (LOCAL_PREF, attributes.local_pref),
        (ORIGINATOR_ID, originator_id),
    ] {
        if let Some(value) = value {
            bits |= bit;
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
    if let Some(aggregator) = attributes.aggregator {
        bits |= AGGREGATOR;
        out.extend_from_slice(&aggregator.asn.0.to_be_bytes());
        out.extend_from_slice(&aggregator.router_id.0.octets());
    }
    let as_path = attributes.as_path.octets();
    put_length(out, as_path.len());
    out.extend_from_slice(as_path);
    bits |= put_lists(attributes, out);
    if attributes.partial != Partial::default() {
        bits |= PARTIAL;
        out.push(attributes.partial.bits());
    }
    out[start..start + 2].copy_from_slice(&bits.to_be_bytes());
}

fn put_lists(attributes: &PathAttributes, out: &mut Vec<u8>) -> u16 {
    let mut bits = 0;
    let mut list = |bit: u16, length: usize, out: &mut Vec<u8>| {
        if length > 0 {
            bits |= bit;
            put_length(out, length);
        }
    };
    list(COMMUNITIES, 4 * attributes.communities.len(), out);
    for community in &attributes.communities {
        out.extend_from_slice(&community.0.to_be_bytes());
    }
    list(CLUSTER_LIST, 4 * attributes.cluster_list.len(), out);
    for cluster in &attributes.cluster_list {
        out.extend_from_slice(&cluster.octets());
    }
    let extended = &attributes.extended_communities;
    list(EXTENDED_COMMUNITIES, 8 * extended.len(), out);
    for community in extended {
        out.extend_from_slice(&community.0);
    }
    let large = &attributes.large_communities;
    list(LARGE_COMMUNITIES, 12 * large.len(), out);
    for community in large {
        for part in [community.global, community.local1, community.local2] {
            out.extend_from_slice(&part.to_be_bytes());
        }
    }
    let unknown = &attributes.unknown;
    let length = |raw: &RawAttribute| 2 + length_octets(raw.value.len()) + raw.value.len();
    list(UNKNOWN, unknown.iter().map(length).sum(), out);
    for raw in unknown {
        out.extend_from_slice(&[raw.flags, raw.code.0]);
        put_length(out, raw.value.len());
        out.extend_from_slice(&raw.value);
    }
    bits
}

const fn length_octets(length: usize) -> usize {
    if length < 0xff { 1 } else { 5 }
}

/// One octet, or 255 and four more.
fn put_length(out: &mut Vec<u8>, length: usize) {
    match u8::try_from(length) {
        Ok(short) if short < 0xff => out.push(short),
        Ok(_) | Err(_) => {
            out.push(0xff);
            let long = u32::try_from(length).expect("attributes come in messages of 64 KiB");
            out.extend_from_slice(&long.to_be_bytes());
        }
    }
}

/// A packed set, taken apart without allocating.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PackedAttributes<'a> {
    bits: u16,
    pub(crate) next_hop: Option<NextHop>,
    pub(crate) med: Option<u32>,
    pub(crate) local_pref: Option<u32>,
    pub(crate) originator_id: Option<RouterId>,
    aggregator: &'a [u8],
    pub(crate) as_path: PathOctets<'a>,
    communities: &'a [u8],
    cluster_list: &'a [u8],
    extended_communities: &'a [u8],
    large_communities: &'a [u8],
    unknown: &'a [u8],
    partial: Partial,
}

impl<'a> PackedAttributes<'a> {
    /// Takes apart what [`pack`] wrote.
    pub(crate) fn new(octets: &'a [u8]) -> Self {
        let mut cursor = Cursor(octets);
        let bits = u16::from_be_bytes(cursor.array());
        let next_hop = next_hop_at(bits, &mut cursor);
        let mut number = |bit| (bits & bit != 0).then(|| u32::from_be_bytes(cursor.array()));
        let (med, local_pref) = (number(MED), number(LOCAL_PREF));
        let originator_id = number(ORIGINATOR_ID).map(|id| RouterId(Ipv4Addr::from_bits(id)));
        let aggregator = cursor.take(if bits & AGGREGATOR == 0 { 0 } else { 8 });
        let as_path = PathOctets(cursor.counted());
        let mut list = |bit| {
            if bits & bit == 0 {
                &[]
            } else {
                cursor.counted()
            }
        };
        let [
            communities,
            cluster_list,
            extended_communities,
            large_communities,
            unknown,
        ] = [
            COMMUNITIES,
            CLUSTER_LIST,
            EXTENDED_COMMUNITIES,
            LARGE_COMMUNITIES,
            UNKNOWN,
        ]
        .map(&mut list);
        let partial = match bits & PARTIAL {
            0 => 0,
            _ => u8::from_be_bytes(cursor.array()),
        };
        Self {
            bits,
            next_hop,
            med,
            local_pref,
            originator_id,
            aggregator,
            as_path,
            communities,
            cluster_list,
            extended_communities,
            large_communities,
            unknown,
            partial: Partial::from_bits(partial),
        }
    }

    /// ORIGIN's octet.
    pub(crate) fn origin_code(&self) -> u8 {
        u8::try_from(self.bits & ORIGIN).expect("two bits")
    }

    /// Clusters in CLUSTER_LIST.
    pub(crate) const fn cluster_list_length(&self) -> usize {
        self.cluster_list.len() / 4
    }

    /// The decoded set.
    pub(crate) fn unpack(&self) -> PathAttributes {
        let aggregator = (!self.aggregator.is_empty()).then(|| {
            let mut cursor = Cursor(self.aggregator);
            Aggregator {
                asn: Asn(u32::from_be_bytes(cursor.array())),
                router_id: RouterId(cursor.array::<4>().into()),
            }
        });
        PathAttributes {
            origin: Origin::from_code(self.origin_code()).expect("packed from an origin"),
            as_path: AsPath::from_octets(self.as_path),
            next_hop: self.next_hop,
            med: self.med,
            local_pref: self.local_pref,
            atomic_aggregate: self.bits & ATOMIC_AGGREGATE != 0,
            aggregator,
            communities: entries(self.communities, |octets| {
                Community(u32::from_be_bytes(octets))
            }),
            originator_id: self.originator_id,
            cluster_list: entries(self.cluster_list, Ipv4Addr::from_octets),
            extended_communities: entries(self.extended_communities, ExtendedCommunity),
            large_communities: entries(self.large_communities, |octets: [u8; 12]| {
                let mut cursor = Cursor(&octets);
                let mut part = || u32::from_be_bytes(cursor.array());
                LargeCommunity {
                    global: part(),
                    local1: part(),
                    local2: part(),
                }
            }),
            unknown: unknown(self.unknown),
            partial: self.partial,
        }
    }
}

/// The next hop of a packed set.
pub(crate) fn next_hop(octets: &[u8]) -> Option<NextHop> {
    let mut cursor = Cursor(octets);
    let bits = u16::from_be_bytes(cursor.array());
    next_hop_at(bits, &mut cursor)
}

fn next_hop_at(bits: u16, cursor: &mut Cursor<'_>) -> Option<NextHop> {
    if bits & NEXT_HOP_V4 != 0 {
        return Some(NextHop::V4(Ipv4Addr::from_octets(cursor.array())));
    }
    (bits & NEXT_HOP_V6 != 0).then(|| NextHop::V6 {
        global: Ipv6Addr::from_octets(cursor.array()),
        link_local: (bits & LINK_LOCAL != 0).then(|| Ipv6Addr::from_octets(cursor.array())),
    })
}

fn entries<T, const N: usize>(octets: &[u8], entry: impl Fn([u8; N]) -> T) -> Box<[T]> {
    octets
        .as_chunks::<N>()
        .0
        .iter()
        .copied()
        .map(entry)
        .collect()
}

fn unknown(octets: &[u8]) -> Box<[RawAttribute]> {
    let mut cursor = Cursor(octets);
    let mut all = Vec::new();
    while !cursor.0.is_empty() {
        let [flags, code] = cursor.array();
        all.push(RawAttribute {
            flags,
            code: AttributeCode(code),
            value: cursor.counted().into(),
        });
    }
    all.into()
}

/// Reads what this module wrote; anything else is a fault of ours.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_first_chunk().expect("packed sets are whole");
        self.0 = rest;
        *taken
    }

    fn counted(&mut self) -> &'a [u8] {
        let [short] = self.array();
        let length = match short {
            0xff => u32::from_be_bytes(self.array()) as usize,
            short => usize::from(short),
        };
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn next_hop_strategy() -> impl Strategy<Value = Option<NextHop>> {
        let v6 = (any::<Ipv6Addr>(), any::<Option<Ipv6Addr>>());
        prop_oneof![
            Just(None),
            any::<Ipv4Addr>().prop_map(|address| Some(NextHop::V4(address))),
            v6.prop_map(|(global, link_local)| Some(NextHop::V6 { global, link_local })),
        ]
    }

    fn list<T: std::fmt::Debug>(
        entry: impl Strategy<Value = T>,
    ) -> impl Strategy<Value = Box<[T]>> {
        prop::collection::vec(entry, 0..4).prop_map(Into::into)
    }

    fn lists(base: PathAttributes) -> impl Strategy<Value = PathAttributes> {
        let large = any::<[u32; 3]>().prop_map(|[global, local1, local2]| LargeCommunity {
            global,
            local1,
            local2,
        });
        let raw = (any::<u8>(), any::<u8>(), 0..300usize).prop_map(|(flags, code, length)| {
            RawAttribute {
                flags,
                code: AttributeCode(code),
                value: vec![code; length].into(),
            }
        });
        (
            list(any::<u32>().prop_map(Community)),
            list(any::<Ipv4Addr>()),
            list(any::<[u8; 8]>().prop_map(ExtendedCommunity)),
            list(large),
            list(raw),
        )
            .prop_map(
                move |(communities, cluster_list, extended, large_communities, unknown)| {
                    PathAttributes {
                        communities,
                        cluster_list,
                        extended_communities: extended,
                        large_communities,
                        unknown,
                        ..base.clone()
                    }
                },
            )
    }

    fn attributes() -> impl Strategy<Value = PathAttributes> {
        (
            (0..3u8, any::<bool>(), next_hop_strategy(), 0..16u8),
            any::<(Option<u32>, Option<u32>, Option<Ipv4Addr>)>(),
            any::<Option<(u32, Ipv4Addr)>>(),
            prop::collection::vec(1..u32::MAX, 0..80),
        )
            .prop_map(
                |((origin, atomic_aggregate, next_hop, bits), (med, local_pref, id), by, path)| {
                    let path: Vec<Asn> = path.into_iter().map(Asn).collect();
                    PathAttributes {
                        origin: Origin::from_code(origin).expect("below 3"),
                        as_path: AsPath::sequence(&path),
                        next_hop,
                        med,
                        local_pref,
                        atomic_aggregate,
                        aggregator: by.map(|(asn, id)| Aggregator {
                            asn: Asn(asn),
                            router_id: RouterId(id),
                        }),
                        originator_id: id.map(RouterId),
                        partial: Partial::from_bits(bits),
                        ..PathAttributes::default()
                    }
                },
            )
            .prop_flat_map(lists)
    }

    proptest! {
        #[test]
        fn what_was_packed_is_unpacked(attributes in attributes()) {
            let mut octets = Vec::new();
            pack(&attributes, &mut octets);
            let packed = PackedAttributes::new(&octets);
            prop_assert_eq!(packed.unpack(), attributes.clone());
            prop_assert_eq!(next_hop(&octets), attributes.next_hop);
            prop_assert_eq!(packed.as_path.length(), attributes.as_path.length());
            prop_assert_eq!(packed.as_path.first_as(), attributes.as_path.first_as());
            prop_assert_eq!(packed.cluster_list_length(), attributes.cluster_list.len());
        }
    }
}
