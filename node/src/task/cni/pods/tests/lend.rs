//! Addresses for pods that other plugins connect.

use super::*;

/// A pool of two blocks of four addresses.
async fn with_pool(store: &MemoryStore) {
    let pool = serde_json::json!({
        "metadata": {"name": "pool"}, "spec": {"cidr": "10.0.0.0/29", "blockSize": 30},
    });
    let put = Op::Put {
        key: Key::new(api::key::Kind::IPPool, "pool"),
        value: pool.to_string().into(),
        expect: Expect::Absent,
    };
    store.write(put).await.unwrap();
}

#[tokio::test]
async fn an_address_for_another_plugin_is_given_compared_taken_back_and_collected_by_gc() {
    let (pods, view, store) = starting();
    with_pool(&store).await;
    let mut ptp = request("ASSIGN");
    ptp.plugin = "ptp".to_owned();
    let waits = || true;
    let error = pods.assign_alone(&ptp, &waits).await.unwrap_err();
    assert_eq!(error.code, Code::TRY_AGAIN_LATER, "nothing is known yet");
    view.send_modify(|view| view.in_sync = true);
    let error = pods.assign_alone(&ptp, &|| false).await.unwrap_err();
    assert!(
        error.msg.contains("before its ADD was begun"),
        "{}",
        error.msg
    );

    let given = pods.assign_alone(&ptp, &waits).await.unwrap();
    let addresses: Vec<String> = given.ips.iter().map(|ip| ip.address.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.0/29"], "ptp leads it to the gateway");
    assert_eq!(pods.assign_alone(&ptp, &waits).await.unwrap(), given);
    let mut macvlan = ptp.clone();
    macvlan.plugin = "macvlan".to_owned();
    let again = pods.assign_alone(&macvlan, &waits).await.unwrap();
    assert_eq!(again.ips[0].address.to_string(), "10.0.0.0/30", "its block");
    let mut named = ptp.clone();
    named.container_id = "named".to_owned();
    named.ip = Some("10.0.0.2".parse().unwrap());
    let by_name = pods.assign_alone(&named, &waits).await.unwrap();
    assert_eq!(by_name.ips[0].address.to_string(), "10.0.0.2/32");

    let records = store.list(Kind::WorkloadEndpoint, &datastore::scope::Scope::All);
    assert_eq!(records.await.unwrap().items, [], "no endpoint of ours");
    let block = store.get(&Key::new(Kind::IPAMBlock, "10-0-0-0-30")).await;
    let block = String::from_utf8_lossy(&block.unwrap().unwrap().value).into_owned();
    assert!(block.contains(r#""plugin":"ptp""#), "{block}");
    assert!(!block.contains(r#""pod""#), "{block}");

    let mut check = ptp.clone();
    check.prev_result = Some(given);
    pods.verify_alone(&check).await.unwrap();
    check.prev_result = Some(by_name);
    let error = pods.verify_alone(&check).await.unwrap_err();
    assert_eq!(error.code, Code::CHECK_FAILED);
    assert!(error.msg.contains("10.0.0.0"), "{}", error.msg);

    // Another interface of the container has an address of its own, and keeps it.
    let mut further = ptp.clone();
    further.ifname = "net1".to_owned();
    pods.assign_alone(&further, &waits).await.unwrap();
    pods.release_alone(&ptp).await.unwrap();
    pods.release_alone(&ptp).await.unwrap();
    let error = pods.verify_alone(&check).await.unwrap_err();
    assert!(error.msg.contains("no address"), "{}", error.msg);
    check.ifname = "net1".to_owned();
    let error = pods.verify_alone(&check).await.unwrap_err();
    assert!(
        error.msg.contains("which prevResult lacks"),
        "{}",
        error.msg
    );

    let mut gc = request("GC");
    gc.valid_attachments = vec![cni::protocol::Attachment {
        container_id: "named".to_owned(),
        ifname: "eth0".to_owned(),
    }];
    pods.gc(&gc).await.unwrap();
    let held = async |of: &Request| {
        let handle = of.attachment().handle_id();
        pods.look([handle].into()).await.unwrap().remove(0).1.len()
    };
    assert_eq!((held(&further).await, held(&named).await), (0, 1));

    view.send_modify(|view| view.datastore_locked = true);
    for locked in [
        pods.release_alone(&named).await,
        pods.assign_alone(&named, &waits).await.map(|_| ()),
    ] {
        assert_eq!(locked.unwrap_err().code, Code::TRY_AGAIN_LATER);
    }
}
