//! This node itself: what its Node object, its links and the pools together say.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::host::Host;
use super::pool::Pools;
use super::settings::Settings;
use super::underlay::Underlay;
use crate::desired::{IfName, Mac};

/// Bytes that VXLAN over IPv4 adds to a packet.
const VXLAN_OVERHEAD_BYTES: u32 = 50;
/// Bytes that IPIP adds to a packet.
const IPIP_OVERHEAD_BYTES: u32 = 20;

/// A tunnel that this node is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tunnel {
    pub(super) mtu_bytes: Option<u32>,
}

/// Derived facts about this node. Every planned route may depend on any of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Local {
    pub(super) v4: Option<Ipv4Net>,
    pub(super) v6: Option<Ipv6Net>,
    pub(super) vxlan_addr: Option<Ipv4Addr>,
    pub(super) vxlan_mac: Option<Mac>,
    pub(super) ipip_addr: Option<Ipv4Addr>,
    /// Device that carries `v4`, and the same for `v6`.
    pub(super) parent_v4: Option<IfName>,
    pub(super) parent_v6: Option<IfName>,
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
        underlay: &Underlay,
    ) -> Self {
        let host = hosts.get(&settings.node_name);
        let v4 = host.and_then(|host| host.v4);
        let v6 = host.and_then(|host| host.v6);
        let device_v4 = v4.and_then(|net| underlay.device_of(IpAddr::V4(net.addr())));
        let device_v6 = v6.and_then(|net| underlay.device_of(IpAddr::V6(net.addr())));
        let host_mtu_bytes = device_v4.or(device_v6).map(|link| link.mtu_bytes);
        let tunnel = |wanted: bool, set: Option<u32>, overhead: u32| {
            wanted.then(|| Tunnel {
                mtu_bytes: set.or(host_mtu_bytes.map(|mtu| mtu.saturating_sub(overhead))),
            })
        };
        Self {
            v4,
            v6,
            vxlan_addr: host.and_then(|host| host.vxlan),
            vxlan_mac: host.and_then(|host| host.vxlan_mac.clone().ok()),
            ipip_addr: host.and_then(|host| host.ipip),
            parent_v4: device_v4.map(|link| link.ifname.clone()),
            parent_v6: device_v6.map(|link| link.ifname.clone()),
            host_mtu_bytes,
            vxlan: tunnel(
                settings.vxlan_enabled.unwrap_or_else(|| pools.vxlan_v4()),
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

    /// The device that carries this node's address of the family of `like`.
    pub(super) const fn parent(&self, like: &IpNet) -> Option<&IfName> {
        match like {
            IpNet::V4(_) => self.parent_v4.as_ref(),
            IpNet::V6(_) => self.parent_v6.as_ref(),
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
