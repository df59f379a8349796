//! The one route that a destination must have, attribute by attribute. Calico's numbers: protocol 3 for pods and through VXLAN, 12 for what
//! comes from BGP, 80 for other routes between nodes (of pools with a tunnel, as FELIX_PROGRAMCLUSTERROUTES has it by default); metric
//! 1024, but 0 for routes between nodes that do not come from BGP, and 2147483547 for what routers of another AS announce.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::netlink::{Hop, Link, Route, RouteKind};
use crate::options::{Mode, Options, Path};
use crate::proof::tables::Tables;

/// How the host's ends of pods' veth pairs begin.
pub(super) const POD_DEVICE_PREFIX: &str = "cali";
/// Names of Calico's VXLAN devices.
const VXLAN_DEVICE: &str = "vxlan.calico";
const VXLAN_V6_DEVICE: &str = "vxlan-v6.calico";
/// Name of the kernel's IP in IP device.
const IPIP_DEVICE: &str = "tunl0";
/// A machine's device towards its rack.
const UNDERLAY: &str = "eth0";

const PROTO_BOOT: u8 = 3;
const PROTO_BIRD: u8 = 12;
const PROTO_FELIX: u8 = 80;
const METRIC_NORMAL: u32 = 1024;
/// 2147483647 less the LOCAL_PREF that a route without one counts as, 100.
const METRIC_FROM_OUTSIDE: u32 = 2_147_483_547;

/// Octets that an encapsulation adds to a packet.
const VXLAN_OVERHEAD: u32 = 50;
const VXLAN_V6_OVERHEAD: u32 = 70;
const IPIP_OVERHEAD: u32 = 20;

/// What a route must be.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    protocol: u8,
    metric: u32,
    ways: Ways,
}

#[derive(Clone, Debug)]
enum Ways {
    /// Packets are dropped.
    Nowhere,
    /// A pod's device; it and the pod have the underlay's MTU less this.
    Pod { overhead: u32, scope_link: bool },
    /// These gateways, in any order, on a device with the underlay's MTU less `overhead`.
    Gateways {
        gateways: Vec<IpAddr>,
        device: &'static str,
        onlink: bool,
        overhead: u32,
        mtu_on_route: bool,
    },
    /// The VXLAN tunnel that ends there, with its MTU on the route.
    Tunnel { end: IpAddr },
}

impl Wanted {
    /// A pod of this node.
    pub(super) fn pod(options: &Options, address: IpAddr) -> Self {
        // A pod may be reached through the tunnel even where that is for other subnets only.
        let overhead = match options.pods_mode.unwrap_or(options.mode) {
            Mode::Bgp => 0,
            Mode::Vxlan | Mode::VxlanCrosssubnet if options.families.has_v6() => VXLAN_V6_OVERHEAD,
            Mode::Vxlan | Mode::VxlanCrosssubnet => VXLAN_OVERHEAD,
            Mode::Ipip | Mode::IpipCrosssubnet => IPIP_OVERHEAD,
        };
        Self {
            protocol: PROTO_BOOT,
            metric: METRIC_NORMAL,
            ways: Ways::Pod {
                overhead,
                // IPv6 has no scopes of routes.
                scope_link: address.is_ipv4(),
            },
        }
    }

    /// What routers announce.
    pub(super) const fn by_bgp(gateways: Vec<IpAddr>) -> Self {
        Self {
            protocol: PROTO_BIRD,
            metric: METRIC_FROM_OUTSIDE,
            ways: Ways::Gateways {
                gateways,
                device: UNDERLAY,
                onlink: false,
                overhead: 0,
                mtu_on_route: false,
            },
        }
    }

    /// A block of this node: what no pod has is dropped, lest it goes round between a default route and the announcement.
    pub(super) fn own_block(mode: Mode, block: IpNet) -> Self {
        let protocol = match mode {
            Mode::Vxlan | Mode::VxlanCrosssubnet | Mode::Ipip | Mode::IpipCrosssubnet => {
                PROTO_FELIX
            }
            Mode::Bgp => PROTO_BIRD,
        };
        Self {
            protocol,
            metric: metric_0(block.addr()),
            ways: Ways::Nowhere,
        }
    }

    /// A block of another node: its address, and the next machine on the way there without a tunnel.
    pub(super) fn remote_block(
        mode: Mode,
        same_rack: bool,
        owner: IpAddr,
        next_hop: IpAddr,
    ) -> Self {
        match mode.path(same_rack) {
            // A pool with a tunnel is not routed by BGP, its direct routes neither.
            Path::Plain if mode != Mode::Bgp => Self {
                protocol: PROTO_FELIX,
                metric: metric_0(owner),
                ways: Ways::Gateways {
                    gateways: vec![owner],
                    device: UNDERLAY,
                    onlink: true,
                    overhead: 0,
                    mtu_on_route: false,
                },
            },
            Path::Plain => Self {
                metric: METRIC_NORMAL,
                ..Self::by_bgp(vec![next_hop])
            },
            Path::Ipip => Self {
                protocol: PROTO_FELIX,
                metric: metric_0(owner),
                ways: Ways::Gateways {
                    gateways: vec![owner],
                    device: IPIP_DEVICE,
                    onlink: true,
                    overhead: IPIP_OVERHEAD,
                    mtu_on_route: true,
                },
            },
            Path::Vxlan => Self {
                protocol: PROTO_BOOT,
                metric: metric_0(owner),
                ways: Ways::Tunnel { end: owner },
            },
        }
    }

    /// What is wrong with the route, in words.
    pub(super) fn fault(&self, tables: &Tables, route: &Route) -> Option<String> {
        self.ways
            .fault(tables, route)
            .or_else(|| differs("is made by protocol", route.protocol, self.protocol))
            .or_else(|| differs("has the metric", route.metric, self.metric))
    }
}

/// How the kernel shows the metric of a route that was written without one.
const fn metric_0(like: IpAddr) -> u32 {
    match like {
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => 1024,
    }
}

impl Ways {
    fn fault(&self, tables: &Tables, route: &Route) -> Option<String> {
        let kind = match self {
            Self::Nowhere => RouteKind::Blackhole,
            Self::Pod { .. } | Self::Gateways { .. } | Self::Tunnel { .. } => RouteKind::Unicast,
        };
        if route.kind != kind {
            return Some(format!("is of type {:?}, expected {kind:?}", route.kind));
        }
        let underlay = tables.links.iter().find(|link| link.name == UNDERLAY);
        let mtu_less = |overhead: u32| underlay.map_or(0, |link| link.mtu_bytes) - overhead;
        match self {
            // IPv6's blackholes are shown on the loopback device.
            Self::Nowhere => (route.hops.iter())
                .any(|hop| hop.gateway.is_some() || route.destination.addr().is_ipv4())
                .then(|| "leads somewhere".to_owned()),
            Self::Pod {
                overhead,
                scope_link,
            } => pod_fault(tables, route, mtu_less(*overhead), *scope_link)
                .or_else(|| mtu_fault(route, None)),
            Self::Gateways {
                gateways,
                device,
                onlink,
                overhead,
                mtu_on_route,
            } => {
                let mtu_bytes = mtu_less(*overhead);
                let expected = Gateways {
                    gateways,
                    device,
                    onlink: *onlink,
                    mtu_bytes,
                };
                expected
                    .fault(tables, route)
                    .or_else(|| mtu_fault(route, mtu_on_route.then_some(mtu_bytes)))
            }
            Self::Tunnel { end } => {
                let (device, overhead) = if end.is_ipv4() {
                    (VXLAN_DEVICE, VXLAN_OVERHEAD)
                } else {
                    (VXLAN_V6_DEVICE, VXLAN_V6_OVERHEAD)
                };
                let mtu_bytes = mtu_less(overhead);
                tunnel_fault(tables, route, (device, *end), mtu_bytes)
                    .or_else(|| mtu_fault(route, Some(mtu_bytes)))
            }
        }
    }
}

fn differs<T: PartialEq + std::fmt::Display>(what: &str, found: T, expected: T) -> Option<String> {
    (found != expected).then(|| format!("{what} {found}, expected {expected}"))
}

fn mtu_fault(route: &Route, expected: Option<u32>) -> Option<String> {
    let words = |mtu: Option<u32>| mtu.map_or("none".to_owned(), |mtu| mtu.to_string());
    differs("sets the MTU", words(route.mtu_bytes), words(expected))
}

/// The device of a hop; an error in words when it has none that is there and up.
fn device<'a>(tables: &'a Tables, hop: &Hop) -> Result<&'a Link, String> {
    let index = hop.oif.ok_or("has no device")?;
    let link = tables
        .link(index)
        .ok_or_else(|| format!("leads to interface {index}, which is not there"))?;
    if link.up {
        Ok(link)
    } else {
        Err(format!(
            "leads to {}, which is not operationally up",
            link.name
        ))
    }
}

fn device_mtu_fault(link: &Link, expected: u32) -> Option<String> {
    let what = format!("leads to {} of MTU", link.name);
    differs(&what, link.mtu_bytes, expected)
}

fn only_hop(route: &Route) -> Result<&Hop, String> {
    match route.hops.as_slice() {
        [hop] => Ok(hop),
        [] => Err("has no device".to_owned()),
        several => Err(format!("has {} next hops, expected one", several.len())),
    }
}

fn pod_fault(tables: &Tables, route: &Route, mtu_bytes: u32, scope_link: bool) -> Option<String> {
    let found = only_hop(route).and_then(|hop| Ok((hop, device(tables, hop)?)));
    let (hop, link) = match found {
        Ok(found) => found,
        Err(fault) => return Some(fault),
    };
    if !link.name.starts_with(POD_DEVICE_PREFIX) {
        return Some(format!(
            "leads to {}, expected a device {POD_DEVICE_PREFIX}…",
            link.name
        ));
    }
    if route.scope_link != scope_link || hop.gateway.is_some() {
        return Some("is not a plain route".to_owned());
    }
    device_mtu_fault(link, mtu_bytes)
}

struct Gateways<'a> {
    gateways: &'a [IpAddr],
    device: &'a str,
    onlink: bool,
    mtu_bytes: u32,
}

impl Gateways<'_> {
    fn fault(&self, tables: &Tables, route: &Route) -> Option<String> {
        let mut links = Vec::new();
        for hop in &route.hops {
            match device(tables, hop) {
                Ok(link) => links.push(link),
                Err(fault) => return Some(fault),
            }
        }
        let sorted = |mut gateways: Vec<IpAddr>| {
            gateways.sort_unstable();
            gateways
        };
        let found = sorted(route.gateways());
        let expected = sorted(self.gateways.to_vec());
        let devices: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
        let on_device = links.iter().all(|link| link.name == self.device);
        if found != expected || found.len() != route.hops.len() || !on_device {
            return Some(format!(
                "goes via {} on {}, expected via {} on {}",
                list(&found),
                list(&devices),
                list(&expected),
                self.device
            ));
        }
        if route.hops.iter().any(|hop| hop.onlink != self.onlink) {
            let word = if self.onlink { "is not" } else { "is" };
            return Some(format!("{word} onlink"));
        }
        links
            .iter()
            .find_map(|link| device_mtu_fault(link, self.mtu_bytes))
    }
}

fn tunnel_fault(
    tables: &Tables,
    route: &Route,
    (device_name, end): (&str, IpAddr),
    mtu_bytes: u32,
) -> Option<String> {
    let found = only_hop(route).and_then(|hop| Ok((hop, device(tables, hop)?)));
    let (hop, link) = match found {
        Ok(found) => found,
        Err(fault) => return Some(fault),
    };
    let Some(gateway) = hop.gateway else {
        return Some("has no next hop".to_owned());
    };
    let remote = tables.vxlan_remote(link, gateway);
    if link.name != device_name || remote != Some(end) {
        let remote = remote.map_or("nowhere".to_owned(), |remote| remote.to_string());
        return Some(format!(
            "goes via {gateway} on {} to tunnel end {remote}, expected {device_name} to {end}",
            link.name
        ));
    }
    if !hop.onlink {
        return Some("is not onlink".to_owned());
    }
    device_mtu_fault(link, mtu_bytes)
}

fn list<T: ToString>(items: &[T]) -> String {
    if items.is_empty() {
        return "nothing".to_owned();
    }
    let words: Vec<String> = items.iter().map(T::to_string).collect();
    words.join(" and ")
}
