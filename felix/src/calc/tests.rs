//! The graph as its users see it: facts in, rows, configuration and originations out.

mod advertised;
mod drain;
mod dual_stack;
mod filters;
mod floating;
mod identity;
mod metric;
mod next_hops;
mod objects;
mod peering;
mod pod_cidrs;
mod pod_peers;
mod property;
mod reference;
mod routed;
mod rules;
mod services;
mod session_options;
mod sessions;
mod settings;
mod shared_address;
mod switch;
mod world;

use std::net::IpAddr;

use api::key::{Key, Kind};
use bgp::config::NextHopMode;
use bgp::policy::{Match, PrefixRange, Verdict};
use bgp::route::RouteSource;
use serde_json::json;

use super::*;
use crate::desired::{Checksums, IfName, LinkSpec, Parent, RouteKind, RouteSpec};
use crate::ownership::VXLAN_DEVICE;
use world::{World, addr, affinity, block, endpoint, link, node, node_in, pool, route};

fn prefix(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn text(spec: &RouteSpec) -> String {
    let kind = match spec.kind {
        RouteKind::Unicast => "",
        RouteKind::Blackhole => "blackhole ",
        RouteKind::Unreachable => "unreachable ",
        RouteKind::Prohibit => "prohibit ",
    };
    let hops: Vec<String> = spec
        .next_hops
        .iter()
        .map(|hop| {
            let via = hop.gateway.map_or(String::new(), |at| format!("via {at} "));
            let dev = hop.ifname.as_ref().map_or("-", |name| &name.0);
            let onlink = if hop.onlink { " onlink" } else { "" };
            format!("{via}dev {dev}{onlink} ")
        })
        .collect();
    let scope = if spec.scope == 253 { " scope link" } else { "" };
    let mtu = spec
        .mtu_bytes
        .map_or(String::new(), |mtu| format!(" mtu {mtu}"));
    format!("{kind}{}proto {}{scope}{mtu}", hops.concat(), spec.protocol)
}

/// All planned routes, in the words of iproute2.
fn fibs(world: &World) -> Vec<(IpNet, String)> {
    world
        .rows
        .values()
        .filter_map(|row| match row {
            Row::Route(key, spec) => {
                let metric = if key.metric == 0 {
                    String::new()
                } else {
                    format!(" metric {}", key.metric)
                };
                Some((key.dst, format!("{}{metric}", text(spec))))
            }
            _ => None,
        })
        .collect()
}

/// The planned route to a destination.
fn fib(world: &World, dst: &str) -> Option<String> {
    let dst = prefix(dst);
    let mut routes = fibs(world);
    routes.retain(|(at, _)| *at == dst);
    assert!(routes.len() <= 1, "{routes:?}");
    routes.pop().map(|(_, route)| route)
}

/// Two nodes in one subnet and one in another, one pool, each node with a block.
fn cluster(pool_spec: serde_json::Value) -> World {
    let mut world = World::started();
    for (number, name, address) in [
        (0, "n1", "10.0.0.1/24"),
        (1, "n2", "10.0.0.2/24"),
        (2, "n3", "10.9.0.3/24"),
    ] {
        world.put(node_in(&pool_spec, name, address, number));
    }
    world.put(pool("p", pool_spec));
    for (name, range) in [
        ("n1", "10.1.0.0/26"),
        ("n2", "10.1.1.0/26"),
        ("n3", "10.1.2.0/26"),
    ] {
        world.put(block(range, Some(name), &[]));
        world.put(affinity(name, range, "confirmed"));
    }
    world.flush();
    world
}

fn plain() -> serde_json::Value {
    json!({"cidr": "10.1.0.0/16"})
}

fn vxlan(mode: &str) -> serde_json::Value {
    json!({"cidr": "10.1.0.0/16", "vxlanMode": mode})
}

#[test]
fn nothing_comes_out_before_every_kind_and_the_kernel_are_in_sync() {
    let mut graph = Graph::new(Settings::new("n1"));
    let (key, object) = endpoint("a", "n1", "cali1", &["10.1.0.5/32"]);
    graph.handle_update(&key, Some(&object));
    for kind in Graph::KINDS {
        assert!(!graph.in_sync());
        graph.handle_in_sync(kind);
        graph.flush();
        assert_eq!(graph.poll_desired(), None);
    }
    graph.handle_kernel_in_sync();
    assert!(graph.in_sync() && !graph.originations_complete());
    graph.flush();
    assert!(graph.poll_desired().is_some());
    assert!(graph.originations_complete());
}

#[test]
fn a_local_pod_gets_its_route_neighbour_and_sysctls_and_loses_them() {
    let mut world = cluster(plain());
    let without = world.rows.clone();
    world.put(endpoint("a", "n1", "cali1", &["10.1.0.5/32"]));
    world.flush();
    assert_eq!(
        fib(&world, "10.1.0.5/32").unwrap(),
        "dev cali1 proto 3 scope link metric 1024"
    );
    let key = world
        .graph
        .settings()
        .workload_route_key("10.1.0.5".parse().unwrap());
    assert!(world.rows.contains_key(&key));
    let added: Vec<String> = world
        .rows
        .iter()
        .filter(|(key, _)| !without.contains_key(*key))
        .filter_map(|(_, row)| match row {
            Row::Neigh(key, mac) => Some(format!("{} {} {mac}", key.ifname, key.addr)),
            Row::Sysctl(key, value) => Some(format!("{}={value}", key.0)),
            Row::Mac(name, mac) => Some(format!("{name} has {mac}")),
            _ => None,
        })
        .collect();
    assert_eq!(
        added,
        [
            "cali1 has ee:ee:ee:ee:ee:ee",
            "cali1 10.1.0.5 02:00:00:00:00:05",
            "net/ipv4/conf/cali1/forwarding=1",
            "net/ipv4/conf/cali1/proxy_arp=1",
            "net/ipv4/conf/cali1/route_localnet=1",
            "net/ipv4/conf/cali1/rp_filter=1",
            "net/ipv4/neigh/cali1/proxy_delay=0",
            "net/ipv6/conf/cali1/accept_ra=0",
            "net/ipv6/conf/cali1/forwarding=1",
            "net/ipv6/conf/cali1/proxy_ndp=1",
        ]
    );
    world.remove(&endpoint("a", "n1", "cali1", &[]).0);
    world.flush();
    assert_eq!(world.rows, without);
}

#[test]
fn pods_of_other_nodes_and_bad_addresses_make_no_rows() {
    let mut world = cluster(plain());
    let without = world.rows.clone();
    world.put(endpoint("a", "n2", "cali1", &["10.1.1.5/32"]));
    world.flush();
    assert_eq!(world.rows, without);
    world.put(endpoint("b", "n1", "cali2", &["10.1.0.0/26"]));
    world.flush();
    assert_eq!(fib(&world, "10.1.0.0/26").unwrap(), "blackhole proto 12");
    let problems = world.graph.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(
        problems[0].to_string(),
        "WorkloadEndpoint(default/b): spec.ipNetworks: 10.1.0.0/26: a pod's address must be a /32 or /128"
    );
}

#[test]
fn plain_pools_follow_bgp_and_the_own_block_is_dropped_and_announced() {
    let mut world = cluster(plain());
    assert_eq!(fib(&world, "10.1.0.0/26").unwrap(), "blackhole proto 12");
    assert_eq!(fib(&world, "10.1.1.0/26"), None);
    world.bgp("10.1.1.0/26", &["10.0.0.2"]);
    world.bgp("10.1.2.0/26", &["10.9.0.3"]);
    world.bgp("192.0.2.0/24", &["10.0.0.2", "10.0.0.7"]);
    world.bgp("10.1.0.0/26", &["10.0.0.2"]);
    world.flush();
    assert_eq!(fib(&world, "10.1.0.0/26").unwrap(), "blackhole proto 12");
    assert_eq!(
        fib(&world, "10.1.1.0/26").unwrap(),
        "via 10.0.0.2 dev eth0 proto 12 metric 1024"
    );
    // Not on-link: through the host's own route to it.
    assert_eq!(
        fib(&world, "10.1.2.0/26").unwrap(),
        "via 10.0.0.254 dev eth0 proto 12 metric 1024"
    );
    assert_eq!(
        fib(&world, "192.0.2.0/24").unwrap(),
        "via 10.0.0.2 dev eth0 via 10.0.0.7 dev eth0 proto 12 metric 1024"
    );
    assert_eq!(world.announced(), ["10.1.0.0/26"]);
}

#[test]
fn a_next_hop_that_is_not_reachable_keeps_the_route_out_and_says_why() {
    let mut world = cluster(plain());
    world.kernel(&KernelEvent::RowGone(
        route("0.0.0.0/0", "10.0.0.254", "eth0").key(),
    ));
    world.bgp("10.1.2.0/26", &["10.9.0.3"]);
    world.bgp("10.1.1.0/26", &["10.0.0.1"]);
    world.flush();
    assert_eq!(fib(&world, "10.1.2.0/26"), None);
    assert_eq!(fib(&world, "10.1.1.0/26"), None);
    let texts = world.problems();
    assert_eq!(
        texts,
        [
            "route 10.1.1.0/26: no route to the next hop 10.0.0.1",
            "route 10.1.2.0/26: no route to the next hop 10.9.0.3"
        ]
    );
    world.kernel(&KernelEvent::RowSet(route(
        "10.9.0.0/16",
        "10.0.0.253",
        "eth0",
    )));
    world.flush();
    assert_eq!(
        fib(&world, "10.1.2.0/26").unwrap(),
        "via 10.0.0.253 dev eth0 proto 12 metric 1024"
    );
    // The agent's own routes do not carry next hops.
    let mut own = route("10.9.0.0/24", "10.0.0.2", "eth0");
    if let Row::Route(_, spec) = &mut own {
        spec.protocol = 12;
    }
    world.kernel(&KernelEvent::RowSet(own));
    world.flush();
    assert_eq!(
        fib(&world, "10.1.2.0/26").unwrap(),
        "via 10.0.0.253 dev eth0 proto 12 metric 1024"
    );
}

#[test]
fn vxlan_pools_follow_the_blocks_and_ignore_bgp() {
    let mut world = cluster(vxlan("Always"));
    assert!(world.graph.blocks_lead_to_pods());
    world.bgp("10.1.1.0/26", &["10.0.0.2"]);
    world.flush();
    assert_eq!(fib(&world, "10.1.0.0/26").unwrap(), "blackhole proto 80");
    assert_eq!(
        fib(&world, "10.1.1.0/26").unwrap(),
        "via 10.1.1.0 dev vxlan.calico onlink proto 3 mtu 1450"
    );
    world.remove(&Key::new(Kind::Node, "n2"));
    world.flush();
    assert_eq!(fib(&world, "10.1.1.0/26"), None);
    assert_eq!(
        world.graph.problems()[0].to_string(),
        "route 10.1.1.0/26: owner \"n2\" has no Node object with an address"
    );
}

#[test]
fn cross_subnet_goes_direct_inside_the_own_subnet_and_tunnels_while_the_parent_is_unknown() {
    let mut world = cluster(vxlan("CrossSubnet"));
    let direct = "via 10.0.0.2 dev eth0 onlink proto 80";
    let tunnel = "via 10.1.1.0 dev vxlan.calico onlink proto 3";
    assert_eq!(fib(&world, "10.1.1.0/26").unwrap(), direct);
    assert_eq!(
        fib(&world, "10.1.2.0/26").unwrap(),
        "via 10.1.2.0 dev vxlan.calico onlink proto 3 mtu 1450"
    );
    world.kernel(&KernelEvent::HostAddrGone {
        ifname: IfName::from("eth0"),
        addr: "10.0.0.1/24".parse().unwrap(),
    });
    world.flush();
    assert_eq!(fib(&world, "10.1.1.0/26").unwrap(), tunnel);
    world.kernel(&addr("eth0", "10.0.0.1/24"));
    world.flush();
    assert_eq!(fib(&world, "10.1.1.0/26").unwrap(), direct);
    world.put(node("n1", "10.0.0.1/32", Some("10.1.0.0")));
    world.flush();
    assert_eq!(
        fib(&world, "10.1.1.0/26").unwrap(),
        format!("{tunnel} mtu 1450")
    );
}

#[test]
fn another_prefix_length_of_the_nodes_address_changes_no_route() {
    let mut world = cluster(vxlan("CrossSubnet"));
    let before = world.rows.clone();
    // `ip addr add 10.0.0.1/16`, then `ip addr del 10.0.0.1/24`, each seen by itself.
    world.kernel(&addr("eth0", "10.0.0.1/16"));
    world.flush();
    world.kernel(&KernelEvent::HostAddrGone {
        ifname: IfName::from("eth0"),
        addr: "10.0.0.1/24".parse().unwrap(),
    });
    world.flush();
    assert_eq!(world.rows, before);
    assert_eq!(world.problems(), Vec::<String>::new());
    assert_eq!(world.graph.pod_mtu_bytes(), Some(1450));
}

#[test]
fn ipip_goes_to_the_node_over_the_fallback_device() {
    let mut world = cluster(json!({"cidr": "10.1.0.0/16", "ipipMode": "CrossSubnet"}));
    assert_eq!(
        fib(&world, "10.1.1.0/26").unwrap(),
        "via 10.0.0.2 dev eth0 onlink proto 80"
    );
    assert_eq!(
        fib(&world, "10.1.2.0/26").unwrap(),
        "via 10.9.0.3 dev tunl0 onlink proto 80 mtu 1480"
    );
    world.put(pool(
        "p",
        json!({"cidr": "10.1.0.0/16", "ipipMode": "Always"}),
    ));
    world.flush();
    assert_eq!(
        fib(&world, "10.1.1.0/26").unwrap(),
        "via 10.0.0.2 dev tunl0 onlink proto 80 mtu 1480"
    );
    assert_eq!(world.graph.pod_mtu_bytes(), Some(1480));

    let mut settings = Settings::new("n1");
    settings.cluster_routes = ClusterRoutes::Disabled;
    let mut by_bgp = World::new(settings);
    for (key, object) in world.objects.clone() {
        by_bgp.put((key, object));
    }
    by_bgp.start();
    by_bgp.bgp("10.1.2.0/26", &["10.9.0.3"]);
    by_bgp.flush();
    assert_eq!(fib(&by_bgp, "10.1.1.0/26"), None);
    assert_eq!(
        fib(&by_bgp, "10.1.2.0/26").unwrap(),
        "via 10.9.0.3 dev tunl0 onlink proto 12 metric 1024"
    );
}

#[test]
fn a_borrowed_address_is_routed_to_its_borrower() {
    let mut world = cluster(vxlan("Always"));
    world.put(block(
        "10.1.1.0/26",
        Some("n2"),
        &[(3, "n3"), (4, "n1"), (5, "n2")],
    ));
    world.put(endpoint("a", "n1", "cali1", &["10.1.1.4/32"]));
    world.flush();
    assert_eq!(
        fib(&world, "10.1.1.3/32").unwrap(),
        "via 10.1.2.0 dev vxlan.calico onlink proto 3 mtu 1450"
    );
    assert_eq!(
        fib(&world, "10.1.1.4/32").unwrap(),
        "dev cali1 proto 3 scope link metric 1024"
    );
    assert_eq!(fib(&world, "10.1.1.5/32"), None);
    assert_eq!(world.announced(), ["10.1.0.0/26", "10.1.1.4/32"]);
    // A block without an owner: each address on its own.
    world.put(block("10.1.1.0/26", None, &[(5, "n2")]));
    world.flush();
    assert_eq!(fib(&world, "10.1.1.0/26"), None);
    assert!(fib(&world, "10.1.1.5/32").is_some());
    assert_eq!(fib(&world, "10.1.1.3/32"), None);
}

#[test]
fn a_remote_tunnel_address_outside_its_nodes_blocks_is_on_the_tunnels_link() {
    let mut world = cluster(vxlan("Always"));
    world.put(node("n2", "10.0.0.2/24", Some("10.1.2.7")));
    world.put(block("10.1.2.0/26", Some("n3"), &[(7, "n2")]));
    world.flush();
    assert_eq!(
        fib(&world, "10.1.2.7/32").unwrap(),
        "dev vxlan.calico proto 3 scope link"
    );
}

#[test]
fn blocks_of_one_address_have_no_blackhole_and_are_announced_while_in_use() {
    let mut world = cluster(plain());
    world.put(block("10.1.7.7/32", Some("n1"), &[]));
    world.put(affinity("n1", "10.1.7.7/32", "confirmed"));
    world.flush();
    assert_eq!(fib(&world, "10.1.7.7/32"), None);
    assert_eq!(world.announced(), ["10.1.0.0/26"]);
    world.put(endpoint("a", "n1", "cali1", &["10.1.7.7/32"]));
    world.flush();
    assert_eq!(world.announced(), ["10.1.0.0/26", "10.1.7.7/32"]);
}

#[test]
fn an_affinity_is_announced_as_far_as_its_block_says_the_same() {
    let mut world = cluster(plain());
    let lone = affinity("n1", "10.1.7.0/26", "confirmed");
    world.put(lone.clone());
    world.flush();
    assert_eq!(world.announced(), ["10.1.0.0/26"]);
    assert_eq!(fib(&world, "10.1.7.0/26"), None);
    assert_eq!(
        world.problems(),
        [
            "BlockAffinity(n1-10-1-7-0-26): there is no IPAMBlock 10.1.7.0/26, and an affinity alone is not announced"
        ]
    );
    world.put(block("10.1.7.0/26", Some("n2"), &[]));
    world.flush();
    assert_eq!(world.announced(), ["10.1.0.0/26"]);
    assert_eq!(
        world.problems(),
        ["BlockAffinity(n1-10-1-7-0-26): its IPAMBlock belongs to n2, so it is not announced"]
    );
    world.put(block("10.1.7.0/26", Some("n1"), &[]));
    world.flush();
    assert_eq!(world.announced(), ["10.1.0.0/26", "10.1.7.0/26"]);
    assert!(world.problems().is_empty());
}

#[test]
fn a_block_over_another_nodes_is_not_announced_as_a_whole() {
    for others in ["10.1.0.0/28", "10.1.0.0/24"] {
        let mut world = cluster(plain());
        world.put(endpoint("a", "n1", "cali1", &["10.1.0.50/32"]));
        let (key, other) = block(others, Some("n2"), &[]);
        world.put((key.clone(), other));
        world.flush();
        assert_eq!(world.announced(), ["10.1.0.50/32"], "{others}");
        let problems = world.problems();
        let expected = format!("IPAMBlock(10-1-0-0-26): shares addresses with {key} of another");
        assert!(
            problems.len() == 1 && problems[0].starts_with(&expected),
            "{problems:?}"
        );
        world.remove(&key);
        world.flush();
        assert_eq!(world.announced(), ["10.1.0.0/26"]);
        assert!(world.problems().is_empty());
        // Two sizes of one owner are no trouble.
        world.put(block(others, Some("n1"), &[]));
        world.flush();
        assert_eq!(world.announced(), ["10.1.0.0/26"]);
    }
}

#[test]
fn only_claims_that_stand_are_announced() {
    let mut world = cluster(plain());
    world.put(endpoint("a", "n1", "cali1", &["10.1.0.5/32"]));
    world.put(affinity("n1", "10.1.0.0/26", "pending"));
    world.flush();
    assert_eq!(world.announced(), ["10.1.0.5/32"]);
    world.put(affinity("n1", "10.1.0.0/26", "pendingDeletion"));
    world.flush();
    assert_eq!(world.announced(), ["10.1.0.0/26", "10.1.0.5/32"]);
    world.put(affinity("n1", "10.1.0.0/26", "confirmed"));
    world.put(block("10.1.0.0/26", Some("n2"), &[]));
    world.flush();
    assert_eq!(world.announced(), ["10.1.0.5/32"]);
    world.put(block("10.1.0.0/26", Some("n1"), &[]));
    world.put(pool(
        "p",
        json!({"cidr": "10.1.0.0/16", "disableBGPExport": true}),
    ));
    world.flush();
    assert_eq!(world.announced(), Vec::<String>::new());
}

#[test]
fn the_vxlan_device_and_every_other_nodes_endpoint_are_planned() {
    let mut world = cluster(vxlan("Always"));
    let mac = crate::desired::Mac(api::node::vxlan_mac("n1"));
    let link_key = RowKey::Link(IfName::from(VXLAN_DEVICE));
    assert_eq!(
        world.rows[&link_key],
        Row::Link(
            IfName::from(VXLAN_DEVICE),
            LinkSpec::Vxlan {
                vni: 4096,
                port: 4789,
                local: "10.0.0.1".parse().unwrap(),
                parent: Parent::Device(IfName::from("eth0")),
                mac,
                mtu_bytes: Some(1450),
                checksums: Checksums::AsIs,
            }
        )
    );
    let count = |world: &World| {
        let peers = world.rows.keys().filter(|key| match key {
            RowKey::Fdb(_) => true,
            RowKey::Neigh(key) => *key.ifname.0 == *VXLAN_DEVICE,
            _ => false,
        });
        peers.count()
    };
    assert_eq!(count(&world), 4);
    // The same tunnel address twice: the first node by name keeps it.
    world.put(node("n3", "10.9.0.3/24", Some("10.1.1.0")));
    world.flush();
    assert_eq!(count(&world), 2);
    assert_eq!(
        world.graph.problems()[0].to_string(),
        "Node(n3): spec.ipv4VXLANTunnelAddr: 10.1.1.0 is taken by Node(n2)"
    );
    // Others may still send through it: it stays until this node's object does not name its address any more.
    world.put(pool("p", plain()));
    world.flush();
    assert_eq!(count(&world), 2);
    world.put(node("n1", "10.0.0.1/24", None));
    world.flush();
    assert_eq!(count(&world), 0);
    assert!(!world.rows.contains_key(&link_key));
}

#[test]
fn pods_of_a_deleted_pool_are_reached_through_vxlan_until_they_are_gone_and_that_is_said() {
    let mut world = cluster(vxlan("CrossSubnet"));
    let link_key = RowKey::Link(IfName::from(VXLAN_DEVICE));
    world.bgp("10.1.2.0/26", &["10.9.0.3"]);
    world.bgp("192.0.2.0/24", &["10.0.0.7"]);
    world.remove(&Key::new(Kind::IPPool, "p"));
    world.flush();
    assert!(world.rows.contains_key(&link_key));
    for (dst, route) in [
        (
            "10.1.1.0/26",
            "via 10.1.1.0 dev vxlan.calico onlink proto 3 mtu 1450",
        ),
        (
            "10.1.2.0/26",
            "via 10.1.2.0 dev vxlan.calico onlink proto 3 mtu 1450",
        ),
        ("192.0.2.0/24", "via 10.0.0.7 dev eth0 proto 12 metric 1024"),
    ] {
        assert_eq!(fib(&world, dst).as_deref(), Some(route), "{dst}");
    }
    assert_eq!(
        world.problems(),
        [
            "route 10.1.0.0/26: no pool covers this block of this node any more: its pods are reached until they are gone, \
          and no new one gets an address of it"
        ]
    );
    for range in ["10.1.0.0/26", "10.1.1.0/26", "10.1.2.0/26"] {
        world.remove(&block(range, None, &[]).0);
    }
    world.remove(&affinity("n1", "10.1.0.0/26", "confirmed").0);
    world.put(node("n1", "10.0.0.1/24", None));
    world.flush();
    assert!(!world.rows.contains_key(&link_key));
    assert_eq!(world.problems(), Vec::<String>::new());
}

#[test]
fn the_parents_mtu_makes_the_tunnels_and_the_pods() {
    let mut world = cluster(vxlan("Always"));
    world.kernel(&link("eth0", true, 9000));
    world.flush();
    assert_eq!(world.graph.pod_mtu_bytes(), Some(8950));
    assert!(fib(&world, "10.1.1.0/26").unwrap().ends_with("mtu 8950"));
}

#[test]
fn the_mesh_is_every_other_node_that_reflects_no_routes() {
    let mut world = cluster(plain());
    let config = world.config.clone().unwrap();
    assert_eq!(config.asn.0, 64512);
    assert_eq!(config.router_id.to_string(), "10.0.0.1");
    let names: Vec<String> = config.peers.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["Mesh_10_0_0_2", "Mesh_10_9_0_3"]);
    let peer = config.peers.values().next().unwrap();
    assert_eq!(
        peer.local_address,
        Some("10.0.0.1".parse::<IpAddr>().unwrap())
    );
    assert!(peer.passive && peer.graceful_restart && peer.multihop);
    assert_eq!((peer.hold_time.as_secs(), peer.port), (240, 179));

    let (key, mut reflector) = node("n3", "10.9.0.3/24", None);
    if let Object::Node(node) = &mut reflector {
        let bgp = node.spec.bgp.as_mut().unwrap();
        bgp.route_reflector_cluster_id = Some("1.0.0.1".parse().unwrap());
    }
    world.put((key, reflector));
    world.flush();
    assert_eq!(world.peer_names(), ["Mesh_10_0_0_2"]);

    world.put(world::bgp_config(
        "default",
        json!({"nodeToNodeMeshEnabled": false, "asNumber": 65001}),
    ));
    world.flush();
    assert_eq!(world.peer_names(), Vec::<String>::new());
    assert_eq!(world.config.as_ref().unwrap().asn.0, 65001);
    world.remove(&Key::new(Kind::Node, "n1"));
    world.put(world::bgp_config("default", json!({})));
    world.flush();
    assert_eq!(world.peer_names(), Vec::<String>::new());
}

#[test]
fn explicit_peers_are_chosen_by_node_selector_or_for_all_and_replace_mesh_peers() {
    let mut world = cluster(plain());
    let peers = [
        ("all", json!({"peerIP": "10.0.0.200", "asNumber": 64512})),
        (
            "mine",
            json!({"peerIP": "10.0.0.201:1790", "asNumber": 65000, "node": "n1",
            "nextHopMode": "Self", "ttlSecurity": 1}),
        ),
        (
            "other",
            json!({"peerIP": "10.0.0.202", "asNumber": 65000, "node": "n2"}),
        ),
        (
            "select",
            json!({"peerIP": "10.0.0.203", "asNumber": 65000, "nodeSelector": "name == 'n1'"}),
        ),
        (
            "wrong",
            json!({"peerIP": "10.0.0.204", "asNumber": 65000, "nodeSelector": "name =="}),
        ),
        ("mesh", json!({"peerIP": "10.0.0.2", "asNumber": 64512})),
        ("twice", json!({"peerIP": "10.0.0.200", "asNumber": 65002})),
        (
            "secret",
            json!({"peerIP": "10.0.0.205", "asNumber": 65002,
            "password": {"secretKeyRef": {"name": "a", "key": "b"}}}),
        ),
        ("no-as", json!({"peerIP": "10.0.0.206"})),
        (
            "nodes",
            json!({"peerSelector": "name == 'n3'", "node": "n1"}),
        ),
    ];
    for (name, spec) in peers {
        world.put(world::bgp_peer(name, spec));
    }
    world.flush();
    assert_eq!(
        world.peer_names(),
        [
            "Global_10_0_0_2",
            "Global_10_0_0_200",
            "Node_10_0_0_201_port_1790",
            "Node_10_0_0_203",
            "Node_10_9_0_3"
        ]
    );
    let config = world.config.clone().unwrap();
    let peer = config
        .peers
        .values()
        .find(|peer| peer.port == 1790)
        .unwrap();
    assert_eq!(
        (peer.next_hop, peer.ttl_security),
        (NextHopMode::SelfAddress, Some(1))
    );
    let fields: Vec<(String, &str)> = world
        .graph
        .problems()
        .iter()
        .map(|problem| (problem.subject.to_string(), problem.field))
        .collect();
    assert_eq!(
        fields,
        [
            ("BGPPeer(mesh)".to_owned(), "spec.peerIP"),
            ("BGPPeer(no-as)".to_owned(), "spec.asNumber"),
            ("BGPPeer(nodes)".to_owned(), "spec.peerIP"),
            ("BGPPeer(secret)".to_owned(), "spec.password.secretKeyRef"),
            ("BGPPeer(twice)".to_owned(), "spec.peerIP"),
            ("BGPPeer(wrong)".to_owned(), "spec.nodeSelector"),
        ]
    );
}

#[test]
fn what_is_exported_follows_the_innermost_pool() {
    let mut world = cluster(plain());
    world.put(pool(
        "inner",
        json!({"cidr": "10.1.64.0/20", "disableBGPExport": true}),
    ));
    world.flush();
    let config = world.config.clone().unwrap();
    let export = &config.peers.values().next().unwrap().export;
    let terms: Vec<_> = export
        .terms
        .iter()
        .map(|term| (term.matches.as_slice(), term.verdict))
        .collect();
    let inside = |text| [Match::Prefix(vec![PrefixRange::or_longer(prefix(text))])];
    let (inner, outer) = (inside("10.1.64.0/20"), inside("10.1.0.0/16"));
    let own = [Match::PeerType(vec![RouteSource::Local])];
    assert_eq!(
        terms,
        [
            (&inner[..], Verdict::Reject),
            (&outer[..], Verdict::Accept),
            (&own[..], Verdict::Accept)
        ]
    );
    assert!(!export.default_accept);
}

#[test]
fn without_bgp_there_is_no_configuration_and_no_blackhole_of_bgp() {
    let mut settings = Settings::new("n1");
    settings.backend = api::params::Backend::Vxlan;
    let mut world = World::new(settings);
    for (key, object) in cluster(plain()).objects {
        world.put((key, object));
    }
    world.start();
    world.flush();
    assert_eq!(world.config, None);
    assert_eq!(fib(&world, "10.1.0.0/26"), None);
}

#[test]
fn an_invalid_object_counts_as_absent_and_is_told() {
    let mut world = cluster(vxlan("Always"));
    world
        .graph
        .handle_invalid(&Key::new(Kind::Node, "n2"), "spec.bgp: 99".into());
    world.flush();
    assert_eq!(fib(&world, "10.1.1.0/26"), None);
    assert!(fib(&world, "10.1.2.0/26").is_some());
    assert_eq!(
        world.problems(),
        [
            "Node(n2): spec.bgp: 99",
            "route 10.1.1.0/26: owner \"n2\" has no Node object with an address"
        ]
    );
}

#[test]
fn a_new_reading_of_the_host_forgets_what_it_does_not_tell() {
    let mut world = cluster(plain());
    world.bgp("10.1.2.0/26", &["10.9.0.3"]);
    world.flush();
    assert!(fib(&world, "10.1.2.0/26").is_some());
    world.graph.handle_kernel_resync();
    world.kernel(&link("eth0", true, 1500));
    world.kernel(&addr("eth0", "10.0.0.1/24"));
    world.graph.handle_kernel_in_sync();
    world.flush();
    assert_eq!(fib(&world, "10.1.2.0/26"), None);
}
