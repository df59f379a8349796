//! Objects as Calico writes them, in the CRDs of this project, read and written through the types of `api`.

use api::key::{Key, Kind};
use api::object::Object;
use datastore::scope::Scope;
use datastore::store::{Expect, KeyValue, Op, Store};
use kube_lab::ApiServer;
use serde_json::{Value, json};

use crate::setup;

/// `crd.projectcalico.org/v1`, with the metadata of Calico's client in its annotation, and fields that are not known here.
fn fixtures() -> Vec<Value> {
    let metadata = |name: &str| {
        json!({
            "name": name,
            "labels": {"team": "net"},
            "annotations": {
                "note": "kept",
                "projectcalico.org/metadata": "{\"creationTimestamp\":\"2024-05-01T10:00:00Z\"}",
            },
        })
    };
    let object = |kind: &str, name: &str, spec: Value| {
        json!({
            "apiVersion": "crd.projectcalico.org/v1", "kind": kind, "metadata": metadata(name), "spec": spec,
        })
    };
    vec![
        object(
            "IPPool",
            "default-ipv4-ippool",
            json!({
                "cidr": "10.65.0.0/16", "blockSize": 26, "ipipMode": "Never", "vxlanMode": "Never", "natOutgoing": true,
                "nodeSelector": "all()", "allowedUses": ["Workload", "Tunnel"], "assignmentMode": "Automatic",
            }),
        ),
        object(
            "BGPConfiguration",
            "default",
            json!({
                "nodeToNodeMeshEnabled": true, "asNumber": 64512, "logSeverityScreen": "Info",
                "communities": [{"name": "c", "value": "64512:1"}],
                "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}],
            }),
        ),
        object(
            "BGPPeer",
            "tor",
            json!({
                "peerIP": "10.0.0.254", "asNumber": 64600, "nodeSelector": "rack == 'a'",
                "password": {"secretKeyRef": {"name": "bgp", "key": "tor"}}, "sourceAddress": "UseNodeIP",
            }),
        ),
        object(
            "BGPFilter",
            "only-pods",
            json!({
                "exportV4": [{"action": "Accept", "matchOperator": "In", "cidr": "10.65.0.0/16"}, {"action": "Reject"}],
            }),
        ),
        object(
            "FelixConfiguration",
            "default",
            json!({
                "bpfLogLevel": "", "floatingIPs": "Disabled", "logSeverityScreen": "Info", "reportingInterval": "0s",
            }),
        ),
        object(
            "ClusterInformation",
            "default",
            json!({
                "calicoVersion": "v3.31.0", "clusterGUID": "2f1ba4e4", "clusterType": "k8s,bgp,kubeadm", "datastoreReady": true,
            }),
        ),
        object(
            "CalicoNodeStatus",
            "n1",
            json!({"node": "n1", "classes": ["Agent", "BGP", "Routes"], "updatePeriodSeconds": 10}),
        ),
        object(
            "IPAMConfig",
            "default",
            json!({
                "strictAffinity": false, "autoAllocateBlocks": true, "maxBlocksPerHost": 0,
                "kubeVirtVMAddressPersistence": "Enabled",
            }),
        ),
        object(
            "IPAMBlock",
            "10-65-0-0-30",
            json!({
                "cidr": "10.65.0.0/30", "affinity": "host:n1", "affinityClaimTime": "2024-05-01T10:00:00Z",
                "allocations": [0, null, 1, null], "unallocated": [1, 3],
                "attributes": [
                    {"handle_id": "vxlan-tunnel-addr-n1", "secondary": {"node": "n1", "type": "vxlanTunnelAddress"}},
                    {"handle_id": "k8s-pod-network.4f1c", "secondary": {"namespace": "default", "node": "n1", "pod": "web-0",
                        "timestamp": "2024-05-01 10:00:00.1 +0000 UTC"}},
                ],
                "sequenceNumber": 1714557600000000123_u64, "sequenceNumberForAllocation": {"0": 1714557600000000120_u64, "2": 1714557600000000122_u64},
                "deleted": false, "strictAffinity": false,
            }),
        ),
        object(
            "BlockAffinity",
            "n1-10-65-0-0-30",
            json!({
                "cidr": "10.65.0.0/30", "deleted": "false", "node": "n1", "state": "confirmed", "type": "host",
            }),
        ),
        object(
            "IPAMHandle",
            "k8s-pod-network.4f1c",
            json!({
                "handleID": "k8s-pod-network.4f1c", "block": {"10.65.0.0/30": 1}, "deleted": false,
            }),
        ),
    ]
}

/// As kubectl sees it, without what each write changes.
fn seen(server: &ApiServer, kind: &str, name: &str) -> Value {
    let resource = format!("{}.crd.projectcalico.org", kind.to_lowercase());
    let text = server
        .kubectl(&["get", &resource, name, "--output=json"])
        .unwrap();
    let mut object: Value = serde_json::from_str(&text).unwrap();
    for field in ["resourceVersion", "generation", "managedFields"] {
        object["metadata"].as_object_mut().unwrap().remove(field);
    }
    object
}

/// Reads an object as the agent does, lets `change` change it, and writes it.
async fn rewrite(store: &dyn Store, key: &Key, change: impl FnOnce(&mut Value)) -> KeyValue {
    let stored = store.get(key).await.unwrap().unwrap();
    let object = Object::decode(key, &stored.value).unwrap();
    let mut value: Value = serde_json::from_slice(&object.encode()).unwrap();
    change(&mut value);
    let put = Op::Put {
        key: key.clone(),
        value: value.to_string().into(),
        expect: Expect::Version(stored.version.clone()),
    };
    let written = store.write(put).await.unwrap().unwrap();
    assert_ne!(*written.version(), stored.version, "{key} was written");
    store.get(key).await.unwrap().unwrap()
}

#[test]
async fn calicos_objects_survive_our_reads_and_writes_unchanged() {
    let server = setup::with_calicos_kinds();
    let store = setup::store(setup::client(&server).await, setup::folder(&server));
    for fixture in fixtures() {
        server.apply(&fixture.to_string()).unwrap();
        let text = |field: &str| fixture[field].as_str().unwrap();
        let kind = Kind::from_name(text("kind")).unwrap();
        let key = Key::new(kind, fixture["metadata"]["name"].as_str().unwrap());
        let before = seen(&server, text("kind"), &key.name);
        for (field, value) in fixture["spec"].as_object().unwrap() {
            assert_eq!(&before["spec"][field], value, "{key}: the server keeps it");
        }
        let read = store.get(&key).await.unwrap().unwrap();
        let read: Value = serde_json::from_slice(&read.value).unwrap();
        assert_eq!(
            read["metadata"]["creationTimestamp"], "2024-05-01T10:00:00Z",
            "{key}: as Calico's client says"
        );
        assert_eq!(
            read["metadata"]["annotations"],
            json!({"note": "kept"}),
            "{key}"
        );
        let labelled = |value: &mut Value| value["metadata"]["labels"]["ours"] = "1".into();
        rewrite(&store, &key, labelled).await;
        let during = seen(&server, text("kind"), &key.name);
        assert_eq!(during["metadata"]["labels"]["ours"], "1", "{key}");
        let unlabelled = |value: &mut Value| {
            value["metadata"]["labels"]
                .as_object_mut()
                .unwrap()
                .remove("ours");
        };
        rewrite(&store, &key, unlabelled).await;
        assert_eq!(seen(&server, text("kind"), &key.name), before, "{key}");
    }
}

#[test]
async fn what_older_releases_kept_in_the_annotation_is_read_and_the_servers_own_finalizers_stay() {
    let server = setup::with_calicos_kinds();
    let store = setup::store(setup::client(&server).await, setup::folder(&server));
    let fixture = json!({
        "apiVersion": "crd.projectcalico.org/v1", "kind": "BGPPeer",
        "metadata": {
            "name": "older",
            "finalizers": ["example.org/hold"],
            "annotations": {"projectcalico.org/metadata": "{\"labels\":{\"rack\":\"a\"},\"annotations\":{\"by\":\"hand\"},\"creationTimestamp\":null}"},
        },
        "spec": {"peerIP": "10.0.0.1", "asNumber": 64600},
    });
    server.apply(&fixture.to_string()).unwrap();
    let key = Key::new(Kind::BGPPeer, "older");
    let stored = store.get(&key).await.unwrap().unwrap();
    let Object::BGPPeer(peer) = Object::decode(&key, &stored.value).unwrap() else {
        panic!("{key} is another kind");
    };
    assert_eq!(peer.metadata.labels["rack"], "a");
    assert_eq!(peer.metadata.annotations["by"], "hand");
    assert!(peer.metadata.creation_timestamp.is_some());
    rewrite(&store, &key, |value| {
        value["spec"]["asNumber"] = 64601.into()
    })
    .await;
    let after = seen(&server, "BGPPeer", "older");
    assert_eq!(after["metadata"]["finalizers"], json!(["example.org/hold"]));
    assert_eq!(after["metadata"]["labels"]["rack"], "a");
    // Held by its finalizer it is not gone.
    let delete = Op::Delete {
        key: key.clone(),
        expect: Expect::Any,
    };
    store.write(delete).await.unwrap();
    let held = store.get(&key).await.unwrap().unwrap();
    let held: Value = serde_json::from_slice(&held.value).unwrap();
    assert!(held["metadata"]["deletionTimestamp"].is_string(), "{held}");
    let patch = "{\"metadata\":{\"finalizers\":null}}";
    let arguments = [
        "patch",
        "bgppeer",
        "older",
        "--type=merge",
        "--patch",
        patch,
    ];
    server.kubectl(&arguments).unwrap();
    assert_eq!(store.get(&key).await, Ok(None));
}

#[test]
async fn an_invalid_object_is_refused_in_the_servers_words() {
    let server = setup::with_calicos_kinds();
    let store = setup::store(setup::client(&server).await, setup::folder(&server));
    let key = Key::new(Kind::IPPool, "Not_A_Name");
    let put = Op::Put {
        key: key.clone(),
        value: "{\"spec\":{\"cidr\":\"10.0.0.0/16\"}}".into(),
        expect: Expect::Absent,
    };
    let refused = store.write(put).await.unwrap_err().to_string();
    assert!(
        refused.contains("IPPool(Not_A_Name)") && refused.contains("lowercase"),
        "{refused}"
    );
    let listed = store.list(Kind::IPPool, &Scope::All).await.unwrap();
    assert!(listed.items.iter().all(|item| item.key != key));
}
