//! The clusters of the table.

use api::key::{Key, Kind};
use api::object::Object;
use bgp::route::{BestRoute, RouteChange, RouteSource};
use felix::calc::{ClusterRoutes, Settings};
use felix::ownership::ExternalRoutes;
use ipnet::IpNet;
use serde_json::{Value, json};

use super::{Beside, Case, device_rows, route_rows, rule_rows, tunnel_rows};

/// What an agent is told.
pub(super) struct Facts {
    pub(super) settings: Settings,
    pub(super) objects: Vec<(Key, Object)>,
    pub(super) bgp: Vec<RouteChange>,
}

/// A plain pool, one in VXLAN, and one in VXLAN between subnets, of both families; a pod in the plain one.
pub(super) fn defaults() -> Case {
    let mut objects = vec![
        pool("plain", json!({"cidr": "10.1.0.0/16", "natOutgoing": true})),
        pool(
            "vxlan",
            json!({"cidr": "10.2.0.0/16", "vxlanMode": "Always"}),
        ),
        pool(
            "cross",
            json!({"cidr": "10.3.0.0/16", "vxlanMode": "CrossSubnet"}),
        ),
        pool("plain6", json!({"cidr": "fd01::/48", "natOutgoing": true})),
        pool(
            "vxlan6",
            json!({"cidr": "fd02::/48", "vxlanMode": "Always"}),
        ),
        pool(
            "cross6",
            json!({"cidr": "fd03::/48", "vxlanMode": "CrossSubnet"}),
        ),
    ];
    objects.extend(nodes(Tunnels::Vxlan));
    objects.extend(own_blocks());
    objects.extend([
        block("10.2.2.0/26", Some("n2"), &[(5, "n3")]),
        block("10.3.2.0/26", Some("n2"), &[]),
        block("10.3.3.0/26", Some("n3"), &[]),
        block("fd02:0:0:2::/122", Some("n2"), &[]),
        block("fd03:0:0:2::/122", Some("n2"), &[]),
        block("fd03:0:0:3::/122", Some("n3"), &[]),
        pod(),
    ]);
    let mut lines = device_rows::host();
    lines.extend(device_rows::pod());
    lines.extend(route_rows::pod());
    lines.extend(route_rows::own_blocks());
    lines.extend(route_rows::by_bgp());
    lines.extend(tunnel_rows::vxlan());
    lines.extend(tunnel_rows::vxlan_v6());
    lines.extend(route_rows::through_vxlan());
    lines.extend(rule_rows::defaults());
    Case {
        facts: Facts {
            settings: Settings::new("n1"),
            objects,
            bgp: bgp(),
        },
        lines,
        foreign: FOREIGN,
        orphans: ORPHANS,
        guests: GUESTS,
    }
}

/// A plain pool whose routes come from blocks, and settings of routes.
pub(super) fn settings() -> Case {
    let mut objects = vec![
        pool("plain", json!({"cidr": "10.1.0.0/16"})),
        pool("plain6", json!({"cidr": "fd01::/48"})),
    ];
    objects.extend(nodes(Tunnels::None));
    objects.extend(own_blocks());
    objects.extend([block("10.1.2.0/26", Some("n2"), &[]), pod()]);
    let services = json!({
        "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}, {"cidr": "fd00:96::/112"}],
        "serviceExternalIPs": [{"cidr": "192.0.2.7/32"}],
    });
    objects.push(object(
        Key::new(Kind::BGPConfiguration, "default"),
        &services,
    ));
    let settings = Settings {
        device_route_protocol: 99,
        floating_ips: true,
        device_route_source: Some("10.0.0.1".parse().unwrap()),
        device_route_source6: Some("fd00::1".parse().unwrap()),
        normal_route_metric: 512,
        external_routes: ExternalRoutes::Keep,
        cluster_routes: ClusterRoutes::Enabled,
        vxlan_from_pods: true,
        ipip_from_pods: true,
        pods_reach_host: true,
        ..Settings::new("n1")
    };
    Case {
        facts: Facts {
            settings,
            objects,
            bgp: bgp(),
        },
        lines: [route_rows::settings(), rule_rows::settings()].concat(),
        foreign: FOREIGN_ON_PODS,
        orphans: &[],
        guests: &[],
    }
}

/// A pool in IPIP, one in IPIP between subnets.
pub(super) fn ipip() -> Case {
    let mut objects = vec![
        pool("ipip", json!({"cidr": "10.1.0.0/16", "ipipMode": "Always"})),
        pool(
            "cross",
            json!({"cidr": "10.3.0.0/16", "ipipMode": "CrossSubnet"}),
        ),
    ];
    objects.extend(nodes(Tunnels::Ipip));
    objects.extend([
        block("10.1.1.0/26", Some("n1"), &[]),
        block("10.1.2.0/26", Some("n2"), &[]),
        block("10.3.2.0/26", Some("n2"), &[]),
        block("10.3.3.0/26", Some("n3"), &[]),
    ]);
    Case {
        facts: Facts {
            settings: Settings::new("n1"),
            objects,
            bgp: Vec::new(),
        },
        lines: [
            tunnel_rows::ipip(),
            route_rows::through_ipip(),
            rule_rows::ipip(),
        ]
        .concat(),
        foreign: FOREIGN,
        orphans: &[],
        guests: &[],
    }
}

const FOREIGN: &[Beside] = &[
    Beside {
        make: &["ip route add 198.18.0.0/15 via 10.0.0.9 proto 4 metric 7"],
        show: "ip route show 198.18.0.0/15",
        expect: r#"[{"gateway": "10.0.0.9", "metric": 7, "protocol": "4"}]"#,
        told: "",
    },
    Beside {
        make: &["ip route add blackhole 198.51.100.0/24 proto 3"],
        show: "ip route show 198.51.100.0/24",
        expect: r#"[{"type": "6", "protocol": "3"}]"#,
        told: "",
    },
    Beside {
        make: &["ip route add 10.2.9.0/26 via 10.0.0.9 proto 80 table 100"],
        show: "ip route show table 100",
        expect: r#"[{"dst": "10.2.9.0/26"}]"#,
        told: "",
    },
    Beside {
        make: &[
            "ip addr add 10.0.0.77/32 dev eth0",
            "ip neigh add 10.0.0.8 lladdr 02:00:00:00:00:08 dev eth0 nud permanent",
        ],
        show: "ip neigh show dev eth0 nud permanent",
        expect: r#"[{"dst": "10.0.0.8"}]"#,
        told: "",
    },
    Beside {
        make: &["ip rule add from 10.1.1.5 lookup 100 priority 50"],
        show: "ip rule show priority 50",
        expect: r#"[{"table": "100"}]"#,
        told: "",
    },
    Beside {
        make: &["nft add table ip foreign"],
        show: "nft list tables ip",
        expect: r#"["table ip foreign", "table ip calico"]"#,
        told: "",
    },
];

/// What stays on a pod's device without RemoveExternalRoutes.
const FOREIGN_ON_PODS: &[Beside] = &[Beside {
    make: &["ip route add 198.18.0.0/15 dev cali1 proto 4"],
    show: "ip route show 198.18.0.0/15",
    expect: r#"[{"dev": "cali1", "protocol": "4"}]"#,
    told: "",
}];

const ORPHANS: &[Beside] = &[
    Beside {
        make: &["ip route add 10.2.9.0/26 via 10.0.0.9 proto 80"],
        show: "ip route show 10.2.9.0/26",
        expect: r#"[{"protocol": "80"}]"#,
        told: "10.2.9.0/26",
    },
    Beside {
        make: &["ip route add blackhole 10.1.9.0/26 proto 12"],
        show: "ip route show 10.1.9.0/26",
        expect: r#"[{"type": "6"}]"#,
        told: "10.1.9.0/26",
    },
    Beside {
        // The CNI plugin of Calico writes it before Felix does its own.
        make: &["ip route add 10.1.1.5 dev cali1 scope link proto 3"],
        show: "ip route show 10.1.1.5 metric 0",
        expect: r#"[{"dev": "cali1"}]"#,
        told: "10.1.1.5 dev cali1",
    },
    Beside {
        make: &["ip route add 10.1.1.9 dev cali1 proto 4"],
        show: "ip route show 10.1.1.9",
        expect: r#"[{"dev": "cali1"}]"#,
        told: "10.1.1.9 dev cali1",
    },
    Beside {
        make: &["ip route add 10.2.8.0/26 dev vxlan.calico proto 4"],
        show: "ip route show 10.2.8.0/26",
        expect: r#"[{"dev": "vxlan.calico"}]"#,
        told: "10.2.8.0/26",
    },
    Beside {
        make: &["ip neigh add 10.1.1.9 lladdr 02:00:00:00:00:09 dev cali1 nud permanent"],
        show: "ip neigh show 10.1.1.9 dev cali1 nud permanent",
        expect: r#"[{"dst": "10.1.1.9"}]"#,
        told: "10.1.1.9 dev cali1",
    },
    Beside {
        make: &["ip neigh add 10.2.9.0 lladdr 66:00:00:00:00:09 dev vxlan.calico nud permanent"],
        show: "ip neigh show 10.2.9.0 dev vxlan.calico nud permanent",
        expect: r#"[{"dst": "10.2.9.0"}]"#,
        told: "10.2.9.0 dev vxlan.calico",
    },
    Beside {
        make: &["bridge fdb add 66:00:00:00:00:09 dev vxlan.calico dst 10.0.0.9 self permanent"],
        show: "bridge fdb get 66:00:00:00:00:09 dev vxlan.calico self",
        expect: r#"[{"dst": "10.0.0.9"}]"#,
        told: "lladdr 66:00:00:00:00:09",
    },
    Beside {
        make: &["ip addr add 10.2.9.1/32 dev vxlan.calico"],
        show: "ip addr show dev vxlan.calico to 10.2.9.1",
        expect: r#"[{"addr_info": [{"local": "10.2.9.1"}]}]"#,
        told: "10.2.9.1",
    },
];

const GUESTS: &[Beside] = &[Beside {
    // As the device learns them itself.
    make: &["bridge fdb add 66:00:00:00:00:0a dev vxlan.calico dst 10.0.0.10 self dynamic"],
    show: "bridge fdb get 66:00:00:00:00:0a dev vxlan.calico self",
    expect: r#"[{"dst": "10.0.0.10"}]"#,
    told: "",
}];

fn object(key: Key, spec: &Value) -> (Key, Object) {
    let json = json!({"metadata": {"name": key.name, "namespace": key.namespace}, "spec": spec});
    let object = Object::decode(&key, json.to_string().as_bytes()).unwrap();
    (key, object)
}

fn pool(name: &str, spec: Value) -> (Key, Object) {
    object(Key::new(Kind::IPPool, name), &spec)
}

/// What the nodes' tunnel devices are of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tunnels {
    None,
    Vxlan,
    Ipip,
}

/// Itself, a neighbour, and one behind a router.
fn nodes(tunnels: Tunnels) -> Vec<(Key, Object)> {
    let node = |number: u8, v4: &str, v6: &str| {
        let of = |kind, address: String| (tunnels == kind).then_some(address);
        let spec = json!({
            "bgp": {
                "ipv4Address": v4,
                "ipv6Address": v6,
                "ipv4IPIPTunnelAddr": of(Tunnels::Ipip, format!("10.1.{number}.63")),
            },
            "ipv4VXLANTunnelAddr": of(Tunnels::Vxlan, format!("10.2.{number}.0")),
            "ipv6VXLANTunnelAddr": of(Tunnels::Vxlan, format!("fd02:0:0:{number}::")),
        });
        object(Key::new(Kind::Node, format!("n{number}")), &spec)
    };
    vec![
        node(1, "10.0.0.1/24", "fd00::1/64"),
        node(2, "10.0.0.2/24", "fd00::2/64"),
        node(3, "10.9.0.3/24", "fd09::3/64"),
    ]
}

fn own_blocks() -> Vec<(Key, Object)> {
    let of_own = |range| block(range, Some("n1"), &[]);
    let ranges = ["10.1.1.0/26", "10.1.8.1/32", "fd01::/122"];
    ranges.map(of_own).into()
}

fn pod() -> (Key, Object) {
    let spec = json!({
        "node": "n1",
        "endpoint": "eth0",
        "interfaceName": "cali1",
        "ipNetworks": ["10.1.1.5/32", "fd01::5/128"],
        "mac": "02:00:00:00:00:05",
        "ipNATs": [{"internalIP": "10.1.1.5", "externalIP": "198.51.100.5"}],
    });
    object(
        Key::namespaced(Kind::WorkloadEndpoint, "default", "pod"),
        &spec,
    )
}

/// A block; `held` are ordinals and the nodes that have them.
fn block(range: &str, owner: Option<&str>, held: &[(usize, &str)]) -> (Key, Object) {
    let range: IpNet = range.parse().unwrap();
    let size = 1_usize << (range.max_prefix_len() - range.prefix_len());
    let mut allocations = vec![Value::Null; size];
    let mut attributes = Vec::new();
    for (ordinal, node) in held {
        allocations[*ordinal] = json!(attributes.len());
        attributes.push(json!({"secondary": {"node": node}}));
    }
    let spec = json!({
        "cidr": range,
        "affinity": owner.map(|owner| format!("host:{owner}")),
        "allocations": allocations,
        "unallocated": [],
        "attributes": attributes,
    });
    object(
        Key::new(Kind::IPAMBlock, api::ipam::block_name(range)),
        &spec,
    )
}

/// Blocks of others in the plain pools, and prefixes from beyond the cluster.
const ROUTES: [(&str, &[&str]); 5] = [
    ("10.1.2.0/26", &["10.0.0.2"]),
    ("10.1.4.0/26", &["10.0.0.2", "10.0.0.4"]),
    ("172.16.0.0/16", &["10.9.0.3"]),
    ("172.17.0.0/16", &["fd00::2"]),
    ("fd01:0:0:2::/122", &["fd00::2"]),
];

fn bgp() -> Vec<RouteChange> {
    changes(|next_hops| {
        Some(BestRoute {
            next_hops: next_hops.iter().map(|hop| hop.parse().unwrap()).collect(),
            source: RouteSource::Ibgp,
            local_pref: 2_147_482_623,
            peer: None,
            stale: false,
        })
    })
}

pub(super) fn withdrawn() -> Vec<RouteChange> {
    changes(|_| None)
}

fn changes(best: impl Fn(&[&str]) -> Option<BestRoute>) -> Vec<RouteChange> {
    let change = |(prefix, next_hops): (&str, &[&str])| RouteChange {
        prefix: prefix.parse().unwrap(),
        best: best(next_hops),
    };
    ROUTES.map(change).into()
}
