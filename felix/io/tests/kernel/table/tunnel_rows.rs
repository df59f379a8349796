//! Tunnel devices, their addresses, neighbours and forwarding entries.

use super::After::{Goes, Stays};
use super::Line;

pub(super) fn vxlan() -> Vec<Line> {
    vec![
        Line {
            says: "vxlan.calico: VNI 4096, port 4789, on the device with the node's address, MAC of the node's name, MTU less 50",
            show: "ip link show dev vxlan.calico",
            expect: r#"[{"address": "66:40:b3:ea:b6:3f", "mtu": 1450, "link": null, "linkinfo": {"info_kind": "vxlan", "info_data":
                {"id": 4096, "port": 4789, "local": "10.0.0.1", "link": "eth0", "external": null, "gbp": null}}}]"#,
            spoil: &["ip link set vxlan.calico mtu 1400"],
            after: Goes,
        },
        Line {
            says: "vxlan.calico: the tunnel's address /32, and no other",
            show: "ip addr show dev vxlan.calico scope global",
            expect: r#"[{"addr_info": [{"local": "10.2.1.0", "prefixlen": 32}]}]"#,
            spoil: &["ip addr add 10.2.9.9/32 dev vxlan.calico"],
            after: Goes,
        },
        Line {
            says: "vxlan.calico: one permanent forwarding entry for each other node, by its MAC to its address",
            show: "bridge fdb show dev vxlan.calico state permanent",
            expect: r#"[{"mac": "66:40:24:34:76:fc", "dst": "10.0.0.2", "state": "permanent", "flags": ["self"]},
                {"mac": "66:26:c2:ce:28:d0", "dst": "10.9.0.3", "state": "permanent", "flags": ["self"]}]"#,
            spoil: &[
                "bridge fdb del 66:40:24:34:76:fc dev vxlan.calico dst 10.0.0.2",
                "bridge fdb replace 66:26:c2:ce:28:d0 dev vxlan.calico dst 10.0.0.9",
            ],
            after: Goes,
        },
        Line {
            says: "vxlan.calico: one permanent neighbour for each other node, its tunnel address to its MAC",
            show: "ip neigh show dev vxlan.calico nud permanent",
            expect: r#"[{"dst": "10.2.2.0", "lladdr": "66:40:24:34:76:fc"}, {"dst": "10.2.3.0", "lladdr": "66:26:c2:ce:28:d0"}]"#,
            spoil: &[
                "ip neigh del 10.2.2.0 dev vxlan.calico",
                "ip neigh replace 10.2.3.0 lladdr 66:00:00:00:00:99 dev vxlan.calico",
                // Issue 9450 of Calico: another address with the MAC of one that is wanted.
                "ip neigh add 10.2.9.3 lladdr 66:26:c2:ce:28:d0 dev vxlan.calico nud permanent",
            ],
            after: Goes,
        },
        Line {
            says: "vxlan.calico: loose reverse path filter (differs)",
            show: "sysctl net.ipv4.conf.vxlan/calico.rp_filter",
            expect: "\"2\"",
            spoil: &["sysctl net.ipv4.conf.vxlan/calico.rp_filter=1"],
            after: Goes,
        },
    ]
}

pub(super) fn vxlan_v6() -> Vec<Line> {
    vec![
        Line {
            says: "vxlan-v6.calico: the same of IPv6, MAC of the name and -v6, MTU less 70",
            show: "ip link show dev vxlan-v6.calico",
            expect: r#"[{"address": "66:46:32:55:72:28", "mtu": 1430, "linkinfo": {"info_kind": "vxlan", "info_data":
                {"id": 4096, "port": 4789, "local6": "fd00::1", "link": "eth0"}}}]"#,
            spoil: &["ip link del vxlan-v6.calico"],
            after: Goes,
        },
        Line {
            says: "vxlan-v6.calico: the tunnel's address /128",
            show: "ip addr show dev vxlan-v6.calico scope global",
            expect: r#"[{"addr_info": [{"local": "fd02:0:0:1::", "prefixlen": 128}]}]"#,
            spoil: &[],
            after: Goes,
        },
        Line {
            says: "vxlan-v6.calico: forwarding entries of the other nodes",
            show: "bridge fdb show dev vxlan-v6.calico state permanent",
            expect: r#"[{"mac": "66:f4:09:ca:1b:0c", "dst": "fd00::2", "state": "permanent"}, {"mac": "66:90:c0:29:2a:8a", "dst": "fd09::3", "state": "permanent"}]"#,
            spoil: &[],
            after: Goes,
        },
        Line {
            says: "vxlan-v6.calico: neighbours of the other nodes",
            show: "ip -6 neigh show dev vxlan-v6.calico nud permanent",
            expect: r#"[{"dst": "fd02:0:0:2::", "lladdr": "66:f4:09:ca:1b:0c"}, {"dst": "fd02:0:0:3::", "lladdr": "66:90:c0:29:2a:8a"}]"#,
            spoil: &[],
            after: Goes,
        },
    ]
}

pub(super) fn ipip() -> Vec<Line> {
    vec![
        Line {
            says: "tunl0: the kernel's fallback device, up, MTU less 20",
            show: "ip link show dev tunl0 up",
            expect: r#"[{"mtu": 1480, "linkinfo": {"info_kind": "ipip", "info_data": {"remote": "any", "local": "any"}}}]"#,
            spoil: &["ip link set tunl0 mtu 1400"],
            // It goes with the kernel's module alone.
            after: Stays,
        },
        Line {
            says: "tunl0: the tunnel's address /32, and no other",
            show: "ip addr show dev tunl0 scope global",
            expect: r#"[{"addr_info": [{"local": "10.1.1.63", "prefixlen": 32}]}]"#,
            spoil: &["ip addr add 10.1.9.9/32 dev tunl0"],
            after: Goes,
        },
        Line {
            says: "tunl0: loose reverse path filter (differs)",
            show: "sysctl net.ipv4.conf.tunl0.rp_filter",
            expect: "\"2\"",
            spoil: &["sysctl net.ipv4.conf.tunl0.rp_filter=1"],
            after: Stays,
        },
    ]
}
