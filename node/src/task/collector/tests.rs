use std::collections::BTreeMap;
use std::net::IpAddr;

use api::key::{Key, Kind};
use api::pool::AllowedUse;
use datastore::memory::MemoryStore;
use datastore::store::{Expect, Op, Store};
use ipam::{AssignRequest, Wanted};
use serde_json::json;

use super::*;
use crate::kubernetes::fake::Fake;

/// Seconds of a grace.
const GRACE: u64 = 900;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix(Duration::from_secs(1_000_000 + seconds))
}

struct Place {
    store: Arc<MemoryStore>,
    view: watch::Sender<CalcView>,
}

impl Place {
    /// Three nodes, one pool of blocks of four.
    async fn new() -> Self {
        let view = CalcView {
            in_sync: true,
            ..CalcView::default()
        };
        let place = Self {
            store: Arc::new(MemoryStore::new()),
            view: watch::channel(view).0,
        };
        let spec = json!({"cidr": "10.0.0.0/24", "blockSize": 30});
        place.put(Key::new(Kind::IPPool, "pool"), spec).await;
        let info = Key::new(Kind::ClusterInformation, "default");
        place.put(info, json!({"clusterGUID": "c"})).await;
        for node in ["n1", "n2", "n3"] {
            place.put(Key::new(Kind::Node, node), json!({})).await;
        }
        place
    }

    async fn put(&self, key: Key, spec: serde_json::Value) {
        let metadata = json!({"name": key.name, "namespace": key.namespace});
        let value = json!({"kind": key.kind.name(), "metadata": metadata, "spec": spec});
        let put = Op::Put {
            key,
            value: value.to_string().into(),
            expect: Expect::Any,
        };
        self.store.write(put).await.unwrap();
    }

    async fn delete(&self, key: Key) {
        let expect = Expect::Any;
        self.store.write(Op::Delete { key, expect }).await.unwrap();
    }

    async fn endpoint(&self, node: &str, pod: &str, address: IpAddr) {
        let name = format!("{node}-k8s-{pod}-eth0");
        let spec = json!({"node": node, "orchestrator": "k8s", "endpoint": "eth0", "pod": pod,
            "interfaceName": format!("cali{pod}"), "ipNetworks": [format!("{address}/32")]});
        self.put(Key::namespaced(Kind::WorkloadEndpoint, "shop", name), spec)
            .await;
    }

    fn collector(&self, node: &str, kubernetes: Option<Arc<Fake>>) -> Collector {
        let store = Arc::clone(&self.store) as Arc<dyn Store>;
        Collector {
            // No device of this machine.
            interface_prefix: "collectortest".to_owned(),
            blocks_from: BlocksFrom::default(),
            ipam: Arc::new(Ipam::new(store, node)),
            calc: Inbox::new().0,
            kubernetes: kubernetes.map(|fake| fake as _),
            view: self.view.subscribe(),
            health: Health::new(std::time::Instant::now(), SystemTime::UNIX_EPOCH),
            may_lack_others: false,
            grace: None,
            metrics: Metrics::new(node).0,
            cancel: CancellationToken::new(),
        }
    }

    fn count(&self, kind: Kind) -> usize {
        let objects = self.store.objects();
        objects.iter().filter(|item| item.key.kind == kind).count()
    }

    fn handles(&self) -> Vec<String> {
        let objects = self.store.objects().into_iter();
        let handles = objects.filter(|item| item.key.kind == Kind::IPAMHandle);
        handles.map(|item| item.key.name).collect()
    }
}

async fn give(ipam: &Ipam, pod: &str) -> IpAddr {
    let part = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let attributes = [("pod", pod), ("namespace", "shop")].map(part);
    let request = AssignRequest {
        node_labels: BTreeMap::new(),
        namespace_labels: None,
        handle_id: format!("net.{pod}"),
        attributes: attributes.into(),
        allowed_use: AllowedUse::Workload,
        wanted: Wanted::one_ipv4(),
        now: at(0),
    };
    ipam.assign(request).await.unwrap().outcome.addresses[0].addr()
}

#[tokio::test]
async fn an_address_of_the_node_that_nobody_uses_is_released_after_the_grace() {
    let place = Place::new().await;
    let collector = place.collector("n1", None);
    let used = give(&collector.ipam, "web").await;
    place.endpoint("n1", "web", used).await;
    give(&collector.ipam, "gone").await;
    let mut found = collector.looks();
    collector.look(&mut found, at(0)).await;
    collector.look(&mut found, at(GRACE - 1)).await;
    assert_eq!(place.handles(), ["net.gone", "net.web"]);
    // While the datastore is locked nothing is, and what was seen before counts no more.
    place.view.send_modify(|view| view.datastore_locked = true);
    collector.look(&mut found, at(GRACE)).await;
    place.view.send_modify(|view| view.datastore_locked = false);
    collector.look(&mut found, at(GRACE + 1)).await;
    collector.look(&mut found, at(GRACE + 2)).await;
    assert_eq!(place.handles(), ["net.gone", "net.web"]);
    collector.look(&mut found, at(2 * GRACE + 1)).await;
    assert_eq!(place.handles(), ["net.web"]);
    assert_eq!(collector.metrics.ipam_gc_reclamations.get(), 1);
    assert!(ipam::check::faults(&place.store.objects()).is_empty());
}

#[tokio::test]
async fn an_address_that_was_given_anew_meanwhile_stays() {
    let place = Place::new().await;
    let collector = place.collector("n1", None);
    give(&collector.ipam, "pod").await;
    let mut found = collector.looks();
    collector.look(&mut found, at(0)).await;
    collector
        .ipam
        .release_by_handle("net.pod", at(10))
        .await
        .unwrap();
    give(&collector.ipam, "pod").await;
    collector.look(&mut found, at(GRACE)).await;
    assert_eq!(place.handles(), ["net.pod"]);
    collector.look(&mut found, at(2 * GRACE)).await;
    assert_eq!(place.handles(), [""; 0]);
}

#[tokio::test]
async fn empty_blocks_are_given_up_but_for_one() {
    let place = Place::new().await;
    let collector = place.collector("n1", None);
    let pods: Vec<String> = (0..9).map(|number| format!("p{number}")).collect();
    for pod in &pods {
        give(&collector.ipam, pod).await;
    }
    assert_eq!(place.count(Kind::IPAMBlock), 3);
    for pod in &pods {
        let handle = format!("net.{pod}");
        collector
            .ipam
            .release_by_handle(&handle, at(0))
            .await
            .unwrap();
    }
    let mut found = collector.looks();
    collector.look(&mut found, at(0)).await;
    collector.look(&mut found, at(GRACE)).await;
    assert_eq!(place.count(Kind::IPAMBlock), 1);
    assert_eq!(place.count(Kind::BlockAffinity), 1);
    assert!(ipam::check::faults(&place.store.objects()).is_empty());
}

#[tokio::test]
async fn the_elected_agent_frees_what_a_node_that_is_gone_had() {
    let place = Place::new().await;
    let gone = place.collector("n3", None);
    give(&gone.ipam, "left").await;
    let used = give(&gone.ipam, "still").await;
    place.endpoint("n3", "still", used).await;
    place.delete(Key::new(Kind::Node, "n3")).await;
    let orphan = json!({"handleID": "net.Orphan", "block": {"10.0.0.0/30": 1}});
    place
        .put(Key::new(Kind::IPAMHandle, "net.orphan"), orphan)
        .await;

    let (first, second) = (place.collector("n1", None), place.collector("n2", None));
    let (mut of_first, mut of_second) = (first.looks(), second.looks());
    for time in [0, GRACE] {
        first.look(&mut of_first, at(time)).await;
        second.look(&mut of_second, at(time)).await;
    }
    assert_eq!(place.handles(), ["net.still"], "its pod's endpoint stands");
    assert_eq!(first.metrics.ipam_gc_reclamations.get(), 1);
    assert_eq!(second.metrics.ipam_gc_reclamations.get(), 0);
    assert!(of_second.waiting() == 0, "it is not elected");
    assert_eq!(place.count(Kind::IPAMBlock), 1);

    // The elected one goes; its term ends, and the other goes on.
    let key = Key::namespaced(Kind::WorkloadEndpoint, "shop", "n3-k8s-still-eth0");
    place.delete(key).await;
    for time in [2 * GRACE, 3 * GRACE, 4 * GRACE] {
        second.look(&mut of_second, at(time)).await;
    }
    assert_eq!(place.handles(), [""; 0]);
    assert_eq!(place.count(Kind::IPAMBlock), 0);
    assert_eq!(place.count(Kind::BlockAffinity), 0);
}

#[tokio::test]
async fn beside_calicos_controllers_no_agent_looks_at_the_cluster() {
    let place = Place::new().await;
    give(&place.collector("n3", None).ipam, "left").await;
    place.delete(Key::new(Kind::Node, "n3")).await;
    let fake = Arc::new(Fake::default());
    fake.content().kube_controllers = true;
    let collector = place.collector("n1", Some(Arc::clone(&fake)));
    let mut found = collector.looks();
    for time in [0, GRACE, 2 * GRACE] {
        collector.look(&mut found, at(time)).await;
    }
    // Nor where it is not known whether they run.
    fake.content().kube_controllers = false;
    fake.fail(1);
    collector.look(&mut found, at(3 * GRACE)).await;
    assert_eq!(place.handles(), ["net.left"]);
    for time in [4, 5] {
        collector.look(&mut found, at(time * GRACE)).await;
    }
    assert_eq!(place.handles(), [""; 0]);
}

#[tokio::test]
async fn the_grace_is_the_agents_own_else_the_clusters_else_a_quarter_of_an_hour() {
    let place = Place::new().await;
    let fake = Arc::new(Fake::default());
    let clusters = place.collector("n1", Some(Arc::clone(&fake)));
    let own = Collector {
        grace: Some(Duration::from_secs(60)),
        ..place.collector("n1", Some(Arc::clone(&fake)))
    };
    // The text, the agent that looks, and when an address that nobody uses is freed.
    for (said, agent, freed_at) in [
        (None, &clusters, Some(GRACE)),
        (Some("5m"), &clusters, Some(300)),
        (Some("5m"), &own, Some(60)),
        (Some("0s"), &clusters, None),
        // What cannot be read frees nothing.
        (Some("soon"), &clusters, None),
        (Some("soon"), &own, Some(60)),
    ] {
        fake.content().leak_grace_period = said.map(str::to_owned);
        let address = give(&agent.ipam, "leaked").await;
        let mut looks = agent.looks();
        let mut freed = None;
        for time in [0, 59, 60, 299, 300, GRACE - 1, GRACE, 10 * GRACE] {
            agent.look(&mut looks, at(time)).await;
            if freed.is_none() && place.handles().is_empty() {
                freed = Some(time);
            }
        }
        assert_eq!(freed, freed_at, "{said:?}, {address}");
        let now = at(20 * GRACE);
        agent
            .ipam
            .release_by_handle("net.leaked", now)
            .await
            .unwrap();
    }
    // An answer that does not come is no answer: what was found is found anew.
    fake.content().leak_grace_period = None;
    give(&clusters.ipam, "leaked").await;
    let mut looks = clusters.looks();
    clusters.look(&mut looks, at(0)).await;
    fake.fail(1);
    clusters.look(&mut looks, at(GRACE)).await;
    clusters.look(&mut looks, at(2 * GRACE)).await;
    assert_eq!(place.handles(), ["net.leaked"]);
}

#[tokio::test]
async fn while_others_may_not_have_written_back_nothing_is_said_of_them() {
    let place = Place::new().await;
    give(&place.collector("n3", None).ipam, "left").await;
    place.delete(Key::new(Kind::Node, "n3")).await;
    let collector = place.collector("n1", None);
    collector.health.set_objects_kept(1);
    let started_so = Collector {
        may_lack_others: true,
        ..place.collector("n1", None)
    };
    for agent in [collector, started_so] {
        let mut found = agent.looks();
        for time in [0, GRACE, 2 * GRACE] {
            agent.look(&mut found, at(time)).await;
        }
        assert_eq!(place.handles(), ["net.left"]);
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_frees_nothing() {
    let place = Place::new().await;
    let gone = place.collector("n3", None);
    give(&gone.ipam, "left").await;
    place.delete(Key::new(Kind::Node, "n3")).await;
    let collector = place.collector("n1", None);
    give(&collector.ipam, "mine").await;
    let mut found = collector.looks();
    collector.look(&mut found, at(0)).await;
    for kind in [Kind::WorkloadEndpoint, Kind::Node, Kind::IPAMBlock] {
        place.store.set_fault_plan(move |request| {
            let of_kind =
                matches!(request, datastore::memory::Request::List(asked) if *asked == kind);
            of_kind.then_some(datastore::memory::Fault::Unavailable)
        });
        collector.look(&mut found, at(GRACE)).await;
        let left = place.handles();
        // What needs no answer of this kind is done.
        assert!(left.contains(&"net.left".to_owned()), "{kind}: {left:?}");
    }
    place.store.set_fault_plan(|_| None);
    collector.look(&mut found, at(GRACE)).await;
    assert_eq!(place.handles(), [""; 0]);
}

#[test]
fn a_clock_that_is_set_is_noticed_and_one_that_drifts_is_not() {
    let seconds = Duration::from_secs;
    let began = (SystemTime::UNIX_EPOCH + seconds(1_000_000), Instant::now());
    let after = |shown: Duration, passed: Duration| (began.0 + shown, began.1 + passed);
    assert!(!is_set(began, after(seconds(450), seconds(450))));
    assert!(!is_set(began, after(seconds(451), seconds(450))));
    assert!(is_set(began, after(seconds(4050), seconds(450))), "forward");
    assert!(is_set(began, after(seconds(10), seconds(450))));
    let back = (began.0 - seconds(5), began.1 + seconds(450));
    assert!(is_set(began, back), "before it began");
}

#[tokio::test]
async fn where_another_plugin_gives_addresses_the_task_waits_for_the_end() {
    let place = Place::new().await;
    let collector = Collector {
        blocks_from: BlocksFrom::PodCidrs,
        ..place.collector("n1", None)
    };
    let cancel = collector.cancel.clone();
    let task = tokio::spawn(collector.run());
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!task.is_finished(), "it ends the agent");
    cancel.cancel();
    task.await.unwrap();
}
