//! One row: what is wanted, what the kernel has, what is in flight.

use std::time::Instant;

use crate::desired::{
    Checksums, IfName, LinkSpec, NextHopId, Parent, RouteKind, RouteSpec, Row, RowKey,
};
use crate::kernel::{Op, OpError};
use crate::ownership::Ownership;

/// What the kernel has under a key, as far as it showed.
#[derive(Debug)]
pub(super) enum Held {
    Absent,
    Has(Row),
    /// It had this, and may have dropped it without a notification.
    Stale(Row),
}

impl Held {
    pub(super) const fn row(&self) -> Option<&Row> {
        match self {
            Self::Absent => None,
            Self::Has(row) | Self::Stale(row) => Some(row),
        }
    }
}

/// Failed attempts since the last success.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) error: OpError,
    pub(super) attempts: u32,
    pub(super) retry_at: Instant,
}

/// An operation that was given out.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) op: Op,
    /// The kernel notified something about the row, or its device, meanwhile.
    pub(super) observed: bool,
}

/// When an operation is executed: what others build on first, deletions last and in reverse order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    SetLink,
    SetAddr,
    SetMac,
    SetSysctl,
    SetNeigh,
    SetRules,
    SetElement,
    SetNextHop,
    SetRoute,
    RemoveRoute,
    RemoveNextHop,
    RemoveElement,
    RemoveRules,
    RemoveLeftover,
    RemoveNeigh,
    RemoveAddr,
    RemoveLink,
}

impl Stage {
    pub(super) const fn of_set(key: &RowKey) -> Self {
        match key {
            RowKey::Link(_) => Self::SetLink,
            RowKey::Addr(_) => Self::SetAddr,
            RowKey::Mac(_) => Self::SetMac,
            RowKey::Sysctl(_) => Self::SetSysctl,
            RowKey::Neigh(_) | RowKey::Fdb(_) => Self::SetNeigh,
            RowKey::Rules(_) => Self::SetRules,
            // Nobody wants a leftover.
            RowKey::Element(_) | RowKey::Leftover(_) => Self::SetElement,
            RowKey::NextHop(_) => Self::SetNextHop,
            RowKey::Route(_) => Self::SetRoute,
        }
    }

    pub(super) const fn of_remove(key: &RowKey) -> Self {
        match key {
            RowKey::NextHop(_) => Self::RemoveNextHop,
            RowKey::Route(_) => Self::RemoveRoute,
            RowKey::Rules(_) => Self::RemoveRules,
            RowKey::Element(_) => Self::RemoveElement,
            RowKey::Leftover(_) => Self::RemoveLeftover,
            RowKey::Neigh(_) | RowKey::Fdb(_) => Self::RemoveNeigh,
            RowKey::Addr(_) => Self::RemoveAddr,
            RowKey::Link(_) | RowKey::Mac(_) | RowKey::Sysctl(_) => Self::RemoveLink,
        }
    }
}

/// [`Held`], with a row that is the wanted one kept as that: in a large table all are.
#[derive(Debug, Default)]
enum Kept {
    #[default]
    Absent,
    HasWanted,
    StaleWanted,
    Has(Box<Row>),
    Stale(Box<Row>),
}

#[derive(Debug, Default)]
pub(super) struct Entry {
    wanted: Option<Row>,
    kept: Kept,
    pub(super) flight: Option<Box<Flight>>,
    pub(super) failure: Option<Box<Failure>>,
    /// Where it stands among the operations to execute.
    pub(super) stage: Option<Stage>,
    pub(super) programmed: bool,
    /// Wanted now or before.
    pub(super) asked_for: bool,
    /// Written since it was last not as wanted.
    pub(super) written: bool,
    /// Times in a row that it turned out not to be as wanted after it had been.
    pub(super) repeats: u32,
    /// Number of the last reading that has shown it, or that need not.
    pub(super) seen: u32,
}

impl Entry {
    pub(super) const fn wanted(&self) -> Option<&Row> {
        self.wanted.as_ref()
    }

    pub(super) const fn is_wanted(&self) -> bool {
        self.wanted.is_some()
    }

    /// This is wanted from now on, or nothing.
    pub(super) fn want(&mut self, wanted: Option<Row>) {
        let held = self.take_held();
        self.wanted = wanted;
        self.hold(held);
    }

    /// What the kernel has, or had when it last showed it.
    pub(super) fn held(&self) -> Option<&Row> {
        match &self.kept {
            Kept::Absent => None,
            Kept::HasWanted | Kept::StaleWanted => self.wanted.as_ref(),
            Kept::Has(row) | Kept::Stale(row) => Some(row),
        }
    }

    /// Whether it has something, as far as is known.
    pub(super) const fn stands(&self) -> bool {
        matches!(self.kept, Kept::HasWanted | Kept::Has(_))
    }

    /// Whether it has what is wanted, and says so.
    pub(super) fn stands_as_wanted(&self) -> bool {
        match (&self.kept, &self.wanted) {
            (Kept::HasWanted, _) => true,
            (Kept::Has(held), Some(wanted)) => matches(wanted, held),
            _ => false,
        }
    }

    /// Whether it has nothing, as far as is known.
    pub(super) const fn is_absent(&self) -> bool {
        matches!(self.kept, Kept::Absent)
    }

    /// Whether just this is known of the kernel.
    pub(super) fn holds(&self, held: &Held) -> bool {
        match (&self.kept, held) {
            (Kept::Absent, Held::Absent) => true,
            (Kept::HasWanted, Held::Has(row)) | (Kept::StaleWanted, Held::Stale(row)) => {
                self.wanted.as_ref() == Some(row)
            }
            (Kept::Has(kept), Held::Has(row)) | (Kept::Stale(kept), Held::Stale(row)) => {
                **kept == *row
            }
            _ => false,
        }
    }

    /// This is known of the kernel from now on.
    pub(super) fn hold(&mut self, held: Held) {
        let is_wanted = |row: &Row| self.wanted.as_ref() == Some(row);
        self.kept = match held {
            Held::Absent => Kept::Absent,
            Held::Has(row) if is_wanted(&row) => Kept::HasWanted,
            Held::Has(row) => Kept::Has(Box::new(row)),
            Held::Stale(row) if is_wanted(&row) => Kept::StaleWanted,
            Held::Stale(row) => Kept::Stale(Box::new(row)),
        };
    }

    /// The kernel may have dropped it without a notification.
    pub(super) fn mark_stale(&mut self) {
        self.kept = match std::mem::take(&mut self.kept) {
            Kept::HasWanted => Kept::StaleWanted,
            Kept::Has(row) => Kept::Stale(row),
            kept @ (Kept::Absent | Kept::StaleWanted | Kept::Stale(_)) => kept,
        };
    }

    fn take_held(&mut self) -> Held {
        match std::mem::take(&mut self.kept) {
            Kept::Absent => Held::Absent,
            Kept::HasWanted => self.wanted.take().map_or(Held::Absent, Held::Has),
            Kept::StaleWanted => self.wanted.take().map_or(Held::Absent, Held::Stale),
            Kept::Has(row) => Held::Has(*row),
            Kept::Stale(row) => Held::Stale(*row),
        }
    }

    pub(super) const fn is_void(&self) -> bool {
        self.wanted.is_none() && self.is_absent() && self.flight.is_none() && self.stage.is_none()
    }

    /// The next-hop object that the kernel's route names.
    pub(super) fn object(&self) -> Option<NextHopId> {
        match self.held() {
            Some(Row::Route(_, spec)) => spec.object,
            Some(_) | None => None,
        }
    }

    /// The next-hop objects that the kernel's group needs.
    pub(super) fn members(&self) -> &[NextHopId] {
        match self.held() {
            Some(Row::NextHop(_, spec)) => spec.members(),
            Some(_) | None => &[],
        }
    }

    /// As it is wanted, and neither written nor to be written again.
    pub(super) const fn is_at_rest(&self) -> bool {
        self.programmed && self.flight.is_none() && self.failure.is_none() && self.repeats == 0
    }

    /// Notes that the result of the operation in flight, if any, does not say what the kernel has.
    pub(super) const fn disturb(&mut self) {
        if let Some(flight) = &mut self.flight {
            flight.observed = true;
        }
    }

    /// What is wanted and what the kernel has; one row when they are the same.
    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        let other = match &self.kept {
            Kept::Absent | Kept::HasWanted | Kept::StaleWanted => None,
            Kept::Has(row) | Kept::Stale(row) => Some(&**row),
        };
        self.wanted.iter().chain(other)
    }

    /// Whether one of both rows is on a device.
    pub(super) fn is_on(&self, ifname: &IfName) -> bool {
        self.rows().any(|row| match row {
            Row::Route(_, spec) => route_devices(spec).any(|device| device == ifname),
            row => devices(row).contains(ifname),
        })
    }

    /// Pods' devices of both rows, sorted. There are none in most entries of a large table.
    pub(super) fn workloads(&self, ownership: &Ownership) -> Vec<IfName> {
        let mut all = Vec::new();
        for row in self.rows() {
            match row {
                Row::Route(_, spec) => {
                    let ours = route_devices(spec).filter(|name| ownership.is_workload(name));
                    all.extend(ours.cloned());
                }
                row => {
                    let ours = devices(row).into_iter();
                    all.extend(ours.filter(|name| ownership.is_workload(name)));
                }
            }
        }
        all.sort();
        all.dedup();
        all
    }
}

/// Devices a route leads through.
pub(super) fn route_devices(spec: &RouteSpec) -> impl Iterator<Item = &IfName> {
    spec.next_hops.iter().filter_map(|hop| hop.ifname.as_ref())
}

/// Devices a row lies on, the row's own device for a link.
pub(super) fn devices(row: &Row) -> Vec<IfName> {
    match row {
        Row::Link(name, _) | Row::Mac(name, _) => vec![name.clone()],
        Row::Addr(key) => vec![key.ifname.clone()],
        Row::Neigh(key, _) => vec![key.ifname.clone()],
        Row::Fdb(key, _) => vec![key.ifname.clone()],
        Row::NextHop(_, spec) => spec.ifname().cloned().into_iter().collect(),
        Row::Route(_, spec) => route_devices(spec).cloned().collect(),
        Row::Rules(..) | Row::Element(_) | Row::Leftover(_) => Vec::new(),
        Row::Sysctl(key, _) => sysctl_device(&key.0).into_iter().collect(),
    }
}

/// `net/ipv4/conf/cali1/proxy_arp` → `cali1`.
fn sysctl_device(path: &str) -> Option<IfName> {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["net", "ipv4" | "ipv6", "conf" | "neigh", device, _]
            if *device != "all" && *device != "default" =>
        {
            Some(IfName::from(*device))
        }
        _ => None,
    }
}

/// Whether the kernel's row is what is wanted. What the wanted row leaves open matches anything.
pub(super) fn matches(wanted: &Row, held: &Row) -> bool {
    match (wanted, held) {
        (Row::Link(_, wanted), Row::Link(_, held)) => {
            same_device(wanted, held)
                && mtu_matches(mtu(wanted), mtu(held))
                && checksums_match(wanted, held)
        }
        (Row::Route(_, wanted), Row::Route(_, held)) => {
            wanted.kind == held.kind
                && wanted.scope == held.scope
                && wanted.protocol == held.protocol
                && wanted.prefsrc == held.prefsrc
                && wanted.mtu_bytes == held.mtu_bytes
                && wanted.object == held.object
                && (wanted.kind == RouteKind::Blackhole || hops_match(wanted, held))
        }
        (Row::Rules(_, wanted), Row::Rules(_, held)) => wanted.shown == held.shown,
        (wanted, held) => wanted == held,
    }
}

fn hops_match(wanted: &RouteSpec, held: &RouteSpec) -> bool {
    wanted.next_hops.len() == held.next_hops.len()
        && wanted.next_hops.iter().all(|wanted| {
            held.next_hops.iter().any(|held| {
                wanted.gateway == held.gateway
                    && wanted.onlink == held.onlink
                    && (wanted.ifname.is_none() || wanted.ifname == held.ifname)
            })
        })
}

const fn mtu(spec: &LinkSpec) -> Option<u32> {
    match spec {
        LinkSpec::Vxlan { mtu_bytes, .. } | LinkSpec::Ipip { mtu_bytes } => *mtu_bytes,
    }
}

fn mtu_matches(wanted: Option<u32>, held: Option<u32>) -> bool {
    wanted.is_none() || wanted == held
}

fn checksums_match(wanted: &LinkSpec, held: &LinkSpec) -> bool {
    let of = |spec: &LinkSpec| match spec {
        LinkSpec::Vxlan { checksums, .. } => *checksums,
        LinkSpec::Ipip { .. } => Checksums::AsIs,
    };
    matches!(
        (of(wanted), of(held)),
        (Checksums::AsIs, _) | (Checksums::Kernel, Checksums::Kernel)
    )
}

/// Whether a device can become the wanted one in place; otherwise it is made anew, and all that lies on it goes.
pub(super) fn same_device(wanted: &LinkSpec, held: &LinkSpec) -> bool {
    match (wanted, held) {
        (
            LinkSpec::Vxlan {
                vni,
                port,
                local,
                parent,
                mac,
                mtu_bytes: _,
                checksums: _,
            },
            LinkSpec::Vxlan {
                vni: held_vni,
                port: held_port,
                local: held_local,
                parent: held_parent,
                mac: held_mac,
                mtu_bytes: _,
                checksums: _,
            },
        ) => {
            vni == held_vni
                && port == held_port
                && local == held_local
                && mac == held_mac
                && (*parent == Parent::Unknown || parent == held_parent)
        }
        (LinkSpec::Ipip { .. }, LinkSpec::Ipip { .. }) => true,
        (LinkSpec::Vxlan { .. }, LinkSpec::Ipip { .. })
        | (LinkSpec::Ipip { .. }, LinkSpec::Vxlan { .. }) => false,
    }
}
