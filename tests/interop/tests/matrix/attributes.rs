//! What of a route arrives.

use std::net::IpAddr;

use bgp::config::Config;
use bgp::policy::{Edit, Term, Verdict};
use bgp::types::Asn;
use bgp::wire::attr::community::{Community, ExtendedCommunity, LargeCommunity};
use interop::plan::{Announced, Plan};
use interop::{FAR, Kind, NEAR, Seen, config, peer};

use crate::place::{
    BLOCK, NEAR_THIRD, OURS, OUTSIDE, Place, THEIRS, THIRD, external, learned, with_external,
};

/// An export policy that makes these edits.
fn exporting(edits: Vec<Edit>) -> Config {
    with_external(|peer| {
        peer.export.terms = vec![Term {
            name: "edits".into(),
            matches: Vec::new(),
            edits,
            verdict: Verdict::Accept,
        }];
    })
}

daemons_test!(
    what_our_policy_sets_is_in_its_table,
    [bird2, bird1, frr, gobgp, exabgp]
);
fn what_our_policy_sets_is_in_its_table(place: &Place) {
    let daemon = place.start(&external());
    let target = ExtendedCommunity([0, 2, 0xfd, 0xe9, 0, 0, 0, 9]);
    let ours = place.ours(
        exporting(vec![
            Edit::Prepend {
                asn: Asn(OURS),
                times: 2,
            },
            Edit::AddCommunities(vec![Community(65001 << 16 | 7), Community(65001 << 16 | 8)]),
            Edit::AddLargeCommunities(vec![LargeCommunity {
                global: 4_200_000_001,
                local1: 1,
                local2: 2,
            }]),
            Edit::AddExtendedCommunities(vec![target]),
            Edit::SetMed(Some(77)),
        ]),
        &[BLOCK],
    );
    let block = daemon.wait_seen(BLOCK, |_| true);
    assert_eq!(block.as_path, [OURS; 3], "{block:?}");
    let communities: Vec<&str> = block.communities.iter().map(String::as_str).collect();
    let wanted = ["4200000001:1:2", "65001:7", "65001:8", "rt:65001:9"];
    assert_eq!(communities, wanted, "{block:?}");
    assert_eq!(block.med, Some(77), "{block:?}");
    ours.stop();
}

daemons_test!(
    what_it_says_of_a_route_passes_through_us,
    [bird2, bird1, frr, gobgp, exabgp]
);
fn what_it_says_of_a_route_passes_through_us(place: &Place) {
    if let Some((id, install)) = Kind::Bird2.missing() {
        harness::skip(id, install);
    }
    let full = Announced {
        communities: vec![(65001, 7)],
        large: vec![(65001, 1, 2)],
        targets: vec![(65001, 9)],
        med: Some(5),
        behind: Some(65099),
        ..Announced::new(OUTSIDE)
    };
    let plan = Plan::new(THEIRS, FAR, NEAR, OURS).announcing(full);
    let seen = passed_on(place, &plan, &Plan::new(65002, THIRD, NEAR_THIRD, OURS));
    // ExaBGP says just the path it is given; BIRD 1.6 adds to no path that is not there yet.
    let path: &[u32] = match place.kind {
        Kind::ExaBgp => &[OURS, 65099],
        Kind::Bird1 => &[OURS, THEIRS],
        _ => &[OURS, THEIRS, 65099],
    };
    assert_eq!(seen.as_path, path, "{seen:?}");
    let communities: Vec<&str> = seen.communities.iter().map(String::as_str).collect();
    assert_eq!(
        communities,
        ["65001:1:2", "65001:7", "rt:65001:9"],
        "{seen:?}"
    );
    // RFC 4271 §5.1.3: next hop self; §5.1.4: another AS's MED is not passed on.
    assert_eq!(seen.next_hop, Some(IpAddr::V4(NEAR_THIRD)), "{seen:?}");
    assert_eq!(seen.med, None, "{seen:?}");
}

/// What a BIRD 2 with the plan `observer` in the third namespace hears of [`OUTSIDE`], which the daemon announces to us.
fn passed_on(place: &Place, announcer: &Plan, observer: &Plan) -> Seen {
    let _daemon = place.start(announcer);
    let observed = Kind::Bird2.start(&place.third(), observer).unwrap();
    let peers = [
        peer(FAR, announcer.asn, NEAR),
        peer(THIRD, observer.asn, NEAR_THIRD),
    ];
    let mut configured = config(OURS, NEAR, peers);
    configured.listen_addresses.insert(IpAddr::V4(NEAR_THIRD));
    let ours = place.ours(configured, &[]);
    let seen = observed.wait_seen(OUTSIDE, |_| true);
    ours.stop();
    seen
}

// The announcer's number does not fit into two octets: AS_PATH says AS_TRANS, and BIRD finds the number in AS4_PATH (RFC 6793 §4.2.2).
daemons_test!(
    its_four_octet_number_is_found_by_a_two_octet_speaker,
    [bird2, bird1, frr, gobgp]
);
fn its_four_octet_number_is_found_by_a_two_octet_speaker(place: &Place) {
    if let Some((id, install)) = Kind::Bird2.missing() {
        harness::skip(id, install);
    }
    let wide = 4_200_000_001;
    let announcer = Plan::new(wide, FAR, NEAR, OURS).announcing(Announced::new(OUTSIDE));
    let narrow = Plan::new(65002, THIRD, NEAR_THIRD, OURS).with(|ours| ours.four_octet = false);
    let seen = passed_on(place, &announcer, &narrow);
    assert_eq!(seen.as_path, [OURS, wide], "{seen:?}");
}

daemons_test!(
    a_two_octet_speaker_hears_of_our_four_octet_number,
    [bird1, exabgp]
);
fn a_two_octet_speaker_hears_of_our_four_octet_number(place: &Place) {
    let wide = 4_200_000_001;
    // RFC 6793 §4.2.3: to a speaker of two octets we are AS_TRANS.
    let plan = external().with(|neighbour| {
        neighbour.four_octet = false;
        neighbour.asn = 23456;
    });
    let daemon = place.start(&plan);
    let mut ours = place.ours(config(wide, NEAR, [peer(FAR, THEIRS, NEAR)]), &[BLOCK]);
    let block = daemon.wait_seen(BLOCK, |_| true);
    assert_eq!(block.as_path, [wide], "AS4_PATH is merged in: {block:?}");
    assert_eq!(learned(&mut ours, OUTSIDE), [IpAddr::V4(FAR)]);
    ours.stop();
}

daemons_test!(
    two_equal_paths_are_used_side_by_side,
    [bird2, bird1, frr, gobgp, exabgp]
);
fn two_equal_paths_are_used_side_by_side(place: &Place) {
    if let Some((id, install)) = Kind::Bird2.missing() {
        harness::skip(id, install);
    }
    let _daemon = place.start(&external());
    let third = Plan::new(THEIRS, THIRD, NEAR_THIRD, OURS).announcing(Announced::new(OUTSIDE));
    let _other = Kind::Bird2.start(&place.third(), &third).unwrap();
    let peers = [peer(FAR, THEIRS, NEAR), peer(THIRD, THEIRS, NEAR_THIRD)];
    let mut configured = config(OURS, NEAR, peers);
    configured.listen_addresses.insert(IpAddr::V4(NEAR_THIRD));
    configured.multipath = 16;
    let mut ours = place.ours(configured, &[]);
    let mut hops = learned(&mut ours, OUTSIDE);
    while hops.len() < 2 {
        hops = learned(&mut ours, OUTSIDE);
    }
    assert_eq!(hops, [IpAddr::V4(FAR), IpAddr::V4(THIRD)]);
    ours.stop();
}

daemons_test!(
    more_than_4096_octets_arrive_in_one_message,
    [bird2, frr, exabgp]
);
fn more_than_4096_octets_arrive_in_one_message(place: &Place) {
    let daemon = place.start(&external());
    let many: Vec<Community> = (0..1200).map(|n| Community(65001 << 16 | n)).collect();
    let ours = place.ours(exporting(vec![Edit::AddCommunities(many)]), &[BLOCK]);
    let block = daemon.wait_seen(BLOCK, |_| true);
    // It fits into no message of 4096 octets, so that it has come is the proof; BIRD shows the first ones only.
    match place.kind {
        Kind::Bird2 => assert!(block.communities.len() > 40, "{block:?}"),
        _ => assert_eq!(block.communities.len(), 1200),
    }
    ours.stop();
}
