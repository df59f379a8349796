//! Pods' devices: MACs, sysctls and permanent neighbours, and the sysctls of the host.

use std::net::IpAddr;
use std::sync::Arc;

use super::settings::Settings;
use super::workload::Workloads;
use crate::desired::{IfName, Mac, NeighKey, Row, SysctlKey};
use crate::ownership::HOST_END_MAC;

fn sysctl(path: String, value: &str) -> Row {
    Row::Sysctl(SysctlKey(path.into()), Arc::from(value))
}

/// Sysctls of the host as a whole.
pub(super) fn host_sysctls(settings: &Settings) -> Vec<Row> {
    let mut rows = vec![Row::Sysctl(SysctlKey::conntrack_acct(), "1".into())];
    if settings.ip_forwarding {
        rows.push(sysctl("net/ipv4/ip_forward".to_owned(), "1"));
        if settings.ipv6_support {
            rows.push(sysctl("net/ipv6/conf/all/forwarding".to_owned(), "1"));
        }
    }
    rows
}

/// MAC and sysctls of one pod's device; `spoofs`: its pod may send under addresses to which no route leads there.
pub(super) fn device_settings(settings: &Settings, ifname: &IfName, spoofs: bool) -> Vec<Row> {
    let rp_filter = if spoofs { "0" } else { &*settings.rp_filter };
    let v4 = |name, value: &str| Row::Sysctl(SysctlKey::of_ipv4(ifname, name), value.into());
    let mut rows = vec![
        Row::Mac(ifname.clone(), HOST_END_MAC),
        v4("route_localnet", "1"),
        // The pod asks for its gateway's MAC first of all: an answer that waits would hold up its first packet.
        sysctl(format!("net/ipv4/neigh/{ifname}/proxy_delay"), "0"),
        v4("proxy_arp", "1"),
        v4("forwarding", "1"),
        v4("rp_filter", rp_filter),
    ];
    let v6 = |name: &str, value: &str| sysctl(format!("net/ipv6/conf/{ifname}/{name}"), value);
    if settings.has_ipv6 {
        // Whatever else: a pod is no router that the host believes.
        rows.push(v6("accept_ra", "0"));
    }
    if settings.ipv6_support {
        rows.extend([v6("proxy_ndp", "1"), v6("forwarding", "1")]);
    }
    rows
}

/// The permanent neighbour of a pod's address.
pub(super) fn neighbour(workloads: &Workloads, addr: IpAddr) -> Option<Row> {
    let workload = workloads.at(&addr)?;
    // A floating address is no pod's: packets have the pod's own when they leave.
    if !workload.addrs.contains(&addr) {
        return None;
    }
    pod_neighbour(&workload.ifname, addr, workload.mac?)
}

/// The permanent neighbour that a pod's IPv4 address on its device has: the host never asks for it. None for an IPv6
/// address.
pub fn pod_neighbour(ifname: &IfName, addr: IpAddr, mac: Mac) -> Option<Row> {
    let key = NeighKey {
        ifname: ifname.clone(),
        addr,
    };
    addr.is_ipv4().then_some(Row::Neigh(key, mac))
}
