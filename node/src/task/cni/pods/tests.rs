//! Requests over a store in memory: before the calculation knows every fact, and of many attachments.

mod lend;
mod model;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use api::key::Key;
use api::object::Object;
use datastore::memory::{MemoryStore, Request as Asked};
use datastore::store::{Expect, Op};
use ipam::Ipam;
use tokio_util::sync::CancellationToken;

use super::*;

/// Pods of an agent that has just started, and what sets its view.
fn starting() -> (Pods, watch::Sender<CalcView>, Arc<MemoryStore>) {
    let store = Arc::new(MemoryStore::new());
    let (calc, _facts) = Inbox::new();
    let ipam = Arc::new(Ipam::new(Arc::clone(&store) as Arc<dyn Store>, "n1"));
    let (addresses, serve) = Addresses::new(ipam, calc.clone(), CancellationToken::new());
    tokio::spawn(serve);
    let (view_in, view) = watch::channel(CalcView::default());
    let (waits, _) = mpsc::channel(1);
    let (_, endpoints) = watch::channel(Endpoints::new());
    let pods = Pods {
        node: "n1".to_owned(),
        interface_prefix: "cali".to_owned(),
        settings: felix::calc::Settings::new("n1"),
        last_mtu_bytes: Some(1400),
        store: Arc::clone(&store) as Arc<dyn Store>,
        addresses,
        endpoints,
        calc,
        view,
        waits,
        health: Health::new(std::time::Instant::now(), std::time::SystemTime::now()),
        locks: Locks::default(),
        written: std::sync::Mutex::default(),
        detached: Notify::new(),
        threads: workload::Threads::open().unwrap(),
    };
    (pods, view_in, store)
}

fn request(command: &str) -> Request {
    serde_json::from_value(serde_json::json!({
        "command": command,
        "cni_version": "1.1.0",
        "network": "k8s-pod-network",
        "container_id": "4f1c0de",
        "ifname": "eth0",
    }))
    .unwrap()
}

fn netns() -> Option<OwnedFd> {
    Some(
        std::fs::File::open("/proc/thread-self/ns/net")
            .unwrap()
            .into(),
    )
}

#[tokio::test(start_paused = true)]
async fn before_the_first_answers_the_runtime_is_asked_to_try_again_and_nothing_is_written() {
    let (pods, _view, store) = starting();
    let before = store.objects();
    let add = pods
        .add(&request("ADD"), netns(), &|| true)
        .await
        .map(|_| ());
    let check = pods.check(&request("CHECK"), netns()).await;
    let gc = pods.gc(&request("GC")).await;
    for refused in [add, check, gc] {
        let error = refused.expect_err("nothing is known yet");
        assert_eq!(error.code, Code::TRY_AGAIN_LATER);
        assert!(error.msg.contains("datastore"), "{}", error.msg);
    }
    let status = pods.status().await.expect_err("not yet");
    assert_eq!(status.code, Code::NOT_AVAILABLE);
    assert_eq!(before, store.objects());
}

#[tokio::test]
async fn an_add_that_nobody_waits_for_is_not_begun() {
    let (pods, view, store) = starting();
    view.send_modify(|view| view.in_sync = true);
    let before = store.objects();
    let add = pods.add(&request("ADD"), netns(), &|| false).await;
    let error = add.expect_err("its DEL may have been");
    assert_eq!(error.code, Code::TRY_AGAIN_LATER);
    assert!(error.msg.contains("plugin ended"), "{}", error.msg);
    assert_eq!(before, store.objects());
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_the_first_answers_of_an_agent_that_has_just_started() {
    let (pods, view, _store) = starting();
    let synced = async {
        tokio::time::sleep(SYNC_PATIENCE / 2).await;
        view.send_modify(|view| view.in_sync = true);
    };
    let request = request("CHECK");
    let (check, ()) = tokio::join!(pods.check(&request, netns()), synced);
    let error = check.expect_err("there is no such endpoint");
    assert_eq!(error.code, Code::CHECK_FAILED, "{}", error.msg);
}

#[tokio::test]
async fn the_last_known_mtu_serves_while_the_calculation_has_none() {
    let (pods, view, _store) = starting();
    let identity = pods.identify(&request("ADD")).unwrap();
    let mtu = |request: &Request| pods.pair(request, &identity).mtu_bytes;
    assert_eq!(mtu(&request("ADD")), Some(1400));
    view.send_modify(|view| view.pod_mtu_bytes = Some(1450));
    assert_eq!(mtu(&request("ADD")), Some(1450));
    let mut with_mtu = request("ADD");
    with_mtu.mtu_bytes = 1300;
    assert_eq!(mtu(&with_mtu), Some(1300));
}

/// An endpoint in the store, of another network than `k8s-pod-network` when `network` says so.
async fn stored(store: &MemoryStore, pods: &Pods, network: &str) -> Key {
    let mut of_network = request("ADD");
    of_network.network = network.to_owned();
    let identity = pods.identify(&of_network).unwrap();
    let object = identity.endpoint(
        "n1",
        &["10.0.0.1/32".parse().unwrap()],
        felix::desired::Mac([2; 6]),
    );
    let put = datastore::store::Op::Put {
        key: object.key(),
        value: object.encode().into(),
        expect: datastore::store::Expect::Any,
    };
    store.write(put).await.unwrap();
    identity.key
}

#[tokio::test]
async fn del_works_before_and_deletes_its_own_networks_endpoint_only() {
    let (pods, _view, store) = starting();
    let key = stored(&store, &pods, "second").await;
    pods.del(&request("DEL")).await.unwrap();
    assert!(
        store.get(&key).await.unwrap().is_some(),
        "another network's"
    );
    stored(&store, &pods, "k8s-pod-network").await;
    pods.del(&request("DEL")).await.unwrap();
    assert!(store.get(&key).await.unwrap().is_none());
    pods.del(&request("DEL")).await.unwrap();
}

#[tokio::test]
async fn a_record_that_was_written_since_the_add_began_is_not_overwritten() {
    let (pods, _view, store) = starting();
    let identity_of = |container: &str| {
        let mut request = request("ADD");
        request.container_id = container.to_owned();
        request.pod = Some(cni::protocol::Pod {
            namespace: "default".to_owned(),
            name: "web-0".to_owned(),
            uid: Some("7-a".to_owned()),
        });
        pods.identify(&request).unwrap()
    };
    let write = async |container: &str, address: &str, standing| {
        let addresses = [address.parse().unwrap()];
        let mac = felix::desired::Mac([2; 6]);
        let object = identity_of(container).endpoint("n1", &addresses, mac);
        pods.write_endpoint(object, standing).await
    };
    let key = identity_of("old").key;
    let containers = async || {
        let stored = store.get(&key).await.unwrap().unwrap();
        String::from_utf8_lossy(&stored.value).into_owned()
    };
    // Of two ADDs that found nothing, and of two that found the same record, the later one to write is refused.
    for (first, second) in [("b", "a"), ("d", "c")] {
        let late = pods.standing(&identity_of(second)).await.unwrap();
        let quick = pods.standing(&identity_of(first)).await.unwrap();
        write(first, "10.0.0.2/32", quick).await.unwrap();
        let error = write(second, "10.0.0.1/32", late).await.unwrap_err();
        assert_eq!(error.code, Code::TRY_AGAIN_LATER, "{}", error.msg);
        assert!(error.msg.contains("web--0"), "{}", error.msg);
        let stands = containers().await;
        assert!(
            stands.contains(&format!(r#""containerID":"{first}""#)),
            "{stands}"
        );
        assert!(stands.contains(r#""uid":"7-a""#), "{stands}");
    }
}

#[tokio::test]
async fn a_release_that_comes_late_leaves_an_address_that_was_given_anew() {
    let (pods, _view, store) = starting();
    let pool = serde_json::json!({"metadata": {"name": "pool"}, "spec": {"cidr": "10.0.0.1/32", "blockSize": 32}});
    let put = datastore::store::Op::Put {
        key: Key::new(api::key::Kind::IPPool, "pool"),
        value: pool.to_string().into(),
        expect: datastore::store::Expect::Absent,
    };
    store.write(put).await.unwrap();
    let request = request("ADD");
    let pod = pods.identify(&request).unwrap();
    let given = pods.assign(&request, &pod, &None).await.unwrap();
    let handle = pod.attachment.handle_id();
    let look = async || {
        pods.look([handle.clone()].into())
            .await
            .unwrap()
            .remove(0)
            .1
    };
    let late = look().await;
    assert_eq!(late.len(), 1);

    let other = Ipam::new(Arc::clone(&store) as Arc<dyn Store>, "n1");
    other
        .release_by_handle(
            &handle,
            crate::task::timestamp(std::time::SystemTime::now()),
        )
        .await
        .unwrap();
    let again = ipam::AssignRequest {
        node_labels: std::collections::BTreeMap::new(),
        namespace_labels: None,
        handle_id: handle.clone(),
        attributes: pod.attributes("n1"),
        allowed_use: api::pool::AllowedUse::Workload,
        wanted: ipam::Wanted::one_ipv4(),
        now: crate::task::timestamp(std::time::SystemTime::now()),
    };
    let again = other.assign(again).await.unwrap().outcome;
    assert_eq!(again.addresses, given.addresses, "the pool's only one");
    let error = pods.release(handle.clone(), late).await.unwrap_err();
    assert_eq!(error.code, Code::TRY_AGAIN_LATER);
    assert!(error.msg.contains("sequence number"), "{}", error.msg);
    assert_eq!(look().await[0].address, again.addresses[0].addr());
    pods.release(handle.clone(), look().await).await.unwrap();
    assert_eq!(look().await, []);
}

#[tokio::test]
async fn a_written_endpoint_is_deleted_without_being_read_unless_another_container_has_it_now() {
    let (pods, _view, store) = starting();
    let pod = pods.identify(&request("ADD")).unwrap();
    let endpoint = |pod: &Identity| {
        let addresses = ["10.0.0.1/26".parse().unwrap()];
        pod.endpoint("n1", &addresses, Mac([2; 6]))
    };
    let rewrite = async |object: Object| {
        let put = Op::Put {
            key: object.key(),
            value: object.encode().into(),
            expect: Expect::Any,
        };
        store.write(put).await.unwrap();
    };
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reads);
    store.set_fault_plan(move |asked| {
        if matches!(asked, Asked::Get(_)) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        None
    });
    for is_rewritten in [false, true] {
        pods.write_endpoint(endpoint(&pod), Expect::Absent)
            .await
            .unwrap();
        if is_rewritten {
            // As the task does that writes back what pods hold.
            rewrite(endpoint(&pod)).await;
        }
        let record = pods.written(&pod).unwrap();
        pods.delete_record(&record).await.unwrap();
        assert_eq!(reads.load(Ordering::Relaxed), 0, "{is_rewritten}");
        assert_eq!(store.get(&pod.key).await, Ok(None), "{is_rewritten}");
        assert!(pods.written(&pod).is_none(), "{is_rewritten}");
        reads.store(0, Ordering::Relaxed);
    }
    pods.write_endpoint(endpoint(&pod), Expect::Absent)
        .await
        .unwrap();
    let mut later = request("ADD");
    later.container_id = "5e1f".to_owned();
    let later = pods.identify(&later).unwrap();
    let mut object = endpoint(&later);
    if let Object::WorkloadEndpoint(endpoint) = &mut object {
        endpoint.metadata.name.clone_from(&pod.key.name);
    }
    rewrite(object).await;
    let record = pods.written(&pod).unwrap();
    pods.delete_record(&record).await.unwrap();
    assert!(store.get(&pod.key).await.unwrap().is_some());
    assert!(
        pods.written(&later).is_none(),
        "one container's is not another's"
    );
}

#[tokio::test]
async fn a_pool_for_some_namespaces_serves_their_pods_and_no_others() {
    let (pods, _view, store) = starting();
    let pool = serde_json::json!({"metadata": {"name": "pool"},
        "spec": {"cidr": "10.0.0.0/24", "namespaceSelector": "team == 'red'"}});
    let put = datastore::store::Op::Put {
        key: Key::new(api::key::Kind::IPPool, "pool"),
        value: pool.to_string().into(),
        expect: datastore::store::Expect::Absent,
    };
    store.write(put).await.unwrap();
    let request = request("ADD");
    let pod = pods.identify(&request).unwrap();
    let of_team = |team: &str| Some([("team".to_owned(), team.to_owned())].into());
    for labels in [None, of_team("blue")] {
        let error = pods.assign(&request, &pod, &labels).await.unwrap_err();
        assert!(error.msg.contains("namespaceSelector"), "{}", error.msg);
    }
    let given = pods.assign(&request, &pod, &of_team("red")).await.unwrap();
    assert_eq!(given.pools, ["pool"]);
}

/// A store with a pool, which says how often it was asked to write or to read.
async fn counted(store: &MemoryStore) -> Arc<[AtomicUsize; 2]> {
    let pool = serde_json::json!({"metadata": {"name": "pool"}, "spec": {"cidr": "10.0.0.0/24"}});
    let put = Op::Put {
        key: Key::new(api::key::Kind::IPPool, "pool"),
        value: pool.to_string().into(),
        expect: Expect::Absent,
    };
    store.write(put).await.unwrap();
    let counts = Arc::new([const { AtomicUsize::new(0) }; 2]);
    let counted = Arc::clone(&counts);
    store.set_fault_plan(move |asked| {
        let is_write = matches!(asked, Asked::Write(_) | Asked::Commit(_));
        counted[usize::from(!is_write)].fetch_add(1, Ordering::Relaxed);
        None
    });
    counts
}

#[tokio::test]
async fn a_pods_records_are_written_by_one_transaction_and_deleted_by_one_where_the_store_has_them()
{
    let (mut pods, _view, store) = starting();
    // No device of the machine that runs the test begins like this.
    pods.interface_prefix = "zz-t".to_owned();
    let counts = counted(&store).await;
    let took = || {
        counts
            .each_ref()
            .map(|count| count.swap(0, Ordering::Relaxed))
    };
    for round in 0..3 {
        let mut request = request("ADD");
        request.container_id = format!("c{round}");
        let pod = pods.identify(&request).unwrap();
        let mac = pods.early_mac(&request, &pod);
        assert_eq!(mac, Some(pod.pod_mac()));
        let (given, recording) = pods.assign_for(&request, &pod, &None, mac).await.unwrap();
        assert!(matches!(recording, Some(super::add::Recording::Written)));
        let [writes, reads] = took();
        assert_eq!(writes, 1);
        // What is remembered afterwards serves the later ones.
        assert!(round == 0 || reads == 0, "{reads}");
        let stored = store.get(&pod.key).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&stored.value).into_owned();
        assert!(
            text.contains(&given.addresses[0].addr().to_string()),
            "{text}"
        );
        assert!(text.contains(&pod.pod_mac().to_string()), "{text}");
        // Once more, as a runtime does that had no answer: the endpoint stands, and is looked at.
        assert_eq!(pods.early_mac(&request, &pod), None);
        took();
        pods.del(&request).await.unwrap();
        assert_eq!(took(), [1, 0]);
        assert_eq!(store.get(&pod.key).await.unwrap(), None);
        assert!(pods.early_mac(&request, &pod).is_some());
        took();
    }
    store.set_folds(false);
    let request = request("ADD");
    let pod = pods.identify(&request).unwrap();
    assert_eq!(
        pods.early_mac(&request, &pod),
        None,
        "step by step the order counts"
    );
}

#[tokio::test]
async fn an_endpoint_that_came_meanwhile_is_not_overwritten_and_one_that_cannot_be_read_is() {
    let (pods, _view, store) = starting();
    counted(&store).await;
    let request = request("ADD");
    let pod = pods.identify(&request).unwrap();
    let mac = pods.early_mac(&request, &pod);
    let stands = async |value: &[u8]| {
        let put = Op::Put {
            key: pod.key.clone(),
            value: bytes::Bytes::copy_from_slice(value),
            expect: Expect::Any,
        };
        store.write(put).await.unwrap();
        store.get(&pod.key).await.unwrap().unwrap()
    };
    let addresses = ["10.0.0.9/32".parse().unwrap()];
    let readable = pod.endpoint("n1", &addresses, Mac([2; 6])).encode();
    let before = stands(&readable).await;
    let error = match pods.assign_for(&request, &pod, &None, mac).await {
        Err(error) => error,
        Ok(_) => panic!("it stands"),
    };
    assert_eq!(error.code, Code::TRY_AGAIN_LATER, "{}", error.msg);
    assert_eq!(store.get(&pod.key).await.unwrap(), Some(before));
    let handle = pod.attachment.handle_id();
    let held = pods.look([handle].into()).await.unwrap();
    assert_eq!(held[0].1, [], "the address is free again");
    let unreadable = stands(b"{}").await;
    let (_, recording) = pods.assign_for(&request, &pod, &None, mac).await.unwrap();
    match recording {
        Some(super::add::Recording::Apart(Expect::Version(version))) => {
            assert_eq!(version, unreadable.version);
        }
        _ => panic!("it is to be written over"),
    }
}
