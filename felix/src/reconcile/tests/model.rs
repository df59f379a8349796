//! A model of the kernel.

mod history;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::entry::devices;
use crate::desired::{IfName, Leads, LinkSpec, Mac, NextHopId, Parent, Row, RowKey, RowKind};
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
