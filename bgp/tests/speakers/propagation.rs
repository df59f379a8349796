//! Who is told which route, with which attributes: iBGP, reflection, eBGP.

use std::time::Duration;

use bgp::config::Config;
use bgp::event::{Event, RouteRefusal};
use bgp::route::Reachability;
use bgp::route::RouteSource;
use bgp::status::{PathStanding, PathStatus};

use crate::network::{Network, address, block, config, peer_name};

const SECOND: Duration = Duration::from_secs(1);

fn path(network: &mut Network, node: usize, of: usize) -> PathStatus {
    let routes = network.speaker(node).routes();
    let route = routes
        .into_iter()
        .find(|route| route.prefix == block(of))
        .expect("a route");
    route.paths.into_iter().next().expect("a path")
}

fn network(seed: u64, configs: Vec<Config>) -> Network {
    let mut network = Network::new(seed, configs);
    for node in 0..network.nodes.len() {
        network.originate(node, block(node));
    }
    network.run(30 * SECOND);
    network
}

/// Node 0 in the middle, AS numbers as given.
fn star(middle: u32, others: &[u32], change: impl FnOnce(&mut Config)) -> Network {
    let peers: Vec<(usize, u32)> = others
        .iter()
        .enumerate()
        .map(|(n, asn)| (n + 1, *asn))
        .collect();
    let mut center = config(0, middle, &peers);
    change(&mut center);
    let mut configs = vec![center];
    for (node, asn) in &peers {
        configs.push(config(*node, *asn, &[(0, middle)]));
    }
    network(31, configs)
}

#[test]
fn routes_from_ibgp_are_not_told_to_ibgp_without_reflection() {
    let network = star(1, &[1, 1], |_| ());
    assert!(network.has_route(0, block(1)) && network.has_route(1, block(0)));
    assert!(!network.has_route(2, block(1)));
}

#[test]
fn a_reflector_passes_clients_routes_on_unchanged_and_not_back() {
    let mut network = star(1, &[1, 1, 1], |config| {
        config.cluster_id = Some([1, 1, 1, 1].into());
        config
            .peers
            .values_mut()
            .for_each(|peer| peer.route_reflector_client = true);
    });
    for node in 1..4 {
        assert_eq!(network.nodes[node].fib.len(), 4, "node {node}");
    }
    let path = path(&mut network, 2, 1);
    assert_eq!(path.next_hop, Some(address(1)), "the next hop stays");
    assert_eq!(path.local_pref, 2_147_482_623);
    assert_eq!(path.source, RouteSource::Ibgp);
    let routes = network.speaker(1).routes();
    let own = routes
        .iter()
        .find(|route| route.prefix == block(1))
        .expect("own route");
    assert_eq!(
        own.paths.len(),
        1,
        "a client's route does not come back to it"
    );
}

#[test]
fn two_reflectors_of_one_cluster_refuse_each_others_reflections_by_cluster_list() {
    let cluster = |config: &mut Config| {
        config.cluster_id = Some([1, 1, 1, 1].into());
        for (name, peer) in &mut config.peers {
            peer.route_reflector_client = *name == peer_name(2);
        }
    };
    let mut first = config(0, 1, &[(1, 1), (2, 1)]);
    let mut second = config(1, 1, &[(0, 1), (2, 1)]);
    cluster(&mut first);
    cluster(&mut second);
    let network = network(32, vec![first, second, config(2, 1, &[(0, 1), (1, 1)])]);
    let refused = network.nodes[0].events.iter().any(|(_, event)| {
        matches!(event, Event::RouteRefused { reason: RouteRefusal::ClusterLoop, prefix, .. } if *prefix == block(2))
    });
    assert!(refused);
    assert!(network.has_route(0, block(2)) && network.has_route(1, block(2)));
}

#[test]
fn ebgp_puts_its_as_and_address_and_drops_local_pref() {
    let mut network = star(65000, &[65001, 65002], |_| ());
    let path = path(&mut network, 2, 1);
    assert_eq!(path.as_path, "65000 65001");
    assert_eq!(path.next_hop, Some(address(0)));
    assert_eq!(path.local_pref, 100);
    assert_eq!(path.source, RouteSource::Ebgp);
}

#[test]
fn a_route_with_our_as_in_its_path_is_refused_with_the_reason() {
    let mut network = star(65000, &[65001, 65001], |_| ());
    assert!(!network.has_route(2, block(1)));
    assert_eq!(
        path(&mut network, 2, 1).standing,
        PathStanding::Refused(RouteRefusal::AsLoop)
    );
    network.reconfigure(2, |config| {
        config
            .peers
            .values_mut()
            .for_each(|peer| peer.allow_own_as = 1)
    });
    network.run(SECOND);
    assert!(network.has_route(2, block(1)), "allowed once");
}

#[test]
fn next_hop_modes_are_followed() {
    use bgp::config::NextHopMode;
    let keep = |mode| {
        star(65000, &[65001, 65002], move |config| {
            config
                .peers
                .values_mut()
                .for_each(|peer| peer.next_hop = mode);
        })
    };
    assert_eq!(
        path(&mut keep(NextHopMode::Keep), 2, 1).next_hop,
        Some(address(1))
    );
    assert_eq!(
        path(&mut keep(NextHopMode::SelfAddress), 2, 1).next_hop,
        Some(address(0))
    );
}

#[test]
fn the_better_of_two_paths_is_chosen_and_the_other_takes_over() {
    // 0 hears 3's block from 1 directly and from 2 by a longer way: 3 - 1 - 0 and 3 - 4 - 2 - 0.
    let mut network = network(
        33,
        vec![
            config(0, 10, &[(1, 11), (2, 12)]),
            config(1, 11, &[(0, 10), (3, 13)]),
            config(2, 12, &[(0, 10), (4, 14)]),
            config(3, 13, &[(1, 11), (4, 14)]),
            config(4, 14, &[(3, 13), (2, 12)]),
        ],
    );
    assert_eq!(path(&mut network, 0, 3).as_path, "11 13");
    network.reconfigure(1, |config| drop(config.peers.remove(&peer_name(0))));
    network.run(SECOND);
    assert_eq!(path(&mut network, 0, 3).as_path, "12 14 13");
}

#[test]
fn an_unreachable_next_hop_takes_a_route_out_until_it_is_back() {
    let mut network = Network::mesh(34, 2);
    network.run(20 * SECOND);
    let now = network.now;
    let mut watched = Vec::new();
    while let Some(watch) = network.speaker(0).poll_next_hop_watch() {
        watched.push(watch);
    }
    assert_eq!(watched, vec![(address(1), true)]);
    network
        .speaker(0)
        .handle_next_hop(now, address(1), Reachability::Unreachable);
    network.run(SECOND);
    network.originate(0, block(7));
    assert!(!network.has_route(0, block(1)));
    network
        .speaker(0)
        .handle_next_hop(now + SECOND, address(1), Reachability::default());
    network.originate(0, block(8));
    assert!(network.has_route(0, block(1)));
}

#[test]
fn both_families_share_a_session_and_a_route_without_next_hop_of_its_family_is_told_as_withheld() {
    use bgp::event::ExportRefusal;
    use bgp::route::Origination;
    use bgp::types::AfiSafi;

    let both = |node: usize, other: usize| {
        let mut config = config(node, 1, &[(other, 1)]);
        for peer in config.peers.values_mut() {
            peer.families = [AfiSafi::Ipv4Unicast, AfiSafi::Ipv6Unicast].into();
        }
        config
    };
    let mut network = network(35, vec![both(0, 1), both(1, 0)]);
    let now = network.now;
    let with = crate::network::prefix("fd00:1::/64");
    let without = crate::network::prefix("fd00:2::/64");
    let next_hop = "fd00::1".parse().ok();
    for (prefix, next_hop) in [(with, next_hop), (without, None)] {
        let origination = Origination {
            prefix,
            next_hop,
            local_pref: None,
        };
        network
            .speaker(0)
            .handle_originate(now, prefix, Some(origination));
    }
    network.run(SECOND);
    network.originate(0, crate::network::prefix("192.168.0.0/24"));
    network.run(SECOND);
    let route = network.nodes[1].fib[&with].best.clone().expect("present");
    assert_eq!(route.next_hops, vec![next_hop.expect("an address")]);
    assert!(!network.has_route(1, without));
    assert!(network.is_established(0, 1) && network.is_established(1, 0));
    let withheld = Event::NotAdvertised {
        peer: peer_name(1),
        prefix: without,
        reason: ExportRefusal::NoNextHop,
    };
    assert!(
        network.nodes[0]
            .events
            .iter()
            .any(|(_, event)| *event == withheld)
    );
}
