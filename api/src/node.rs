//! `Node`: a host that runs the agent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use sha1::{Digest, Sha1};

use crate::metadata::Resource;

/// A `Node` object.
pub type Node = Resource<NodeSpec>;

/// Annotation that drains a node of its routes (RFC 8326).
pub const DRAIN: &str = "networking.tortie.dev/drain";

/// How far a node is drained of its routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// What it announces is the last resort of those who hear it.
    LastResort,
    /// Besides, what nobody needs of it is announced no longer: only pods that are still there keep their routes.
    Withdrawn,
}

impl Drain {
    /// Each.
    pub const ALL: [Self; 2] = [Self::LastResort, Self::Withdrawn];

    /// As the annotation has it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::LastResort => "last-resort",
            Self::Withdrawn => "withdrawn",
        }
    }

    /// Reads what the annotation has.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|drain| drain.word() == text)
    }
}

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
    /// Address of `vxlan-v6.calico`.
    #[serde(
        rename = "ipv6VXLANTunnelAddr",
        skip_serializing_if = "Option::is_none"
    )]
    pub ipv6_vxlan_tunnel_addr: Option<Ipv6Addr>,
    /// MAC of `vxlan-v6.calico` when it is not the derived one.
    #[serde(
        rename = "vxlanTunnelMACAddrV6",
        skip_serializing_if = "Option::is_none"
    )]
    pub vxlan_tunnel_mac_addr_v6: Option<String>,
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
    #[serde(
        rename = "ipv4Address",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "optional_address_with_len"
    )]
    pub ipv4_address: Option<IpNet>,
    /// IPv6 address with prefix length.
    #[serde(
        rename = "ipv6Address",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "optional_address_with_len"
    )]
    pub ipv6_address: Option<IpNet>,
    /// The node's AS when it differs from the cluster's.
    #[serde(
        rename = "asNumber",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::bgp::as_number"
    )]
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

/// The node's ranges of pods, as Kubernetes gives them out: `status.podCIDRs`. What is no range is left out.
pub fn pod_cidrs(node: &Node) -> Vec<IpNet> {
    let status = node.extra.get("status");
    let ranges = status.and_then(|status| status.get("podCIDRs")?.as_array());
    let texts = ranges.into_iter().flatten().filter_map(Value::as_str);
    let ranges = texts.filter_map(|text| text.parse::<IpNet>().ok());
    ranges.map(|range| range.trunc()).collect()
}

/// MAC of a node's VXLAN device unless its object says otherwise: 0x66, then the first five
/// bytes of the SHA-1 of the node's name, as Calico derives it.
pub fn vxlan_mac(node: &str) -> [u8; 6] {
    mac_of(node)
}

/// As [`vxlan_mac`], for the device of IPv6: from the name followed by `-v6`.
pub fn vxlan_mac_v6(node: &str) -> [u8; 6] {
    mac_of(&format!("{node}-v6"))
}

fn mac_of(text: &str) -> [u8; 6] {
    let digest = Sha1::digest(text.as_bytes());
    let mut mac = [0x66; 6];
    for (byte, from) in mac.iter_mut().skip(1).zip(digest.iter()) {
        *byte = *from;
    }
    mac
}

/// An address with prefix length; a bare address stands for itself alone.
pub(crate) fn address_with_len(text: &str) -> Option<IpNet> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn optional_address_with_len<'de, D: Deserializer<'de>>(
    source: D,
) -> Result<Option<IpNet>, D::Error> {
    match Option::<String>::deserialize(source)? {
        None => Ok(None),
        // Go writes an empty text for an address that is not there.
        Some(text) if text.is_empty() => Ok(None),
        Some(text) => address_with_len(&text)
            .map(Some)
            .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no address"))),
    }
}

/// Reads a MAC address: six pairs of hexadecimal digits, joined by `:` or by `-`.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let separator = if text.contains('-') { '-' } else { ':' };
    let mut mac = [0; 6];
    let mut parts = text.split(separator);
    for byte in &mut mac {
        let part = parts.next()?;
        if part.len() != 2 || !part.bytes().all(|c| c.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vxlan_mac_is_0x66_and_the_start_of_the_names_sha1() {
        assert_eq!(vxlan_mac("node1"), [0x66, 0xf9, 0x37, 0xc3, 0x7e, 0x94]);
        assert_eq!(vxlan_mac_v6("node1"), vxlan_mac("node1-v6"));
    }

    #[test]
    fn a_mac_has_six_pairs_of_hex_digits_joined_alike() {
        let mac = Some([0x66, 0x2a, 0, 0, 0, 1]);
        assert_eq!(parse_mac("66:2A:00:00:00:01"), mac);
        assert_eq!(parse_mac("66-2a-00-00-00-01"), mac);
        for text in [
            "",
            "66:2a:00:00:00",
            "66:2a:00:00:00:01:02",
            "66:2a:00:00:00:+1",
            "66:2a:00-00-00-01",
            "662a.0000.0001",
        ] {
            assert_eq!(parse_mac(text), None, "{text}");
        }
    }
}
