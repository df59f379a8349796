//! Several paths of one prefix on one session (RFC 7911).

use std::net::IpAddr;
use std::time::Duration;

use bgp::config::{AddPaths, Config};
use bgp::event::{DownReason, Event};
use bgp::status::PeerState;
use bgp::types::{AfiSafi, PathId};
use bgp::wire::capability::{AddPathFamily, Capability};
use bgp::wire::family::Family;
use bgp::wire::update::encode::{MessageLimit, write_unreach};
use ipnet::IpNet;

use crate::network::{Network, address, block, config, peer_name, prefix};
use crate::scripted::{Scripted, attributes};

const SECOND: Duration = Duration::from_secs(1);
const BOTH: AddPaths = AddPaths {
    receive: true,
    send: true,
};

/// Node 0 reflects between node 1, which uses up to 4 next hops, and nodes 2 and 3. `reflector` and `client` say what is offered
/// between 0 and 1.
fn reflected(seed: u64, reflector: AddPaths, client: AddPaths) -> Network {
    let asn = 65000;
    let mut centre = config(0, asn, &[(1, asn), (2, asn), (3, asn)]);
    centre.cluster_id = Some(centre.router_id.0);
    for peer in centre.peers.values_mut() {
        peer.route_reflector_client = true;
    }
    offer(&mut centre, 1, reflector);
    let mut first = config(1, asn, &[(0, asn)]);
    first.multipath = 4;
    offer(&mut first, 0, client);
    let others = [2, 3].map(|node| config(node, asn, &[(0, asn)]));
    let configs = [centre, first].into_iter().chain(others).collect();
    let mut network = Network::new(seed, configs);
    [2, 3]
        .iter()
        .for_each(|node| network.originate(*node, block(9)));
    network.run(20 * SECOND);
    network
}

fn offer(config: &mut Config, peer: usize, add_paths: AddPaths) {
    let peer = config.peers.get_mut(&peer_name(peer)).expect("a peer");
    peer.options.add_paths = add_paths;
}

fn next_hops(network: &Network) -> Vec<IpAddr> {
    let change = network.nodes[1].fib.get(&block(9));
    let best = change.and_then(|change| change.best.as_ref());
    best.map_or_else(Vec::new, |best| best.next_hops.clone())
}

#[test]
fn a_client_of_a_reflector_uses_every_path_for_as_long_as_it_is_there() {
    let mut network = reflected(1, BOTH, BOTH);
    assert_eq!(next_hops(&network), [address(2), address(3)]);
    network.withdraw(2, block(9));
    network.run(SECOND);
    assert_eq!(next_hops(&network), [address(3)]);
    network.originate(2, block(9));
    network.run(SECOND);
    assert_eq!(next_hops(&network), [address(2), address(3)]);
    network.kill(3);
    network.run(300 * SECOND);
    assert_eq!(next_hops(&network), [address(2)]);
    network.withdraw(2, block(9));
    network.run(SECOND);
    assert!(next_hops(&network).is_empty());
}

#[test]
fn the_listing_tells_the_paths_of_one_peer_apart_by_their_numbers() {
    let network = reflected(1, BOTH, BOTH);
    let paths = |node: usize| {
        let speaker = network.nodes[node].speaker.as_ref().expect("running");
        let mut routes = speaker.routes();
        routes.retain(|route| route.prefix == block(9));
        let ids = routes.iter().flat_map(|route| &route.paths);
        ids.map(|path| path.path_id).collect::<Vec<_>>()
    };
    let client = paths(1);
    assert_eq!(client.len(), 2);
    assert!(client.iter().all(Option::is_some), "{client:?}");
    assert_ne!(client[0], client[1]);
    assert_eq!(paths(0), [None, None], "where none are sent there are none");
}

#[test]
fn both_ends_have_to_want_a_direction() {
    let only = |receive, send| AddPaths { receive, send };
    for (reflector, client, paths) in [
        (only(false, true), only(true, false), 2),
        (only(true, true), only(false, true), 1),
        (only(true, false), only(true, true), 1),
        (only(false, false), BOTH, 1),
        (BOTH, only(false, false), 1),
    ] {
        let network = reflected(2, reflector, client);
        let found = next_hops(&network).len();
        assert_eq!(found, paths, "{reflector:?} with {client:?}");
    }
}

#[test]
fn another_offer_opens_the_session_anew() {
    let mut network = reflected(3, BOTH, BOTH);
    network.reconfigure(0, |config| offer(config, 1, AddPaths::default()));
    network.run(20 * SECOND);
    assert_eq!(network.session_downs(1).len(), 1);
    assert_eq!(next_hops(&network).len(), 1);
}

/// A peer of another AS that sends several paths.
fn scripted() -> Scripted {
    let mut own = config(0, 65000, &[(1, 65001)]);
    offer(&mut own, 1, BOTH);
    let mut peer = Scripted::new(own);
    let capability = Capability::AddPath(vec![AddPathFamily {
        family: Family::from(AfiSafi::Ipv4Unicast),
        receive: false,
        send: true,
    }]);
    peer.establish(65001, &[capability]);
    peer
}

/// 198.51.100.0/24 as NLRI.
fn nlri(path_id: u32) -> Vec<u8> {
    let mut nlri = path_id.to_be_bytes().to_vec();
    nlri.extend([24, 198, 51, 100]);
    nlri
}

const NET: &str = "198.51.100.0/24";

fn paths(peer: &Scripted) -> usize {
    let routes = peer.speaker.routes();
    routes.iter().map(|route| route.paths.len()).sum()
}

fn withdraw(peer: &mut Scripted, path_id: u32) {
    let entry: (Option<PathId>, IpNet) = (Some(PathId(path_id)), prefix(NET));
    let mut bytes = Vec::new();
    let mut entries = std::iter::once(entry).peekable();
    write_unreach(
        &mut bytes,
        AfiSafi::Ipv4Unicast,
        &mut entries,
        MessageLimit::Standard,
    );
    peer.say(&bytes);
}

#[test]
fn a_path_replaces_and_withdraws_only_that_of_its_own_identifier() {
    let mut peer = scripted();
    for path_id in [7, 0, 7, u32::MAX] {
        peer.update(&attributes(65001), &nlri(path_id));
    }
    assert_eq!(paths(&peer), 3);
    withdraw(&mut peer, 1);
    assert_eq!(paths(&peer), 3);
    withdraw(&mut peer, 0);
    assert_eq!(paths(&peer), 2);
    withdraw(&mut peer, 7);
    withdraw(&mut peer, u32::MAX);
    assert_eq!(paths(&peer), 0);
    assert_eq!(peer.state(), PeerState::Established);
}

#[test]
fn a_path_identifier_that_is_cut_ends_the_session() {
    let mut peer = scripted();
    peer.update(&attributes(65001), &nlri(7)[..3]);
    let ended = peer.events.iter().any(|event| {
        matches!(event, Event::SessionDown { reason: DownReason::NotificationSent(text), .. }
            if (text.code, text.subcode) == (3, 10))
    });
    assert!(ended, "{:?}", peer.events);
}

#[test]
fn more_paths_of_one_prefix_than_there_may_be_end_the_session_and_leave_nothing() {
    let mut peer = scripted();
    for first in (0..4096).step_by(256) {
        let many: Vec<u8> = (first..first + 256).flat_map(nlri).collect();
        peer.update(&attributes(65001), &many);
    }
    assert_eq!(peer.state(), PeerState::Established);
    assert_eq!(paths(&peer), 4096);
    peer.update(&attributes(65001), &nlri(4096));
    let ended = peer.events.iter().any(|event| {
        matches!(event, Event::SessionDown { reason: DownReason::NotificationSent(text), .. }
            if (text.code, text.subcode) == (6, 8))
    });
    assert!(ended, "out of resources");
    peer.wait(SECOND);
    assert_eq!(paths(&peer), 0);
}
