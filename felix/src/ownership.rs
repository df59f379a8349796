//! Which rows of the kernel are this agent's to delete. Everything else is foreign: never written, never deleted.

use ipnet::IpNet;

use crate::desired::{AddrKey, IfName, Mac, RouteKey, RouteSpec, Row};
use crate::rules::Family;

/// Name of the IPv4 VXLAN device.
pub const VXLAN_DEVICE: &str = "vxlan.calico";
/// Name of the IPv6 VXLAN device.
pub const VXLAN_V6_DEVICE: &str = "vxlan-v6.calico";
/// Name of the IPIP device, the kernel's fallback one.
pub const IPIP_DEVICE: &str = "tunl0";
/// MAC of every pod's host end, as Calico sets it: a pod keeps it in its neighbour table.
pub const HOST_END_MAC: Mac = Mac([0xee; 6]);
/// Protocol number of routes that come from BGP and of the blackholes that stand for announced blocks.
pub const PROTOCOL_BGP: u8 = 12;
/// Protocol number of the remaining routes between nodes, unless `device_route_protocol` is set.
pub const PROTOCOL_REMOTE: u8 = 80;
/// Protocol number `boot`: the default of workload routes.
pub const PROTOCOL_BOOT: u8 = 3;
/// The main routing table.
pub const TABLE_MAIN: u32 = 254;
/// Protocol number of routes that the kernel makes itself.
const PROTOCOL_KERNEL: u8 = 2;

/// Who writes [`PROTOCOL_BGP`] routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BgpRoutes {
    /// This agent.
    Ours,
    /// Somebody else: this agent does not speak BGP.
    Foreign,
}

/// What to do with routes on pods' devices that this agent did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExternalRoutes {
    /// Delete them.
    Remove,
    /// Leave them.
    Keep,
}

/// The rules of ownership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// Names of pods' devices begin with one of these.
    pub interface_prefixes: Vec<String>,
    /// Protocol of workload routes; when it is not 3, of all routes but BGP's.
    pub device_route_protocol: u8,
    /// Routes of [`PROTOCOL_BGP`].
    pub bgp_routes: BgpRoutes,
    /// Foreign routes on pods' devices.
    pub external_routes: ExternalRoutes,
}

impl Ownership {
    /// Protocol of routes to other nodes that do not come from BGP.
    pub const fn remote_protocol(&self) -> u8 {
        if self.device_route_protocol == PROTOCOL_BOOT {
            PROTOCOL_REMOTE
        } else {
            self.device_route_protocol
        }
    }

    /// Whether a device is a pod's.
    pub fn is_workload(&self, ifname: &IfName) -> bool {
        self.interface_prefixes
            .iter()
            .any(|prefix| ifname.0.starts_with(prefix.as_str()))
    }

    /// Whether a row that the kernel shows is this agent's.
    pub fn owns(&self, row: &Row) -> bool {
        match row {
            Row::Link(name, _) => is_tunnel(name),
            Row::Mac(name, _) => self.is_workload(name),
            // On pods' devices, its end of sessions with them.
            Row::Addr(AddrKey { ifname, addr }) => {
                let whole = addr.prefix_len() == addr.max_prefix_len();
                (is_tunnel(ifname) || (whole && self.is_workload(ifname))) && !is_link_local(addr)
            }
            Row::Neigh(key, _) => {
                is_vxlan(&key.ifname) || (key.addr.is_ipv4() && self.is_workload(&key.ifname))
            }
            Row::Fdb(key, _) => is_vxlan(&key.ifname),
            Row::NextHop(id, spec) => {
                id.is_own() && spec.protocol == PROTOCOL_BGP && self.bgp_routes == BgpRoutes::Ours
            }
            Row::Route(key, spec) => self.owns_route(key, spec),
            // Calico's own table has this name, too: it is replaced as a whole.
            Row::Rules(..) | Row::Element(_) | Row::Leftover(_) | Row::Sysctl(..) => true,
        }
    }

    fn owns_route(&self, key: &RouteKey, spec: &RouteSpec) -> bool {
        if key.table != TABLE_MAIN || is_link_local(&key.dst) || spec.protocol == PROTOCOL_KERNEL {
            return false;
        }
        if spec.protocol == self.remote_protocol() {
            return true;
        }
        if spec.protocol == PROTOCOL_BGP {
            return self.bgp_routes == BgpRoutes::Ours;
        }
        spec.next_hops
            .iter()
            .filter_map(|hop| hop.ifname.as_ref())
            .any(|ifname| {
                is_vxlan(ifname)
                    || (self.is_workload(ifname)
                        && (self.external_routes == ExternalRoutes::Remove
                            || spec.protocol == self.device_route_protocol))
            })
    }
}

/// Name of the VXLAN device of a family.
pub const fn vxlan_device(family: Family) -> &'static str {
    match family {
        Family::V4 => VXLAN_DEVICE,
        Family::V6 => VXLAN_V6_DEVICE,
    }
}

/// Whether a device is one of the agent's tunnels.
pub fn is_tunnel(ifname: &IfName) -> bool {
    is_vxlan(ifname) || *ifname.0 == *IPIP_DEVICE
}

fn is_vxlan(ifname: &IfName) -> bool {
    Family::ALL
        .iter()
        .any(|family| *ifname.0 == *vxlan_device(*family))
}

fn is_link_local(net: &IpNet) -> bool {
    match net {
        IpNet::V4(_) => false,
        IpNet::V6(net) => net.addr().is_unicast_link_local(),
    }
}
