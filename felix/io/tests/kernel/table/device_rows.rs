//! The host's settings, and the pod's pair with its own.

use super::After::{Goes, Stays};
use super::Line;

pub(super) fn host() -> Vec<Line> {
    vec![
        Line {
            says: "the host forwards IPv4",
            show: "sysctl net.ipv4.ip_forward",
            expect: "\"1\"",
            spoil: &["sysctl net.ipv4.ip_forward=0"],
            after: Stays,
        },
        Line {
            says: "the host forwards IPv6",
            show: "sysctl net.ipv6.conf.all.forwarding",
            expect: "\"1\"",
            spoil: &["sysctl net.ipv6.conf.all.forwarding=0"],
            after: Stays,
        },
        Line {
            says: "connection tracking counts packets",
            show: "sysctl net.netfilter.nf_conntrack_acct",
            expect: "\"1\"",
            spoil: &["sysctl net.netfilter.nf_conntrack_acct=0"],
            after: Stays,
        },
    ]
}

/// A setting of the pod's host end.
macro_rules! setting {
    ($says:literal, $name:literal, $value:literal, $other:literal) => {
        Line {
            says: $says,
            show: concat!("sysctl net.", $name),
            expect: concat!("\"", $value, "\""),
            spoil: &[concat!("sysctl net.", $name, "=", $other)],
            after: Stays,
        }
    };
}

pub(super) fn pod() -> Vec<Line> {
    vec![
        Line {
            says: "the host end of a pod: MAC ee:ee:ee:ee:ee:ee, the pair's MTU",
            show: "ip link show dev cali1",
            expect: r#"[{"address": "ee:ee:ee:ee:ee:ee", "mtu": 1450, "operstate": "UP", "linkinfo": {"info_kind": "veth"}}]"#,
            spoil: &["ip link set cali1 address 02:00:00:00:00:99"],
            after: Stays,
        },
        Line {
            says: "the pod's end: its MAC, MTU, addresses /32 and /128, scope global",
            show: "pod ip addr show dev eth0 scope global",
            expect: r#"[{"address": "02:00:00:00:00:05", "mtu": 1450, "addr_info": [
                {"local": "10.1.1.5", "prefixlen": 32, "scope": "0"}, {"local": "fd01::5", "prefixlen": 128, "scope": "0"}]}]"#,
            spoil: &[],
            after: Stays,
        },
        Line {
            says: "the pod's IPv4 routes: 169.254.1.1 on the link, default through it",
            show: "pod ip -4 route show",
            expect: r#"[{"dst": "default", "gateway": "169.254.1.1", "dev": "eth0"}, {"dst": "169.254.1.1", "dev": "eth0", "scope": "253"}]"#,
            spoil: &[],
            after: Stays,
        },
        Line {
            says: "the pod's IPv6 route: default through the host end's link-local address",
            show: "pod ip -6 route show default",
            expect: r#"[{"dst": "default", "gateway": "fe80::ecee:eeff:feee:eeee", "dev": "eth0"}]"#,
            spoil: &[],
            after: Stays,
        },
        Line {
            says: "the pod does not forward",
            show: "pod sysctl net.ipv4.ip_forward",
            expect: "\"0\"",
            spoil: &[],
            after: Stays,
        },
        Line {
            says: "the pod's end asks nobody for its address (accept_dad)",
            show: "pod sysctl net.ipv6.conf.eth0.accept_dad",
            expect: "\"0\"",
            spoil: &[],
            after: Stays,
        },
        Line {
            says: "the host end has no address but its link-local one",
            show: "ip -4 addr show dev cali1",
            expect: "[]",
            spoil: &[],
            after: Stays,
        },
        setting!(
            "route_localnet of a pod's device",
            "ipv4.conf.cali1.route_localnet",
            "1",
            "0"
        ),
        setting!(
            "proxy_delay of a pod's device",
            "ipv4.neigh.cali1.proxy_delay",
            "0",
            "5"
        ),
        setting!(
            "proxy_arp of a pod's device",
            "ipv4.conf.cali1.proxy_arp",
            "1",
            "0"
        ),
        setting!(
            "forwarding of a pod's device",
            "ipv4.conf.cali1.forwarding",
            "1",
            "0"
        ),
        setting!(
            "rp_filter of a pod's device",
            "ipv4.conf.cali1.rp_filter",
            "1",
            "0"
        ),
        setting!(
            "accept_ra of a pod's device",
            "ipv6.conf.cali1.accept_ra",
            "0",
            "1"
        ),
        setting!(
            "proxy_ndp of a pod's device",
            "ipv6.conf.cali1.proxy_ndp",
            "1",
            "0"
        ),
        setting!(
            "IPv6 forwarding of a pod's device",
            "ipv6.conf.cali1.forwarding",
            "1",
            "0"
        ),
        Line {
            says: "a permanent neighbour for the pod's IPv4 address, none for IPv6",
            show: "ip neigh show dev cali1 nud permanent",
            expect: r#"[{"dst": "10.1.1.5", "lladdr": "02:00:00:00:00:05"}]"#,
            spoil: &["ip neigh replace 10.1.1.5 lladdr 02:00:00:00:00:99 dev cali1 nud permanent"],
            after: Goes,
        },
    ]
}
