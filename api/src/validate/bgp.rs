//! Rules of `BGPConfiguration` and `BGPPeer`.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Map, Value};

use super::bgp_filter::{check_community, check_priority};
use super::{Fault, check_as_number, check_restart_time, check_selector, check_word, is_unicast};
use crate::bgp::{BGPConfiguration, BGPConfigurationSpec, BGPPeer, BGPPeerSpec, PeerAddress};
use crate::duration;

/// KEEPALIVEs more often than this are forbidden (RFC 4271 §4.4).
const KEEPALIVE_TIME_MIN: Duration = Duration::from_secs(1);
/// Communities with a name, and ranges with communities, at most.
const ENTRIES_MAX: usize = 500;
/// Communities of one range, at most.
const ENTRY_COMMUNITIES_MAX: usize = 50;

pub(crate) fn check_configuration(config: &BGPConfiguration, faults: &mut Vec<Fault>) {
    let config = &config.spec;
    const SEVERITIES: [&str; 6] = ["trace", "debug", "info", "warning", "error", "fatal"];
    if let Some(severity) = &config.log_severity_screen
        && !SEVERITIES.contains(&severity.to_ascii_lowercase().as_str())
    {
        faults.push(Fault::new(
            "spec.logSeverityScreen",
            severity,
            "must be one of Trace, Debug, Info, Warning, Error, Fatal",
        ));
    }
    check_as_number("spec.asNumber", config.as_number, faults);
    if config.listen_port == Some(0) {
        faults.push(Fault::new("spec.listenPort", &0, "must be 1 to 65535"));
    }
    for (field, priority) in [
        (
            "spec.ipv4NormalRoutePriority",
            config.ipv4_normal_route_priority,
        ),
        (
            "spec.ipv6NormalRoutePriority",
            config.ipv6_normal_route_priority,
        ),
    ] {
        if let Some(priority) = priority {
            check_priority(field, priority, faults);
        }
    }
    check_extra_word(&config.extra, "bindMode", &["None", "NodeIP"], faults);
    check_word(
        "spec.serviceLoadBalancerAggregation",
        (config.service_load_balancer_aggregation.as_ref()).filter(|word| !word.is_empty()),
        &["Enabled", "Disabled"],
        faults,
    );
    check_secret_ref(&config.extra, "nodeMeshPassword", faults);
    let restart_time = config.node_mesh_max_restart_time.as_ref();
    check_restart_time("spec.nodeMeshMaxRestartTime", restart_time, faults);
    if config.node_to_node_mesh_enabled == Some(false) && restart_time.is_some() {
        faults.push(Fault::new(
            "spec.nodeMeshMaxRestartTime",
            &restart_time,
            "must not be given, because spec.nodeToNodeMeshEnabled is false",
        ));
    }
    check_communities(config, faults);
}

/// A name of `prefixAdvertisements` that nothing has is no fault: the rest of the object counts without it.
fn check_communities(config: &BGPConfigurationSpec, faults: &mut Vec<Fault>) {
    let mut check_length = |field: String, length: usize, most: usize| {
        if length > most {
            faults.push(Fault::new(
                field,
                &length,
                format!("must have {most} entries at most"),
            ));
        }
    };
    let advertised = &config.prefix_advertisements;
    check_length(
        "spec.communities".to_owned(),
        config.communities.len(),
        ENTRIES_MAX,
    );
    check_length(
        "spec.prefixAdvertisements".to_owned(),
        advertised.len(),
        ENTRIES_MAX,
    );
    for (index, entry) in advertised.iter().enumerate() {
        let field = format!("spec.prefixAdvertisements[{index}].communities");
        check_length(field, entry.communities.len(), ENTRY_COMMUNITIES_MAX);
    }
    for (index, community) in config.communities.iter().enumerate() {
        let field = format!("spec.communities[{index}].value");
        check_community(&field, &community.value, faults);
    }
}

pub(crate) fn check_peer(peer: &BGPPeer, faults: &mut Vec<Fault>) {
    let peer = &peer.spec;
    check_scope(peer, faults);
    check_remote_end(peer, faults);
    check_as_number("spec.localASNumber", peer.local_as_number, faults);
    check_word(
        "spec.nextHopMode",
        peer.next_hop_mode.as_ref(),
        &["Auto", "Self", "Keep"],
        faults,
    );
    if peer.keep_original_next_hop && peer.next_hop_mode.is_some() {
        faults.push(Fault::new(
            "spec.keepOriginalNextHop",
            &true,
            "must not be given together with spec.nextHopMode, which replaces it",
        ));
    }
    check_word(
        "spec.sourceAddress",
        peer.source_address.as_ref(),
        &["UseNodeIP", "None"],
        faults,
    );
    check_restart_time(
        "spec.maxRestartTime",
        peer.max_restart_time.as_ref(),
        faults,
    );
    check_keepalive_time(peer, faults);
    check_reachable_by(peer, faults);
    check_extra_word(&peer.extra, "reversePeering", &["Auto", "Manual"], faults);
    check_secret_ref(&peer.extra, "password", faults);
    check_local_workloads(peer, faults);
}

/// A field that is read where it is used: its value must be one of these words.
fn check_extra_word(
    extra: &Map<String, Value>,
    name: &str,
    words: &[&str],
    faults: &mut Vec<Fault>,
) {
    let Some(value) = extra.get(name).filter(|value| !value.is_null()) else {
        return;
    };
    if !value.as_str().is_some_and(|text| words.contains(&text)) {
        faults.push(Fault::new(
            format!("spec.{name}"),
            value,
            format!("must be one of {}", words.join(", ")),
        ));
    }
}

/// A password: `{secretKeyRef: {name, key}}`.
fn check_secret_ref(extra: &Map<String, Value>, name: &str, faults: &mut Vec<Fault>) {
    let Some(value) = extra.get(name).filter(|value| !value.is_null()) else {
        return;
    };
    let text = |part: &str| {
        let text = value.get("secretKeyRef")?.get(part)?.as_str()?;
        (!text.is_empty()).then_some(())
    };
    if text("name").and(text("key")).is_none() {
        faults.push(Fault::new(
            format!("spec.{name}"),
            value,
            "must name a key of a secret: {secretKeyRef: {name: SECRET, key: KEY}}",
        ));
    }
}

/// Why no speaker may have this AS number; `None` when one may.
pub(crate) const fn reserved_as_number(number: u32) -> Option<&'static str> {
    match number {
        0 => Some("AS 0 is reserved (RFC 7607)"),
        23456 => Some("AS 23456 is AS_TRANS, which stands for any 4-octet AS (RFC 6793 §9)"),
        _ => None,
    }
}

fn check_keepalive_time(peer: &BGPPeerSpec, faults: &mut Vec<Fault>) {
    let Some(text) = &peer.keepalive_time else {
        return;
    };
    if duration::parse(text).is_none_or(|time| time < KEEPALIVE_TIME_MIN) {
        faults.push(Fault::new(
            "spec.keepaliveTime",
            text,
            "must be a duration such as 30s, 1s at least (RFC 4271 §4.4)",
        ));
    }
}

fn check_scope(peer: &BGPPeerSpec, faults: &mut Vec<Fault>) {
    check_selector("spec.nodeSelector", &peer.node_selector, faults);
    if !peer.node.is_empty() && !peer.node_selector.is_empty() {
        faults.push(Fault::new(
            "spec.nodeSelector",
            &peer.node_selector,
            format!(
                "must not be given together with spec.node, which is {:?}",
                peer.node
            ),
        ));
    }
}

fn check_remote_end(peer: &BGPPeerSpec, faults: &mut Vec<Fault>) {
    check_selector("spec.peerSelector", &peer.peer_selector, faults);
    let local_workloads = !peer.local_workload_selector.is_empty();
    if peer.peer_ip.is_empty() && peer.peer_selector.is_empty() && !local_workloads {
        faults.push(Fault::absent(
            "spec.peerIP",
            "must be given, unless spec.peerSelector is",
        ));
    }
    if !peer.peer_ip.is_empty() && !peer.peer_selector.is_empty() {
        faults.push(Fault::new(
            "spec.peerSelector",
            &peer.peer_selector,
            format!(
                "must not be given together with spec.peerIP, which is {:?}",
                peer.peer_ip
            ),
        ));
    }
    if !peer.peer_ip.is_empty() {
        match PeerAddress::parse(&peer.peer_ip) {
            Some(address) if is_unicast(address.addr) || is_link_local_v6(address.addr) => {}
            _ => faults.push(Fault::new(
                "spec.peerIP",
                &peer.peer_ip,
                "must be a unicast address, alone or with a port: 10.0.0.1, 10.0.0.1:1790, fd00::1, [fd00::1]:1790",
            )),
        }
        match peer.as_number {
            None => faults.push(Fault::absent(
                "spec.asNumber",
                "must be 1 to 4294967295: with spec.peerIP the peer's AS must be known",
            )),
            Some(_) => check_as_number("spec.asNumber", peer.as_number, faults),
        }
    } else if !peer.peer_selector.is_empty() && peer.as_number.unwrap_or(0) != 0 {
        faults.push(Fault::new(
            "spec.asNumber",
            &peer.as_number,
            "must not be given together with spec.peerSelector: the selected nodes name their AS",
        ));
    }
}

fn check_local_workloads(peer: &BGPPeerSpec, faults: &mut Vec<Fault>) {
    let text = &peer.local_workload_selector;
    check_selector("spec.localWorkloadSelector", text, faults);
    if text.is_empty() {
        return;
    }
    if !peer.peer_ip.is_empty() || !peer.peer_selector.is_empty() {
        faults.push(Fault::new(
            "spec.localWorkloadSelector",
            text,
            "must not be given together with spec.peerIP or spec.peerSelector",
        ));
    } else if peer.as_number.unwrap_or(0) == 0 {
        faults.push(Fault::absent(
            "spec.asNumber",
            "must be 1 to 4294967295: with spec.localWorkloadSelector the pods' AS must be known",
        ));
    } else {
        check_as_number("spec.asNumber", peer.as_number, faults);
    }
}

/// Link-local IPv6 peers are reached through an interface given in the address, so they are let through here.
fn is_link_local_v6(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local())
}

fn check_reachable_by(peer: &BGPPeerSpec, faults: &mut Vec<Fault>) {
    let Some(gateway) = &peer.reachable_by else {
        return;
    };
    let rule = match (gateway.parse::<IpAddr>(), PeerAddress::parse(&peer.peer_ip)) {
        (_, None) => "must not be given without spec.peerIP",
        (Ok(gateway), Some(peer)) if gateway.is_ipv4() == peer.addr.is_ipv4() => return,
        _ => "must be an address of the same family as spec.peerIP",
    };
    faults.push(Fault::new("spec.reachableBy", gateway, rule));
}
