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
    super::address(&params(&[("IP", ip)]), Family::V4, stored, host)
        .map(|(net, _)| net.map(|net| net.to_string()))
}

fn facts() -> Facts<'static> {
    Facts {
        as_number: None,
        interfaces: Vec::new(),
        kubernetes_node: None,
        now: "2026-01-01T00:00:00Z".to_owned(),
    }
}

fn ipv4(text: &str) -> Addresses {
    Addresses {
        ipv4: Some(text.parse().unwrap()),
        ipv6: None,
    }
}

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
        super::address(&params(&[("IP", ip)]), Family::V4, None, &host())
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
    let facts = Facts {
        kubernetes_node: Some("worker-1"),
        ..facts()
    };
    let node = with_facts(Some(stored), "n1", ipv4("10.0.0.5/24"), &facts);
    let json = serde_json::to_value(&node).unwrap();
    assert_eq!(json["spec"]["bgp"]["asNumber"], 65001);
    assert_eq!(json["spec"]["bgp"]["ipv4Address"], "10.0.0.5/24");
    assert_eq!(json["spec"]["bgp"]["routeReflectorClusterID"], "1.1.1.1");
    assert_eq!(json["spec"]["bgp"]["later"], 1);
    let reference = json!([{"orchestrator": "k8s", "nodeName": "worker-1"}]);
    assert_eq!(json["spec"]["orchRefs"], reference);
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
    let other = with_facts(None, "n2", ipv4("10.0.0.5/16"), &facts());
    let created = other.metadata.creation_timestamp.as_deref();
    assert_eq!(created, Some("2026-01-01T00:00:00Z"));
    let own = ipv4("10.0.0.5/24");
    let error = check_duplicate("n1", own, std::slice::from_ref(&other)).unwrap_err();
    assert!(error.to_string().contains("node n2"), "{error}");
    assert_eq!(check_duplicate("n2", own, &[other]), Ok(()));
    let six = |len: &str| Addresses {
        ipv4: None,
        ipv6: Some(format!("fd00::5/{len}").parse().unwrap()),
    };
    let other = with_facts(None, "n2", six("64"), &facts());
    let error = check_duplicate("n1", six("128"), &[other]).unwrap_err();
    assert!(error.to_string().starts_with("IP6: node n2"), "{error}");
}

#[test]
fn an_ipv6_address_is_detected_only_when_asked_and_a_bare_one_stands_alone() {
    let host = Fake(vec![HostInterface {
        name: "eth0".to_owned(),
        ifindex: 2,
        addresses: vec!["fd00::5/64".parse().unwrap(), "fe80::5/64".parse().unwrap()],
    }]);
    let nowhere = Fake(Vec::new());
    let address = |ip6, stored: Option<&str>, host: &Fake| {
        let stored = stored.map(|net| net.parse().unwrap());
        super::address(&params(&[("IP6", ip6)]), Family::V6, stored, host)
            .map(|(net, _)| net.map(|net| net.to_string()))
    };
    for (ip6, stored, expected) in [
        ("", None, None),
        ("", Some("fd00::9/64"), Some("fd00::9/64")),
        ("none", None, None),
        ("autodetect", None, Some("fd00::5/64")),
        ("autodetect", Some("fd00::9/64"), Some("fd00::5/64")),
        ("fd00::5", None, Some("fd00::5/128")),
        ("fd00::6/48", Some("fd00::9/64"), Some("fd00::6/48")),
    ] {
        let found = address(ip6, stored, &host).unwrap();
        assert_eq!(found.as_deref(), expected, "IP6={ip6:?}, stored {stored:?}");
    }
    let kept = address("autodetect", Some("fd00::9/64"), &nowhere);
    assert_eq!(kept, Ok(Some("fd00::9/64".to_owned())));
    let error = address("autodetect", None, &nowhere).unwrap_err();
    let said = error.to_string();
    assert!(said.starts_with("IP6: no IPv6 address"), "{said}");
    let bad = params(&[("IP6_AUTODETECTION_METHOD", "interface=eth[")]);
    let said = check_methods(&bad).unwrap_err().to_string();
    assert!(said.starts_with("IP6_AUTODETECTION_METHOD: "), "{said}");
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
