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
        // Nothing but defaults is added.
        for part in ["metadata", "spec", "status"] {
            for (field, value) in wanted[part].as_object().into_iter().flatten() {
                assert_eq!(written[part][field], *value, "{key}: {part}.{field}");
            }
        }
        read.push(kind);
    }
    let unread: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|kind| !read.contains(kind))
        .collect();
    // Those are read from Kubernetes' own objects.
    assert_eq!(unread, [Kind::Node, Kind::WorkloadEndpoint]);
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
