//! Each kind of row: set, adopted, replaced without a gap, foreign ones left alone, removed.

use felix::desired::{
    AddrKey, Hops, NeighKey, NextHop, RouteKey, RouteKind, RouteSpec, Row, RowKey, SysctlKey,
};
use felix::kernel::{KernelEvent, Op, OpError};
use felix_io::{Kernel, Table, host, sysctl};

use crate::namespace::kernel_test;
use crate::node::{
    Node, UNDERLAY, events_until, ip, ip_json, mac, net, pod_route, route, route_key, spec, via,
};

/// Every form of route that is written.
fn all_routes() -> Vec<Row> {
    let onlink = NextHop {
        gateway: Some(ip("192.0.2.7")),
        ifname: Some(UNDERLAY.into()),
        onlink: true,
    };
    let two = [via("10.0.0.3", UNDERLAY), via("10.0.0.4", UNDERLAY)].concat();
    let with = |dst: &str, change: &dyn Fn(&mut RouteSpec)| {
        let mut value = spec(via("10.0.0.3", UNDERLAY));
        change(&mut value);
        Row::Route(route_key(dst), value)
    };
    let mut metric = route_key("10.65.7.0/26");
    metric.metric = 1024;
    vec![
        route("10.65.1.0/26", via("10.0.0.3", UNDERLAY)),
        route("10.65.2.0/26", vec![onlink]),
        route("10.65.3.0/26", two),
        with("10.65.4.0/26", &|spec| {
            (spec.kind, spec.next_hops) = (RouteKind::Blackhole, Hops::default())
        }),
        with("10.65.9.0/26", &|spec| {
            (spec.kind, spec.next_hops) = (RouteKind::Unreachable, Hops::default())
        }),
        with("10.65.10.0/26", &|spec| {
            (spec.kind, spec.next_hops) = (RouteKind::Prohibit, Hops::default())
        }),
        with("10.65.5.0/26", &|spec| spec.prefsrc = Some(ip("10.0.0.1"))),
        with("10.65.6.0/26", &|spec| {
            (spec.mtu_bytes, spec.protocol) = (Some(1400), 80)
        }),
        Row::Route(metric, spec(via("10.0.0.3", UNDERLAY))),
        pod_route(ip("10.65.8.1"), UNDERLAY),
    ]
}

kernel_test!(every_form_of_route_is_read_back_as_it_was_set, async {
    let node = Node::new().await;
    for row in all_routes() {
        node.set(row).await;
    }
    let rows = node.rows(Table::Routes).await;
    for row in all_routes() {
        assert_eq!(rows.get(&row.key()), Some(&row));
    }
    if let Some(seen) = ip_json("route show 10.65.6.0/26") {
        assert_eq!(seen[0]["protocol"], "80");
        assert_eq!(seen[0]["metrics"][0]["mtu"], 1400);
        assert_eq!(seen[0]["gateway"], "10.0.0.3");
    }
    for row in all_routes() {
        node.remove(row).await;
    }
    let rows = node.rows(Table::Routes).await;
    assert!(
        all_routes()
            .iter()
            .all(|row| !rows.contains_key(&row.key())),
        "{rows:?}"
    );
    // What is gone may be removed again.
    node.remove(all_routes()[0].clone()).await;
});

kernel_test!(a_removal_takes_the_route_it_means_and_no_other, async {
    let node = Node::new().await;
    let changed = |row: &Row, change: &dyn Fn(&mut RouteKey, &mut RouteSpec)| {
        let Row::Route(mut key, mut value) = row.clone() else {
            unreachable!("all are routes")
        };
        change(&mut key, &mut value);
        Row::Route(key, value)
    };
    for row in all_routes() {
        let foreign = [
            changed(&row, &|key, value| {
                (key.metric, value.protocol) = (50, 4);
            }),
            changed(&row, &|key, value| {
                key.metric = 60;
                value.kind = RouteKind::Unicast;
                value.scope = 0;
                value.next_hops = via("10.0.0.9", UNDERLAY).into();
            }),
        ];
        for row in &foreign {
            node.set(row.clone()).await;
        }
        node.set(row.clone()).await;
        // The second removal meets the foreign ones only: without a metric any of them would do.
        node.remove(row.clone()).await;
        node.remove(row.clone()).await;
        let rows = node.rows(Table::Routes).await;
        assert!(!rows.contains_key(&row.key()), "{row:?}");
        for foreign in foreign {
            assert_eq!(rows.get(&foreign.key()), Some(&foreign), "beside {row:?}");
            node.remove(foreign).await;
        }
    }
});

kernel_test!(an_ipv6_route_is_read_back_as_it_was_set, async {
    let node = Node::new().await;
    node.set(Row::Addr(AddrKey {
        ifname: UNDERLAY.into(),
        addr: net("fd00::1/64"),
    }))
    .await;
    let keyed = |row: Row| match row {
        Row::Route(mut key, spec) => {
            key.metric = 1024;
            Row::Route(key, spec)
        }
        row => row,
    };
    let blackhole = RouteSpec {
        kind: RouteKind::Blackhole,
        ..spec(Vec::new())
    };
    let rows = [
        keyed(route("fd65:1::/122", via("fd00::2", UNDERLAY))),
        keyed(pod_route(ip("fd65::1"), UNDERLAY)),
        keyed(Row::Route(route_key("fd65:2::/122"), blackhole)),
    ];
    for row in &rows {
        node.set(row.clone()).await;
    }
    let seen = node.rows(Table::Routes).await;
    for row in &rows {
        assert_eq!(seen.get(&row.key()), Some(row));
        node.remove(row.clone()).await;
    }
});

kernel_test!(
    a_route_is_replaced_without_a_moment_in_which_it_is_absent,
    async {
        let node = Node::new().await;
        let old = route("10.65.1.0/26", via("10.0.0.3", UNDERLAY));
        node.set(old.clone()).await;
        let mut events = node.kernel.events().unwrap();
        let new = Row::Route(
            route_key("10.65.1.0/26"),
            RouteSpec {
                kind: RouteKind::Blackhole,
                protocol: 80,
                ..spec(Vec::new())
            },
        );
        node.set(new.clone()).await;
        let last = KernelEvent::RowSet(new.clone());
        let seen = events_until(&mut events, |event| *event == last).await;
        assert_eq!(seen, [last], "an in-place change is one event");
        assert_eq!(node.rows(Table::Routes).await.get(&old.key()), Some(&new));
    }
);

kernel_test!(
    the_error_of_one_operation_names_it_and_leaves_the_others_alone,
    async {
        let node = Node::new().await;
        let good = |n: u32| route(&format!("10.65.{n}.0/26"), via("10.0.0.3", UNDERLAY));
        let ops = vec![
            Op::Set(good(1)),
            Op::Set(route("10.65.2.0/26", via("10.0.0.3", "eth9"))),
            Op::Set(route("10.65.3.0/26", via("203.0.113.9", UNDERLAY))),
            Op::Set(Row::Neigh(
                NeighKey {
                    ifname: "eth9".into(),
                    addr: ip("10.0.0.9"),
                },
                mac(9),
            )),
            Op::Remove(Row::Neigh(
                NeighKey {
                    ifname: "eth9".into(),
                    addr: ip("10.0.0.9"),
                },
                mac(9),
            )),
            Op::Set(Row::Addr(AddrKey {
                ifname: UNDERLAY.into(),
                addr: net("127.0.0.0/32"),
            })),
            Op::Set(Row::Route(
                route_key("10.65.4.0/26"),
                RouteSpec {
                    prefsrc: Some(ip("10.9.9.9")),
                    ..spec(via("10.0.0.3", UNDERLAY))
                },
            )),
            Op::Set(good(5)),
        ];
        let keys: Vec<RowKey> = ops.iter().map(Op::key).collect();
        let (seen_keys, results): (Vec<_>, Vec<_>) =
            node.kernel.apply(ops).await.into_iter().unzip();
        assert_eq!(seen_keys, keys);
        assert_eq!(results[0], Ok(()));
        assert_eq!(results[1], Err(OpError::NoDevice("eth9".into())));
        assert_eq!(results[2], Err(OpError::Unreachable));
        assert_eq!(results[3], Err(OpError::NoDevice("eth9".into())));
        assert_eq!(
            results[4],
            Ok(()),
            "a device that is gone took its rows along"
        );
        let Err(OpError::Kernel {
            errno: libc::EINVAL,
            text,
        }) = &results[6]
        else {
            panic!("{:?}", results[6]);
        };
        assert!(
            text.contains("Invalid prefsrc address"),
            "the kernel's own words: {text}"
        );
        assert_eq!(results[7], Ok(()));
    }
);

kernel_test!(ten_thousand_routes_go_in_and_out_as_one_list, async {
    let node = Node::new().await;
    let before = node.rows(Table::Routes).await;
    let routes: Vec<Row> = (0..10_000u32)
        .map(|n| {
            let dst = std::net::Ipv4Addr::from((10 << 24) | (66 << 16) | n);
            route(&format!("{dst}/32"), via("10.0.0.3", UNDERLAY))
        })
        .collect();
    let start = std::time::Instant::now();
    let results = node
        .kernel
        .apply(routes.iter().cloned().map(Op::Set).collect())
        .await;
    println!("10000 routes in {:?}", start.elapsed());
    assert_eq!(results.len(), routes.len());
    assert!(results.iter().all(|(_, result)| result.is_ok()));
    let seen = node.rows(Table::Routes).await;
    assert_eq!(seen.len(), before.len() + routes.len());
    assert!(routes.iter().all(|row| seen.get(&row.key()) == Some(row)));
    let ops = routes.iter().cloned().map(Op::Remove).collect();
    assert!(
        node.kernel
            .apply(ops)
            .await
            .iter()
            .all(|(_, result)| result.is_ok())
    );
    assert_eq!(
        node.rows(Table::Routes).await,
        before,
        "foreign routes survive"
    );
});

kernel_test!(
    a_permanent_neighbour_is_adopted_replaced_and_removed,
    async {
        let node = Node::new().await;
        let key = NeighKey {
            ifname: UNDERLAY.into(),
            addr: ip("10.0.0.9"),
        };
        let foreign = Row::Neigh(
            NeighKey {
                ifname: UNDERLAY.into(),
                addr: ip("10.0.0.8"),
            },
            mac(8),
        );
        node.set(foreign.clone()).await;
        node.set(Row::Neigh(key.clone(), mac(9))).await;
        let mut events = node.kernel.events().unwrap();
        let new = Row::Neigh(key.clone(), mac(10));
        node.set(new.clone()).await;
        let last = KernelEvent::RowSet(new.clone());
        assert_eq!(
            events_until(&mut events, |event| *event == last).await,
            [last]
        );
        assert_eq!(
            node.rows(Table::Neighbours).await.get(&new.key()),
            Some(&new)
        );
        if let Some(seen) = ip_json("neigh show 10.0.0.9") {
            assert_eq!(seen[0]["lladdr"], mac(10).to_string());
            assert_eq!(seen[0]["state"][0], "PERMANENT");
        }
        node.remove(new.clone()).await;
        let gone = KernelEvent::RowGone(new.key());
        events_until(&mut events, |event| *event == gone).await;
        let left = node.rows(Table::Neighbours).await;
        assert_eq!(left.get(&foreign.key()), Some(&foreign));
        assert_eq!(left.get(&new.key()), None);
    }
);

kernel_test!(an_address_is_adopted_told_and_removed, async {
    let node = Node::new().await;
    let mut events = node.kernel.events().unwrap();
    let key = AddrKey {
        ifname: UNDERLAY.into(),
        addr: net("10.65.0.1/32"),
    };
    node.set(Row::Addr(key.clone())).await;
    node.set(Row::Addr(key.clone())).await;
    let told = KernelEvent::HostAddr {
        ifname: UNDERLAY.into(),
        addr: net("10.65.0.1/32"),
    };
    events_until(&mut events, |event| *event == told).await;
    let rows = node.rows(Table::Addrs).await;
    assert!(rows.contains_key(&RowKey::Addr(key.clone())));
    let listed = host::interfaces().unwrap();
    let eth0 = listed
        .iter()
        .find(|interface| interface.ifname == UNDERLAY.into())
        .unwrap();
    assert!(eth0.up && eth0.mac == Some(mac(1)) && eth0.mtu_bytes == 1450);
    assert!(eth0.addresses.contains(&net("10.0.0.1/24")));
    assert!(eth0.addresses.contains(&net("10.65.0.1/32")));
    node.remove(Row::Addr(key.clone())).await;
    node.remove(Row::Addr(key.clone())).await;
    let gone = KernelEvent::HostAddrGone {
        ifname: UNDERLAY.into(),
        addr: net("10.65.0.1/32"),
    };
    events_until(&mut events, |event| *event == gone).await;
    let foreign = RowKey::Addr(AddrKey {
        addr: net("10.0.0.1/24"),
        ..key.clone()
    });
    let rows = node.rows(Table::Addrs).await;
    assert!(rows.contains_key(&foreign) && !rows.contains_key(&RowKey::Addr(key)));
});

kernel_test!(a_sysctl_is_written_in_the_kernels_own_namespace, async {
    let node = Node::new().await;
    let key = SysctlKey(format!("net/ipv4/conf/{UNDERLAY}/proxy_arp").into());
    node.set(Row::Sysctl(key.clone(), "1".into())).await;
    assert_eq!(sysctl::read(&key).unwrap(), "1");
    node.set(Row::Sysctl(key.clone(), "0".into())).await;
    assert_eq!(sysctl::read(&key).unwrap(), "0");
    let missing = SysctlKey("net/ipv4/conf/cali0/proxy_arp".into());
    let error = node.try_op(Op::Set(Row::Sysctl(missing, "1".into()))).await;
    assert_eq!(error, Err(OpError::NoDevice("cali0".into())));
    let wrong = SysctlKey(format!("net/ipv4/conf/{UNDERLAY}/proxy_urp").into());
    let Err(OpError::Kernel {
        errno: libc::ENOENT,
        text,
    }) = node.try_op(Op::Set(Row::Sysctl(wrong, "1".into()))).await
    else {
        panic!("a file that does not exist was written");
    };
    assert!(text.contains("proxy_urp") && text.contains("`1`"), "{text}");
});

kernel_test!(
    changed_sysctls_are_notified_or_read_and_a_mac_is_set,
    async {
        let node = Node::new().await;
        let mut events = node.kernel.events().unwrap();
        let own = |name: &str, value: &str| {
            let key = SysctlKey(format!("net/ipv4/conf/{UNDERLAY}/{name}").into());
            Row::Sysctl(key, value.into())
        };
        let forward =
            |value: &str| Row::Sysctl(SysctlKey("net/ipv4/ip_forward".into()), value.into());
        // Under its other name, too; and it takes each device's own along.
        let all = SysctlKey("net/ipv4/conf/all/forwarding".into());
        for (written, notified) in [
            (own("proxy_arp", "0"), own("proxy_arp", "0")),
            (own("rp_filter", "2"), own("rp_filter", "2")),
            (forward("0"), forward("0")),
            (Row::Sysctl(all.clone(), "1".into()), forward("1")),
            (Row::Sysctl(all, "0".into()), own("forwarding", "0")),
        ] {
            node.set(written).await;
            let last = KernelEvent::RowSet(notified);
            events_until(&mut events, |event| *event == last).await;
        }
        let localnet = own("route_localnet", "1");
        node.set(localnet.clone()).await;
        let (Row::Sysctl(key, _), Row::Sysctl(gone, _)) = (&localnet, own("nothing", "1")) else {
            unreachable!("both are sysctls")
        };
        let read = node
            .kernel
            .read_sysctls(vec![key.clone(), gone.clone()])
            .await;
        let absent = KernelEvent::RowGone(RowKey::Sysctl(gone));
        assert_eq!(read, [KernelEvent::RowSet(localnet), absent]);

        node.set(Row::Mac(UNDERLAY.into(), mac(9))).await;
        let is_told = |event: &KernelEvent| matches!(event, KernelEvent::Link(link) if link.mac == Some(mac(9)));
        events_until(&mut events, is_told).await;
        if let Some(seen) = ip_json(&format!("link show {UNDERLAY}")) {
            assert_eq!(seen[0]["address"], mac(9).to_string());
        }
    }
);

kernel_test!(a_new_handle_adopts_what_an_old_one_left, async {
    let node = Node::new().await;
    for row in all_routes() {
        node.set(row).await;
    }
    let Node { kernel, .. } = &node;
    let before = node.rows(Table::Routes).await;
    let _ended = kernel.clone();
    let after = Kernel::open().unwrap();
    let events = after.dump(Table::Routes).await.unwrap();
    assert_eq!(events.len(), before.len());
});

kernel_test!(
    a_process_without_the_right_is_told_which_one_it_lacks,
    async {
        use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
        let node = Node::new().await;
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::NET_ADMIN);
        sets.permitted.remove(CapabilitySet::NET_ADMIN);
        set_capabilities(None, sets).unwrap();
        let kernel = Kernel::open().unwrap();
        let rows = [
            route("10.9.0.0/16", via("10.0.0.2", UNDERLAY)),
            Row::Rules(
                felix::rules::Family::V4,
                felix::rules::Ruleset::default().into(),
            ),
        ];
        let ops = rows.iter().cloned().map(Op::Set).collect();
        for (key, result) in kernel.apply(ops).await {
            let said = result.unwrap_err().to_string();
            assert!(
                said.contains("the agent needs CAP_NET_ADMIN"),
                "{key}: {said}"
            );
        }
        // It reads all the same, and writes what it may.
        assert_ne!(kernel.dump(felix_io::Table::Routes).await, Ok(Vec::new()));
        for table in [felix_io::Table::Rules, felix_io::Table::Leftovers] {
            assert_eq!(kernel.dump(table).await, Ok(Vec::new()), "{table:?}");
        }
        assert_eq!(node.rows(felix_io::Table::Rules).await.len(), 0);
    }
);
