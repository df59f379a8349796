//! Packet rules.

use super::After::{Goes, Stays};
use super::Line;

/// A chain of the agent's table: what nft prints of it.
macro_rules! chain {
    ($says:literal, $chain:literal, $after:expr, $expect:literal) => {
        Line {
            says: $says,
            show: concat!("nft list chain ", $chain),
            expect: $expect,
            spoil: &[concat!("nft add rule ", $chain, " counter accept")],
            after: $after,
        }
    };
}

/// A set of the agent's table, and an element that goes.
macro_rules! set {
    ($says:literal, $set:literal, $element:literal, $expect:literal) => {
        Line {
            says: $says,
            show: concat!("nft list set ", $set),
            expect: $expect,
            spoil: &[concat!("nft delete element ", $set, " { ", $element, " }")],
            after: Goes,
        }
    };
}

pub(super) fn defaults() -> Vec<Line> {
    [sets(), nat(), filter()].concat()
}

fn sets() -> Vec<Line> {
    vec![
        set!(
            "pools with natOutgoing, IPv4",
            "ip calico cali40masq-ipam-pools",
            "10.1.0.0/16",
            r#"["type ipv4_addr", "flags interval", "elements = { 10.1.0.0/16 }"]"#
        ),
        set!(
            "all pools, IPv4; those side by side are one range",
            "ip calico cali40network-ip-pools",
            "10.1.0.0-10.3.255.255",
            r#"["type ipv4_addr", "flags interval", "elements = { 10.1.0.0-10.3.255.255 }"]"#
        ),
        set!(
            "addresses of all nodes, IPv4",
            "ip calico cali40all-hosts-net",
            "10.9.0.3",
            r#"["type ipv4_addr", "elements = { 10.0.0.1, 10.0.0.2, 10.9.0.3 }"]"#
        ),
        set!(
            "pools with natOutgoing, IPv6",
            "ip6 calico cali60masq-ipam-pools",
            "fd01::/48",
            r#"["type ipv6_addr", "flags interval", "elements = { fd01::/48 }"]"#
        ),
        set!(
            "all pools, IPv6",
            "ip6 calico cali60network-ip-pools",
            "fd03::/48",
            r#"["type ipv6_addr", "flags interval", "elements = { fd01::/48, fd02::/48, fd03::/48 }"]"#
        ),
        set!(
            "addresses of all nodes, IPv6",
            "ip6 calico cali60all-hosts-net",
            "fd09::3",
            r#"["type ipv6_addr", "elements = { fd00::1, fd00::2, fd09::3 }"]"#
        ),
    ]
}

fn nat() -> Vec<Line> {
    vec![
        chain!(
            "NAT-outgoing, IPv4: from such a pool to no pool, fully random; UDP beside VXLAN's port",
            "ip calico nat-cali-nat-outgoing",
            Goes,
            r#"["ip saddr @cali40masq-ipam-pools ip daddr != @cali40network-ip-pools meta l4proto 17 masquerade to :4790-65535 fully-random",
                "ip saddr @cali40masq-ipam-pools ip daddr != @cali40network-ip-pools masquerade fully-random"]"#
        ),
        chain!(
            "nat POSTROUTING, IPv4: NAT-outgoing, then what leaves by a tunnel under an address of another device",
            "ip calico nat-POSTROUTING",
            Goes,
            r#"["type nat hook postrouting priority 110; policy accept;", "jump nat-cali-nat-outgoing",
                "oifname \"vxlan.calico\" fib saddr type local fib saddr . oif type != local meta l4proto 17 masquerade to :4790-65535 fully-random",
                "oifname \"vxlan.calico\" fib saddr type local fib saddr . oif type != local masquerade fully-random"]"#
        ),
        chain!(
            "NAT-outgoing, IPv6",
            "ip6 calico nat-cali-nat-outgoing",
            Goes,
            r#"["ip6 saddr @cali60masq-ipam-pools ip6 daddr != @cali60network-ip-pools meta l4proto 17 masquerade to :4790-65535 fully-random",
                "ip6 saddr @cali60masq-ipam-pools ip6 daddr != @cali60network-ip-pools masquerade fully-random"]"#
        ),
        chain!(
            "nat POSTROUTING, IPv6",
            "ip6 calico nat-POSTROUTING",
            Goes,
            r#"["type nat hook postrouting priority 110; policy accept;", "jump nat-cali-nat-outgoing",
                "oifname \"vxlan-v6.calico\" fib saddr type local fib saddr . oif type != local meta l4proto 17 masquerade to :4790-65535 fully-random",
                "oifname \"vxlan-v6.calico\" fib saddr type local fib saddr . oif type != local masquerade fully-random"]"#
        ),
    ]
}

fn filter() -> Vec<Line> {
    vec![
        chain!(
            "raw PREROUTING, IPv4: what pods send, then VXLAN untracked",
            "ip calico raw-PREROUTING",
            Goes,
            r#"["type filter hook prerouting priority -300; policy accept;", "iifname \"cali*\" jump raw-cali-from-workloads",
                "udp dport 4789 notrack"]"#
        ),
        chain!(
            "raw OUTPUT, IPv4: VXLAN untracked",
            "ip calico raw-OUTPUT",
            Goes,
            r#"["type filter hook output priority -300; policy accept;", "udp dport 4789 notrack"]"#
        ),
        chain!(
            "what pods send, IPv4: not under others' addresses, nothing of tunnels",
            "ip calico raw-cali-from-workloads",
            Stays,
            r#"["fib saddr . iif oif 0 counter drop", "meta l4proto 4 counter drop", "udp dport 4789 counter drop"]"#
        ),
        chain!(
            "what pods send, IPv6",
            "ip6 calico raw-cali-from-workloads",
            Stays,
            r#"["fib saddr . iif oif 0 counter drop", "udp dport 4789 counter drop"]"#
        ),
        chain!(
            "filter INPUT, IPv4: VXLAN from nodes only, and what pods may send to their node",
            "ip calico filter-INPUT",
            Goes,
            r#"["type filter hook input priority 0; policy accept;",
                "udp dport 4789 ip saddr != @cali40all-hosts-net fib daddr type local counter drop",
                "iifname \"cali*\" jump filter-cali-wl-to-host"]"#
        ),
        chain!(
            "filter INPUT, IPv6",
            "ip6 calico filter-INPUT",
            Goes,
            r#"["type filter hook input priority 0; policy accept;",
                "udp dport 4789 ip6 saddr != @cali60all-hosts-net fib daddr type local counter drop",
                "iifname \"cali*\" jump filter-cali-wl-to-host"]"#
        ),
        chain!(
            "from pods to their node, IPv4: answers alone (DefaultEndpointToHostAction)",
            "ip calico filter-cali-wl-to-host",
            Stays,
            r#"["ct state established,related return", "counter drop"]"#
        ),
        chain!(
            "from pods to their node, IPv6: answers and neighbour discovery",
            "ip6 calico filter-cali-wl-to-host",
            Stays,
            r#"["ct state established,related return", "icmpv6 type 130-133 return", "icmpv6 type 135-136 return", "counter drop"]"#
        ),
    ]
}

pub(super) fn settings() -> Vec<Line> {
    vec![
        chain!(
            "allowIPIPPacketsFromWorkloads, allowVXLANPacketsFromWorkloads: pods' packets of tunnels pass",
            "ip calico raw-cali-from-workloads",
            Stays,
            r#"["fib saddr . iif oif 0 counter drop"]"#
        ),
        chain!(
            "FloatingIPs, from others: the address becomes the pod's",
            "ip calico nat-cali-fip-dnat",
            Goes,
            r#"["ip daddr 198.51.100.5 dnat to 10.1.1.5"]"#
        ),
        chain!(
            "FloatingIPs: before routing",
            "ip calico nat-PREROUTING",
            Goes,
            r#"["type nat hook prerouting priority -100; policy accept;", "jump nat-cali-fip-dnat"]"#
        ),
        chain!(
            "FloatingIPs: what the node itself sends",
            "ip calico nat-OUTPUT",
            Goes,
            r#"["type nat hook output priority -100; policy accept;", "jump nat-cali-fip-dnat"]"#
        ),
        chain!(
            "FloatingIPs: a pod that sends to itself by it",
            "ip calico nat-cali-fip-snat",
            Goes,
            r#"["ip saddr 10.1.1.5 ip daddr 10.1.1.5 snat to 198.51.100.5 fully-random"]"#
        ),
        chain!(
            "ServiceLoopPrevention Drop, IPv4: what nobody translated",
            "ip calico filter-cali-cidr-block",
            Goes,
            r#"["ip daddr @cali40service-ips counter drop"]"#
        ),
        chain!(
            "ServiceLoopPrevention Drop, IPv6",
            "ip6 calico filter-cali-cidr-block",
            Goes,
            r#"["ip6 daddr @cali60service-ips counter drop"]"#
        ),
        chain!(
            "ServiceLoopPrevention: after other programs' filters",
            "ip calico filter-FORWARD",
            Goes,
            r#"["type filter hook forward priority 10; policy accept;", "jump filter-cali-cidr-block"]"#
        ),
        set!(
            "ranges of Services' addresses",
            "ip calico cali40service-ips",
            "10.96.0.0/12",
            r#"["type ipv4_addr", "flags interval", "elements = { 10.96.0.0/12, 192.0.2.7 }"]"#
        ),
        Line {
            says: "DefaultEndpointToHostAction ACCEPT: no chain for what pods send to their node",
            show: "nft list chain ip calico filter-cali-wl-to-host",
            expect: "[]",
            spoil: &[],
            after: Stays,
        },
    ]
}

pub(super) fn ipip() -> Vec<Line> {
    vec![
        chain!(
            "nat POSTROUTING with IPIP: what leaves by tunl0 under an address of another device",
            "ip calico nat-POSTROUTING",
            Goes,
            r#"["type nat hook postrouting priority 110; policy accept;",
                "oifname \"tunl0\" fib saddr type local fib saddr . oif type != local masquerade fully-random"]"#
        ),
        chain!(
            "filter INPUT with IPIP: protocol 4 from nodes only",
            "ip calico filter-INPUT",
            Goes,
            r#"["type filter hook input priority 0; policy accept;",
                "meta l4proto 4 ip saddr != @cali40all-hosts-net fib daddr type local counter drop",
                "iifname \"cali*\" jump filter-cali-wl-to-host"]"#
        ),
    ]
}
