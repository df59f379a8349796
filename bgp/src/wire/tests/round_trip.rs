//! What is written is read back, and no octets make a decoder panic.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use bytes::Bytes;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::{context, encoded, messages};
use crate::types::{AfiSafi, Asn, PathId, RouterId};
use crate::wire::attr::as_path::{AsPath, SegmentKind};
use crate::wire::attr::community::{Community, ExtendedCommunity, LargeCommunity};
use crate::wire::attr::{
    Aggregator, AsnWidth, AttributeCode, NextHop, Origin, Partial, PathAttributes, RawAttribute,
};
use crate::wire::capability::{
    AddPathFamily, Capability, GracefulFamily, GracefulRestart, NextHopFamily,
};
use crate::wire::family::Family;
use crate::wire::framer::Framer;
use crate::wire::message::{Message, MessageType, RawMessage, write_keepalive};
use crate::wire::notification::Notification;
use crate::wire::open::Open;
use crate::wire::refresh::{RefreshKind, RouteRefresh};
use crate::wire::update::encode::{MessageLimit, write_reach, write_unreach};
use crate::wire::update::{FirstAsCheck, PeerKind, ReceiveContext, decode_update};

fn asn() -> impl Strategy<Value = Asn> {
    prop_oneof![1..=65535_u32, 65536..=u32::MAX].prop_map(Asn)
}

fn ipv4() -> impl Strategy<Value = Ipv4Addr> {
    any::<u32>().prop_map(Ipv4Addr::from_bits)
}

fn family() -> impl Strategy<Value = Family> {
    (any::<u16>(), any::<u8>()).prop_map(|(afi, safi)| Family { afi, safi })
}

fn capability() -> impl Strategy<Value = Capability> {
    let restart = (
        any::<bool>(),
        any::<bool>(),
        0..4096_u64,
        vec((family(), any::<bool>()), 0..4),
    )
        .prop_map(
            |(restarting, notification, seconds, families)| GracefulRestart {
                restarting,
                notification,
                time: Duration::from_secs(seconds),
                families: families
                    .into_iter()
                    .map(|(family, forwarding)| GracefulFamily { family, forwarding })
                    .collect(),
            },
        );
    prop_oneof![
        family().prop_map(Capability::Multiprotocol),
        Just(Capability::RouteRefresh),
        Just(Capability::ExtendedMessage),
        Just(Capability::EnhancedRouteRefresh),
        restart.prop_map(Capability::GracefulRestart),
        vec((family(), 1..4_u8), 0..4).prop_map(|families| {
            let entry = |(family, directions): (Family, u8)| AddPathFamily {
                family,
                receive: directions & 1 != 0,
                send: directions & 2 != 0,
            };
            Capability::AddPath(families.into_iter().map(entry).collect())
        }),
        vec((family(), any::<u16>()), 0..4).prop_map(|entries| {
            let entry = |(family, next_hop_afi)| NextHopFamily {
                family,
                next_hop_afi,
            };
            Capability::ExtendedNextHop(entries.into_iter().map(entry).collect())
        }),
        (71..=255_u8, vec(any::<u8>(), 0..60)).prop_map(|(code, value)| Capability::Unknown {
            code,
            value: value.into(),
        }),
    ]
}

fn open() -> impl Strategy<Value = Open> {
    let hold_time = prop_oneof![Just(0_u64), 3..=65535_u64].prop_map(Duration::from_secs);
    let identifier = (1..=u32::MAX).prop_map(|bits| RouterId(Ipv4Addr::from_bits(bits)));
    (asn(), hold_time, identifier, vec(capability(), 0..12)).prop_map(
        |(asn, hold_time, router_id, mut capabilities)| {
            capabilities.push(Capability::FourOctetAs(asn));
            Open {
                asn,
                hold_time,
                router_id,
                capabilities,
            }
        },
    )
}

fn as_path() -> impl Strategy<Value = AsPath> {
    let kind = prop_oneof![Just(SegmentKind::Set), Just(SegmentKind::Sequence)];
    vec((kind, vec(asn(), 1..6)), 0..4).prop_map(|segments| {
        let segments = segments.iter().map(|(kind, asns)| (*kind, asns.as_slice()));
        AsPath::from_segments(segments)
    })
}

fn large_communities() -> impl Strategy<Value = Box<[LargeCommunity]>> {
    proptest::collection::btree_set(any::<(u32, u32, u32)>(), 0..4).prop_map(|set| {
        set.into_iter()
            .map(|(global, local1, local2)| LargeCommunity {
                global,
                local1,
                local2,
            })
            .collect()
    })
}

fn unknown() -> impl Strategy<Value = Box<[RawAttribute]>> {
    proptest::collection::btree_map(129..=255_u8, vec(any::<u8>(), 0..300), 0..3).prop_map(|map| {
        map.into_iter()
            .map(|(code, value)| RawAttribute {
                flags: 0xe0,
                code: AttributeCode(code),
                value: value.into(),
            })
            .collect()
    })
}

fn attributes() -> impl Strategy<Value = PathAttributes> {
    let origin = prop_oneof![
        Just(Origin::Igp),
        Just(Origin::Egp),
        Just(Origin::Incomplete)
    ];
    let aggregator = (asn(), ipv4()).prop_map(|(asn, address)| Aggregator {
        asn,
        router_id: RouterId(address),
    });
    let first = (
        origin,
        as_path(),
        option::of(any::<u32>()),
        option::of(any::<u32>()),
        any::<bool>(),
        option::of(aggregator),
    );
    let second = (
        vec(any::<u32>().prop_map(Community), 0..5),
        option::of(ipv4().prop_map(RouterId)),
        vec(ipv4(), 0..4),
        vec(any::<[u8; 8]>().prop_map(ExtendedCommunity), 0..4),
        large_communities(),
        unknown(),
        any::<[bool; 4]>(),
    );
    (first, second).prop_map(
        |(
            (origin, as_path, med, local_pref, atomic_aggregate, aggregator),
            (communities, originator_id, clusters, extended, large_communities, unknown, marked),
        )| {
            let mut partial = Partial::default();
            let present = [
                (AttributeCode::AGGREGATOR, aggregator.is_some()),
                (AttributeCode::COMMUNITIES, !communities.is_empty()),
                (AttributeCode::EXTENDED_COMMUNITIES, !extended.is_empty()),
                (
                    AttributeCode::LARGE_COMMUNITY,
                    !large_communities.is_empty(),
                ),
            ];
            for ((code, is_present), is_marked) in present.into_iter().zip(marked) {
                if is_present && is_marked {
                    partial.insert(code);
                }
            }
            PathAttributes {
                origin,
                as_path,
                next_hop: None,
                med,
                local_pref,
                atomic_aggregate,
                aggregator,
                communities: communities.into(),
                originator_id,
                cluster_list: clusters.into(),
                extended_communities: extended.into(),
                large_communities,
                unknown,
                partial,
            }
        },
    )
}

fn routes() -> impl Strategy<Value = (NextHop, Vec<IpNet>)> {
    let v4_net = (0..0xe000_0000_u32, 0..=32_u8).prop_map(|(bits, length)| {
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from_bits(bits), length).trunc())
    });
    let v6_net = (0..(0xfe_u128 << 120), 0..=128_u8).prop_map(|(bits, length)| {
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from_bits(bits), length).trunc())
    });
    let v4_hop =
        (0x0100_0000..0x7f00_0000_u32).prop_map(|bits| NextHop::V4(Ipv4Addr::from_bits(bits)));
    let v6_hop = (1..u128::from(u64::MAX), any::<bool>()).prop_map(|(bits, local)| NextHop::V6 {
        global: Ipv6Addr::from_bits((0x2001_u128 << 112) | bits),
        link_local: local.then(|| Ipv6Addr::from_bits((0xfe80_u128 << 112) | bits)),
    });
    prop_oneof![
        (v4_hop, vec(v4_net.clone(), 1..100)),
        (v6_hop.clone(), vec(v6_net, 1..100)),
        // RFC 8950.
        (v6_hop, vec(v4_net, 1..100)),
    ]
}

fn two_octet(mut context: ReceiveContext) -> ReceiveContext {
    context.asn_width = AsnWidth::Two;
    context
}

/// Decodes the only message in `bytes`.
fn decode_only(bytes: &[u8], context: &ReceiveContext) -> Message {
    let raw = messages(bytes);
    assert_eq!(raw.len(), 1);
    Message::decode(&raw[0], context).expect("what we write is valid")
}

/// Some path identifier for a prefix.
fn path_id(prefix: IpNet) -> PathId {
    PathId(u32::from(prefix.prefix_len()) * 0x0101_0101)
}

proptest! {
    #[test]
    fn an_open_is_read_back(open in open()) {
        let mut bytes = Vec::new();
        open.encode(&mut bytes);
        let context = context(PeerKind::Ibgp, 1);
        prop_assert_eq!(decode_only(&bytes, &context), Message::Open(open));
    }

    #[test]
    fn a_notification_is_read_back(
        code in any::<u8>(),
        subcode in any::<u8>(),
        data in vec(any::<u8>(), 0..4075),
    ) {
        let notification = Notification::new(code, subcode, data);
        let mut bytes = Vec::new();
        notification.encode(&mut bytes);
        let context = context(PeerKind::Ibgp, 1);
        prop_assert_eq!(decode_only(&bytes, &context), Message::Notification(notification));
    }

    #[test]
    fn keepalive_and_route_refresh_are_read_back(family in family(), subtype in 0..3_u8) {
        let kinds = [RefreshKind::Request, RefreshKind::Begin, RefreshKind::End];
        let kind = kinds[usize::from(subtype)];
        let refresh = RouteRefresh { family, kind };
        let mut bytes = Vec::new();
        refresh.encode(&mut bytes);
        let context = context(PeerKind::Ibgp, 1);
        prop_assert_eq!(decode_only(&bytes, &context), Message::RouteRefresh(refresh));
        let mut bytes = Vec::new();
        write_keepalive(&mut bytes);
        prop_assert_eq!(decode_only(&bytes, &context), Message::Keepalive);
    }

    #[test]
    fn routes_are_read_back_in_both_widths_of_as_numbers(
        attributes in attributes(),
        (next_hop, prefixes) in routes(),
        narrow in any::<bool>(),
        with_ids in any::<bool>(),
    ) {
        let mut context = context(PeerKind::Ibgp, 1);
        if narrow {
            context = two_octet(context);
        }
        let mut sent = attributes.clone();
        sent.next_hop = Some(next_hop);
        let block = encoded(&sent, context.asn_width);
        let mut bytes = Vec::new();
        let family = AfiSafi::of(prefixes[0]);
        context.ipv6_next_hops = next_hop.family() != family;
        context.add_paths.extend(with_ids.then_some(family));
        let entries = |prefix: &IpNet| (with_ids.then(|| path_id(*prefix)), *prefix);
        let mut left = prefixes.iter().map(entries).peekable();
        let count = write_reach(&mut bytes, &block, &next_hop, &mut left, MessageLimit::Extended)
            .expect("room for prefixes");
        prop_assert_eq!(count, prefixes.len());
        let Message::Update(update) = decode_only(&bytes, &context) else {
            panic!("an UPDATE was written");
        };
        prop_assert_eq!(&update.faults, &[]);
        prop_assert_eq!(update.reach.len(), 1);
        prop_assert_eq!(update.reach[0].next_hop, next_hop);
        let expected = |prefix: &IpNet| (if with_ids { path_id(*prefix) } else { PathId::ONLY }, *prefix);
        let expected: Vec<_> = prefixes.iter().map(expected).collect();
        prop_assert_eq!(update.reach[0].nlri.paths().collect::<Vec<_>>(), expected);
        let mut received = update.attributes.expect("announced");
        if narrow {
            // Merging may join sequences, and a 2-octet aggregator speaks for a path without 4-octet numbers.
            prop_assert_eq!(received.as_path.length(), attributes.as_path.length());
            let lossless = attributes.aggregator.is_none_or(|aggregator| aggregator.asn.0 > 65535);
            if lossless {
                let texts = (received.as_path.to_string(), attributes.as_path.to_string());
                prop_assert_eq!(texts.0, texts.1);
            }
            received.as_path = attributes.as_path.clone();
        }
        prop_assert_eq!(received, attributes);
    }

    #[test]
    fn withdrawals_are_read_back((_, prefixes) in routes()) {
        let mut bytes = Vec::new();
        let mut left = prefixes.iter().copied().peekable();
        let family = AfiSafi::of(prefixes[0]);
        let count = write_unreach(&mut bytes, family, &mut left, MessageLimit::Standard);
        prop_assert_eq!(count, prefixes.len());
        let Message::Update(update) = decode_only(&bytes, &context(PeerKind::Ibgp, 1)) else {
            panic!("an UPDATE was written");
        };
        prop_assert_eq!(&update.faults, &[]);
        prop_assert_eq!(update.unreach[0].iter().collect::<Vec<_>>(), prefixes);
    }

    #[test]
    fn arbitrary_bodies_never_panic_a_decoder(
        kind in 1..=5_u8,
        body in vec(any::<u8>(), 0..400),
        narrow in any::<bool>(),
    ) {
        let mut context = context(PeerKind::Ebgp, 65001);
        if narrow {
            context = two_octet(context);
        }
        let kind = MessageType::from_code(kind).expect("1 to 5");
        let raw = RawMessage { kind, body: body.into() };
        let _ = format!("{:?}", Message::decode(&raw, &context));
    }

    #[test]
    fn arbitrary_attributes_never_panic_the_decoder_and_the_result_is_consistent(
        attributes in vec((any::<u8>(), 0..36_u8, vec(any::<u8>(), 0..40)), 0..8),
        nlri in vec(any::<u8>(), 0..12),
        ebgp in any::<bool>(),
    ) {
        let attributes: Vec<Vec<u8>> = attributes
            .iter()
            .map(|(flags, code, value)| super::attribute(flags & 0xef, *code, value))
            .collect();
        let body = super::update_body(&[], &attributes, &nlri);
        let peer = if ebgp { PeerKind::Ebgp } else { PeerKind::Ibgp };
        match decode_update(&body, &context(peer, 65001)) {
            Ok(update) => {
                prop_assert_eq!(update.reach.is_empty(), update.attributes.is_none());
                prop_assert!(update.reach.iter().all(|reach| !reach.nlri.is_empty()));
                prop_assert!(update.faults.iter().all(|fault| !fault.to_string().is_empty()));
            }
            Err(notification) => prop_assert_eq!(notification.code, Notification::UPDATE),
        }
    }

    #[test]
    fn one_changed_octet_never_panics_a_session_of_real_messages(
        attributes in attributes(),
        (next_hop, prefixes) in routes(),
        at in any::<prop::sample::Index>(),
        octet in any::<u8>(),
    ) {
        let mut sent = attributes;
        sent.next_hop = Some(next_hop);
        let block = encoded(&sent, AsnWidth::Four);
        let mut bytes = Vec::new();
        let mut left = prefixes.into_iter().peekable();
        write_reach(&mut bytes, &block, &next_hop, &mut left, MessageLimit::Extended)
            .expect("room for prefixes");
        let at = at.index(bytes.len());
        bytes[at] = octet;
        let mut framer = Framer::new();
        framer.allow_extended();
        framer.extend(&bytes);
        let mut context = context(PeerKind::Ibgp, 65001);
        context.first_as = FirstAsCheck::Off;
        while let Ok(Some(raw)) = framer.next_message() {
            let _ = format!("{:?}", Message::decode(&raw, &context));
        }
    }
}

#[test]
fn a_body_is_a_slice_of_the_received_octets() {
    let body: Bytes = super::update_body(&[8, 10], &[], &[]);
    let update = decode_update(&body, &context(PeerKind::Ibgp, 1)).expect("valid");
    assert_eq!(update.unreach[0].family(), AfiSafi::Ipv4Unicast);
    assert!(!body.is_unique(), "the withdrawn prefixes share the body");
}
