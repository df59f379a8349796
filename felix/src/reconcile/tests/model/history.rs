//! The property that the reconciler brings any state of the kernel to the wanted one.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::super::entry::devices;
use super::super::object::{by_object, group, object, over};
use super::super::{
    NowForTests, blackhole, element, ownership, pod, route, sysctl, table, tunnel_rows, vxlan,
};
use super::Kernel;
use crate::desired::{IfName, Mac, NextHopId, Row, RowKey, RowKind, SysctlKey};
use crate::kernel::{Op, OpError};
use crate::reconcile::Reconciler;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    Want(usize),
    Unwant(usize),
    Give,
    Answer,
    Tell,
    ReadBack,
    LinkUp(usize),
    LinkDown(usize),
    LinkGone(usize),
    AddrGone(usize),
    HandInsert(usize),
    HandRemove(usize),
    Refuse(usize),
    Allow,
    Pass,
    AllowDeletes,
    AllowBgpDeletes,
}

fn wanted_rows() -> Vec<Row> {
    let mut rows = tunnel_rows();
    rows.extend([
        vxlan(Some(1400)),
        pod(1),
        pod(2),
        route("10.1.0.1/32", 0, 80, Some("10.0.0.3"), "eth0"),
        route("10.2.0.0/26", 1024, 12, Some("10.0.0.3"), "eth0"),
        route("10.2.0.0/26", 1024, 12, Some("10.0.0.4"), "eth0"),
        blackhole("10.1.0.0/26", 12),
        blackhole("10.1.0.0/26", 80),
        sysctl("net/ipv4/conf/cali1/proxy_arp"),
        sysctl("net/ipv4/ip_forward"),
        Row::Mac(IfName::from("cali1"), Mac([0xee; 6])),
        table(&["nodes"]),
        table(&["nodes", "others"]),
        element("nodes", "10.0.0.2"),
        element("nodes", "10.0.0.3"),
        object("eth0"),
        by_object("10.3.0.0/26"),
        by_object("10.2.0.0/26"),
        over("10.4.0.0/26"),
        over("10.2.0.0/26"),
    ]);
    rows.extend(group());
    rows
}

fn foreign_rows() -> Vec<Row> {
    vec![
        route("0.0.0.0/0", 0, 3, Some("10.0.0.254"), "eth0"),
        route("10.2.0.0/26", 1024, 4, Some("10.0.0.9"), "eth0"),
        // Beside routes of ours without a metric.
        route("10.1.0.1/32", 50, 4, Some("10.0.0.9"), "eth0"),
        route("10.1.1.0/26", 50, 3, Some("10.0.0.9"), "eth0"),
        route("10.7.0.0/26", 0, 2, None, "eth0"),
    ]
}

const LINKS: [&str; 4] = ["eth0", "cali1", "cali2", "eth1"];

fn step() -> impl Strategy<Value = Step> {
    let row = 0..wanted_rows().len();
    let foreign = 0..foreign_rows().len() + 6;
    let link = 0..LINKS.len();
    prop_oneof![
        6 => row.clone().prop_map(Step::Want),
        3 => row.clone().prop_map(Step::Unwant),
        8 => Just(Step::Give),
        8 => Just(Step::Answer),
        8 => Just(Step::Tell),
        1 => Just(Step::ReadBack),
        2 => link.clone().prop_map(Step::LinkUp),
        1 => link.clone().prop_map(Step::LinkDown),
        1 => link.clone().prop_map(Step::LinkGone),
        1 => link.prop_map(Step::AddrGone),
        1 => foreign.clone().prop_map(Step::HandInsert),
        1 => foreign.prop_map(Step::HandRemove),
        1 => row.prop_map(Step::Refuse),
        1 => Just(Step::Allow),
        2 => Just(Step::Pass),
        1 => Just(Step::AllowDeletes),
        1 => Just(Step::AllowBgpDeletes),
    ]
}

/// What somebody else may write: foreign rows, and rows that count as this agent's.
fn hand_row(index: usize) -> Row {
    let mut rows = foreign_rows();
    rows.push(route("10.1.0.9/32", 0, 4, None, "cali2"));
    rows.push(route("10.8.0.0/26", 0, 12, Some("10.0.0.8"), "eth0"));
    for path in ["net/ipv4/ip_forward", "net/ipv4/conf/cali1/proxy_arp"] {
        rows.push(Row::Sysctl(SysctlKey(path.into()), "0".into()));
    }
    rows.push(element("nodes", "10.0.0.9"));
    rows.push(object("eth0"));
    rows.swap_remove(index)
}

/// The objects that a row names.
fn names(row: &Row) -> Vec<NextHopId> {
    match row {
        Row::Route(_, spec) => spec.object.into_iter().collect(),
        Row::NextHop(_, spec) => spec.members().to_vec(),
        _ => Vec::new(),
    }
}

struct World {
    reconciler: Reconciler,
    kernel: Kernel,
    wanted: BTreeMap<RowKey, Row>,
    answers: VecDeque<(RowKey, Result<(), OpError>)>,
    now: Instant,
    deletes: bool,
    bgp_deletes: bool,
}

impl World {
    fn new() -> Self {
        let mut kernel = Kernel::with_links(&LINKS);
        for row in foreign_rows() {
            kernel.insert(row);
        }
        Self {
            reconciler: Reconciler::new(ownership()),
            kernel,
            wanted: BTreeMap::new(),
            answers: VecDeque::new(),
            now: Instant::now_for_tests(),
            deletes: false,
            bgp_deletes: false,
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Want(index) => {
                let row = wanted_rows().swap_remove(*index);
                self.wanted.insert(row.key(), row.clone());
                self.reconciler.set(row);
            }
            Step::Unwant(index) => {
                let key = wanted_rows()[*index].key();
                self.wanted.remove(&key);
                self.reconciler.remove(&key);
            }
            Step::Give => self.give(),
            Step::Answer => {
                if let Some((key, result)) = self.answers.pop_front() {
                    self.reconciler.handle_result(self.now, &key, result);
                }
            }
            Step::Tell => {
                if let Some(event) = self.kernel.events.pop_front() {
                    self.reconciler.kernel_event(&event);
                }
            }
            // A notification that is older than the reading would undo it for good: the reader delivers those first.
            Step::ReadBack => {
                for event in self.kernel.take_events() {
                    self.reconciler.kernel_event(&event);
                }
                self.kernel.read_back(&mut self.reconciler);
            }
            Step::LinkUp(index) => self.kernel.link(LINKS[*index], true),
            Step::LinkDown(index) => {
                if self.kernel.links.contains_key(&IfName::from(LINKS[*index])) {
                    self.kernel.link(LINKS[*index], false);
                }
            }
            Step::LinkGone(index) => {
                self.kernel.link_gone(LINKS[*index]);
                if LINKS[*index] == "eth0" {
                    self.kernel.link_gone("vxlan.calico");
                }
            }
            Step::AddrGone(index) => self.kernel.addr_gone(LINKS[*index], "10.0.0.1/24"),
            Step::HandInsert(index) => {
                let row = hand_row(*index);
                let exist = |ifname: &IfName| {
                    let link = self.kernel.links.get(ifname);
                    link.is_some_and(|link| link.up)
                };
                match &row {
                    Row::Element(key) if self.kernel.has_table(key.family) => {
                        self.kernel.insert(row);
                    }
                    Row::Element(_) => {}
                    _ if devices(&row).iter().all(exist) => self.kernel.insert_by_hand(row),
                    _ => {}
                }
            }
            Step::HandRemove(index) => {
                let key = hand_row(*index).key();
                if key.kind() == RowKind::Element {
                    self.kernel.rows.remove(&key);
                } else if key.kind() != RowKind::Sysctl {
                    self.kernel.remove_by_hand(&key);
                }
            }
            Step::Refuse(index) => self.kernel.refuse(wanted_rows()[*index].key()),
            Step::Allow => self.kernel.allow(),
            Step::Pass => {
                self.now += Duration::from_millis(150);
                self.reconciler.handle_timeout(self.now);
            }
            Step::AllowDeletes => {
                self.deletes = true;
                self.reconciler.allow_deletes();
            }
            Step::AllowBgpDeletes => {
                self.bgp_deletes = true;
                self.reconciler.allow_bgp_deletes();
            }
        }
    }

    fn give(&mut self) {
        let Some(op) = self.reconciler.poll_op(1) else {
            return;
        };
        if let Op::Remove(row) = &op {
            assert!(self.deletes, "{row:?} is deleted before that is allowed");
            assert!(
                !self.wanted.contains_key(&row.key()),
                "{row:?} is deleted though it is wanted"
            );
            // Whatever came and was not notified yet: what is deleted is one of ours.
            if let Some(row) = self
                .kernel
                .taken_for(row)
                .map(|key| &self.kernel.rows[&key])
            {
                assert!(ownership().owns(row), "{row:?} is foreign");
                let of_bgp = matches!(row, Row::Route(_, spec) if spec.protocol == 12);
                assert!(!of_bgp || self.bgp_deletes, "{row:?} is of BGP");
            }
        }
        let result = self.kernel.execute(&op);
        self.answers.push_back((op.key(), result));
    }

    /// Where the kernel is not as it is wanted, and what is left behind, each by its row.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for row in self.wanted.values() {
            let held = self.kernel.rows.get(&row.key());
            let foreign = held.is_some_and(|held| !ownership().owns(held));
            // Nothing but the wanted row itself makes a tunnel device.
            let exists = |ifname: &IfName| self.kernel.links.contains_key(ifname);
            let waits = row.key().kind() != RowKind::Link && !devices(row).iter().all(exists);
            let without_table =
                matches!(row, Row::Element(key) if !self.kernel.has_table(key.family));
            let without_object = !self.needed(row).is_empty();
            if !(foreign || waits || without_table || without_object || held == Some(row)) {
                let problems = self.reconciler.problems();
                faults.push(format!("{row}: the kernel has {held:?}; {problems:?}"));
            }
        }
        for (key, row) in &self.kernel.rows {
            let ours =
                ownership().owns(row) && !matches!(key.kind(), RowKind::Mac | RowKind::Sysctl);
            let is_named = |id| self.kernel.rows.values().any(|row| names(row).contains(id));
            let in_use = matches!(key, RowKey::NextHop(id) if is_named(id));
            if ours && !in_use && !self.wanted.contains_key(key) {
                faults.push(format!("{row}: left behind"));
            }
        }
        faults
    }

    /// Objects that a row names, by others as well, and that are not wanted or whose device is gone for good.
    fn needed(&self, row: &Row) -> Vec<NextHopId> {
        let named = names(row);
        let lacks = |id: &NextHopId| match self.wanted.get(&RowKey::NextHop(*id)) {
            Some(object) => {
                let exists = |ifname: &IfName| self.kernel.links.contains_key(ifname);
                !devices(object).iter().all(exists) || !self.needed(object).is_empty()
            }
            None => true,
        };
        named.into_iter().filter(lacks).collect()
    }

    fn settle(&mut self) {
        self.kernel.allow();
        for index in 0..LINKS.len() {
            self.take(&Step::LinkUp(index));
        }
        self.take(&Step::AllowDeletes);
        self.take(&Step::AllowBgpDeletes);
        for _ in 0..4 {
            for _ in 0..200 {
                self.take(&Step::Tell);
                self.take(&Step::Give);
                self.take(&Step::Answer);
            }
            self.now += Duration::from_secs(60);
            self.reconciler.handle_timeout(self.now);
        }
        self.take(&Step::ReadBack);
        for _ in 0..200 {
            self.take(&Step::Tell);
            self.take(&Step::Give);
            self.take(&Step::Answer);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_ends_in_the_wanted_kernel_with_foreign_rows_untouched(
        steps in proptest::collection::vec(step(), 0..120),
    ) {
        let mut world = World::new();
        world.take(&Step::ReadBack);
        for step in &steps {
            world.take(step);
        }
        world.settle();
        prop_assert_eq!(world.faults(), Vec::<String>::new());
        prop_assert!(world.reconciler.is_converged());
    }
}

#[test]
fn the_final_check_names_each_row_that_is_spoilt_missing_or_left_behind() {
    let mut world = World::new();
    world.take(&Step::ReadBack);
    for index in 0..wanted_rows().len() {
        world.take(&Step::Want(index));
    }
    world.settle();
    assert_eq!(world.faults(), Vec::<String>::new());
    for row in world.wanted.clone().into_values() {
        // A foreign row in the place of ours is nobody's fault.
        if !world.kernel.has(&row) {
            continue;
        }
        world.kernel.rows.remove(&row.key());
        let faults = world.faults();
        assert!(
            faults.len() == 1 && faults[0].starts_with(&row.to_string()),
            "{faults:?}"
        );
        world.kernel.insert(row.clone());

        let wanted = world.wanted.remove(&row.key()).unwrap();
        // A setting has no absence, and an object stays while it is named.
        let stays = matches!(row, Row::Mac(..) | Row::Sysctl(..) | Row::NextHop(..));
        let faults = world.faults();
        let named = faults.len() == 1 && faults[0] == format!("{row}: left behind");
        assert!(named || (stays && faults.is_empty()), "{faults:?}");
        world.wanted.insert(wanted.key(), wanted);
    }
    let orphan = match object("eth0") {
        Row::NextHop(id, spec) => Row::NextHop(NextHopId(id.0 ^ 1), spec),
        row => row,
    };
    world.kernel.insert(orphan.clone());
    assert_eq!(world.faults(), [format!("{orphan}: left behind")]);
    world.kernel.rows.remove(&orphan.key());
    let Some(Row::Route(key, mut spec)) = world.wanted.get(&pod(1).key()).cloned() else {
        unreachable!("a pod's route is wanted")
    };
    spec.mtu_bytes = Some(1);
    world.kernel.insert(Row::Route(key, spec));
    let faults = world.faults();
    assert!(
        faults.len() == 1 && faults[0].starts_with("route 10.1.0.1/32"),
        "{faults:?}"
    );
}
