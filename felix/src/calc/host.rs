//! Nodes: addresses, tunnel endpoints and BGP facts.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use api::metadata::Metadata;
use api::node::{NodeSpec, vxlan_mac};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::desired::Mac;

/// What the graph uses of a Node object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    /// When the object was made, RFC 3339.
    pub(super) created: Option<String>,
    /// An agent wrote what its host has into the object.
    pub(super) by_agent: bool,
    /// Address with the length of its subnet, host bits kept.
    pub(super) v4: Option<Ipv4Net>,
    pub(super) v6: Option<Ipv6Net>,
    /// Address of `vxlan.calico`.
    pub(super) vxlan: Option<Ipv4Addr>,
    /// `Err` holds the text that is no MAC.
    pub(super) vxlan_mac: Result<Mac, String>,
    /// Address of `tunl0`.
    pub(super) ipip: Option<Ipv4Addr>,
    pub(super) asn: Option<u32>,
    pub(super) cluster_id: Option<Ipv4Addr>,
    pub(super) labels: BTreeMap<String, String>,
}

impl Host {
    pub(super) fn of(name: &str, spec: &NodeSpec, metadata: &Metadata) -> Self {
        let bgp = spec.bgp.as_ref();
        Self {
            created: metadata.creation_timestamp.clone(),
            by_agent: !spec.interfaces.is_empty(),
            v4: bgp.and_then(|bgp| match bgp.ipv4_address? {
                IpNet::V4(net) => Some(net),
                IpNet::V6(_) => None,
            }),
            v6: bgp.and_then(|bgp| match bgp.ipv6_address? {
                IpNet::V6(net) => Some(net),
                IpNet::V4(_) => None,
            }),
            vxlan: spec.ipv4_vxlan_tunnel_addr,
            vxlan_mac: match &spec.vxlan_tunnel_mac_addr {
                Some(text) if !text.is_empty() => parse_mac(text).ok_or_else(|| text.clone()),
                Some(_) | None => Ok(Mac(vxlan_mac(name))),
            },
            ipip: bgp.and_then(|bgp| bgp.ipv4_ipip_tunnel_addr),
            asn: bgp.and_then(|bgp| bgp.as_number),
            cluster_id: bgp.and_then(|bgp| bgp.route_reflector_cluster_id),
            labels: metadata.labels.clone(),
        }
    }

    /// Its address of the family of `like`.
    pub(super) fn address(&self, like: &IpNet) -> Option<IpAddr> {
        match like {
            IpNet::V4(_) => self.v4.map(|net| IpAddr::V4(net.addr())),
            IpNet::V6(_) => self.v6.map(|net| IpAddr::V6(net.addr())),
        }
    }

    /// Its addresses, the IPv4 one first.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v4 = self.v4.map(|net| IpAddr::V4(net.addr()));
        let v6 = self.v6.map(|net| IpAddr::V6(net.addr()));
        v4.into_iter().chain(v6)
    }
}

/// Reads a MAC address as objects have it.
pub(super) fn parse_mac(text: &str) -> Option<Mac> {
    api::node::parse_mac(text).map(Mac)
}
