//! Peers that are pods of the node (`localWorkloadSelector`).

use bgp::config::{PeerConfig, RoutePolicy};
use bgp::types::Asn;
use serde_json::Value;

use super::world::{World, bgp_config, bgp_filter, bgp_peer, endpoint, node, pool};
use super::*;
use crate::desired::AddrKey;
use crate::rules::Match as Condition;

const END: &str = "169.254.100.1";

fn world() -> World {
    let mut world = World::started();
    world.put(node("n1", "10.0.0.1/24", None));
    world.put(pool("p", json!({"cidr": "10.1.0.0/16"})));
    world.put(bgp_config(
        "default",
        json!({"localWorkloadPeeringIPV4": END}),
    ));
    world.put(bgp_filter("f", json!({"importV4": [
        {"action": "Accept", "cidr": "172.16.0.0/12", "matchOperator": "In"}, {"action": "Reject"},
    ]})));
    for (name, on, ifname, addr) in [
        ("router", "n1", "cali1", "10.1.0.5/32"),
        ("other", "n1", "cali2", "10.1.0.6/32"),
        ("away", "n2", "cali3", "10.1.1.5/32"),
    ] {
        world.put(labelled(
            endpoint(name, on, ifname, &[addr]),
            name != "other",
        ));
    }
    world.put(bgp_peer("pods", peer(&["f"])));
    world.flush();
    world
}

fn labelled((key, mut object): (Key, Object), speaks: bool) -> (Key, Object) {
    if let Object::WorkloadEndpoint(endpoint) = &mut object
        && speaks
    {
        let labels = &mut endpoint.metadata.labels;
        labels.insert("bgp".to_owned(), "yes".to_owned());
    }
    (key, object)
}

fn peer(filters: &[&str]) -> Value {
    json!({
        "localWorkloadSelector": "bgp == 'yes'", "asNumber": 65001, "localASNumber": 64999, "filters": filters,
        "keepaliveTime": "5s", "ttlSecurity": 1,
    })
}

fn session(world: &World) -> Option<PeerConfig> {
    let peers = &world.config.as_ref()?.peers;
    let found = peers
        .iter()
        .find(|(name, _)| name.to_string() == "Local_Workload_10_1_0_5");
    found.map(|(_, config)| config.clone())
}

/// Addresses on devices.
fn on_devices(world: &World) -> Vec<String> {
    let keys = world.rows.keys().filter_map(|key| match key {
        RowKey::Addr(AddrKey { ifname, addr }) => Some(format!("{addr} on {ifname}")),
        _ => None,
    });
    keys.collect()
}

#[test]
fn each_selected_pod_of_this_node_has_a_session_and_the_nodes_end_on_its_device() {
    let world = world();
    assert_eq!(world.peer_names(), ["Local_Workload_10_1_0_5"]);
    let config = session(&world).unwrap();
    assert_eq!(
        (config.asn, config.local_asn),
        (Asn(65001), Some(Asn(64999)))
    );
    assert!(config.passive);
    assert_eq!(config.local_address, None);
    assert_eq!(
        (config.ttl_security, config.options.keepalive_time),
        (None, None)
    );
    assert_eq!(config.import.terms.len(), 2);
    assert_eq!(on_devices(&world), ["169.254.100.1/32 on cali1"]);
    assert_eq!(world.problems(), Vec::<String>::new());
}

#[test]
fn without_an_import_rule_nothing_of_a_pod_is_taken_and_told() {
    let mut world = world();
    world.put(bgp_peer("pods", peer(&[])));
    world.flush();
    assert_eq!(session(&world).unwrap().import, RoutePolicy::reject_all());
    let problems = world.problems();
    assert!(
        matches!(&problems[..], [one] if one.contains("spec.filters: no BGPFilter with importV4")),
        "{problems:?}"
    );
    // Rules for what it is sent are none for what it announces.
    world.put(bgp_filter("f", json!({"exportV4": [{"action": "Accept"}]})));
    world.put(bgp_peer("pods", peer(&["f"])));
    world.flush();
    assert_eq!(session(&world).unwrap().import, RoutePolicy::reject_all());
    // A filter that is not there holds the session down, as ever.
    world.put(bgp_peer("pods", peer(&["nobody"])));
    world.flush();
    assert_eq!(session(&world), None);
}

#[test]
fn a_pod_that_goes_or_is_no_longer_selected_takes_its_session_and_the_address_with_it() {
    let mut world = world();
    let pod = |speaks| labelled(endpoint("router", "n1", "cali1", &["10.1.0.5/32"]), speaks);
    world.put(pod(false));
    world.flush();
    assert_eq!(session(&world), None);
    assert_eq!(on_devices(&world), Vec::<String>::new());
    world.put(pod(true));
    world.flush();
    assert!(session(&world).is_some());
    world.put(bgp_config(
        "default",
        json!({"localWorkloadPeeringIPV4": "169.254.100.2"}),
    ));
    world.flush();
    assert_eq!(on_devices(&world), ["169.254.100.2/32 on cali1"]);
    world.put(bgp_config("default", json!({})));
    world.flush();
    assert_eq!(session(&world), None);
    let problems = world.problems();
    assert!(
        matches!(&problems[..], [one] if one.contains("no spec.localWorkloadPeeringIPV4")),
        "{problems:?}"
    );
    world.put(bgp_config(
        "default",
        json!({"localWorkloadPeeringIPV4": END}),
    ));
    world.remove(&pod(true).0);
    world.flush();
    assert_eq!(session(&world), None);
    assert_eq!(on_devices(&world), Vec::<String>::new());
}

#[test]
fn of_two_objects_that_select_a_pod_the_first_by_name_counts() {
    let mut world = world();
    let mut first = peer(&["f"]);
    first["asNumber"] = json!(65009);
    world.put(bgp_peer("a", first));
    world.flush();
    assert_eq!(session(&world).unwrap().asn, Asn(65009));
    world.remove(&Key::new(Kind::BGPPeer, "a"));
    world.flush();
    assert_eq!(session(&world).unwrap().asn, Asn(65001));
}

#[test]
fn a_route_by_way_of_a_pod_goes_to_its_device() {
    let mut world = world();
    world.bgp("172.16.7.0/24", &["10.1.0.5"]);
    world.flush();
    let way = "via 10.1.0.5 dev cali1 onlink proto 12 metric 1024";
    assert_eq!(fib(&world, "172.16.7.0/24").unwrap(), way);
    world
        .graph
        .handle_next_hop_watch("10.1.0.5".parse().unwrap(), true);
    world.flush();
    assert_eq!(world.graph.lost_next_hops().count(), 0);
    world.put(bgp_config("default", json!({})));
    world.flush();
    let next_hop = fib(&world, "172.16.7.0/24");
    assert_ne!(next_hop.as_deref(), Some(way), "it is no peer any more");
}

#[test]
fn the_filter_lets_a_pods_session_reach_the_node() {
    let mut world = world();
    let taken = |world: &World| {
        let Some(Row::Rules(_, rules)) = world.rows.get(&RowKey::Rules(Family::V4)) else {
            panic!("there are rules");
        };
        let ruleset = rules.ruleset.as_deref().expect("as planned");
        let chain = ruleset
            .chains
            .iter()
            .find(|chain| chain.name == "filter-cali-wl-to-host");
        let rules = &chain.expect("pods are kept from their node").rules;
        rules
            .iter()
            .filter(|rule| {
                rule.matches
                    .iter()
                    .any(|one| matches!(one, Condition::DestinationPort(179)))
            })
            .count()
    };
    assert_eq!(taken(&world), 1);
    world.remove(&Key::new(Kind::BGPPeer, "pods"));
    world.flush();
    assert_eq!(taken(&world), 0);
}
