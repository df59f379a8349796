//! What an address costs the API server: counted by itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::endpoint::endpoint_name;
use api::key::{Key, Kind};
use api::pool::AllowedUse;
use datastore::scope::Scope;
use datastore::store::{Change, Expect, Op, Store};
use futures_util::StreamExt;
use futures_util::future::join_all;
use ipam::{AssignRequest, Ipam, Timestamp, Wanted};
use kube_lab::{ApiServer, Options};
use serde_json::json;

use crate::{garbage, setup};

type Counts = BTreeMap<(String, String), u64>;

fn request(handle: &str) -> AssignRequest {
    AssignRequest {
        node_labels: BTreeMap::new(),
        namespace_labels: None,
        handle_id: handle.to_owned(),
        attributes: BTreeMap::new(),
        allowed_use: AllowedUse::Workload,
        wanted: Wanted::Any {
            ipv4: 1,
            ipv6: 0,
            pools: Vec::new(),
        },
        now: Timestamp::from_unix(Duration::from_secs(1_700_000_000)),
    }
}

/// How often each of these was asked for since `before`.
fn since(server: &ApiServer, before: &Counts) -> BTreeMap<String, u64> {
    let ours = |resource: &str| {
        resource.starts_with("ip") || resource.starts_with("block") || resource.starts_with("pods")
    };
    let now = server.requests().unwrap();
    now.into_iter()
        .filter(|((_, resource), _)| ours(resource))
        .map(|(what, count)| {
            let more = count - before.get(&what).copied().unwrap_or_default();
            (format!("{} {}", what.0, what.1), more)
        })
        .filter(|(_, more)| *more > 0)
        .collect()
}

fn counts<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts.map(|(what, count)| (what.to_owned(), count)).into()
}

#[test]
async fn a_pods_address_costs_three_writes_eight_pods_one_of_their_block_and_handles_are_never_listed()
 {
    let _ = kube_lab::required(&[]);
    // Its own: what others ask for would be counted.
    let started = ApiServer::start(Options::default());
    let server = started.unwrap_or_else(|error| panic!("{error}"));
    setup::define_kinds(&server);
    let client = setup::client(&server).await;
    let store = Arc::new(setup::store(client.clone(), setup::folder(&server)));
    let pool = json!({
        "apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": {"name": "p"},
        "spec": {"cidr": "10.65.0.0/16", "blockSize": 26},
    });
    server.apply(&pool.to_string()).unwrap();
    let spec = json!({"nodeName": "n1", "containers": [{"name": "c", "image": "none"}]});
    let scope = Scope::Node("n1".to_owned());
    let mut watch = setup::watch(&store, Kind::WorkloadEndpoint, scope).await;
    let pod = json!({"metadata": {"name": "a"}, "spec": spec});
    let path = "/api/v1/namespaces/default/pods";
    let pod = client.create(path, &pod).await.unwrap();
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    // The agent's watch tells of the Pod before its kubelet calls the plugin.
    watch.next().await.unwrap().unwrap();
    let ipam = Ipam::new(Arc::clone(&store) as Arc<dyn Store>, "n1");
    ipam.assign(request("net.first")).await.unwrap();

    let before = server.requests().unwrap();
    let given = ipam.assign(request("net.a")).await.unwrap().outcome;
    let name = endpoint_name("n1", "k8s", "a", "eth0");
    let key = Key::namespaced(Kind::WorkloadEndpoint, "default", name.clone());
    let endpoint = json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"node": "n1", "containerID": "a", "ipNetworks": [given.addresses[0].addr()]},
    });
    // It writes on the condition that the Pod is as it was seen.
    let expect = store.condition(&key, uid).await.unwrap();
    assert_eq!(expect, Expect::Absent);
    let put = Op::Put {
        key: key.clone(),
        value: endpoint.to_string().into(),
        expect,
    };
    let written = store.write(put).await.unwrap();
    let Some(Change::Put(written)) = written else {
        panic!("{written:?}");
    };
    // Pool and rules are looked at again only where a block is claimed.
    let cost = counts([
        ("POST ipamhandles", 1),
        ("PUT ipamblocks", 1),
        ("PATCH pods/status", 1),
    ]);
    assert_eq!(since(&server, &before), cost, "ADD");
    let before = server.requests().unwrap();
    let expect = Expect::Version(written.version.clone());
    assert_eq!(store.condition(&key, uid).await, Ok(expect.clone()));
    assert_eq!(
        since(&server, &before),
        counts([]),
        "what was written is known"
    );
    assert_eq!(store.condition(&key, "of-another-pod").await, Ok(expect));
    let cost = counts([("GET pods", 1)]);
    assert_eq!(since(&server, &before), cost, "another Pod is asked for");
    // The server does not keep who wrote which address of a block, which would cost it more than the write.
    let kept = server.kubectl(&[
        "get",
        "ipamblocks.crd.projectcalico.org,blockaffinities.crd.projectcalico.org",
        "--show-managed-fields",
        "--output=jsonpath={.items[*].metadata.managedFields}",
    ]);
    assert_eq!(kept.unwrap().trim(), "");
    // As Calico lists those of a node.
    let listed = server.kubectl(&[
        "get",
        "blockaffinities.crd.projectcalico.org",
        "--selector=projectcalico.org/hostname-hash=DM7EHBDU4L3ELKRER4A46T6QMKAGARQI4CVWBO26S4I2IDAAW6CA,\
         projectcalico.org/affinity-type=host,projectcalico.org/ip-version=4",
        "--output=jsonpath={.items[*].spec.node}",
    ]);
    assert_eq!(listed.unwrap(), "n1");

    // Its kubelet says that the pod runs.
    let running = ["patch", "pod", "a", "--subresource=status", "--type=merge"];
    let status = r#"--patch={"status":{"phase":"Running"}}"#;
    server.kubectl(&[&running[..], &[status]].concat()).unwrap();
    let before = server.requests().unwrap();
    let delete = Op::Delete {
        key,
        expect: Expect::Version(written.version),
    };
    store.write(delete).await.unwrap();
    ipam.release_by_handle("net.a", ipam::Timestamp::default())
        .await
        .unwrap();
    let cost = counts([
        ("PATCH pods/status", 1),
        ("PUT ipamblocks", 1),
        ("DELETE ipamhandles", 1),
    ]);
    assert_eq!(since(&server, &before), cost, "DEL");

    let before = server.requests().unwrap();
    let requests: Vec<_> = (0..8).map(|pod| request(&format!("net.{pod}"))).collect();
    let given = ipam.assign_many(&requests).await.outcome;
    assert!(given.iter().all(Result::is_ok), "{given:?}");
    let cost = counts([("POST ipamhandles", 8), ("PUT ipamblocks", 1)]);
    assert_eq!(since(&server, &before), cost, "eight at a time");
    let all = join_all((0..8).map(|pod| {
        let ipam = &ipam;
        async move {
            ipam.release_by_handle(&format!("net.{pod}"), ipam::Timestamp::default())
                .await
        }
    }));
    assert!(all.await.iter().all(Result::is_ok));
    let asked = server.requests().unwrap();
    assert!(
        !asked.contains_key(&("LIST".to_owned(), "ipamhandles".to_owned())),
        "{asked:?}"
    );
    // On the same server, which nobody else uses.
    garbage::goes_after_the_grace(&server, &(store as Arc<dyn Store>)).await;
}

/// For the latest list the API server waits until it knows how far etcd has come: up to 100 ms.
#[test]
async fn a_list_that_need_not_be_the_latest_holds_all_that_was_seen() {
    let server = setup::with_calicos_kinds();
    let store = setup::store(setup::client(&server).await, setup::folder(&server));
    for number in 0..20 {
        let key = Key::new(Kind::IPPool, format!("since-{number}"));
        let put = Op::Put {
            key: key.clone(),
            value: json!({"spec": {"cidr": format!("10.66.{number}.0/24"), "blockSize": 26}})
                .to_string()
                .into(),
            expect: Expect::Absent,
        };
        let Some(Change::Put(made)) = store.write(put).await.unwrap() else {
            panic!("{key} was made");
        };
        let seen = [made.version.clone()];
        let names = store.names_since(key.kind, &seen).await.unwrap();
        assert!(names.contains(&key), "{names:?}");
        let listed = store.list_since(key.kind, &seen).await.unwrap();
        assert!(listed.items.contains(&made), "{listed:?}");
    }
    // The server does not come so far: it is asked for the latest instead.
    let never = [datastore::version::Version::of(u64::MAX / 4, "u")];
    let names = store.names_since(Kind::IPPool, &never).await.unwrap();
    assert_eq!(names, store.names(Kind::IPPool).await.unwrap());
}

#[test]
async fn namespaces_are_followed_by_one_watch_and_not_read_for_each_pod() {
    let _ = kube_lab::required(&[]);
    // Its own: what others ask for would be counted.
    let started = ApiServer::start(Options::default());
    let server = started.unwrap_or_else(|error| panic!("{error}"));
    let client = setup::client(&server).await;
    let store = setup::store(client.clone(), setup::folder(&server));
    let scope = Scope::Node("n1".to_owned());
    let mut watch = setup::watch(&store, Kind::WorkloadEndpoint, scope).await;
    let spec = json!({"nodeName": "n1", "containers": [{"name": "c", "image": "none"}]});
    let pod = json!({"metadata": {"name": "a"}, "spec": spec});
    let path = "/api/v1/namespaces/default/pods";
    let pod = client.create(path, &pod).await.unwrap();
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    watch.next().await.unwrap().unwrap();
    let key = Key::namespaced(
        Kind::WorkloadEndpoint,
        "default",
        endpoint_name("n1", "k8s", "a", "eth0"),
    );
    let read = || {
        let counts = server.requests().unwrap();
        let read = ("GET".to_owned(), "namespaces".to_owned());
        counts.get(&read).copied().unwrap_or_default()
    };
    // Read until the watch stands.
    loop {
        let before = read();
        let words = store.pod_words(&key, uid).await.unwrap().unwrap();
        assert_eq!(words.namespace_annotations, BTreeMap::new());
        if read() == before {
            break;
        }
    }
    let annotation = "cni.projectcalico.org/ipv4pools=[\"p\"]";
    server
        .kubectl(&["annotate", "namespace", "default", annotation])
        .unwrap();
    let before = read();
    loop {
        let words = store.pod_words(&key, uid).await.unwrap().unwrap();
        let asked = words
            .namespace_annotations
            .get("cni.projectcalico.org/ipv4pools");
        if asked.map(String::as_str) == Some("[\"p\"]") {
            assert!(!words.namespace_labels.is_empty(), "Kubernetes' own");
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(read(), before);
}
