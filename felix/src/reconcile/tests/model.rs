//! A model of the kernel, and the property that the reconciler brings any of its states to the wanted one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::entry::devices;
use super::object::{by_object, group, object, over};
use super::{
    NowForTests, blackhole, element, ownership, pod, route, sysctl, table, tunnel_rows, vxlan,
};
use crate::desired::{
    IfName, Leads, LinkSpec, Mac, NextHopId, Parent, Row, RowKey, RowKind, SysctlKey,
};
use crate::kernel::{KernelEvent, LinkState, Op, OpError};
use crate::reconcile::Reconciler;
use crate::rules::{Family, Rules};

#[derive(Debug, Default)]
pub(super) struct Kernel {
    rows: BTreeMap<RowKey, Row>,
    links: BTreeMap<IfName, LinkState>,
    events: VecDeque<KernelEvent>,
    refused: BTreeSet<RowKey>,
    distorted: BTreeSet<RowKey>,
    last_index: u32,
}

impl Kernel {
    pub(super) fn with_links(names: &[&str]) -> Self {
        let mut kernel = Self::default();
        for name in names {
            kernel.link(name, true);
        }
        kernel.events.clear();
        kernel
    }

    pub(super) fn has(&self, row: &Row) -> bool {
        self.rows.get(&row.key()) == Some(row)
    }

    pub(super) fn insert(&mut self, row: Row) {
        self.rows.insert(row.key(), row);
    }

    pub(super) fn insert_by_hand(&mut self, row: Row) {
        self.insert(row.clone());
        self.events.push_back(KernelEvent::RowSet(row));
    }

    pub(super) fn remove_by_hand(&mut self, key: &RowKey) {
        if self.rows.remove(key).is_some() {
            self.routes_go_with_objects();
            self.events.push_back(KernelEvent::RowGone(key.clone()));
        }
    }

    pub(super) fn refuse(&mut self, key: RowKey) {
        self.refused.insert(key);
    }

    pub(super) fn allow(&mut self) {
        self.refused.clear();
    }

    /// From now on the row looks different from what was written.
    pub(super) fn distort(&mut self, key: RowKey) {
        self.distorted.insert(key);
    }

    pub(super) fn take_events(&mut self) -> Vec<KernelEvent> {
        self.events.drain(..).collect()
    }

    /// Makes a device, or changes its state. Going down takes routes and neighbours along silently.
    pub(super) fn link(&mut self, name: &str, up: bool) {
        let ifname = IfName::from(name);
        let ifindex = match self.links.get(&ifname) {
            Some(link) => link.ifindex,
            None => {
                self.last_index += 1;
                self.last_index
            }
        };
        let state = LinkState {
            ifname: ifname.clone(),
            ifindex,
            up,
            mtu_bytes: 1500,
            mac: None,
            kind: None,
        };
        self.links.insert(ifname.clone(), state.clone());
        if !up {
            self.rows.retain(|key, row| {
                !matches!(
                    key.kind(),
                    RowKind::Route | RowKind::Neigh | RowKind::NextHop
                ) || !devices(row).contains(&ifname)
            });
            self.routes_go_with_objects();
        }
        self.events.push_back(KernelEvent::Link(state));
    }

    /// Somebody gives a device another MAC.
    pub(super) fn mac(&mut self, name: &str, mac: Mac) {
        let ifname = IfName::from(name);
        let link = self.links.get_mut(&ifname).expect("the device exists");
        link.mac = Some(mac);
        self.events.push_back(KernelEvent::Link(link.clone()));
    }

    pub(super) fn link_gone(&mut self, name: &str) {
        let ifname = IfName::from(name);
        if self.links.remove(&ifname).is_some() {
            self.rows.retain(|_, row| !devices(row).contains(&ifname));
            self.routes_go_with_objects();
            self.events.push_back(KernelEvent::LinkGone(ifname));
        }
    }

    /// A device loses its last IPv4 address: its routes go silently, its neighbours do not.
    pub(super) fn addr_gone(&mut self, name: &str, addr: &str) {
        let ifname = IfName::from(name);
        self.rows
            .retain(|key, row| key.kind() != RowKind::Route || !devices(row).contains(&ifname));
        self.events.push_back(KernelEvent::HostAddrGone {
            ifname,
            addr: addr.parse().unwrap(),
        });
    }

    /// Groups lack the members that went, and go with the last; routes go silently with the object that they name.
    fn routes_go_with_objects(&mut self) {
        let there: BTreeSet<NextHopId> = self
            .rows
            .keys()
            .filter_map(|key| match key {
                RowKey::NextHop(id) => Some(*id),
                _ => None,
            })
            .collect();
        for row in self.rows.values_mut() {
            if let Row::NextHop(_, spec) = row
                && let Leads::Over(members) = &mut spec.leads
            {
                members.retain(|member| there.contains(member));
            }
        }
        self.rows.retain(|_, row| match row {
            Row::NextHop(_, spec) => spec.leads != Leads::Over(Vec::new()),
            _ => true,
        });
        let names_nothing = |row: &Row| match row {
            Row::Route(_, spec) => spec
                .object
                .is_some_and(|id| !self.rows.contains_key(&RowKey::NextHop(id))),
            _ => false,
        };
        let gone: Vec<RowKey> = self
            .rows
            .values()
            .filter(|row| names_nothing(row))
            .map(Row::key)
            .collect();
        for key in gone {
            self.rows.remove(&key);
        }
    }

    pub(super) fn execute(&mut self, op: &Op) -> Result<(), OpError> {
        if self.refused.contains(&op.key()) {
            return Err(OpError::Kernel {
                errno: 22,
                text: "refused".into(),
            });
        }
        match op {
            Op::Set(Row::Link(name, spec)) => {
                let made_anew = match self.rows.get(&RowKey::Link(name.clone())) {
                    Some(Row::Link(_, held)) => !super::super::entry::same_device(spec, held),
                    _ => true,
                };
                if let LinkSpec::Vxlan { parent, .. } = spec {
                    match parent {
                        Parent::Device(parent) if !self.links.contains_key(parent) => {
                            return Err(OpError::NoDevice(parent.clone()));
                        }
                        Parent::Device(_) | Parent::Routed => {}
                        Parent::Unknown => unreachable!("no operation leaves the parent open"),
                    }
                }
                if made_anew {
                    self.link_gone(&name.0);
                }
                self.link(&name.0, true);
                self.insert_by_hand(Row::Link(name.clone(), spec.clone()));
                Ok(())
            }
            Op::Set(Row::Rules(family, rules)) => {
                self.elements_go(*family);
                for key in &rules.elements {
                    self.insert(Row::Element(key.clone()));
                }
                let rules = Rules {
                    elements: Vec::new(),
                    ..rules.clone()
                };
                self.insert(Row::Rules(*family, rules));
                Ok(())
            }
            Op::Set(Row::Element(key)) if !self.has_table(key.family) => Err(OpError::Kernel {
                errno: 2,
                text: "no such table".into(),
            }),
            Op::Set(Row::Route(_, spec))
                if spec
                    .object
                    .is_some_and(|id| !self.rows.contains_key(&RowKey::NextHop(id))) =>
            {
                Err(OpError::Kernel {
                    errno: 22,
                    text: "nexthop id does not exist".into(),
                })
            }
            Op::Set(Row::NextHop(_, spec))
                if !(spec.members().iter())
                    .all(|id| self.rows.contains_key(&RowKey::NextHop(*id))) =>
            {
                Err(OpError::Kernel {
                    errno: 22,
                    text: "invalid nexthop id".into(),
                })
            }
            Op::Set(row) => {
                for ifname in devices(row) {
                    let needs_up = matches!(row.key().kind(), RowKind::Route | RowKind::Neigh);
                    match self.links.get(&ifname) {
                        None => return Err(OpError::NoDevice(ifname)),
                        Some(link) if needs_up && !link.up => return Err(OpError::Unreachable),
                        Some(_) => {}
                    }
                }
                let mut shown = row.clone();
                if let (true, Row::Route(_, spec)) =
                    (self.distorted.contains(&row.key()), &mut shown)
                {
                    spec.mtu_bytes = Some(1);
                }
                match shown.key().kind() {
                    RowKind::Mac | RowKind::Sysctl | RowKind::Element => self.insert(shown),
                    _ => self.insert_by_hand(shown),
                }
                Ok(())
            }
            Op::Remove(row) => {
                let taken = self.taken_for(row);
                if let Some(key) = taken {
                    self.rows.remove(&key);
                    self.routes_go_with_objects();
                    if let RowKey::Link(name) = &key {
                        self.link_gone(&name.0);
                    }
                    if let RowKey::Rules(family) = &key {
                        self.elements_go(*family);
                    }
                    if matches!(key, RowKey::Rules(_) | RowKey::Element(_)) {
                        // Notified without saying what.
                        return Ok(());
                    }
                    self.events.push_back(KernelEvent::RowGone(key));
                    Ok(())
                } else {
                    Err(OpError::Kernel {
                        errno: 3,
                        text: "no such thing".into(),
                    })
                }
            }
        }
    }

    pub(super) fn has_table(&self, family: Family) -> bool {
        self.rows.contains_key(&RowKey::Rules(family))
    }

    fn elements_go(&mut self, family: Family) {
        self.rows
            .retain(|key, _| !matches!(key, RowKey::Element(key) if key.family == family));
    }

    /// The row that the kernel takes `row` for: any metric does for a route without one, as long as all that is named of
    /// the route is the same.
    fn taken_for(&self, row: &Row) -> Option<RowKey> {
        let key = row.key();
        let (RowKey::Route(wanted), Row::Route(_, value)) = (&key, row) else {
            return self.rows.contains_key(&key).then_some(key);
        };
        let mut candidates = self.rows.iter().filter_map(|(key, row)| match (key, row) {
            (RowKey::Route(key), Row::Route(_, spec)) => Some((key, spec)),
            _ => None,
        });
        let found = candidates.find(|(key, spec)| {
            (key.table, key.dst, key.tos) == (wanted.table, wanted.dst, wanted.tos)
                && (wanted.metric == 0 || key.metric == wanted.metric)
                && (spec.kind, spec.scope, spec.protocol)
                    == (value.kind, value.scope, value.protocol)
                && spec.next_hops == value.next_hops
        });
        found.map(|(key, _)| RowKey::Route(key.clone()))
    }

    pub(super) fn read_back(&self, reconciler: &mut Reconciler) {
        for kind in KINDS {
            reconciler.resync_begin(kind);
            if kind == RowKind::Link {
                for link in self.links.values() {
                    reconciler.kernel_event(&KernelEvent::Link(link.clone()));
                }
            }
            for row in self.rows.values().filter(|row| row.key().kind() == kind) {
                reconciler.resync_entry(row.clone());
            }
            reconciler.resync_end(kind);
        }
    }
}

const KINDS: [RowKind; 9] = [
    RowKind::Link,
    RowKind::Addr,
    RowKind::NextHop,
    RowKind::Neigh,
    RowKind::Fdb,
    RowKind::Route,
    RowKind::Rules,
    RowKind::Element,
    RowKind::Leftover,
];

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
