//! A model of one node's kernel: rows, devices, notifications, and a longest-prefix walk.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use felix::desired::{IfName, NextHop, RouteKind, RouteSpec, Row, RowKey};
use felix::kernel::{KernelEvent, LinkState, Op, OpError};
use ipnet::IpNet;

/// One node's kernel.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    links: BTreeMap<IfName, LinkState>,
    addresses: BTreeMap<IpAddr, (IfName, IpNet)>,
    rows: BTreeMap<RowKey, Row>,
    events: VecDeque<KernelEvent>,
    writes: u64,
    removed_routes: Vec<Row>,
    refusals: VecDeque<OpError>,
}

impl Kernel {
    /// A kernel with one device that carries the node's address.
    pub fn new(ifname: &str, addr: IpNet) -> Self {
        let mut kernel = Self::default();
        kernel.add_link(ifname, None);
        kernel
            .addresses
            .insert(addr.addr(), (IfName::from(ifname), addr));
        kernel
    }

    /// A device appears and is up.
    pub fn add_link(&mut self, ifname: &str, kind: Option<&str>) {
        let ifindex = u32::try_from(self.links.len()).expect("few devices") + 1;
        let state = LinkState {
            ifname: IfName::from(ifname),
            ifindex,
            up: true,
            mtu_bytes: 1500,
            mac: None,
            kind: kind.map(Into::into),
        };
        self.links.insert(state.ifname.clone(), state.clone());
        self.events.push_back(KernelEvent::Link(state));
    }

    /// Whether there is a device of this name.
    pub fn has_link(&self, ifname: &str) -> bool {
        self.links.contains_key(&IfName::from(ifname))
    }

    /// A device goes, and with it every row on it. IPv4 routes go without a notification, as in Linux.
    pub fn remove_link(&mut self, ifname: &str) {
        let ifname = IfName::from(ifname);
        self.links.remove(&ifname);
        self.rows.retain(|_, row| !on_device(row, &ifname));
        self.events.push_back(KernelEvent::LinkGone(ifname));
    }

    /// Somebody else than the agent writes a row.
    pub fn set_foreign(&mut self, row: Row) {
        self.events.push_back(KernelEvent::RowSet(row.clone()));
        self.rows.insert(row.key(), row);
    }

    /// Somebody else than the agent removes a row.
    pub fn remove_foreign(&mut self, key: &RowKey) {
        self.rows.remove(key);
        self.events.push_back(KernelEvent::RowGone(key.clone()));
    }

    /// Everything a start-up read shows.
    pub fn dump(&self) -> Vec<KernelEvent> {
        let links = self.links.values().cloned().map(KernelEvent::Link);
        let addresses = self
            .addresses
            .values()
            .map(|(ifname, addr)| KernelEvent::HostAddr {
                ifname: ifname.clone(),
                addr: *addr,
            });
        links.chain(addresses).collect()
    }

    /// Rows as a read-back shows them.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    /// The next notification.
    pub fn poll_event(&mut self) -> Option<KernelEvent> {
        self.events.pop_front()
    }

    /// Notifications nobody listened to are lost with the process that would have.
    pub fn forget_events(&mut self) {
        self.events.clear();
    }

    /// The next writes are refused, one by each of these errors.
    pub fn refuse_next(&mut self, errors: impl IntoIterator<Item = OpError>) {
        self.refusals.extend(errors);
    }

    /// All writes succeed again.
    pub fn refuse_no_more(&mut self) {
        self.refusals.clear();
    }

    /// The listener was too slow: what it had not read yet is lost, and it is told so.
    pub fn overrun(&mut self) {
        self.events.clear();
        self.events.push_back(KernelEvent::Overrun);
    }

    /// How many writes there were.
    pub const fn writes(&self) -> u64 {
        self.writes
    }

    /// Routes that were deleted by an operation since this was last asked.
    pub fn take_removed_routes(&mut self) -> Vec<Row> {
        std::mem::take(&mut self.removed_routes)
    }

    /// Carries out one operation.
    pub fn apply(&mut self, op: &Op) -> Result<(), OpError> {
        self.writes += 1;
        if let Some(refusal) = self.refusals.pop_front() {
            return Err(refusal);
        }
        match op {
            Op::Set(row) => self.set(row),
            Op::Remove(row) => {
                let key = row.key();
                if let Some(row @ Row::Route(..)) = self.rows.get(&key) {
                    self.removed_routes.push(row.clone());
                }
                if let RowKey::Link(name) = &key {
                    self.remove_link(&name.0.clone());
                }
                self.rows.remove(&key);
                self.events.push_back(KernelEvent::RowGone(key));
                Ok(())
            }
        }
    }

    fn set(&mut self, row: &Row) -> Result<(), OpError> {
        if let Some(missing) = devices(row)
            .into_iter()
            .find(|name| !self.links.contains_key(name))
        {
            return Err(OpError::NoDevice(missing));
        }
        match row {
            Row::Link(name, _) => self.add_link(&name.0.clone(), Some("vxlan")),
            Row::Route(_, spec) if !self.reachable(spec) => return Err(OpError::Unreachable),
            Row::Route(..)
            | Row::Mac(..)
            | Row::Addr(_)
            | Row::Neigh(..)
            | Row::Fdb(..)
            | Row::NextHop(..)
            | Row::Element(_)
            | Row::Leftover(_)
            | Row::Sysctl(..) => {}
            Row::Rules(family, rules) => {
                self.rows
                    .retain(|key, _| !matches!(key, RowKey::Element(key) if key.family == *family));
                let elements = rules.elements.iter().cloned().map(Row::Element);
                self.rows.extend(elements.map(|row| (row.key(), row)));
            }
        }
        self.rows.insert(row.key(), row.clone());
        if !matches!(row, Row::Mac(..) | Row::Sysctl(..)) {
            self.events.push_back(KernelEvent::RowSet(row.clone()));
        }
        Ok(())
    }

    fn reachable(&self, spec: &RouteSpec) -> bool {
        spec.next_hops.iter().all(|hop| match hop.gateway {
            Some(gateway) if !hop.onlink => self
                .addresses
                .values()
                .any(|(_, subnet)| subnet.contains(&gateway)),
            _ => true,
        })
    }

    /// The longest match for a destination: what packets would do. Of several next hops the kernel takes any.
    pub fn look_up(&self, to: IpAddr) -> Option<(RouteKind, &[NextHop])> {
        let routes = self.rows.values().filter_map(|row| match row {
            Row::Route(key, spec) if key.dst.contains(&to) => Some((key, spec)),
            _ => None,
        });
        let (_, spec) =
            routes.max_by_key(|(key, _)| (key.dst.prefix_len(), u32::MAX - key.metric))?;
        Some((spec.kind, &spec.next_hops))
    }

    /// Where a tunnel device sends what goes to a remote tunnel address: neighbour, then forwarding entry.
    pub fn tunnel_destination(&self, device: &IfName, gateway: IpAddr) -> Option<IpAddr> {
        let mac = self.rows.values().find_map(|row| match row {
            Row::Neigh(key, mac) if key.ifname == *device && key.addr == gateway => Some(*mac),
            _ => None,
        })?;
        self.rows.values().find_map(|row| match row {
            Row::Fdb(key, remote) if key.ifname == *device && key.mac == mac => Some(*remote),
            _ => None,
        })
    }
}

fn devices(row: &Row) -> Vec<IfName> {
    match row {
        Row::Link(..) | Row::Rules(..) | Row::Element(_) | Row::Leftover(_) | Row::Sysctl(..) => {
            Vec::new()
        }
        Row::Mac(name, _) => vec![name.clone()],
        Row::Addr(key) => vec![key.ifname.clone()],
        Row::Neigh(key, _) => vec![key.ifname.clone()],
        Row::Fdb(key, _) => vec![key.ifname.clone()],
        Row::NextHop(_, spec) => spec.ifname().cloned().into_iter().collect(),
        Row::Route(_, spec) => spec
            .next_hops
            .iter()
            .filter_map(|hop| hop.ifname.clone())
            .collect(),
    }
}

fn on_device(row: &Row, ifname: &IfName) -> bool {
    match row {
        Row::Link(name, _) => name == ifname,
        Row::Addr(_)
        | Row::Neigh(..)
        | Row::Fdb(..)
        | Row::NextHop(..)
        | Row::Route(..)
        | Row::Sysctl(..) => devices(row).contains(ifname),
        Row::Mac(name, _) => name == ifname,
        Row::Rules(..) | Row::Element(_) | Row::Leftover(_) => false,
    }
}
