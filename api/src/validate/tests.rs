use serde_json::{Value, json};

use super::*;
use crate::key::Key;

fn object(kind: Kind, name: &str, spec: &Value) -> Object {
    let json = json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec});
    Object::decode(&Key::new(kind, name), json.to_string().as_bytes())
        .unwrap_or_else(|error| panic!("{error}"))
}

/// The fields of the faults of an object.
fn faults(kind: Kind, name: &str, spec: &Value) -> Vec<String> {
    validate(&object(kind, name, spec))
        .into_iter()
        .map(|fault| fault.field)
        .collect()
}

fn check_all(kind: Kind, name: &str, cases: &[(Value, &[&str])]) {
    for (spec, fields) in cases {
        assert_eq!(&faults(kind, name, spec), fields, "{spec}");
    }
}

#[test]
fn each_rule_of_a_pool_names_its_field() {
    let none: &[&str] = &[];
    check_all(
        Kind::IPPool,
        "pool",
        &[
            (json!({"cidr": "10.244.0.0/16"}), none),
            (json!({"cidr": "10.244.0.0/26"}), none),
            (json!({"cidr": "fd00:10::/64", "vxlanMode": "Always"}), none),
            (json!({"cidr": "10.244.1.0/16"}), &["spec.cidr"]),
            (json!({"cidr": "169.254.0.0/16"}), &["spec.cidr"]),
            (json!({"cidr": "10.244.0.0/27"}), &["spec.blockSize"]),
            (
                json!({"cidr": "10.0.0.0/8", "blockSize": 19}),
                &["spec.blockSize"],
            ),
            (
                json!({"cidr": "fd00::/64", "blockSize": 26}),
                &["spec.blockSize"],
            ),
            (
                json!({"cidr": "10.0.0.0/8", "ipipMode": "Always", "vxlanMode": "CrossSubnet"}),
                &["spec.vxlanMode"],
            ),
            (
                json!({"cidr": "fd00::/64", "ipipMode": "Always"}),
                &["spec.ipipMode"],
            ),
            (
                json!({"cidr": "10.0.0.0/8", "nodeSelector": "a = b"}),
                &["spec.nodeSelector"],
            ),
            (
                json!({"cidr": "10.0.0.0/8", "allowedUses": ["LoadBalancer", "Workload"]}),
                &["spec.allowedUses"],
            ),
            (
                json!({"cidr": "10.1.0.0/8", "blockSize": 33, "nodeSelector": "("}),
                &["spec.cidr", "spec.blockSize", "spec.nodeSelector"],
            ),
        ],
    );
}

#[test]
fn each_rule_of_a_peer_names_its_field() {
    let none: &[&str] = &[];
    check_all(
        Kind::BGPPeer,
        "peer",
        &[
            (json!({"peerIP": "10.0.0.1", "asNumber": 64512}), none),
            (json!({"peerIP": "10.0.0.1:1790", "asNumber": "1.10"}), none),
            (json!({"peerIP": "[fd00::1]:1790", "asNumber": 1}), none),
            (
                json!({"peerSelector": "has(rr)", "nodeSelector": "!has(rr)"}),
                none,
            ),
            (json!({}), &["spec.peerIP"]),
            (json!({"peerIP": "10.0.0.1"}), &["spec.asNumber"]),
            (
                json!({"peerIP": "10.0.0.1", "asNumber": 0}),
                &["spec.asNumber"],
            ),
            (
                json!({"peerIP": "10.0.0.1", "asNumber": 23456}),
                &["spec.asNumber"],
            ),
            (
                json!({"peerIP": "10.0.0.1", "asNumber": 1, "localASNumber": "0.23456"}),
                &["spec.localASNumber"],
            ),
            (
                json!({"peerIP": "10.0.0.1", "asNumber": 1, "password": {"secretKeyRef": {"name": "s"}}}),
                &["spec.password"],
            ),
            (
                json!({"peerIP": "10.0.0.1", "asNumber": 1,
                    "password": {"secretKeyRef": {"name": "s", "key": "k"}}, "reversePeering": "Manual"}),
                none,
            ),
            (
                json!({"peerIP": "10.0.0.1", "asNumber": 1, "reversePeering": "manual"}),
                &["spec.reversePeering"],
            ),
            (
                json!({"localWorkloadSelector": "a = b", "asNumber": 65000}),
                &["spec.localWorkloadSelector"],
            ),
            (
                json!({"localWorkloadSelector": "has(bgp)"}),
                &["spec.asNumber"],
            ),
            (
                json!({"localWorkloadSelector": "has(bgp)", "peerIP": "10.0.0.1", "asNumber": 65000}),
                &["spec.localWorkloadSelector"],
            ),
            (
                json!({"peerIP": "10.0.0.1:0", "asNumber": 1}),
                &["spec.peerIP"],
            ),
            (
                json!({"peerIP": "224.0.0.1", "asNumber": 1}),
                &["spec.peerIP"],
            ),
            (
                json!({"peerSelector": "all()", "asNumber": 1}),
                &["spec.asNumber"],
            ),
            (
                json!({"peerIP": "10.0.0.1", "asNumber": 1, "peerSelector": "all()"}),
                &["spec.peerSelector"],
            ),
            (
                json!({"peerIP": "10.0.0.1", "asNumber": 1, "node": "a", "nodeSelector": "all()"}),
                &["spec.nodeSelector"],
            ),
            (
                json!({"peerIP": "10.0.0.1", "asNumber": 1, "nextHopMode": "keep"}),
                &["spec.nextHopMode"],
            ),
            (
                json!({"peerIP": "10.0.0.1", "asNumber": 1, "maxRestartTime": "5000s"}),
                &["spec.maxRestartTime"],
            ),
            (
                json!({"peerIP": "10.0.0.1", "asNumber": 1, "keepaliveTime": "30s"}),
                none,
            ),
            (
                json!({"peerIP": "10.0.0.1", "asNumber": 1, "keepaliveTime": "500ms"}),
                &["spec.keepaliveTime"],
            ),
            (
                json!({"peerIP": "10.0.0.1", "asNumber": 1, "keepaliveTime": "30"}),
                &["spec.keepaliveTime"],
            ),
            (
                json!({"peerIP": "10.0.0.1", "asNumber": 1, "reachableBy": "fd00::1"}),
                &["spec.reachableBy"],
            ),
        ],
    );
}

#[test]
fn each_rule_of_a_filter_names_its_field() {
    let none: &[&str] = &[];
    let import = |rule: serde_json::Value| json!({"importV4": [{"action": "Accept"}, rule]});
    let with = |field: &str, value: serde_json::Value| {
        let mut rule = json!({"action": "Accept"});
        rule[field] = value;
        import(rule)
    };
    let at = |field: &str| format!("spec.importV4[1].{field}");
    let operations = |list: serde_json::Value| with("operations", list);
    let inside = |length: serde_json::Value| {
        import(
            json!({"action": "Reject", "cidr": "10.0.0.0/8", "matchOperator": "In", "prefixLength": length}),
        )
    };
    let eleven: Vec<u32> = (1..=11).collect();
    let cases = [
        (json!({}), ""),
        (
            json!({"exportV6": [{"action": "Reject", "cidr": "fd00::/8", "matchOperator": "NotIn"}]}),
            "",
        ),
        (inside(json!({"min": 16, "max": 24})), ""),
        (with("interface", json!("bond*.1")), ""),
        (with("communities", json!({"values": ["65000:1:2"]})), ""),
        (
            operations(
                json!([{"setPriority": {"value": 512}}, {"addCommunity": {"value": "1:2"}}]),
            ),
            "",
        ),
        (import(json!({"action": "accept"})), "action"),
        (with("cidr", json!("10.0.0.0/8")), "matchOperator"),
        (with("matchOperator", json!("In")), "cidr"),
        (
            import(json!({"action": "Accept", "cidr": "fd00::/8", "matchOperator": "In"})),
            "cidr",
        ),
        (
            import(json!({"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "Inside"})),
            "matchOperator",
        ),
        (with("prefixLength", json!({"min": 8})), "prefixLength"),
        (inside(json!({"max": 33})), "prefixLength.max"),
        (
            import(
                json!({"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "Equal",
                "prefixLength": {"min": 8}}),
            ),
            "prefixLength",
        ),
        (with("source", json!("Local")), "source"),
        (with("interface", json!("eth0;")), "interface"),
        (with("peerType", json!("EBGP")), "peerType"),
        (
            with("communities", json!({"values": ["1:2", "1:3"]})),
            "communities.values",
        ),
        (
            with("communities", json!({"values": ["65536:2"]})),
            "communities.values",
        ),
        (with("priority", json!(0)), "priority"),
        (
            import(json!({"action": "Reject", "operations": [{"setPriority": {"value": 1}}]})),
            "operations",
        ),
        (operations(json!([{}])), "operations[0]"),
        (
            operations(json!([{"prependASPath": {"prefix": eleven}}])),
            "operations[0].prependASPath.prefix",
        ),
        (
            operations(json!([{"prependASPath": {"prefix": [65000, 23456]}}])),
            "operations[0].prependASPath.prefix",
        ),
        (
            operations(json!([{"addCommunity": {"value": "x"}}])),
            "operations[0].addCommunity.value",
        ),
        (
            operations(json!([{"setPriority": {"value": 2_147_483_647_u32}}])),
            "operations[0].setPriority.value",
        ),
    ];
    for (spec, field) in cases {
        let field = at(field);
        let fields = if field.ends_with('.') {
            none
        } else {
            &[field.as_str()][..]
        };
        check_all(Kind::BGPFilter, "f", &[(spec, fields)]);
    }
}

#[test]
fn each_rule_of_the_configurations_names_its_field() {
    let none: &[&str] = &[];
    check_all(
        Kind::BGPConfiguration,
        "default",
        &[
            (json!({}), none),
            (
                json!({"logSeverityScreen": "info", "listenPort": 1790}),
                none,
            ),
            (
                json!({"logSeverityScreen": "loud"}),
                &["spec.logSeverityScreen"],
            ),
            (json!({"asNumber": 23456}), &["spec.asNumber"]),
            (json!({"bindMode": "NodeIp"}), &["spec.bindMode"]),
            (
                json!({"serviceLoadBalancerAggregation": "Off"}),
                &["spec.serviceLoadBalancerAggregation"],
            ),
            (
                json!({"nodeMeshPassword": "secret"}),
                &["spec.nodeMeshPassword"],
            ),
            (
                json!({"ipv4NormalRoutePriority": 1024, "ipv6NormalRoutePriority": 0}),
                &["spec.ipv6NormalRoutePriority"],
            ),
            (
                json!({"asNumber": 0, "listenPort": 0}),
                &["spec.asNumber", "spec.listenPort"],
            ),
            (
                json!({"nodeToNodeMeshEnabled": false, "nodeMeshMaxRestartTime": "120s"}),
                &["spec.nodeMeshMaxRestartTime"],
            ),
            (
                json!({
                    "communities": [{"name": "a", "value": "64512:100"}, {"name": "b", "value": "64512:1:2"}],
                    "prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["a", "nobody", "1:2"]}],
                }),
                none,
            ),
            (
                json!({"communities": [{"name": "a", "value": "64512"}, {"name": "b", "value": "65536:1"}]}),
                &["spec.communities[0].value", "spec.communities[1].value"],
            ),
            (
                json!({"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": vec!["1:2"; 51]}]}),
                &["spec.prefixAdvertisements[0].communities"],
            ),
        ],
    );
    assert_eq!(
        faults(Kind::BGPConfiguration, "mine", &json!({})),
        ["metadata.name"]
    );
    check_all(
        Kind::IPAMConfig,
        "default",
        &[
            (json!({}), none),
            (
                json!({"autoAllocateBlocks": false}),
                &["spec.autoAllocateBlocks"],
            ),
            (json!({"maxBlocksPerHost": 2}), &["spec.maxBlocksPerHost"]),
            (json!({"maxBlocksPerHost": 2, "strictAffinity": true}), none),
            (json!({"ipCooldownSeconds": 1200}), none),
            (
                json!({"ipCooldownSeconds": 1201}),
                &["spec.ipCooldownSeconds"],
            ),
        ],
    );
    check_all(
        Kind::IPPool,
        "pool",
        &[
            (
                json!({"cidr": "10.0.0.0/16", "assignmentMode": "Manual", "namespaceSelector": "team == 'x'"}),
                none,
            ),
            (
                json!({"cidr": "10.0.0.0/16", "assignmentMode": "Often", "namespaceSelector": "team ="}),
                &["spec.namespaceSelector", "spec.assignmentMode"],
            ),
        ],
    );
    check_all(
        Kind::IPReservation,
        "gateways",
        &[
            (json!({}), none),
            (
                json!({"reservedCIDRs": ["10.0.0.1", "10.0.0.8/30", "fd00::/125"]}),
                none,
            ),
            (
                json!({"reservedCIDRs": ["10.0.0.1", "10.0.0.300", "all"]}),
                &["spec.reservedCIDRs[1]", "spec.reservedCIDRs[2]"],
            ),
        ],
    );
}

#[test]
fn each_rule_of_felix_configurations_and_cluster_information_names_its_field() {
    let none: &[&str] = &[];
    check_all(
        Kind::FelixConfiguration,
        "default",
        &[
            (
                json!({"vxlanPort": 4790, "routeRefreshInterval": "90s", "bpfEnabled": false}),
                none,
            ),
            (json!({"vxlanPort": 0}), &["spec.vxlanPort"]),
            (json!({"vxlanVNI": 16_777_216}), &["spec.vxlanVNI"]),
            (json!({"healthEnabled": "maybe"}), &["spec.healthEnabled"]),
            (
                json!({"routeRefreshInterval": "often", "ipv4NormalRoutePriority": 0}),
                &["spec.ipv4NormalRoutePriority", "spec.routeRefreshInterval"],
            ),
            (json!({"nodeSelector": "all()"}), &["spec.nodeSelector"]),
        ],
    );
    assert_eq!(
        faults(
            Kind::FelixConfiguration,
            "mine",
            &json!({"nodeSelector": "a =="})
        ),
        ["spec.nodeSelector"]
    );
    assert_eq!(
        faults(Kind::FelixConfiguration, "mine", &json!({})),
        ["metadata.name"]
    );
    assert_eq!(
        faults(Kind::FelixConfiguration, "node.n1", &json!({})),
        none
    );
    assert_eq!(
        faults(Kind::ClusterInformation, "mine", &json!({})),
        ["metadata.name"]
    );
    let config = object(
        Kind::FelixConfiguration,
        "default",
        &json!({"vxlanPort": 70000, "bpfEnabled": true}),
    );
    assert_eq!(
        validate(&config)[0].to_string(),
        "spec.vxlanPort = 70000: must be 1 to 65535"
    );
    assert_eq!(config.unread().without_effect, ["spec.bpfEnabled"]);
}

#[test]
fn each_rule_of_nodes_and_endpoints_names_its_field() {
    let none: &[&str] = &[];
    check_all(
        Kind::Node,
        "n1",
        &[
            (json!({"bgp": {"ipv4Address": "10.0.0.1/24"}}), none),
            (
                json!({"bgp": {"ipv4Address": "10.0.0.1", "asNumber": "64512"}}),
                none,
            ),
            (json!({"bgp": {}}), &["spec.bgp.ipv4Address"]),
            (
                json!({"bgp": {"ipv4Address": "127.0.0.1/8"}}),
                &["spec.bgp.ipv4Address"],
            ),
            (
                json!({"bgp": {"ipv6Address": "10.0.0.1/24"}}),
                &["spec.bgp.ipv6Address"],
            ),
            (
                json!({"bgp": {"ipv4Address": "10.0.0.1", "asNumber": 23456}}),
                &["spec.bgp.asNumber"],
            ),
            (
                json!({"vxlanTunnelMACAddr": "66:00"}),
                &["spec.vxlanTunnelMACAddr"],
            ),
            (
                json!({"vxlanTunnelMACAddrV6": "66:00"}),
                &["spec.vxlanTunnelMACAddrV6"],
            ),
        ],
    );
    assert_eq!(faults(Kind::Node, "Node_1", &json!({})), ["metadata.name"]);
    let endpoint = |changed: (&str, Value)| {
        let mut spec = json!({
            "node": "n1", "orchestrator": "k8s", "endpoint": "eth0",
            "interfaceName": "cali12345678901", "ipNetworks": ["10.0.0.1/32"],
        });
        spec[changed.0] = changed.1;
        spec
    };
    check_all(
        Kind::WorkloadEndpoint,
        "n1-k8s-p-eth0",
        &[
            (endpoint(("pod", json!("p"))), none),
            (endpoint(("node", json!(""))), &["spec.node"]),
            (
                endpoint(("interfaceName", json!("cali123456789012"))),
                &["spec.interfaceName"],
            ),
            (
                endpoint(("ipNetworks", json!(["10.0.0.0/24"]))),
                &["spec.ipNetworks[0]"],
            ),
            (endpoint(("mac", json!("zz:00:00:00:00:00"))), &["spec.mac"]),
        ],
    );
}

#[test]
fn each_rule_of_a_block_names_its_field() {
    let none: &[&str] = &[];
    let block = |changed: (&str, Value)| {
        let mut spec = json!({
            "cidr": "10.0.0.0/30", "affinity": "host:n1", "allocations": [0, null, null, null],
            "unallocated": [1, 2, 3], "attributes": [{"handle_id": "h"}],
        });
        spec[changed.0] = changed.1;
        spec
    };
    check_all(
        Kind::IPAMBlock,
        "10-0-0-0-30",
        &[
            (block(("strictAffinity", json!(false))), none),
            (block(("affinity", json!("n1"))), &["spec.affinity"]),
            (
                block(("allocations", json!([0, null]))),
                &["spec.allocations"],
            ),
            (
                block(("allocations", json!([1, null, null, null]))),
                &["spec.allocations[0]"],
            ),
            (
                block(("unallocated", json!([0, 1, 1, 9]))),
                &[
                    "spec.unallocated[0]",
                    "spec.unallocated[2]",
                    "spec.unallocated[3]",
                ],
            ),
            (
                block(("cidr", json!("10.0.0.1/30"))),
                &["spec.cidr", "metadata.name"],
            ),
        ],
    );
    assert_eq!(
        faults(
            Kind::BlockAffinity,
            "a",
            &json!({"node": "", "cidr": "10.0.0.0/26", "type": "x", "deleted": true})
        ),
        ["spec.node", "spec.type"]
    );
    assert_eq!(
        faults(
            Kind::IPAMHandle,
            "h",
            &json!({"handleID": "", "block": {"x": 1}})
        ),
        ["spec.handleID", "spec.block"]
    );
}

#[test]
fn a_fault_names_field_value_and_rule() {
    let pool = object(
        Kind::IPPool,
        "p",
        &json!({"cidr": "10.0.0.0/8", "blockSize": 40}),
    );
    assert_eq!(
        validate(&pool)[0].to_string(),
        "spec.blockSize = 40: must be 20 to 32"
    );
}

#[test]
fn unreadable_fields_are_all_named_with_path_value_and_rule() {
    let json = json!({"metadata": {"name": "p", "labels": {"a": 1}}, "spec": {
        "cidr": "10.0.0.0/33", "ipipMode": "sometimes", "natOutgoing": "yes",
        "allowedUses": ["Workload", "Pods"],
    }});
    let error = Object::decode(&Key::new(Kind::IPPool, "p"), json.to_string().as_bytes())
        .expect_err("four fields are wrong");
    let text = error.to_string();
    for part in [
        "IPPool(p): ",
        "metadata.labels[\"a\"] = 1: must be a text",
        "spec.cidr = \"10.0.0.0/33\": must be a range",
        "spec.ipipMode = \"sometimes\": must be one of Never, Always, CrossSubnet",
        "spec.natOutgoing = \"yes\": must be true or false",
        "spec.allowedUses[1] = \"Pods\": must be one of",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let error = Object::decode(&Key::new(Kind::IPPool, "p"), b"{\"spec\": {}}");
    let text = error.expect_err("a pool needs a range").to_string();
    assert!(
        text.contains("spec.cidr (not given): must be given"),
        "{text}"
    );
    let error = Object::decode(&Key::new(Kind::IPPool, "p"), b"{");
    assert!(error.expect_err("cut off").to_string().contains("not JSON"));
}

#[test]
fn what_yaml_made_of_a_value_is_said_with_the_limits() {
    for (field, value, parts) in [
        ("asNumber", json!(1.1), ["4294967295", "in quotes", "1.10"]),
        ("node", json!(7), ["must be a text", "number", "in quotes"]),
        (
            "node",
            json!(false),
            ["must be a text", "truth value", "in quotes"],
        ),
        (
            "numAllowedLocalASNumbers",
            json!(300),
            ["300", "from 0", "255"],
        ),
        ("ttlSecurity", json!(-1), ["-1", "from 0", "255"]),
        (
            "ttlSecurity",
            json!("3"),
            ["whole number", "255", "not stand in quotes"],
        ),
        (
            "keepOriginalNextHop",
            json!("yes"),
            ["true or false", "\"yes\"", "not stand in quotes"],
        ),
    ] {
        let json = json!({"spec": {"peerIP": "10.0.0.1", field: value}});
        let key = Key::new(Kind::BGPPeer, "p");
        let error = Object::decode(&key, json.to_string().as_bytes()).expect_err(field);
        for part in parts {
            let text = error.to_string();
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}

#[test]
fn null_stands_for_an_absent_field() {
    let json = json!({"metadata": {"name": "p", "creationTimestamp": null}, "spec": {
        "cidr": "10.0.0.0/8", "natOutgoing": null, "unknown": null, "ipipMode": "",
    }});
    let key = Key::new(Kind::IPPool, "p");
    let object = Object::decode(&key, json.to_string().as_bytes()).expect("a null is accepted");
    let Object::IPPool(pool) = object else {
        panic!("a pool was read");
    };
    assert!(
        pool.spec.extra.contains_key("unknown"),
        "unknown fields are kept"
    );
}

#[test]
fn overlapping_pools_are_named_in_pairs() {
    let range = |text: &str| text.parse::<IpNet>().unwrap();
    let found = overlaps([
        ("b", range("10.0.1.0/24")),
        ("a", range("10.0.0.0/16")),
        ("c", range("10.1.0.0/16")),
        ("d", range("fd00::/64")),
    ]);
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].to_string(),
        "IPPool(b): spec.cidr = 10.0.1.0/24: must not overlap IPPool(a), whose spec.cidr is 10.0.0.0/16"
    );
}
