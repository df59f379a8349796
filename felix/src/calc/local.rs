//! This node itself: what its Node object, its links and the pools together say.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::family::PerFamily;
use super::host::Host;
use super::pool::Pools;
use super::settings::Settings;
use super::underlay::{Underlay, stays_inside};
use crate::desired::{IfName, Mac};
use crate::ownership::{IPIP_DEVICE, vxlan_device};
use crate::rules::Family;

/// Bytes that VXLAN adds to a packet, over IPv4 and over IPv6.
const VXLAN_OVERHEAD_BYTES: u32 = 50;
const VXLAN_V6_OVERHEAD_BYTES: u32 = 70;
/// Bytes that IPIP adds to a packet.
const IPIP_OVERHEAD_BYTES: u32 = 20;

/// A tunnel that this node is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tunnel {
    /// A pool, or a setting, asks for it. Otherwise it is kept for the other nodes' packets, as long as this node's object
    /// names its address.
    pub(super) is_asked_for: bool,
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
    fn of(
        is_asked_for: bool,
        host_mtu_bytes: Option<u32>,
        set_bytes: Option<u32>,
        overhead_bytes: u32,
    ) -> Self {
        let fits = host_mtu_bytes.map(|mtu| mtu.saturating_sub(overhead_bytes));
        let mtu_bytes = match (set_bytes, fits) {
            (Some(set), Some(fits)) => Some(set.min(fits)),
            (set, fits) => set.or(fits),
        };
        Self {
            is_asked_for,
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
    /// Address that `tunl0` is to have.
    pub(super) ipip_addr: Option<Ipv4Addr>,
    /// Present when the pools, or a setting, ask for it, or this node's object still names its address.
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
    /// The VXLAN device: present as IPIP's is.
    pub(super) vxlan: Option<Tunnel>,
    /// Address that the device is to have.
    pub(super) vxlan_addr: Option<IpAddr>,
    pub(super) vxlan_mac: Option<Mac>,
}

/// What [`Local`] is derived from.
pub(super) struct Inputs<'a> {
    pub(super) settings: &'a Settings,
    pub(super) hosts: &'a BTreeMap<String, Host>,
    pub(super) pools: &'a Pools,
    pub(super) underlay: &'a Underlay,
    /// Device → address, before this node's object names it.
    pub(super) tunnel_addrs: &'a BTreeMap<&'static str, IpAddr>,
}

impl Inputs<'_> {
    fn to_come(&self, device: &str) -> Option<IpAddr> {
        self.tunnel_addrs.get(device).copied()
    }

    fn own(&self) -> Option<&Host> {
        self.hosts.get(&self.settings.node_name)
    }

    fn family(&self, family: Family) -> LocalFamily {
        let own = self.own().map(|host| &host.families[family]);
        let net = own.and_then(|own| own.net);
        let named_addr = own.and_then(|own| own.vxlan);
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
        let by_pools = self.pools.vxlan(family);
        let vxlan = match family {
            Family::V4 => wants(self.settings.vxlan_enabled, by_pools, named_addr.is_some()),
            // The setting is of IPv4 only.
            Family::V6 if self.settings.ipv6_support => wants(None, by_pools, named_addr.is_some()),
            Family::V6 => None,
        };
        LocalFamily {
            net,
            uplink,
            uplink_mtu_bytes,
            vxlan: vxlan.map(|is_asked_for| {
                Tunnel::of(is_asked_for, uplink_mtu_bytes, set_bytes, overhead_bytes)
            }),
            vxlan_addr: named_addr.or_else(|| self.to_come(vxlan_device(family))),
            vxlan_mac: own.and_then(|own| own.vxlan_mac.clone().ok()),
        }
    }
}

/// Whether a tunnel is wanted, and if so, whether it is asked for. Other nodes take its address in this node's object for the
/// word that packets are accepted there, pods of a deleted pool are reached through it: it stays until that is gone.
fn wants(setting: Option<bool>, by_pools: bool, has_address: bool) -> Option<bool> {
    match setting {
        Some(enabled) => enabled.then_some(true),
        None => (by_pools || has_address).then_some(by_pools),
    }
}

impl Local {
    pub(super) fn derive(inputs: &Inputs<'_>) -> Self {
        let families = PerFamily::of(|family| inputs.family(family));
        let mtus = families.iter().filter_map(|family| family.uplink_mtu_bytes);
        let settings = inputs.settings;
        let named_addr = inputs.own().and_then(|host| host.ipip);
        let ipip_addr = named_addr.or_else(|| match inputs.to_come(IPIP_DEVICE)? {
            IpAddr::V4(addr) => Some(addr),
            IpAddr::V6(_) => None,
        });
        let ipip = wants(
            settings.ipip_enabled,
            inputs.pools.ipip(),
            named_addr.is_some(),
        );
        Self {
            host_mtu_bytes: mtus.min(),
            ipip_addr,
            ipip: ipip.map(|is_asked_for| {
                let mtu_bytes = families[Family::V4].uplink_mtu_bytes;
                let set_bytes = settings.ipip_mtu_bytes;
                Tunnel::of(is_asked_for, mtu_bytes, set_bytes, IPIP_OVERHEAD_BYTES)
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
