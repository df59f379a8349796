//! A new reconciler on a kernel that an old one filled: what is wanted is adopted without a write,
//! own orphans go, foreign rows stay.

use std::time::Instant;

use felix::desired::{
    AddrKey, Checksums, FdbKey, LinkSpec, NeighKey, Parent, RouteKind, Row, RowKind, SysctlKey,
};
use felix::kernel::{KernelEvent, Op};
use felix::ownership::{BgpRoutes, ExternalRoutes, Ownership, VXLAN_DEVICE};
use felix::reconcile::Reconciler;
use felix_io::Table;
use tokio::sync::mpsc::Receiver;

use crate::namespace::kernel_test;
use crate::node::{Node, Pod, UNDERLAY, ip, mac, net, pod_route, route, via};

pub(crate) fn reconciler() -> Reconciler {
    Reconciler::new(Ownership {
        interface_prefixes: vec!["cali".to_owned()],
        device_route_protocol: 3,
        bgp_routes: BgpRoutes::Ours,
        external_routes: ExternalRoutes::Remove,
    })
}

/// One row of each kind that a node with one pod and one VXLAN peer wants.
fn wanted(pod: &Pod) -> Vec<Row> {
    let vxlan = LinkSpec::Vxlan {
        vni: 4096,
        port: 4789,
        local: ip("10.0.0.1"),
        parent: Parent::Device(UNDERLAY.into()),
        mac: mac(0x66),
        mtu_bytes: Some(1400),
        checksums: Checksums::AsIs,
    };
    let pod_ifname = pod.attached.host_ifname.clone();
    let proxy_arp = format!("net/ipv4/conf/{pod_ifname}/proxy_arp");
    let mut tunnelled = via("10.65.1.0", VXLAN_DEVICE);
    tunnelled[0].onlink = true;
    vec![
        Row::Link(VXLAN_DEVICE.into(), vxlan),
        Row::Addr(AddrKey {
            ifname: VXLAN_DEVICE.into(),
            addr: net("10.65.0.0/32"),
        }),
        Row::Fdb(
            FdbKey {
                ifname: VXLAN_DEVICE.into(),
                mac: mac(7),
            },
            ip("10.0.0.7"),
        ),
        Row::Neigh(
            NeighKey {
                ifname: VXLAN_DEVICE.into(),
                addr: ip("10.65.1.0"),
            },
            mac(7),
        ),
        Row::Neigh(
            NeighKey {
                ifname: pod_ifname.clone(),
                addr: pod.addr,
            },
            pod.attached.pod_mac,
        ),
        Row::Sysctl(SysctlKey(proxy_arp.into()), "1".into()),
        route("10.65.1.0/26", tunnelled),
        route("10.65.2.0/26", via("10.0.0.3", UNDERLAY)),
        pod_route(pod.addr, &pod_ifname.0),
    ]
}

/// Reads the kernel and carries out what comes of it; the operations there were.
pub(crate) async fn reconcile(node: &Node, reconciler: &mut Reconciler) -> Vec<Op> {
    let kinds = [
        RowKind::Link,
        RowKind::Addr,
        RowKind::NextHop,
        RowKind::Route,
        RowKind::Neigh,
        RowKind::Fdb,
    ];
    for (table, kind) in Table::ALL.into_iter().zip(kinds) {
        reconciler.resync_begin(kind);
        for event in node.kernel.dump(table).await.unwrap() {
            match event {
                KernelEvent::RowSet(row) => reconciler.resync_entry(row),
                event => reconciler.kernel_event(&event),
            }
        }
        reconciler.resync_end(kind);
    }
    let mut done = Vec::new();
    loop {
        let mut ops = Vec::new();
        while let Some(op) = reconciler.poll_op(512 - ops.len()) {
            ops.push(op);
        }
        if ops.is_empty() {
            return done;
        }
        done.extend(ops.iter().cloned());
        for (key, result) in node.kernel.apply(ops).await {
            result
                .as_ref()
                .unwrap_or_else(|error| panic!("{key:?}: {error}"));
            reconciler.handle_result(Instant::now(), &key, result);
        }
    }
}

/// Events that have come up to now: those before a route that comes and goes.
pub(crate) async fn drain(node: &Node, events: &mut Receiver<KernelEvent>) -> Vec<KernelEvent> {
    let marker = route("192.0.2.0/32", via("10.0.0.3", UNDERLAY));
    node.set(marker.clone()).await;
    node.remove(marker.clone()).await;
    let last = KernelEvent::RowGone(marker.key());
    let mut seen = crate::node::events_until(events, |event| *event == last).await;
    seen.retain(|event| *event != last && *event != KernelEvent::RowSet(marker.clone()));
    seen
}

kernel_test!(
    a_new_process_adopts_all_that_is_wanted_and_removes_its_own_orphans_only,
    async {
        let node = Node::new().await;
        let pod = node.pod(1).await;
        let mut first = reconciler();
        for row in wanted(&pod) {
            first.set(row);
        }
        first.allow_deletes();
        first.allow_bgp_deletes();
        reconcile(&node, &mut first).await;
        assert!(first.is_converged(), "{:?}", first.problems());
        for row in wanted(&pod) {
            assert!(first.is_programmed(&row.key()), "{row:?}");
        }
        drop(first);

        let mut orphan = route("10.65.9.0/26", via("10.0.0.3", UNDERLAY));
        let mut foreign = route("10.99.0.0/16", via("10.0.0.3", UNDERLAY));
        // What BIRD makes of a route whose next hop it cannot reach.
        let mut dead = route("10.65.10.0/26", Vec::new());
        for (row, protocol) in [(&mut orphan, 12), (&mut dead, 12), (&mut foreign, 4)] {
            let Row::Route(_, spec) = row else {
                unreachable!()
            };
            spec.protocol = protocol;
            if spec.next_hops.is_empty() {
                spec.kind = RouteKind::Unreachable;
            }
            node.set(row.clone()).await;
        }
        let mut events = node.kernel.events().unwrap();
        let mut second = reconciler();
        for row in wanted(&pod) {
            second.set(row);
        }
        second.allow_deletes();
        second.allow_bgp_deletes();
        let ops = reconcile(&node, &mut second).await;
        let writes: Vec<&Op> = ops
            .iter()
            .filter(|op| !matches!(op, Op::Set(Row::Sysctl(..))))
            .collect();
        assert_eq!(
            writes,
            [&Op::Remove(orphan.clone()), &Op::Remove(dead.clone())],
            "all that is wanted was there already"
        );
        assert!(second.is_converged(), "{:?}", second.problems());
        let mut seen = drain(&node, &mut events).await;
        seen.retain(|event| matches!(event, KernelEvent::RowGone(_) | KernelEvent::LinkGone(_)));
        assert_eq!(
            seen,
            [orphan.key(), dead.key()].map(KernelEvent::RowGone),
            "two deletes, no other"
        );
        let routes = node.rows(Table::Routes).await;
        assert_eq!(routes.get(&foreign.key()), Some(&foreign));
        assert_eq!(routes.get(&wanted(&pod)[6].key()), Some(&wanted(&pod)[6]));
    }
);

kernel_test!(
    routes_that_go_with_the_last_address_of_a_device_are_back_after_its_notification,
    async {
        let node = Node::new().await;
        let pod = node.pod(1).await;
        let mut events = node.kernel.events().unwrap();
        let mut reconciler = reconciler();
        for row in wanted(&pod) {
            reconciler.set(row);
        }
        reconcile(&node, &mut reconciler).await;
        let linked = AddrKey {
            ifname: pod.attached.host_ifname.clone(),
            addr: net("169.254.1.1/32"),
        };
        node.set(Row::Addr(linked.clone())).await;
        for event in drain(&node, &mut events).await {
            reconciler.kernel_event(&event);
        }
        let (tunnelled, direct) = (wanted(&pod)[6].clone(), wanted(&pod)[8].clone());
        for (address, route) in [
            (Row::Addr(linked), direct),
            (wanted(&pod)[1].clone(), tunnelled),
        ] {
            node.remove(address).await;
            assert!(!node.rows(Table::Routes).await.contains_key(&route.key()));
            for event in drain(&node, &mut events).await {
                reconciler.kernel_event(&event);
            }
            while let Some(op) = reconciler.poll_op(1) {
                for (key, result) in node.kernel.apply(vec![op]).await {
                    reconciler.handle_result(Instant::now(), &key, result);
                }
            }
            let mut there = node.rows(Table::Routes).await;
            assert_eq!(there.get(&route.key()), Some(&route));
            for table in [Table::Neighbours, Table::Addrs] {
                there.append(&mut node.rows(table).await);
            }
            for row in &wanted(&pod)[3..5] {
                assert_eq!(there.get(&row.key()), Some(row), "neighbours go with it");
            }
        }
    }
);

kernel_test!(
    what_somebody_else_spoils_is_put_right_after_a_notification,
    async {
        let node = Node::new().await;
        let pod = node.pod(1).await;
        let mut events = node.kernel.events().unwrap();
        let mut reconciler = reconciler();
        for row in wanted(&pod) {
            reconciler.set(row);
        }
        reconciler.allow_deletes();
        reconcile(&node, &mut reconciler).await;
        for event in drain(&node, &mut events).await {
            reconciler.kernel_event(&event);
        }
        let spoilt = wanted(&pod)[7].clone();
        node.remove(spoilt).await;
        node.remove(wanted(&pod)[0].clone()).await;
        for event in drain(&node, &mut events).await {
            reconciler.kernel_event(&event);
        }
        while let Some(op) = reconciler.poll_op(1) {
            for (key, result) in node.kernel.apply(vec![op]).await {
                reconciler.handle_result(Instant::now(), &key, result);
            }
            let told = drain(&node, &mut events).await;
            told.iter().for_each(|event| reconciler.kernel_event(event));
        }
        let mut there = node.rows(Table::Routes).await;
        for table in Table::ALL {
            there.append(&mut node.rows(table).await);
        }
        for row in wanted(&pod) {
            if !matches!(row, Row::Sysctl(..)) {
                assert_eq!(
                    there.get(&row.key()),
                    Some(&row),
                    "{:?}",
                    reconciler.problems()
                );
            }
        }
    }
);
