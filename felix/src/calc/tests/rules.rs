//! Packet rules that follow from pools, tunnels and settings.

use super::*;
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

/// Rules as `chain: rule`, and sets as `set: prefixes`.
fn lines(ruleset: &Ruleset) -> Vec<String> {
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
    assert_eq!(table(&world, Family::V6), None);
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
fn a_node_without_nat_and_tunnels_has_no_table() {
    let mut world = cluster(plain());
    assert_eq!(table(&world, Family::V4), None);
    world.put(pool("p", masquerading()));
    world.flush();
    assert!(table(&world, Family::V4).is_some());
    world.put(pool("p", plain()));
    world.flush();
    assert!(!world.rows.contains_key(&RowKey::Rules(Family::V4)));
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
    assert!(table(&world, Family::V4).unwrap().sets.is_empty());
}
