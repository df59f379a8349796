//! From one way to another: the new one is there before the old one goes.

use super::*;

/// A route to the same destination as that of [`tunnel_rows`], of another metric.
fn plain() -> Row {
    route("10.1.1.0/26", 1024, 12, Some("10.0.0.2"), "eth0")
}

/// A kernel that has the plain route, and a reconciler that wants the tunnel's in its place.
fn switching(kernel: Kernel) -> Bench {
    let mut bench = Bench::new(kernel);
    bench.reconciler.allow_deletes();
    bench.reconciler.allow_bgp_deletes();
    bench.reconciler.set(plain());
    bench.run();
    assert!(bench.kernel.has(&plain()));
    bench.reconciler.remove(&plain().key());
    bench
}

fn through() -> Row {
    tunnel_rows().pop().expect("the route is the last")
}

#[test]
fn a_route_stays_while_the_one_in_its_place_waits_for_its_device() {
    let mut bench = switching(Kernel::with_links(&["eth0"]));
    bench.reconciler.set(through());
    assert_eq!(bench.run(), Vec::new());
    assert!(bench.kernel.has(&plain()));
    for row in tunnel_rows() {
        bench.reconciler.set(row);
    }
    assert_eq!(removes(&bench.run()), [plain().key()]);
    assert!(bench.kernel.has(&through()));
}

#[test]
fn a_route_stays_while_the_kernel_refuses_the_one_in_its_place() {
    let mut kernel = Kernel::with_links(&["eth0", VXLAN_DEVICE]);
    kernel.refuse(through().key());
    let mut bench = switching(kernel);
    bench.reconciler.set(through());
    assert_eq!(removes(&bench.run()), []);
    assert!(bench.kernel.has(&plain()));
    bench.kernel.allow();
    assert_eq!(
        removes(&bench.pass(Duration::from_secs(60))),
        [plain().key()]
    );
    // Nobody wants either: it does not wait for what does not come.
    bench.reconciler.set(plain());
    bench.reconciler.remove(&through().key());
    assert_eq!(removes(&bench.run()), [through().key()]);
    bench.reconciler.remove(&plain().key());
    assert_eq!(removes(&bench.run()), [plain().key()]);
}

#[test]
fn a_route_through_vxlan_waits_for_its_gateways_neighbour_and_forwarding_entry() {
    for refused in [RowKind::Neigh, RowKind::Fdb] {
        let mut kernel = Kernel::with_links(&["eth0"]);
        let rows = tunnel_rows();
        let refused = rows.iter().find(|row| row.key().kind() == refused).unwrap();
        kernel.refuse(refused.key());
        let mut bench = switching(kernel);
        for row in &rows {
            bench.reconciler.set(row.clone());
        }
        bench.run();
        assert!(bench.kernel.has(&plain()) && !bench.kernel.has(&through()));
        let problems = bench.reconciler.problems();
        let waits = Stuck::WaitsForRow(refused.key());
        assert!(
            (problems.iter())
                .any(|problem| problem.key == through().key() && problem.reason == waits),
            "{problems:?}"
        );
        bench.kernel.allow();
        bench.pass(Duration::from_secs(60));
        assert!(bench.kernel.has(&through()) && !bench.kernel.has(&plain()));
        assert_eq!(bench.reconciler.problems(), Vec::new());
    }
}

#[test]
fn a_route_through_vxlan_does_not_wait_for_a_neighbour_that_nobody_wants_any_more() {
    let mut kernel = Kernel::with_links(&["eth0"]);
    let rows = tunnel_rows();
    let neighbour = rows.iter().find(|row| row.key().kind() == RowKind::Neigh);
    let neighbour = neighbour.unwrap().key();
    kernel.refuse(neighbour.clone());
    let mut bench = switching(kernel);
    for row in &rows {
        bench.reconciler.set(row.clone());
    }
    bench.run();
    assert!(!bench.kernel.has(&through()));
    bench.reconciler.remove(&neighbour);
    bench.run();
    assert!(bench.kernel.has(&through()));
}

#[test]
fn a_tunnel_device_takes_packets_once_it_is_up_with_an_address_and_asks_for_no_way_back() {
    let device = IfName::from(VXLAN_DEVICE);
    let address = AddrKey {
        ifname: device.clone(),
        addr: "10.1.0.0/32".parse().unwrap(),
    };
    let none = BTreeSet::new();
    let loose = sysctl("net/ipv4/conf/vxlan.calico/rp_filter");
    let mut kernel = Kernel::with_links(&["eth0"]);
    kernel.refuse(loose.key());
    let mut bench = Bench::new(kernel);
    assert_eq!(bench.reconciler.accepting(&device), none);
    bench.reconciler.set(loose);
    bench.reconciler.set(vxlan(Some(1450)));
    bench.run();
    bench.reconciler.set(Row::Addr(address.clone()));
    bench.run();
    assert_eq!(
        bench.reconciler.accepting(&device),
        none,
        "its checks are strict"
    );
    bench.kernel.allow();
    bench.pass(Duration::from_secs(60));
    let all = BTreeSet::from([address.addr.addr()]);
    assert_eq!(bench.reconciler.accepting(&device), all);
    bench.reconciler.remove(&RowKey::Addr(address.clone()));
    bench.run();
    assert_eq!(bench.reconciler.accepting(&device), none, "no address");
    bench.reconciler.set(Row::Addr(address));
    bench.run();
    assert_eq!(bench.reconciler.accepting(&device), all);
    bench.kernel.link(VXLAN_DEVICE, false);
    for event in bench.kernel.take_events() {
        bench.reconciler.kernel_event(&event);
    }
    assert_eq!(bench.reconciler.accepting(&device), none);
}
