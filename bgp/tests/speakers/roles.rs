//! What ASes are to each other (RFC 9234): routes go up to providers and across to peers from customers only.

use std::time::Duration;

use bgp::config::Config;
use bgp::event::{Event, RouteRefusal};
use bgp::status::PeerState;
use bgp::types::Role;

use crate::network::{Network, block, config, peer_name};

const SECOND: Duration = Duration::from_secs(1);

fn role(config: &mut Config, peer: usize, role: Role) {
    let peer = config.peers.get_mut(&peer_name(peer)).expect("a peer");
    peer.options.role = Some(role);
}

fn run(configs: Vec<Config>) -> Network {
    let mut network = Network::new(7, configs);
    for node in 0..network.nodes.len() {
        network.originate(node, block(node));
    }
    network.run(30 * SECOND);
    network
}

/// Two speakers of different ASes with those roles; the first insists on one.
fn pair(own: Role, peers: Option<Role>) -> PeerState {
    let mut first = config(0, 1, &[(1, 2)]);
    let mut second = config(1, 2, &[(0, 1)]);
    role(&mut first, 1, own);
    let peer = first.peers.get_mut(&peer_name(1)).expect("a peer");
    peer.options.strict_role = true;
    if let Some(peers) = peers {
        role(&mut second, 0, peers);
    }
    let mut network = run(vec![first, second]);
    let now = network.now;
    network.speaker(0).peers(now)[0].state
}

#[test]
fn a_session_stands_where_the_roles_fit() {
    let all = [
        Role::Provider,
        Role::RouteServer,
        Role::RouteServerClient,
        Role::Customer,
        Role::Peer,
    ];
    for own in all {
        for peer in all {
            let stands = pair(own, Some(peer)) == PeerState::Established;
            assert_eq!(stands, own.counterpart() == peer, "{own:?} {peer:?}");
        }
        assert_ne!(pair(own, None), PeerState::Established, "strict");
    }
}

#[test]
fn only_customers_routes_go_to_providers_and_peers() {
    // Node 0 has a provider, a peer and a customer.
    let mut middle = config(0, 1, &[(1, 2), (2, 3), (3, 4)]);
    role(&mut middle, 1, Role::Customer);
    role(&mut middle, 2, Role::Peer);
    role(&mut middle, 3, Role::Provider);
    let mut configs = vec![middle];
    for (node, asn) in [(1, 2), (2, 3), (3, 4)] {
        configs.push(config(node, asn, &[(0, 1)]));
    }
    let network = run(configs);
    for (of, to, goes) in [
        (1, 2, false),
        (1, 3, true),
        (2, 1, false),
        (2, 3, true),
        (3, 1, true),
        (3, 2, true),
        (0, 1, true),
        (0, 2, true),
        (0, 3, true),
    ] {
        assert_eq!(network.has_route(to, block(of)), goes, "{of} to {to}");
    }
}

#[test]
fn what_a_customer_that_knows_no_roles_passes_on_is_refused_by_its_other_provider() {
    let mut first = config(0, 1, &[(1, 2)]);
    role(&mut first, 1, Role::Provider);
    let customer = config(1, 2, &[(0, 1), (2, 3)]);
    let mut second = config(2, 3, &[(1, 2)]);
    role(&mut second, 1, Role::Provider);
    let network = run(vec![first, customer, second]);
    assert!(network.has_route(1, block(0)));
    assert!(network.has_route(2, block(1)), "its own are no leak");
    assert!(!network.has_route(2, block(0)));
    let refused = Event::RouteRefused {
        peer: peer_name(1),
        prefix: block(0),
        reason: RouteRefusal::RouteLeak,
    };
    let events = &network.nodes[2].events;
    assert!(
        events.iter().any(|(_, event)| *event == refused),
        "{events:?}"
    );
}
