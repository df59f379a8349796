//! UPDATEs that are in order, and the limits of those we write.

use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{attribute, context, encoded, messages, update_body};
use crate::types::{AfiSafi, Asn, RouterId};
use crate::wire::attr::as_path::{AsPath, SegmentKind};
use crate::wire::attr::{Aggregator, AsnWidth, AttributeCode, NextHop, PathAttributes};
use crate::wire::update::encode::{AttributesTooLong, MessageLimit, write_reach, write_unreach};
use crate::wire::update::{PeerKind, Reason, Update, decode_update};

const ORIGIN: [u8; 4] = [0x40, 1, 1, 0];
const PATH: [u8; 9] = [0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe9];
const NEXT_HOP: [u8; 7] = [0x40, 3, 4, 10, 0, 0, 1];

fn decode(body: &Bytes) -> Update {
    decode_update(body, &context(PeerKind::Ebgp, 65001)).expect("the session stays up")
}

fn v4(count: u32) -> impl Iterator<Item = IpNet> {
    (0..count).map(|index| {
        let address = Ipv4Addr::from_bits(0x0a00_0000 | (index << 8));
        IpNet::V4(Ipv4Net::new_assert(address, 24))
    })
}

fn v6(count: u16) -> impl Iterator<Item = IpNet> {
    (0..count).map(|index| {
        let address = Ipv6Addr::new(0x2001, 0xdb8, index, 0, 0, 0, 0, 1);
        IpNet::V6(Ipv6Net::new_assert(address, 128))
    })
}

#[test]
fn host_bits_of_a_received_prefix_are_cleared() {
    let attributes = [ORIGIN.to_vec(), PATH.to_vec(), NEXT_HOP.to_vec()];
    let update = decode(&update_body(&[], &attributes, &[9, 10, 255, 0]));
    let prefixes: Vec<String> = update.reach[0]
        .nlri
        .iter()
        .map(|net| net.to_string())
        .collect();
    assert_eq!(prefixes, ["10.128.0.0/9", "0.0.0.0/0"]);
}

#[test]
fn prefixes_that_are_not_unicast_are_ignored_alone() {
    let attributes = [ORIGIN.to_vec(), PATH.to_vec(), NEXT_HOP.to_vec()];
    let update = decode(&update_body(
        &[],
        &attributes,
        &[8, 224, 16, 172, 16, 3, 0xe0, 8, 239],
    ));
    let prefixes: Vec<String> = update.reach[0]
        .nlri
        .iter()
        .map(|net| net.to_string())
        .collect();
    assert_eq!(prefixes, ["172.16.0.0/16", "224.0.0.0/3"]);
    let first = "224.0.0.0/8".parse().expect("a prefix");
    let reason = Reason::NotUnicast { first, others: 1 };
    assert_eq!(update.faults[0].reason, reason);
}

#[test]
fn routes_of_families_that_were_not_negotiated_are_ignored() {
    let mut context = context(PeerKind::Ebgp, 65001);
    context.families.remove(&AfiSafi::Ipv4Unicast);
    let vpn = attribute(0x80, 14, &[0, 1, 128, 4, 10, 0, 0, 1, 0, 99]);
    let attributes = [vpn, ORIGIN.to_vec(), PATH.to_vec(), NEXT_HOP.to_vec()];
    let body = update_body(&[8, 10], &attributes, &[8, 11]);
    let update = decode_update(&body, &context).expect("the session stays up");
    assert!(update.reach.is_empty() && update.unreach.is_empty());
    let shown: Vec<String> = update.faults.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "MP_REACH_NLRI: AFI 1 SAFI 128 was not negotiated: ignored",
            "IPv4 unicast was not negotiated: ignored",
            "IPv4 unicast was not negotiated: ignored",
        ]
    );
}

#[test]
fn one_update_may_carry_both_families_with_their_own_next_hops() {
    let mut value = vec![0, 2, 1, 32];
    let global = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    let local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    value.extend(global.octets());
    value.extend(local.octets());
    value.extend([0, 16, 0x20, 1]);
    let attributes = [
        attribute(0x80, 14, &value),
        ORIGIN.to_vec(),
        PATH.to_vec(),
        NEXT_HOP.to_vec(),
    ];
    let update = decode(&update_body(&[8, 12], &attributes, &[8, 11]));
    let next_hops: Vec<NextHop> = update.reach.iter().map(|reach| reach.next_hop).collect();
    let link_local = Some(local);
    assert_eq!(
        next_hops,
        [
            NextHop::V6 { global, link_local },
            NextHop::V4(Ipv4Addr::new(10, 0, 0, 1)),
        ]
    );
    assert_eq!(update.unreach.len(), 1);
}

#[test]
fn unknown_attributes_are_kept_as_partial_when_transitive_and_dropped_when_not() {
    let attributes = [
        ORIGIN.to_vec(),
        PATH.to_vec(),
        NEXT_HOP.to_vec(),
        attribute(0xc0, 200, &[2]),
        attribute(0xc0, 99, &[0, 0, 0, 1]),
        attribute(0x80, 26, &[3]),
    ];
    let update = decode(&update_body(&[], &attributes, &[8, 11]));
    assert!(update.faults.is_empty());
    let unknown = update.attributes.expect("announced").unknown;
    let codes: Vec<AttributeCode> = unknown.iter().map(|raw| raw.code).collect();
    assert_eq!(codes, [AttributeCode(99), AttributeCode(200)]);
    assert!(unknown.iter().all(|raw| raw.flags == 0xe0));
}

#[test]
fn attributes_are_written_by_rising_code() {
    let attributes = PathAttributes {
        next_hop: Some(NextHop::V4(Ipv4Addr::new(10, 0, 0, 1))),
        med: Some(1),
        local_pref: Some(2),
        unknown: [35_u8, 200]
            .map(|code| crate::wire::attr::RawAttribute {
                flags: 0xe0,
                code: AttributeCode(code),
                value: Box::new([1]),
            })
            .into(),
        large_communities: ["1:2:3", "1:2:4"]
            .map(|text| text.parse().expect("a large community"))
            .into(),
        ..PathAttributes::default()
    };
    let block = encoded(&attributes, AsnWidth::Four);
    let mut codes = Vec::new();
    let mut rest = block.as_slice();
    while let [_, code, length, after @ ..] = rest {
        codes.push(*code);
        rest = &after[usize::from(*length)..];
    }
    assert_eq!(codes, [1, 2, 3, 4, 5, 32, 35, 200]);
}

#[test]
fn messages_are_filled_to_within_one_prefix_of_their_limit() {
    for (limit, octets) in [
        (MessageLimit::Standard, 4096),
        (MessageLimit::Extended, 65535),
    ] {
        for next_hop in [
            NextHop::V4(Ipv4Addr::new(10, 0, 0, 1)),
            NextHop::from(std::net::IpAddr::V6(
                "2001:db8::1".parse().expect("an address"),
            )),
        ] {
            let attributes = PathAttributes {
                as_path: AsPath::sequence(&[Asn(65001)]),
                next_hop: Some(next_hop),
                ..PathAttributes::default()
            };
            let block = encoded(&attributes, AsnWidth::Four);
            let prefixes: Box<dyn Iterator<Item = IpNet>> = match next_hop {
                NextHop::V4(_) => Box::new(v4(40_000)),
                NextHop::V6 { .. } => Box::new(v6(10_000)),
            };
            let mut prefixes = prefixes.peekable();
            let mut total = 0;
            let mut sizes = Vec::new();
            loop {
                let mut out = Vec::new();
                let count = write_reach(&mut out, &block, &next_hop, &mut prefixes, limit)
                    .expect("room for prefixes");
                if count == 0 {
                    assert!(out.is_empty());
                    break;
                }
                let update = decode(&messages(&out)[0].body);
                assert_eq!(update.faults, []);
                assert_eq!(update.reach[0].nlri.iter().count(), count);
                sizes.push(out.len());
                total += count;
            }
            let expected = match next_hop {
                NextHop::V4(_) => 40_000,
                NextHop::V6 { .. } => 10_000,
            };
            assert_eq!(total, expected);
            sizes.pop();
            assert!(
                sizes
                    .iter()
                    .all(|size| (octets - 17..=octets).contains(size)),
                "{sizes:?}"
            );
        }
    }
}

#[test]
fn withdrawals_are_filled_alike() {
    let mut out = Vec::new();
    let mut prefixes = v4(3000).peekable();
    let mut counts = Vec::new();
    loop {
        let count = write_unreach(
            &mut out,
            AfiSafi::Ipv4Unicast,
            &mut prefixes,
            MessageLimit::Standard,
        );
        if count == 0 {
            break;
        }
        counts.push(count);
    }
    assert_eq!(counts.iter().sum::<usize>(), 3000);
    assert_eq!(counts.len(), 3);
    let received: Vec<IpNet> = messages(&out)
        .iter()
        .flat_map(|message| decode(&message.body).unreach)
        .flat_map(|nlri| nlri.iter().collect::<Vec<_>>())
        .collect();
    assert_eq!(received, v4(3000).collect::<Vec<_>>());
}

#[test]
fn ipv4_prefixes_with_an_ipv6_next_hop_stand_in_mp_reach() {
    let global: Ipv6Addr = "2001:db8::1".parse().expect("an address");
    let next_hop = NextHop::from(std::net::IpAddr::V6(global));
    let attributes = PathAttributes {
        next_hop: Some(next_hop),
        ..PathAttributes::default()
    };
    let block = encoded(&attributes, AsnWidth::Four);
    let mut out = Vec::new();
    let limit = MessageLimit::Standard;
    let count = write_reach(&mut out, &block, &next_hop, &mut v4(1).peekable(), limit);
    assert_eq!(count, Ok(1));
    let body = &out[19..];
    // Optional, extended length; AFI 1, SAFI 1, 16 octets of next hop (RFC 8950 §3).
    assert_eq!(body[4..12], [0x90, 14, 0, 25, 0, 1, 1, 16]);
    assert_eq!(body[12..28], global.octets());
    assert_eq!(body[28..30], [0, 24]);
    assert!(out.ends_with(&block), "no NLRI field");
}

#[test]
fn attributes_that_leave_no_room_are_refused_and_take_nothing() {
    let block = vec![0; 4070];
    let next_hop = NextHop::V4(Ipv4Addr::new(10, 0, 0, 1));
    let mut prefixes = v4(1).peekable();
    let mut out = Vec::new();
    let limit = MessageLimit::Standard;
    let refused = write_reach(&mut out, &block, &next_hop, &mut prefixes, limit);
    let (length, octets) = (4070, 4096);
    let expected = AttributesTooLong {
        length,
        limit: octets,
    };
    assert_eq!(refused, Err(expected));
    assert_eq!((out.len(), prefixes.peek().is_some()), (0, true));
    // Four octets are left: a /24 fills the message to the last one, a /25 does not fit.
    let fits = write_reach(&mut out, &block[1..], &next_hop, &mut prefixes, limit);
    assert_eq!((fits, out.len()), (Ok(1), 4096));
    let longer: IpNet = "10.0.0.128/25".parse().expect("a prefix");
    let shorter: IpNet = "10.0.0.0/8".parse().expect("a prefix");
    let mut both = [longer, shorter].into_iter().peekable();
    let refused = write_reach(&mut out, &block[1..], &next_hop, &mut both, limit);
    assert!(refused.is_err());
    assert_eq!(both.next(), Some(longer), "it was left to the caller");
    let fits = write_reach(&mut out, &block[1..], &next_hop, &mut both, limit);
    assert_eq!(fits, Ok(1));
}

#[test]
fn a_path_that_grows_beyond_every_message_when_widened_is_refused_and_nothing_panics() {
    let mut value = Vec::new();
    for _ in 0..120 {
        value.extend_from_slice(&[2, 255]);
        value.extend_from_slice(&[1; 510]);
    }
    let next_hop = NextHop::V4(Ipv4Addr::new(10, 0, 0, 1));
    let attributes = PathAttributes {
        as_path: AsPath::decode(&value, AsnWidth::Two).expect("valid"),
        next_hop: Some(next_hop),
        ..PathAttributes::default()
    };
    let block = encoded(&attributes, AsnWidth::Four);
    let limit = MessageLimit::Extended;
    assert!(
        write_reach(
            &mut Vec::new(),
            &block,
            &next_hop,
            &mut v4(1).peekable(),
            limit
        )
        .is_err()
    );
    let block = encoded(&attributes, AsnWidth::Two);
    assert!(
        write_reach(
            &mut Vec::new(),
            &block,
            &next_hop,
            &mut v4(1).peekable(),
            limit
        )
        .is_ok()
    );
}

#[test]
fn a_message_full_of_one_attribute_makes_one_fault() {
    let mut attributes = vec![ORIGIN.to_vec(), PATH.to_vec(), NEXT_HOP.to_vec()];
    attributes.extend((0..1000).map(|_| ORIGIN.to_vec()));
    let update = decode(&update_body(&[], &attributes, &[8, 11]));
    assert_eq!((update.faults.len(), update.reach.len()), (1, 1));
}

/// What a 2-octet peer's AS_PATH and AS4_PATH make.
fn merged(path: &[u8], as4_path: &[u8]) -> String {
    let path = AsPath::decode(path, AsnWidth::Two).expect("valid");
    let as4_path = AsPath::decode_as4(as4_path).expect("valid");
    path.merge_as4(&as4_path).to_string()
}

#[test]
fn as4_path_takes_the_place_of_the_end_of_as_path() {
    let as4 = [2, 2, 0, 1, 0, 0, 0, 0, 0, 7];
    assert_eq!(merged(&[2, 3, 0, 5, 0x5b, 0xa0, 0, 7], &as4), "5 65536 7");
    assert_eq!(merged(&[2, 2, 0x5b, 0xa0, 0, 7], &as4), "65536 7");
    // Longer than AS_PATH: something between us shortened that one, so it alone counts.
    assert_eq!(merged(&[2, 1, 0, 7], &as4), "7");
    // A set in front counts as one.
    let path = [1, 2, 0, 1, 0, 2, 2, 2, 0x5b, 0xa0, 0, 7];
    assert_eq!(merged(&path, &as4), "{1,2} 65536 7");
    let path = [1, 2, 0, 1, 0, 2, 2, 3, 0, 5, 0x5b, 0xa0, 0, 7];
    assert_eq!(merged(&path, &as4), "{1,2} 5 65536 7");
    // Segments of a confederation are not looked at.
    let confederation = [3, 1, 0, 0, 0, 9, 2, 1, 0, 1, 0, 0];
    assert_eq!(merged(&[2, 1, 0x5b, 0xa0], &confederation), "65536");
}

#[test]
fn a_2_octet_aggregator_that_is_not_as_trans_makes_as4_attributes_void() {
    let mut context = context(PeerKind::Ebgp, 5);
    context.asn_width = AsnWidth::Two;
    for (asn, path, aggregator) in [([0x5b, 0xa0], "5 65536", 70_000), ([0, 9], "5 23456", 9)] {
        let attributes = [
            ORIGIN.to_vec(),
            attribute(0x40, 2, &[2, 2, 0, 5, 0x5b, 0xa0]),
            NEXT_HOP.to_vec(),
            attribute(0xc0, 7, &[asn.as_slice(), &[10, 0, 0, 9]].concat()),
            attribute(0xc0, 17, &[2, 1, 0, 1, 0, 0]),
            attribute(0xc0, 18, &[0, 1, 0x11, 0x70, 10, 0, 0, 9]),
        ];
        let body = update_body(&[], &attributes, &[8, 11]);
        let update = decode_update(&body, &context).expect("valid");
        let received = update.attributes.expect("announced");
        assert_eq!(received.as_path.to_string(), path);
        let expected = Aggregator {
            asn: Asn(aggregator),
            router_id: RouterId(Ipv4Addr::new(10, 0, 0, 9)),
        };
        assert_eq!(received.aggregator, Some(expected));
    }
}

#[test]
fn a_path_knows_its_length_its_ends_and_its_loops() {
    let path = AsPath::from_segments([
        (SegmentKind::Sequence, [Asn(1), Asn(2), Asn(1)].as_slice()),
        (SegmentKind::Set, &[Asn(3), Asn(4)]),
    ]);
    assert_eq!(path.length(), 4);
    assert_eq!((path.first_as(), path.origin_as()), (Some(Asn(1)), None));
    assert_eq!(
        (path.occurrences(Asn(1)), path.contains(Asn(5))),
        (2, false)
    );
    assert_eq!(path.prepend(Asn(9), 2).to_string(), "9 9 1 2 1 {3,4}");
    assert_eq!(path.prepend(Asn(9), 254).segments().count(), 3);
    assert_eq!(
        AsPath::default().prepend(Asn(9), 1),
        AsPath::sequence(&[Asn(9)])
    );
}
