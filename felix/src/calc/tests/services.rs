//! Addresses of Services: who announces which, and that none of them reaches the kernel.

use bgp::policy::{Match, PrefixRange, Verdict};
use serde_json::Value;

use super::world::{World, affinity, bgp_config, bgp_peer, block, node, object, pool};
use super::*;

const CLUSTER: &str = "10.96.0.0/12";
const EXTERNAL: &str = "198.51.100.0/24";
const BALANCED: &str = "192.0.2.0/24";

fn ranges() -> Value {
    json!({
        "serviceClusterIPs": [{"cidr": CLUSTER}],
        "serviceExternalIPs": [{"cidr": EXTERNAL}],
        "serviceLoadBalancerIPs": [{"cidr": BALANCED}],
    })
}

/// Node `n1` with ranges of Services' addresses, in sync.
fn world(config: Value) -> World {
    let mut world = World::started();
    world.put(node("n1", "10.0.0.1/24", None));
    world.put(node("n2", "10.0.0.2/24", None));
    world.put(bgp_config("default", config));
    know(&mut world);
    world
}

fn know(world: &mut World) {
    for kind in Graph::ON_DEMAND {
        world.graph.handle_in_sync(kind);
    }
    world.flush();
}

/// A Service of type LoadBalancer, with an address of each kind.
fn service(name: &str, policy: &str) -> (Key, Object) {
    service_of(
        name,
        json!({
            "type": "LoadBalancer",
            "clusterIPs": ["10.96.0.9"],
            "externalIPs": ["198.51.100.9", "203.0.113.9"],
            "externalTrafficPolicy": policy,
        }),
        &["192.0.2.9"],
    )
}

fn service_of(name: &str, spec: Value, balanced: &[&str]) -> (Key, Object) {
    let key = Key::namespaced(Kind::Service, "ns", name);
    let ingress: Vec<Value> = balanced.iter().map(|ip| json!({"ip": ip})).collect();
    let json = json!({
        "metadata": {"name": name, "namespace": "ns"},
        "spec": spec,
        "status": {"loadBalancer": {"ingress": ingress}},
    });
    let object = Object::decode(&key, json.to_string().as_bytes()).expect("tests give objects");
    (key, object)
}

/// Ready endpoints of a Service on these nodes.
fn endpoints(name: &str, service: &str, family: &str, nodes: &[&str]) -> (Key, Object) {
    let spec = json!({
        "service": service, "addressType": family, "ready": !nodes.is_empty(), "nodes": nodes,
    });
    object(Key::namespaced(Kind::EndpointSlice, "ns", name), &spec)
}

fn announced(world: &mut World) -> Vec<String> {
    world.flush();
    world.announced()
}

#[test]
fn ranges_are_announced_as_wholes_without_any_service_but_not_by_a_node_that_is_excluded() {
    let mut world = world(ranges());
    let wholes = [CLUSTER, BALANCED, EXTERNAL];
    assert_eq!(announced(&mut world), wholes);
    assert!(
        world
            .rows
            .keys()
            .all(|row| !format!("{row:?}").contains("192.0.2.0"))
    );
    // Each of its addresses is covered.
    world.put(service("web", "Cluster"));
    world.put(endpoints("web-1", "web", "IPv4", &["n1"]));
    assert_eq!(announced(&mut world), wholes);

    let label = "node.kubernetes.io/exclude-from-external-load-balancers";
    for (value, expected) in [("true", &[][..]), ("", &wholes), ("True", &wholes)] {
        let (key, mut own) = node("n1", "10.0.0.1/24", None);
        if let Object::Node(node) = &mut own {
            node.metadata
                .labels
                .insert(label.to_owned(), value.to_owned());
        }
        world.put((key, own));
        assert_eq!(announced(&mut world), expected, "{value:?}");
    }
    world.put(node("n1", "10.0.0.1/24", None));
    assert_eq!(announced(&mut world), wholes);
    world.put(bgp_config("default", json!({})));
    assert_eq!(announced(&mut world), Vec::<String>::new());
}

#[test]
fn a_local_service_is_announced_by_the_nodes_with_a_ready_endpoint_and_by_no_other() {
    let mut world = world(ranges());
    let wholes = announced(&mut world);
    world.put(service("web", "Local"));
    world.put(endpoints("web-1", "web", "IPv4", &["n2"]));
    assert_eq!(announced(&mut world), wholes, "the endpoint is n2's");
    let own = [
        "10.96.0.0/12",
        "10.96.0.9/32",
        "192.0.2.0/24",
        "192.0.2.9/32",
        "198.51.100.0/24",
        "198.51.100.9/32",
    ];
    world.put(endpoints("web-2", "web", "IPv4", &["n1", "n2"]));
    assert_eq!(announced(&mut world), own, "203.0.113.9 is in no range");
    // Another Service with the same external address holds it, too.
    let other = json!({
        "type": "NodePort", "clusterIPs": ["10.96.0.10"], "externalIPs": ["198.51.100.9"],
        "externalTrafficPolicy": "Local",
    });
    world.put(service_of("other", other, &[]));
    world.put(endpoints("other-1", "other", "IPv4", &["n1"]));
    announced(&mut world);
    for (what, slice) in [
        (
            "not ready",
            Some(endpoints("web-2", "web", "IPv4", &["n2"])),
        ),
        ("again", Some(endpoints("web-2", "web", "IPv4", &["n1"]))),
        ("gone", None),
    ] {
        match slice {
            Some(slice) => world.put(slice),
            None => world.remove(&Key::namespaced(Kind::EndpointSlice, "ns", "web-2")),
        }
        let now = announced(&mut world);
        assert!(
            now.contains(&"198.51.100.9/32".to_owned()),
            "{what}: {now:?}"
        );
        let web = now.contains(&"192.0.2.9/32".to_owned());
        assert_eq!(web, what == "again", "{what}: {now:?}");
        assert_eq!(
            now.contains(&"10.96.0.9/32".to_owned()),
            web,
            "{what}: {now:?}"
        );
    }
    world.remove(&Key::namespaced(Kind::Service, "ns", "other"));
    assert_eq!(announced(&mut world), wholes);
}

#[test]
fn each_change_of_a_service_counts_at_once_also_while_it_has_no_endpoints_left() {
    let mut world = world(ranges());
    let wholes = announced(&mut world);
    world.put(service("web", "Local"));
    world.put(endpoints("web-1", "web", "IPv4", &["n1"]));
    assert_eq!(announced(&mut world).len(), 6);
    world.put(service("web", "Cluster"));
    assert_eq!(announced(&mut world), wholes, "another policy");
    world.put(service("web", "Local"));
    assert_eq!(announced(&mut world).len(), 6);
    let spec =
        json!({"type": "ClusterIP", "clusterIPs": ["10.96.0.9"], "externalTrafficPolicy": "Local"});
    world.put(service_of("web", spec, &["192.0.2.9"]));
    let cluster_only = [CLUSTER, "10.96.0.9/32", BALANCED, EXTERNAL];
    assert_eq!(
        announced(&mut world),
        cluster_only,
        "another type, fewer addresses"
    );
    for spec in [
        json!({"type": "ClusterIP", "clusterIPs": ["None"]}),
        json!({"type": "ExternalName"}),
    ] {
        world.put(service_of("web", spec, &[]));
        assert_eq!(announced(&mut world), wholes);
    }
    world.put(service("web", "Local"));
    world.remove(&Key::namespaced(Kind::EndpointSlice, "ns", "web-1"));
    world.remove(&Key::namespaced(Kind::Service, "ns", "web"));
    assert_eq!(announced(&mut world), wholes);
}

#[test]
fn a_range_of_one_address_is_announced_for_its_service_by_every_node_without_endpoints() {
    let one = |of: &str, address: &str| {
        world(json!({
            of: [{"cidr": address}],
            "serviceClusterIPs": [{"cidr": CLUSTER}],
        }))
    };
    let mut balanced = one("serviceLoadBalancerIPs", "192.0.2.9/32");
    assert_eq!(
        announced(&mut balanced),
        [CLUSTER],
        "without a Service there is nothing"
    );
    balanced.put(service("web", "Cluster"));
    assert_eq!(
        announced(&mut balanced),
        [CLUSTER, "10.96.0.9/32", "192.0.2.9/32"]
    );
    let mut external = one("serviceExternalIPs", "198.51.100.9/32");
    external.put(service("web", "Cluster"));
    assert_eq!(
        announced(&mut external),
        [CLUSTER, "10.96.0.9/32", "198.51.100.9/32"]
    );
    // A Local one still needs its endpoint.
    external.put(service("web", "Local"));
    assert_eq!(announced(&mut external), [CLUSTER]);
}

#[test]
fn without_aggregation_a_service_is_announced_while_any_endpoint_is_ready() {
    let mut config = ranges();
    config["serviceLoadBalancerAggregation"] = json!("Disabled");
    let mut world = world(config);
    let wholes = [CLUSTER, EXTERNAL];
    assert_eq!(announced(&mut world), wholes);
    world.put(service("web", "Cluster"));
    assert_eq!(announced(&mut world), wholes, "no ready endpoint");
    world.put(endpoints("web-1", "web", "IPv4", &["n2"]));
    let all = [
        "10.96.0.0/12",
        "10.96.0.9/32",
        "192.0.2.9/32",
        "198.51.100.0/24",
        "198.51.100.9/32",
    ];
    assert_eq!(announced(&mut world), all);
    world.put(endpoints("web-1", "web", "IPv4", &[]));
    assert_eq!(announced(&mut world), wholes);
}

#[test]
fn each_family_is_decided_by_its_own_endpoints() {
    let mut world =
        world(json!({"serviceClusterIPs": [{"cidr": CLUSTER}, {"cidr": "fd96::/108"}]}));
    let wholes = announced(&mut world);
    let spec = json!({
        "type": "NodePort", "clusterIPs": ["10.96.0.9", "fd96::9"], "externalTrafficPolicy": "Local",
    });
    world.put(service_of("web", spec, &[]));
    world.put(endpoints("web-1", "web", "IPv4", &["n1"]));
    world.put(endpoints("web-2", "web", "FQDN", &["n1"]));
    let added = |world: &mut World| {
        let mut now = announced(world);
        now.retain(|prefix| !wholes.contains(prefix));
        now
    };
    assert_eq!(added(&mut world), ["10.96.0.9/32"]);
    world.put(endpoints("web-2", "web", "IPv6", &["n1"]));
    assert_eq!(added(&mut world), ["10.96.0.9/32", "fd96::9/128"]);
}

#[test]
fn no_learned_route_to_an_address_of_services_reaches_the_kernel() {
    let mut config = ranges();
    config["serviceLoadBalancerAggregation"] = json!("Disabled");
    let mut world = world(config);
    for prefix in [
        CLUSTER,
        "10.96.0.9/32",
        "192.0.2.0/24",
        "192.0.2.9/32",
        "198.51.100.9/32",
        "203.0.113.0/24",
        "192.0.0.0/16",
    ] {
        world.bgp(prefix, &["10.0.0.2"]);
    }
    let learned = |world: &mut World| {
        world.flush();
        let routes = world.rows.values().filter_map(|row| match row {
            Row::Route(key, spec) if spec.protocol == 12 => Some(key.dst.to_string()),
            _ => None,
        });
        routes.collect::<Vec<String>>()
    };
    assert_eq!(learned(&mut world), ["192.0.0.0/16", "203.0.113.0/24"]);
    world.put(bgp_config(
        "default",
        json!({"serviceClusterIPs": [{"cidr": CLUSTER}]}),
    ));
    let free = [
        "192.0.0.0/16",
        "192.0.2.0/24",
        "192.0.2.9/32",
        "198.51.100.9/32",
        "203.0.113.0/24",
    ];
    assert_eq!(learned(&mut world), free, "what is no Service's any more");
    world.put(bgp_config("default", ranges()));
    assert_eq!(learned(&mut world), ["192.0.0.0/16", "203.0.113.0/24"]);
}

/// The ranges of the only session's accepting terms that are no pool's.
fn passed_on(world: &mut World) -> Vec<String> {
    world.flush();
    let config = world.config.as_ref().expect("the node speaks BGP");
    let peer = config.peers.values().next().expect("a session");
    let terms = peer.export.terms.iter();
    let of_services = terms.filter(|term| term.name.contains("Services"));
    let mut all = Vec::new();
    for term in of_services {
        assert_eq!(term.verdict, Verdict::Accept);
        let [Match::Prefix(ranges)] = &term.matches[..] else {
            panic!("{term:?}");
        };
        for range in ranges {
            assert_eq!(*range, PrefixRange::or_longer(range.prefix));
            all.push(range.prefix.to_string());
        }
    }
    all
}

#[test]
fn what_others_announce_inside_the_ranges_is_passed_on_and_by_a_reflector_but_for_cluster_addresses()
 {
    let mut world = world(ranges());
    world.put(pool("p", json!({"cidr": "10.1.0.0/16"})));
    let spec = json!({"peerIP": "10.0.0.201", "asNumber": 65001});
    world.put(bgp_peer("a", spec));
    assert_eq!(passed_on(&mut world), [CLUSTER, BALANCED, EXTERNAL]);
    let mut config = ranges();
    config["serviceLoadBalancerAggregation"] = json!("Disabled");
    world.put(bgp_config("default", config));
    assert_eq!(passed_on(&mut world), [CLUSTER, EXTERNAL]);
    let key = Key::new(Kind::Node, "n1");
    let spec = json!({"bgp": {"ipv4Address": "10.0.0.1/24", "routeReflectorClusterID": "1.1.1.1"}});
    let mut reflector = object(key, &spec);
    world.put(reflector.clone());
    assert_eq!(passed_on(&mut world), [CLUSTER, BALANCED, EXTERNAL]);
    if let Object::Node(node) = &mut reflector.1 {
        let label = api::service::EXCLUDE_NODE.to_owned();
        node.metadata.labels.insert(label, "true".to_owned());
    }
    world.put(reflector);
    assert_eq!(
        passed_on(&mut world),
        [BALANCED, EXTERNAL],
        "it still passes on what others announce"
    );
}

#[test]
fn services_count_once_all_are_known_and_end_of_rib_waits_for_them() {
    let mut world = World::started();
    world.put(node("n1", "10.0.0.1/24", None));
    world.put(block("10.1.0.0/26", Some("n1"), &[]));
    world.put(affinity("n1", "10.1.0.0/26", "confirmed"));
    world.flush();
    assert!(
        world.graph.originations_complete(),
        "nobody asks for Services"
    );

    let mut world = World::started();
    world.put(node("n1", "10.0.0.1/24", None));
    world.put(bgp_config("default", ranges()));
    world.put(service("web", "Local"));
    world.put(endpoints("web-1", "web", "IPv4", &["n1"]));
    world.flush();
    assert_eq!(world.announced(), [CLUSTER, BALANCED, EXTERNAL]);
    assert!(!world.graph.originations_complete());
    world.graph.handle_in_sync(Kind::Service);
    world.flush();
    assert!(!world.graph.originations_complete());
    world.graph.handle_in_sync(Kind::EndpointSlice);
    world.flush();
    assert_eq!(world.announced().len(), 6);
    assert!(world.graph.originations_complete());
}

#[test]
fn services_that_may_not_be_listed_are_told_and_end_of_rib_does_not_wait_for_them() {
    let mut world = World::started();
    world.put(node("n1", "10.0.0.1/24", None));
    world.put(bgp_config("default", ranges()));
    world.graph.handle_in_sync(Kind::EndpointSlice);
    world.flush();
    assert!(!world.graph.originations_complete());
    let why = "services is forbidden: cannot list resource services";
    world.graph.handle_refused(Kind::Service, Some(why.into()));
    world.flush();
    assert!(world.graph.originations_complete());
    assert_eq!(world.announced(), [CLUSTER, BALANCED, EXTERNAL]);
    let told = world.problems();
    assert!(
        told.len() == 1 && told[0].starts_with("Service: cannot be read") && told[0].contains(why),
        "{told:?}"
    );

    // The rule was added.
    world.put(service("web", "Local"));
    world.put(endpoints("web-1", "web", "IPv4", &["n1"]));
    world.graph.handle_in_sync(Kind::Service);
    world.flush();
    assert_eq!(world.announced().len(), 6);
    assert_eq!(world.problems(), Vec::<String>::new());
    // It was taken away: what is known stays.
    world.graph.handle_refused(Kind::Service, Some(why.into()));
    world.flush();
    assert_eq!((world.announced().len(), world.problems().len()), (6, 1));
    world.graph.handle_refused(Kind::Service, None);
    assert_eq!(world.problems(), Vec::<String>::new());
}

#[test]
fn a_range_of_cluster_addresses_of_the_nodes_own_counts_in_the_place_of_the_clusters() {
    let mut settings = Settings::new("n1");
    settings.service_cluster_ranges = vec!["10.100.0.0/16".parse().unwrap()];
    let mut world = World::new(settings);
    world.start();
    world.put(node("n1", "10.0.0.1/24", None));
    know(&mut world);
    assert_eq!(
        announced(&mut world),
        ["10.100.0.0/16"],
        "without a BGPConfiguration"
    );
    world.put(bgp_config("default", ranges()));
    assert_eq!(announced(&mut world), ["10.100.0.0/16", BALANCED, EXTERNAL]);
    world.bgp("10.100.7.0/24", &["10.0.0.2"]);
    world.flush();
    let in_kernel = world
        .rows
        .keys()
        .any(|row| format!("{row:?}").contains("10.100.7"));
    assert!(!in_kernel);
}

#[test]
fn a_speaker_without_pods_announces_no_services() {
    let mut settings = Settings::new("n1");
    settings.announces_services = false;
    let mut world = World::new(settings);
    world.start();
    world.put(node("n1", "10.0.0.1/24", None));
    world.put(bgp_config("default", ranges()));
    know(&mut world);
    world.put(service("web", "Local"));
    world.put(endpoints("web-1", "web", "IPv4", &["n1"]));
    assert_eq!(announced(&mut world), Vec::<String>::new());
    assert!(world.graph.originations_complete());
}
