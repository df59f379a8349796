//! The CustomResourceDefinitions.

use kube_lab::ApiServer;
use serde_json::{Value, json};

use crate::server;

/// An object of every kind, as Calico writes them.
const CALICOS: &str = include_str!("../../fixtures/calico.json");
/// Objects that break a rule, and what the API server must say: field and what is allowed.
const BROKEN: &str = include_str!("../../fixtures/broken.json");
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

#[test]
fn an_object_that_breaks_a_rule_is_refused_by_the_api_server_in_words() {
    let server = server();
    let broken: Vec<Value> = serde_json::from_str(BROKEN).unwrap();
    for case in &broken {
        let object = json!({"apiVersion": format!("{GROUP}/v1"), "kind": case["kind"],
            "metadata": {"name": case["name"]}, "spec": case["spec"]})
        .to_string();
        let words = case["words"].as_str().unwrap();
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
