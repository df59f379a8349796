//! Notifications: lost ones are told, and reading again gives the truth.

use std::net::Ipv4Addr;

use felix::desired::Row;
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
