//! The agent's reconciler and netlink, fed as `node/src/task/dataplane.rs` feeds them: 512 rows, notifications and operations at once.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{bail, ensure};
use felix::desired::{
    Hops, IfName, Leads, NextHop, NextHopId, NextHopSpec, RouteKey, RouteKind, RouteSpec, Row,
    RowKind,
};
use felix::kernel::KernelEvent;
use felix::ownership::{BgpRoutes, ExternalRoutes, Ownership, TABLE_MAIN};
use felix::reconcile::Reconciler;
use felix_io::kernel::Piece;
use felix_io::{Kernel, Table};
use tokio::sync::mpsc;

use super::network::{DEVICES, PROTOCOL, Wanted};

/// As the agent's task.
const BATCH: usize = 512;
/// What is read, and what it holds.
const TABLES: [(Table, RowKind); 5] = [
    (Table::Links, RowKind::Link),
    (Table::Addrs, RowKind::Addr),
    (Table::NextHops, RowKind::NextHop),
    (Table::Routes, RowKind::Route),
    (Table::Rules, RowKind::Rules),
];

/// The agent's dataplane without the agent.
pub(super) struct Ours {
    pub(super) reconciler: Reconciler,
    kernel: Kernel,
    events: Option<mpsc::Receiver<KernelEvent>>,
}

impl Ours {
    /// As after the agent's start: the kernel was read.
    pub(super) async fn start(hears: bool) -> anyhow::Result<Self> {
        let kernel = Kernel::open()?;
        let events = match hears {
            true => Some(kernel.events()?),
            false => None,
        };
        let mut reconciler = Reconciler::new(Ownership {
            interface_prefixes: vec!["cali".to_owned()],
            device_route_protocol: 3,
            bgp_routes: BgpRoutes::Ours,
            external_routes: ExternalRoutes::Remove,
        });
        reconciler.allow_deletes();
        reconciler.allow_bgp_deletes();
        let mut ours = Self {
            reconciler,
            kernel,
            events,
        };
        ours.resync().await?;
        Ok(ours)
    }

    /// Reads the kernel.
    pub(super) async fn resync(&mut self) -> anyhow::Result<()> {
        for (table, kind) in TABLES {
            self.reconciler.resync_begin(kind);
            let mut pieces = self.kernel.read(table).await;
            while let Some(piece) = pieces.next().await? {
                let Piece::Events(events) = piece else {
                    self.reconciler.resync_begin(kind);
                    continue;
                };
                for event in events {
                    match event {
                        KernelEvent::RowSet(row) => self.reconciler.resync_entry(row),
                        event => self.reconciler.kernel_event(&event),
                    }
                }
            }
            self.reconciler.resync_end(kind);
        }
        Ok(())
    }

    /// Wants rows, and writes until the kernel has them.
    pub(super) async fn write(&mut self, rows: impl Iterator<Item = Row>) -> anyhow::Result<()> {
        let mut rows = rows.fuse();
        loop {
            let mut idle = true;
            for row in rows.by_ref().take(BATCH) {
                idle = false;
                self.reconciler.set(row);
            }
            self.hear();
            let mut ops = Vec::new();
            while let Some(op) = self.reconciler.poll_op(BATCH - ops.len()) {
                ops.push(op);
            }
            if ops.is_empty() && idle {
                break;
            }
            let results = self.kernel.apply(ops).await;
            let now = Instant::now();
            for (key, result) in results {
                if let Err(error) = &result {
                    bail!("{key}: {error}");
                }
                self.reconciler.handle_result(now, &key, result);
            }
            // As the task: it reports what has come to be.
            while self.reconciler.poll_programmed().is_some() {}
        }
        Ok(())
    }

    /// That nothing is left to be written.
    pub(super) fn ensure_written(&self) -> anyhow::Result<()> {
        ensure!(self.reconciler.problems().is_empty(), "not all is written");
        Ok(())
    }

    /// Takes in notifications, as many as the agent does at once.
    fn hear(&mut self) {
        let Some(events) = &mut self.events else {
            return;
        };
        for _ in 0..BATCH {
            match events.try_recv() {
                Ok(event) => self.reconciler.kernel_event(&event),
                Err(_) => break,
            }
        }
    }
}

/// The row of a route that leads through a device's network.
pub(super) fn row(wanted: &Wanted, device: usize) -> Row {
    let key = RouteKey {
        table: TABLE_MAIN,
        dst: wanted.prefix.into(),
        tos: 0,
        metric: 0,
    };
    let spec = RouteSpec {
        kind: RouteKind::Unicast,
        scope: 0,
        protocol: PROTOCOL,
        next_hops: vec![hop(wanted, device)].into(),
        object: None,
        prefsrc: None,
        mtu_bytes: None,
    };
    Row::Route(key, spec)
}

/// The row of a route that names its peer's object.
pub(super) fn named(wanted: &Wanted) -> Row {
    match row(wanted, 0) {
        Row::Route(key, spec) => {
            let spec = RouteSpec {
                next_hops: Hops::default(),
                object: Some(id(wanted)),
                ..spec
            };
            Row::Route(key, spec)
        }
        row => row,
    }
}

/// The object of a route's peer, leading through a device's network.
pub(super) fn object(wanted: &Wanted, device: usize) -> Row {
    let spec = NextHopSpec {
        protocol: PROTOCOL,
        leads: Leads::To(hop(wanted, device)),
    };
    Row::NextHop(id(wanted), spec)
}

/// As the agent numbers it: by the peer, wherever it is.
pub(super) fn id(wanted: &Wanted) -> NextHopId {
    NextHopId::of(&[wanted.gateway(0).into()])
}

fn hop(wanted: &Wanted, device: usize) -> NextHop {
    NextHop {
        gateway: Some(IpAddr::V4(wanted.gateway(device))),
        ifname: Some(IfName::from(DEVICES[device].0)),
        onlink: false,
    }
}
