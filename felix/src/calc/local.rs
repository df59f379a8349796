//! This node itself: what its Node object, its links and the pools together say.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::block::Blocks;
use super::family::PerFamily;
use super::host::Host;
use super::pool::Pools;
use super::settings::Settings;
use super::underlay::{Underlay, stays_inside};
use crate::desired::{IfName, Mac};
use crate::rules::Family;

/// Bytes that VXLAN adds to a packet, over IPv4 and over IPv6.
const VXLAN_OVERHEAD_BYTES: u32 = 50;
const VXLAN_V6_OVERHEAD_BYTES: u32 = 70;
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

impl Tunnel {
    /// `set_bytes` is what a setting asks for, `overhead_bytes` what the tunnel adds to a packet.
    fn of(host_mtu_bytes: Option<u32>, set_bytes: Option<u32>, overhead_bytes: u32) -> Self {
        let fits = host_mtu_bytes.map(|mtu| mtu.saturating_sub(overhead_bytes));
        let mtu_bytes = match (set_bytes, fits) {
            (Some(set), Some(fits)) => Some(set.min(fits)),
            (set, fits) => set.or(fits),
        };
        Self {
            mtu_bytes,
            too_large_bytes: set_bytes
                .filter(|set| mtu_bytes.is_some_and(|mtu_bytes| mtu_bytes < *set)),
        }
    }
}

/// Derived facts about this node. Every planned route may depend on any of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Local {
    pub(super) families: PerFamily<LocalFamily>,
    /// Address of `tunl0`.
    pub(super) ipip_addr: Option<Ipv4Addr>,
    /// Present when the pools, or a setting, ask for it.
    pub(super) ipip: Option<Tunnel>,
    pub(super) host_mtu_bytes: Option<u32>,
}

/// Those of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LocalFamily {
    /// This node's address with the length of its subnet.
    pub(super) net: Option<IpNet>,
    /// What carries packets to other nodes.
    pub(super) uplink: Uplink,
    uplink_mtu_bytes: Option<u32>,
    /// The VXLAN device: present when the pools, or a setting, ask for it.
    pub(super) vxlan: Option<Tunnel>,
    pub(super) vxlan_addr: Option<IpAddr>,
    pub(super) vxlan_mac: Option<Mac>,
}

/// What [`Local`] is derived from.
pub(super) struct Inputs<'a> {
    pub(super) settings: &'a Settings,
    pub(super) hosts: &'a BTreeMap<String, Host>,
    pub(super) pools: &'a Pools,
    pub(super) blocks: &'a Blocks,
    pub(super) underlay: &'a Underlay,
}

impl Inputs<'_> {
    fn own(&self) -> Option<&Host> {
        self.hosts.get(&self.settings.node_name)
    }

    fn family(&self, family: Family) -> LocalFamily {
        let own = self.own().map(|host| &host.families[family]);
        let net = own.and_then(|own| own.net);
        let vxlan_addr = own.and_then(|own| own.vxlan);
        let others = self.hosts.iter();
        let others = others.filter(|(name, _)| **name != self.settings.node_name);
        let others: Vec<IpAddr> = others
            .filter_map(|(_, host)| host.address(family))
            .collect();
        let (uplink, uplink_mtu_bytes) = match net {
            Some(net) => Uplink::derive(self.underlay, net.addr(), &others),
            None => (Uplink::Unknown, None),
        };
        let (set_bytes, overhead_bytes) = match family {
            Family::V4 => (self.settings.vxlan_mtu_bytes, VXLAN_OVERHEAD_BYTES),
            Family::V6 => (self.settings.vxlan_mtu_v6_bytes, VXLAN_V6_OVERHEAD_BYTES),
        };
        let vxlan = self.wants_vxlan(family, vxlan_addr.is_some());
        LocalFamily {
            net,
            uplink,
            uplink_mtu_bytes,
            vxlan: vxlan.then(|| Tunnel::of(uplink_mtu_bytes, set_bytes, overhead_bytes)),
            vxlan_addr,
            vxlan_mac: own.and_then(|own| own.vxlan_mac.clone().ok()),
        }
    }

    /// Pods of a deleted pool are reached through the tunnel as long as this node has its address.
    fn wants_vxlan(&self, family: Family, has_address: bool) -> bool {
        let by_pools = || {
            self.pools.vxlan(family)
                || (has_address && self.blocks.any_without_pool(family, self.pools))
        };
        match family {
            Family::V4 => self.settings.vxlan_enabled.unwrap_or_else(by_pools),
            // The setting is of IPv4 only.
            Family::V6 => self.settings.ipv6_support && by_pools(),
        }
    }
}

impl Local {
    pub(super) fn derive(inputs: &Inputs<'_>) -> Self {
        let families = PerFamily::of(|family| inputs.family(family));
        let mtus = families.iter().filter_map(|family| family.uplink_mtu_bytes);
        let settings = inputs.settings;
        let ipip = (settings.ipip_enabled).unwrap_or_else(|| inputs.pools.ipip());
        Self {
            host_mtu_bytes: mtus.min(),
            ipip_addr: inputs.own().and_then(|host| host.ipip),
            ipip: ipip.then(|| {
                let mtu_bytes = families[Family::V4].uplink_mtu_bytes;
                Tunnel::of(mtu_bytes, settings.ipip_mtu_bytes, IPIP_OVERHEAD_BYTES)
            }),
            families,
        }
    }

    /// Whether an address lies in the subnet of this node's own one. Only this node's prefix length counts.
    pub(super) fn shares_subnet(&self, addr: IpAddr) -> bool {
        let net = self.families[Family::of(addr)].net;
        net.is_some_and(|net| net.contains(&addr))
    }

    /// Addresses of this node's tunnel devices, as prefixes.
    pub(super) fn tunnel_prefixes(&self) -> impl Iterator<Item = IpNet> + use<> {
        let vxlan = Family::ALL.map(|family| {
            let family = &self.families[family];
            family.vxlan.and(family.vxlan_addr)
        });
        let ipip = self.ipip.and(self.ipip_addr).map(IpAddr::V4);
        let all = vxlan.into_iter().chain([ipip]);
        all.flatten().map(IpNet::from)
    }

    /// MTU for pods: it holds for both families.
    pub(super) fn pod_mtu_bytes(&self) -> Option<u32> {
        let vxlan = self.families.iter().filter_map(|family| family.vxlan);
        let tunnels = vxlan.chain(self.ipip);
        tunnels
            .filter_map(|tunnel| tunnel.mtu_bytes)
            .min()
            .or(self.host_mtu_bytes)
    }
}
