//! Rows and their keys as an operator reads them, in the words of iproute2.

use std::fmt;

use super::{Leads, Leftover, NextHop, RouteKey, RouteKind, RouteSpec, Row, RowKey, SysctlKey};
use crate::ownership::TABLE_MAIN;
use crate::rules::{Family, TABLE};

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(name) => write!(f, "device {name}"),
            Self::Mac(name) => write!(f, "MAC of device {name}"),
            Self::Addr(key) => write!(f, "address {} on {}", key.addr, key.ifname),
            Self::Neigh(key) => write!(f, "neighbour {} on {}", key.addr, key.ifname),
            Self::Fdb(key) => write!(f, "forwarding entry {} on {}", key.mac, key.ifname),
            Self::NextHop(id) => write!(f, "next-hop object {}", id.0),
            Self::Route(key) => write!(f, "route {}{}", key.dst, Qualifiers(key)),
            Self::Rules(family) => write!(f, "nftables table {family} {TABLE}"),
            Self::Element(key) => {
                write!(
                    f,
                    "element {} of set {} of nftables table {} {TABLE}",
                    key.addr, key.set, key.family
                )
            }
            Self::Leftover(leftover) => write!(f, "Felix's {leftover}"),
            Self::Sysctl(key) => write!(f, "sysctl {key}"),
        }
    }
}

impl fmt::Display for Leads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::To(hop) => hop.fmt(f),
            Self::Over(members) => {
                let numbers: Vec<String> = members.iter().map(|id| id.0.to_string()).collect();
                write!(f, " group {}", numbers.join("/"))
            }
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key();
        match self {
            Self::Link(..) | Self::Addr(_) | Self::Element(_) | Self::Leftover(_) => key.fmt(f),
            Self::Mac(_, mac) => write!(f, "{key}: {mac}"),
            Self::Neigh(_, mac) => write!(f, "{key}: {mac}"),
            Self::Fdb(_, remote) => write!(f, "{key}: {remote}"),
            Self::NextHop(_, spec) => write!(f, "{key}{} proto {}", spec.leads, spec.protocol),
            Self::Route(key, spec) => write!(
                f,
                "route {}{spec} proto {}{}",
                key.dst,
                spec.protocol,
                Qualifiers(key)
            ),
            Self::Rules(_, rules) => write!(
                f,
                "{key}: {} sets, elements, chains and rules",
                rules.shown.len()
            ),
            Self::Sysctl(_, value) => write!(f, "{key}: {value}"),
        }
    }
}

/// What tells apart routes to one destination, as far as it is not the usual.
struct Qualifiers<'a>(&'a RouteKey);

impl fmt::Display for Qualifiers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RouteKey {
            table, tos, metric, ..
        } = *self.0;
        if metric != 0 {
            write!(f, " metric {metric}")?;
        }
        if tos != 0 {
            write!(f, " tos {tos}")?;
        }
        if table != TABLE_MAIN {
            write!(f, " table {table}")?;
        }
        Ok(())
    }
}

impl fmt::Display for RouteSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            RouteKind::Unicast => {}
            RouteKind::Blackhole => f.write_str(" of type blackhole")?,
            RouteKind::Unreachable => f.write_str(" of type unreachable")?,
            RouteKind::Prohibit => f.write_str(" of type prohibit")?,
        }
        if let Some(id) = self.object {
            write!(f, " nhid {}", id.0)?;
        }
        self.next_hops.iter().try_for_each(|hop| hop.fmt(f))
    }
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        match &self.ifname {
            Some(ifname) => write!(f, " dev {ifname}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ArpTable => f.write_str("nftables table arp calico-arp"),
            Self::Chains(family, table) => {
                write!(f, "chains in nftables table {family} {table}")
            }
            Self::Legacy(Family::V4, table) => write!(f, "chains in iptables-legacy table {table}"),
            Self::Legacy(Family::V6, table) => {
                write!(f, "chains in ip6tables-legacy table {table}")
            }
            Self::IpSet(name) => write!(f, "ipset {name}"),
        }
    }
}

impl fmt::Display for SysctlKey {
    /// As sysctl(8) writes it: dots between the parts, a slash for a dot in a device's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.0.split('/');
        let parts: Vec<String> = parts.map(|part| part.replace('.', "/")).collect();
        f.write_str(&parts.join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AddrKey, FdbKey, Hops, IfName, Mac, NeighKey};
    use super::*;

    #[test]
    fn rows_and_keys_read_as_iproute2_writes_them() {
        let ifname = IfName::from("vxlan.calico");
        let mac = Mac([0x66, 0, 0, 0, 0, 2]);
        let key = RouteKey {
            table: TABLE_MAIN,
            dst: "10.1.1.0/26".parse().unwrap(),
            tos: 0,
            metric: 1024,
        };
        let hop = |gateway: &str, ifname: &str| NextHop {
            gateway: Some(gateway.parse().unwrap()),
            ifname: Some(IfName::from(ifname)),
            onlink: false,
        };
        let spec = RouteSpec {
            kind: RouteKind::Unicast,
            scope: 0,
            protocol: 12,
            next_hops: vec![hop("10.0.0.2", "eth0"), hop("10.0.0.3", "eth1")].into(),
            object: None,
            prefsrc: None,
            mtu_bytes: None,
        };
        let hole = RouteSpec {
            kind: RouteKind::Blackhole,
            next_hops: Hops::default(),
            ..spec.clone()
        };
        let elsewhere = RouteKey {
            table: 100,
            tos: 8,
            metric: 0,
            ..key.clone()
        };
        let addr = AddrKey {
            ifname: ifname.clone(),
            addr: "10.1.0.0/32".parse().unwrap(),
        };
        let neigh = NeighKey {
            ifname: ifname.clone(),
            addr: "10.1.1.0".parse().unwrap(),
        };
        let fdb = FdbKey {
            ifname: ifname.clone(),
            mac,
        };
        let sysctl = SysctlKey("net/ipv4/conf/eth0.5/proxy_arp".into());
        for (row, of_key, of_row) in [
            (
                Row::Route(key, spec),
                "route 10.1.1.0/26 metric 1024",
                "route 10.1.1.0/26 via 10.0.0.2 dev eth0 via 10.0.0.3 dev eth1 proto 12 metric 1024",
            ),
            (
                Row::Route(elsewhere, hole),
                "route 10.1.1.0/26 tos 8 table 100",
                "route 10.1.1.0/26 of type blackhole proto 12 tos 8 table 100",
            ),
            (
                Row::Addr(addr),
                "address 10.1.0.0/32 on vxlan.calico",
                "address 10.1.0.0/32 on vxlan.calico",
            ),
            (
                Row::Neigh(neigh, mac),
                "neighbour 10.1.1.0 on vxlan.calico",
                "neighbour 10.1.1.0 on vxlan.calico: 66:00:00:00:00:02",
            ),
            (
                Row::Fdb(fdb, "10.0.0.2".parse().unwrap()),
                "forwarding entry 66:00:00:00:00:02 on vxlan.calico",
                "forwarding entry 66:00:00:00:00:02 on vxlan.calico: 10.0.0.2",
            ),
            (
                Row::Mac(ifname, mac),
                "MAC of device vxlan.calico",
                "MAC of device vxlan.calico: 66:00:00:00:00:02",
            ),
            (
                Row::Sysctl(sysctl, "1".into()),
                "sysctl net.ipv4.conf.eth0/5.proxy_arp",
                "sysctl net.ipv4.conf.eth0/5.proxy_arp: 1",
            ),
        ] {
            assert_eq!(row.key().to_string(), of_key);
            assert_eq!(row.to_string(), of_row);
        }
    }
}
