//! Tunnel devices of this node, and for VXLAN the neighbour and forwarding entries of every other node's one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::key::{Key, Kind};
use ipnet::IpNet;

use super::host::Host;
use super::local::{Local, LocalFamily, Tunnel, Uplink};
use super::problem::{IPV6_MTU_MIN, Problem, Reason, Subject};
use super::settings::Settings;
use crate::desired::{
    AddrKey, FdbKey, IfName, LinkSpec, Mac, NeighKey, Parent, Row, RowKey, SysctlKey,
};
use crate::ownership::{IPIP_DEVICE, vxlan_device};
use crate::rules::Family;

/// Rows and problems of the tunnel devices.
#[derive(Debug, Default)]
pub(super) struct Tunnels {
    pub(super) rows: BTreeMap<RowKey, Row>,
    pub(super) problems: Vec<Problem>,
}

/// What a family's VXLAN device and the fields that it is made of are called.
struct Names {
    mtu_setting: &'static str,
    node_address: &'static str,
    tunnel_address: &'static str,
    mac: &'static str,
    usable_mac: &'static str,
}

const fn names(family: Family) -> Names {
    match family {
        Family::V4 => Names {
            mtu_setting: "FELIX_VXLANMTU",
            node_address: "spec.bgp.ipv4Address",
            tunnel_address: "spec.ipv4VXLANTunnelAddr",
            mac: "spec.vxlanTunnelMACAddr",
            usable_mac: "usable spec.vxlanTunnelMACAddr",
        },
        Family::V6 => Names {
            mtu_setting: "FELIX_VXLANMTUV6",
            node_address: "spec.bgp.ipv6Address",
            tunnel_address: "spec.ipv6VXLANTunnelAddr",
            mac: "spec.vxlanTunnelMACAddrV6",
            usable_mac: "usable spec.vxlanTunnelMACAddrV6",
        },
    }
}

impl Tunnels {
    pub(super) fn derive(
        settings: &Settings,
        local: &Local,
        hosts: &BTreeMap<String, Host>,
    ) -> Self {
        let mut tunnels = Self::default();
        // The smallest MTU is that of pods, whatever family the tunnel is of.
        if local.families[Family::V6].net.is_some() {
            let v4 = local.families[Family::V4].vxlan.as_ref();
            if let Some(vxlan) = v4 {
                let device = vxlan_device(Family::V4);
                tunnels.too_small(device, names(Family::V4).mtu_setting, vxlan);
            }
            if let Some(ipip) = &local.ipip {
                tunnels.too_small(IPIP_DEVICE, "FELIX_IPINIPMTU", ipip);
            }
        }
        for family in Family::ALL {
            if let Some(vxlan) = local.families[family].vxlan {
                tunnels.vxlan(family, settings, &local.families[family], &vxlan, hosts);
            }
        }
        if let Some(ipip) = local.ipip {
            tunnels.limited(IPIP_DEVICE, "FELIX_IPINIPMTU", &ipip);
            let spec = LinkSpec::Ipip {
                mtu_bytes: ipip.mtu_bytes,
            };
            let addr = local.ipip_addr.map(IpAddr::V4);
            if addr.is_none() {
                tunnels.lacks(IPIP_DEVICE, "spec.bgp.ipv4IPIPTunnelAddr");
            }
            tunnels.device(IPIP_DEVICE, spec, addr);
            tunnels.put(loose(IPIP_DEVICE));
        }
        tunnels
    }

    fn vxlan(
        &mut self,
        family: Family,
        settings: &Settings,
        local: &LocalFamily,
        vxlan: &Tunnel,
        hosts: &BTreeMap<String, Host>,
    ) {
        let device = vxlan_device(family);
        let names = names(family);
        self.limited(device, names.mtu_setting, vxlan);
        if family == Family::V6 && self.too_small(device, names.mtu_setting, vxlan) {
            return;
        }
        let (net, mac) = match (local.net, local.vxlan_mac) {
            (None, _) => return self.lacks(device, names.node_address),
            (_, None) => return self.lacks(device, names.usable_mac),
            (Some(net), Some(mac)) => (net, mac),
        };
        let addr = local.vxlan_addr;
        if addr.is_none() {
            self.lacks(device, names.tunnel_address);
        }
        let address = net.addr();
        if local.uplink == Uplink::Unknown {
            self.problem(device, Reason::NoParent { address });
        }
        let spec = LinkSpec::Vxlan {
            vni: settings.vxlan_vni,
            port: settings.vxlan_port,
            local: address,
            parent: match &local.uplink {
                Uplink::Unknown => Parent::Unknown,
                Uplink::Routed => Parent::Routed,
                Uplink::Device(name) => Parent::Device(name.clone()),
            },
            mac,
            mtu_bytes: vxlan.mtu_bytes,
            checksums: settings.vxlan_checksums,
        };
        self.device(device, spec, addr);
        if family == Family::V4 {
            self.put(loose(device));
        }
        self.remotes(family, (&settings.node_name, addr), hosts);
    }

    fn lacks(&mut self, device: &'static str, field: &'static str) {
        self.problem(device, Reason::OwnNodeLacks { field });
    }

    fn problem(&mut self, device: &'static str, reason: Reason) {
        self.problems.push(Problem {
            subject: Subject::Device(device),
            field: "",
            reason,
        });
    }

    /// Says so when the MTU that a setting asks for is not the one that is used.
    fn limited(&mut self, device: &'static str, setting: &'static str, tunnel: &Tunnel) {
        if let (Some(asked), Some(used)) = (tunnel.too_large_bytes, tunnel.mtu_bytes) {
            self.problem(
                device,
                Reason::MtuTooLarge {
                    setting,
                    asked,
                    used,
                },
            );
        }
    }

    /// Whether a tunnel cannot carry IPv6, and says so.
    fn too_small(&mut self, device: &'static str, setting: &'static str, tunnel: &Tunnel) -> bool {
        let used = tunnel.mtu_bytes.filter(|mtu| *mtu < IPV6_MTU_MIN);
        if let Some(used) = used {
            self.problem(device, Reason::MtuTooSmall { setting, used });
        }
        used.is_some()
    }

    fn put(&mut self, row: Row) {
        self.rows.insert(row.key(), row);
    }

    fn device(&mut self, name: &'static str, spec: LinkSpec, addr: Option<IpAddr>) {
        let ifname = IfName::from(name);
        self.put(Row::Link(ifname.clone(), spec));
        if let Some(addr) = addr {
            let addr = IpNet::from(addr);
            self.put(Row::Addr(AddrKey { ifname, addr }));
        }
    }

    /// Of two nodes with the same tunnel address or MAC the first by name counts.
    fn remotes(
        &mut self,
        family: Family,
        (own, own_addr): (&str, Option<IpAddr>),
        hosts: &BTreeMap<String, Host>,
    ) {
        let ifname = IfName::from(vxlan_device(family));
        let names = names(family);
        let mut by_addr: BTreeMap<IpAddr, &str> =
            own_addr.into_iter().map(|addr| (addr, own)).collect();
        let mut by_mac: BTreeMap<Mac, &str> = BTreeMap::new();
        for (name, host) in hosts.iter().filter(|(name, _)| *name != own) {
            let host = &host.families[family];
            let (Some(net), Some(tunnel)) = (host.net, host.vxlan) else {
                continue;
            };
            let mac = match &host.vxlan_mac {
                Ok(mac) => *mac,
                Err(text) => {
                    let why = format!("{text:?} is no MAC address");
                    self.node_problem(name, names.mac, Reason::Invalid(why.into()));
                    continue;
                }
            };
            let taken = by_addr
                .get(&tunnel)
                .map(|of| (names.tunnel_address, tunnel.to_string(), *of))
                .or_else(|| {
                    let of = by_mac.get(&mac)?;
                    Some((names.mac, mac.to_string(), *of))
                });
            if let Some((field, value, of)) = taken {
                let of = Key::new(Kind::Node, of);
                self.node_problem(name, field, Reason::Duplicate { value, of });
                continue;
            }
            by_addr.insert(tunnel, name);
            by_mac.insert(mac, name);
            let ifname = ifname.clone();
            let fdb = FdbKey {
                ifname: ifname.clone(),
                mac,
            };
            self.put(Row::Fdb(fdb, net.addr()));
            let addr = tunnel;
            self.put(Row::Neigh(NeighKey { ifname, addr }, mac));
        }
    }

    fn node_problem(&mut self, name: &str, field: &'static str, reason: Reason) {
        self.problems.push(Problem {
            subject: Subject::Object(Key::new(Kind::Node, name)),
            field,
            reason,
        });
    }
}

/// What comes through a tunnel may be answered by another way, while the nodes differ about a pool's mode: its source is
/// only asked to be reachable.
fn loose(device: &str) -> Row {
    Row::Sysctl(SysctlKey::of_ipv4(device, "rp_filter"), "2".into())
}
