//! The agent's machines between the objects and the kernel, as the node's tasks drive them.

use std::time::Instant;

use api::key::Key;
use felix::calc::Graph;
use felix::desired::{RowKind, SysctlKey};
use felix::kernel::KernelEvent;
use felix::reconcile::Reconciler;
use felix_io::{Kernel, Table};

use super::cases::Facts;

const TABLES: [(Table, &[RowKind]); 8] = [
    (Table::Links, &[RowKind::Link]),
    (Table::Addrs, &[RowKind::Addr]),
    (Table::NextHops, &[RowKind::NextHop]),
    (Table::Routes, &[RowKind::Route]),
    (Table::Neighbours, &[RowKind::Neigh]),
    (Table::Fdb, &[RowKind::Fdb]),
    (Table::Rules, &[RowKind::Rules, RowKind::Element]),
    (Table::Leftovers, &[RowKind::Leftover]),
];
/// Readings after which nothing is left to be written: devices, what stands on them, what goes with that.
const READINGS: usize = 6;

pub(super) struct Agent {
    graph: Graph,
    reconciler: Reconciler,
    known: Vec<Key>,
}

impl Agent {
    /// One that knows all facts, and nothing of the kernel.
    pub(super) fn new(facts: &Facts) -> Self {
        let mut graph = Graph::new(facts.settings.clone());
        for (key, object) in &facts.objects {
            graph.handle_update(key, Some(object));
        }
        for route in &facts.bgp {
            graph.handle_bgp_route(route.clone());
        }
        for kind in Graph::KINDS {
            graph.handle_in_sync(kind);
        }
        Self {
            graph,
            reconciler: Reconciler::new(facts.settings.ownership()),
            known: facts.objects.iter().map(|(key, _)| key.clone()).collect(),
        }
    }

    /// All objects but the node's own go, and all routes of BGP.
    pub(super) fn forget_everything(&mut self) {
        for key in &self.known {
            self.graph.handle_update(key, None);
        }
        for route in super::cases::withdrawn() {
            self.graph.handle_bgp_route(route);
        }
    }

    /// Reads the kernel and writes what comes of it, until nothing comes of it.
    pub(super) async fn settle(&mut self, kernel: &Kernel) {
        for _ in 0..READINGS {
            self.read(kernel).await;
            if self.write(kernel).await == 0 {
                return;
            }
        }
        panic!(
            "there is always something to write: {:?}",
            self.reconciler.problems()
        );
    }

    async fn read(&mut self, kernel: &Kernel) {
        self.graph.handle_kernel_resync();
        for (table, kinds) in TABLES {
            kinds
                .iter()
                .for_each(|kind| self.reconciler.resync_begin(*kind));
            for event in kernel.dump(table).await.unwrap() {
                self.graph.handle_kernel_event(&event);
                match event {
                    KernelEvent::RowSet(row) => self.reconciler.resync_entry(row),
                    event => self.reconciler.kernel_event(&event),
                }
            }
            kinds
                .iter()
                .for_each(|kind| self.reconciler.resync_end(*kind));
        }
        self.graph.handle_kernel_in_sync();
        let sysctls: Vec<SysctlKey> = self.reconciler.wanted_sysctls().cloned().collect();
        for event in kernel.read_sysctls(sysctls).await {
            self.reconciler.kernel_event(&event);
        }
    }

    /// How much was written.
    async fn write(&mut self, kernel: &Kernel) -> usize {
        self.graph.flush();
        while let Some((key, row)) = self.graph.poll_desired() {
            match row {
                Some(row) => self.reconciler.set(row),
                None => self.reconciler.remove(&key),
            }
        }
        self.reconciler.allow_deletes();
        self.reconciler.allow_bgp_deletes();
        let mut written = 0;
        while let Some(op) = self.reconciler.poll_op(1) {
            written += 1;
            for (key, result) in kernel.apply(vec![op]).await {
                if let Err(error) = &result {
                    panic!("{key}: {error}");
                }
                self.reconciler.handle_result(Instant::now(), &key, result);
            }
        }
        written
    }
}
