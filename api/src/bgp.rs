//! `BGPConfiguration` and `BGPPeer`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::metadata::{Resource, list_or_null};

/// A `BGPConfiguration` object: `default`, or `node.<name>` for one node.
pub type BGPConfiguration = Resource<BGPConfigurationSpec>;
/// A `BGPPeer` object.
pub type BGPPeer = Resource<BGPPeerSpec>;

/// Settings of every speaker of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BGPConfigurationSpec {
    /// `Debug`, `Info`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_severity_screen: Option<String>,
    /// Full mesh between nodes; on unless false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_to_node_mesh_enabled: Option<bool>,
    /// AS of nodes that name none; 64512 unless set.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "as_number"
    )]
    pub as_number: Option<u32>,
    /// TCP port; 179 unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen_port: Option<u16>,
    /// Restart Time for the mesh, a Go duration; `120s` unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_mesh_max_restart_time: Option<String>,
    /// Ranges of Services' cluster addresses.
    #[serde(
        rename = "serviceClusterIPs",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "list_or_null"
    )]
    pub service_cluster_ips: Vec<ServiceRange>,
    /// Ranges of Services' external addresses.
    #[serde(
        rename = "serviceExternalIPs",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "list_or_null"
    )]
    pub service_external_ips: Vec<ServiceRange>,
    /// Ranges of Services' load balancer addresses.
    #[serde(
        rename = "serviceLoadBalancerIPs",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "list_or_null"
    )]
    pub service_load_balancer_ips: Vec<ServiceRange>,
    /// A node's address on the devices of pods that are its peers.
    #[serde(
        rename = "localWorkloadPeeringIPV4",
        skip_serializing_if = "Option::is_none"
    )]
    pub local_workload_peering_ip_v4: Option<Ipv4Addr>,
    /// The same for IPv6.
    #[serde(
        rename = "localWorkloadPeeringIPV6",
        skip_serializing_if = "Option::is_none"
    )]
    pub local_workload_peering_ip_v6: Option<Ipv6Addr>,
    /// Metric that counts as normal: LOCAL_PREF of own blocks is 2147483647 less this. That of pods' routes unless set.
    #[serde(
        rename = "ipv4NormalRoutePriority",
        skip_serializing_if = "Option::is_none"
    )]
    pub ipv4_normal_route_priority: Option<u32>,
    /// The same for IPv6.
    #[serde(
        rename = "ipv6NormalRoutePriority",
        skip_serializing_if = "Option::is_none"
    )]
    pub ipv6_normal_route_priority: Option<u32>,
    /// Which pools' routes come from BGP: `Enabled`, `Disabled`, `EnabledIPIPOnly`, `EnabledNoEncapOnly`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program_cluster_routes: Option<String>,
    /// `Enabled` unless set: ranges of load balancers are announced as wholes. `Disabled`: Services by themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_load_balancer_aggregation: Option<String>,
    /// Names for communities, for `prefix_advertisements` of the same object.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "list_or_null"
    )]
    pub communities: Vec<NamedCommunity>,
    /// Communities that routes are announced with.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "list_or_null"
    )]
    pub prefix_advertisements: Vec<PrefixAdvertisement>,
    /// Fields not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl BGPConfigurationSpec {
    /// Ranges of Services' addresses of every kind.
    pub fn service_ranges(&self) -> impl Iterator<Item = IpNet> + '_ {
        let kinds = [
            &self.service_cluster_ips,
            &self.service_external_ips,
            &self.service_load_balancer_ips,
        ];
        kinds.into_iter().flatten().map(|range| range.cidr)
    }
}

/// A range of Services' addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRange {
    /// Prefix.
    pub cidr: IpNet,
    /// Fields not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A community under a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedCommunity {
    /// What `prefixAdvertisements` call it.
    pub name: String,
    /// `aa:nn`, or `aa:nn:mm` for a large one; see [`crate::bgp_filter::CommunityValue`].
    pub value: String,
    /// Fields not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Communities of the routes inside a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixAdvertisement {
    /// The range.
    pub cidr: IpNet,
    /// Names out of `communities`, or values.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "list_or_null"
    )]
    pub communities: Vec<String>,
    /// Fields not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A peer of some or all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BGPPeerSpec {
    /// One node; not with `nodeSelector`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// Nodes that have this peer; all when neither this nor `node` is given.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node_selector: String,
    /// `address` or `address:port`, `[v6]:port`.
    #[serde(rename = "peerIP", skip_serializing_if = "String::is_empty")]
    pub peer_ip: String,
    /// The peer's AS.
    #[serde(
        rename = "asNumber",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "as_number"
    )]
    pub as_number: Option<u32>,
    /// Nodes that are the peers; not with `peerIP`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub peer_selector: String,
    /// Pods that are the peers of their own nodes; not with `peerIP` or `peerSelector`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub local_workload_selector: String,
    /// Leave NEXT_HOP alone towards an eBGP peer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keep_original_next_hop: bool,
    /// `Auto`, `Self`, `Keep`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_hop_mode: Option<String>,
    /// `UseNodeIP` or `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_address: Option<String>,
    /// Restart Time, a Go duration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_restart_time: Option<String>,
    /// How often our own AS may stand in a received AS_PATH.
    #[serde(
        rename = "numAllowedLocalASNumbers",
        skip_serializing_if = "Option::is_none"
    )]
    pub num_allowed_local_as_numbers: Option<u8>,
    /// Hops to the peer, for GTSM.
    #[serde(rename = "ttlSecurity", skip_serializing_if = "Option::is_none")]
    pub ttl_security: Option<u8>,
    /// Time between KEEPALIVEs, a Go duration; a third of the Hold Time unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keepalive_time: Option<String>,
    /// Gateway by which the peer is reached; only with `peerIP`, of the same family.
    #[serde(rename = "reachableBy", skip_serializing_if = "Option::is_none")]
    pub reachable_by: Option<String>,
    /// Names of BGPFilters, in the order in which they are applied.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "list_or_null"
    )]
    pub filters: Vec<String>,
    /// AS presented to this peer.
    #[serde(
        rename = "localASNumber",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "as_number"
    )]
    pub local_as_number: Option<u32>,
    /// Fields not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Where a peer is reached: the content of `peerIP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerAddress {
    /// Address.
    pub addr: IpAddr,
    /// TCP port when one is named.
    pub port: Option<u16>,
}

impl PeerAddress {
    /// Reads `10.0.0.1`, `10.0.0.1:1790`, `fd00::1`, `[fd00::1]` or `[fd00::1]:1790`; port 0 is none.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(addr) = text.parse() {
            return Some(Self { addr, port: None });
        }
        if let Some(inner) = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            let addr: Ipv6Addr = inner.parse().ok()?;
            return Some(Self {
                addr: addr.into(),
                port: None,
            });
        }
        let socket: SocketAddr = text.parse().ok()?;
        (socket.port() != 0).then_some(Self {
            addr: socket.ip(),
            port: Some(socket.port()),
        })
    }
}

/// An AS number as a number or, in text, as a number or two 16-bit halves joined by a dot (RFC 5396).
pub(crate) fn as_number_of(value: &Value) -> Option<u32> {
    match value {
        Value::Number(number) => number
            .as_u64()
            .and_then(|number| u32::try_from(number).ok()),
        Value::String(text) => match text.split_once('.') {
            None => text.parse().ok(),
            Some((high, low)) => {
                let (high, low): (u16, u16) = (high.parse().ok()?, low.parse().ok()?);
                Some(u32::from(high) << 16 | u32::from(low))
            }
        },
        _ => None,
    }
}

/// Reads what [`as_number_of`] reads; `null` is no number.
pub(crate) fn as_number<'de, D: Deserializer<'de>>(source: D) -> Result<Option<u32>, D::Error> {
    match Value::deserialize(source)? {
        Value::Null => Ok(None),
        value => as_number_of(&value)
            .map(Some)
            .ok_or_else(|| serde::de::Error::custom(format!("{value} is no AS number"))),
    }
}
