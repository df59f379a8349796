//! The watch of a datastore that is not what it was.

use std::time::{Instant, SystemTime};

use api::ipam::block_name;
use datastore::memory::{Fault, MemoryStore, Request};
use datastore::store::{Expect, Op};
use ipam::{AssignError, AssignRequest, Timestamp, Wanted};

use super::*;
use crate::mailbox;
use crate::task::calc::{Input, InputKey};

#[test]
fn what_no_watch_will_confirm_is_not_echoed() {
    let (calc, mut facts) = Inbox::new();
    let written: Vec<Change> = [Kind::IPAMHandle, Kind::IPAMConfig, Kind::IPAMBlock]
        .into_iter()
        .flat_map(|kind| {
            let key = Key::new(kind, "one");
            let put = KeyValue {
                key: key.clone(),
                value: "{}".into(),
                version: 1.into(),
            };
            let version = 2.into();
            [Change::Put(put), Change::Delete { key, version }]
        })
        .collect();
    echo(&calc, &written);
    let told: Vec<InputKey> = facts.take_now(9).into_iter().map(|(key, _)| key).collect();
    let block = Key::new(Kind::IPAMBlock, "one");
    assert_eq!(told, [InputKey::Echo(block)]);
}

/// An agent's watch over a store, with what it needs.
struct World {
    store: MemoryStore,
    /// The agent's connection.
    client: MemoryStore,
    health: Health,
    facts: mailbox::Receiver<InputKey, Input>,
    ipam: Arc<Ipam>,
    cancel: CancellationToken,
}

fn object(kind: Kind, name: &str, spec: serde_json::Value) -> Op {
    let json = serde_json::json!({"metadata": {"name": name}, "spec": spec});
    Op::Put {
        key: Key::new(kind, name),
        value: json.to_string().into(),
        expect: Expect::Any,
    }
}

fn endpoint(node: &str, pod: &str, address: &str) -> Op {
    let name = api::endpoint::endpoint_name(node, "k8s", pod, "eth0");
    let json = serde_json::json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"node": node, "orchestrator": "k8s", "pod": pod, "endpoint": "eth0",
                 "ipNetworks": [address], "interfaceName": format!("cali{pod}")},
    });
    Op::Put {
        key: Key::namespaced(Kind::WorkloadEndpoint, "default", name),
        value: json.to_string().into(),
        expect: Expect::Any,
    }
}

fn request(handle: &str) -> AssignRequest {
    AssignRequest {
        node_labels: std::collections::BTreeMap::new(),
        namespace_labels: None,
        handle_id: handle.to_owned(),
        attributes: std::collections::BTreeMap::new(),
        allowed_use: api::pool::AllowedUse::Workload,
        wanted: Wanted::one_ipv4(),
        now: Timestamp::from_unix(Duration::from_secs(1000)),
    }
}

impl World {
    /// A store with a pool of four blocks of four addresses.
    async fn new() -> Self {
        Self::over(MemoryStore::new()).await
    }

    /// As [`World::new`], with what already stands in the store.
    async fn over(store: MemoryStore) -> Self {
        let pool = serde_json::json!({"cidr": "10.0.0.0/28", "blockSize": 30});
        store
            .write(object(Kind::IPPool, "pool", pool))
            .await
            .unwrap();
        let (calc, facts) = Inbox::new();
        let health = Health::new(Instant::now(), SystemTime::now());
        let ipam = Arc::new(Ipam::new(Arc::new(store.client()), "n1"));
        let cancel = CancellationToken::new();
        let kinds = [
            Kind::IPPool,
            Kind::Node,
            Kind::BGPConfiguration,
            Kind::WorkloadEndpoint,
            Kind::IPAMBlock,
            Kind::BlockAffinity,
        ];
        let client = store.client();
        let task = WatchTask {
            store: Arc::new(client.clone()),
            kinds: kinds.map(|kind| (kind, Scope::All)).to_vec(),
            on_demand: OnDemand {
                kinds: Graph::ON_DEMAND.map(|kind| (kind, Scope::All)).to_vec(),
                from_the_start: false,
            },
            calc,
            ipam: Some(Arc::clone(&ipam)),
            socket: String::new(),
            node: "n1".to_owned(),
            health: health.clone(),
            notes: None,
            cancel: cancel.clone(),
        };
        tokio::spawn(task.run());
        Self {
            store,
            client,
            health,
            facts,
            ipam,
            cancel,
        }
    }

    /// A pod gets an address, as an ADD gives it.
    async fn add(&self, node: &str, pod: &str) -> String {
        let ipam = Ipam::new(Arc::new(self.store.clone()), node);
        let given = ipam.assign(request(pod)).await.unwrap();
        let address = given.outcome.addresses[0].to_string();
        self.store
            .write(endpoint(node, pod, &address))
            .await
            .unwrap();
        address
    }

    /// Reads what the watch says until `done`; every object that counts as absent meanwhile.
    async fn until(&mut self, mut done: impl FnMut(&Health, &InputKey) -> bool) -> Vec<String> {
        let mut absent = Vec::new();
        loop {
            for (key, input) in self.facts.take(99).await.unwrap() {
                if let Input::Object(seen) = &input
                    && matches!(seen.state, State::Absent)
                    && let InputKey::Object(key) = &key
                {
                    absent.push(key.to_string());
                }
                if done(&self.health, &key) {
                    return absent;
                }
            }
        }
    }

    /// The store is an older copy from here on.
    fn restore(&self, copy: &datastore::memory::Copied) {
        self.store.restore(copy);
        self.client.break_watches();
    }

    /// Waits, in the test's own time.
    async fn wait_for(&self, mut done: impl FnMut(&Self) -> bool) {
        for _ in 0..10_000 {
            if done(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("it does not come");
    }

    fn handles(&self) -> Vec<String> {
        let all = self.store.objects().into_iter().map(|item| item.key);
        all.filter(|key| key.kind == Kind::IPAMHandle)
            .map(|key| key.name)
            .collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn of_an_older_copy_nothing_is_taken_and_what_pods_hold_is_written_back() {
    let mut world = World::new().await;
    world.add("n1", "early").await;
    let copy = world.store.copy();
    let late = world.add("n1", "late").await;
    let others = world.add("n2", "other").await;
    let is_late = |key: &InputKey| format!("{key:?}").contains("late");
    let mut seen_all = [false, false];
    world
        .until(|_, key| {
            seen_all[0] |= is_late(key);
            seen_all[1] |= format!("{key:?}").contains("n2-k8s-other");
            seen_all == [true, true]
        })
        .await;
    world.restore(&copy);
    world
        .wait_for(|world| world.health.datastore_unknown().is_some())
        .await;
    assert!(world.health.ready(Instant::now()).is_err());
    // The same store's copy: what lives here is in it again, at once.
    world
        .wait_for(|world| world.handles().contains(&"late".to_owned()))
        .await;
    let faults = || ipam::check::faults(&world.store.objects());
    let is_back = |key: &Key| key.kind == Kind::WorkloadEndpoint && key.name.contains("late");
    world
        .wait_for(|world| world.store.objects().iter().any(|item| is_back(&item.key)))
        .await;
    assert!(faults().is_empty(), "{:?}", faults());
    // Nobody else's pod is taken from it, nor its own.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let told = world.facts.take_now(999);
    assert!(
        !told.iter().any(
            |(_, input)| matches!(input, Input::Object(seen) if matches!(seen.state, State::Absent))
        ),
        "{told:?}"
    );
    world.health.accept_datastore();
    let mut listed = [Kind::WorkloadEndpoint, Kind::IPAMBlock].to_vec();
    let absent = world
        .until(|_, key| {
            listed.retain(|kind| *key != InputKey::InSync(*kind));
            listed.is_empty()
        })
        .await;
    assert_eq!(world.health.datastore_unknown(), None);
    // Packets go on to the other node, which may not have written back yet, and the status says why.
    assert_eq!(world.health.objects_kept(), 2, "its block and affinity");
    assert!(
        !absent.iter().any(|key| key.contains("IPAMBlock")),
        "{absent:?}"
    );
    assert!(
        !absent.iter().any(|key| key.contains("n1-k8s")),
        "{absent:?}"
    );
    // The other node has not written back: nothing is given out of the range it had.
    let block: ipnet::IpNet = others.parse().unwrap();
    let range = ipnet::IpNet::new(block.addr(), 30).unwrap().trunc();
    let mut given = Vec::new();
    for number in 0.. {
        match world.ipam.assign(request(&format!("new{number}"))).await {
            Ok(done) => given.extend(done.outcome.addresses),
            Err(AssignError::Exhausted { .. }) => break,
            Err(other) => panic!("{other}"),
        }
    }
    let late: ipnet::IpNet = late.parse().unwrap();
    assert!(!given.contains(&late), "{given:?}");
    assert!(
        !given.iter().any(|net| range.contains(net)),
        "{given:?} {}",
        block_name(range)
    );
    assert_eq!(given.len(), 10, "three blocks, but for two addresses");
}

#[tokio::test(start_paused = true)]
async fn a_node_without_pods_takes_another_datastore_as_it_is() {
    let mut world = World::new().await;
    let copy = world.store.copy();
    world.add("n2", "other").await;
    world
        .until(|_, key| format!("{key:?}").contains("n2-k8s-other"))
        .await;
    world.restore(&copy);
    let absent = world
        .until(|_, key| *key == InputKey::InSync(Kind::WorkloadEndpoint))
        .await;
    assert!(absent.iter().any(|key| key.contains("other")), "{absent:?}");
    assert_eq!(world.health.datastore_unknown(), None);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_the_datastore_has_lost_makes_it_unknown_until_it_is_accepted() {
    let mut world = World::new().await;
    world.add("n1", "pod").await;
    world
        .until(|_, key| format!("{key:?}").contains("n1-k8s-pod"))
        .await;
    let copy = world.store.copy();
    let ipam = Arc::clone(&world.ipam);
    ipam.assign(request("lost")).await.unwrap();
    world.store.restore(&copy);
    // No watch has noticed it.
    let error = match ipam.assign(request("late")).await {
        Err(AssignError::Store(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(world.health.datastore_unknown(), None);
    world.health.report_diverged(error);
    world
        .wait_for(|world| world.health.datastore_unknown().is_some())
        .await;
    ipam.assign(request("late")).await.unwrap_err();
    world.health.accept_datastore();
    world
        .wait_for(|world| world.health.datastore_unknown().is_none())
        .await;
    ipam.assign(request("late")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn own_affinities_get_the_labels_that_calico_lists_by_and_others_are_left_to_their_nodes() {
    let store = MemoryStore::new();
    for node in ["n1", "n2"] {
        let spec = serde_json::json!({"node": node, "cidr": "10.0.0.0/30", "state": "confirmed"});
        let op = object(Kind::BlockAffinity, node, spec);
        store.write(op).await.unwrap();
    }
    let labels = |node: &str| {
        let objects = store.objects();
        let of_node = |item: &&KeyValue| item.key == Key::new(Kind::BlockAffinity, node);
        let item = objects.iter().find(of_node).unwrap();
        let Ok(Object::BlockAffinity(affinity)) = Object::decode(&item.key, &item.value) else {
            panic!("{item:?}")
        };
        affinity.metadata.labels
    };
    let world = World::over(store.clone()).await;
    world.wait_for(|_| !labels("n1").is_empty()).await;
    assert_eq!(labels("n1")[api::affinity::AFFINITY_TYPE], "host");
    assert!(labels("n2").is_empty());
    // What is labelled is written no more.
    let before = store.revision();
    let mut again = World::over(store.clone()).await;
    again
        .until(|_, key| *key == InputKey::InSync(Kind::BlockAffinity))
        .await;
    assert_eq!(store.revision(), before + 1, "the pool alone");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_registered_anew_counts_as_it_was_until_its_agent_has_written_there() {
    let mut world = World::new().await;
    world.add("n1", "early").await;
    let bare = || object(Kind::Node, "n2", serde_json::json!({}));
    let address = |address: &str| {
        let spec = serde_json::json!({"bgp": {"ipv4Address": address}});
        object(Kind::Node, "n2", spec)
    };
    world.store.write(bare()).await.unwrap();
    let copy = world.store.copy();
    world.store.write(address("10.0.0.2/24")).await.unwrap();
    let node = InputKey::Object(Key::new(Kind::Node, "n2"));
    let seen = async |world: &mut World, text: &str| {
        loop {
            for (key, input) in world.facts.take(99).await.unwrap() {
                let told = format!("{input:?}");
                if key == node {
                    assert!(!told.contains("bgp: None"), "told of as bare: {told}");
                    if told.contains(text) {
                        return;
                    }
                }
            }
        }
    };
    seen(&mut world, "10.0.0.2/24").await;
    world.restore(&copy);
    world
        .wait_for(|world| world.health.datastore_unknown().is_some())
        .await;
    world.health.accept_datastore();
    world
        .wait_for(|world| world.health.objects_kept() == 1)
        .await;
    // Its kubelet goes on to write there.
    world.store.write(bare()).await.unwrap();
    world.store.write(address("10.0.0.3/24")).await.unwrap();
    seen(&mut world, "10.0.0.3/24").await;
    world
        .wait_for(|world| world.health.objects_kept() == 0)
        .await;
    // From then on it says what it says.
    world.store.write(bare()).await.unwrap();
    world
        .until(|_, key| *key == InputKey::Object(Key::new(Kind::Node, "n2")))
        .await;
}

#[tokio::test(start_paused = true)]
async fn services_are_followed_once_a_range_of_theirs_is_configured_and_not_before() {
    let mut world = World::new().await;
    let service = Key::namespaced(Kind::Service, "default", "kubernetes");
    let json = serde_json::json!({
        "metadata": {"name": "kubernetes", "namespace": "default"},
        "spec": {"type": "ClusterIP", "clusterIPs": ["10.96.0.1"]},
    });
    let put = Op::Put {
        key: service.clone(),
        value: json.to_string().into(),
        expect: Expect::Any,
    };
    world.store.write(put).await.unwrap();
    let configs = [
        serde_json::json!({}),
        serde_json::json!({"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}]}),
    ];
    for (config, followed) in configs.into_iter().zip([false, true]) {
        let config = object(Kind::BGPConfiguration, "default", config);
        world.store.write(config).await.unwrap();
        // Virtual time: everything that can be read is.
        tokio::time::sleep(Duration::from_secs(10)).await;
        let told: Vec<InputKey> = world
            .facts
            .take_now(99)
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        assert_eq!(
            told.contains(&InputKey::Object(service.clone())),
            followed,
            "{told:?}"
        );
        for kind in Graph::ON_DEMAND {
            assert_eq!(told.contains(&InputKey::InSync(kind)), followed, "{told:?}");
        }
    }
    world.cancel.cancel();
}

#[tokio::test(start_paused = true)]
async fn services_that_may_not_be_read_are_one_unknown_input_and_the_datastore_is_not_lost() {
    let mut world = World::new().await;
    let forbidden = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let plan = {
        let forbidden = Arc::clone(&forbidden);
        move |request: &Request<'_>| {
            let of_services = match request {
                Request::List(kind) | Request::Watch(kind) => *kind == Kind::Service,
                _ => false,
            };
            (of_services && forbidden.load(std::sync::atomic::Ordering::SeqCst))
                .then_some(Fault::Refused)
        }
    };
    world.client.set_fault_plan(plan);
    let spec = serde_json::json!({"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}]});
    let config = object(Kind::BGPConfiguration, "default", spec);
    world.store.write(config).await.unwrap();
    // Longer than any wait before another attempt.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let told = |world: &mut World| {
        let facts = world.facts.take_now(99).into_iter();
        let mut refused = None;
        let mut in_sync = Vec::new();
        for (key, input) in facts {
            match (key, input) {
                (InputKey::Refused(kind), Input::Refused(why)) => refused = Some((kind, why)),
                (InputKey::InSync(kind), _) => in_sync.push(kind),
                _ => {}
            }
        }
        (refused, in_sync)
    };
    let (refused, in_sync) = told(&mut world);
    let words = Some("not allowed".into());
    assert_eq!(refused, Some((Kind::Service, words)));
    assert!(!in_sync.contains(&Kind::Service) && in_sync.contains(&Kind::EndpointSlice));
    assert_eq!(world.health.datastore_lost(), None);

    // The rule is added, and nothing has to be started anew.
    forbidden.store(false, std::sync::atomic::Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (refused, in_sync) = told(&mut world);
    assert_eq!(refused, Some((Kind::Service, None)));
    assert_eq!(in_sync, [Kind::Service]);
    world.cancel.cancel();
}
