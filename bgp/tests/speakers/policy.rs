//! Policy terms between speakers: what passes, as what, and what a change of them touches.

use std::time::Duration;

use bgp::config::{Config, RoutePolicy};
use bgp::event::Event;
use bgp::event::RouteRefusal;
use bgp::policy::{Edit, Match, PrefixRange, Term, Verdict};
use bgp::route::RouteSource;
use bgp::status::{PathStanding, PathStatus};
use bgp::types::Asn;
use bgp::wire::attr::community::Community;
use ipnet::IpNet;

use crate::network::{Network, address, config, peer_name, prefix};

const SECOND: Duration = Duration::from_secs(1);
const MARK: Community = Community(0xfde8_0001);

fn net(n: u8) -> IpNet {
    prefix(&format!("192.168.{n}.0/24"))
}

/// A chain of ASes 65000, 65001, …; node 0 originates ten prefixes.
fn chain(seed: u64, size: usize) -> Network {
    let asn = |node: usize| 65000 + u32::try_from(node).expect("few nodes");
    let configs = (0..size).map(|node| {
        let near = [node.checked_sub(1), Some(node + 1).filter(|n| *n < size)];
        let peers: Vec<(usize, u32)> = near.into_iter().flatten().map(|n| (n, asn(n))).collect();
        config(node, asn(node), &peers)
    });
    let mut network = Network::new(seed, configs.collect());
    (0..10).for_each(|n| network.originate(0, net(n)));
    network.run(20 * SECOND);
    for node in &mut network.nodes {
        node.changes.clear();
        node.events.clear();
    }
    network
}

fn term(matches: Vec<Match>, edits: Vec<Edit>, verdict: Verdict) -> Term {
    Term {
        name: "test".into(),
        matches,
        edits,
        verdict,
    }
}

fn only(n: u8) -> Vec<Match> {
    vec![Match::Prefix(vec![PrefixRange::exactly(net(n))])]
}

fn terms(terms: Vec<Term>) -> RoutePolicy {
    RoutePolicy {
        terms,
        ..RoutePolicy::accept_all()
    }
}

fn set_import(network: &mut Network, node: usize, peer: usize, policy: &RoutePolicy) {
    network.reconfigure(node, |config| {
        let peer = config.peers.get_mut(&peer_name(peer)).expect("a peer");
        peer.import = policy.clone();
    });
    network.run(SECOND);
}

fn set_export(network: &mut Network, node: usize, peer: usize, policy: &RoutePolicy) {
    network.reconfigure(node, |config| {
        let peer = config.peers.get_mut(&peer_name(peer)).expect("a peer");
        peer.export = policy.clone();
    });
    network.run(SECOND);
}

fn path(network: &mut Network, node: usize, prefix: IpNet) -> PathStatus {
    let routes = network.speaker(node).routes();
    let route = routes.into_iter().find(|route| route.prefix == prefix);
    route.expect("known").paths.remove(0)
}

fn touched(network: &mut Network, node: usize) -> Vec<IpNet> {
    let changes = std::mem::take(&mut network.nodes[node].changes);
    changes.into_iter().map(|change| change.prefix).collect()
}

#[test]
fn an_import_policy_edits_and_refuses_and_a_change_of_it_touches_its_prefixes_only() {
    let mut network = chain(1, 3);
    let policy = terms(vec![
        term(
            only(3),
            vec![Edit::AddCommunities(vec![MARK])],
            Verdict::Continue,
        ),
        term(
            vec![Match::Community(vec![MARK])],
            vec![Edit::SetLocalPref(300)],
            Verdict::Accept,
        ),
        term(only(4), Vec::new(), Verdict::Reject),
    ]);
    set_import(&mut network, 1, 0, &policy);
    let edited = path(&mut network, 1, net(3));
    assert_eq!(edited.local_pref, 300);
    assert_eq!(edited.communities, [MARK.to_string()]);
    assert_eq!(
        path(&mut network, 2, net(3)).communities,
        [MARK.to_string()]
    );
    assert_eq!(
        path(&mut network, 1, net(4)).standing,
        PathStanding::Refused(RouteRefusal::Policy)
    );
    assert!(!network.has_route(2, net(4)) && network.has_route(2, net(5)));
    assert_eq!(touched(&mut network, 2), [net(3), net(4)].map(|n| n));
    // A route that comes again is edited in the same way, and one that goes leaves nothing.
    network.withdraw(0, net(3));
    network.run(SECOND);
    assert!(!network.has_route(2, net(3)));
    network.originate(0, net(3));
    network.run(SECOND);
    assert_eq!(path(&mut network, 1, net(3)).local_pref, 300);
    touched(&mut network, 2);
    set_import(&mut network, 1, 0, &RoutePolicy::accept_all());
    let plain = path(&mut network, 1, net(3));
    assert_eq!((plain.local_pref, plain.communities), (100, Vec::new()));
    assert!(path(&mut network, 2, net(3)).communities.is_empty());
    let mut again = touched(&mut network, 2);
    again.sort();
    assert_eq!(again, [net(3), net(4)]);
    assert!((0..3).all(|node| network.session_downs(node).is_empty()));
}

#[test]
fn export_edits_have_the_last_word_on_what_is_sent() {
    let mut network = chain(2, 3);
    let asn = Asn(65001);
    let policy = terms(vec![
        term(
            only(1),
            vec![Edit::Prepend { asn, times: 2 }],
            Verdict::Accept,
        ),
        term(only(2), vec![Edit::SetMed(Some(7))], Verdict::Accept),
        term(only(3), vec![Edit::SetNextHop(address(9))], Verdict::Accept),
        term(
            only(4),
            vec![Edit::AddCommunities(vec![Community::NO_EXPORT])],
            Verdict::Accept,
        ),
        term(
            vec![Match::OriginatedBy(vec![Asn(65000)])],
            Vec::new(),
            Verdict::Reject,
        ),
    ]);
    set_export(&mut network, 1, 2, &policy);
    assert_eq!(
        path(&mut network, 2, net(1)).as_path,
        "65001 65001 65001 65000"
    );
    assert_eq!(path(&mut network, 2, net(2)).med, Some(7));
    assert_eq!(path(&mut network, 2, net(3)).next_hop, Some(address(9)));
    assert_eq!(path(&mut network, 2, net(4)).communities, ["no-export"]);
    assert!((5..10).all(|n| !network.has_route(2, net(n))));
    set_export(&mut network, 1, 2, &RoutePolicy::accept_all());
    assert_eq!(path(&mut network, 2, net(1)).as_path, "65001 65000");
    assert!((0..10).all(|n| network.has_route(2, net(n))));
    assert!((0..3).all(|node| network.session_downs(node).is_empty()));
}

#[test]
fn a_changed_export_policy_sends_the_differences_only() {
    let mut network = chain(3, 3);
    let before = network.delivered;
    let policy = terms(vec![term(only(4), Vec::new(), Verdict::Reject)]);
    set_export(&mut network, 1, 2, &policy);
    assert!(!network.has_route(2, net(4)));
    assert_eq!(touched(&mut network, 2), [net(4)]);
    let withdrawal = network.delivered - before;
    assert_eq!(withdrawal, 27, "an UPDATE that withdraws one prefix");
}

#[test]
fn terms_match_own_routes_and_sources() {
    let mut network = chain(4, 3);
    network.originate(1, net(50));
    network.run(SECOND);
    let local = vec![Match::PeerType(vec![RouteSource::Local])];
    let own_only = terms(vec![
        term(local, Vec::new(), Verdict::Accept),
        term(Vec::new(), Vec::new(), Verdict::Reject),
    ]);
    set_export(&mut network, 1, 2, &own_only);
    assert!(network.has_route(2, net(50)) && !network.has_route(2, net(1)));
    let from_first = vec![Match::Source(vec![peer_name(0)])];
    let learned_only = terms(vec![
        term(from_first, Vec::new(), Verdict::Accept),
        term(Vec::new(), Vec::new(), Verdict::Reject),
    ]);
    set_export(&mut network, 1, 2, &learned_only);
    assert!(!network.has_route(2, net(50)) && network.has_route(2, net(1)));
}

#[test]
fn an_ebgp_peer_that_must_have_policies_has_no_routes_without() {
    let strict = |mut config: Config| {
        for peer in config.peers.values_mut() {
            peer.options.require_policy = true;
        }
        config
    };
    let configs = vec![
        config(0, 65000, &[(1, 65001)]),
        strict(config(1, 65001, &[(0, 65000), (2, 65002)])),
        config(2, 65002, &[(1, 65001)]),
    ];
    let mut network = Network::new(5, configs);
    network.originate(0, net(1));
    network.originate(1, net(2));
    network.run(20 * SECOND);
    assert!(!network.has_route(1, net(1)) && !network.has_route(2, net(2)));
    let refused = |(_, event): &(Duration, Event)| {
        matches!(
            event,
            Event::RouteRefused {
                reason: RouteRefusal::PolicyMissing,
                ..
            }
        )
    };
    assert!(network.nodes[1].events.iter().any(refused));
    let explicit = terms(vec![term(Vec::new(), Vec::new(), Verdict::Accept)]);
    set_import(&mut network, 1, 0, &explicit);
    assert!(network.has_route(1, net(1)) && !network.has_route(2, net(1)));
    set_export(&mut network, 1, 2, &explicit);
    assert!(network.has_route(2, net(1)) && network.has_route(2, net(2)));
    assert!((0..3).all(|node| network.session_downs(node).is_empty()));
}

#[test]
fn what_comes_last_changes_every_route_and_a_receiver_may_make_a_leaving_ones_the_last_resort() {
    let mut network = chain(1, 3);
    // A term for one prefix, which accepts before anything else could be said.
    let mut leaving = terms(vec![term(
        only(0),
        vec![Edit::SetMed(Some(7))],
        Verdict::Accept,
    )]);
    leaving.last = vec![
        Edit::AddCommunities(vec![Community::GRACEFUL_SHUTDOWN]),
        Edit::SetLocalPref(0),
    ];
    set_export(&mut network, 0, 1, &leaving);
    let said = [Community::GRACEFUL_SHUTDOWN.to_string()];
    for (n, med) in [(0, Some(7)), (1, None)] {
        let heard = path(&mut network, 1, net(n));
        assert_eq!((heard.med, heard.local_pref), (med, 100), "{n}");
        assert_eq!(heard.communities, said, "{n}");
    }
    assert_eq!(path(&mut network, 2, net(1)).communities, said);

    // Whoever honours it does so for these routes only, also when another peer's rule has its say before.
    let mut honours = terms(vec![term(
        only(2),
        vec![Edit::SetLocalPref(300)],
        Verdict::Accept,
    )]);
    honours.last = vec![Edit::LastResortIfLeaving];
    set_import(&mut network, 1, 0, &honours);
    for n in [1, 2] {
        assert_eq!(path(&mut network, 1, net(n)).local_pref, 0, "{n}");
    }
    network.originate(0, net(11));
    network.run(SECOND);
    assert_eq!(path(&mut network, 1, net(11)).local_pref, 0, "a new one");
    set_export(&mut network, 0, 1, &RoutePolicy::accept_all());
    let back = [1, 2, 11].map(|n| path(&mut network, 1, net(n)).local_pref);
    assert_eq!(back, [100, 300, 100]);
    let events = network.nodes.iter().flat_map(|node| &node.events);
    let downs = events.filter(|event| matches!(event, (_, Event::SessionDown { .. })));
    assert_eq!(downs.count(), 0);
}
