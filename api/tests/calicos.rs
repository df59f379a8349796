//! Objects as Calico writes them: those that an API server takes and keeps unchanged (`tests/kube/tests/manifests`) are read here, too.

use api::key::{Key, Kind};
use api::object::Object;
use api::validate::validate;
use serde_json::{Value, json};

const CALICOS: &str = include_str!("../../tests/kube/fixtures/calico.json");
const BROKEN: &str = include_str!("../../tests/kube/fixtures/broken.json");

#[test]
fn calicos_objects_of_every_kind_are_read_valid_and_written_back_unchanged() {
    let objects: Vec<Value> = serde_json::from_str(CALICOS).unwrap();
    let mut read = Vec::new();
    for wanted in &objects {
        let Some(kind) = wanted["kind"].as_str().and_then(Kind::from_name) else {
            continue;
        };
        let name = wanted["metadata"]["name"].as_str().unwrap();
        let key = Key::new(kind, name);
        let object = Object::decode(&key, wanted.to_string().as_bytes()).unwrap();
        assert_eq!(validate(&object), [], "{key}");
        let written: Value = serde_json::from_slice(&object.encode()).unwrap();
        // Nothing but defaults is added, and nothing but a default is left out.
        for part in ["metadata", "spec", "status"] {
            for (field, value) in wanted[part].as_object().into_iter().flatten() {
                let kept = &written[part][field];
                let left_out = kept.is_null() && *value == false;
                assert!(kept == value || left_out, "{key}: {part}.{field} = {kept}");
            }
        }
        read.push(kind);
    }
    let unread: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|kind| !read.contains(kind))
        .collect();
    // Those are read from Kubernetes' own objects.
    assert_eq!(
        unread,
        [
            Kind::Node,
            Kind::WorkloadEndpoint,
            Kind::Service,
            Kind::EndpointSlice
        ]
    );
}

/// The samples with which an API server is tried: what it refuses is not valid here either.
#[test]
fn what_the_api_server_refuses_is_refused_here_too() {
    let broken: Vec<Value> = serde_json::from_str(BROKEN).unwrap();
    for case in &broken {
        let kind = case["kind"].as_str().and_then(Kind::from_name).unwrap();
        let name = case["name"].as_str().unwrap();
        let object = json!({"metadata": {"name": name}, "spec": case["spec"]});
        let decoded = Object::decode(&Key::new(kind, name), object.to_string().as_bytes());
        let valid = decoded.is_ok_and(|object| validate(&object).is_empty());
        assert!(!valid, "{case}");
    }
}

/// Calico's own definitions of these kinds ask for these fields; a cluster that has them refuses objects without.
#[test]
fn what_is_written_has_every_field_that_calicos_definitions_ask_for() {
    let least = json!({
        "cidr": "10.0.0.0/30", "node": "n", "handleID": "h", "allocations": [null, null, null, null],
        "unallocated": [0, 1, 2, 3],
    });
    for (kind, asked) in [
        (
            Kind::IPAMBlock,
            &[
                "allocations",
                "attributes",
                "cidr",
                "strictAffinity",
                "unallocated",
            ][..],
        ),
        (Kind::BlockAffinity, &["cidr", "deleted", "node", "state"]),
        (Kind::IPAMHandle, &["block", "handleID"]),
        (Kind::IPAMConfig, &["autoAllocateBlocks", "strictAffinity"]),
        (Kind::IPPool, &["cidr"]),
    ] {
        let object = json!({"metadata": {"name": "x"}, "spec": least}).to_string();
        let object = Object::decode(&Key::new(kind, "x"), object.as_bytes()).unwrap();
        let written: Value = serde_json::from_slice(&object.encode()).unwrap();
        for field in asked {
            assert!(!written["spec"][field].is_null(), "{kind}: {field}");
        }
    }
    let affinity = json!({"metadata": {"name": "x"}, "spec": least}).to_string();
    let key = Key::new(Kind::BlockAffinity, "x");
    let affinity = Object::decode(&key, affinity.as_bytes()).unwrap();
    let written: Value = serde_json::from_slice(&affinity.encode()).unwrap();
    // A text, in their first version.
    assert_eq!(written["spec"]["deleted"], "false");
}
