//! Services and EndpointSlices: Kubernetes' own, read and followed, and never written.

use api::key::{Key, Kind};
use datastore::scope::Scope;
use datastore::store::{Change, Expect, Op, Store, StoreError};
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::setup;

fn value(change: Change) -> Value {
    match change {
        Change::Put(item) => serde_json::from_slice(&item.value).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// The next change of an object: the API server has some of its own.
async fn next(events: &mut setup::Events, name: &str) -> Change {
    loop {
        let change = events.next().await.unwrap().unwrap().change();
        if let Some(change) = change.filter(|change| change.key().name == name) {
            return change;
        }
    }
}

#[test]
async fn a_service_and_its_endpoints_are_followed_and_cannot_be_written() {
    let server = setup::with_calicos_kinds();
    let store = setup::store(setup::client(&server).await, setup::folder(&server));
    let [mut services, mut slices] = [
        setup::watch(&store, Kind::Service, Scope::All).await,
        setup::watch(&store, Kind::EndpointSlice, Scope::All).await,
    ];
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"type": "NodePort", "externalIPs": ["198.51.100.9"], "ports": [{"port": 80}]},
    });
    server.apply(&service.to_string()).unwrap();
    let key = Key::namespaced(Kind::Service, "default", "web");
    let told = next(&mut services, "web").await;
    let stored = store.get(&key).await.unwrap().unwrap();
    assert_eq!(told, Change::Put(stored.clone()));
    let read = value(told);
    assert_eq!(read["spec"]["externalIPs"], json!(["198.51.100.9"]));
    assert_eq!(read["spec"]["clusterIPs"].as_array().map(Vec::len), Some(1));
    assert!(read["spec"].get("ports").is_none(), "{read}");
    // The API server has a Service of its own beside it.
    let listed = store.list(Kind::Service, &Scope::All).await.unwrap();
    assert!(listed.items.contains(&stored));
    let names = store.names(Kind::Service).await.unwrap();
    assert!(names.contains(&key), "{names:?}");

    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["10.1.2.3"], "nodeName": "n1", "conditions": {"ready": true}},
            {"addresses": ["10.1.2.4"], "nodeName": "n2", "conditions": {"ready": false}},
        ],
    });
    server.apply(&slice.to_string()).unwrap();
    let spec = json!({"service": "web", "addressType": "IPv4", "ready": true, "nodes": ["n1"]});
    assert_eq!(value(next(&mut slices, "web-1").await)["spec"], spec);
    server
        .kubectl(&["delete", "endpointslice", "web-1"])
        .unwrap();
    let gone = next(&mut slices, "web-1").await;
    assert!(matches!(gone, Change::Delete { .. }), "{gone:?}");

    let op = Op::Put {
        key,
        value: stored.value,
        expect: Expect::Any,
    };
    let refused = store.write(op).await;
    assert!(
        matches!(&refused, Err(StoreError::Refused(why)) if why.contains("use kubectl")),
        "{refused:?}"
    );
    server.kubectl(&["delete", "service", "web"]).unwrap();
}
