//! The task against a store in memory, and what answers are made of.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::SystemTime;

use api::node_status::{Readiness, SpeakerStatus};
use bgp::route::RouteSource;
use bgp::status::{
    DecisionStep, GracefulRestartState, PathStanding, PathStatus, PeerState, PeerStatus,
    RouteStatus,
};
use bgp::types::{Asn, PeerName};
use datastore::memory::MemoryStore;
use datastore::store::{Expect, Op};
use felix::desired::{
    Hops, Leads, NextHop, NextHopId, NextHopSpec, RouteKey, RouteKind, RouteSpec, Row,
};
use felix::kernel::KernelEvent;
use serde_json::{Value, json};

use super::*;

/// Longer than anything here takes; with paused time nothing waits for its end.
const PATIENCE: Duration = Duration::from_secs(3600);

fn key(name: &str) -> Key {
    Key::new(Kind::CalicoNodeStatus, name)
}

fn peer(name: &str, address: &str, state: PeerState) -> PeerStatus {
    PeerStatus {
        name: PeerName(name.into()),
        address: address.parse().unwrap(),
        asn: Asn(64512),
        is_internal: true,
        state,
        admin_shutdown: false,
        since: std::time::Instant::now(),
        uptime: None,
        router_id: None,
        local_address: None,
        hold_time: None,
        prefixes: BTreeMap::new(),
        shared_router_id: None,
        last_error: None,
        graceful_restart: GracefulRestartState::Ready,
    }
}

fn facts() -> Facts {
    Facts {
        speaker: SpeakerStatus {
            state: Readiness::Ready,
            version: "1".to_owned(),
            router_id: Some([10, 0, 0, 1].into()),
            last_boot_time: "2026-01-01T00:00:00Z".to_owned(),
            last_reconfiguration_time: "2026-01-01T00:00:01Z".to_owned(),
        },
        peers: vec![
            peer("Mesh_10_0_0_2", "10.0.0.2", PeerState::Established),
            peer("Global_10_0_0_9", "10.0.0.9", PeerState::Active),
            peer("Node_fd00__9", "fd00::9", PeerState::Established),
        ],
        routes: Vec::new(),
        kernel: Vec::new(),
        now: (std::time::Instant::now(), SystemTime::now()),
    }
}

struct World {
    store: MemoryStore,
    facts: Arc<Mutex<Result<Facts, String>>>,
    cancel: CancellationToken,
}

impl World {
    fn new() -> Self {
        let world = Self {
            store: MemoryStore::new(),
            facts: Arc::new(Mutex::new(Ok(facts()))),
            cancel: CancellationToken::new(),
        };
        let shared = Arc::clone(&world.facts);
        let task = NodeStatusTask {
            node: "n1".to_owned(),
            store: Arc::new(world.store.client()),
            facts: Box::new(move |_| {
                let facts = shared.lock().unwrap().clone();
                Box::pin(async move { facts })
            }),
            cancel: world.cancel.clone(),
        };
        tokio::spawn(task.run());
        world
    }

    async fn ask(&self, name: &str, spec: Value) {
        let json = json!({"metadata": {"name": name, "labels": {"of": "somebody"}}, "spec": spec});
        let op = Op::Put {
            key: key(name),
            value: json.to_string().into(),
            expect: Expect::Any,
        };
        self.store.write(op).await.unwrap();
    }

    async fn object(&self, name: &str) -> Value {
        let found = self.store.get(&key(name)).await.unwrap().unwrap();
        serde_json::from_slice(&found.value).unwrap()
    }

    /// The status, once it is as wanted.
    async fn until(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let look = async {
            loop {
                let object = self.object(name).await;
                if wanted(&object["status"]) {
                    return object;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, look).await;
        found.unwrap_or_else(|_| panic!("{name} never became so"))
    }
}

#[tokio::test(start_paused = true)]
async fn what_asks_about_this_node_is_answered_in_what_it_asks_for_and_nothing_else_is_touched() {
    let world = World::new();
    for other in [
        json!({"node": "n2", "classes": ["BGP"]}),
        json!({"classes": ["BGP"]}),
    ] {
        world.ask("other", other).await;
    }
    world
        .ask("bad", json!({"node": "n1", "classes": ["BIRD"]}))
        .await;
    world
        .ask("mine", json!({"node": "n1", "classes": ["Agent", "BGP"]}))
        .await;
    let mine = world.until("mine", |status| !status.is_null()).await;
    assert_eq!(mine["metadata"]["labels"], json!({"of": "somebody"}));
    let status = &mine["status"];
    assert_eq!(status["agent"]["birdV4"]["state"], "Ready");
    assert_eq!(status["agent"]["birdV6"]["routerID"], "10.0.0.1");
    let counts = [
        "numberEstablishedV4",
        "numberNotEstablishedV4",
        "numberEstablishedV6",
        "numberNotEstablishedV6",
    ];
    assert_eq!(
        counts.map(|name| status["bgp"][name].as_u64()),
        [Some(1), Some(1), Some(1), Some(0)]
    );
    let types = ["peersV4", "peersV6"].map(|peers| status["bgp"][peers][0]["type"].clone());
    assert_eq!(types, ["NodeMesh", "NodePeer"]);
    assert_eq!(status["bgp"]["peersV4"][1]["type"], "GlobalPeer");
    assert!(status["lastUpdated"].is_string(), "{status}");
    assert!(status.get("routes").is_none(), "not asked for: {status}");
    for name in ["other", "bad"] {
        assert!(world.object(name).await.get("status").is_none(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn period_zero_is_answered_once_and_again_when_something_else_is_asked() {
    let world = World::new();
    let once = |class: &str| json!({"node": "n1", "classes": [class], "updatePeriodSeconds": 0});
    world.ask("once", once("BGP")).await;
    world
        .ask(
            "often",
            json!({"node": "n1", "classes": ["BGP"], "updatePeriodSeconds": 10}),
        )
        .await;
    let established = |count| move |status: &Value| status["bgp"]["numberEstablishedV4"] == count;
    world.until("once", established(1)).await;
    let first = world.until("often", established(1)).await;
    // Nothing changes: nothing is written, however often it is looked at.
    let version = world
        .store
        .get(&key("often"))
        .await
        .unwrap()
        .unwrap()
        .version;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let same = world.store.get(&key("often")).await.unwrap().unwrap();
    assert_eq!(same.version, version, "{first}");

    world.facts.lock().unwrap().as_mut().unwrap().peers.clear();
    world.until("often", established(0)).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let kept = world.object("once").await;
    assert_eq!(kept["status"]["bgp"]["numberEstablishedV4"], 1);
    world.ask("once", once("Agent")).await;
    let asked_anew = world
        .until("once", |status| status["agent"].is_object())
        .await;
    assert!(asked_anew["status"].get("bgp").is_none(), "{asked_anew}");
}

#[tokio::test(start_paused = true)]
async fn without_all_that_is_asked_for_nothing_is_written_and_it_is_tried_again() {
    let world = World::new();
    *world.facts.lock().unwrap() = Err("the kernel does not answer".to_owned());
    world
        .ask(
            "mine",
            json!({"node": "n1", "classes": ["Agent", "Routes"]}),
        )
        .await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(world.object("mine").await.get("status").is_none());
    *world.facts.lock().unwrap() = Ok(facts());
    let status = world.until("mine", |status| !status.is_null()).await;
    assert!(status["status"]["routes"].is_object(), "{status}");
}

fn path(peer: Option<&str>, next_hop: Option<&str>, standing: PathStanding) -> PathStatus {
    PathStatus {
        peer: peer.map(|name| PeerName(name.into())),
        path_id: None,
        source: if peer.is_some() {
            RouteSource::Ibgp
        } else {
            RouteSource::Local
        },
        next_hop: next_hop.map(|hop| hop.parse().unwrap()),
        standing,
        stale: false,
        as_path: String::new(),
        local_pref: 100,
        med: None,
        origin: "igp",
        communities: Vec::new(),
    }
}

fn kernel(
    dst: &str,
    protocol: u8,
    kind: RouteKind,
    hop: Option<(Option<&str>, &str)>,
) -> (RouteKey, RouteSpec) {
    let key = RouteKey {
        table: 254,
        dst: dst.parse().unwrap(),
        tos: 0,
        metric: 0,
    };
    let next_hops = hop.map(|(gateway, device)| NextHop {
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        ifname: Some(device.into()),
        onlink: false,
    });
    let spec = RouteSpec {
        kind,
        scope: 0,
        protocol,
        next_hops: next_hops.into_iter().collect(),
        object: None,
        prefsrc: None,
        mtu_bytes: None,
    };
    (key, spec)
}

#[test]
fn a_route_that_names_an_object_leads_where_the_object_does() {
    let (key, by_hop) = kernel(
        "10.244.1.0/26",
        12,
        RouteKind::Unicast,
        Some((Some("10.0.0.2"), "eth0")),
    );
    let id = NextHopId::of(&["10.0.0.2".parse().unwrap()]);
    let object = NextHopSpec {
        protocol: 12,
        leads: Leads::To(by_hop.next_hops[0].clone()),
    };
    let named = RouteSpec {
        next_hops: Hops::default(),
        object: Some(id),
        ..by_hop.clone()
    };
    let rows = [
        Row::NextHop(id, object),
        Row::Route(key.clone(), named.clone()),
        Row::Route(key.clone(), by_hop.clone()),
    ];
    let routes = answer::with_next_hops(rows.map(KernelEvent::RowSet).to_vec());
    let resolved = RouteSpec {
        object: Some(id),
        ..by_hop.clone()
    };
    assert_eq!(routes, [(key.clone(), resolved), (key, by_hop)]);
}

#[test]
fn a_route_is_in_the_fib_when_the_kernel_has_it_by_that_next_hop() {
    let route = |prefix: &str, paths| RouteStatus {
        prefix: prefix.parse().unwrap(),
        paths,
    };
    let mut facts = facts();
    let lost = PathStanding::Lost(DecisionStep::RouterId);
    facts.routes = vec![
        route("10.244.0.0/26", vec![path(None, None, PathStanding::Best)]),
        route(
            "10.244.1.0/26",
            vec![
                path(Some("Mesh_10_0_0_2"), Some("10.0.0.2"), PathStanding::Best),
                path(Some("Global_10_0_0_9"), Some("10.0.0.9"), lost),
            ],
        ),
        // Chosen, and not in the kernel.
        route(
            "10.244.2.0/26",
            vec![path(
                Some("Mesh_10_0_0_2"),
                Some("10.0.0.2"),
                PathStanding::Best,
            )],
        ),
    ];
    facts.kernel = vec![
        kernel(
            "0.0.0.0/0",
            3,
            RouteKind::Unicast,
            Some((Some("10.0.0.254"), "eth0")),
        ),
        kernel("10.0.0.0/24", 2, RouteKind::Unicast, Some((None, "eth0"))),
        kernel("10.244.0.0/26", 80, RouteKind::Blackhole, None),
        kernel(
            "10.244.0.1/32",
            3,
            RouteKind::Unicast,
            Some((None, "cali1")),
        ),
        kernel(
            "10.244.1.0/26",
            12,
            RouteKind::Unicast,
            Some((Some("10.0.0.2"), "tunl0")),
        ),
        kernel("fe80::/64", 2, RouteKind::Unicast, Some((None, "eth0"))),
    ];
    let status = answer::answer(&[Class::Routes], &facts).routes.unwrap();
    assert_eq!(status.v6, []);
    let shown: Vec<String> = status
        .v4
        .iter()
        .map(|route| {
            let json = serde_json::to_value(route).unwrap();
            let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
            [
                &json["type"],
                &json["destination"],
                &json["gateway"],
                &json["interface"],
                &json["learnedFrom"]["sourceType"],
                &json["learnedFrom"]["peerIP"],
            ]
            .map(text)
            .join(" ")
        })
        .collect();
    assert_eq!(
        shown,
        [
            "FIB 0.0.0.0/0 10.0.0.254 eth0 Kernel -",
            "FIB 10.0.0.0/24 N/A eth0 Direct -",
            "FIB 10.244.0.0/26 N/A blackhole Static -",
            "FIB 10.244.0.1/32 N/A cali1 Kernel -",
            "FIB 10.244.1.0/26 10.0.0.2 tunl0 NodeMesh 10.0.0.2",
            "RIB 10.244.1.0/26 10.0.0.9 eth0 BGPPeer 10.0.0.9",
            "RIB 10.244.2.0/26 10.0.0.2 eth0 NodeMesh 10.0.0.2",
        ]
    );
}
