//! One node: a kernel that outlives its agent, and the agent, which is the real machines joined as `node` joins them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use api::key::{Key, Kind};
use api::object::Object;
use bgp::action::Action;
use bgp::event::Event;
use bgp::speaker::Speaker;
use bgp::types::ConnId;
use datastore::memory::MemoryStore;
use datastore::scope::Scope;
use datastore::store::{Change, Store, StoreError, WatchEvent};
use felix::calc::{Graph, Settings};
use felix::desired::{IfName, RowKey, RowKind};
use felix::kernel::KernelEvent;
use felix::reconcile::Reconciler;
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, SelectAll, select_all};
use futures_util::task::noop_waker_ref;
use ipam::Ipam;
use ipnet::IpNet;

use crate::executor;
use crate::kernel::Kernel;

/// A pod as the world remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its address.
    pub address: IpNet,
    /// Its device on the host's side.
    pub ifname: IfName,
}

/// A node.
pub struct Node {
    /// Name.
    pub name: String,
    /// Address with the prefix length of its subnet.
    pub address: IpNet,
    /// This node's client of the cluster's store.
    pub store: MemoryStore,
    /// What its agent gives addresses with.
    pub ipam: Ipam,
    /// Kernel.
    pub kernel: Kernel,
    /// Pods by name.
    pub pods: BTreeMap<String, Pod>,
    /// The agent; `None` while it is dead.
    pub agent: Option<Agent>,
    /// The machine is gone for good.
    pub lost: bool,
    /// Connections taken so far.
    pub accepted: u64,
    /// What the speaker told, newest last.
    pub events: Vec<Event>,
    /// Something came in since its machines last came to rest.
    pub awake: bool,
    /// When its agent next wants to be woken.
    pub deadline: Option<Instant>,
}

/// The real machines.
pub struct Agent {
    /// Calculation graph.
    pub graph: Graph,
    /// Reconciler.
    pub reconciler: Reconciler,
    /// Speaker.
    pub speaker: Speaker,
    watch: Option<SelectAll<BoxStream<'static, Result<WatchEvent, StoreError>>>>,
    known: BTreeSet<Key>,
    list_again_at: Option<Instant>,
    originations_told: bool,
    peers_reported: bool,
}

/// Every kind that an agent may follow.
fn kinds() -> impl Iterator<Item = Kind> {
    Graph::KINDS.into_iter().chain(Graph::ON_DEMAND)
}

/// How an agent starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// On a node whose kernel holds nothing of it.
    Fresh,
    /// After a predecessor whose routes are still there.
    Restart,
}

impl Agent {
    /// Starts an agent on a node: reads the kernel back, then lists and watches the store.
    pub fn start(
        now: Instant,
        seed: u64,
        node_name: &str,
        kernel: &mut Kernel,
        start: Start,
    ) -> Self {
        let settings = Settings::new(node_name);
        let mut agent = Self {
            reconciler: Reconciler::new(settings.ownership()),
            graph: Graph::new(settings),
            speaker: match start {
                Start::Fresh => Speaker::new(seed, now),
                Start::Restart => Speaker::restarting(seed, now),
            },
            watch: None,
            known: BTreeSet::new(),
            list_again_at: None,
            originations_told: false,
            peers_reported: false,
        };
        kernel.forget_events();
        agent.read_back(kernel);
        agent
    }

    fn read_back(&mut self, kernel: &Kernel) {
        // A MAC is read with its link.
        let kinds = RowKind::ALL
            .into_iter()
            .filter(|kind| *kind != RowKind::Mac);
        self.graph.handle_kernel_resync();
        for kind in kinds {
            self.reconciler.resync_begin(kind);
            if kind == RowKind::Link {
                kernel
                    .dump()
                    .iter()
                    .for_each(|event| self.kernel_event(event));
            }
            for row in kernel.rows().filter(|row| row.key().kind() == kind) {
                self.graph
                    .handle_kernel_event(&KernelEvent::RowSet(row.clone()));
                self.reconciler.resync_entry(row.clone());
            }
            self.reconciler.resync_end(kind);
        }
        self.graph.handle_kernel_in_sync();
    }

    /// Gives an object to the graph, as the watch would.
    pub fn echo(&mut self, key: &Key, object: Option<&Object>) {
        self.graph.handle_update(key, object);
    }

    /// When this agent next wants to be woken.
    pub fn deadline(&self) -> Option<Instant> {
        let machines = [self.speaker.poll_timeout(), self.reconciler.poll_timeout()];
        machines
            .into_iter()
            .flatten()
            .map(|(at, _)| at)
            .chain(self.list_again_at)
            .min()
    }

    /// Reads the watch dry. Whether anything came.
    pub fn read_store(&mut self, now: Instant, store: &MemoryStore) -> bool {
        let mut progress = false;
        if self.watch.is_none() && self.list_again_at.is_none_or(|at| at <= now) {
            progress |= self.list(now, store);
        }
        let Some(watch) = &mut self.watch else {
            return progress;
        };
        let mut context = Context::from_waker(noop_waker_ref());
        loop {
            match watch.poll_next_unpin(&mut context) {
                Poll::Pending => return progress,
                Poll::Ready(Some(Ok(event))) => {
                    progress = true;
                    hand_over(&mut self.graph, &mut self.known, event.change());
                }
                Poll::Ready(Some(Err(_)) | None) => {
                    self.watch = None;
                    self.list_again_at = Some(now + Duration::from_secs(1));
                    return progress;
                }
            }
        }
    }

    fn list(&mut self, now: Instant, store: &MemoryStore) -> bool {
        let node = self.graph.settings().node_name.clone();
        let scope = |kind| match kind {
            Kind::WorkloadEndpoint => Scope::Node(node.clone()),
            _ => Scope::All,
        };
        let mut listings = Vec::new();
        for kind in kinds() {
            let Ok(listing) = executor::run(store.list(kind, &scope(kind))) else {
                self.list_again_at = Some(now + Duration::from_secs(1));
                return false;
            };
            listings.push((kind, listing));
        }
        self.list_again_at = None;
        let before = std::mem::take(&mut self.known);
        let mut watches = Vec::new();
        for (kind, listing) in listings {
            for item in listing.items {
                let change = Change::Put(item);
                hand_over(&mut self.graph, &mut self.known, Some(change));
            }
            watches.push(store.watch(kind, scope(kind), listing.cursor));
        }
        for key in before.difference(&self.known) {
            self.graph.handle_update(key, None);
        }
        for kind in kinds() {
            self.graph.handle_in_sync(kind);
        }
        self.watch = Some(select_all(watches));
        true
    }

    /// One round through graph, reconciler and kernel, and between graph and speaker. Whether anything moved.
    pub fn turn(&mut self, now: Instant, kernel: &mut Kernel, events: &mut Vec<Event>) -> bool {
        let mut moved = self.turn_speaker(now, events);
        self.graph.flush();
        while let Some((next_hop, reachability)) = self.graph.poll_next_hop() {
            moved = true;
            self.speaker.handle_next_hop(now, next_hop, reachability);
        }
        while let Some((key, row)) = self.graph.poll_desired() {
            moved = true;
            match row {
                Some(row) => self.reconciler.set(row),
                None => self.reconciler.remove(&key),
            }
        }
        // Only behind the rows of everything that was known by then.
        if self.graph.in_sync() {
            self.reconciler.allow_deletes();
        }
        if self.peers_reported {
            self.reconciler.allow_bgp_deletes();
        }
        while let Some(op) = self.reconciler.poll_op(128) {
            moved = true;
            let result = kernel.apply(&op);
            self.reconciler.handle_result(now, &op.key(), result);
        }
        while let Some(event) = kernel.poll_event() {
            moved = true;
            match event {
                // As the dataplane's task does.
                KernelEvent::Overrun => self.read_back(kernel),
                event => self.kernel_event(&event),
            }
        }
        moved
    }

    fn kernel_event(&mut self, event: &KernelEvent) {
        self.graph.handle_kernel_event(event);
        self.reconciler.kernel_event(event);
    }

    fn turn_speaker(&mut self, now: Instant, events: &mut Vec<Event>) -> bool {
        let mut moved = false;
        if let Some(config) = self.graph.poll_bgp_config() {
            moved = true;
            self.speaker.handle_config(now, config);
        }
        while let Some((prefix, origination)) = self.graph.poll_originate() {
            moved = true;
            self.speaker.handle_originate(now, prefix, origination);
        }
        if self.graph.originations_complete() && !self.originations_told {
            self.originations_told = true;
            self.speaker.handle_originations_complete(now);
        }
        while let Some(change) = self.speaker.poll_route() {
            moved = true;
            self.graph.handle_bgp_route(change);
        }
        while let Some((next_hop, used)) = self.speaker.poll_next_hop_watch() {
            moved = true;
            self.graph.handle_next_hop_watch(next_hop, used);
        }
        while let Some(event) = self.speaker.poll_event() {
            if event == Event::PeersReported {
                self.peers_reported = true;
            }
            events.push(event);
        }
        moved
    }

    /// Whether the route to a pod of this node is in the kernel.
    pub fn is_routed(&self, address: IpNet) -> bool {
        let key: RowKey = self.graph.settings().workload_route_key(address.addr());
        self.reconciler.is_programmed(&key)
    }

    /// What the speaker wants of the transport.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.speaker.poll_action()
    }

    /// Bytes to send.
    pub fn poll_bytes(&mut self, now: Instant) -> Option<(ConnId, Vec<u8>)> {
        let conn = self.speaker.poll_writable()?;
        let mut bytes = Vec::new();
        self.speaker.poll_transmit(now, conn, 65536, &mut bytes);
        Some((conn, bytes))
    }
}

fn hand_over(graph: &mut Graph, known: &mut BTreeSet<Key>, change: Option<Change>) {
    match change {
        Some(Change::Put(item)) => {
            known.insert(item.key.clone());
            match Object::decode(&item.key, &item.value) {
                Ok(object) => graph.handle_update(&item.key, Some(&object)),
                Err(error) => graph.handle_invalid(&item.key, Arc::from(error.to_string())),
            }
        }
        Some(Change::Delete { key, .. }) => {
            known.remove(&key);
            graph.handle_update(&key, None);
        }
        None => {}
    }
}
