//! The reconciler against a model of a kernel.

mod model;
mod object;
mod switch;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::desired::{
    AddrKey, Checksums, ElementKey, FdbKey, Hops, Leftover, LinkSpec, Mac, NeighKey, NextHop,
    Parent, RouteKey, RouteKind, RouteSpec, SysctlKey,
};
use crate::ownership::{BgpRoutes, ExternalRoutes, VXLAN_DEVICE};
use crate::rules::{Family, Ruleset};
use model::Kernel;

pub(super) fn ownership() -> Ownership {
    Ownership {
        interface_prefixes: vec!["cali".to_owned()],
        device_route_protocol: 3,
        bgp_routes: BgpRoutes::Ours,
        external_routes: ExternalRoutes::Remove,
    }
}

pub(super) fn route_key(dst: &str, metric: u32) -> RouteKey {
    RouteKey {
        table: 254,
        dst: dst.parse().unwrap(),
        tos: 0,
        metric,
    }
}

fn hop(gateway: Option<&str>, ifname: &str) -> NextHop {
    NextHop {
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        ifname: Some(IfName::from(ifname)),
        onlink: false,
    }
}

pub(super) fn route(
    dst: &str,
    metric: u32,
    protocol: u8,
    gateway: Option<&str>,
    ifname: &str,
) -> Row {
    let spec = RouteSpec {
        kind: RouteKind::Unicast,
        scope: if gateway.is_some() { 0 } else { 253 },
        protocol,
        next_hops: vec![hop(gateway, ifname)].into(),
        object: None,
        prefsrc: None,
        mtu_bytes: None,
    };
    Row::Route(route_key(dst, metric), spec)
}

pub(super) fn blackhole(dst: &str, protocol: u8) -> Row {
    let spec = RouteSpec {
        kind: RouteKind::Blackhole,
        scope: 0,
        protocol,
        next_hops: Hops::default(),
        object: None,
        prefsrc: None,
        mtu_bytes: None,
    };
    Row::Route(route_key(dst, 0), spec)
}

pub(super) fn pod(number: u8) -> Row {
    route(
        &format!("10.1.0.{number}/32"),
        1024,
        3,
        None,
        &format!("cali{number}"),
    )
}

pub(super) fn vxlan(mtu: Option<u32>) -> Row {
    let spec = LinkSpec::Vxlan {
        vni: 4096,
        port: 4789,
        local: "10.0.0.1".parse::<IpAddr>().unwrap(),
        parent: Parent::Device(IfName::from("eth0")),
        mac: Mac([0x66, 0, 0, 0, 0, 1]),
        mtu_bytes: mtu,
        checksums: Checksums::AsIs,
    };
    Row::Link(IfName::from(VXLAN_DEVICE), spec)
}

pub(super) fn sysctl(path: &str) -> Row {
    Row::Sysctl(SysctlKey(path.into()), Arc::from("1"))
}

/// A table with address sets.
pub(super) fn table(sets: &[&'static str]) -> Row {
    let ruleset = Ruleset {
        address_sets: sets.iter().copied().collect(),
        ..Ruleset::default()
    };
    Row::Rules(Family::V4, ruleset.into())
}

pub(super) fn element(set: &str, addr: &str) -> Row {
    Row::Element(ElementKey {
        family: Family::V4,
        set: set.into(),
        addr: addr.parse().unwrap(),
    })
}

pub(super) fn tunnel_rows() -> Vec<Row> {
    let ifname = IfName::from(VXLAN_DEVICE);
    let mac = Mac([0x66, 0, 0, 0, 0, 2]);
    vec![
        vxlan(Some(1450)),
        Row::Addr(AddrKey {
            ifname: ifname.clone(),
            addr: "10.1.0.0/32".parse().unwrap(),
        }),
        Row::Fdb(
            FdbKey {
                ifname: ifname.clone(),
                mac,
            },
            "10.0.0.2".parse().unwrap(),
        ),
        Row::Neigh(
            NeighKey {
                ifname,
                addr: "10.1.1.0".parse().unwrap(),
            },
            mac,
        ),
        route("10.1.1.0/26", 0, 3, Some("10.1.1.0"), VXLAN_DEVICE),
    ]
}

/// A reconciler that has read the kernel and executes what it plans at once.
struct Bench {
    reconciler: Reconciler,
    kernel: Kernel,
    now: Instant,
}

impl Bench {
    fn new(kernel: Kernel) -> Self {
        let mut bench = Self {
            reconciler: Reconciler::new(ownership()),
            kernel,
            now: Instant::now_for_tests(),
        };
        bench.read_back();
        bench
    }

    fn read_back(&mut self) {
        self.kernel.read_back(&mut self.reconciler);
    }

    /// Executes until nothing comes; gives what was executed.
    fn run(&mut self) -> Vec<Op> {
        let mut done = Vec::new();
        loop {
            for event in self.kernel.take_events() {
                self.reconciler.kernel_event(&event);
            }
            let Some(op) = self.reconciler.poll_op(1) else {
                return done;
            };
            let result = self.kernel.execute(&op);
            self.reconciler.handle_result(self.now, &op.key(), result);
            done.push(op);
            assert!(done.len() < 1000, "the reconciler does not come to rest");
        }
    }

    fn pass(&mut self, time: Duration) -> Vec<Op> {
        self.now += time;
        self.reconciler.handle_timeout(self.now);
        self.run()
    }
}

/// Tests need some instant; which one does not matter.
pub(super) trait NowForTests {
    fn now_for_tests() -> Instant;
}

impl NowForTests for Instant {
    #[expect(
        clippy::disallowed_methods,
        reason = "an origin of virtual time; the clock is not read again"
    )]
    fn now_for_tests() -> Instant {
        Instant::now()
    }
}

fn removes(ops: &[Op]) -> Vec<RowKey> {
    ops.iter()
        .filter_map(|op| match op {
            Op::Set(_) => None,
            Op::Remove(row) => Some(row.key()),
        })
        .collect()
}

#[test]
fn nothing_is_planned_before_the_kernel_was_read() {
    let mut reconciler = Reconciler::new(ownership());
    reconciler.set(blackhole("10.1.0.0/26", 12));
    assert_eq!(reconciler.poll_op(1), None);
    reconciler.resync_begin(RowKind::Route);
    reconciler.resync_end(RowKind::Route);
    assert_eq!(reconciler.poll_op(0), None);
    assert_eq!(
        reconciler.poll_op(1),
        Some(Op::Set(blackhole("10.1.0.0/26", 12)))
    );
}

#[test]
fn a_reading_that_begins_again_forgets_what_it_had_shown() {
    let (stays, gone) = (blackhole("10.1.0.0/26", 12), blackhole("10.1.0.64/26", 12));
    let mut reconciler = Reconciler::new(ownership());
    for row in [&stays, &gone] {
        reconciler.set(row.clone());
    }
    reconciler.resync_begin(RowKind::Route);
    reconciler.resync_entry(gone.clone());
    reconciler.resync_begin(RowKind::Route);
    reconciler.resync_entry(stays);
    reconciler.resync_end(RowKind::Route);
    assert_eq!(reconciler.poll_op(1), Some(Op::Set(gone)));
    assert_eq!(reconciler.poll_op(1), None);
}

#[test]
fn a_restart_adopts_every_row_with_no_operation() {
    let mut kernel = Kernel::with_links(&["eth0", "cali1", VXLAN_DEVICE]);
    let mut rows = tunnel_rows();
    rows.extend([
        pod(1),
        blackhole("10.1.0.0/26", 12),
        route("10.2.0.0/26", 1024, 12, Some("10.0.0.3"), "eth0"),
    ]);
    for row in &rows {
        kernel.insert(row.clone());
    }
    let mut bench = Bench::new(kernel);
    for row in &rows {
        bench.reconciler.set(row.clone());
    }
    bench.reconciler.allow_deletes();
    bench.reconciler.allow_bgp_deletes();
    assert_eq!(bench.run(), Vec::new());
    assert_eq!(bench.reconciler.stats().adopted, rows.len() as u64);
    assert!(
        rows.iter()
            .all(|row| bench.reconciler.is_programmed(&row.key()))
    );
}

#[test]
fn rows_are_written_in_an_order_in_which_each_finds_what_it_needs() {
    let mut bench = Bench::new(Kernel::with_links(&["eth0"]));
    for row in tunnel_rows().into_iter().rev() {
        bench.reconciler.set(row);
    }
    let ops = bench.run();
    assert_eq!(bench.reconciler.stats().failures, 0, "{ops:?}");
    assert!(tunnel_rows().iter().all(|row| bench.kernel.has(row)));
    assert!(bench.reconciler.is_converged());
    assert_eq!(bench.reconciler.problems(), Vec::new());
}

#[test]
fn rows_are_deleted_in_reverse_order() {
    let mut bench = Bench::new(Kernel::with_links(&["eth0"]));
    for row in tunnel_rows() {
        bench.reconciler.set(row);
    }
    bench.run();
    bench.reconciler.allow_deletes();
    for row in tunnel_rows() {
        bench.reconciler.remove(&row.key());
    }
    let kinds: Vec<RowKind> = removes(&bench.run()).iter().map(RowKey::kind).collect();
    assert_eq!(
        kinds,
        [
            RowKind::Route,
            RowKind::Neigh,
            RowKind::Fdb,
            RowKind::Addr,
            RowKind::Link
        ]
    );
    assert!(bench.reconciler.is_converged());
}

#[test]
fn orphans_go_only_once_deletes_are_allowed_and_those_of_bgp_only_after_the_first_selection() {
    let mut kernel = Kernel::with_links(&["eth0", "cali1"]);
    let of_bgp = route("10.2.0.0/26", 1024, 12, Some("10.0.0.3"), "eth0");
    let of_blocks = route("10.3.0.0/26", 0, 80, Some("10.0.0.3"), "eth0");
    for row in [&of_bgp, &of_blocks, &pod(1)] {
        kernel.insert(row.clone());
    }
    let mut bench = Bench::new(kernel);
    assert_eq!(bench.run(), Vec::new());
    bench.reconciler.allow_deletes();
    assert_eq!(removes(&bench.run()), [pod(1).key(), of_blocks.key()]);
    bench.reconciler.allow_bgp_deletes();
    assert_eq!(removes(&bench.run()), [of_bgp.key()]);
}

#[test]
fn of_a_datastore_that_may_lack_something_only_rows_that_were_wanted_go() {
    let mut kernel = Kernel::with_links(&["eth0", "cali1"]);
    let of_bgp = route("10.2.0.0/26", 1024, 12, Some("10.0.0.3"), "eth0");
    let of_blocks = route("10.3.0.0/26", 0, 80, Some("10.0.0.3"), "eth0");
    for row in [&of_bgp, &of_blocks, &pod(1)] {
        kernel.insert(row.clone());
    }
    let mut bench = Bench::new(kernel);
    bench.reconciler.keep_unasked();
    bench.reconciler.allow_deletes();
    bench.reconciler.allow_bgp_deletes();
    assert_eq!(bench.run(), Vec::new());
    assert_eq!(bench.reconciler.counts().kept, 3);
    // Its node has written it back, and takes it away later.
    bench.reconciler.set(of_blocks.clone());
    assert_eq!(bench.run(), Vec::new());
    bench.reconciler.remove(&of_blocks.key());
    assert_eq!(removes(&bench.run()), [of_blocks.key()]);
    assert!(bench.kernel.has(&of_bgp) && bench.kernel.has(&pod(1)));
    assert_eq!(bench.reconciler.counts().kept, 2);
}

#[test]
fn foreign_rows_are_neither_deleted_nor_overwritten() {
    let mut kernel = Kernel::with_links(&["eth0"]);
    let default = route("0.0.0.0/0", 0, 3, Some("10.0.0.254"), "eth0");
    let mut in_the_way = route("10.9.0.0/16", 1024, 4, Some("10.0.0.254"), "eth0");
    kernel.insert(default.clone());
    kernel.insert(in_the_way.clone());
    let mut bench = Bench::new(kernel);
    bench.reconciler.allow_deletes();
    bench.reconciler.allow_bgp_deletes();
    let wanted = route("10.9.0.0/16", 1024, 12, Some("10.0.0.3"), "eth0");
    bench.reconciler.set(wanted.clone());
    assert_eq!(bench.run(), Vec::new());
    let problems = bench.reconciler.problems();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].reason, Stuck::Foreign(in_the_way.clone()));
    assert_eq!(
        problems[0].reason.to_string(),
        "another program's route 10.9.0.0/16 via 10.0.0.254 dev eth0 proto 4 metric 1024 is in its place; remove \
         that one, or what asks for this one"
    );

    bench.kernel.remove_by_hand(&in_the_way.key());
    bench.run();
    assert!(bench.kernel.has(&wanted) && bench.kernel.has(&default));
    // It comes back with a key of its own and stays again.
    if let Row::Route(key, _) = &mut in_the_way {
        key.metric = 7;
    }
    bench.kernel.insert_by_hand(in_the_way.clone());
    bench.run();
    assert!(bench.kernel.has(&in_the_way));
}

#[test]
fn a_changed_row_is_replaced_in_place() {
    let mut bench = Bench::new(Kernel::with_links(&["eth0"]));
    bench.reconciler.allow_deletes();
    bench.reconciler.allow_bgp_deletes();
    bench
        .reconciler
        .set(route("10.2.0.0/26", 1024, 12, Some("10.0.0.3"), "eth0"));
    bench.run();
    let moved = route("10.2.0.0/26", 1024, 12, Some("10.0.0.4"), "eth0");
    bench.reconciler.remove(&moved.key());
    bench.reconciler.set(moved.clone());
    assert_eq!(bench.run(), [Op::Set(moved)]);
}

#[test]
fn a_route_under_another_metric_goes_after_its_successor_is_written() {
    let mut bench = Bench::new(Kernel::with_links(&["eth0", "cali1"]));
    bench.reconciler.allow_deletes();
    let remote = route("10.1.0.1/32", 0, 80, Some("10.0.0.3"), "eth0");
    bench.reconciler.set(remote.clone());
    bench.run();
    bench.reconciler.remove(&remote.key());
    bench.reconciler.set(pod(1));
    assert_eq!(bench.run(), [Op::Set(pod(1)), Op::Remove(remote.clone())]);

    // Also while the successor is under way.
    bench.reconciler.set(remote.clone());
    bench.reconciler.remove(&pod(1).key());
    assert_eq!(bench.reconciler.poll_op(9), Some(Op::Set(remote.clone())));
    assert_eq!(bench.reconciler.poll_op(9), None);
    bench
        .reconciler
        .handle_result(bench.now, &remote.key(), Ok(()));
    assert_eq!(bench.reconciler.poll_op(9), Some(Op::Remove(pod(1))));
}

#[test]
fn rows_wait_for_their_device_without_an_attempt_and_come_back_with_it() {
    let mut bench = Bench::new(Kernel::with_links(&["eth0"]));
    bench.reconciler.set(pod(1));
    bench
        .reconciler
        .set(sysctl("net/ipv4/conf/cali1/proxy_arp"));
    assert_eq!(bench.run(), Vec::new());
    assert_eq!(
        bench.reconciler.problems()[0].reason,
        Stuck::WaitsForDevice(IfName::from("cali1"))
    );
    bench.kernel.link("cali1", true);
    assert_eq!(bench.run().len(), 2);
    assert_eq!(bench.reconciler.poll_programmed(), Some(pod(1).key()));

    bench.kernel.link("cali1", false);
    assert_eq!(bench.run(), Vec::new());
    assert!(!bench.reconciler.is_programmed(&pod(1).key()));
    bench.kernel.link("cali1", true);
    assert_eq!(bench.run().len(), 2);
    assert!(bench.kernel.has(&pod(1)));

    bench.kernel.link_gone("cali1");
    assert_eq!(bench.run(), Vec::new());
    bench.kernel.link("cali1", true);
    assert_eq!(bench.run().len(), 2);
    assert!(bench.kernel.has(&pod(1)));
}

#[test]
fn what_goes_with_a_devices_last_address_is_written_again_at_the_notification() {
    let mut bench = Bench::new(Kernel::with_links(&["eth0", "cali1"]));
    for row in tunnel_rows().into_iter().chain([pod(1)]) {
        bench.reconciler.set(row);
    }
    bench.run();
    let remote = tunnel_rows().pop().unwrap();
    for (device, row) in [(VXLAN_DEVICE, remote), ("cali1", pod(1))] {
        bench.kernel.addr_gone(device, "10.1.0.0/32");
        assert!(!bench.kernel.has(&row));
        bench.run();
        assert!(bench.kernel.has(&row), "{device}");
        assert!(bench.reconciler.is_programmed(&row.key()));
    }
    // IPv6 is not switched off with its last address.
    bench.kernel.addr_gone("cali1", "fe80::1/64");
    assert_eq!(bench.run(), []);
}

#[test]
fn settings_that_somebody_changes_are_written_again_and_others_are_nobodys_business() {
    let mut bench = Bench::new(Kernel::with_links(&["eth0", "cali1"]));
    let mac = Row::Mac(IfName::from("cali1"), crate::ownership::HOST_END_MAC);
    let forwarding = sysctl("net/ipv4/ip_forward");
    let proxy_arp = sysctl("net/ipv4/conf/cali1/proxy_arp");
    for row in [&mac, &forwarding, &proxy_arp] {
        bench.reconciler.set(row.clone());
    }
    assert_eq!(bench.run().len(), 3);
    assert!(bench.reconciler.is_converged());
    let keys: Vec<SysctlKey> = bench.reconciler.wanted_sysctls().cloned().collect();
    assert_eq!(keys.len(), 2);

    let zero = |row: &Row| match row {
        Row::Sysctl(key, _) => Row::Sysctl(key.clone(), Arc::from("0")),
        _ => unreachable!("only sysctls are given"),
    };
    for row in [&forwarding, &proxy_arp] {
        bench.kernel.insert_by_hand(zero(row));
        assert_eq!(bench.run(), [Op::Set(row.clone())]);
    }
    bench
        .kernel
        .insert_by_hand(zero(&sysctl("net/ipv4/conf/eth0/forwarding")));
    assert_eq!(bench.run(), []);

    bench.kernel.mac("cali1", Mac([2; 6]));
    assert_eq!(bench.run(), [Op::Set(mac.clone())]);
    bench.kernel.mac("cali1", crate::ownership::HOST_END_MAC);
    bench.kernel.mac("eth0", Mac([2; 6]));
    assert_eq!(bench.run(), []);

    // One that is not wanted any more keeps its value.
    bench.reconciler.allow_deletes();
    for row in [&mac, &forwarding, &proxy_arp] {
        bench.reconciler.remove(&row.key());
    }
    bench.kernel.mac("cali1", Mac([2; 6]));
    bench.kernel.insert_by_hand(zero(&proxy_arp));
    assert_eq!(bench.run(), []);
}

#[test]
fn a_mac_that_is_there_already_is_not_written() {
    let mut bench = Bench::new(Kernel::with_links(&["cali1", "cali2"]));
    bench.kernel.mac("cali1", crate::ownership::HOST_END_MAC);
    bench.kernel.mac("cali2", Mac([2; 6]));
    bench.run();
    let mac = |device: &str| Row::Mac(IfName::from(device), crate::ownership::HOST_END_MAC);
    for device in ["cali1", "cali2"] {
        bench.reconciler.set(mac(device));
    }
    assert_eq!(bench.run(), [Op::Set(mac("cali2"))]);
    assert!(bench.reconciler.is_programmed(&mac("cali1").key()));
}

#[test]
fn a_setting_that_is_changed_back_each_time_is_a_problem_in_plain_words() {
    let mut bench = Bench::new(Kernel::with_links(&["eth0"]));
    let wanted = sysctl("net/ipv4/ip_forward");
    bench.reconciler.set(wanted.clone());
    bench.run();
    let mut writes = 0;
    for _ in 0..10 {
        let zero = Row::Sysctl(SysctlKey("net/ipv4/ip_forward".into()), Arc::from("0"));
        bench.kernel.insert_by_hand(zero);
        writes += bench.run().len();
    }
    assert!(writes < 6, "{writes}");
    let problems = bench.reconciler.problems();
    assert_eq!(problems[0].key.to_string(), "sysctl net.ipv4.ip_forward");
    assert_eq!(
        problems[0].reason.to_string(),
        "it was written, and the kernel shows another value: somebody else changes it back"
    );
}

#[test]
fn a_refused_operation_is_tried_again_later_and_later() {
    let mut bench = Bench::new(Kernel::with_links(&["eth0"]));
    let row = route("10.2.0.0/26", 1024, 12, Some("10.0.0.3"), "eth0");
    bench.kernel.refuse(row.key());
    bench.reconciler.set(row.clone());
    assert_eq!(bench.run().len(), 1);
    let mut waits = Vec::new();
    for _ in 0..12 {
        let (at, why) = bench.reconciler.poll_timeout().unwrap();
        assert_eq!(why, "retry of a refused operation");
        let wait = at - bench.now;
        waits.push(wait.as_millis());
        assert_eq!(bench.pass(wait - Duration::from_millis(1)), Vec::new());
        assert_eq!(bench.pass(Duration::from_millis(1)).len(), 1);
    }
    assert_eq!(waits[..3], [100, 200, 400]);
    assert_eq!(waits[11], 30_000);
    assert_eq!(bench.reconciler.problems()[0].attempts, 13);
    bench.kernel.allow();
    bench.pass(Duration::from_secs(30));
    assert!(bench.kernel.has(&row));
    assert_eq!(bench.reconciler.problems(), Vec::new());
    assert_eq!(bench.reconciler.poll_timeout(), None);
}

#[test]
fn a_row_that_somebody_deletes_or_changes_is_written_again_and_found_missing_by_a_reading() {
    let mut bench = Bench::new(Kernel::with_links(&["eth0", "cali1"]));
    bench.reconciler.set(pod(1));
    bench.run();
    bench.kernel.remove_by_hand(&pod(1).key());
    assert_eq!(bench.run(), [Op::Set(pod(1))]);

    bench
        .kernel
        .insert_by_hand(route("10.1.0.1/32", 1024, 4, None, "cali1"));
    assert_eq!(bench.run(), [Op::Set(pod(1))]);

    bench.kernel.remove_by_hand(&pod(1).key());
    bench.kernel.take_events();
    assert_eq!(bench.run(), Vec::new());
    bench.read_back();
    assert_eq!(bench.run(), [Op::Set(pod(1))]);
}

#[test]
fn a_row_that_is_undone_each_time_is_not_written_in_a_loop() {
    let mut bench = Bench::new(Kernel::with_links(&["eth0", "cali1"]));
    bench.kernel.distort(pod(1).key());
    bench.reconciler.set(pod(1));
    assert!(bench.run().len() < 8);
    assert!(bench.reconciler.poll_timeout().is_some());
    assert!(bench.pass(Duration::from_secs(60)).len() < 8);
}

#[test]
fn a_tunnel_device_made_anew_gets_its_rows_again() {
    let mut bench = Bench::new(Kernel::with_links(&["eth0"]));
    for row in tunnel_rows() {
        bench.reconciler.set(row);
    }
    bench.run();
    let mut other = vxlan(Some(1450));
    if let Row::Link(_, LinkSpec::Vxlan { vni, .. }) = &mut other {
        *vni = 5000;
    }
    bench.reconciler.set(other.clone());
    bench.run();
    assert!(bench.kernel.has(&other));
    for row in &tunnel_rows()[1..] {
        assert!(bench.kernel.has(row), "{row:?}");
    }
}

#[test]
fn checksums_are_taken_from_hardware_and_never_given_back_to_it() {
    let with = |checksums| {
        let mut row = vxlan(Some(1450));
        if let Row::Link(_, LinkSpec::Vxlan { checksums: own, .. }) = &mut row {
            *own = checksums;
        }
        row
    };
    let mut kernel = Kernel::with_links(&["eth0", VXLAN_DEVICE]);
    kernel.insert(with(Checksums::Kernel));
    let mut bench = Bench::new(kernel);
    // Who turned it off may be an operator.
    bench.reconciler.set(with(Checksums::AsIs));
    assert_eq!(bench.run(), Vec::new());
    bench.reconciler.set(with(Checksums::Kernel));
    assert_eq!(bench.run(), Vec::new());
    let on = KernelEvent::RowSet(with(Checksums::AsIs));
    bench.reconciler.kernel_event(&on);
    assert_eq!(bench.run(), vec![Op::Set(with(Checksums::Kernel))]);
}

#[test]
fn a_tunnel_device_without_a_parent_is_left_as_it_is_and_not_made() {
    let mut orphan = vxlan(None);
    if let Row::Link(_, LinkSpec::Vxlan { parent, .. }) = &mut orphan {
        *parent = Parent::Unknown;
    }
    let mut bench = Bench::new(Kernel::with_links(&["eth0"]));
    bench.reconciler.set(orphan.clone());
    assert_eq!(bench.run(), Vec::new());
    assert_eq!(bench.reconciler.problems()[0].reason, Stuck::NoParent);

    let mut kernel = Kernel::with_links(&["eth0", VXLAN_DEVICE]);
    kernel.insert(vxlan(Some(1450)));
    let mut bench = Bench::new(kernel);
    bench.reconciler.allow_deletes();
    bench.reconciler.set(orphan.clone());
    assert_eq!(bench.run(), Vec::new());
    assert!(bench.reconciler.is_programmed(&orphan.key()));
}

#[test]
fn counts_follow_what_is_wanted_and_what_the_kernel_has() {
    let mut bench = Bench::new(Kernel::with_links(&["eth0"]));
    let counts = |bench: &Bench| {
        let counts = bench.reconciler.counts();
        (counts.wanted, counts.pending, counts.routes)
    };
    let cali1 = IfName::from("cali1");
    let known = |bench: &Bench| (0..10).any(|ifindex| bench.reconciler.is_link(&cali1, ifindex));
    let setting = sysctl("net/ipv4/conf/cali1/proxy_arp");
    for row in [pod(1), blackhole("10.1.0.0/26", 12), setting.clone()] {
        bench.reconciler.set(row);
    }
    bench.run();
    assert_eq!(counts(&bench), (3, 2, 1), "the device is not there");
    assert!(!known(&bench));
    bench.kernel.link("cali1", true);
    bench.run();
    assert_eq!(counts(&bench), (3, 0, 2));
    assert!(known(&bench));
    bench.kernel.link_gone("cali1");
    bench.run();
    assert!(!known(&bench));
    bench.reconciler.remove(&setting.key());
    bench.reconciler.remove(&pod(1).key());
    bench.run();
    assert_eq!(counts(&bench), (1, 0, 1));
}

#[test]
fn a_table_is_written_with_its_elements_and_they_change_one_by_one_while_it_stands() {
    let mut bench = Bench::new(Kernel::with_links(&[]));
    let [one, two, three] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|addr| element("nodes", addr));
    bench.reconciler.set(one.clone());
    assert_eq!(bench.run(), Vec::new(), "there is no set yet");
    bench.reconciler.set(two.clone());
    bench.reconciler.set(table(&["nodes"]));
    let written_with = |op: &Op| match op {
        Op::Set(Row::Rules(_, rules)) => {
            let elements = rules.elements.iter().cloned();
            elements.map(Row::Element).collect::<Vec<Row>>()
        }
        other => panic!("{other:?}"),
    };
    let ops = bench.run();
    assert_eq!(
        ops.len(),
        1,
        "rules and elements at the same moment: {ops:?}"
    );
    assert_eq!(written_with(&ops[0]), [one.clone(), two.clone()]);
    assert!(bench.reconciler.is_programmed(&two.key()));
    // One by one.
    bench.reconciler.set(three.clone());
    assert_eq!(bench.run(), [Op::Set(three.clone())]);
    bench.reconciler.remove(&one.key());
    assert_eq!(bench.run(), Vec::new(), "not yet");
    // Other rules keep what must not be deleted yet.
    bench.reconciler.set(table(&["nodes", "more"]));
    let ops = bench.run();
    assert_eq!(
        written_with(&ops[0]),
        [one.clone(), two.clone(), three.clone()]
    );
    bench.reconciler.allow_deletes();
    assert_eq!(bench.run(), [Op::Remove(one)]);
    // Somebody deletes the table.
    bench
        .kernel
        .execute(&Op::Remove(table(&["nodes", "more"])))
        .unwrap();
    bench.read_back();
    let ops = bench.run();
    assert_eq!(written_with(&ops[0]), [two.clone(), three.clone()]);
    assert_eq!(ops.len(), 1);
    // Its elements go with it.
    bench.reconciler.remove(&two.key());
    bench.reconciler.remove(&three.key());
    let table = RowKey::Rules(Family::V4);
    bench.reconciler.remove(&table);
    let removed = removes(&bench.run());
    assert_eq!(removed.last(), Some(&table));
    bench.read_back();
    assert_eq!(bench.run(), Vec::new());
}

#[test]
fn elements_that_nobody_asked_for_stay_while_the_datastore_may_lack_them() {
    let mut kernel = Kernel::with_links(&[]);
    kernel.insert(table(&["nodes"]));
    kernel.insert(element("nodes", "10.0.0.2"));
    let mut bench = Bench::new(kernel);
    bench.reconciler.keep_unasked();
    bench.reconciler.allow_deletes();
    bench.reconciler.set(table(&["nodes", "more"]));
    bench.run();
    assert!(bench.kernel.has(&element("nodes", "10.0.0.2")));
}

#[test]
fn leftovers_of_felix_go_once_the_own_rules_stand_whatever_else_is_kept() {
    let chains = Row::Leftover(Leftover::Chains(Family::V4, "filter".into()));
    let set = Row::Leftover(Leftover::IpSet("cali40masq-ipam-pools".into()));
    let mut kernel = Kernel::with_links(&[]);
    kernel.insert(chains.clone());
    kernel.insert(set.clone());
    let mut bench = Bench::new(kernel);
    bench.reconciler.keep_unasked();
    assert_eq!(bench.run(), Vec::new());
    bench.kernel.refuse(RowKey::Rules(Family::V4));
    bench.reconciler.set(table(&[]));
    bench.reconciler.allow_deletes();
    assert_eq!(
        removes(&bench.run()),
        Vec::new(),
        "the own rules are refused"
    );
    bench.kernel.allow();
    let ops = bench.pass(Duration::from_secs(30));
    assert_eq!(
        removes(&ops),
        [chains.key(), set.key()],
        "the set after what asks it"
    );
}
