//! Several next hops for one prefix, and what is known of next hops.

use std::net::IpAddr;
use std::time::Duration;

use bgp::route::Reachability;
use bgp::status::{DecisionStep, PathStanding};

use crate::network::{Network, address, block, config, peer_name, prefix};

const SECOND: Duration = Duration::from_secs(1);

/// Node 0 between `others`, which all originate block 9. `asn` of 65000 makes them iBGP peers.
fn fan(seed: u64, multipath: u16, asns: &[u32]) -> Network {
    let peers: Vec<(usize, u32)> = asns
        .iter()
        .enumerate()
        .map(|(i, asn)| (i + 1, *asn))
        .collect();
    let mut centre = config(0, 65000, &peers);
    centre.multipath = multipath;
    let others = peers
        .iter()
        .map(|(node, asn)| config(*node, *asn, &[(0, 65000)]));
    let mut network = Network::new(seed, std::iter::once(centre).chain(others).collect());
    for (node, _) in &peers {
        network.originate(*node, block(9));
    }
    network.run(20 * SECOND);
    network
}

fn next_hops(network: &Network) -> Vec<IpAddr> {
    let change = &network.nodes[0].fib[&block(9)];
    change.best.as_ref().expect("present").next_hops.clone()
}

fn standings(network: &mut Network) -> Vec<PathStanding> {
    let routes = network.speaker(0).routes();
    let route = routes.into_iter().find(|route| route.prefix == block(9));
    let paths = route.expect("it has paths").paths;
    paths.iter().map(|path| path.standing).collect()
}

#[test]
fn equal_ebgp_paths_are_used_side_by_side_up_to_the_limit() {
    for (limit, used) in [(0, 1), (1, 1), (2, 2), (8, 3)] {
        let mut network = fan(1, limit, &[65001, 65002, 65003]);
        let expected: Vec<IpAddr> = (1..=used).map(address).collect();
        assert_eq!(next_hops(&network), expected, "limit {limit}");
        let standings = standings(&mut network);
        assert_eq!(standings[0], PathStanding::Best);
        let beside = standings.iter().filter(|s| **s == PathStanding::Multipath);
        assert_eq!(beside.count(), used - 1, "limit {limit}: {standings:?}");
    }
}

#[test]
fn equal_ibgp_paths_are_used_side_by_side_but_never_with_ebgp_ones() {
    let network = fan(2, 4, &[65000, 65000]);
    assert_eq!(next_hops(&network), [address(1), address(2)]);
    let mut network = fan(3, 4, &[65000, 65001]);
    assert_eq!(
        next_hops(&network),
        [address(1)],
        "LOCAL_PREF goes with iBGP only"
    );
    assert_eq!(
        standings(&mut network)[1],
        PathStanding::Lost(DecisionStep::LocalPref)
    );
}

#[test]
fn a_path_that_comes_or_goes_changes_the_next_hops_and_tells_no_peer() {
    let mut network = fan(4, 4, &[65001, 65002, 65003]);
    network.nodes[1].changes.clear();
    network.withdraw(3, block(9));
    network.run(SECOND);
    assert_eq!(next_hops(&network), [address(1), address(2)]);
    network.originate(3, block(9));
    network.run(SECOND);
    assert_eq!(next_hops(&network).len(), 3);
    assert_eq!(network.nodes[1].changes, [], "the best path is the same");
    network.reconfigure(0, |config| config.multipath = 1);
    network.run(SECOND);
    assert_eq!(next_hops(&network), [address(1)]);
    network.reconfigure(0, |config| config.multipath = 2);
    network.run(SECOND);
    assert_eq!(next_hops(&network), [address(1), address(2)]);
    network.kill(1);
    network.run(400 * SECOND);
    assert_eq!(next_hops(&network), [address(2), address(3)]);
}

#[test]
fn a_nearer_next_hop_wins_and_an_unreachable_one_takes_no_part() {
    let mut network = fan(5, 4, &[65001, 65002, 65003]);
    let tell = |network: &mut Network, node, reachability| {
        let now = network.now;
        network
            .speaker(0)
            .handle_next_hop(now, address(node), reachability);
        network.originate(0, prefix("192.168.0.0/24"));
        network.run(SECOND);
    };
    tell(&mut network, 1, Reachability::Reachable { cost: 10 });
    assert_eq!(next_hops(&network), [address(2), address(3)]);
    assert_eq!(
        standings(&mut network)[2],
        PathStanding::Lost(DecisionStep::InteriorCost)
    );
    tell(&mut network, 2, Reachability::Unreachable);
    assert_eq!(next_hops(&network), [address(3)]);
    assert!(standings(&mut network).contains(&PathStanding::Lost(DecisionStep::NextHopReachable)));
    tell(&mut network, 3, Reachability::Reachable { cost: 10 });
    assert_eq!(next_hops(&network), [address(1), address(3)]);
}

#[test]
fn a_watch_is_given_up_with_the_last_route_and_what_was_told_is_forgotten() {
    let mut network = fan(6, 1, &[65001]);
    let watches = |network: &mut Network| {
        let speaker = network.speaker(0);
        std::iter::from_fn(|| speaker.poll_next_hop_watch()).collect::<Vec<_>>()
    };
    assert_eq!(watches(&mut network), [(address(1), true)]);
    network.originate(1, block(8));
    network.run(SECOND);
    network.withdraw(1, block(9));
    network.run(SECOND);
    assert_eq!(watches(&mut network), [], "block 8 still uses it");
    let now = network.now;
    network
        .speaker(0)
        .handle_next_hop(now, address(1), Reachability::Unreachable);
    network.withdraw(1, block(8));
    network.run(SECOND);
    assert_eq!(watches(&mut network), [(address(1), false)]);
    network.originate(1, block(9));
    network.run(SECOND);
    assert_eq!(watches(&mut network), [(address(1), true)]);
    assert_eq!(
        next_hops(&network),
        [address(1)],
        "reachable until told otherwise"
    );
    assert!(network.session_downs(0).is_empty());
    assert!(network.is_established(0, 1), "{}", peer_name(1));
}
