//! The speaker's state in the words of the admin socket.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Instant, SystemTime};

use api::admin::{Path, Peer, PrefixCounts, Problem, Route};
use bgp::event::DownReason;
use bgp::route::RouteSource;
use bgp::status::{
    DecisionStep, GracefulRestartState, PathStanding, PathStatus, PeerState, PeerStatus,
    RouteStatus,
};
use bgp::types::AfiSafi;

use crate::task::timestamp;
use crate::telemetry::SessionState;

/// A peer for the admin socket. `now` and `wall` are the same moment.
pub fn peer(status: &PeerStatus, now: Instant, wall: SystemTime) -> Peer {
    let ago = now.saturating_duration_since(status.since);
    Peer {
        name: status.name.to_string(),
        address: status.address,
        asn: status.asn.0,
        peer_type: peer_type(&status.name.0).to_owned(),
        state: status.state_text(),
        since: timestamp(wall.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)).rfc3339(),
        router_id: status.router_id.map(|id| id.0),
        local_address: status.local_address,
        hold_time_seconds: status.hold_time.map(|time| time.as_secs()),
        prefixes: status
            .prefixes
            .iter()
            .map(|(family, counts)| {
                let counts = PrefixCounts {
                    received: counts.received,
                    accepted: counts.accepted,
                    advertised: counts.advertised,
                };
                (family_name(*family).to_owned(), counts)
            })
            .collect(),
        last_error: status.last_error.as_ref().map(ToString::to_string),
        graceful_restart: graceful_restart(status.graceful_restart, now),
    }
}

/// What the peers' states say of the speaker as a whole: BGP Identifiers that two routers have.
pub fn problems(peers: &[PeerStatus]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for peer in peers {
        if let Some(prefix) = peer.shared_router_id {
            problems.push(Problem {
                subject: "router id".to_owned(),
                reason: format!(
                    "another router has this node's: {prefix} came from {} with it in ORIGINATOR_ID, and nothing of that router is taken; give each its own CALICO_ROUTER_ID",
                    peer.name
                ),
            });
        }
        if let Some(DownReason::NotificationSent(text) | DownReason::NotificationReceived(text)) =
            &peer.last_error
            && (text.code, text.subcode) == (2, 3)
            && peer.state != PeerState::Established
        {
            problems.push(Problem {
                subject: "router id".to_owned(),
                reason: format!(
                    "{} has this node's: {text}; give each its own CALICO_ROUTER_ID",
                    peer.name
                ),
            });
        }
    }
    let mut seen: BTreeMap<_, &PeerStatus> = BTreeMap::new();
    for peer in peers {
        let Some(router_id) = peer.router_id else {
            continue;
        };
        // One router may have a session of each family, and several to us from another AS.
        let key = (router_id, peer.asn, peer.address.is_ipv4());
        let first = *seen.entry(key).or_insert(peer);
        if first.name != peer.name && first.is_internal && peer.is_internal {
            problems.push(Problem {
                subject: format!("router id {router_id}"),
                reason: format!(
                    "{} and {} both have it: neither takes what the other announces; give each its own CALICO_ROUTER_ID",
                    first.name, peer.name
                ),
            });
        }
    }
    problems
}

/// What calicoctl calls a session, by the beginning of its name.
fn peer_type(name: &str) -> &'static str {
    match name.split_once('_').map(|(class, _)| class) {
        Some("Mesh") => api::admin::MESH,
        Some("Global") => "global",
        Some("Local") => "local workload",
        _ => "node specific",
    }
}

const fn family_name(family: AfiSafi) -> &'static str {
    match family {
        AfiSafi::Ipv4Unicast => "ipv4 unicast",
        AfiSafi::Ipv6Unicast => "ipv6 unicast",
    }
}

fn graceful_restart(state: GracefulRestartState, now: Instant) -> String {
    match state {
        GracefulRestartState::Off => "off".to_owned(),
        GracefulRestartState::Ready => "ready".to_owned(),
        GracefulRestartState::AwaitingRoutes => "awaiting its routes".to_owned(),
        GracefulRestartState::RetainingUntil(until) => format!(
            "retaining routes for {} s",
            until.saturating_duration_since(now).as_secs()
        ),
        GracefulRestartState::Refreshing => "refreshing".to_owned(),
    }
}

/// A prefix for the admin socket. `lost` says why next hops lead nowhere.
pub fn route(status: &RouteStatus, lost: &BTreeMap<IpAddr, String>) -> Route {
    Route {
        prefix: status.prefix,
        paths: status.paths.iter().map(|one| path(one, lost)).collect(),
    }
}

fn path(path: &PathStatus, lost: &BTreeMap<IpAddr, String>) -> Path {
    Path {
        peer: path.peer.as_ref().map(ToString::to_string),
        path_id: path.path_id.map(|id| id.0),
        source: match path.source {
            RouteSource::Local => "local",
            RouteSource::Ebgp => "ebgp",
            RouteSource::Ibgp => "ibgp",
        }
        .to_owned(),
        next_hop: path.next_hop,
        standing: match path.standing {
            PathStanding::Best => "best".to_owned(),
            PathStanding::Multipath => "multipath".to_owned(),
            PathStanding::Lost(DecisionStep::NextHopReachable) => unreachable(path.next_hop, lost),
            PathStanding::Lost(step) => format!("lost at {step:?}"),
            PathStanding::Refused(reason) => format!("refused: {reason}"),
            PathStanding::Deferred => "deferred until End-of-RIB".to_owned(),
        },
        stale: path.stale,
        as_path: path.as_path.clone(),
        local_pref: path.local_pref,
        med: path.med,
        origin: path.origin.to_owned(),
        communities: path.communities.clone(),
    }
}

fn unreachable(next_hop: Option<IpAddr>, lost: &BTreeMap<IpAddr, String>) -> String {
    let reason = next_hop.and_then(|at| Some((at, lost.get(&at)?)));
    match reason {
        Some((next_hop, why)) => format!("next hop {next_hop} unreachable: {why}"),
        // It is reachable by now, and the speaker has not heard of it.
        None => "next hop unreachable".to_owned(),
    }
}

/// The label of a state.
pub const fn session_state(state: PeerState) -> SessionState {
    match state {
        PeerState::Idle => SessionState::Idle,
        PeerState::Connect => SessionState::Connect,
        PeerState::Active => SessionState::Active,
        PeerState::OpenSent => SessionState::OpenSent,
        PeerState::OpenConfirm => SessionState::OpenConfirm,
        PeerState::Established => SessionState::Established,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_without_a_way_to_its_next_hop_says_which_and_why() {
        let next_hop: IpAddr = "10.0.0.9".parse().expect("a literal");
        let status = PathStatus {
            peer: None,
            path_id: None,
            source: RouteSource::Ibgp,
            next_hop: Some(next_hop),
            standing: PathStanding::Lost(DecisionStep::NextHopReachable),
            stale: false,
            as_path: String::new(),
            local_pref: 100,
            med: None,
            origin: "igp",
            communities: Vec::new(),
        };
        let lost = BTreeMap::from([(next_hop, "no route".to_owned())]);
        let shown = path(&status, &lost).standing;
        assert_eq!(shown, "next hop 10.0.0.9 unreachable: no route");
        let shown = path(&status, &BTreeMap::new()).standing;
        assert_eq!(shown, "next hop unreachable");
    }

    fn peer_status(name: &str, address: &str, router_id: &str) -> PeerStatus {
        PeerStatus {
            name: bgp::types::PeerName(name.into()),
            address: address.parse().expect("a literal"),
            asn: bgp::types::Asn(64512),
            is_internal: true,
            state: PeerState::Established,
            admin_shutdown: false,
            since: Instant::now(),
            uptime: None,
            router_id: Some(bgp::types::RouterId(router_id.parse().expect("a literal"))),
            local_address: None,
            hold_time: None,
            prefixes: BTreeMap::new(),
            shared_router_id: None,
            last_error: None,
            graceful_restart: GracefulRestartState::Ready,
        }
    }

    #[test]
    fn a_router_id_that_two_routers_have_is_a_problem_with_their_names() {
        let a = peer_status("Mesh_10_0_0_2", "10.0.0.2", "1.1.1.1");
        let b = peer_status("Mesh_10_0_0_3", "10.0.0.3", "1.1.1.1");
        let v6 = peer_status("Mesh_fd00__2", "fd00::2", "1.1.1.1");
        assert_eq!(problems(&[a.clone(), v6]), [], "one router, both families");
        let mut external = b.clone();
        external.is_internal = false;
        assert_eq!(
            problems(&[a.clone(), external]),
            [],
            "two links to one router"
        );
        let found = problems(&[a.clone(), b]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].subject, "router id 1.1.1.1");
        let named = "Mesh_10_0_0_2 and Mesh_10_0_0_3 both have it";
        assert!(found[0].reason.starts_with(named), "{}", found[0].reason);

        let mut reflector = a;
        reflector.shared_router_id = Some("10.244.0.0/26".parse().expect("a literal"));
        let found = problems(&[reflector]);
        assert!(
            found[0]
                .reason
                .contains("10.244.0.0/26 came from Mesh_10_0_0_2")
        );
    }
}
