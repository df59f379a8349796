//! Packet rules that follow from pools, tunnels and settings.

use super::*;
use api::params::ServiceLoopPrevention;

use super::world::bgp_config;
use crate::calc::NatExclusions;
use crate::rules::{Family, Ruleset};

fn cluster_with(change: impl FnOnce(&mut Settings), pool_spec: serde_json::Value) -> World {
    let mut settings = Settings::new("n1");
    change(&mut settings);
    let mut world = World::new(settings);
    for (key, object) in cluster(pool_spec).objects {
        world.put((key, object));
    }
    world.start();
    world.flush();
    world
}

fn table(world: &World, family: Family) -> Option<&Ruleset> {
    match world.rows.get(&RowKey::Rules(family))? {
        Row::Rules(_, rules) => rules.ruleset.as_deref(),
        other => panic!("{other:?}"),
    }
}

/// Rules as `chain: rule`, and sets as `set: prefixes`; without those of every node, which
/// [`a_pod_sends_under_its_own_address_and_no_tunnels_packets`] looks at.
fn lines(ruleset: &Ruleset) -> Vec<String> {
    let all = all_lines(ruleset).into_iter();
    all.filter(|line| !line.contains("cali-from-workloads") && !line.contains("wl-to-host"))
        .collect()
}

fn all_lines(ruleset: &Ruleset) -> Vec<String> {
    let sets = ruleset.sets.iter().map(|(name, prefixes)| {
        let prefixes: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
        format!("{name}: {}", prefixes.join(" "))
    });
    let rules = ruleset.chains.iter().flat_map(|chain| {
        let rules = chain.rules.iter();
        rules.map(|rule| format!("{}: {rule}", chain.name))
    });
    sets.chain(rules).collect()
}

fn masquerading() -> serde_json::Value {
    json!({"cidr": "10.1.0.0/16", "natOutgoing": true})
}

#[test]
fn what_a_pool_with_nat_outgoing_sends_out_of_all_pools_is_masqueraded() {
    let mut world = cluster(masquerading());
    let other = json!({"cidr": "10.2.0.0/16"});
    world.put(pool("q", other));
    let services = json!({"cidr": "10.3.0.0/16", "allowedUses": ["LoadBalancer"]});
    world.put(pool("r", services));
    world.flush();
    assert_eq!(
        lines(table(&world, Family::V4).unwrap()),
        [
            "cali40masq-ipam-pools: 10.1.0.0/16",
            "cali40network-ip-pools: 10.1.0.0/16 10.2.0.0/16",
            "nat-cali-nat-outgoing: saddr @cali40masq-ipam-pools daddr != @cali40network-ip-pools masquerade \
             fully-random",
            "nat-POSTROUTING: jump nat-cali-nat-outgoing",
        ]
    );
    assert!(table(&world, Family::V6).unwrap().sets.is_empty());
    // Pools beside and inside each other are one range of the set.
    world.put(pool("q", json!({"cidr": "10.0.0.0/16"})));
    world.put(pool("s", json!({"cidr": "10.0.4.0/24"})));
    world.flush();
    let sets = &table(&world, Family::V4).unwrap().sets;
    assert_eq!(
        sets["cali40network-ip-pools"],
        ["10.0.0.0/15".parse().unwrap()]
    );
}

#[test]
fn settings_choose_addresses_ports_devices_and_exclusions() {
    let rules = |change: fn(&mut Settings)| -> Vec<String> {
        let world = cluster_with(change, masquerading());
        let lines = lines(table(&world, Family::V4).unwrap());
        let of_chain = lines.into_iter();
        of_chain
            .filter_map(|line| {
                line.strip_prefix("nat-cali-nat-outgoing: ")
                    .map(str::to_owned)
            })
            .map(|line| {
                line.replace(
                    "saddr @cali40masq-ipam-pools daddr != @cali40network-ip-pools ",
                    "",
                )
            })
            .collect()
    };
    assert_eq!(
        rules(|settings| settings.nat_ports = Some(2000..=3000)),
        [
            "meta l4proto 6 masquerade:2000-3000 fully-random",
            "meta l4proto 17 masquerade:2000-3000 fully-random",
            "masquerade fully-random",
        ]
    );
    assert_eq!(
        rules(|settings| settings.nat_address = Some("192.0.2.1".parse().unwrap())),
        ["snat to 192.0.2.1 fully-random"]
    );
    assert_eq!(
        rules(|settings| settings.nat_interface = Some("eth+".into())),
        ["oifname eth+ masquerade fully-random"]
    );
    assert_eq!(
        rules(|settings| settings.nat_exclusions = NatExclusions::PoolsAndHosts),
        ["daddr != @cali40all-hosts-net masquerade fully-random"]
    );
    assert_eq!(
        rules(|settings| {
            settings.nat_exclusions = NatExclusions::PoolsAndHosts;
            settings.external_nodes = vec!["192.0.2.0/24".parse().unwrap()];
        }),
        ["daddr != @cali40all-hosts-net daddr != @cali40external-nodes masquerade fully-random"]
    );
}

#[test]
fn a_nodes_own_packets_enter_the_tunnel_with_its_address_and_no_port_of_vxlan() {
    let world = cluster(vxlan("Always"));
    assert_eq!(
        lines(table(&world, Family::V4).unwrap()),
        [
            "nat-POSTROUTING: oifname vxlan.calico fib saddr type local fib saddr . oif type != local meta l4proto 17 \
             masquerade:4790-65535 fully-random",
            "nat-POSTROUTING: oifname vxlan.calico fib saddr type local fib saddr . oif type != local masquerade \
             fully-random",
            "raw-PREROUTING: meta l4proto 17 th dport 4789 notrack",
            "raw-OUTPUT: meta l4proto 17 th dport 4789 notrack",
            "filter-INPUT: meta l4proto 17 th dport 4789 saddr != @cali40all-hosts-net fib daddr type local counter drop",
        ]
    );
}

#[test]
fn ipv6_pools_have_a_table_of_their_own() {
    let pool_spec = json!({"cidr": "fd00:1::/48", "natOutgoing": true});
    assert_eq!(
        table(
            &cluster_with(|settings| settings.ipv6_support = false, pool_spec.clone()),
            Family::V6
        ),
        None
    );
    let world = cluster_with(|_| (), pool_spec);
    let lines = lines(table(&world, Family::V6).unwrap());
    assert_eq!(lines[0], "cali60masq-ipam-pools: fd00:1::/48");
    assert!(table(&world, Family::V4).is_none_or(|table| table.sets.is_empty()));
}

/// Addresses that packets of tunnels are taken from.
fn nodes(world: &World, family: Family) -> Vec<String> {
    let keys = world.rows.keys();
    keys.filter_map(|key| match key {
        RowKey::Element(key) if key.family == family => {
            assert_eq!(
                &*key.set,
                if family == Family::V4 {
                    "cali40all-hosts-net"
                } else {
                    "cali60all-hosts-net"
                }
            );
            Some(key.addr.to_string())
        }
        _ => None,
    })
    .collect()
}

#[test]
fn packets_of_tunnels_are_taken_from_nodes_that_are_known_and_from_no_others() {
    let mut world = cluster(vxlan("Always"));
    let before = nodes(&world, Family::V4);
    assert_eq!(before, ["10.0.0.1", "10.0.0.2", "10.9.0.3"], "n1 to n3");
    let written = table(&world, Family::V4).unwrap().clone();
    // A node that joins: before it has a tunnel's address; the table is not written for it.
    world.put(node("n9", "10.0.0.9/24", None));
    world.flush();
    assert!(nodes(&world, Family::V4).contains(&"10.0.0.9".to_owned()));
    assert_eq!(table(&world, Family::V4), Some(&written));
    // It sends from any address that it has.
    let spec = json!({
        "bgp": {"ipv4Address": "10.0.0.9/24"},
        "interfaces": [{"name": "eth1", "addresses": ["10.7.0.9", "fd07::9"]}],
    });
    world.put(super::world::object(Key::new(Kind::Node, "n9"), &spec));
    world.flush();
    assert!(nodes(&world, Family::V4).contains(&"10.7.0.9".to_owned()));
    assert!(nodes(&world, Family::V6).is_empty(), "no tunnel over IPv6");
    world.remove(&Key::new(Kind::Node, "n9"));
    world.flush();
    assert_eq!(nodes(&world, Family::V4), before);
    // Without tunnels nobody asks.
    world.put(pool("p", plain()));
    world.put(node("n1", "10.0.0.1/24", None));
    world.flush();
    assert!(nodes(&world, Family::V4).is_empty());
    let plain = table(&world, Family::V4).unwrap();
    assert!(
        plain.address_sets.is_empty() && !lines(plain).iter().any(|line| line.contains("drop"))
    );
}

#[test]
fn ipip_is_taken_from_nodes_and_from_outside_as_the_setting_says() {
    let spec = json!({"cidr": "10.1.0.0/16", "ipipMode": "Always"});
    let external = |settings: &mut Settings| {
        let ranges = ["192.0.2.0/25", "192.0.2.128/25", "fd00::/64"];
        settings.external_nodes = ranges.map(|range| range.parse().unwrap()).to_vec();
    };
    let world = cluster_with(external, spec);
    let v4 = lines(table(&world, Family::V4).unwrap());
    assert_eq!(v4[0], "cali40external-nodes: 192.0.2.0/24");
    assert_eq!(
        v4.last().unwrap(),
        "filter-INPUT: meta l4proto 4 saddr != @cali40all-hosts-net saddr != @cali40external-nodes fib daddr type local \
         counter drop"
    );
    let v6 = lines(table(&world, Family::V6).unwrap());
    assert!(
        !v6.iter().any(|line| line.contains("drop")),
        "IPIP carries IPv4 over IPv4"
    );
}

#[test]
fn a_pod_sends_under_its_own_address_and_no_tunnels_packets() {
    let world = cluster_with(|settings| settings.pods_reach_host = true, plain());
    let chain = |world: &World, family, part: &str| -> Vec<String> {
        let lines = all_lines(table(world, family).unwrap()).into_iter();
        lines.filter(|line| line.contains(part)).collect()
    };
    let raw = |rule: &str| format!("raw-cali-from-workloads: {rule}");
    let jump = "raw-PREROUTING: iifname cali+ jump raw-cali-from-workloads".to_owned();
    let spoofed = raw("fib saddr . iif oif missing counter drop");
    let ipip = raw("meta l4proto 4 counter drop");
    let vxlan = raw("meta l4proto 17 th dport 4789 counter drop");
    assert_eq!(
        all_lines(table(&world, Family::V4).unwrap()),
        [&spoofed, &ipip, &vxlan, &jump].map(String::clone)
    );
    assert_eq!(
        all_lines(table(&world, Family::V6).unwrap()),
        [&spoofed, &vxlan, &jump].map(String::clone)
    );
    let change = |settings: &mut Settings| {
        settings.interface_prefixes = vec!["cali".to_owned(), "tap".to_owned()];
        settings.ipip_from_pods = true;
        settings.vxlan_from_pods = true;
    };
    let world = cluster_with(change, plain());
    assert_eq!(
        chain(&world, Family::V4, "raw-"),
        [
            spoofed,
            jump,
            "raw-PREROUTING: iifname tap+ jump raw-cali-from-workloads".to_owned()
        ]
    );
}

#[test]
fn a_pod_reaches_its_own_node_as_the_setting_says() {
    let of = |world: &World, family| -> Vec<String> {
        let lines = all_lines(table(world, family).unwrap()).into_iter();
        lines.filter(|line| line.starts_with("filter-")).collect()
    };
    let mut world = cluster(plain());
    let jump = "filter-INPUT: iifname cali+ jump filter-cali-wl-to-host";
    let answers = "filter-cali-wl-to-host: ct state established,related return";
    let rest = "filter-cali-wl-to-host: counter drop";
    assert_eq!(of(&world, Family::V4), [answers, rest, jump]);
    assert_eq!(
        of(&world, Family::V6),
        [
            answers,
            "filter-cali-wl-to-host: meta l4proto 58 icmp type 130-133 return",
            "filter-cali-wl-to-host: meta l4proto 58 icmp type 135-136 return",
            rest,
            jump
        ]
    );
    let mut settings = world.graph.settings().clone();
    settings.pods_reach_host = true;
    world.graph.handle_settings(settings);
    world.flush();
    assert!(of(&world, Family::V4).is_empty() && of(&world, Family::V6).is_empty());
}

#[test]
fn what_nobody_translated_of_services_addresses_goes_no_further_as_the_setting_says() {
    let of = |world: &World, family| -> Vec<String> {
        let lines = all_lines(table(world, family).unwrap()).into_iter();
        lines
            .filter(|line| line.contains("service-ips") || line.contains("FORWARD"))
            .collect()
    };
    let mut world = cluster(plain());
    assert!(of(&world, Family::V4).is_empty());
    let ranges = json!({
        "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}, {"cidr": "fd00:96::/112"}],
        "serviceExternalIPs": [{"cidr": "198.51.100.7/32"}],
        "serviceLoadBalancerIPs": [{"cidr": "192.0.2.0/25"}, {"cidr": "192.0.2.128/25"}],
    });
    world.put(bgp_config("default", ranges));
    world.put(bgp_config(
        "node.n1",
        json!({"serviceClusterIPs": [{"cidr": "10.0.0.0/8"}]}),
    ));
    world.flush();
    let jump = "filter-FORWARD: jump filter-cali-cidr-block".to_owned();
    assert_eq!(
        of(&world, Family::V4),
        [
            "cali40service-ips: 10.96.0.0/12 192.0.2.0/24 198.51.100.7/32".to_owned(),
            "filter-cali-cidr-block: daddr @cali40service-ips counter drop".to_owned(),
            jump.clone(),
        ]
    );
    assert_eq!(of(&world, Family::V6).len(), 3);
    let mut settings = world.graph.settings().clone();
    settings.service_loops = ServiceLoopPrevention::Reject;
    world.graph.handle_settings(settings.clone());
    world.flush();
    assert_eq!(
        of(&world, Family::V4)[1],
        "filter-cali-cidr-block: daddr @cali40service-ips counter reject"
    );
    settings.service_loops = ServiceLoopPrevention::Disabled;
    world.graph.handle_settings(settings.clone());
    world.flush();
    assert!(of(&world, Family::V4).is_empty());
    settings.service_loops = ServiceLoopPrevention::Drop;
    world.graph.handle_settings(settings);
    world.remove(&Key::new(Kind::BGPConfiguration, "default"));
    world.flush();
    assert!(of(&world, Family::V4).is_empty());
}
