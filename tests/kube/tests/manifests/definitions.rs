//! The CustomResourceDefinitions.

use kube_lab::ApiServer;
use serde_json::{Value, json};

use crate::server;

/// An object of every kind, as Calico writes them.
const CALICOS: &str = include_str!("../../fixtures/calico.json");
const GROUP: &str = "crd.projectcalico.org";

fn calicos() -> Vec<Value> {
    serde_json::from_str(CALICOS).unwrap()
}

/// `ippool.crd.projectcalico.org`: a kind's name alone may be another group's.
fn resource(object: &Value) -> String {
    format!(
        "{}.{GROUP}",
        object["kind"].as_str().unwrap().to_lowercase()
    )
}

/// Makes the object, its status included; what the API server then has of it.
fn kept(server: &ApiServer, object: &Value) -> Value {
    let name = object["metadata"]["name"].as_str().unwrap();
    let resource = resource(object);
    let create = ["create", "--validate=strict", "-f", "-"];
    server
        .kubectl_reading(&create, &object.to_string())
        .unwrap();
    if let Some(status) = object.get("status") {
        let patch = json!({"status": status}).to_string();
        let patch = ["--subresource=status", "--type=merge", "--patch", &patch];
        server
            .kubectl(&[&["patch", &resource, name], &patch[..]].concat())
            .unwrap();
    }
    let mut kept = crate::json(server, &["get", &resource, name]);
    for added in [
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "generation",
        "managedFields",
    ] {
        kept["metadata"].as_object_mut().unwrap().remove(added);
    }
    kept
}

#[test]
fn calicos_objects_of_every_kind_come_back_unchanged() {
    let server = server();
    let objects = calicos();
    for object in &objects {
        let name = &object["metadata"]["name"];
        assert_eq!(kept(&server, object), *object, "{} {name}", object["kind"]);
    }
    let defined = crate::json(&server, &["get", "crd"]);
    for definition in defined["items"].as_array().unwrap() {
        let kind = &definition["spec"]["names"]["kind"];
        assert!(
            objects.iter().any(|object| object["kind"] == *kind),
            "no object of kind {kind} was tried"
        );
    }
}

#[test]
fn kubectl_shows_calicos_columns_under_calicos_short_names() {
    let server = server();
    for (resource, name, spec, headings) in [
        (
            "ippools",
            "columns",
            json!({"cidr": "10.9.0.0/16", "ipipMode": "CrossSubnet", "natOutgoing": true}),
            "NAME CIDR VXLAN IPIP NAT ALLOCATABLE AGE",
        ),
        (
            "bgppeers",
            "columns",
            json!({"peerIP": "10.9.0.1", "asNumber": 64999}),
            "NAME NODE SELECTOR NODE LOCAL ASN PEER SELECTOR PEER IP PEER ASN",
        ),
        (
            "affinities",
            "columns",
            json!({"cidr": "10.9.0.0/26", "node": "n", "state": "confirmed", "deleted": "false"}),
            "NAME CIDR NODE TYPE",
        ),
        (
            "bgpconfig",
            "node.columns",
            json!({"logSeverityScreen": "Info"}),
            "NAME AGE",
        ),
    ] {
        let kind = match resource {
            "ippools" => "IPPool",
            "bgppeers" => "BGPPeer",
            "affinities" => "BlockAffinity",
            _ => "BGPConfiguration",
        };
        let object = json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind,
            "metadata": {"name": name}, "spec": spec});
        server.apply(&object.to_string()).unwrap();
        let table = server.kubectl(&["get", resource, name]).unwrap();
        let first = table.lines().next().unwrap();
        let words: Vec<&str> = first.split_whitespace().collect();
        assert_eq!(words.join(" "), headings, "{table}");
    }
    let pool = server.kubectl(&["get", "ippools", "columns"]).unwrap();
    let row: Vec<&str> = pool.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..4], ["columns", "10.9.0.0/16", "CrossSubnet", "true"]);
}

/// Objects that break a rule, and what the API server must say: field and what is allowed.
fn broken() -> Vec<(&'static str, &'static str, Value, &'static str)> {
    let peer = |field: &str, value: Value| {
        let mut spec = json!({"peerIP": "10.0.0.1", "asNumber": 64513});
        spec[field] = value;
        spec
    };
    let rule = |field: &str, value: Value| {
        let mut rule = json!({"action": "Accept"});
        rule[field] = value;
        json!({"exportV4": [rule]})
    };
    vec![
        ("IPPool", "p", json!({}), "spec.cidr: Required value"),
        (
            "IPPool",
            "p",
            json!({"cidr": "10.0.0.0/99"}),
            "spec.cidr: Invalid value: \"10.0.0.0/99\": must be a range such as 10.244.0.0/16",
        ),
        (
            "IPPool",
            "p",
            json!({"cidr": "10.0.0.1/16"}),
            "spec.cidr: Invalid value: \"10.0.0.1/16\": must have no host bits",
        ),
        (
            "IPPool",
            "p",
            json!({"cidr": "169.254.0.0/16"}),
            "must hold no link-local addresses",
        ),
        (
            "IPPool",
            "p",
            json!({"cidr": "10.0.0.0/16", "blockSize": 33}),
            "blockSize must be 20 to 32 in an IPv4 pool",
        ),
        (
            "IPPool",
            "p",
            json!({"cidr": "fd00::/64", "blockSize": 64}),
            "116 to 128 in an IPv6 pool",
        ),
        (
            "IPPool",
            "p",
            json!({"cidr": "10.0.0.0/28"}),
            "cannot be larger than the pool",
        ),
        (
            "IPPool",
            "p",
            json!({"cidr": "10.0.0.0/16", "ipipMode": "always"}),
            "spec.ipipMode: Unsupported value: \"always\": supported values: \"Never\", \"Always\", \"CrossSubnet\"",
        ),
        (
            "IPPool",
            "p",
            json!({"cidr": "10.0.0.0/16", "ipipMode": "Always", "vxlanMode": "Always"}),
            "a pool has one kind of tunnel",
        ),
        (
            "IPPool",
            "p",
            json!({"cidr": "fd00::/64", "ipipMode": "Always"}),
            "ipipMode must be Never in an IPv6 pool",
        ),
        (
            "IPPool",
            "p",
            json!({"cidr": "10.0.0.0/16", "allowedUses": ["LoadBalancer", "Tunnel"]}),
            "LoadBalancer alone",
        ),
        (
            "IPPool",
            "p",
            json!({"cidr": "10.0.0.0/16", "natOutgoing": "yes"}),
            "spec.natOutgoing: Invalid value: \"string\"",
        ),
        (
            "BGPConfiguration",
            "x",
            json!({}),
            "metadata.name must be `default`, or `node.` and a node's name",
        ),
        (
            "BGPConfiguration",
            "node.x",
            json!({"listenPort": 0}),
            "spec.listenPort",
        ),
        (
            "BGPConfiguration",
            "node.x",
            json!({"logSeverityScreen": "loud"}),
            "must be one of Trace, Debug, Info",
        ),
        (
            "BGPConfiguration",
            "node.x",
            json!({"asNumber": 23456}),
            "must be 1 to 4294967295, but not 23456",
        ),
        (
            "BGPConfiguration",
            "node.x",
            json!({"nodeMeshMaxRestartTime": "4096s"}),
            "4095s at most",
        ),
        (
            "BGPPeer",
            "p",
            json!({}),
            "peerIP must be given, unless peerSelector is",
        ),
        (
            "BGPPeer",
            "p",
            json!({"peerIP": "10.0.0.1"}),
            "asNumber must be 1 to 4294967295",
        ),
        (
            "BGPPeer",
            "p",
            json!({"peerIP": "10.0.0.1", "asNumber": "1.2.3"}),
            "must be an AS number",
        ),
        (
            "BGPPeer",
            "p",
            json!({"peerSelector": "all()", "asNumber": 64513}),
            "the selected nodes name their AS",
        ),
        (
            "BGPPeer",
            "p",
            peer("peerIP", "10.0.0.300".into()),
            "spec.peerIP: Invalid value: \"10.0.0.300\": must be an address, alone or with a port",
        ),
        (
            "BGPPeer",
            "p",
            peer("peerSelector", "all()".into()),
            "peerIP and peerSelector must not be given together",
        ),
        (
            "BGPPeer",
            "p",
            peer("keepaliveTime", "0.5s".into()),
            "1s at least",
        ),
        (
            "BGPPeer",
            "p",
            peer("maxRestartTime", "2".into()),
            "must be a duration such as 120s",
        ),
        (
            "BGPPeer",
            "p",
            peer("nextHopMode", "self".into()),
            "supported values: \"Auto\", \"Self\", \"Keep\"",
        ),
        (
            "BGPPeer",
            "p",
            peer("reachableBy", "gateway".into()),
            "spec.reachableBy: Invalid value: \"gateway\": must be an address",
        ),
        (
            "BGPFilter",
            "f",
            rule("action", "Deny".into()),
            "spec.exportV4[0].action: Unsupported value: \"Deny\"",
        ),
        (
            "BGPFilter",
            "f",
            rule("cidr", "10.0.0.0/8".into()),
            "cidr and matchOperator must be given together",
        ),
        (
            "BGPFilter",
            "f",
            rule("prefixLength", json!({"max": 33})),
            "less than or equal to 32",
        ),
        (
            "BGPFilter",
            "f",
            rule("operations", json!([{}])),
            "spec.exportV4[0].operations[0]",
        ),
        (
            "BGPFilter",
            "f",
            rule("priority", 0.into()),
            "spec.exportV4[0].priority",
        ),
        (
            "FelixConfiguration",
            "x",
            json!({"vxlanPort": 65536}),
            "spec.vxlanPort",
        ),
        (
            "ClusterInformation",
            "x",
            json!({}),
            "metadata.name must be `default`",
        ),
        (
            "IPAMConfig",
            "x",
            json!({"strictAffinity": false, "autoAllocateBlocks": true}),
            "metadata.name must be `default`",
        ),
        (
            "IPAMConfig",
            "default",
            json!({"strictAffinity": false, "autoAllocateBlocks": false}),
            "autoAllocateBlocks must be true, unless strictAffinity is",
        ),
        (
            "IPAMBlock",
            "10-0-0-0-26",
            json!({"cidr": "10.0.0.0/26"}),
            "spec.allocations: Required value",
        ),
        (
            "BlockAffinity",
            "a",
            json!({"cidr": "10.0.0.0/26", "node": "n", "type": "rack"}),
            "supported values: \"host\", \"virtual\"",
        ),
        (
            "IPAMHandle",
            "h",
            json!({"block": {}}),
            "spec.handleID: Required value",
        ),
    ]
}

#[test]
fn an_object_that_breaks_a_rule_is_refused_by_the_api_server_in_words() {
    let server = server();
    for (kind, name, spec, words) in broken() {
        let object = json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind,
            "metadata": {"name": name}, "spec": spec})
        .to_string();
        let create = ["create", "--dry-run=server", "-f", "-"];
        let said = match server.kubectl_reading(&create, &object) {
            Ok(_) => panic!("taken: {object}"),
            Err(error) => error.to_string(),
        };
        assert!(said.contains(words), "{object}\n{said}\nwanted: {words}");
    }
}

#[test]
fn range_and_block_size_of_a_pool_cannot_be_changed() {
    let server = server();
    let pool = |spec: &Value| {
        json!({"apiVersion": format!("{GROUP}/v1"), "kind": "IPPool",
            "metadata": {"name": "unchanging"}, "spec": spec})
        .to_string()
    };
    server
        .apply(&pool(&json!({"cidr": "10.7.0.0/16", "blockSize": 26})))
        .unwrap();
    for spec in [
        json!({"cidr": "10.8.0.0/16", "blockSize": 26}),
        json!({"cidr": "10.7.0.0/16", "blockSize": 27}),
    ] {
        let error = server.apply(&pool(&spec)).unwrap_err().to_string();
        assert!(error.contains("cannot be changed"), "{error}");
    }
    let disabled = json!({"cidr": "10.7.0.0/16", "blockSize": 26, "disabled": true});
    server.apply(&pool(&disabled)).unwrap();
}
