//! Start-up over an emptied datastore, with pods that an earlier agent connected.

use std::sync::Arc;

use api::key::{Key, Kind};
use api::params::Params;
use datastore::memory::MemoryStore;
use datastore::store::{Expect, Op, Store};
use felix::desired::{NextHop, RouteKey, RouteSpec};
use serde_json::json;

use super::*;
use crate::startup::tests::{Fake, over};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn end(ifname: &str, alias: &str) -> HostEnd {
    HostEnd {
        ifname: IfName::from(ifname),
        alias: alias.to_owned(),
        admin_up: true,
    }
}

fn route(dst: &str, protocol: u8, kind: RouteKind, ifname: Option<&str>) -> KernelEvent {
    let key = RouteKey {
        table: TABLE_MAIN,
        dst: net(dst),
        tos: 0,
        metric: 0,
    };
    let next_hop = |ifname| NextHop {
        gateway: None,
        ifname: Some(IfName::from(ifname)),
        onlink: false,
    };
    let spec = RouteSpec {
        kind,
        scope: 0,
        protocol,
        next_hops: ifname.map(next_hop).into_iter().collect(),
        object: None,
        prefsrc: None,
        mtu_bytes: None,
    };
    KernelEvent::RowSet(Row::Route(key, spec))
}

#[test]
fn the_kernel_shows_who_lives_here_and_which_ranges_others_announce() {
    let unicast = RouteKind::Unicast;
    let events = [
        route("10.0.0.1/32", 3, unicast, Some("cali1")),
        route("fd00::1/128", 3, unicast, Some("cali1")),
        route("10.0.0.64/26", 12, unicast, Some("eth0")),
        route("10.0.0.128/26", 80, unicast, Some("eth0")),
        route("10.0.0.192/26", 3, unicast, Some("vxlan.calico")),
        route("10.0.0.9/32", 12, unicast, Some("eth0")),
        // Own block, the host's own network, a range that no block can have, somebody else's route.
        route("10.0.0.0/26", 12, RouteKind::Blackhole, None),
        route("10.9.0.0/24", 2, unicast, Some("eth0")),
        route("10.0.0.0/8", 12, unicast, Some("eth0")),
        route("10.7.0.0/26", 99, unicast, Some("eth0")),
    ];
    let ends = vec![end("cali1", "k/c1/eth0"), end("cali2", "k/c2/eth0")];
    let living = Living::of(ends, &events, PROTOCOL_REMOTE);
    let addresses: Vec<&[IpAddr]> = living.pods.iter().map(|(_, all)| &all[..]).collect();
    let both: Vec<IpAddr> = ["10.0.0.1", "fd00::1"]
        .map(|text| text.parse().unwrap())
        .into();
    assert_eq!(addresses, [&both[..], &[]]);
    let others = [
        "10.0.0.64/26",
        "10.0.0.128/26",
        "10.0.0.192/26",
        "10.0.0.9/32",
    ];
    assert_eq!(living.ranges_of_others, others.map(net));
}

async fn put(store: &MemoryStore, kind: Kind, name: &str, spec: serde_json::Value) {
    let json = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
    let key = match kind {
        Kind::WorkloadEndpoint => Key::namespaced(kind, "default", name),
        _ => Key::new(kind, name),
    };
    let op = Op::Put {
        key,
        value: json.to_string().into(),
        expect: Expect::Any,
    };
    store.write(op).await.unwrap();
}

/// A store with a pool of four blocks of four addresses.
async fn with_pool() -> MemoryStore {
    let store = MemoryStore::new();
    let pool = json!({"cidr": "10.0.0.0/28", "blockSize": 30});
    put(&store, Kind::IPPool, "pool", pool).await;
    store
}

async fn endpoint(store: &MemoryStore, pod: &str, ifname: &str) {
    let name = api::endpoint::endpoint_name("n1", "k8s", pod, "eth0");
    let spec = json!({"node": "n1", "orchestrator": "k8s", "pod": pod, "endpoint": "eth0",
        "ipNetworks": ["10.0.0.1/32"], "interfaceName": ifname});
    put(store, Kind::WorkloadEndpoint, &name, spec).await;
}

fn request(handle: &str, wanted: Wanted) -> AssignRequest {
    AssignRequest {
        handle_id: handle.to_owned(),
        wanted,
        ..held("n1", &end("cali1", ""), IpAddr::from([0; 4]))
    }
}

async fn given(ipam: &Ipam, handle: &str) -> IpAddr {
    let request = request(handle, Wanted::one_ipv4());
    ipam.assign(request).await.unwrap().outcome.addresses[0].addr()
}

#[tokio::test]
async fn what_living_pods_hold_stands_in_an_emptied_datastore_before_an_address_is_given() {
    let before = with_pool().await;
    let of = |node| Ipam::new(Arc::new(before.clone()), node);
    let noted = given(&of("n1"), "k.c1").await;
    given(&of("n2"), "k.other").await;
    for (pod, ifname) in [("p1", "cali1"), ("gone", "cali9")] {
        endpoint(&before, pod, ifname).await;
    }
    let mut own = Own::new("n1".to_owned());
    before.objects().iter().for_each(|object| own.put(object));
    let of_n2 = own.ranges_of_others();
    assert_eq!(of_n2.len(), 1);
    // What the earlier agent did in its last moments, and what a third node announces.
    let late = given(&of("n1"), "k.c2").await;
    let ranges = (0..4).map(|n| net(&format!("10.0.0.{}/30", n * 4)));
    let announced = ranges
        .rev()
        .find(|range| !of_n2.contains(range) && !range.contains(&noted))
        .unwrap();

    let emptied = with_pool().await;
    let (params, host) = (Params::from_env([]).unwrap(), Fake(Vec::new()));
    let startup = over(&params, &host, emptied.clone());
    let ipam = Ipam::new(Arc::new(emptied.clone()), "n1");
    let living = Living {
        pods: vec![
            (end("cali1", "k/c1/eth0"), vec![noted]),
            (end("cali2", "k/c2/eth0"), vec![late]),
        ],
        ranges_of_others: vec![announced],
    };
    startup.write_back(&ipam, own, &living).await.unwrap();

    assert!(ipam::check::faults(&emptied.objects()).is_empty());
    let objects = emptied.objects();
    let endpoints = objects.iter().map(|object| &object.key);
    let endpoints: Vec<&str> = endpoints
        .filter(|key| key.kind == Kind::WorkloadEndpoint)
        .map(|key| key.name.as_str())
        .collect();
    assert_eq!(endpoints, ["n1-k8s-p1-eth0"], "its pod lives");
    for (handle, address) in [("k.c1", noted), ("k.c2", late)] {
        let again = ipam.assign(request(handle, Wanted::one_ipv4())).await;
        let again = again.unwrap().outcome;
        assert!(again.existing, "{handle}");
        assert_eq!(again.addresses, [IpNet::from(address)]);
    }
    let mut new = Vec::new();
    while let Ok(done) = ipam
        .assign(request(&format!("new{}", new.len()), Wanted::one_ipv4()))
        .await
    {
        new.extend(done.outcome.addresses);
    }
    assert_eq!(new.len(), 6, "two blocks but for two addresses: {new:?}");
    for range in of_n2.iter().chain([&announced]) {
        assert!(
            !new.iter().any(|net| range.contains(net)),
            "{range}: {new:?}"
        );
    }
    for address in [noted, late] {
        assert!(!new.contains(&IpNet::from(address)), "{address}: {new:?}");
    }
}

#[tokio::test]
async fn addresses_of_another_ipam_plugin_are_not_held_in_blocks() {
    let before = MemoryStore::new();
    endpoint(&before, "p1", "cali1").await;
    let mut own = Own::new("n1".to_owned());
    before.objects().iter().for_each(|object| own.put(object));
    let emptied = with_pool().await;
    let variables = [("USE_POD_CIDR".to_owned(), "true".to_owned())];
    let (params, host) = (Params::from_env(variables).unwrap(), Fake(Vec::new()));
    let startup = over(&params, &host, emptied.clone());
    let ipam = Ipam::new(Arc::new(emptied.clone()), "n1");
    let address = |text: &str| vec![text.parse().unwrap()];
    let living = Living {
        pods: vec![
            (end("cali1", "k/c1/eth0"), address("10.0.0.1")),
            (end("cali2", "k/c2/eth0"), address("10.0.0.2")),
        ],
        ranges_of_others: Vec::new(),
    };
    startup.write_back(&ipam, own, &living).await.unwrap();
    let objects = emptied.objects();
    let kinds: Vec<Kind> = objects.iter().map(|object| object.key.kind).collect();
    assert_eq!(kinds, [Kind::IPPool, Kind::WorkloadEndpoint]);
}

#[tokio::test]
async fn a_node_without_pods_writes_nothing_back_and_leaves_ranges_of_others_alone() {
    let emptied = with_pool().await;
    let (params, host) = (Params::from_env([]).unwrap(), Fake(Vec::new()));
    let startup = over(&params, &host, emptied.clone());
    let mut own = Own::new("n1".to_owned());
    let earlier = with_pool().await;
    given(&Ipam::new(Arc::new(earlier.clone()), "n1"), "k.c1").await;
    earlier.objects().iter().for_each(|object| own.put(object));
    let ipam = Ipam::new(Arc::new(emptied.clone()), "n1");
    let living = Living {
        pods: Vec::new(),
        ranges_of_others: ["10.0.0.0/30", "10.0.0.4/30", "10.0.0.8/30"]
            .map(net)
            .into(),
    };
    let before = emptied.revision();
    startup.write_back(&ipam, own, &living).await.unwrap();
    assert_eq!(emptied.revision(), before);
    let address = given(&ipam, "k.c1").await;
    assert!(net("10.0.0.12/30").contains(&address), "{address}");
}
