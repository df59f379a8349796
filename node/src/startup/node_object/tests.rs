use api::params::Params;
use serde_json::json;

use super::super::address::HostInterface;
use super::super::tests::Fake;
use super::*;

fn host() -> Fake {
    Fake(vec![HostInterface {
        name: "eth0".to_owned(),
        ifindex: 2,
        // A virtual router's address came later and is listed first.
        addresses: vec![
            "10.0.0.5/24".parse().unwrap(),
            "10.0.0.4/24".parse().unwrap(),
        ],
    }])
}

fn params(variables: &[(&str, &str)]) -> Params {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Params::from_env(variables.iter().map(owned)).unwrap()
}

fn address(ip: &str, stored: Option<&str>, host: &Fake) -> Result<Option<String>, NodeError> {
    let stored = stored.map(|net| net.parse().unwrap());
    ipv4_address(&params(&[("IP", ip)]), stored, host)
        .map(|(net, _)| net.map(|net| net.to_string()))
}

const NOW: &str = "2026-01-01T00:00:00Z";

#[test]
fn stored_address_is_kept_unless_a_setting_replaces_it() {
    let nowhere = Fake(Vec::new());
    for (ip, stored, expected) in [
        ("", None, Some("10.0.0.5/24")),
        ("", Some("10.9.9.9/16"), Some("10.9.9.9/16")),
        ("autodetect", Some("10.9.9.9/16"), Some("10.0.0.5/24")),
        ("autodetect", Some("10.0.0.5/16"), Some("10.0.0.5/24")),
        ("autodetect", Some("10.0.0.4/24"), Some("10.0.0.4/24")),
        ("none", None, None),
        ("none", Some("10.9.9.9/16"), Some("10.9.9.9/16")),
        ("10.0.0.5", Some("10.9.9.9/16"), Some("10.0.0.5/24")),
        ("10.0.0.6", None, Some("10.0.0.6/32")),
        ("10.0.0.6/20", Some("10.9.9.9/16"), Some("10.0.0.6/20")),
    ] {
        assert_eq!(
            address(ip, stored, &host()).unwrap().as_deref(),
            expected,
            "IP={ip:?}, stored {stored:?}"
        );
    }
    assert_eq!(
        address("autodetect", Some("10.9.9.9/16"), &nowhere)
            .unwrap()
            .as_deref(),
        Some("10.9.9.9/16")
    );
    assert!(matches!(
        address("autodetect", None, &nowhere),
        Err(NodeError::NotDetected { .. })
    ));
}

#[test]
fn an_address_that_no_interface_has_is_warned_about() {
    let warned = |ip| {
        ipv4_address(&params(&[("IP", ip)]), None, &host())
            .unwrap()
            .1
    };
    assert_eq!(warned("10.0.0.5"), None);
    assert!(warned("10.0.0.6").unwrap().contains("10.0.0.6/32"));
}

#[test]
fn fields_of_others_survive_and_the_as_number_stays_without_a_new_one() {
    let stored: Node = serde_json::from_value(json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "Node",
        "metadata": {"name": "n1", "labels": {"rack": "a"}},
        "spec": {
            "bgp": {"asNumber": 65001, "routeReflectorClusterID": "1.1.1.1", "later": 1},
            "wireguard": {"interfaceIPv4Address": "10.1.1.1"},
        },
        "status": {"kept": true},
    }))
    .unwrap();
    let net = Some("10.0.0.5/24".parse().unwrap());
    let node = with_facts(Some(stored), "n1", net, None, Vec::new(), NOW);
    let json = serde_json::to_value(&node).unwrap();
    assert_eq!(json["spec"]["bgp"]["asNumber"], 65001);
    assert_eq!(json["spec"]["bgp"]["ipv4Address"], "10.0.0.5/24");
    assert_eq!(json["spec"]["bgp"]["routeReflectorClusterID"], "1.1.1.1");
    assert_eq!(json["spec"]["bgp"]["later"], 1);
    assert_eq!(
        json["spec"]["wireguard"]["interfaceIPv4Address"],
        "10.1.1.1"
    );
    assert_eq!(json["status"]["kept"], true);
    assert!(
        json["metadata"].get("creationTimestamp").is_none(),
        "it is not new"
    );
    assert_eq!(json["metadata"]["labels"]["rack"], "a");
}

#[test]
fn an_address_of_another_node_is_refused_with_its_name() {
    let net = Some("10.0.0.5/24".parse().unwrap());
    let other = with_facts(
        None,
        "n2",
        Some("10.0.0.5/16".parse().unwrap()),
        None,
        Vec::new(),
        NOW,
    );
    assert_eq!(other.metadata.creation_timestamp.as_deref(), Some(NOW));
    let error = check_duplicate("n1", net, std::slice::from_ref(&other)).unwrap_err();
    assert!(error.to_string().contains("node n2"), "{error}");
    assert_eq!(check_duplicate("n2", net, &[other]), Ok(()));
}

#[test]
fn router_id_is_the_address_unless_a_setting_replaces_it() {
    let net = Some("10.0.0.5/24".parse().unwrap());
    let own = Ipv4Addr::new(10, 0, 0, 5);
    let literal = Ipv4Addr::new(1, 2, 3, 4);
    assert_eq!(router_id(RouterIdSource::NodeAddress, "n", net), Ok(own));
    assert_eq!(
        router_id(RouterIdSource::Literal(literal), "n", net),
        Ok(literal)
    );
    // `printf node-18 | sha256sum` begins with f5 c2 8b e3, and f5 - 32 is d5
    assert_eq!(
        router_id(RouterIdSource::Hash, "node-18", net),
        Ok(Ipv4Addr::new(0xd5, 0xc2, 0x8b, 0xe3))
    );
    assert_eq!(
        router_id(RouterIdSource::NodeAddress, "n", None),
        Err(NodeError::NoRouterId)
    );
}
