//! Tunnel devices and their forwarding entries.

use std::net::IpAddr;

use felix::desired::{AddrKey, Checksums, FdbKey, IfName, LinkSpec, Parent, Row, RowKey};
use felix::kernel::{KernelEvent, LinkState, Op, OpError};
use felix_io::Table;

use crate::namespace::kernel_test;
use crate::node::{Node, UNDERLAY, events_until, ip, ip_json, mac, net, route, via};

const NAME: &str = "vxlan.calico";

fn vxlan(vni: u32, mtu_bytes: Option<u32>) -> Row {
    let spec = LinkSpec::Vxlan {
        vni,
        port: 4789,
        local: ip("10.0.0.1"),
        parent: Parent::Device(UNDERLAY.into()),
        mac: mac(0x66),
        mtu_bytes,
        checksums: Checksums::AsIs,
    };
    Row::Link(NAME.into(), spec)
}

async fn state(node: &Node, name: &str) -> Option<LinkState> {
    let name = IfName::from(name);
    node.kernel
        .dump(Table::Links)
        .await
        .unwrap()
        .into_iter()
        .find_map(|event| match event {
            KernelEvent::Link(link) if link.ifname == name => Some(link),
            _ => None,
        })
}

kernel_test!(
    a_vxlan_device_is_made_with_all_its_parameters_and_adopted,
    async {
        let node = Node::new().await;
        let mut events = node.kernel.events().unwrap();
        node.set(vxlan(4096, None)).await;
        let link = state(&node, NAME).await.unwrap();
        assert!(link.up && link.mac == Some(mac(0x66)) && link.kind.as_deref() == Some("vxlan"));
        assert_eq!(link.mtu_bytes, 1400, "the parent's 1450 less 50");
        let rows = node.rows(Table::Links).await;
        assert_eq!(
            rows.get(&RowKey::Link(NAME.into())),
            Some(&vxlan(4096, Some(1400)))
        );
        let told = KernelEvent::RowSet(vxlan(4096, Some(1400)));
        let seen = events_until(&mut events, |event| *event == told).await;
        assert!(
            !seen.contains(&KernelEvent::RowGone(RowKey::Link(NAME.into()))),
            "{seen:?}"
        );
        if let Some(seen) = ip_json(&format!("-d link show {NAME}")) {
            let data = &seen[0]["linkinfo"]["info_data"];
            assert_eq!(data["id"], 4096);
            assert_eq!(data["port"], 4789);
            assert_eq!(data["local"], "10.0.0.1");
            assert_eq!(data["link"], UNDERLAY);
        }
    }
);

kernel_test!(
    an_mtu_is_changed_in_place_and_another_vni_makes_the_device_anew,
    async {
        let node = Node::new().await;
        node.set(vxlan(4096, None)).await;
        let first = state(&node, NAME).await.unwrap();
        node.set(vxlan(4096, None)).await;
        node.set(vxlan(4096, Some(1300))).await;
        let second = state(&node, NAME).await.unwrap();
        assert_eq!((second.ifindex, second.mtu_bytes), (first.ifindex, 1300));
        node.set(vxlan(4097, Some(1300))).await;
        let third = state(&node, NAME).await.unwrap();
        assert_ne!(third.ifindex, second.ifindex);
        node.remove(vxlan(4097, Some(1300))).await;
        node.remove(vxlan(4097, Some(1300))).await;
        assert_eq!(state(&node, NAME).await, None);
        // A device of somebody else that bears the name is not taken for it.
        let ipip = LinkSpec::Ipip { mtu_bytes: None };
        node.remove(Row::Link(UNDERLAY.into(), ipip)).await;
        assert!(state(&node, UNDERLAY).await.is_some());
    }
);

/// What `ethtool -k` says of the device: whether checksums are left to it.
fn leaves_checksums() -> Option<bool> {
    let output = std::process::Command::new("ethtool")
        .args(["--show-features", NAME])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text
        .lines()
        .find(|line| line.starts_with("tx-checksumming:"))?;
    Some(line.ends_with(" on"))
}

fn with(checksums: Checksums) -> Row {
    let mut row = vxlan(4096, Some(1400));
    if let Row::Link(_, LinkSpec::Vxlan { checksums: own, .. }) = &mut row {
        *own = checksums;
    }
    row
}

kernel_test!(
    a_vxlan_device_computes_checksums_where_hardware_gets_them_wrong_and_again_after_a_change,
    async {
        let node = Node::new().await;
        let key = RowKey::Link(NAME.into());
        node.set(with(Checksums::AsIs)).await;
        let made = state(&node, NAME).await.unwrap();
        assert_eq!(node.rows(Table::Links).await[&key], with(Checksums::AsIs));
        assert_ne!(leaves_checksums(), Some(false));
        // The setting alone: nothing that lies on the device goes.
        node.set(with(Checksums::Kernel)).await;
        let off = state(&node, NAME).await.unwrap();
        assert_eq!(off.ifindex, made.ifindex);
        assert_eq!(node.rows(Table::Links).await[&key], with(Checksums::Kernel));
        assert_ne!(leaves_checksums(), Some(true));
        // What an operator has turned off stays so.
        node.set(with(Checksums::AsIs)).await;
        assert_eq!(node.rows(Table::Links).await[&key], with(Checksums::Kernel));
        // A device that is made anew has it from the beginning of its use, and who turns it on is told of.
        node.remove(with(Checksums::Kernel)).await;
        let mut events = node.kernel.events().unwrap();
        node.set(with(Checksums::Kernel)).await;
        let told = KernelEvent::RowSet(with(Checksums::Kernel));
        events_until(&mut events, |event| *event == told).await;
        let turned = std::process::Command::new("ethtool")
            .args(["--features", NAME, "tx", "on"])
            .output();
        if turned.is_ok_and(|output| output.status.success()) {
            let told = KernelEvent::RowSet(with(Checksums::AsIs));
            events_until(&mut events, |event| *event == told).await;
        }
    }
);

kernel_test!(a_vxlan_device_without_a_parent_is_made_and_adopted, async {
    let node = Node::new().await;
    let mut routed = vxlan(4096, Some(1400));
    if let Row::Link(_, LinkSpec::Vxlan { parent, .. }) = &mut routed {
        *parent = Parent::Routed;
    }
    node.set(routed.clone()).await;
    let made = state(&node, NAME).await.unwrap();
    assert!(made.up && made.mtu_bytes == 1400);
    node.set(routed.clone()).await;
    let adopted = state(&node, NAME).await.unwrap();
    assert_eq!(made.ifindex, adopted.ifindex);
    let rows = node.rows(Table::Links).await;
    assert_eq!(rows.get(&routed.key()), Some(&routed));
    if let Some(seen) = ip_json(&format!("-d link show {NAME}")) {
        assert_eq!(
            seen[0]["linkinfo"]["info_data"]["link"],
            serde_json::Value::Null
        );
    }
    // With a parent it is another device.
    node.set(vxlan(4096, Some(1400))).await;
    assert_ne!(state(&node, NAME).await.unwrap().ifindex, made.ifindex);
});

kernel_test!(a_vxlan_device_waits_for_its_parent, async {
    let node = Node::new().await;
    let Row::Link(
        name,
        LinkSpec::Vxlan {
            vni,
            port,
            local,
            mac,
            mtu_bytes,
            ..
        },
    ) = vxlan(1, None)
    else {
        unreachable!()
    };
    let spec = LinkSpec::Vxlan {
        vni,
        port,
        local,
        parent: Parent::Device("eth9".into()),
        mac,
        mtu_bytes,
        checksums: Checksums::AsIs,
    };
    let result = node.try_op(Op::Set(Row::Link(name, spec))).await;
    assert_eq!(result, Err(OpError::NoDevice("eth9".into())));
});

kernel_test!(a_forwarding_entry_is_adopted_replaced_and_removed, async {
    let node = Node::new().await;
    node.set(vxlan(4096, None)).await;
    let key = FdbKey {
        ifname: NAME.into(),
        mac: mac(7),
    };
    let entry = |remote: IpAddr| Row::Fdb(key.clone(), remote);
    node.set(entry(ip("10.0.0.7"))).await;
    let foreign = Row::Fdb(
        FdbKey {
            mac: mac(8),
            ..key.clone()
        },
        ip("10.0.0.8"),
    );
    node.set(foreign.clone()).await;
    let mut events = node.kernel.events().unwrap();
    node.set(entry(ip("10.0.0.9"))).await;
    let last = KernelEvent::RowSet(entry(ip("10.0.0.9")));
    assert_eq!(
        events_until(&mut events, |event| *event == last).await,
        [last]
    );
    let rows = node.rows(Table::Fdb).await;
    assert_eq!(
        rows.get(&RowKey::Fdb(key.clone())),
        Some(&entry(ip("10.0.0.9")))
    );
    // The remote that was replaced is not there any more, and the present one is not meant.
    node.remove(entry(ip("10.0.0.7"))).await;
    assert!(
        node.rows(Table::Fdb)
            .await
            .contains_key(&RowKey::Fdb(key.clone()))
    );
    node.remove(entry(ip("10.0.0.9"))).await;
    node.remove(entry(ip("10.0.0.9"))).await;
    let gone = KernelEvent::RowGone(RowKey::Fdb(key.clone()));
    events_until(&mut events, |event| *event == gone).await;
    let rows = node.rows(Table::Fdb).await;
    assert_eq!(rows.into_values().collect::<Vec<_>>(), [foreign]);
});

kernel_test!(a_whole_peer_is_set_in_one_list_with_its_device, async {
    let node = Node::new().await;
    let rows = [
        vxlan(4096, None),
        Row::Addr(AddrKey {
            ifname: NAME.into(),
            addr: net("10.65.0.0/32"),
        }),
        Row::Fdb(
            FdbKey {
                ifname: NAME.into(),
                mac: mac(7),
            },
            ip("10.0.0.7"),
        ),
        Row::Neigh(
            felix::desired::NeighKey {
                ifname: NAME.into(),
                addr: ip("10.65.1.0"),
            },
            mac(7),
        ),
        route("10.65.1.0/26", {
            let mut hops = via("10.65.1.0", NAME);
            hops[0].onlink = true;
            hops
        }),
    ];
    let results = node
        .kernel
        .apply(rows.iter().cloned().map(Op::Set).collect())
        .await;
    for (key, result) in results {
        assert_eq!(result, Ok(()), "{key:?}");
    }
    // Its rows go with the device, and whoever listens can tell.
    let mut events = node.kernel.events().unwrap();
    node.remove(rows[0].clone()).await;
    let gone = KernelEvent::LinkGone(NAME.into());
    let seen = events_until(&mut events, |event| *event == gone).await;
    let row_gone = KernelEvent::RowGone(RowKey::Link(NAME.into()));
    assert!(seen.contains(&row_gone), "{seen:?}");
    assert!(!node.rows(Table::Routes).await.contains_key(&rows[4].key()));
});

kernel_test!(
    vxlan_over_ipv6_stands_beside_that_over_ipv4_with_rows_of_its_own,
    async {
        let node = Node::new().await;
        const V6: &str = "vxlan-v6.calico";
        let device = Row::Link(
            V6.into(),
            LinkSpec::Vxlan {
                vni: 4096,
                port: 4789,
                local: ip("fd00::1"),
                parent: Parent::Device(UNDERLAY.into()),
                mac: mac(0x67),
                mtu_bytes: Some(1380),
                checksums: Checksums::AsIs,
            },
        );
        let mut hops = via("fd10:0:0:1::", V6);
        hops[0].onlink = true;
        let mut block = route("fd10:0:0:1::/122", hops);
        if let Row::Route(key, spec) = &mut block {
            key.metric = 1024;
            spec.mtu_bytes = Some(1380);
        }
        let peer = [
            Row::Addr(AddrKey {
                ifname: V6.into(),
                addr: net("fd10::/128"),
            }),
            Row::Fdb(
                FdbKey {
                    ifname: V6.into(),
                    mac: mac(7),
                },
                ip("fd00::7"),
            ),
            Row::Neigh(
                felix::desired::NeighKey {
                    ifname: V6.into(),
                    addr: ip("fd10:0:0:1::"),
                },
                mac(7),
            ),
            block,
        ];
        let wanted = [vec![vxlan(4096, None), device.clone()], peer.to_vec()].concat();
        // Twice: what is there is adopted.
        for _ in 0..2 {
            let ops = wanted.iter().cloned().map(Op::Set).collect();
            for (key, result) in node.kernel.apply(ops).await {
                assert_eq!(result, Ok(()), "{key:?}");
            }
        }
        let tables = [
            Table::Links,
            Table::Addrs,
            Table::Fdb,
            Table::Neighbours,
            Table::Routes,
        ];
        let mut seen = std::collections::BTreeMap::new();
        for table in tables {
            seen.extend(node.rows(table).await);
        }
        for row in [vec![device], peer.to_vec()].concat() {
            assert_eq!(seen.get(&row.key()), Some(&row));
        }
        if let Some(seen) = ip_json(&format!("-d link show {V6}")) {
            let data = &seen[0]["linkinfo"]["info_data"];
            assert_eq!(data["local6"], "fd00::1", "{data}");
            assert_eq!(data["link"], UNDERLAY);
        }
    }
);

kernel_test!(tunl0_is_raised_or_its_module_is_named, async {
    let node = Node::new().await;
    let row = Row::Link(
        "tunl0".into(),
        LinkSpec::Ipip {
            mtu_bytes: Some(1430),
        },
    );
    match node.try_op(Op::Set(row.clone())).await {
        Ok(()) => {
            assert_eq!(node.rows(Table::Links).await.get(&row.key()), Some(&row));
            node.set(row).await;
        }
        Err(OpError::Unsupported(text)) => {
            assert!(
                text.contains("tunl0") && text.contains("modprobe ipip"),
                "{text}"
            );
        }
        Err(error) => panic!("{error}"),
    }
});

kernel_test!(
    a_block_of_ipv6_that_was_reached_without_tunnel_is_led_through_it_in_one_step,
    async {
        let node = Node::new().await;
        const V6: &str = "vxlan-v6.calico";
        let device = Row::Link(
            V6.into(),
            LinkSpec::Vxlan {
                vni: 4096,
                port: 4789,
                local: ip("fd00::1"),
                parent: Parent::Device(UNDERLAY.into()),
                mac: mac(0x67),
                mtu_bytes: Some(1380),
                checksums: Checksums::AsIs,
            },
        );
        let to_block = |hop: (&str, &str)| {
            let mut hops = via(hop.0, hop.1);
            hops[0].onlink = true;
            let mut block = route("fd10:0:0:1::/122", hops);
            if let Row::Route(key, _) = &mut block {
                key.metric = 1024;
            }
            block
        };
        let plain = to_block(("fd00::7", UNDERLAY));
        let through = to_block(("fd10:0:0:1::", V6));
        for row in [device, plain] {
            node.set(row).await;
        }
        let mut events = node.kernel.events().unwrap();
        // The gateway lies in the block, which leads elsewhere so far.
        node.set(through.clone()).await;
        let told = KernelEvent::RowSet(through.clone());
        let seen = events_until(&mut events, |event| *event == told).await;
        assert!(
            !seen.contains(&KernelEvent::RowGone(through.key())),
            "{seen:?}"
        );
        let routes = node.rows(Table::Routes).await;
        assert_eq!(routes.get(&through.key()), Some(&through));
        let more = routes
            .keys()
            .find(|key| matches!(key, RowKey::Route(key) if key.dst == net("fd10:0:0:1::/128")));
        assert_eq!(more, None, "what was there for a moment");
    }
);
