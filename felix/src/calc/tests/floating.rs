//! What pods ask for in annotations: floating addresses, and to send under prefixes that are not theirs.

use super::world::object;
use super::*;
use crate::desired::{IfName, SysctlKey};
use crate::rules::{Family, Ruleset};

fn table(world: &World, family: Family) -> &Ruleset {
    match &world.rows[&RowKey::Rules(family)] {
        Row::Rules(_, rules) => rules.ruleset.as_deref().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Rules as `chain: rule`, of chains whose name has this part.
fn rules(world: &World, family: Family, part: &str) -> Vec<String> {
    let chains = table(world, family).chains.iter();
    let chains = chains.filter(|chain| chain.name.contains(part));
    let rules = chains.flat_map(|chain| {
        let rules = chain.rules.iter();
        rules.map(|rule| format!("{}: {rule}", chain.name))
    });
    rules.collect()
}

fn asking(name: &str, ifname: &str, addr: &str, asks: &serde_json::Value) -> (Key, Object) {
    let mut spec = json!({
        "node": "n1", "endpoint": "eth0", "interfaceName": ifname, "mac": "02:00:00:00:00:05",
        "ipNetworks": [addr, "fd00:1::5/128"],
    });
    let fields = spec.as_object_mut().unwrap();
    fields.extend(asks.as_object().unwrap().clone());
    object(
        Key::namespaced(Kind::WorkloadEndpoint, "default", name),
        &spec,
    )
}

fn with_setting(world: &mut World, change: impl FnOnce(&mut Settings)) {
    let mut settings = world.graph.settings().clone();
    change(&mut settings);
    world.graph.handle_settings(settings);
    world.flush();
}

fn has_route(world: &World, addr: &str) -> bool {
    let dst: IpNet = addr.parse().unwrap();
    let mut keys = world.rows.keys();
    keys.any(|key| matches!(key, RowKey::Route(route) if route.dst == dst))
}

#[test]
fn what_is_sent_to_a_floating_address_goes_to_its_pod_where_the_setting_says_so() {
    let mut world = cluster(plain());
    let nats = json!({"ipNATs": [
        {"internalIP": "10.1.1.5", "externalIP": "198.51.100.5"},
        {"internalIP": "fd00:1::5", "externalIP": "2001:db8::5"},
    ]});
    world.put(asking("n1-k8s-a-eth0", "cali1", "10.1.1.5/32", &nats));
    world.flush();
    assert!(rules(&world, Family::V4, "nat-").is_empty(), "not enabled");
    assert!(!has_route(&world, "198.51.100.5/32"));
    with_setting(&mut world, |settings| settings.floating_ips = true);
    assert_eq!(
        rules(&world, Family::V4, "nat-"),
        [
            "nat-cali-fip-dnat: daddr 198.51.100.5/32 dnat to 10.1.1.5",
            "nat-cali-fip-snat: saddr 10.1.1.5/32 daddr 10.1.1.5/32 snat to 198.51.100.5 fully-random",
            "nat-PREROUTING: jump nat-cali-fip-dnat",
            "nat-OUTPUT: jump nat-cali-fip-dnat",
            "nat-POSTROUTING: jump nat-cali-fip-snat",
        ]
    );
    assert_eq!(
        rules(&world, Family::V6, "fip-dnat")[0],
        "nat-cali-fip-dnat: daddr 2001:db8::5/128 dnat to fd00:1::5"
    );
    assert!(has_route(&world, "198.51.100.5/32") && has_route(&world, "10.1.1.5/32"));
    let neighbours = world.rows.keys().filter_map(|key| match key {
        RowKey::Neigh(key) if key.ifname.0.starts_with("cali") => Some(key.addr.to_string()),
        _ => None,
    });
    let neighbours: Vec<String> = neighbours.collect();
    assert!(neighbours.contains(&"10.1.1.5".to_owned()));
    assert!(!neighbours.contains(&"198.51.100.5".to_owned()));
    // Off again, and everything is as before.
    with_setting(&mut world, |settings| settings.floating_ips = false);
    assert!(rules(&world, Family::V4, "nat-").is_empty());
    assert!(!has_route(&world, "198.51.100.5/32") && has_route(&world, "10.1.1.5/32"));
}

#[test]
fn of_two_pods_that_ask_for_one_floating_address_one_has_it_and_the_other_is_named() {
    let mut world = cluster(plain());
    with_setting(&mut world, |settings| settings.floating_ips = true);
    let to = |own: &str| json!({"ipNATs": [{"internalIP": own, "externalIP": "198.51.100.5"}]});
    world.put(asking(
        "n1-k8s-a-eth0",
        "cali1",
        "10.1.1.5/32",
        &to("10.1.1.5"),
    ));
    world.put(asking(
        "n1-k8s-b-eth0",
        "cali2",
        "10.1.1.6/32",
        &to("10.1.1.6"),
    ));
    world.put(asking(
        "n1-k8s-c-eth0",
        "cali3",
        "10.1.1.7/32",
        &to("10.1.1.5"),
    ));
    world.flush();
    assert_eq!(
        rules(&world, Family::V4, "cali-fip-dnat"),
        ["nat-cali-fip-dnat: daddr 198.51.100.5/32 dnat to 10.1.1.5"]
    );
    let problems = world.graph.problems().into_iter();
    let problems: Vec<String> = problems
        .map(|problem| problem.to_string())
        .filter(|text| text.contains("198.51.100.5"))
        .collect();
    assert_eq!(problems.len(), 2, "{problems:#?}");
    assert!(problems.iter().any(|text| text.contains("n1-k8s-b-eth0")));
    assert!(problems.iter().any(|text| text.contains("n1-k8s-c-eth0")
        && text.contains("internalIP must be one of the pod's addresses")));
    world.remove(&Key::namespaced(
        Kind::WorkloadEndpoint,
        "default",
        "n1-k8s-a-eth0",
    ));
    world.flush();
    assert_eq!(
        rules(&world, Family::V4, "cali-fip-dnat"),
        ["nat-cali-fip-dnat: daddr 198.51.100.5/32 dnat to 10.1.1.6"]
    );
}

#[test]
fn a_pod_may_send_under_prefixes_that_it_asks_for_where_the_setting_says_so() {
    let mut world = cluster(plain());
    let sources = json!({"allowSpoofedSourcePrefixes": ["192.0.2.0/24", "2001:db8::/64"]});
    world.put(asking("n1-k8s-a-eth0", "cali1", "10.1.1.5/32", &sources));
    world.put(asking("n1-k8s-b-eth0", "cali2", "10.1.1.6/32", &json!({})));
    world.flush();
    let rp_filter = |world: &World, ifname: &str| {
        let key = SysctlKey::of_ipv4(IfName::from(ifname), "rp_filter");
        match &world.rows[&RowKey::Sysctl(key)] {
            Row::Sysctl(_, value) => value.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let strict = "raw-cali-from-workloads: fib saddr . iif oif missing counter drop";
    assert_eq!(rules(&world, Family::V4, "raw-cali")[0], strict);
    assert_eq!(rp_filter(&world, "cali1"), "1");
    with_setting(&mut world, |settings| settings.source_spoofing = true);
    assert_eq!(
        rules(&world, Family::V4, "raw-cali")[..3],
        [
            "raw-cali-rpf-skip: iifname cali1 saddr 192.0.2.0/24 return",
            "raw-cali-rpf-skip: fib saddr . iif oif missing counter drop",
            "raw-cali-from-workloads: jump raw-cali-rpf-skip",
        ]
    );
    assert_eq!(
        rules(&world, Family::V6, "raw-cali")[0],
        "raw-cali-rpf-skip: iifname cali1 saddr 2001:db8::/64 return"
    );
    assert_eq!(rp_filter(&world, "cali1"), "0");
    assert_eq!(rp_filter(&world, "cali2"), "1");
    with_setting(&mut world, |settings| settings.source_spoofing = false);
    assert_eq!(rules(&world, Family::V4, "raw-cali")[0], strict);
    assert_eq!(rp_filter(&world, "cali1"), "1");
}
