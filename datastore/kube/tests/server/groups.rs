//! A cluster that has Calico's objects in the API's own group.

use api::key::{Key, Kind};
use datastore::scope::Scope;
use datastore::store::{Expect, Op, Store, StoreError};
use kube_lab::{ApiServer, Options};
use serde_json::{Value, json};

use crate::setup;

#[test]
async fn where_only_the_apis_own_group_has_ipams_kinds_it_is_used() {
    let _ = kube_lab::required(&[]);
    let started = ApiServer::start(Options::default());
    let server = started.unwrap_or_else(|error| panic!("{error}"));
    let store = setup::store(setup::client(&server).await, setup::folder(&server));
    let none = store.list(Kind::IPPool, &Scope::All).await;
    assert!(
        matches!(&none, Err(StoreError::Unavailable(why)) if why.contains("CRDs")),
        "{none:?}"
    );
    setup::define_kinds_of_the_api(&server);
    // Kinds are served a moment after they are established.
    let served = async {
        while store.list(Kind::BlockAffinity, &Scope::All).await.is_err()
            || store.list(Kind::IPAMConfig, &Scope::All).await.is_err()
        {}
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), served)
        .await
        .expect("they are served");
    let get = |resource: &str, name: &str| -> Value {
        let text = server.kubectl(&["get", resource, name, "--output=json"]);
        serde_json::from_str(&text.unwrap()).unwrap()
    };
    for (key, spec, resource, wanted) in [
        (
            Key::new(Kind::BlockAffinity, "n1-10-65-0-0-26"),
            json!({"cidr": "10.65.0.0/26", "node": "n1", "state": "confirmed", "deleted": "false"}),
            "blockaffinities.projectcalico.org",
            json!({"cidr": "10.65.0.0/26", "node": "n1", "state": "confirmed", "deleted": false}),
        ),
        (
            Key::new(Kind::IPAMConfig, "default"),
            json!({"strictAffinity": true}),
            "ipamconfigurations.projectcalico.org",
            json!({"strictAffinity": true}),
        ),
    ] {
        let value = json!({"metadata": {"name": key.name, "labels": {"a": "b"}}, "spec": spec});
        let put = Op::Put {
            key: key.clone(),
            value: value.to_string().into(),
            expect: Expect::Absent,
        };
        store.write(put).await.unwrap();
        let seen = get(resource, &key.name);
        assert_eq!(seen["spec"], wanted);
        assert_eq!(seen["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(seen["metadata"].get("annotations"), None, "{key}");
        let stored = store.get(&key).await.unwrap().unwrap();
        assert!(
            api::object::Object::decode(&key, &stored.value).is_ok(),
            "{key}"
        );
        assert_eq!(store.names(key.kind).await, Ok(vec![key]));
    }
}
