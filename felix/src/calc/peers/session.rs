//! A session's own parameters.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::bgp::BGPPeerSpec;
use bgp::config::{NextHopMode, PeerConfig, PeerOptions, RoutePolicy};
use bgp::policy::{Match, PrefixRange, Term, Verdict};
use bgp::route::RouteSource;
use bgp::types::{AfiSafi, Asn, PeerName};
use ipnet::IpNet;

use super::super::pool::Pools;
use super::super::service::Ranges;
use super::super::settings::LearnedRoutes;
use super::{Builder, Remote, restart_time};

/// What Calico's speaker offers and waits, so that its peers see no difference.
const HOLD_TIME: Duration = Duration::from_secs(240);
const CONNECT_RETRY_TIME: Duration = Duration::from_secs(5);
/// RFC 4271 §4.4.
const KEEPALIVE_TIME_MIN: Duration = Duration::from_secs(1);

impl Builder<'_> {
    /// `spec` is that of an explicit peer. `None` for this node's own speaker, and for a family it has no address of.
    pub(super) fn session(
        &self,
        remote: &Remote,
        spec: Option<&BGPPeerSpec>,
    ) -> Option<PeerConfig> {
        let own = self.own_address(remote.address)?;
        let listens = self.inputs.listen_port(&self.inputs.settings.node_name);
        if own == remote.address && remote.port == listens {
            return None;
        }
        let local_asn = spec.and_then(|spec| spec.local_as_number).map(Asn);
        let internal = remote.asn == local_asn.unwrap_or(self.asn);
        let other_cluster = remote.cluster_id.is_none() || remote.cluster_id != self.own.cluster_id;
        let uses_node_ip = spec.and_then(|spec| spec.source_address.as_deref()) != Some("None");
        Some(PeerConfig {
            address: remote.address,
            port: remote.port,
            local_address: uses_node_ip.then_some(own),
            asn: remote.asn,
            local_asn,
            families: BTreeSet::from([match remote.address {
                IpAddr::V4(_) => AfiSafi::Ipv4Unicast,
                IpAddr::V6(_) => AfiSafi::Ipv6Unicast,
            }]),
            passive: remote.passive,
            hold_time: HOLD_TIME,
            connect_retry_time: CONNECT_RETRY_TIME,
            password: None,
            // 0 hops is how Go writes a field that is not there.
            ttl_security: spec
                .and_then(|spec| spec.ttl_security)
                .filter(|hops| *hops != 0),
            multihop: true,
            route_reflector_client: self.own.cluster_id.is_some() && internal && other_cluster,
            next_hop: spec.map_or(NextHopMode::Auto, |spec| next_hop_mode(spec, internal)),
            allow_own_as: spec
                .and_then(|spec| spec.num_allowed_local_as_numbers)
                .unwrap_or(0),
            graceful_restart: true,
            restart_time: spec.map(|spec| restart_time(spec.max_restart_time.as_deref())),
            prefix_limit: None,
            import: RoutePolicy::accept_all(),
            export: self.export.clone(),
            options: PeerOptions {
                keepalive_time: spec.and_then(keepalive_time),
                ..PeerOptions::default()
            },
        })
    }
}

fn keepalive_time(spec: &BGPPeerSpec) -> Option<Duration> {
    let time = api::duration::parse(spec.keepalive_time.as_deref()?)?;
    Some(time.max(KEEPALIVE_TIME_MIN))
}

fn next_hop_mode(spec: &BGPPeerSpec, internal: bool) -> NextHopMode {
    match spec.next_hop_mode.as_deref() {
        Some("Self") => NextHopMode::SelfAddress,
        Some("Keep") => NextHopMode::Keep,
        _ if spec.keep_original_next_hop && !internal => NextHopMode::Keep,
        _ => NextHopMode::Auto,
    }
}

/// What is sent to every peer: what this node originates, and what it learned inside pools that are exported; with
/// [`LearnedRoutes::All`] what it learned outside pools as well. `communities` are terms that decide nothing.
pub(super) fn export_policy(
    communities: Vec<Term>,
    pools: &Pools,
    services: Vec<IpNet>,
    learned: LearnedRoutes,
) -> RoutePolicy {
    let term = |name: String, matches, accept| Term {
        name: name.into(),
        matches,
        edits: Vec::new(),
        verdict: if accept {
            Verdict::Accept
        } else {
            Verdict::Reject
        },
    };
    let of_pool = |(range, exported)| {
        let inside = Match::Prefix(vec![PrefixRange::or_longer(range)]);
        term(format!("pool {range}"), vec![inside], exported)
    };
    let mut terms = communities;
    terms.extend(pools.export_rules().into_iter().map(of_pool));
    if !services.is_empty() {
        let inside = services.into_iter().map(PrefixRange::or_longer).collect();
        terms.push(term(
            "addresses of Services".to_owned(),
            vec![Match::Prefix(inside)],
            true,
        ));
    }
    let own = Match::PeerType(vec![RouteSource::Local]);
    terms.push(term("own routes".to_owned(), vec![own], true));
    RoutePolicy {
        terms,
        default_accept: learned == LearnedRoutes::All,
        last: Vec::new(),
    }
}

/// Ranges of Services' addresses of which other nodes' routes are sent as well: those that this node announces as wholes; by a
/// reflector also those that are not the cluster's own.
pub(super) fn service_ranges(ranges: &Ranges, reflects: bool) -> Vec<IpNet> {
    let reflected = ranges.reflected().filter(|_| reflects);
    let mut all: Vec<IpNet> = ranges.aggregates().chain(reflected).collect();
    all.sort();
    all.dedup();
    all
}

pub(super) fn peer_name(class: &str, remote: &Remote) -> PeerName {
    let address = remote.address.to_string().replace(['.', ':'], "_");
    let name = match remote.named_port {
        Some(port) => format!("{class}_{address}_port_{port}"),
        None => format!("{class}_{address}"),
    };
    PeerName(Arc::from(name))
}
