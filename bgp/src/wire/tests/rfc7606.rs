//! RFC 7606: one test per row of §7, and the rules of §3 to §5.

use std::net::{IpAddr, Ipv4Addr};

use super::{attribute, context, update_body};
use crate::types::{AfiSafi, Asn};
use crate::wire::attr::as_path::PathError;
use crate::wire::attr::{AsnWidth, AttributeCode};
use crate::wire::notification::Notification;
use crate::wire::update::{
    Action, Fault, FirstAsCheck, PeerKind, Reason, ReceiveContext, Update, decode_update,
};

const WELL_KNOWN: u8 = 0x40;
const OPTIONAL: u8 = 0x80;
const TRANSITIVE: u8 = 0xc0;

const PREFIX: [u8; 4] = [24, 192, 0, 2];

fn origin() -> Vec<u8> {
    attribute(WELL_KNOWN, 1, &[0])
}

fn path() -> Vec<u8> {
    attribute(WELL_KNOWN, 2, &[2, 1, 0, 0, 0xfd, 0xe9])
}

fn next_hop() -> Vec<u8> {
    attribute(WELL_KNOWN, 3, &[10, 0, 0, 1])
}

fn ebgp() -> ReceiveContext {
    context(PeerKind::Ebgp, 65001)
}

fn ibgp() -> ReceiveContext {
    context(PeerKind::Ibgp, 65001)
}

/// An UPDATE of 192.0.2.0/24 in which `replaced` stands for the good attribute of its code, or is added.
fn with(replaced: Vec<u8>, context: &ReceiveContext) -> Result<Update, Notification> {
    let mut attributes = vec![origin(), path(), next_hop()];
    match attributes.iter_mut().find(|good| good[1] == replaced[1]) {
        Some(good) => *good = replaced,
        None => attributes.push(replaced),
    }
    decode_update(&update_body(&[], &attributes, &PREFIX), context)
}

fn only_fault(update: &Update) -> &Fault {
    assert_eq!(update.faults.len(), 1, "{:?}", update.faults);
    &update.faults[0]
}

/// The routes are withdrawn, and the one reason is of the attribute of the code that was replaced.
fn withdrawn(replaced: Vec<u8>, context: &ReceiveContext) -> Reason {
    let code = AttributeCode(replaced[1]);
    let update = with(replaced, context).expect("the session stays up");
    assert!(update.reach.is_empty() && update.attributes.is_none());
    assert_eq!(update.unreach.len(), 1);
    assert_eq!(update.unreach[0].iter().count(), 1);
    let fault = only_fault(&update);
    assert_eq!(fault.attribute, Some(code));
    assert_eq!(fault.action, Action::TreatAsWithdraw);
    fault.reason.clone()
}

/// The routes stay and the attribute is gone.
fn discarded(added: Vec<u8>, context: &ReceiveContext) -> Reason {
    let good = with(origin(), context).expect("a good one");
    let code = AttributeCode(added[1]);
    let update = with(added, context).expect("the session stays up");
    assert_eq!(
        (&update.reach, &update.attributes),
        (&good.reach, &good.attributes)
    );
    assert!(update.unreach.is_empty());
    let fault = only_fault(&update);
    assert_eq!(fault.attribute, Some(code));
    assert_eq!(fault.action, Action::Discard);
    fault.reason.clone()
}

fn bad_length(reason: &Reason) -> usize {
    match reason {
        Reason::Length { found, .. } => *found,
        other => panic!("{other:?}"),
    }
}

#[test]
fn section_7_1_a_malformed_origin_withdraws() {
    let reason = withdrawn(attribute(WELL_KNOWN, 1, &[3]), &ebgp());
    assert_eq!(reason, Reason::Origin { found: 3 });
    let reason = withdrawn(attribute(WELL_KNOWN, 1, &[0, 0]), &ebgp());
    assert_eq!(bad_length(&reason), 2);
}

#[test]
fn section_7_2_a_malformed_as_path_withdraws() {
    for (value, error) in [
        (
            &[5, 1, 0, 0, 0xfd, 0xe9][..],
            PathError::SegmentType { found: 5 },
        ),
        (
            &[3, 1, 0, 0, 0xfd, 0xe9],
            PathError::SegmentType { found: 3 },
        ),
        (
            &[2, 2, 0, 0, 0xfd, 0xe9],
            PathError::Short { needed: 8, left: 4 },
        ),
        (&[2], PathError::Short { needed: 2, left: 1 }),
        (&[2, 0], PathError::EmptySegment),
        (&[2, 1, 0, 0, 0, 0], PathError::AsZero),
    ] {
        let reason = withdrawn(attribute(WELL_KNOWN, 2, value), &ebgp());
        assert_eq!(reason, Reason::Path(error));
    }
}

#[test]
fn section_7_2_another_first_as_than_the_peers_withdraws_unless_it_is_allowed() {
    let other = attribute(WELL_KNOWN, 2, &[2, 1, 0, 0, 0xfd, 0xea]);
    let required = Asn(65001);
    let reason = withdrawn(other.clone(), &ebgp());
    let found = Some(Asn(65002));
    assert_eq!(reason, Reason::FirstAs { found, required });
    let reason = withdrawn(attribute(WELL_KNOWN, 2, &[]), &ebgp());
    assert_eq!(
        reason,
        Reason::FirstAs {
            found: None,
            required
        }
    );

    let mut route_server = ebgp();
    route_server.first_as = FirstAsCheck::Off;
    for context in [route_server, ibgp()] {
        let update = with(other.clone(), &context).expect("valid");
        assert_eq!((update.faults.len(), update.reach.len()), (0, 1));
    }
}

#[test]
fn section_7_3_a_malformed_next_hop_withdraws() {
    let reason = withdrawn(attribute(WELL_KNOWN, 3, &[10, 0, 0]), &ebgp());
    assert_eq!(bad_length(&reason), 3);
    for address in [
        [0, 0, 0, 0],
        [0, 1, 2, 3],
        [127, 0, 0, 1],
        [127, 9, 9, 9],
        [224, 0, 0, 1],
        [255, 255, 255, 255],
    ] {
        let reason = withdrawn(attribute(WELL_KNOWN, 3, &address), &ebgp());
        let found = IpAddr::V4(Ipv4Addr::from(address));
        assert_eq!(reason, Reason::NextHop { found });
    }
    let class_e = with(attribute(WELL_KNOWN, 3, &[240, 0, 0, 1]), &ebgp()).expect("valid");
    assert_eq!((class_e.faults.len(), class_e.reach.len()), (0, 1));
    for text in ["::", "::1", "::ffff:127.0.0.1", "ff02::1"] {
        let found: std::net::Ipv6Addr = text.parse().expect("an address");
        let mut reach = mp_reach(16, &PREFIX_V6);
        reach[7..23].copy_from_slice(&found.octets());
        let body = update_body(&[], &[reach, origin(), path()], &[]);
        let update = decode_update(&body, &ibgp()).expect("the session stays up");
        let found = IpAddr::V6(found);
        assert_eq!(only_fault(&update).reason, Reason::NextHop { found });
        assert_eq!((update.reach.len(), update.unreach.len()), (0, 1));
    }
}

#[test]
fn rfc_4271_section_5_the_partial_bit_stays_set() {
    for (code, value) in [
        (7, &[0, 0, 0xfd, 0xe9, 10, 0, 0, 1][..]),
        (8, &[0xfd, 0xe9, 0, 1]),
        (16, &[0, 2, 0xfd, 0xe9, 0, 0, 0, 1]),
        (25, &[1; 20]),
        (32, &[1; 12]),
        (99, &[1]),
    ] {
        for partial in [0x20, 0] {
            let update = with(attribute(TRANSITIVE | partial, code, value), &ibgp());
            let attributes = update.expect("valid").attributes.expect("announced");
            let block = super::encoded(&attributes, AsnWidth::Four);
            let written = block.windows(2).find(|pair| pair[1] == code);
            let flags = written.expect("passed on")[0];
            // What nobody here knows is partial from here on.
            let expected = if code == 99 { 0x20 } else { partial };
            assert_eq!(flags, TRANSITIVE | expected, "attribute {code}");
        }
    }
}

#[test]
fn section_7_4_a_malformed_med_withdraws() {
    let reason = withdrawn(attribute(OPTIONAL, 4, &[0; 5]), &ebgp());
    assert_eq!(bad_length(&reason), 5);
}

#[test]
fn section_7_5_local_pref_is_discarded_from_ebgp_and_withdraws_from_ibgp() {
    for length in [3, 4] {
        let local_pref = attribute(WELL_KNOWN, 5, &vec![1; length]);
        assert_eq!(discarded(local_pref, &ebgp()), Reason::FromEbgp);
    }
    let reason = withdrawn(attribute(WELL_KNOWN, 5, &[0; 3]), &ibgp());
    assert_eq!(bad_length(&reason), 3);
}

#[test]
fn section_7_6_a_malformed_atomic_aggregate_is_discarded() {
    let reason = discarded(attribute(WELL_KNOWN, 6, &[0]), &ebgp());
    assert_eq!(bad_length(&reason), 1);
}

#[test]
fn section_7_7_a_malformed_aggregator_is_discarded_and_the_session_stays_up() {
    let reason = discarded(attribute(TRANSITIVE, 7, &[1; 6]), &ebgp());
    assert_eq!(bad_length(&reason), 6);
    let mut two_octet = ebgp();
    two_octet.asn_width = AsnWidth::Two;
    two_octet.first_as = FirstAsCheck::Off;
    let attributes = [
        origin(),
        attribute(WELL_KNOWN, 2, &[2, 1, 0xfd, 0xe9]),
        next_hop(),
        attribute(TRANSITIVE, 7, &[1; 8]),
    ];
    let body = update_body(&[], &attributes, &PREFIX);
    let update = decode_update(&body, &two_octet).expect("the session stays up");
    assert_eq!(bad_length(&only_fault(&update).reason), 8);
    assert_eq!(update.reach.len(), 1);
}

#[test]
fn section_7_8_a_malformed_communities_withdraws() {
    for length in [0, 3, 6] {
        let reason = withdrawn(attribute(TRANSITIVE, 8, &vec![1; length]), &ebgp());
        assert_eq!(bad_length(&reason), length);
    }
}

#[test]
fn section_7_9_originator_id_is_discarded_from_ebgp_and_withdraws_from_ibgp() {
    let reason = discarded(attribute(OPTIONAL, 9, &[1; 4]), &ebgp());
    assert_eq!(reason, Reason::FromEbgp);
    let reason = withdrawn(attribute(OPTIONAL, 9, &[1; 5]), &ibgp());
    assert_eq!(bad_length(&reason), 5);
}

#[test]
fn section_7_10_cluster_list_is_discarded_from_ebgp_and_withdraws_from_ibgp() {
    let reason = discarded(attribute(OPTIONAL, 10, &[1; 7]), &ebgp());
    assert_eq!(reason, Reason::FromEbgp);
    for length in [0, 7] {
        let reason = withdrawn(attribute(OPTIONAL, 10, &vec![1; length]), &ibgp());
        assert_eq!(bad_length(&reason), length);
    }
}

/// MP_REACH_NLRI of 2001:db8::/32 with a next hop of `octets` octets.
fn mp_reach(next_hop_octets: u8, nlri: &[u8]) -> Vec<u8> {
    let mut value = vec![0, 2, 1, next_hop_octets];
    value.extend(std::iter::repeat_n(0x20, usize::from(next_hop_octets)));
    value.push(0);
    value.extend_from_slice(nlri);
    attribute(OPTIONAL, 14, &value)
}

const PREFIX_V6: [u8; 5] = [32, 0x20, 1, 0x0d, 0xb8];

#[test]
fn section_7_11_an_mp_reach_that_cannot_be_read_disables_its_family() {
    for bad in [
        mp_reach(4, &PREFIX_V6),
        mp_reach(24, &PREFIX_V6),
        mp_reach(0, &PREFIX_V6),
        mp_reach(16, &[129, 1]),
        mp_reach(16, &[32, 1]),
        attribute(OPTIONAL, 14, &[0, 2, 1, 200]),
    ] {
        let update = with(bad, &ebgp()).expect("IPv4 goes on");
        let family = AfiSafi::Ipv6Unicast;
        assert_eq!(only_fault(&update).action, Action::DisableFamily(family));
        assert_eq!(update.reach.len(), 1);
        assert_eq!(update.reach[0].nlri.family(), AfiSafi::Ipv4Unicast);
    }
}

#[test]
fn section_7_11_an_mp_reach_that_cannot_be_read_ends_a_session_of_one_family() {
    let mut only_v6 = ebgp();
    only_v6.families.remove(&AfiSafi::Ipv4Unicast);
    let bad = mp_reach(16, &[129, 1]);
    let result = decode_update(
        &update_body(&[], &[bad.clone(), origin(), path()], &[]),
        &only_v6,
    );
    assert_eq!(result, Err(Notification::optional_attribute(&bad)));
}

#[test]
fn section_7_11_an_mp_reach_too_short_for_a_family_ends_the_session() {
    let bad = attribute(OPTIONAL, 14, &[0, 2]);
    let result = with(bad.clone(), &ebgp());
    assert_eq!(result, Err(Notification::optional_attribute(&bad)));
}

#[test]
fn section_7_12_an_mp_unreach_that_cannot_be_read_disables_its_family() {
    let update = with(attribute(OPTIONAL, 15, &[0, 2, 1, 129, 0]), &ebgp()).expect("IPv4 goes on");
    let action = Action::DisableFamily(AfiSafi::Ipv6Unicast);
    assert_eq!(only_fault(&update).action, action);
    assert_eq!((update.reach.len(), update.unreach.len()), (1, 0));
    let bad = attribute(OPTIONAL, 15, &[0, 2]);
    let result = with(bad.clone(), &ebgp());
    assert_eq!(result, Err(Notification::optional_attribute(&bad)));
}

#[test]
fn section_7_13_traffic_engineering_is_not_known_and_dropped_whatever_it_holds() {
    let update = with(attribute(OPTIONAL, 24, &[1]), &ebgp()).expect("valid");
    assert_eq!((update.faults.len(), update.reach.len()), (0, 1));
    let attributes = update.attributes.expect("announced");
    assert!(attributes.unknown.is_empty());
}

#[test]
fn section_7_14_a_malformed_extended_communities_withdraws() {
    for length in [0, 7] {
        let reason = withdrawn(attribute(TRANSITIVE, 16, &vec![1; length]), &ebgp());
        assert_eq!(bad_length(&reason), length);
    }
}

#[test]
fn section_7_15_a_malformed_ipv6_extended_communities_withdraws() {
    for length in [0, 8] {
        let reason = withdrawn(attribute(TRANSITIVE, 25, &vec![1; length]), &ebgp());
        assert_eq!(bad_length(&reason), length);
    }
    let update = with(attribute(TRANSITIVE, 25, &[1; 20]), &ebgp()).expect("valid");
    let attributes = update.attributes.expect("announced");
    assert_eq!(
        attributes.unknown[0].flags, TRANSITIVE,
        "known, so not partial"
    );
}

#[test]
fn section_7_16_a_malformed_attr_set_withdraws() {
    let reason = withdrawn(attribute(TRANSITIVE, 128, &[1; 3]), &ebgp());
    assert_eq!(bad_length(&reason), 3);
}

#[test]
fn rfc_8092_a_malformed_large_community_withdraws() {
    for length in [0, 11, 16] {
        let reason = withdrawn(attribute(TRANSITIVE, 32, &vec![1; length]), &ebgp());
        assert_eq!(bad_length(&reason), length);
    }
}

#[test]
fn rfc_7607_an_aggregator_of_as_0_is_discarded() {
    let value = [0, 0, 0, 0, 10, 0, 0, 1];
    let reason = discarded(attribute(TRANSITIVE, 7, &value), &ebgp());
    assert_eq!(reason, Reason::AsZero);
}

#[test]
fn rfc_6793_as4_path_and_as4_aggregator_of_a_4_octet_peer_are_discarded() {
    for code in [17, 18] {
        let reason = discarded(attribute(TRANSITIVE, code, &[9]), &ebgp());
        assert_eq!(reason, Reason::FromFourOctetPeer);
    }
}

#[test]
fn section_3_a_fields_over_the_end_end_the_session() {
    for body in [&[0][..], &[0, 5, 1], &[0, 0, 0, 9, 1, 2], &[0, 0, 0]] {
        let result = decode_update(&body.to_vec().into(), &ebgp());
        assert_eq!(result, Err(Notification::malformed_attribute_list()));
    }
}

#[test]
fn section_3_c_conflicting_flags_withdraw_and_the_partial_bit_does_not_matter() {
    let reason = withdrawn(attribute(OPTIONAL, 1, &[0]), &ebgp());
    let (found, required) = (OPTIONAL, WELL_KNOWN);
    assert_eq!(reason, Reason::Flags { found, required });
    let reason = withdrawn(attribute(OPTIONAL, 8, &[1; 4]), &ebgp());
    let (found, required) = (OPTIONAL, TRANSITIVE);
    assert_eq!(reason, Reason::Flags { found, required });
    let update = with(attribute(WELL_KNOWN | 0x20, 1, &[0]), &ebgp()).expect("valid");
    assert!(update.faults.is_empty());
}

#[test]
fn section_3_c_conflicting_flags_of_mp_reach_withdraw_its_routes() {
    let mut reach = mp_reach(16, &PREFIX_V6);
    reach[0] = TRANSITIVE;
    let body = update_body(&[], &[reach, origin(), path()], &[]);
    let update = decode_update(&body, &ebgp()).expect("the session stays up");
    assert!(update.reach.is_empty());
    assert_eq!(update.unreach[0].family(), AfiSafi::Ipv6Unicast);
}

#[test]
fn section_3_d_a_missing_mandatory_attribute_withdraws() {
    for missing in [1, 2, 3] {
        let attributes: Vec<_> = [origin(), path(), next_hop()]
            .into_iter()
            .filter(|attribute| attribute[1] != missing)
            .collect();
        let body = update_body(&[], &attributes, &PREFIX);
        let update = decode_update(&body, &ibgp()).expect("the session stays up");
        let fault = only_fault(&update);
        assert_eq!(fault.attribute, Some(AttributeCode(missing)));
        assert_eq!(fault.reason, Reason::Missing);
        assert_eq!((update.reach.len(), update.unreach.len()), (0, 1));
    }
    // NEXT_HOP is not needed for the routes of MP_REACH_NLRI.
    let body = update_body(&[], &[mp_reach(16, &PREFIX_V6), origin(), path()], &[]);
    let update = decode_update(&body, &ebgp()).expect("valid");
    assert_eq!((update.faults.len(), update.reach.len()), (0, 1));
}

#[test]
fn section_3_g_a_repeated_attribute_is_discarded_and_a_repeated_mp_reach_ends_the_session() {
    let mut second = origin();
    second[3] = 2;
    let attributes = [origin(), second, path(), next_hop()];
    let update = decode_update(&update_body(&[], &attributes, &PREFIX), &ebgp()).expect("valid");
    assert_eq!(only_fault(&update).reason, Reason::Repeated);
    let kept = update.attributes.expect("announced");
    assert_eq!(kept.origin.code(), 0);

    let twice = [
        mp_reach(16, &PREFIX_V6),
        mp_reach(16, &PREFIX_V6),
        origin(),
        path(),
    ];
    let result = decode_update(&update_body(&[], &twice, &[]), &ebgp());
    assert_eq!(result, Err(Notification::malformed_attribute_list()));
}

#[test]
fn section_3_h_the_strongest_action_wins() {
    let attributes = [
        origin(),
        path(),
        next_hop(),
        attribute(WELL_KNOWN, 6, &[1]),
        attribute(TRANSITIVE, 8, &[1]),
    ];
    let update = decode_update(&update_body(&[], &attributes, &PREFIX), &ebgp()).expect("stays up");
    let actions: Vec<Action> = update.faults.iter().map(|fault| fault.action).collect();
    assert_eq!(actions, [Action::Discard, Action::TreatAsWithdraw]);
    assert!(update.reach.is_empty());
}

#[test]
fn section_3_i_and_j_prefixes_that_cannot_be_read_end_the_session() {
    let good = [origin(), path(), next_hop()];
    for (withdrawn, nlri) in [
        (&[][..], &[33, 1, 2, 3, 4, 5][..]),
        (&[24, 1], &[]),
        (&[], &[8]),
    ] {
        let result = decode_update(&update_body(withdrawn, &good, nlri), &ebgp());
        assert_eq!(result, Err(Notification::invalid_network_field()));
    }
}

#[test]
fn section_4_an_attribute_over_the_end_withdraws() {
    for cut in [
        &[0x40, 9][..],
        &[0x50, 9, 0],
        &[0xc0, 8, 8, 1, 1, 1, 1],
        &[0xd0, 8, 1, 0, 1],
    ] {
        let attributes = [origin(), path(), next_hop(), cut.to_vec()];
        let update = decode_update(&update_body(&[], &attributes, &PREFIX), &ebgp())
            .expect("the session stays up");
        assert!(matches!(only_fault(&update).reason, Reason::Overrun { .. }));
        assert_eq!((update.reach.len(), update.unreach.len()), (0, 1));
    }
}

#[test]
fn section_5_2_a_malformed_attribute_without_routes_ends_the_session() {
    let bad = attribute(WELL_KNOWN, 1, &[7]);
    let result = decode_update(&update_body(&[], std::slice::from_ref(&bad), &[]), &ebgp());
    assert_eq!(result, Err(Notification::invalid_origin(&bad)));
    let result = decode_update(
        &update_body(&PREFIX, std::slice::from_ref(&bad), &[]),
        &ebgp(),
    );
    assert_eq!(result, Err(Notification::invalid_origin(&bad)));
    // Weaker faults do not.
    let weak = attribute(WELL_KNOWN, 6, &[7]);
    assert!(decode_update(&update_body(&[], &[weak], &[]), &ebgp()).is_ok());
}

#[test]
fn rfc_4271_an_unknown_well_known_attribute_ends_the_session() {
    let bad = attribute(WELL_KNOWN, 77, &[1, 2]);
    let result = with(bad.clone(), &ebgp());
    assert_eq!(result, Err(Notification::unrecognized_well_known(&bad)));
}

/// RFC 9234 §5.
#[test]
fn an_otc_of_another_length_withdraws_and_a_right_one_goes_on_as_it_is() {
    for length in [0, 3, 5] {
        let bad = attribute(0xc0, 35, &vec![0; length]);
        let update = with(bad, &ebgp()).expect("the session stays up");
        assert_eq!(only_fault(&update).action, Action::TreatAsWithdraw);
    }
    let update = with(attribute(0xc0, 35, &[0, 0, 0xfd, 0xea]), &ebgp()).expect("in order");
    assert_eq!(update.faults, []);
    let attributes = update.attributes.expect("announced");
    assert_eq!(attributes.only_to_customers(), Some(Asn(65002)));
    assert_eq!(attributes.unknown[0].flags, 0xc0, "known, so not partial");
}
