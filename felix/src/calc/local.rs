//! This node itself: what its Node object, its links and the pools together say.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::block::Blocks;
use super::host::Host;
use super::pool::Pools;
use super::settings::Settings;
use super::underlay::{Underlay, stays_inside};
use crate::desired::{IfName, Mac};

/// Bytes that VXLAN over IPv4 adds to a packet.
const VXLAN_OVERHEAD_BYTES: u32 = 50;
/// Bytes that IPIP adds to a packet.
const IPIP_OVERHEAD_BYTES: u32 = 20;

/// A tunnel that this node is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tunnel {
    pub(super) mtu_bytes: Option<u32>,
    /// The MTU that a setting asks for, where that is more than packets between nodes can have.
    pub(super) too_large_bytes: Option<u32>,
}

/// What carries packets to other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Uplink {
    /// No device carries the node's address (yet).
    #[default]
    Unknown,
    /// The device that carries the node's address.
    Device(IfName),
    /// The node's address is on a device that no packet leaves by: the host's routes lead to the others, over one device
    /// or several.
    Routed,
}

impl Uplink {
    /// And the MTU, the smallest of several.
    fn derive(underlay: &Underlay, own: IpAddr, others: &[IpAddr]) -> (Self, Option<u32>) {
        match underlay.device_of(own) {
            None => (Self::Unknown, None),
            Some(link) if stays_inside(link) => {
                let alike = others.iter().filter(|addr| addr.is_ipv4() == own.is_ipv4());
                let devices = underlay.devices_towards(own, alike.copied());
                let mtu_bytes = devices.iter().map(|link| link.mtu_bytes).min();
                (Self::Routed, mtu_bytes)
            }
            Some(link) => (Self::Device(link.ifname.clone()), Some(link.mtu_bytes)),
        }
    }
}

/// Derived facts about this node. Every planned route may depend on any of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Local {
    pub(super) v4: Option<Ipv4Net>,
    pub(super) v6: Option<Ipv6Net>,
    pub(super) vxlan_addr: Option<Ipv4Addr>,
    pub(super) vxlan_mac: Option<Mac>,
    pub(super) ipip_addr: Option<Ipv4Addr>,
    /// What carries packets to other nodes, for each family.
    pub(super) uplink_v4: Uplink,
    pub(super) uplink_v6: Uplink,
    pub(super) host_mtu_bytes: Option<u32>,
    /// Present when the pools, or a setting, ask for it.
    pub(super) vxlan: Option<Tunnel>,
    pub(super) ipip: Option<Tunnel>,
}

impl Local {
    pub(super) fn derive(
        settings: &Settings,
        hosts: &BTreeMap<String, Host>,
        pools: &Pools,
        blocks: &Blocks,
        underlay: &Underlay,
    ) -> Self {
        let host = hosts.get(&settings.node_name);
        let v4 = host.and_then(|host| host.v4);
        let v6 = host.and_then(|host| host.v6);
        let others = hosts
            .iter()
            .filter(|(name, _)| **name != settings.node_name);
        let addresses: Vec<IpAddr> = others.flat_map(|(_, host)| host.addresses()).collect();
        let uplink = |own: Option<IpAddr>| match own {
            Some(own) => Uplink::derive(underlay, own, &addresses),
            None => (Uplink::Unknown, None),
        };
        let (uplink_v4, mtu_v4) = uplink(v4.map(|net| net.addr().into()));
        let (uplink_v6, mtu_v6) = uplink(v6.map(|net| net.addr().into()));
        let host_mtu_bytes = mtu_v4.or(mtu_v6);
        let tunnel = |wanted: bool, set: Option<u32>, overhead: u32| {
            let fits = host_mtu_bytes.map(|mtu| mtu.saturating_sub(overhead));
            let mtu_bytes = match (set, fits) {
                (Some(set), Some(fits)) => Some(set.min(fits)),
                (set, fits) => set.or(fits),
            };
            let asked = set.filter(|set| mtu_bytes.is_some_and(|mtu_bytes| mtu_bytes < *set));
            wanted.then_some(Tunnel {
                mtu_bytes,
                too_large_bytes: asked,
            })
        };
        Self {
            v4,
            v6,
            vxlan_addr: host.and_then(|host| host.vxlan),
            vxlan_mac: host.and_then(|host| host.vxlan_mac.clone().ok()),
            ipip_addr: host.and_then(|host| host.ipip),
            uplink_v4,
            uplink_v6,
            host_mtu_bytes,
            vxlan: tunnel(
                settings.vxlan_enabled.unwrap_or_else(|| {
                    // Pods of a deleted pool are reached through the tunnel as long as this node has its address.
                    let has_address = host.is_some_and(|host| host.vxlan.is_some());
                    pools.vxlan_v4() || (has_address && blocks.any_without_pool(pools))
                }),
                settings.vxlan_mtu_bytes,
                VXLAN_OVERHEAD_BYTES,
            ),
            ipip: tunnel(
                settings.ipip_enabled.unwrap_or_else(|| pools.ipip()),
                settings.ipip_mtu_bytes,
                IPIP_OVERHEAD_BYTES,
            ),
        }
    }

    /// Whether an address lies in the subnet of this node's own one. Only this node's prefix length counts.
    pub(super) fn shares_subnet(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(addr) => self.v4.is_some_and(|net| net.contains(&addr)),
            IpAddr::V6(addr) => self.v6.is_some_and(|net| net.contains(&addr)),
        }
    }

    /// What carries packets to other nodes' addresses of the family of `like`.
    pub(super) const fn uplink(&self, like: &IpNet) -> &Uplink {
        match like {
            IpNet::V4(_) => &self.uplink_v4,
            IpNet::V6(_) => &self.uplink_v6,
        }
    }

    /// Addresses of this node's tunnel devices, as prefixes.
    pub(super) fn tunnel_prefixes(&self) -> impl Iterator<Item = IpNet> + use<> {
        let vxlan = self.vxlan.and(self.vxlan_addr);
        let ipip = self.ipip.and(self.ipip_addr);
        vxlan
            .into_iter()
            .chain(ipip)
            .map(|addr| IpNet::from(IpAddr::V4(addr)))
    }

    /// MTU for pods.
    pub(super) fn pod_mtu_bytes(&self) -> Option<u32> {
        let tunnels = [self.vxlan, self.ipip].into_iter().flatten();
        tunnels
            .filter_map(|tunnel| tunnel.mtu_bytes)
            .min()
            .or(self.host_mtu_bytes)
    }
}
