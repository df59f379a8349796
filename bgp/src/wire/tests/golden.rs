//! Messages made by other implementations.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::IpNet;

use super::{context, hex, messages};
use crate::types::{AfiSafi, Asn, RouterId};
use crate::wire::attr::as_path::{AsPath, SegmentKind};
use crate::wire::attr::community::{Community, LargeCommunity};
use crate::wire::attr::{AsnWidth, NextHop, Origin, PathAttributes};
use crate::wire::family::Family;
use crate::wire::message::{Message, write_keepalive};
use crate::wire::open::Open;
use crate::wire::refresh::RefreshKind;
use crate::wire::update::encode::{
    MessageLimit, append_attributes, write_end_of_rib, write_reach, write_unreach,
};
use crate::wire::update::{PeerKind, ReceiveContext, Update};

const BIRD_EBGP: &str = include_str!("../../../tests/golden/bird-ebgp.hex");
const BIRD_IBGP: &str = include_str!("../../../tests/golden/bird-ibgp.hex");
const BIRD_TWO_OCTET: &str = include_str!("../../../tests/golden/bird-2octet.hex");
const EXABGP_IBGP: &str = include_str!("../../../tests/golden/exabgp-ibgp.hex");
const FRR_EBGP: &str = include_str!("../../../tests/golden/frr-ebgp.hex");
const GOBGP_EBGP: &str = include_str!("../../../tests/golden/gobgp-ebgp.hex");

/// A capture: each message, decoded without a fault, with its octets.
fn capture(text: &str, context: &ReceiveContext) -> Vec<(Message, Vec<u8>)> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let octets = hex(line);
            let raw = messages(&octets).pop().expect("a message a line");
            let message = Message::decode(&raw, context).expect("a valid message");
            if let Message::Update(update) = &message {
                assert_eq!(update.faults, [], "{line}");
            }
            (message, octets.to_vec())
        })
        .collect()
}

fn open(captured: &[(Message, Vec<u8>)]) -> &Open {
    let Message::Open(open) = &captured[0].0 else {
        panic!("OPEN comes first");
    };
    open
}

fn updates(captured: &[(Message, Vec<u8>)]) -> Vec<&Update> {
    captured
        .iter()
        .filter_map(|(message, _)| match message {
            Message::Update(update) => Some(update),
            _ => None,
        })
        .collect()
}

fn prefixes(update: &Update) -> Vec<String> {
    update
        .reach
        .iter()
        .flat_map(|reach| &reach.nlri)
        .map(|prefix| prefix.to_string())
        .collect()
}

fn attributes(update: &Update) -> &PathAttributes {
    update.attributes.as_ref().expect("routes are announced")
}

fn of_prefix<'a>(updates: &[&'a Update], prefix: &str) -> &'a Update {
    updates
        .iter()
        .find(|update| prefixes(update).iter().any(|other| other == prefix))
        .expect("the prefix is announced")
}

/// The message that this codec makes of a decoded one.
fn encoded(message: &Message, width: AsnWidth) -> Vec<u8> {
    let mut out = Vec::new();
    match message {
        Message::Open(open) => open.encode(&mut out),
        Message::Keepalive => write_keepalive(&mut out),
        Message::Notification(notification) => notification.encode(&mut out),
        Message::RouteRefresh(refresh) => refresh.encode(&mut out),
        Message::Update(update) => {
            if let Some(family) = update.end_of_rib {
                write_end_of_rib(&mut out, family);
            }
            for nlri in &update.unreach {
                write_unreach(
                    &mut out,
                    nlri.family(),
                    &mut nlri.iter().peekable(),
                    MessageLimit::Standard,
                );
            }
            for reach in &update.reach {
                let mut attributes = attributes(update).clone();
                attributes.next_hop = Some(reach.next_hop);
                let mut block = Vec::new();
                append_attributes(&attributes, width, &mut block);
                let mut nlri = reach.nlri.iter().peekable();
                let limit = MessageLimit::Standard;
                write_reach(&mut out, &block, &reach.next_hop, &mut nlri, limit)
                    .expect("it was one message");
            }
        }
    }
    out
}

#[test]
fn birds_open_is_understood_and_written_alike() {
    let captured = capture(BIRD_EBGP, &context(PeerKind::Ebgp, 65001));
    let open = open(&captured);
    assert_eq!(open.asn, Asn(65001));
    assert_eq!(open.hold_time, Duration::from_secs(240));
    assert_eq!(open.router_id, RouterId(Ipv4Addr::new(10, 0, 0, 1)));
    assert!(open.has_four_octet_as() && open.has_route_refresh());
    assert!(open.has_enhanced_route_refresh() && open.has_extended_message());
    assert!(open.families().contains(&AfiSafi::Ipv6Unicast));
    let restart = open.graceful_restart().expect("offered");
    assert_eq!(restart.time, Duration::from_secs(120));
    assert!(!restart.restarting && !restart.notification);
    let family = restart.family(AfiSafi::Ipv4Unicast).expect("listed");
    assert!(!family.forwarding);
    assert_eq!(encoded(&captured[0].0, AsnWidth::Four), captured[0].1);
}

#[test]
fn birds_ebgp_routes_are_understood() {
    let captured = capture(BIRD_EBGP, &context(PeerKind::Ebgp, 65001));
    let updates = updates(&captured);
    assert_eq!(
        prefixes(updates[0]),
        [
            "0.0.0.0/0",
            "10.128.0.0/9",
            "198.51.100.128/25",
            "203.0.113.7/32"
        ]
    );
    assert_eq!(updates[2].end_of_rib, Some(AfiSafi::Ipv4Unicast));
    assert_eq!(updates[5].end_of_rib, Some(AfiSafi::Ipv6Unicast));

    let update = of_prefix(&updates, "192.0.2.0/24");
    let attributes = attributes(update);
    assert_eq!(attributes.origin, Origin::Egp);
    assert_eq!(attributes.as_path.to_string(), "65001 4200000001 65010");
    assert_eq!(attributes.med, Some(77));
    let communities = [Community((65001 << 16) | 100), Community::NO_EXPORT];
    assert_eq!(*attributes.communities, communities);
    assert_eq!(attributes.extended_communities.len(), 2);
    assert_eq!(attributes.large_communities[1].global, 4_200_000_000);
    let next_hop = NextHop::V4(Ipv4Addr::new(10, 0, 0, 1));
    assert_eq!(update.reach[0].next_hop, next_hop);

    let update = of_prefix(&updates, "2001:db8:1::/48");
    assert_eq!(update.reach[0].next_hop.to_string(), "2001:db8::1");
    assert_eq!(update.attributes.as_ref(), Some(attributes));
}

#[test]
fn birds_messages_are_written_octet_for_octet() {
    for (text, peer, asn, width) in [
        (BIRD_EBGP, PeerKind::Ebgp, 65001, AsnWidth::Four),
        (BIRD_IBGP, PeerKind::Ibgp, 65002, AsnWidth::Four),
        (BIRD_TWO_OCTET, PeerKind::Ebgp, 4_200_000_000, AsnWidth::Two),
    ] {
        let mut context = context(peer, asn);
        context.asn_width = width;
        for (message, octets) in capture(text, &context) {
            assert_eq!(encoded(&message, width), octets);
        }
    }
}

#[test]
fn birds_ibgp_routes_have_local_pref_and_an_empty_path() {
    let captured = capture(BIRD_IBGP, &context(PeerKind::Ibgp, 65002));
    let updates = updates(&captured);
    let attributes = attributes(of_prefix(&updates, "203.0.113.7/32"));
    assert_eq!(attributes.local_pref, Some(100));
    assert!(attributes.as_path.is_empty());
}

#[test]
fn birds_paths_in_two_octets_are_merged_with_as4_path() {
    let mut context = context(PeerKind::Ebgp, 4_200_000_000);
    context.asn_width = AsnWidth::Two;
    let captured = capture(BIRD_TWO_OCTET, &context);
    assert_eq!(open(&captured).asn, Asn(4_200_000_000));
    let updates = updates(&captured);
    let path = |prefix| attributes(of_prefix(&updates, prefix)).as_path.to_string();
    assert_eq!(path("192.0.2.0/24"), "4200000000 4200000001 65010");
    assert_eq!(path("2001:db8:2::/64"), "4200000000");
}

#[test]
fn exabgps_every_attribute_is_understood() {
    let captured = capture(EXABGP_IBGP, &context(PeerKind::Ibgp, 65001));
    let updates = updates(&captured);
    let full = attributes(of_prefix(&updates, "192.0.2.0/24"));
    let expected = AsPath::from_segments([
        (SegmentKind::Sequence, [Asn(65003), Asn(65004)].as_slice()),
        (SegmentKind::Set, &[Asn(65005), Asn(4_200_000_005)]),
    ]);
    assert_eq!(full.as_path, expected);
    assert_eq!(full.as_path.length(), 3);
    assert_eq!(full.origin, Origin::Incomplete);
    assert_eq!((full.med, full.local_pref), (Some(10), Some(200)));
    assert!(full.atomic_aggregate);
    let aggregator = full.aggregator.expect("sent");
    assert_eq!(aggregator.asn, Asn(4_200_000_009));
    assert_eq!(aggregator.router_id.to_string(), "10.9.9.9");
    let originator = full.originator_id.expect("sent");
    assert_eq!(originator.to_string(), "10.1.1.1");
    let clusters = [Ipv4Addr::new(10, 2, 2, 2), Ipv4Addr::new(10, 3, 3, 3)];
    assert_eq!(*full.cluster_list, clusters);
    let large = LargeCommunity {
        global: 65001,
        local1: 1,
        local2: 2,
    };
    assert_eq!(*full.large_communities, [large]);

    let unknown = &attributes(of_prefix(&updates, "198.51.100.0/24")).unknown;
    assert_eq!(unknown.len(), 1);
    assert_eq!((unknown[0].code.0, unknown[0].flags), (99, 0xe0));
    assert_eq!(*unknown[0].value, [10, 11, 12]);

    let ends: Vec<_> = updates
        .iter()
        .filter_map(|update| update.end_of_rib)
        .collect();
    assert_eq!(ends, [AfiSafi::Ipv4Unicast, AfiSafi::Ipv6Unicast]);
}

#[test]
fn gobgps_attributes_in_another_order_are_understood() {
    let captured = capture(GOBGP_EBGP, &context(PeerKind::Ebgp, 65001));
    let updates = updates(&captured);
    let update = of_prefix(&updates, "192.0.2.0/24");
    let path = attributes(update).as_path.to_string();
    assert_eq!(path, "65001 65003 65004 {65005,65006}");
    let withdrawn: Vec<IpNet> = updates
        .iter()
        .flat_map(|update| &update.unreach)
        .flatten()
        .collect();
    let expected: [IpNet; 2] = [
        "198.51.100.0/24".parse().expect("a prefix"),
        "2001:db8:5::/48".parse().expect("a prefix"),
    ];
    assert_eq!(withdrawn, expected);
}

#[test]
fn frrs_capabilities_refresh_marks_and_as_sets_are_understood() {
    let captured = capture(FRR_EBGP, &context(PeerKind::Ebgp, 65001));
    assert_eq!(open(&captured).families().len(), 2);
    let updates = updates(&captured);
    let paths: Vec<String> = updates
        .iter()
        .filter_map(|update| update.attributes.as_ref())
        .map(|attributes| attributes.as_path.to_string())
        .collect();
    assert!(paths.contains(&"65001 {65077}".to_owned()), "{paths:?}");
    let marks: Vec<RefreshKind> = captured
        .iter()
        .filter_map(|(message, _)| match message {
            Message::RouteRefresh(refresh) => {
                assert_eq!(refresh.family, Family::from(AfiSafi::Ipv4Unicast));
                Some(refresh.kind)
            }
            _ => None,
        })
        .collect();
    assert_eq!(marks, [RefreshKind::Begin, RefreshKind::End]);
}

#[test]
fn every_capture_survives_our_own_encoding() {
    for (text, peer, asn) in [
        (EXABGP_IBGP, PeerKind::Ibgp, 65001),
        (GOBGP_EBGP, PeerKind::Ebgp, 65001),
        (FRR_EBGP, PeerKind::Ebgp, 65001),
    ] {
        let context = context(peer, asn);
        for (message, _) in capture(text, &context) {
            let octets = encoded(&message, AsnWidth::Four);
            let raw = messages(&octets).pop().expect("one message");
            assert_eq!(Message::decode(&raw, &context).as_ref(), Ok(&message));
        }
    }
}
