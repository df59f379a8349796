use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::wire::attr::as_path::AsPath;

fn range(prefix: &str, ge: u8, le: u8) -> PrefixRange {
    let prefix = prefix.parse().unwrap();
    PrefixRange { prefix, ge, le }
}

fn route() -> PathAttributes {
    PathAttributes {
        as_path: AsPath::sequence(&[Asn(65001), Asn(65002), Asn(65003)]),
        next_hop: Some(NextHop::V4(Ipv4Addr::new(10, 0, 0, 2))),
        communities: vec![Community(1), Community(2)].into(),
        large_communities: vec!["1:2:3".parse().unwrap()].into(),
        extended_communities: vec![ExtendedCommunity([0; 8])].into(),
        ..PathAttributes::default()
    }
}

fn term(matches: Vec<Match>, edits: Vec<Edit>, verdict: Verdict) -> Term {
    Term {
        name: "t".into(),
        matches,
        edits,
        verdict,
    }
}

fn verdict(terms: &[Term], prefix: &str) -> (Verdict, PathAttributes) {
    let attributes = route();
    let peer = PeerName("Mesh_10_0_0_2".into());
    let evaluation = evaluate(
        terms,
        &Subject {
            prefix: prefix.parse().unwrap(),
            attributes: &attributes,
            source: RouteSource::Ebgp,
            peer: Some(&peer),
        },
    );
    let mut edited = attributes;
    let policy = RoutePolicy {
        terms: terms.to_vec(),
        ..RoutePolicy::accept_all()
    };
    edit(&policy, &evaluation.applied, &mut edited);
    (evaluation.verdict, edited)
}

fn holds(condition: Match) -> bool {
    let terms = [term(vec![condition], Vec::new(), Verdict::Accept)];
    verdict(&terms, "192.168.4.0/24").0 == Verdict::Accept
}

#[test]
fn a_prefix_list_takes_lengths_from_ge_to_le_inside_its_prefixes() {
    let list = |ge, le| Match::Prefix(vec![range("192.168.0.0/16", ge, le)]);
    assert!(holds(list(16, 24)) && holds(list(24, 24)) && holds(list(0, 32)));
    assert!(!holds(list(25, 32)) && !holds(list(16, 23)));
    assert!(!holds(Match::Prefix(vec![range("192.169.0.0/16", 0, 32)])));
    let own = "192.168.4.0/24".parse().unwrap();
    assert!(holds(Match::Prefix(vec![PrefixRange::exactly(own)])));
    let around = "192.168.0.0/16".parse().unwrap();
    assert!(!holds(Match::Prefix(vec![PrefixRange::exactly(around)])));
    assert!(holds(Match::Prefix(vec![PrefixRange::or_longer(around)])));
    assert!(
        !holds(Match::Prefix(vec![range("::/0", 0, 128)])),
        "other family"
    );
}

#[test]
fn each_condition_holds_for_what_it_names_and_for_nothing_else() {
    let asns = |asn| vec![Asn(asn)];
    let name = |name: &str| vec![PeerName(name.into())];
    let net = |net: &str| vec![net.parse().unwrap()];
    let pairs = [
        (
            Match::Community(vec![Community(9), Community(2)]),
            Match::Community(vec![Community(9)]),
        ),
        (
            Match::LargeCommunity(vec!["1:2:3".parse().unwrap()]),
            Match::LargeCommunity(vec!["1:2:4".parse().unwrap()]),
        ),
        (
            Match::ExtendedCommunity(vec![ExtendedCommunity([0; 8])]),
            Match::ExtendedCommunity(vec![ExtendedCommunity([1; 8])]),
        ),
        (
            Match::AsPathContains(asns(65002)),
            Match::AsPathContains(asns(65009)),
        ),
        (
            Match::AsPathBegins(vec![Asn(65001), Asn(65002)]),
            Match::AsPathBegins(asns(65002)),
        ),
        (
            Match::AsPathBegins(Vec::new()),
            Match::AsPathBegins(vec![Asn(65001), Asn(65002), Asn(65003), Asn(65001)]),
        ),
        (Match::LocalPref(100), Match::LocalPref(0)),
        (
            Match::OriginatedBy(asns(65003)),
            Match::OriginatedBy(asns(65001)),
        ),
        (
            Match::AsPathLength { min: 3, max: 3 },
            Match::AsPathLength { min: 0, max: 2 },
        ),
        (
            Match::NextHop(net("10.0.0.0/24")),
            Match::NextHop(net("10.0.1.0/24")),
        ),
        (
            Match::Origin(vec![Origin::Igp]),
            Match::Origin(vec![Origin::Egp]),
        ),
        (
            Match::PeerType(vec![RouteSource::Ebgp]),
            Match::PeerType(vec![RouteSource::Ibgp, RouteSource::Local]),
        ),
        (
            Match::Source(name("Mesh_10_0_0_2")),
            Match::Source(name("other")),
        ),
    ];
    for (yes, no) in pairs {
        assert!(holds(yes.clone()), "{yes:?}");
        assert!(!holds(no.clone()), "{no:?}");
        assert!(!holds(Match::Not(Box::new(yes))) && holds(Match::Not(Box::new(no))));
    }
}

#[test]
fn terms_run_in_order_until_one_decides_and_see_earlier_edits() {
    let mark = term(
        Vec::new(),
        vec![Edit::AddCommunities(vec![Community(7)])],
        Verdict::Continue,
    );
    let seen = vec![Match::Community(vec![Community(7)])];
    let accept = term(seen.clone(), vec![Edit::SetLocalPref(7)], Verdict::Accept);
    let reject = term(Vec::new(), Vec::new(), Verdict::Reject);
    let (verdict_1, edited) = verdict(&[mark.clone(), accept.clone(), reject.clone()], "1.0.0.0/8");
    assert_eq!(verdict_1, Verdict::Accept);
    assert_eq!(edited.local_pref, Some(7));
    assert_eq!(edited.communities.last(), Some(&Community(7)));
    let (verdict_2, edited) = verdict(&[accept, mark.clone(), reject], "1.0.0.0/8");
    assert_eq!((verdict_2, edited), (Verdict::Reject, route()));
    assert_eq!(verdict(&[mark], "1.0.0.0/8").0, Verdict::Continue);
}

#[test]
fn each_edit_changes_its_attribute_and_no_other() {
    let edited = |edits: Vec<Edit>| {
        let terms = [term(Vec::new(), edits, Verdict::Accept)];
        verdict(&terms, "1.0.0.0/8").1
    };
    let expected = |change: fn(&mut PathAttributes)| {
        let mut attributes = route();
        change(&mut attributes);
        attributes
    };
    let c = |n| vec![Community(n)];
    assert_eq!(
        edited(vec![Edit::SetCommunities(c(5))]),
        expected(|a| a.communities = vec![Community(5)].into())
    );
    assert_eq!(
        edited(vec![
            Edit::AddCommunities(c(2)),
            Edit::RemoveCommunities(c(1))
        ]),
        expected(|a| a.communities = vec![Community(2)].into())
    );
    assert_eq!(
        edited(vec![Edit::RemoveLargeCommunities(vec![
            "1:2:3".parse().unwrap()
        ])]),
        expected(|a| a.large_communities = Box::default())
    );
    assert_eq!(
        edited(vec![Edit::SetExtendedCommunities(Vec::new())]),
        expected(|a| a.extended_communities = Box::default())
    );
    assert_eq!(
        edited(vec![Edit::SetMed(Some(3))]),
        expected(|a| a.med = Some(3))
    );
    assert_eq!(
        edited(vec![Edit::SetOrigin(Origin::Egp)]),
        expected(|a| a.origin = Origin::Egp)
    );
    let next_hop = |text: &str| vec![Edit::SetNextHop(text.parse().unwrap())];
    assert_eq!(
        edited(next_hop("10.9.9.9")),
        expected(|a| a.next_hop = Some(NextHop::V4(Ipv4Addr::new(10, 9, 9, 9))))
    );
    assert_eq!(edited(next_hop("fd00::1")), route(), "other family");
    let asn = Asn(65000);
    assert_eq!(
        edited(vec![Edit::Prepend { asn, times: 2 }])
            .as_path
            .to_string(),
        "65000 65000 65001 65002 65003"
    );
}

proptest! {
    #[test]
    fn a_range_holds_exactly_what_its_numbers_say(bits: u32, length in 0u8..=32, ge in 0u8..=32, le in 0u8..=32, other: u32, longer in 0u8..=32) {
        let net = |bits: u32, length| ipnet::Ipv4Net::new(Ipv4Addr::from(bits), length).unwrap().trunc();
        let (around, prefix) = (net(bits, length), net(if other % 2 == 0 { bits } else { other }, longer));
        let mask = u32::from(around.netmask());
        let inside = longer >= length && u32::from(prefix.network()) & mask == u32::from(around.network());
        let range = PrefixRange { prefix: around.into(), ge, le };
        prop_assert_eq!(range.has(prefix.into()), inside && ge <= longer && longer <= le);
    }

    #[test]
    fn adding_and_then_removing_leaves_what_was_not_named(present: Vec<u32>, named: Vec<u32>) {
        let communities = |all: &[u32]| all.iter().copied().map(Community).collect::<Vec<_>>();
        let mut attributes = PathAttributes { communities: communities(&present).into(), ..route() };
        Edit::AddCommunities(communities(&named)).make(&mut attributes);
        prop_assert!(communities(&named).iter().all(|c| attributes.communities.contains(c)));
        Edit::RemoveCommunities(communities(&named)).make(&mut attributes);
        let left: Vec<u32> = present.iter().copied().filter(|c| !named.contains(c)).collect();
        prop_assert_eq!(attributes.communities.to_vec(), communities(&left));
    }
}

#[test]
fn a_policys_default_is_for_routes_that_no_term_decides_on() {
    let by_prefix = |ge, le, verdict| {
        let list = Match::Prefix(vec![range("10.0.0.0/8", ge, le)]);
        term(vec![list], Vec::new(), verdict)
    };
    let own = term(
        vec![Match::PeerType(vec![RouteSource::Local])],
        Vec::new(),
        Verdict::Accept,
    );
    for default_accept in [true, false] {
        let policy = RoutePolicy {
            terms: vec![
                by_prefix(8, 24, Verdict::Accept),
                by_prefix(8, 32, Verdict::Reject),
                own.clone(),
            ],
            default_accept,
            last: Vec::new(),
        };
        let passes = |prefix: &str, source| {
            let attributes = route();
            let subject = Subject {
                prefix: prefix.parse().unwrap(),
                attributes: &attributes,
                source,
                peer: None,
            };
            decide(&policy, &subject).is_some()
        };
        assert!(passes("10.0.1.0/24", RouteSource::Ibgp));
        assert!(!passes("10.0.1.0/26", RouteSource::Local), "longer");
        assert!(passes("192.168.0.0/16", RouteSource::Local));
        assert_eq!(passes("192.168.0.0/16", RouteSource::Ebgp), default_accept);
        assert_eq!(passes("fd00::/64", RouteSource::Ebgp), default_accept);
    }
}
