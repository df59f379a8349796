//! `Node`: a host that runs the agent.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::metadata::Resource;

/// A `Node` object.
pub type Node = Resource<NodeSpec>;

/// What the cluster must know of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    /// BGP facts and the node's own addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bgp: Option<NodeBGPSpec>,
    /// Address of `vxlan.calico`.
    #[serde(
        rename = "ipv4VXLANTunnelAddr",
        skip_serializing_if = "Option::is_none"
    )]
    pub ipv4_vxlan_tunnel_addr: Option<Ipv4Addr>,
    /// MAC of `vxlan.calico` when it is not the derived one.
    #[serde(rename = "vxlanTunnelMACAddr", skip_serializing_if = "Option::is_none")]
    pub vxlan_tunnel_mac_addr: Option<String>,
    /// Host interfaces and their addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<NodeInterface>,
    /// Fields not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The BGP part of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeBGPSpec {
    /// IPv4 address with the prefix length of its subnet, host bits kept (`10.10.1.11/24`).
    #[serde(rename = "ipv4Address", skip_serializing_if = "Option::is_none")]
    pub ipv4_address: Option<IpNet>,
    /// IPv6 address with prefix length.
    #[serde(rename = "ipv6Address", skip_serializing_if = "Option::is_none")]
    pub ipv6_address: Option<IpNet>,
    /// The node's AS when it differs from the cluster's.
    #[serde(rename = "asNumber", skip_serializing_if = "Option::is_none")]
    pub as_number: Option<u32>,
    /// Address of `tunl0`.
    #[serde(rename = "ipv4IPIPTunnelAddr", skip_serializing_if = "Option::is_none")]
    pub ipv4_ipip_tunnel_addr: Option<Ipv4Addr>,
    /// Presence makes the node a route reflector and takes it out of the mesh.
    #[serde(
        rename = "routeReflectorClusterID",
        skip_serializing_if = "Option::is_none"
    )]
    pub route_reflector_cluster_id: Option<Ipv4Addr>,
    /// Fields not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A host interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeInterface {
    /// Name.
    pub name: String,
    /// Addresses.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}
