//! A peer that sends malformed UPDATEs (RFC 7606), and what a daemon behind us keeps and loses by them.

use std::net::IpAddr;

use bgp::types::AfiSafi;
use interop::plan::{Neighbour, Plan};
use interop::scripted::{Scripted, attribute, kind, message, multiprotocol, open, update};
use interop::{Daemon, FAR, FAR6, NEAR, NEAR6, OurSpeaker, Unseen, config, peer};

use crate::place::{NEAR_THIRD, OURS, Place, THEIRS, THIRD};

/// The scripted peer's AS.
const WRONG: u16 = 65002;
/// The route that the malformed UPDATEs are about.
const SUBJECT: &str = "198.51.100.0/24";
const SUBJECT_NLRI: &[u8] = &[24, 198, 51, 100];
/// A route that they are not about.
const BESIDE: &str = "198.51.101.0/24";
const BESIDE_NLRI: &[u8] = &[24, 198, 51, 101];
/// One of the other family.
const SIX: &str = "2001:db8:c::/48";
const SIX_NLRI: &[u8] = &[48, 0x20, 0x01, 0x0d, 0xb8, 0, 0x0c];

/// The daemon with a session for each family, our speaker, and the scripted peer whose three routes the daemon has.
struct Scene {
    daemon: Box<dyn Daemon>,
    ours: OurSpeaker,
    wrong: Scripted,
}

impl Scene {
    fn set(place: &Place) -> Self {
        let mut plan = Plan::new(THEIRS, FAR, NEAR, OURS);
        plan.neighbours.push(Neighbour {
            address: IpAddr::V6(NEAR6),
            local: IpAddr::V6(FAR6),
            families: vec![AfiSafi::Ipv6Unicast],
            ..plan.neighbours[0].clone()
        });
        let daemon = place.start(&plan);
        let third = place.third();
        let mut peers = [
            peer(FAR, THEIRS, NEAR),
            peer(FAR6, THEIRS, NEAR6),
            peer(THIRD, u32::from(WRONG), NEAR_THIRD),
        ];
        peers[1].families = [AfiSafi::Ipv6Unicast].into();
        peers[2].families = [AfiSafi::Ipv4Unicast, AfiSafi::Ipv6Unicast].into();
        peers[2].passive = true;
        let mut configured = config(OURS, NEAR, peers);
        configured.listen_addresses =
            [IpAddr::V4(NEAR), IpAddr::V4(NEAR_THIRD), IpAddr::V6(NEAR6)].into();
        let ours = place.ours(configured, &[]);
        let mut wrong = Scripted::connect(&third, NEAR_THIRD);
        let capabilities = [multiprotocol(1), multiprotocol(2)].concat();
        wrong.establish(&open(WRONG, 240, THIRD, &capabilities));
        let mut scene = Self {
            daemon,
            ours,
            wrong,
        };
        scene.wrong.say(&update(&mandatory(), SUBJECT_NLRI));
        scene.wrong.say(&update(&mandatory(), BESIDE_NLRI));
        scene
            .wrong
            .say(&update(&[origin(), as_path(), reach(16)], &[]));
        for prefix in [SUBJECT, BESIDE, SIX] {
            scene.daemon.wait_seen(prefix, |_| true);
        }
        scene
    }
}

/// What every route has; AS numbers have two octets, since the OPEN offered no more.
fn origin() -> Vec<u8> {
    attribute(0x40, 1, &[0])
}

fn as_path() -> Vec<u8> {
    let [high, low] = WRONG.to_be_bytes();
    attribute(0x40, 2, &[2, 1, high, low])
}

fn next_hop() -> Vec<u8> {
    attribute(0x40, 3, &THIRD.octets())
}

fn mandatory() -> Vec<Vec<u8>> {
    vec![origin(), as_path(), next_hop()]
}

fn with(more: Vec<u8>) -> Vec<Vec<u8>> {
    let mut all = mandatory();
    all.push(more);
    all
}

/// MP_REACH_NLRI of [`SIX`] with a next hop of so many octets.
fn reach(next_hop: u8) -> Vec<u8> {
    let mut value = vec![0, 2, 1, next_hop];
    value.extend(
        [0x20, 0x01, 0x0d, 0xb8]
            .iter()
            .chain([0; 28].iter())
            .take(usize::from(next_hop)),
    );
    value.push(0);
    value.extend(SIX_NLRI);
    attribute(0x80, 14, &value)
}

/// A community that shows which UPDATE arrived.
fn marked(n: u8) -> Vec<u8> {
    let [high, low] = WRONG.to_be_bytes();
    attribute(0xc0, 8, &[high, low, 0, n])
}

daemons_test!(
    what_is_treated_as_withdrawn_goes_and_the_rest_and_the_session_stay,
    [bird2, frr]
);
fn what_is_treated_as_withdrawn_goes_and_the_rest_and_the_session_stay(place: &Place) {
    let mut scene = Scene::set(place);
    let overrun = {
        // The last attribute says that it is longer than what is left (§4).
        let mut octets = next_hop();
        octets[2] = 200;
        vec![origin(), as_path(), octets]
    };
    let wrong: Vec<(&str, Vec<Vec<u8>>)> = vec![
        (
            "§3 c: ORIGIN flagged optional",
            vec![attribute(0xc0, 1, &[0]), as_path(), next_hop()],
        ),
        ("§3 d: no ORIGIN", vec![as_path(), next_hop()]),
        ("§3 d: no AS_PATH", vec![origin(), next_hop()]),
        ("§3 d: no NEXT_HOP", vec![origin(), as_path()]),
        ("§4: an attribute longer than the rest", overrun),
        (
            "§7.1: ORIGIN 9",
            vec![attribute(0x40, 1, &[9]), as_path(), next_hop()],
        ),
        (
            "§7.1: ORIGIN of two octets",
            vec![attribute(0x40, 1, &[0, 0]), as_path(), next_hop()],
        ),
        (
            "§7.2: an AS_PATH segment longer than the path",
            vec![
                origin(),
                attribute(0x40, 2, &[2, 9, 0xfd, 0xea]),
                next_hop(),
            ],
        ),
        (
            "§7.2: an AS_PATH segment of type 9",
            vec![
                origin(),
                attribute(0x40, 2, &[9, 1, 0xfd, 0xea]),
                next_hop(),
            ],
        ),
        (
            "§7.3: NEXT_HOP of five octets",
            vec![origin(), as_path(), attribute(0x40, 3, &[10, 0, 1, 2, 0])],
        ),
        (
            "§7.4: MULTI_EXIT_DISC of three octets",
            with(attribute(0x80, 4, &[0, 0, 1])),
        ),
        (
            "§7.8: COMMUNITIES of six octets",
            with(attribute(0xc0, 8, &[0; 6])),
        ),
        (
            "§7.14: EXTENDED COMMUNITIES of seven octets",
            with(attribute(0xc0, 16, &[0; 7])),
        ),
        (
            "RFC 8092 §6: LARGE_COMMUNITY of eleven octets",
            with(attribute(0xc0, 32, &[0; 11])),
        ),
    ];
    for (n, (what, attributes)) in (0..).zip(wrong) {
        println!("{what}");
        scene.wrong.say(&update(&attributes, SUBJECT_NLRI));
        scene.daemon.wait_gone(SUBJECT);
        for prefix in [BESIDE, SIX] {
            scene
                .daemon
                .seen(prefix.parse().unwrap())
                .unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        // The session stands: what comes next on it arrives.
        scene.wrong.say(&update(&with(marked(n)), SUBJECT_NLRI));
        let mark = format!("{WRONG}:{n}");
        scene
            .daemon
            .wait_seen(SUBJECT, |seen| seen.communities.contains(&mark));
    }
    scene.ours.stop();
}

daemons_test!(
    what_is_discarded_leaves_the_route_with_the_rest_of_its_attributes,
    [bird2, frr]
);
fn what_is_discarded_leaves_the_route_with_the_rest_of_its_attributes(place: &Place) {
    let mut scene = Scene::set(place);
    let wrong: Vec<(&str, Vec<u8>)> = vec![
        (
            "§7.5: LOCAL_PREF of an external peer, of three octets",
            attribute(0x40, 5, &[0; 3]),
        ),
        (
            "§7.6: ATOMIC_AGGREGATE of one octet",
            attribute(0x40, 6, &[0]),
        ),
        (
            "§7.7: AGGREGATOR of seven octets",
            attribute(0xc0, 7, &[0; 7]),
        ),
        (
            "§7.9: ORIGINATOR_ID of an external peer",
            attribute(0x80, 9, &[10, 0, 0, 9]),
        ),
        (
            "§7.10: CLUSTER_LIST of an external peer, of five octets",
            attribute(0x80, 10, &[0; 5]),
        ),
        ("§3 g: COMMUNITIES a second time", marked(99)),
        (
            "RFC 6793 §6: AS4_PATH with a segment longer than it",
            attribute(0xc0, 17, &[2, 9, 0, 0]),
        ),
    ];
    for (n, (what, faulty)) in (0..).zip(wrong) {
        println!("{what}");
        let mut attributes = with(marked(n));
        attributes.push(faulty);
        scene.wrong.say(&update(&attributes, SUBJECT_NLRI));
        let mark = format!("{WRONG}:{n}");
        let seen = scene
            .daemon
            .wait_seen(SUBJECT, |seen| seen.communities.contains(&mark));
        assert_eq!(seen.communities.len(), 1, "{what}: {seen:?}");
        assert_eq!(seen.as_path, [OURS, u32::from(WRONG)], "{what}: {seen:?}");
        assert_eq!(
            (seen.originator, seen.clusters.len()),
            (None, 0),
            "{what}: {seen:?}"
        );
    }
    for prefix in [BESIDE, SIX] {
        scene.daemon.seen(prefix.parse().unwrap()).unwrap();
    }
    scene.ours.stop();
}

daemons_test!(
    a_family_that_cannot_be_read_any_more_goes_alone,
    [bird2, frr]
);
fn a_family_that_cannot_be_read_any_more_goes_alone(place: &Place) {
    let mut scene = Scene::set(place);
    // §7.11: a next hop of seven octets is none of IPv6.
    scene
        .wrong
        .say(&update(&[origin(), as_path(), reach(7)], &[]));
    scene.daemon.wait_gone(SIX);
    // RFC 4760 §7: what comes of the family later is ignored; the other family goes on.
    scene
        .wrong
        .say(&update(&[origin(), as_path(), reach(16)], &[]));
    scene.wrong.say(&update(&with(marked(1)), SUBJECT_NLRI));
    let mark = format!("{WRONG}:1");
    scene
        .daemon
        .wait_seen(SUBJECT, |seen| seen.communities.contains(&mark));
    let gone = scene.daemon.seen(SIX.parse().unwrap());
    assert!(matches!(gone, Err(Unseen::Absent(_))), "{gone:?}");
    scene.daemon.seen(BESIDE.parse().unwrap()).unwrap();
    scene.ours.stop();
}

daemons_test!(what_resets_the_session_takes_its_routes_along, [bird2, frr]);
fn what_resets_the_session_takes_its_routes_along(place: &Place) {
    let mut scene = Scene::set(place);
    // §3 g: two MP_REACH_NLRI.
    scene
        .wrong
        .say(&update(&[origin(), as_path(), reach(16), reach(16)], &[]));
    let told = scene.wrong.told();
    assert_eq!((told.code, told.subcode), (3, 1), "{told:?}");
    for prefix in [SUBJECT, BESIDE, SIX] {
        scene.daemon.wait_gone(prefix);
    }
    for ours in [IpAddr::V4(NEAR), IpAddr::V6(NEAR6)] {
        scene.daemon.established(ours).unwrap();
    }
    scene.ours.stop();
}

daemons_test!(
    attributes_longer_than_the_message_reset_the_session,
    [bird2, frr]
);
fn attributes_longer_than_the_message_reset_the_session(place: &Place) {
    let mut scene = Scene::set(place);
    // RFC 4271 §6.3, RFC 7606 §3 b: Total Path Attribute Length says more than there is.
    scene
        .wrong
        .say(&message(kind::UPDATE, &[0, 0, 0xff, 0, 0x40, 1, 1, 0]));
    let told = scene.wrong.told();
    assert_eq!((told.code, told.subcode), (3, 1), "{told:?}");
    for prefix in [SUBJECT, BESIDE, SIX] {
        scene.daemon.wait_gone(prefix);
    }
    scene.ours.stop();
}
