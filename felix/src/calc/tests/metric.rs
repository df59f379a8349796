//! Metrics of routes from BGP and LOCAL_PREF of own routes: together 2147483647. And which routes come from BGP.

use super::world::{World, affinity, bgp_config, bgp_route, block, endpoint, node, node_in, pool};
use super::*;

fn world(settings: Settings) -> World {
    let mut world = World::new(settings);
    world.start();
    world.put(node("n1", "10.0.0.1/24", None));
    world.put(node("n2", "10.0.0.2/24", None));
    world.put(pool("p", json!({"cidr": "10.1.0.0/16"})));
    world
}

/// A route with this LOCAL_PREF, by n2.
fn learn(world: &mut World, prefix: &str, local_pref: u32) {
    let mut change = bgp_route(prefix, &["10.0.0.2"]);
    if let Some(best) = &mut change.best {
        best.local_pref = local_pref;
    }
    world.graph.handle_bgp_route(change);
    world.flush();
}

/// The metrics of the kernel's routes to a destination.
fn metrics(world: &World, dst: &str) -> Vec<u32> {
    let dst: IpNet = dst.parse().unwrap();
    let keys = world.rows.keys().filter_map(|key| match key {
        RowKey::Route(key) if key.dst == dst => Some(key.metric),
        _ => None,
    });
    keys.collect()
}

#[test]
fn the_metric_of_a_learned_route_is_what_its_local_pref_leaves_and_follows_it() {
    let mut world = world(Settings::new("n1"));
    let blocks = "10.1.2.0/26";
    for (local_pref, metric) in [
        (2_147_482_623, 1024),
        // Of an address that is moving here.
        (2_147_483_135, 512),
        // Of another AS, without the attribute.
        (100, 2_147_483_547),
        (0, 2_147_483_647),
        (2_147_483_647, 1),
        (u32::MAX, 1),
    ] {
        learn(&mut world, blocks, local_pref);
        assert_eq!(metrics(&world, blocks), [metric], "{local_pref}");
    }
    world.bgp(blocks, &[]);
    world.flush();
    assert_eq!(metrics(&world, blocks), [0_u32; 0]);
}

#[test]
fn own_routes_are_announced_with_what_the_normal_metric_leaves() {
    for (metric, local_pref) in [(1024, 2_147_482_623), (777, 2_147_482_870)] {
        let mut settings = Settings::new("n1");
        settings.normal_route_metric = metric;
        let mut world = world(settings);
        world.put(block("10.1.0.0/26", Some("n1"), &[]));
        world.put(affinity("n1", "10.1.0.0/26", "confirmed"));
        world.flush();
        let announced: Vec<_> = world
            .originations
            .values()
            .map(|own| own.local_pref)
            .collect();
        assert_eq!(announced, [Some(local_pref)], "{metric}");
    }
}

#[test]
fn a_pod_with_a_better_metric_than_the_normal_one_is_announced_beside_its_block() {
    let mut settings = Settings::new("n1");
    settings.normal_route_metric = 512;
    let mut world = world(settings);
    world.put(block("10.1.0.0/26", Some("n1"), &[]));
    world.put(affinity("n1", "10.1.0.0/26", "confirmed"));
    world.put(endpoint("a", "n1", "cali1", &["10.1.0.5/32"]));
    world.flush();
    let announced = |world: &World| -> Vec<(String, Option<u32>)> {
        let all = world.originations.values();
        all.map(|own| (own.prefix.to_string(), own.local_pref))
            .collect()
    };
    let block = |local_pref| ("10.1.0.0/26".to_owned(), Some(local_pref));
    let pod = |local_pref| ("10.1.0.5/32".to_owned(), Some(local_pref));
    assert_eq!(announced(&world), [block(2_147_483_135)]);
    assert_eq!(world.problems(), Vec::<String>::new());

    let normal = |metric: u32| {
        let other = json!({"ipv4NormalRoutePriority": metric, "ipv6NormalRoutePriority": 512});
        bgp_config("default", other)
    };
    world.put(normal(1024));
    world.flush();
    let both = [block(2_147_482_623), pod(2_147_483_135)];
    assert_eq!(announced(&world), both);
    let told = world.problems();
    assert!(
        told.len() == 1
            && told[0]
                .starts_with("BGPConfiguration(default): spec.ipv4NormalRoutePriority: is 1024"),
        "{told:?}"
    );

    world.put(normal(512));
    world.flush();
    assert_eq!(announced(&world), [block(2_147_483_135)]);
    assert_eq!(world.problems(), Vec::<String>::new());
}

#[test]
fn a_pod_that_moves_to_another_node_alive_is_reached_there_as_soon_as_that_one_announces_it() {
    let mut world = world(Settings::new("n1"));
    let pod = "10.1.0.5/32";
    world.put(endpoint("a", "n1", "cali1", &[pod]));
    world.flush();
    let here = "dev cali1 proto 3 scope link metric 1024";
    assert_eq!(fib(&world, pod).unwrap(), here);
    // A route of normal priority says nothing against the pod that is here.
    learn(&mut world, pod, 2_147_482_623);
    assert_eq!(fib(&world, pod).unwrap(), here);
    learn(&mut world, pod, 2_147_483_135);
    let there = "via 10.0.0.2 dev eth0 proto 12 metric 512";
    assert_eq!(fib(&world, pod).unwrap(), there);
    world.bgp(pod, &[]);
    world.flush();
    assert_eq!(fib(&world, pod).unwrap(), here);

    // Where routes come from blocks, BGP is not asked.
    learn(&mut world, pod, 2_147_483_135);
    world.put(pool(
        "p",
        json!({"cidr": "10.1.0.0/16", "vxlanMode": "Always"}),
    ));
    world.flush();
    assert_eq!(fib(&world, pod).unwrap(), here);
}

#[test]
fn a_change_of_local_pref_alone_keeps_count_of_the_next_hops() {
    let mut settings = Settings::new("n1");
    settings.next_hop_object_routes = Some(2);
    let mut world = world(settings);
    let objects = |world: &World| {
        let keys = world.rows.keys();
        keys.filter(|key| matches!(key, RowKey::NextHop(_))).count()
    };
    for local_pref in [100, 200, 300] {
        learn(&mut world, "10.1.2.0/26", local_pref);
    }
    assert_eq!(objects(&world), 0, "one route changed three times is one");
    learn(&mut world, "10.1.3.0/26", 100);
    assert_eq!(objects(&world), 1);
    world.bgp("10.1.2.0/26", &[]);
    world.bgp("10.1.3.0/26", &[]);
    world.flush();
    assert_eq!(objects(&world), 0);
}

/// What makes the route to n2's block in a pool, under the words of Felix's side and BGPConfiguration's.
fn made_by(
    felix: ClusterRoutes,
    bgp: Option<&str>,
    pool_spec: serde_json::Value,
) -> (Option<u8>, Vec<String>) {
    let mut settings = Settings::new("n1");
    settings.cluster_routes = felix;
    let mut world = world(settings);
    world.flush();
    world.put(node_in(&pool_spec, "n1", "10.0.0.1/24", 1));
    world.put(node_in(&pool_spec, "n2", "10.0.0.2/24", 2));
    world.put(pool("p", pool_spec));
    world.put(block("10.1.2.0/26", Some("n2"), &[]));
    learn(&mut world, "10.1.2.0/26", 2_147_482_623);
    if let Some(word) = bgp {
        world.put(bgp_config("default", json!({"programClusterRoutes": word})));
        world.flush();
    }
    let dst: IpNet = "10.1.2.0/26".parse().unwrap();
    let route = world.rows.values().find_map(|row| match row {
        Row::Route(key, spec) if key.dst == dst => Some(spec.protocol),
        _ => None,
    });
    (route, world.problems())
}

#[test]
fn of_both_settings_for_routes_of_pools_blocks_come_first_and_what_neither_asks_for_is_left_out() {
    use ClusterRoutes::{Disabled, Enabled, EnabledIpipOnly, EnabledNoEncapOnly};

    let (blocks, by_bgp) = (Some(80), Some(12));
    for (felix, bgp, ipip, plain) in [
        (EnabledIpipOnly, None, blocks, by_bgp),
        (EnabledIpipOnly, Some("EnabledNoEncapOnly"), blocks, by_bgp),
        (Disabled, None, by_bgp, by_bgp),
        (Disabled, Some("Enabled"), by_bgp, by_bgp),
        (Enabled, Some("Disabled"), blocks, blocks),
        (EnabledNoEncapOnly, Some("EnabledIPIPOnly"), by_bgp, blocks),
        (EnabledIpipOnly, Some("of a newer release"), blocks, by_bgp),
        // Both, and neither: told.
        (EnabledIpipOnly, Some("Enabled"), blocks, by_bgp),
        (Disabled, Some("EnabledNoEncapOnly"), None, by_bgp),
        (EnabledIpipOnly, Some("Disabled"), blocks, None),
    ] {
        let in_ipip = json!({"cidr": "10.1.0.0/16", "ipipMode": "Always"});
        let (made, problems) = made_by(felix, bgp, in_ipip);
        assert_eq!(made, ipip, "IPIP, {felix:?} {bgp:?}");
        let (made, _) = made_by(felix, bgp, json!({"cidr": "10.1.0.0/16"}));
        assert_eq!(made, plain, "plain, {felix:?} {bgp:?}");
        let covered = |by_felix: bool, by_bgp: bool| by_felix == by_bgp;
        let of_bgp = bgp.and_then(ClusterRoutes::of_bgp);
        let told = of_bgp.is_some_and(|of_bgp| {
            covered(felix.ipip(), of_bgp.ipip()) || covered(felix.plain(), of_bgp.plain())
        });
        let says = problems
            .iter()
            .any(|text| text.contains("spec.programClusterRoutes"));
        assert_eq!(says, told, "{felix:?} {bgp:?}: {problems:?}");
    }
}

#[test]
fn of_nested_pools_the_innermost_says_how_packets_travel() {
    let mut world = world(Settings::new("n1"));
    let inner = json!({"cidr": "10.1.128.0/17", "vxlanMode": "Always"});
    world.put(node_in(&inner, "n1", "10.0.0.1/24", 1));
    world.put(node_in(&inner, "n2", "10.0.0.2/24", 2));
    // Its name comes first, its text last.
    world.put(pool("a", inner));
    for range in ["10.1.2.0/26", "10.1.200.0/26"] {
        world.put(block(range, Some("n2"), &[]));
        learn(&mut world, range, 2_147_482_623);
    }
    let protocols = world.rows.values().filter_map(|row| match row {
        Row::Route(key, spec) if key.dst.prefix_len() == 26 => {
            Some((key.dst.to_string(), spec.protocol))
        }
        _ => None,
    });
    let protocols: Vec<(String, u8)> = protocols.collect();
    let wanted = [
        ("10.1.2.0/26".to_owned(), 12),
        ("10.1.200.0/26".to_owned(), 3),
    ];
    assert_eq!(protocols, wanted);
}

#[test]
fn cross_subnet_by_bgp_goes_by_where_the_next_hop_is() {
    let mut settings = Settings::new("n1");
    settings.cluster_routes = ClusterRoutes::Disabled;
    let mut world = world(settings);
    let spec = json!({"cidr": "10.1.0.0/16", "ipipMode": "CrossSubnet"});
    for (name, address, number) in [("n1", "10.0.0.1/24", 1), ("n3", "10.9.0.3/24", 3)] {
        world.put(node_in(&spec, name, address, number));
    }
    world.put(pool("p", spec));
    for (prefix, next_hop) in [("10.1.2.0/26", "10.0.0.2"), ("10.1.3.0/26", "10.9.0.3")] {
        world.bgp(prefix, &[next_hop]);
    }
    world.flush();
    let plain = "via 10.0.0.2 dev eth0 proto 12 metric 1024";
    assert_eq!(fib(&world, "10.1.2.0/26").unwrap(), plain);
    let tunnelled = "via 10.9.0.3 dev tunl0 onlink proto 12 metric 1024";
    assert_eq!(fib(&world, "10.1.3.0/26").unwrap(), tunnelled);
}
