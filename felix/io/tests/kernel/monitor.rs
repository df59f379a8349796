//! Notifications: lost ones are told, and reading again gives the truth.

use std::net::Ipv4Addr;

use felix::desired::{Row, SysctlKey};
use felix::kernel::{KernelEvent, Op};
use felix_io::Table;

use crate::namespace::kernel_test;
use crate::node::{Node, UNDERLAY, events_until, pod_route, route, via};

kernel_test!(
    lost_notifications_become_an_overrun_after_which_the_tables_tell_the_truth,
    async {
        let node = Node::new().await;
        let mut events = node.kernel.events().unwrap();
        let routes: Vec<Row> = (0..20_000u32)
            .map(|n| {
                let dst = Ipv4Addr::from((10 << 24) | (70 << 16) | n);
                route(&format!("{dst}/32"), via("10.0.0.3", UNDERLAY))
            })
            .collect();
        // Nobody reads meanwhile: more than the channel and 32 MiB of socket buffer can hold.
        for _ in 0..4 {
            node.kernel
                .apply(routes.iter().cloned().map(Op::Set).collect())
                .await;
            node.kernel
                .apply(routes.iter().cloned().map(Op::Remove).collect())
                .await;
        }
        let seen = events_until(&mut events, |event| *event == KernelEvent::Overrun).await;
        println!("{} events before the overrun", seen.len() - 1);
        let truth = node.rows(Table::Routes).await;
        assert!(routes.iter().all(|row| !truth.contains_key(&row.key())));
        // Nothing older than the overrun comes after it.
        let last = route("10.64.0.0/26", via("10.0.0.3", UNDERLAY));
        node.set(last.clone()).await;
        let last = KernelEvent::RowSet(last);
        let seen = events_until(&mut events, |event| *event == last).await;
        let stale = seen
            .iter()
            .filter(|event| matches!(event, KernelEvent::RowSet(row) if routes.contains(row)));
        assert_eq!(stale.count(), 0);
    }
);

kernel_test!(
    a_route_by_a_next_hop_object_is_read_in_either_form_and_its_changes_are_noticed,
    async {
        let node = Node::new().await;
        let mut events = node.kernel.events().unwrap();
        let ip = |arguments: &str| {
            let run = std::process::Command::new("ip")
                .args(arguments.split(' '))
                .output();
            run.is_ok_and(|done| done.status.success())
        };
        if !ip("-Version") {
            harness::skip(
                "iproute2",
                "no `ip` here, and nothing else makes next-hop objects",
            );
        }
        assert!(ip("nexthop add id 10 via 10.0.0.3 dev eth0"));
        assert!(ip("nexthop add id 11 via 10.0.0.4 dev eth0"));
        assert!(ip("nexthop add id 20 group 10/11"));
        assert!(ip("route add 10.71.0.0/16 nhid 10 proto static"));
        assert!(ip("route add 10.72.0.0/16 nhid 20 proto static"));
        let of_static = |dst: &str, gateways: &[&str]| {
            let hops = gateways.iter().flat_map(|gateway| via(gateway, UNDERLAY));
            match route(dst, hops.collect()) {
                Row::Route(key, mut spec) => {
                    spec.protocol = 4;
                    Row::Route(key, spec)
                }
                row => row,
            }
        };
        let mode = SysctlKey("net/ipv4/nexthop_compat_mode".into());
        for value in ["1", "0"] {
            node.set(Row::Sysctl(mode.clone(), value.into())).await;
            let rows = node.rows(Table::Routes).await;
            for row in [
                of_static("10.71.0.0/16", &["10.0.0.3"]),
                of_static("10.72.0.0/16", &["10.0.0.3", "10.0.0.4"]),
            ] {
                assert_eq!(rows.get(&row.key()), Some(&row), "compat mode {value}");
            }
        }
        assert!(ip("nexthop replace id 10 via 10.0.0.5 dev eth0"));
        events_until(&mut events, |event| *event == KernelEvent::RoutesChanged).await;
        let rows = node.rows(Table::Routes).await;
        let moved = of_static("10.71.0.0/16", &["10.0.0.5"]);
        assert_eq!(rows.get(&moved.key()), Some(&moved));
        // A route that comes is told with its next hop, too.
        assert!(ip("route add 10.73.0.0/16 nhid 11 proto static"));
        let told = KernelEvent::RowSet(of_static("10.73.0.0/16", &["10.0.0.4"]));
        events_until(&mut events, |event| *event == told).await;
        assert!(ip("nexthop del id 10"));
        events_until(&mut events, |event| *event == KernelEvent::RoutesChanged).await;
        let rows = node.rows(Table::Routes).await;
        assert!(!rows.contains_key(&moved.key()));
    }
);

kernel_test!(
    events_end_with_their_receiver_and_a_second_subscriber_sees_the_same,
    async {
        let node = Node::new().await;
        drop(node.kernel.events().unwrap());
        let (mut one, mut two) = (node.kernel.events().unwrap(), node.kernel.events().unwrap());
        let row = route("10.64.0.0/26", via("10.0.0.3", UNDERLAY));
        node.set(row.clone()).await;
        let last = KernelEvent::RowSet(row);
        assert_eq!(
            events_until(&mut one, |event| *event == last).await,
            std::slice::from_ref(&last)
        );
        assert_eq!(events_until(&mut two, |event| *event == last).await, [last]);
    }
);

kernel_test!(
    a_pods_device_is_told_when_it_comes_and_when_it_goes_down,
    async {
        let node = Node::new().await;
        let mut events = node.kernel.events().unwrap();
        let pod = node.pod(1).await;
        let name = pod.attached.host_ifname.clone();
        let is = |up: bool| {
            let name = name.clone();
            move |event: &KernelEvent| matches!(event, KernelEvent::Link(link) if link.ifname == name && link.up == up)
        };
        events_until(&mut events, is(true)).await;
        let row = KernelEvent::RowSet(pod_route(pod.addr, &name.0));
        events_until(&mut events, |event| *event == row).await;
        felix_io::workload::detach(name.clone()).await.unwrap();
        events_until(&mut events, is(false)).await;
        felix_io::workload::sweep().await.unwrap();
        let gone = KernelEvent::LinkGone(name);
        events_until(&mut events, |event| *event == gone).await;
    }
);
