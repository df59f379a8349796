//! Routes.

use super::After::Goes;
use super::Line;

/// A route: destination, and what is printed of it.
macro_rules! route {
    ($says:literal, $family:literal, $dst:literal, $expect:literal) => {
        Line {
            says: $says,
            show: concat!("ip ", $family, " route show ", $dst),
            expect: concat!("[", $expect, "]"),
            spoil: &[concat!("ip ", $family, " route flush ", $dst)],
            after: Goes,
        }
    };
}

/// As [`route`], while a reading finds another route in its place.
macro_rules! replaced {
    ($says:literal, $family:literal, $dst:literal, $other:literal, $expect:literal) => {
        Line {
            says: $says,
            show: concat!("ip ", $family, " route show ", $dst),
            expect: concat!("[", $expect, "]"),
            spoil: &[concat!("ip ", $family, " route replace ", $other)],
            after: Goes,
        }
    };
}

pub(super) fn pod() -> Vec<Line> {
    vec![
        route!(
            "route of a pod, IPv4: device only, scope link, protocol 3, metric 1024",
            "-4",
            "10.1.1.5",
            r#"{"type": "1", "dst": "10.1.1.5", "dev": "cali1", "gateway": null, "scope": "253", "protocol": "3", "metric": 1024,
                "prefsrc": null, "metrics": null}"#
        ),
        route!(
            "route of a pod, IPv6: device only, protocol 3, metric 1024",
            "-6",
            "fd01::5",
            r#"{"type": "1", "dst": "fd01::5", "dev": "cali1", "gateway": null, "scope": "0", "protocol": "3", "metric": 1024,
                "prefsrc": null, "metrics": null}"#
        ),
    ]
}

pub(super) fn own_blocks() -> Vec<Line> {
    vec![
        replaced!(
            "own block that BGP announces, IPv4: blackhole, protocol 12",
            "-4",
            "10.1.1.0/26",
            "10.1.1.0/26 via 10.0.0.9 proto 12",
            r#"{"type": "6", "dst": "10.1.1.0/26", "dev": null, "protocol": "12", "metric": null}"#
        ),
        route!(
            "own block that BGP announces, IPv6: blackhole, protocol 12, metric 1024",
            "-6",
            "fd01::/122",
            r#"{"type": "6", "dst": "fd01::/122", "protocol": "12", "metric": 1024}"#
        ),
        Line {
            says: "own block of one address: no blackhole",
            show: "ip route show 10.1.8.1",
            expect: "[]",
            spoil: &["ip route add blackhole 10.1.8.1 proto 12"],
            after: super::After::Stays,
        },
    ]
}

pub(super) fn by_bgp() -> Vec<Line> {
    vec![
        replaced!(
            "plain pool, remote block, IPv4: by the next hop of BGP, protocol 12",
            "-4",
            "10.1.2.0/26",
            "10.1.2.0/26 via 10.0.0.9 proto 12 metric 1024",
            r#"{"dst": "10.1.2.0/26", "gateway": "10.0.0.2", "dev": "eth0", "protocol": "12", "scope": "0", "metric": 1024, "metrics": null}"#
        ),
        route!(
            "plain pool, remote block, IPv6: by the next hop of BGP, protocol 12",
            "-6",
            "fd01:0:0:2::/122",
            r#"{"gateway": "fd00::2", "dev": "eth0", "protocol": "12", "metric": 1024}"#
        ),
        route!(
            "equal next hops side by side",
            "-4",
            "10.1.4.0/26",
            r#"{"protocol": "12", "nexthops": [{"gateway": "10.0.0.2", "dev": "eth0", "weight": 1}, {"gateway": "10.0.0.4", "dev": "eth0", "weight": 1}]}"#
        ),
        route!(
            "a next hop that is not on the link: by the host's own route to it",
            "-4",
            "172.16.0.0/16",
            r#"{"gateway": "10.0.0.254", "dev": "eth0", "protocol": "12"}"#
        ),
    ]
}

pub(super) fn through_vxlan() -> Vec<Line> {
    vec![
        replaced!(
            "VXLAN, remote block, IPv4: via the remote tunnel address, onlink, protocol 3, the tunnel's MTU",
            "-4",
            "10.2.2.0/26",
            "10.2.2.0/26 via 10.0.0.9 proto 80",
            r#"{"gateway": "10.2.2.0", "dev": "vxlan.calico", "flags": ["onlink"], "protocol": "3", "scope": "0", "metric": null,
                "metrics": [{"mtu": 1450}]}"#
        ),
        route!(
            "VXLAN, remote block, IPv6: the same, metric 1024",
            "-6",
            "fd02:0:0:2::/122",
            r#"{"gateway": "fd02:0:0:2::", "dev": "vxlan-v6.calico", "flags": ["onlink"], "protocol": "3", "metric": 1024,
                "metrics": [{"mtu": 1430}]}"#
        ),
        route!(
            "VXLAN, borrowed address: /32 to the borrower",
            "-4",
            "10.2.2.5",
            r#"{"dst": "10.2.2.5", "gateway": "10.2.3.0", "dev": "vxlan.calico", "flags": ["onlink"], "protocol": "3", "metrics": [{"mtu": 1450}]}"#
        ),
        replaced!(
            "CrossSubnet, same subnet, IPv4: via the node on the parent, onlink, protocol 80, no MTU",
            "-4",
            "10.3.2.0/26",
            "10.3.2.0/26 via 10.2.2.0 dev vxlan.calico onlink proto 3",
            r#"{"gateway": "10.0.0.2", "dev": "eth0", "flags": ["onlink"], "protocol": "80", "scope": "0", "metric": null, "metrics": null}"#
        ),
        route!(
            "CrossSubnet, same subnet, IPv6",
            "-6",
            "fd03:0:0:2::/122",
            r#"{"gateway": "fd00::2", "dev": "eth0", "flags": ["onlink"], "protocol": "80", "metric": 1024, "metrics": null}"#
        ),
        route!(
            "CrossSubnet, another subnet, IPv4: through the tunnel",
            "-4",
            "10.3.3.0/26",
            r#"{"gateway": "10.2.3.0", "dev": "vxlan.calico", "flags": ["onlink"], "protocol": "3", "metrics": [{"mtu": 1450}]}"#
        ),
        route!(
            "CrossSubnet, another subnet, IPv6: through the tunnel",
            "-6",
            "fd03:0:0:3::/122",
            r#"{"gateway": "fd02:0:0:3::", "dev": "vxlan-v6.calico", "flags": ["onlink"], "protocol": "3", "metrics": [{"mtu": 1430}]}"#
        ),
    ]
}

pub(super) fn through_ipip() -> Vec<Line> {
    vec![
        route!(
            "IPIP, remote block: via the remote node on tunl0, onlink, protocol 80, the tunnel's MTU",
            "-4",
            "10.1.2.0/26",
            r#"{"gateway": "10.0.0.2", "dev": "tunl0", "flags": ["onlink"], "protocol": "80", "scope": "0", "metrics": [{"mtu": 1480}]}"#
        ),
        replaced!(
            "IPIP, own block: blackhole, protocol 80",
            "-4",
            "10.1.1.0/26",
            "blackhole 10.1.1.0/26 proto 12",
            r#"{"type": "6", "protocol": "80", "metric": null}"#
        ),
        replaced!(
            "IPIP CrossSubnet, same subnet: via the node on the parent",
            "-4",
            "10.3.2.0/26",
            "10.3.2.0/26 via 10.0.0.2 dev tunl0 onlink proto 80",
            r#"{"gateway": "10.0.0.2", "dev": "eth0", "flags": ["onlink"], "protocol": "80", "metrics": null}"#
        ),
        route!(
            "IPIP CrossSubnet, another subnet: through the tunnel",
            "-4",
            "10.3.3.0/26",
            r#"{"gateway": "10.9.0.3", "dev": "tunl0", "flags": ["onlink"], "protocol": "80", "metrics": [{"mtu": 1480}]}"#
        ),
    ]
}

pub(super) fn settings() -> Vec<Line> {
    vec![
        route!(
            "DeviceRouteProtocol, DeviceRouteSourceAddress, IPv4NormalRoutePriority of a pod's route",
            "-4",
            "10.1.1.5",
            r#"{"dev": "cali1", "protocol": "99", "prefsrc": "10.0.0.1", "metric": 512}"#
        ),
        route!(
            "DeviceRouteSourceAddressIPv6 of a pod's route",
            "-6",
            "fd01::5",
            r#"{"dev": "cali1", "protocol": "99", "prefsrc": "fd00::1", "metric": 512}"#
        ),
        route!(
            "a plain pool whose routes come from blocks: via the node on the parent, onlink",
            "-4",
            "10.1.2.0/26",
            r#"{"gateway": "10.0.0.2", "dev": "eth0", "flags": ["onlink"], "protocol": "99", "metric": null}"#
        ),
        route!(
            "its own block: blackhole of the same protocol",
            "-4",
            "10.1.1.0/26",
            r#"{"type": "6", "protocol": "99"}"#
        ),
        route!(
            "a prefix from beyond the cluster is BGP's all the same, with the metric of its LOCAL_PREF",
            "-4",
            "172.16.0.0/16",
            r#"{"gateway": "10.0.0.254", "protocol": "12", "metric": 1024}"#
        ),
        route!(
            "an IPv4 prefix by an IPv6 next hop (RFC 8950): via inet6",
            "-4",
            "172.17.0.0/16",
            r#"{"via": {"family": "inet6", "host": "fd00::2"}, "gateway": null, "protocol": "12", "metric": 1024}"#
        ),
    ]
}
