//! Nodes and Pods: objects of others, of which some annotations are ours.

use api::endpoint::endpoint_name;
use api::key::{Key, Kind};
use datastore::scope::Scope;
use datastore::store::{Change, Expect, Op, Store, StoreError, WatchEvent};
use datastore_kube::KubeStore;
use futures_util::StreamExt;
use kube_lab::ApiServer;
use serde_json::{Value, json};

use crate::setup;

fn get(server: &ApiServer, arguments: &[&str]) -> Value {
    let text = server.kubectl(&[&["get", "--output=json"], arguments].concat());
    serde_json::from_str(&text.unwrap()).unwrap()
}

fn value(stored: &datastore::store::KeyValue) -> Value {
    serde_json::from_slice(&stored.value).unwrap()
}

fn put(key: &Key, value: &Value, expect: Expect) -> Op {
    Op::Put {
        key: key.clone(),
        value: value.to_string().into(),
        expect,
    }
}

#[test]
async fn a_node_is_annotations_of_kubernetes_node_and_nothing_else_of_it_changes() {
    let server = setup::with_calicos_kinds();
    let store = setup::store(setup::client(&server).await, setup::folder(&server));
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": "n-1",
            "labels": {"rack": "a", "kubernetes.io/os": "linux"},
            "annotations": {
                "example.org/other": "kept",
                "projectcalico.org/IPv4Address": "10.0.0.1/24",
                "projectcalico.org/IPv4VXLANTunnelAddr": "10.65.0.0",
                "projectcalico.org/IPv6Address": "no address",
                "projectcalico.org/ASNumber": "1.10",
                "projectcalico.org/Interfaces": "[{\"name\":\"eth0\",\"addresses\":[\"10.0.0.1\"]}]",
                "projectcalico.org/WireguardPublicKey": "cHVibGlj",
                "projectcalico.org/labels": "{\"rack\":\"shadowed\",\"own\":\"1\"}",
            },
        },
        "spec": {"podCIDRs": ["10.244.1.0/24"]},
    });
    server.apply(&node.to_string()).unwrap();
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "n-1"}],
        "conditions": [{"type": "Ready", "status": "True", "reason": "r", "message": "m"}],
    }});
    let patch = status.to_string();
    let arguments = [
        "patch",
        "node",
        "n-1",
        "--subresource=status",
        "--type=merge",
        "--patch",
        &patch,
    ];
    server.kubectl(&arguments).unwrap();
    let before = get(&server, &["node", "n-1"]);

    let key = Key::new(Kind::Node, "n-1");
    let stored = store.get(&key).await.unwrap().unwrap();
    let mut read = value(&stored);
    assert_eq!(
        read["spec"]["bgp"],
        json!({"ipv4Address": "10.0.0.1/24", "asNumber": 65546})
    );
    assert_eq!(read["spec"]["ipv4VXLANTunnelAddr"], "10.65.0.0");
    assert_eq!(
        read["spec"]["interfaces"],
        json!([{"name": "eth0", "addresses": ["10.0.0.1"]}])
    );
    assert_eq!(read["status"]["wireguardPublicKey"], "cHVibGlj");
    assert_eq!(read["status"]["podCIDRs"], json!(["10.244.1.0/24"]));
    assert_eq!(
        read["metadata"]["labels"]["rack"], "a",
        "Kubernetes' label counts"
    );
    assert_eq!(read["metadata"]["labels"]["own"], "1");
    let internal = json!({"address": "10.0.0.1", "type": "InternalIP"});
    assert!(
        read["spec"]["addresses"]
            .as_array()
            .unwrap()
            .contains(&internal)
    );

    // A write of what stands there writes nothing.
    let same = store
        .write(put(&key, &read, Expect::Version(stored.version.clone())))
        .await;
    assert_eq!(same, Ok(Some(Change::Put(stored.clone()))));
    assert_eq!(get(&server, &["node", "n-1"]), before);

    let spec = read["spec"].as_object_mut().unwrap();
    spec["bgp"] =
        json!({"ipv4Address": "10.0.0.9/24", "asNumber": 65546, "ipv4IPIPTunnelAddr": "10.65.0.1"});
    spec.remove("ipv4VXLANTunnelAddr");
    read["metadata"]["annotations"] = json!({"tortie.org/agent": "1"});
    read["metadata"]["labels"]["new"] = "2".into();
    let stale = Expect::Version(stored.version.clone());
    let op = put(&key, &read, stale.clone());
    store.write(op.clone()).await.unwrap();
    let mut expected = before.clone();
    let annotations = expected["metadata"]["annotations"].as_object_mut().unwrap();
    annotations.remove("projectcalico.org/IPv4VXLANTunnelAddr");
    for (name, text) in [
        ("IPv4Address", "10.0.0.9/24"),
        ("IPv4IPIPTunnelAddr", "10.65.0.1"),
        ("annotations", "{\"tortie.org/agent\":\"1\"}"),
        ("labels", "{\"new\":\"2\",\"own\":\"1\"}"),
    ] {
        annotations.insert(format!("projectcalico.org/{name}"), text.into());
    }
    let after = get(&server, &["node", "n-1"]);
    expected["metadata"]["resourceVersion"] = after["metadata"]["resourceVersion"].clone();
    assert_eq!(after, expected);

    assert!(matches!(
        store.write(op).await,
        Err(StoreError::Conflict {
            current: Some(_),
            ..
        })
    ));
    let delete = Op::Delete {
        key,
        expect: Expect::Any,
    };
    let refused = store.write(delete).await.unwrap_err().to_string();
    assert!(
        refused.contains("Node(n-1)") && refused.contains("kubectl"),
        "{refused}"
    );
    let other = Key::new(Kind::Node, "n-2");
    let refused = store.write(put(&other, &read, Expect::Absent)).await;
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("Node(n-2)") && refused.contains("kubelet"),
        "{refused}"
    );
}

fn pod(server: &ApiServer, namespace: &str, name: &str, node: &str) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": "web"}, "annotations": {"other": "kept"}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "none"}]},
    });
    server.apply(&pod.to_string()).unwrap();
}

fn endpoint_of(namespace: &str, name: &str, node: &str, interface: &str) -> Key {
    let name = endpoint_name(node, "k8s", name, interface);
    Key::namespaced(Kind::WorkloadEndpoint, namespace, name)
}

fn endpoint(key: &Key, container: &str, address: &str) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint",
        "metadata": {"name": key.name, "namespace": key.namespace},
        "spec": {
            "orchestrator": "k8s", "node": "pods-1", "containerID": container, "endpoint": "eth0",
            "ipNetworks": [address], "interfaceName": "cali123", "mac": "ee:ee:ee:ee:ee:ee", "network": "k8s-pod-network",
        },
    })
}

async fn names(store: &KubeStore) -> Vec<String> {
    let scope = Scope::Node("pods-1".to_owned());
    let listed = store.list(Kind::WorkloadEndpoint, &scope).await.unwrap();
    listed.items.into_iter().map(|item| item.key.name).collect()
}

#[test]
async fn an_endpoint_is_annotations_of_its_pod_and_a_file_of_its_node() {
    let server = setup::with_calicos_kinds();
    let folder = setup::folder(&server);
    let client = setup::client(&server).await;
    let store = setup::store(client.clone(), folder.clone());
    pod(&server, "default", "web-0", "pods-1");
    pod(&server, "default", "elsewhere", "pods-2");
    let key = endpoint_of("default", "web-0", "pods-1", "eth0");
    assert_eq!(store.get(&key).await, Ok(None), "it has no address yet");
    let scope = Scope::Node("pods-1".to_owned());
    let mut told = setup::watch(&store, Kind::WorkloadEndpoint, scope.clone()).await;

    let written = endpoint(&key, "c1", "10.65.0.7/32");
    let change = store
        .write(put(&key, &written, Expect::Any))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(told.next().await.unwrap().unwrap().change(), Some(change));
    let annotations = get(&server, &["pod", "web-0"])["metadata"]["annotations"].clone();
    let expected = json!({
        "other": "kept", "cni.projectcalico.org/podIP": "10.65.0.7/32",
        "cni.projectcalico.org/podIPs": "10.65.0.7/32", "cni.projectcalico.org/containerID": "c1",
    });
    assert_eq!(annotations, expected);
    let stored = store.get(&key).await.unwrap().unwrap();
    assert_eq!(value(&stored), written, "nothing is lost");
    assert_eq!(names(&store).await, std::slice::from_ref(&key.name));

    // Another agent of the node finds the file; one whose files are gone finds what Calico's names say.
    let next = setup::store(client.clone(), folder);
    assert_eq!(next.get(&key).await.unwrap().unwrap(), stored);
    let bare = setup::store(client.clone(), setup::folder(&server));
    let derived = value(&bare.get(&key).await.unwrap().unwrap());
    assert_eq!(derived["spec"]["ipNetworks"], json!(["10.65.0.7/32"]));
    assert_eq!(derived["spec"]["containerID"], "c1");
    assert_eq!(derived["spec"]["profiles"], json!(["kns.default"]));
    let device = derived["spec"]["interfaceName"].as_str().unwrap();
    assert!(device.starts_with("cali") && device.len() == 15, "{device}");

    // Kubelet's writes are none of the endpoint's.
    server
        .kubectl(&["label", "pod", "web-0", "touched=1"])
        .unwrap();
    let expect = Expect::Version(stored.version.clone());
    let delete = |key: &Key, expect: Expect| Op::Delete {
        key: key.clone(),
        expect,
    };
    let deleted = store.write(delete(&key, expect.clone())).await.unwrap();
    assert!(
        matches!(deleted, Some(Change::Delete { .. })),
        "{deleted:?}"
    );
    let pod = get(&server, &["pod", "web-0"]);
    assert_eq!(
        pod["metadata"]["annotations"]["cni.projectcalico.org/podIP"],
        ""
    );
    assert_eq!(
        pod["metadata"]["annotations"]["cni.projectcalico.org/containerID"],
        "c1"
    );
    assert_eq!(store.get(&key).await, Ok(None));
    assert_eq!(names(&store).await, [""; 0]);

    // A newer container's endpoint is not an older one's to delete.
    let newer = endpoint(&key, "c2", "10.65.0.8/32");
    store
        .write(put(&key, &newer, Expect::Absent))
        .await
        .unwrap();
    let late = store.write(delete(&key, expect)).await;
    assert!(
        matches!(
            late,
            Err(StoreError::Conflict {
                current: Some(_),
                ..
            })
        ),
        "{late:?}"
    );
    // With the Pod the endpoint goes.
    server
        .kubectl(&["delete", "pod", "web-0", "--grace-period=0", "--force"])
        .unwrap();
    loop {
        match told.next().await.unwrap().unwrap() {
            WatchEvent::Change(Change::Put(object), _) if value(&object) == newer => break,
            _ => {}
        }
    }
    loop {
        if let WatchEvent::Change(Change::Delete { key: gone, .. }, _) =
            told.next().await.unwrap().unwrap()
        {
            assert_eq!(gone, key);
            break;
        }
    }
    assert_eq!(store.get(&key).await, Ok(None));
    let absent = store
        .write(put(&key, &newer, Expect::Any))
        .await
        .unwrap_err()
        .to_string();
    assert!(absent.contains("default/web-0"), "{absent}");
}

fn annotation(server: &ApiServer, pod: &str, name: &str) -> Value {
    get(server, &["pod", pod])["metadata"]["annotations"][name].clone()
}

#[test]
async fn a_pod_that_was_made_anew_does_not_get_the_former_ones_endpoint() {
    let server = setup::with_calicos_kinds();
    let store = setup::store(setup::client(&server).await, setup::folder(&server));
    let key = endpoint_of("default", "anew", "pods-3", "eth0");
    let make = || pod(&server, "default", "anew", "pods-3");
    let uid = || get(&server, &["pod", "anew"])["metadata"]["uid"].clone();
    make();
    let former = uid();
    let mut of_former = endpoint(&key, "c1", "10.65.0.21/32");
    of_former["metadata"]["uid"] = former.clone();
    assert_eq!(store.get(&key).await, Ok(None));
    server
        .kubectl(&["delete", "pod", "anew", "--grace-period=0", "--force"])
        .unwrap();
    make();
    assert_ne!(uid(), former);
    // The look of before is no longer true, and there is nothing of it in the new Pod: its UID tells.
    for _ in 0..2 {
        let late = store.write(put(&key, &of_former, Expect::Absent)).await;
        let late = late.unwrap_err().to_string();
        assert!(late.contains(former.as_str().unwrap()), "{late}");
    }
    let container = "cni.projectcalico.org/containerID";
    assert_eq!(annotation(&server, "anew", container), Value::Null);
    assert_eq!(store.get(&key).await, Ok(None));
}

#[test]
async fn an_endpoint_that_was_written_since_it_was_looked_at_stays_with_its_file() {
    let server = setup::with_calicos_kinds();
    let store = setup::store(setup::client(&server).await, setup::folder(&server));
    pod(&server, "default", "busy", "pods-3");
    let key = endpoint_of("default", "busy", "pods-3", "eth0");
    assert_eq!(store.get(&key).await, Ok(None));
    // Kubelet's writes cost a second look, no more.
    let label = ["label", "pod", "busy", "touched=1"];
    server.kubectl(&label).unwrap();
    let newer = endpoint(&key, "c2", "10.65.0.32/32");
    store
        .write(put(&key, &newer, Expect::Absent))
        .await
        .unwrap();
    let stale = endpoint(&key, "c1", "10.65.0.31/32");
    let late = store.write(put(&key, &stale, Expect::Absent)).await;
    assert!(matches!(late, Err(StoreError::Conflict { .. })), "{late:?}");
    let stands = store.get(&key).await.unwrap().unwrap();
    assert_eq!(value(&stands), newer, "its file, too");

    // An older agent's look: another container has the Pod by the time of the write.
    let expect = Expect::Version(stands.version.clone());
    let other = setup::store(setup::client(&server).await, setup::folder(&server));
    let newest = endpoint(&key, "c3", "10.65.0.33/32");
    other
        .write(put(&key, &newest, expect.clone()))
        .await
        .unwrap();
    let late = store.write(put(&key, &stale, expect)).await;
    assert!(matches!(late, Err(StoreError::Conflict { .. })), "{late:?}");
    let container = "cni.projectcalico.org/containerID";
    assert_eq!(annotation(&server, "busy", container), "c3");
}

#[test]
async fn a_further_interface_is_a_file_of_its_node_alone() {
    let server = setup::with_calicos_kinds();
    let folder = setup::folder(&server);
    let client = setup::client(&server).await;
    let store = setup::store(client.clone(), folder.clone());
    let key = endpoint_of("default", "files-0", "files-1", "net1");
    let scope = Scope::Node("files-1".to_owned());
    let mut told = setup::watch(&store, Kind::WorkloadEndpoint, scope.clone()).await;
    let written = endpoint(&key, "c1", "10.65.0.7/32");
    let change = store
        .write(put(&key, &written, Expect::Absent))
        .await
        .unwrap();
    assert_eq!(told.next().await.unwrap().unwrap().change(), change);
    let again = store.write(put(&key, &written, Expect::Absent)).await;
    assert!(matches!(
        again,
        Err(StoreError::Conflict {
            current: Some(_),
            ..
        })
    ));

    let next = setup::store(client.clone(), folder);
    let stored = next.get(&key).await.unwrap().unwrap();
    assert_eq!(value(&stored), written);
    assert_ne!(
        Some(&stored.version),
        change.as_ref().map(Change::version),
        "versions are not used again"
    );
    let listed = next.list(Kind::WorkloadEndpoint, &scope).await.unwrap();
    assert_eq!(listed.items, std::slice::from_ref(&stored));
    // A watch that goes on may say again what is there, but leaves nothing out.
    let mut told = next.watch(Kind::WorkloadEndpoint, scope, listed.cursor);
    assert_eq!(
        told.next().await.unwrap().unwrap().change(),
        Some(Change::Put(stored.clone()))
    );
    let delete = Op::Delete {
        key: key.clone(),
        expect: Expect::Version(stored.version),
    };
    let deleted = next.write(delete).await.unwrap();
    assert_eq!(told.next().await.unwrap().unwrap().change(), deleted);
    assert_eq!(next.get(&key).await, Ok(None));

    let without_files = KubeStore::new(client, datastore_kube::Options::default());
    let refused = without_files.write(put(&key, &written, Expect::Any)).await;
    assert!(
        matches!(refused, Err(StoreError::Refused(_))),
        "{refused:?}"
    );
}
