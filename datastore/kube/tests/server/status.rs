//! The status of an object whose definition has none apart from the rest, as Calico's older ones; `tests/lab/tests/kube` has
//! this project's definitions.

use api::key::{Key, Kind};
use datastore::store::{KeyValue, Store, StoreError};
use serde_json::{Value, json};

use crate::setup;

#[test]
async fn a_status_is_written_where_its_definition_has_none_apart_and_only_over_what_was_read() {
    let server = setup::with_calicos_kinds();
    let store = setup::store(setup::client(&server).await, setup::folder(&server));
    let object = json!({
        "apiVersion": "crd.projectcalico.org/v1", "kind": "CalicoNodeStatus", "metadata": {"name": "asked"},
        "spec": {"node": "n1", "classes": ["BGP"]},
    });
    server.apply(&object.to_string()).unwrap();
    let key = Key::new(Kind::CalicoNodeStatus, "asked");
    let read = store.get(&key).await.unwrap().unwrap();
    let with_status = |read: &KeyValue, count: u32| {
        let mut value: Value = serde_json::from_slice(&read.value).unwrap();
        value["status"] = json!({"bgp": {"numberEstablishedV4": count}});
        KeyValue {
            value: value.to_string().into(),
            ..read.clone()
        }
    };
    store.write_status(with_status(&read, 1)).await.unwrap();
    let path = "--output=jsonpath={.status.bgp.numberEstablishedV4} {.spec.node}";
    let shown = || server.kubectl(&["get", "caliconodestatus", "asked", path]);
    assert_eq!(shown().unwrap(), "1 n1");
    let stale = store.write_status(with_status(&read, 2)).await;
    let Err(StoreError::Conflict { current, .. }) = stale else {
        panic!("{stale:?}");
    };
    store
        .write_status(with_status(&current.unwrap(), 3))
        .await
        .unwrap();
    assert_eq!(shown().unwrap(), "3 n1");
    server
        .kubectl(&["delete", "caliconodestatus", "asked"])
        .unwrap();
    let gone = store.write_status(with_status(&read, 4)).await;
    assert_eq!(gone, Err(StoreError::Conflict { key, current: None }));
}
