//! Tunnel devices of this node, and for VXLAN the neighbour and forwarding entries of every other node's one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::key::{Key, Kind};
use ipnet::IpNet;

use super::host::Host;
use super::local::{Local, Tunnel, Uplink};
use super::problem::{Problem, Reason, Subject};
use super::settings::Settings;
use crate::desired::{AddrKey, FdbKey, IfName, LinkSpec, Mac, NeighKey, Parent, Row, RowKey};
use crate::ownership::{IPIP_DEVICE, VXLAN_DEVICE};

/// Rows and problems of the tunnel devices.
#[derive(Debug, Default)]
pub(super) struct Tunnels {
    pub(super) rows: BTreeMap<RowKey, Row>,
    pub(super) problems: Vec<Problem>,
}

impl Tunnels {
    pub(super) fn derive(
        settings: &Settings,
        local: &Local,
        hosts: &BTreeMap<String, Host>,
    ) -> Self {
        let mut tunnels = Self::default();
        if let Some(vxlan) = local.vxlan {
            tunnels.limited(VXLAN_DEVICE, "FELIX_VXLANMTU", &vxlan);
            match (local.v4, local.vxlan_addr, local.vxlan_mac) {
                (None, _, _) => tunnels.lacks(VXLAN_DEVICE, "spec.bgp.ipv4Address"),
                (_, None, _) => tunnels.lacks(VXLAN_DEVICE, "spec.ipv4VXLANTunnelAddr"),
                (_, _, None) => tunnels.lacks(VXLAN_DEVICE, "usable spec.vxlanTunnelMACAddr"),
                (Some(net), Some(addr), Some(mac)) => {
                    let local_addr = IpAddr::V4(net.addr());
                    if local.uplink_v4 == Uplink::Unknown {
                        let address = local_addr;
                        tunnels.problem(VXLAN_DEVICE, Reason::NoParent { address });
                    }
                    let spec = LinkSpec::Vxlan {
                        vni: settings.vxlan_vni,
                        port: settings.vxlan_port,
                        local: local_addr,
                        parent: match &local.uplink_v4 {
                            Uplink::Unknown => Parent::Unknown,
                            Uplink::Routed => Parent::Routed,
                            Uplink::Device(name) => Parent::Device(name.clone()),
                        },
                        mac,
                        mtu_bytes: vxlan.mtu_bytes,
                    };
                    tunnels.device(VXLAN_DEVICE, spec, IpAddr::V4(addr));
                    tunnels.remotes(&settings.node_name, addr.into(), hosts);
                }
            }
        }
        if let Some(ipip) = local.ipip {
            tunnels.limited(IPIP_DEVICE, "FELIX_IPINIPMTU", &ipip);
            let spec = LinkSpec::Ipip {
                mtu_bytes: ipip.mtu_bytes,
            };
            match local.ipip_addr {
                Some(addr) => tunnels.device(IPIP_DEVICE, spec, IpAddr::V4(addr)),
                None => tunnels.lacks(IPIP_DEVICE, "spec.bgp.ipv4IPIPTunnelAddr"),
            }
        }
        tunnels
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

    fn put(&mut self, row: Row) {
        self.rows.insert(row.key(), row);
    }

    fn device(&mut self, name: &'static str, spec: LinkSpec, addr: IpAddr) {
        let ifname = IfName::from(name);
        self.put(Row::Link(ifname.clone(), spec));
        self.put(Row::Addr(AddrKey {
            ifname,
            addr: IpNet::from(addr),
        }));
    }

    /// Of two nodes with the same tunnel address or MAC the first by name counts.
    fn remotes(&mut self, own: &str, own_addr: IpAddr, hosts: &BTreeMap<String, Host>) {
        let ifname = IfName::from(VXLAN_DEVICE);
        let mut by_addr: BTreeMap<IpAddr, &str> = BTreeMap::from([(own_addr, own)]);
        let mut by_mac: BTreeMap<Mac, &str> = BTreeMap::new();
        for (name, host) in hosts.iter().filter(|(name, _)| *name != own) {
            let (Some(net), Some(tunnel)) = (host.v4, host.vxlan) else {
                continue;
            };
            let tunnel = IpAddr::V4(tunnel);
            let mac = match &host.vxlan_mac {
                Ok(mac) => *mac,
                Err(text) => {
                    let why = format!("{text:?} is no MAC address");
                    self.node_problem(name, "spec.vxlanTunnelMACAddr", Reason::Invalid(why.into()));
                    continue;
                }
            };
            let taken = by_addr
                .get(&tunnel)
                .map(|of| ("spec.ipv4VXLANTunnelAddr", tunnel.to_string(), *of))
                .or_else(|| {
                    let of = by_mac.get(&mac)?;
                    Some(("spec.vxlanTunnelMACAddr", mac.to_string(), *of))
                });
            if let Some((field, value, of)) = taken {
                let of = Key::new(Kind::Node, of);
                self.node_problem(name, field, Reason::Duplicate { value, of });
                continue;
            }
            by_addr.insert(tunnel, name);
            by_mac.insert(mac, name);
            self.put(Row::Fdb(
                FdbKey {
                    ifname: ifname.clone(),
                    mac,
                },
                IpAddr::V4(net.addr()),
            ));
            self.put(Row::Neigh(
                NeighKey {
                    ifname: ifname.clone(),
                    addr: tunnel,
                },
                mac,
            ));
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
