//! Nodes: addresses, tunnel endpoints and BGP facts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use api::metadata::Metadata;
use api::node::{DRAIN, Drain, NodeSpec, vxlan_mac, vxlan_mac_v6};
use ipnet::IpNet;

use super::family::PerFamily;
use crate::desired::Mac;
use crate::rules::Family;

/// What the graph uses of a Node object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    /// When the object was made, RFC 3339.
    pub(super) created: Option<String>,
    /// An agent wrote what its host has into the object.
    pub(super) by_agent: bool,
    pub(super) families: PerFamily<HostFamily>,
    /// Address of `tunl0`.
    pub(super) ipip: Option<Ipv4Addr>,
    /// What is on its devices, as far as the object says.
    pub(super) on_devices: BTreeSet<IpAddr>,
    pub(super) asn: Option<u32>,
    pub(super) cluster_id: Option<Ipv4Addr>,
    pub(super) labels: BTreeMap<String, String>,
    /// How far it is drained of its routes; `Err` holds the text that says nothing.
    pub(super) drain: Result<Option<Drain>, String>,
}

/// What a node has of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostFamily {
    /// Address with the length of its subnet, host bits kept.
    pub(super) net: Option<IpNet>,
    /// Address of the VXLAN device.
    pub(super) vxlan: Option<IpAddr>,
    /// Its MAC; `Err` holds the text that is no MAC.
    pub(super) vxlan_mac: Result<Mac, String>,
}

impl HostFamily {
    fn of(family: Family, name: &str, spec: &NodeSpec) -> Self {
        let bgp = spec.bgp.as_ref();
        let (net, vxlan, mac, derived) = match family {
            Family::V4 => (
                bgp.and_then(|bgp| bgp.ipv4_address),
                spec.ipv4_vxlan_tunnel_addr.map(IpAddr::V4),
                &spec.vxlan_tunnel_mac_addr,
                vxlan_mac(name),
            ),
            Family::V6 => (
                bgp.and_then(|bgp| bgp.ipv6_address),
                spec.ipv6_vxlan_tunnel_addr.map(IpAddr::V6),
                &spec.vxlan_tunnel_mac_addr_v6,
                vxlan_mac_v6(name),
            ),
        };
        Self {
            net: net.filter(|net| Family::of(net.addr()) == family),
            vxlan,
            vxlan_mac: match mac {
                Some(text) if !text.is_empty() => parse_mac(text).ok_or_else(|| text.clone()),
                Some(_) | None => Ok(Mac(derived)),
            },
        }
    }
}

impl Host {
    pub(super) fn of(name: &str, spec: &NodeSpec, metadata: &Metadata) -> Self {
        let bgp = spec.bgp.as_ref();
        Self {
            created: metadata.creation_timestamp.clone(),
            by_agent: !spec.interfaces.is_empty(),
            families: PerFamily::of(|family| HostFamily::of(family, name, spec)),
            ipip: bgp.and_then(|bgp| bgp.ipv4_ipip_tunnel_addr),
            on_devices: (spec.interfaces.iter())
                .flat_map(|interface| interface.addresses.iter().copied())
                .collect(),
            asn: bgp.and_then(|bgp| bgp.as_number),
            cluster_id: bgp.and_then(|bgp| bgp.route_reflector_cluster_id),
            labels: metadata.labels.clone(),
            drain: (metadata.annotations.get(DRAIN))
                .map(|text| Drain::parse(text).ok_or_else(|| text.clone()))
                .transpose(),
        }
    }

    /// Its address of a family.
    pub(super) fn address(&self, family: Family) -> Option<IpAddr> {
        self.families[family].net.map(|net| net.addr())
    }

    /// Every address it is known to have: what it sends itself may have any of them as source.
    pub(super) fn all_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses().chain(self.on_devices.iter().copied())
    }

    /// Its addresses, the IPv4 one first.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        Family::ALL
            .map(|family| self.address(family))
            .into_iter()
            .flatten()
    }
}

/// Reads a MAC address as objects have it.
pub(super) fn parse_mac(text: &str) -> Option<Mac> {
    api::node::parse_mac(text).map(Mac)
}
