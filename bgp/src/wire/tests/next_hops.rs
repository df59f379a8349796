//! IPv4 prefixes with IPv6 next hops (RFC 8950), and next hops of one link.

use std::net::Ipv6Addr;

use super::{attribute, context, update_body};
use crate::types::AfiSafi;
use crate::wire::attr::NextHop;
use crate::wire::capability::{Capability, NextHopFamily};
use crate::wire::family::Family;
use crate::wire::reader::Reader;
use crate::wire::update::{Action, PeerKind, ReceiveContext, Update, decode_update};

const GLOBAL: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);
const PREFIX_V4: [u8; 4] = [24, 203, 0, 113];
const PREFIX_V6: [u8; 5] = [32, 0x20, 1, 0x0d, 0xb8];

fn agreed() -> ReceiveContext {
    ReceiveContext {
        ipv6_next_hops: true,
        ..context(PeerKind::Ibgp, 65001)
    }
}

/// An UPDATE with one MP_REACH_NLRI.
fn update(afi: u8, next_hop: &[u8], nlri: &[u8], context: &ReceiveContext) -> Update {
    let length = u8::try_from(next_hop.len()).expect("short");
    let mut value = vec![0, afi, 1, length];
    value.extend_from_slice(next_hop);
    value.push(0);
    value.extend_from_slice(nlri);
    let attributes = [
        attribute(0x80, 14, &value),
        vec![0x40, 1, 1, 0],
        vec![0x40, 2, 0],
    ];
    let body = update_body(&[], &attributes, &[]);
    decode_update(&body, context).expect("the session stays up")
}

#[test]
fn an_ipv4_prefix_has_an_ipv6_next_hop_where_that_was_agreed_on() {
    let both = [GLOBAL.octets(), LINK_LOCAL.octets()].concat();
    let v6 = |link_local| NextHop::V6 {
        global: GLOBAL,
        link_local,
    };
    for (octets, wanted) in [
        (GLOBAL.octets().to_vec(), v6(None)),
        (both, v6(Some(LINK_LOCAL))),
        (vec![10, 0, 0, 9], NextHop::V4([10, 0, 0, 9].into())),
    ] {
        let update = update(1, &octets, &PREFIX_V4, &agreed());
        assert_eq!(update.faults, []);
        assert_eq!(update.reach[0].next_hop, wanted);
        let prefixes: Vec<String> = update.reach[0].nlri.iter().map(|p| p.to_string()).collect();
        assert_eq!(prefixes, ["203.0.113.0/24"]);
    }
}

#[test]
fn an_ipv4_prefix_with_another_next_hop_than_agreed_on_disables_the_family() {
    let plain = context(PeerKind::Ibgp, 65001);
    let long = [0x20; 24];
    for (octets, context) in [
        (&GLOBAL.octets()[..], &plain),
        (&long[..], &plain),
        (&long[..], &agreed()),
        (&[][..], &agreed()),
    ] {
        let update = update(1, octets, &PREFIX_V4, context);
        let family = AfiSafi::Ipv4Unicast;
        assert_eq!(update.faults[0].action, Action::DisableFamily(family));
        assert!(update.reach.is_empty());
    }
}

#[test]
fn a_link_local_next_hop_without_a_global_one_is_read_however_it_is_written() {
    let alone = NextHop::V6 {
        global: LINK_LOCAL,
        link_local: None,
    };
    let here = LINK_LOCAL.octets();
    for octets in [
        here.to_vec(),
        [here, here].concat(),
        [Ipv6Addr::UNSPECIFIED.octets(), here].concat(),
    ] {
        for (afi, nlri) in [(1, &PREFIX_V4[..]), (2, &PREFIX_V6[..])] {
            let update = update(afi, &octets, nlri, &agreed());
            assert_eq!(update.faults, []);
            assert_eq!(update.reach[0].next_hop, alone);
        }
    }
}

#[test]
fn the_capability_is_written_as_the_rfc_has_it_and_half_an_entry_says_nothing() {
    let octets = [5, 6, 0, 1, 0, 1, 0, 2];
    let capability = Capability::ExtendedNextHop(vec![NextHopFamily::IPV6_OF_IPV4]);
    let mut written = Vec::new();
    capability.encode(&mut written);
    assert_eq!(written, octets);
    let read = |octets: &[u8]| Capability::decode(&mut Reader::new(octets)).expect("readable");
    assert_eq!(read(&octets), capability);
    // IPv4 VPN is of no use here, and no reason to miss what follows it.
    let mut several = vec![5, 12, 0, 1, 0, 128, 0, 2];
    several.extend_from_slice(&octets[2..]);
    let vpn = NextHopFamily {
        family: Family { afi: 1, safi: 128 },
        next_hop_afi: 2,
    };
    let both = Capability::ExtendedNextHop(vec![vpn, NextHopFamily::IPV6_OF_IPV4]);
    assert_eq!(read(&several), both);
    let half = read(&[5, 5, 0, 1, 0, 1, 0]);
    assert!(
        matches!(half, Capability::Unknown { code: 5, .. }),
        "{half:?}"
    );
}
