//! Peers that come from a range of addresses.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use bgp::action::Refused;
use bgp::config::{Config, DynamicRange};
use bgp::speaker::Speaker;
use bgp::types::{Asn, ConnId, PeerName};

use crate::network::{Network, address, block, config, peer_config, prefix};

const SECOND: Duration = Duration::from_secs(1);

/// Node 0 reflects for whoever comes from 10.0.0.0/24; the others know it. Nodes beyond `limit` are refused.
fn hub(seed: u64, size: usize, limit: u32) -> Network {
    let mut reflector = config(0, 64512, &[]);
    let mut template = peer_config(0, 64512);
    template.route_reflector_client = true;
    template.options.dynamic = Some(DynamicRange {
        range: prefix("10.0.0.0/24"),
        limit,
    });
    reflector.peers.insert(PeerName("rack".into()), template);
    let others = (1..size).map(|node| config(node, 64512, &[(0, 64512)]));
    let configs = std::iter::once(reflector).chain(others).collect();
    let mut network = Network::new(seed, configs);
    (1..size).for_each(|node| network.originate(node, block(node)));
    network.run(20 * SECOND);
    network
}

fn names(network: &mut Network) -> Vec<String> {
    let now = network.now;
    let peers = network.speaker(0).peers(now);
    peers
        .into_iter()
        .map(|peer| peer.name.to_string())
        .collect()
}

#[test]
fn who_connects_from_the_range_becomes_a_peer_up_to_the_limit() {
    let mut network = hub(1, 4, 8);
    let all: Vec<String> = (1..4)
        .map(|node| format!("rack/{}", address(node)))
        .collect();
    assert_eq!(names(&mut network), all);
    assert!(network.has_route(1, block(3)) && network.has_route(3, block(2)));
    let mut network = hub(2, 4, 2);
    assert_eq!(names(&mut network).len(), 2, "the third is refused");
    let served = (1..4).filter(|node| network.has_route(0, block(*node)));
    assert_eq!(served.count(), 2);
}

#[test]
fn a_dynamic_peer_goes_when_its_routes_do_and_makes_room_for_another() {
    let mut network = hub(3, 3, 1);
    let first = names(&mut network);
    assert_eq!(first.len(), 1);
    let served = (1..3)
        .find(|node| network.has_route(0, block(*node)))
        .expect("one");
    network.kill(served);
    network.run(SECOND);
    assert_eq!(
        names(&mut network),
        first,
        "its routes are kept over a restart"
    );
    network.run(400 * SECOND);
    let second = names(&mut network);
    assert_eq!(second.len(), 1);
    assert_ne!(second, first);
    assert!(network.has_route(0, block(3 - served)) && !network.has_route(0, block(served)));
}

#[test]
fn a_restarted_hub_waits_for_peers_of_a_range_as_for_others() {
    let mut network = hub(5, 4, 8);
    network.kill(0);
    network.cut.extend([(0, 3), (3, 0)]);
    network.restart(0, 50);
    let now = network.now;
    network.speaker(0).handle_originations_complete(now);
    for node in &mut network.nodes {
        node.changes.clear();
    }
    network.run(30 * SECOND);
    network.cut.clear();
    network.run(60 * SECOND);
    let lost = |change: &bgp::route::RouteChange| change.best.is_none();
    assert!(
        !network.nodes[1].changes.iter().any(lost),
        "{:?}",
        network.nodes[1].changes
    );
    network.kill(3);
    network.run(400 * SECOND);
    assert!(!network.has_route(1, block(3)), "but not for ever");
}

#[test]
fn a_template_that_changes_or_goes_takes_its_peers_along() {
    let mut network = hub(4, 3, 8);
    network.reconfigure(0, |config| {
        let template = config.peers.values_mut().next().expect("the template");
        template.asn = Asn(64999);
    });
    network.run(30 * SECOND);
    assert!(!network.has_route(0, block(1)), "the AS is another one");
    network.reconfigure(0, |config| {
        let template = config.peers.values_mut().next().expect("the template");
        template.asn = Asn(64512);
    });
    network.run(60 * SECOND);
    assert!(network.has_route(0, block(1)) && network.has_route(2, block(1)));
    network.reconfigure(0, |config| config.peers.clear());
    network.run(SECOND);
    assert!(names(&mut network).is_empty() && !network.has_route(0, block(1)));
}

const NEIGHBOUR: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

/// Takes link-local neighbours on any interface, at most two.
fn unnumbered() -> Config {
    let mut own = config(0, 64512, &[]);
    let mut template = peer_config(0, 64513);
    template.options.dynamic = Some(DynamicRange {
        range: prefix("fe80::/10"),
        limit: 2,
    });
    own.peers.insert(PeerName("rack".into()), template);
    own
}

/// The neighbour connects on an interface.
fn connects(speaker: &mut Speaker, now: Instant, number: u64, zone: u32) -> Result<(), Refused> {
    let end = |address, port| SocketAddr::V6(SocketAddrV6::new(address, port, 0, zone));
    let own = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let conn = ConnId::incoming(number);
    let accepted = speaker.handle_accepted(now, conn, end(NEIGHBOUR, 40_000), end(own, 179));
    while speaker.poll_action().is_some() {}
    accepted
}

fn names_of(speaker: &Speaker, now: Instant) -> Vec<String> {
    let peers = speaker.peers(now).into_iter();
    peers.map(|peer| peer.name.to_string()).collect()
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "an Instant to count from; nothing else is read from the clock"
)]
fn one_link_local_address_on_two_interfaces_is_two_peers() {
    let now = Instant::now();
    let mut speaker = Speaker::new(1, now);
    speaker.handle_config(now, unnumbered());
    assert_eq!(connects(&mut speaker, now, 1, 3), Ok(()));
    assert_eq!(connects(&mut speaker, now, 2, 4), Ok(()));
    let both = ["rack/fe80::2%3", "rack/fe80::2%4"];
    assert_eq!(names_of(&speaker, now), both);
    assert_eq!(connects(&mut speaker, now, 3, 5), Err(Refused::RangeFull));
    // A peer that is configured on one of the interfaces takes nothing from the other.
    let mut with_one = unnumbered();
    let mut configured = peer_config(0, 64513);
    configured.address = NEIGHBOUR.into();
    configured.options.scope_id = 3;
    configured.passive = true;
    let name = PeerName("configured".into());
    with_one.peers.insert(name, configured);
    speaker.handle_config(now, with_one);
    assert_eq!(names_of(&speaker, now), ["configured", "rack/fe80::2%4"]);
}
