//! The dataplane's task: owner of the reconciler and of the kernel's sockets.
//!
//! The kernel is read as a whole at the start, after lost notifications, and now and then. Whatever it shows goes to
//! the reconciler and to the calculation. Nothing is removed when the task ends: devices and routes stay.

mod moved;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use api::admin::Problem;
use api::params::Params;
use felix::desired::{IfName, Row, RowKey, RowKind, SysctlKey};
use felix::kernel::{KernelEvent, Op};
use felix::ownership::{IPIP_DEVICE, VXLAN_DEVICE, VXLAN_V6_DEVICE, is_tunnel};
use felix::reconcile::Reconciler;
use felix_io::kernel::{DumpError, Piece};
use felix_io::{Kernel, Table};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::moved::Moved;
use crate::health::{Health, Loop, REPORT_EVERY};
use crate::mailbox;
use crate::startup::tunnel::announcement::Accepting;
use crate::task::calc::Inbox;
use crate::task::calc::cluster::Live;
use crate::telemetry::{Metrics, ProblemOrigin};

/// Operations given to the kernel at once.
const BATCH: usize = 512;
/// Waits that are taken in at most before the CNI task waits itself.
pub const WAITS: usize = 256;
/// How long after a change the account of it may be older: it looks at every row.
const ACCOUNT_AFTER: Duration = Duration::from_secs(1);
/// How long after the loss of a device or address the kernel is read: others may follow, as when a bond goes.
const SETTLED_AFTER: Duration = Duration::from_millis(100);
/// How long after a failed read of the kernel it is read again.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// What is wanted, one pending value per key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DesiredKey {
    /// A row.
    Row(RowKey),
    /// All rows are known: what is not wanted may go.
    AllowDeletes,
    /// BGP has chosen: its routes, too.
    AllowBgpDeletes,
}

/// The value of a [`DesiredKey`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Desired {
    /// The row is wanted.
    Set(Row),
    /// It is not.
    Remove,
    /// The key says it.
    Allow,
}

/// Asks to know when the route to a pod is in the kernel, leading to its device.
#[derive(Debug)]
pub struct Wait {
    /// The route.
    pub route: RowKey,
    /// The pod's permanent neighbour, if it must be there too: after the device was made anew, the former one's MAC may
    /// stand there for a moment, and answers to the pod would be lost.
    pub neighbour: Option<Row>,
    /// The pod's host end.
    pub ifname: IfName,
    /// Its index, if it must be that one: what is known may yet be about a former device of the name.
    pub ifindex: Option<u32>,
    /// Answered when it is there.
    pub done: oneshot::Sender<()>,
}

impl Wait {
    /// Whether all that is waited for is in the kernel. `pods` has the device each wanted route leads to.
    fn is_over(&self, reconciler: &Reconciler, pods: &BTreeMap<RowKey, IfName>) -> bool {
        let right_device = |ifindex| reconciler.is_link(&self.ifname, ifindex);
        reconciler.is_programmed(&self.route)
            && pods.get(&self.route) == Some(&self.ifname)
            && self.ifindex.is_none_or(right_device)
            && (self.neighbour.as_ref()).is_none_or(|row| reconciler.has(row))
    }
}

/// What the dataplane reports about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataplaneView {
    /// Rows wanted in the kernel.
    pub rows_wanted: usize,
    /// Of these, rows that are not there yet.
    pub rows_pending: usize,
    /// Rows the kernel does not have as they are wanted, and why.
    pub problems: Vec<Problem>,
}

/// Rows that stay though nobody asks for them, as a problem.
fn kept(rows: usize) -> Option<Problem> {
    (rows > 0).then(|| Problem {
        subject: "kernel".to_owned(),
        reason: format!(
            "{rows} rows (routes, neighbours, forwarding entries) are not explained by the datastore that was accepted and \
             stay until this agent starts anew: start it again once every node with pods has written back"
        ),
    })
}

/// What was in the kernel at the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Routes of ours, to pods and to other nodes: a former process' packets still flow.
    pub routes: usize,
}

/// What the dataplane's task is made of.
pub struct DataplaneTask {
    /// Plans.
    pub reconciler: Reconciler,
    /// Writes.
    pub kernel: Kernel,
    /// Notifications, subscribed before the first read.
    pub events: mpsc::Receiver<KernelEvent>,
    /// Wanted rows.
    pub desired: mailbox::Receiver<DesiredKey, Desired>,
    /// Who waits for a route.
    pub waits: mpsc::Receiver<Wait>,
    /// Where the kernel's facts go.
    pub calc: Inbox,
    /// Account of itself.
    pub view: watch::Sender<DataplaneView>,
    /// Tunnel devices that take packets.
    pub accepting: watch::Sender<Accepting>,
    /// Facts for probes.
    pub health: Health,
    /// Counters.
    pub metrics: Metrics,
    /// Settings in force: how often the kernel is read as a whole.
    pub live: Live,
    /// End of the process.
    pub cancel: CancellationToken,
}

/// State of the loop besides the reconciler.
struct State {
    /// Host end of the device each wanted workload route leads to.
    pods: BTreeMap<RowKey, IfName>,
    moved: Moved,
    waiting: Vec<Wait>,
    deletes_allowed: bool,
    resync_due: Option<Instant>,
    /// When the packet rules are to be read, as somebody wrote them.
    rules_due: Option<Instant>,
    /// What of other programs stands in pods' way.
    obstacles: Vec<Problem>,
    /// The host's devices that are up, pods' ones left out.
    up: BTreeSet<IfName>,
    /// When the account of itself is to be renewed, as something has changed.
    account_due: Option<Instant>,
}

/// When the kernel is to be read again: links and routes together, by the shorter of their intervals.
fn next_resync(params: &Params) -> Option<Instant> {
    let intervals = [
        params.route_refresh_interval,
        params.interface_refresh_interval,
    ];
    let shortest = intervals
        .into_iter()
        .filter(|interval| !interval.is_zero())
        .min();
    shortest.map(|interval| Instant::now() + interval)
}

impl State {
    fn changed(&mut self) {
        if self.account_due.is_none() {
            self.account_due = Some(Instant::now() + ACCOUNT_AFTER);
        }
    }
}

impl DataplaneTask {
    /// Runs until the token is cancelled. `adopted` is answered once the kernel was read for the first time.
    pub async fn run(mut self, adopted: oneshot::Sender<Adopted>) {
        let mut state = State {
            pods: BTreeMap::new(),
            moved: Moved::default(),
            waiting: Vec::new(),
            deletes_allowed: false,
            resync_due: None,
            rules_due: None,
            obstacles: Vec::new(),
            up: BTreeSet::new(),
            account_due: None,
        };
        let mut adopted = Some(adopted);
        self.resync(&mut state, &mut adopted).await;
        let mut tick = tokio::time::interval(REPORT_EVERY);
        loop {
            self.drain(&mut state);
            if self.apply(&mut state).await {
                self.health.report(Loop::Dataplane, Instant::now());
                if self.cancel.is_cancelled() {
                    return;
                }
                continue;
            }
            self.settled(&state);
            let retry = self.reconciler.poll_timeout().map(|(at, _)| at);
            tokio::select! {
                batch = self.desired.take(BATCH) => {
                    let Some(batch) = batch else { return };
                    for (key, desired) in batch {
                        self.desired(key, desired, &mut state);
                    }
                }
                event = self.events.recv() => {
                    let Some(event) = event else { return };
                    self.event(event, &mut state);
                }
                wait = self.waits.recv() => {
                    let Some(wait) = wait else { return };
                    self.wait(wait, &mut state);
                }
                () = until(retry) => self.reconciler.handle_timeout(Instant::now()),
                () = until(state.resync_due) => self.resync(&mut state, &mut adopted).await,
                () = until(state.rules_due) => self.read_rules(&mut state).await,
                () = until(state.moved.due()) => state.moved.begin_due(Instant::now(), moved::forget),
                () = until(state.account_due) => self.account(&mut state),
                Ok(()) = self.live.changed() => {
                    state.resync_due = next_resync(&self.live.borrow_and_update());
                }
                // To say that it is alive.
                _ = tick.tick() => {}
                () = self.cancel.cancelled() => return,
            }
            self.health.report(Loop::Dataplane, Instant::now());
        }
    }

    /// Takes in what has come without waiting.
    fn drain(&mut self, state: &mut State) {
        for (key, desired) in self.desired.take_now(BATCH) {
            self.desired(key, desired, state);
        }
        for _ in 0..BATCH {
            match self.events.try_recv() {
                Ok(event) => self.event(event, state),
                Err(_) => break,
            }
        }
        while let Ok(wait) = self.waits.try_recv() {
            self.wait(wait, state);
        }
    }

    fn desired(&mut self, key: DesiredKey, desired: Desired, state: &mut State) {
        state.changed();
        match (key, desired) {
            (DesiredKey::Row(key), Desired::Set(row)) => {
                let now = self.pod_of(&row);
                let before = match now.clone() {
                    Some(ifname) => state.pods.insert(key.clone(), ifname),
                    None => state.pods.remove(&key),
                };
                if before.is_some() && before != now {
                    state.moved.note(&key, Instant::now());
                }
                self.reconciler.set(row);
            }
            (DesiredKey::Row(key), Desired::Remove | Desired::Allow) => {
                if state.pods.remove(&key).is_some() {
                    state.moved.note(&key, Instant::now());
                }
                self.reconciler.remove(&key);
            }
            (DesiredKey::AllowDeletes, _) => {
                state.deletes_allowed = true;
                self.reconciler.allow_deletes();
            }
            (DesiredKey::AllowBgpDeletes, _) => self.reconciler.allow_bgp_deletes(),
        }
    }

    /// The pod's device a route leads to.
    fn pod_of(&self, row: &Row) -> Option<IfName> {
        let Row::Route(_, spec) = row else {
            return None;
        };
        spec.next_hops
            .iter()
            .filter_map(|hop| hop.ifname.clone())
            .find(|ifname| self.reconciler.ownership().is_workload(ifname))
    }

    fn event(&mut self, event: KernelEvent, state: &mut State) {
        if event == KernelEvent::Overrun {
            warn!("notifications of the kernel were lost: reading everything again");
            state.resync_due = Some(Instant::now());
            return;
        }
        if self.has_lost_routes(&event, state) {
            let settled = Instant::now() + SETTLED_AFTER;
            state.resync_due = Some(state.resync_due.map_or(settled, |due| due.min(settled)));
        }
        if let KernelEvent::RowSet(Row::Sysctl(key, value)) = &event {
            self.sysctl_shown(key, value);
            self.reconciler.kernel_event(&event);
            return;
        }
        if event == KernelEvent::RulesChanged {
            // Each of a transaction's messages is notified.
            state
                .rules_due
                .get_or_insert(Instant::now() + SETTLED_AFTER);
            return;
        }
        self.reconciler.kernel_event(&event);
        self.calc.kernel(event);
        state.changed();
    }

    /// Says so when somebody else changed a sysctl that was as it is wanted. It is written again.
    fn sysctl_shown(&self, key: &SysctlKey, value: &str) {
        let Some(wanted) = self.reconciler.programmed_sysctl(key) else {
            return;
        };
        // A notification may be older than the last write.
        if value != wanted && felix_io::sysctl::read(key).is_ok_and(|now| now != wanted) {
            warn!(sysctl = %key, value, wanted, "a sysctl was changed by somebody else: writing it again");
        }
    }

    /// Whether IPv4 routes of others may have gone without a notification: with a device of the host that was up and is
    /// down, with an address, or with a next-hop object.
    fn has_lost_routes(&self, event: &KernelEvent, state: &mut State) -> bool {
        match event {
            KernelEvent::Link(link) if !link.up => state.up.remove(&link.ifname),
            KernelEvent::LinkGone(ifname) => state.up.remove(ifname),
            KernelEvent::Link(link) => {
                if !self.reconciler.ownership().is_workload(&link.ifname) {
                    state.up.insert(link.ifname.clone());
                }
                false
            }
            KernelEvent::HostAddrGone { ifname, .. } => {
                !self.reconciler.ownership().is_workload(ifname) && !is_tunnel(ifname)
            }
            KernelEvent::RoutesChanged => true,
            KernelEvent::RulesChanged => false,
            KernelEvent::HostAddr { .. }
            | KernelEvent::RowSet(_)
            | KernelEvent::RowGone(_)
            | KernelEvent::Overrun => false,
        }
    }

    fn wait(&mut self, wait: Wait, state: &mut State) {
        state.waiting.retain(|wait| !wait.done.is_closed());
        if wait.is_over(&self.reconciler, &state.pods) {
            // The pod's request may be gone: then nobody needs to know.
            let _ = wait.done.send(());
        } else {
            state.waiting.push(wait);
        }
    }

    /// Executes what the reconciler has to do; whether there was anything.
    async fn apply(&mut self, state: &mut State) -> bool {
        let mut ops = Vec::new();
        while let Some(op) = self.reconciler.poll_op(BATCH - ops.len()) {
            ops.push(op);
        }
        if ops.is_empty() {
            self.answer_waits(state);
            return false;
        }
        state.moved.before(&ops, moved::forget).await;
        state.changed();
        for op in &ops {
            match op {
                Op::Set(row) => debug!(%row, "set"),
                Op::Remove(row) => debug!(%row, "remove"),
            }
        }
        let started = Instant::now();
        let results = self.kernel.apply(ops).await;
        let now = Instant::now();
        self.metrics
            .apply_seconds
            .observe((now - started).as_secs_f64());
        for (key, result) in results {
            if let Err(error) = &result {
                self.metrics.dataplane_failures.inc();
                debug!(%key, %error, "the kernel refused");
            }
            self.reconciler.handle_result(now, &key, result);
        }
        self.answer_waits(state);
        true
    }

    fn answer_waits(&mut self, state: &mut State) {
        let news = std::iter::from_fn(|| self.reconciler.poll_programmed()).count();
        if news == 0 {
            return;
        }
        let waiting = std::mem::take(&mut state.waiting);
        let (ready, not_yet): (Vec<Wait>, Vec<Wait>) = waiting
            .into_iter()
            .partition(|wait| wait.is_over(&self.reconciler, &state.pods));
        state.waiting = not_yet;
        for wait in ready {
            // As above: a request that is gone needs no answer.
            let _ = wait.done.send(());
        }
    }

    /// Nothing is left to do right now.
    fn settled(&self, state: &State) {
        let devices = [VXLAN_DEVICE, VXLAN_V6_DEVICE, IPIP_DEVICE].into_iter();
        let accepting: Accepting = devices
            .flat_map(|device| {
                let addrs = self.reconciler.accepting(&IfName::from(device));
                addrs.into_iter().map(move |addr| (device, addr))
            })
            .collect();
        self.accepting.send_if_modified(|before| {
            let changed = *before != accepting;
            *before = accepting;
            changed
        });
        if state.deletes_allowed && !self.health.first_apply_done() {
            info!("kernel written completely for the first time");
            self.health.set_first_apply_done();
        }
    }

    fn account(&self, state: &mut State) {
        state.account_due = None;
        let counts = self.reconciler.counts();
        self.metrics
            .routes
            .set(i64::try_from(counts.routes).unwrap_or(i64::MAX));
        let mut problems: Vec<Problem> = self
            .reconciler
            .problems()
            .iter()
            .map(|problem| Problem {
                subject: problem.key.to_string(),
                reason: match problem.attempts {
                    0 => problem.reason.to_string(),
                    1 => format!("{} (after 1 attempt)", problem.reason),
                    more => format!("{} (after {more} attempts)", problem.reason),
                },
            })
            .collect();
        problems.extend(kept(counts.kept));
        problems.extend(state.obstacles.iter().cloned());
        self.metrics
            .count_problems(ProblemOrigin::Kernel, problems.len());
        let view = DataplaneView {
            rows_wanted: counts.wanted,
            rows_pending: counts.pending,
            problems,
        };
        self.view.send_replace(view);
    }

    /// Reads the whole kernel.
    async fn resync(&mut self, state: &mut State, adopted: &mut Option<oneshot::Sender<Adopted>>) {
        self.metrics.resyncs_started.inc();
        match self.read_kernel().await {
            Ok((events, routes)) => {
                if let Some(adopted) = adopted.take() {
                    // The receiver is the start of the process; without it nobody needs to know.
                    let _ = adopted.send(Adopted { routes });
                }
                for event in &events {
                    self.has_lost_routes(event, state);
                }
                self.calc.whole_kernel(events);
                self.read_sysctls(state).await;
                state.obstacles = obstacles(self.kernel.dropping().await);
                state.changed();
                state.resync_due = next_resync(&self.live.borrow());
            }
            Err(error) => {
                warn!(%error, "reading the kernel failed; trying again");
                state.resync_due = Some(Instant::now() + RETRY_EVERY);
            }
        }
    }

    /// Reads the packet rules: what somebody else made of them is undone.
    async fn read_rules(&mut self, state: &mut State) {
        state.rules_due = None;
        self.begin(RULES);
        match self.kernel.dump(Table::Rules).await {
            Ok(events) => {
                for event in events {
                    if let KernelEvent::RowSet(row) = event {
                        self.reconciler.resync_entry(row);
                    }
                }
                for kind in RULES {
                    self.reconciler.resync_end(*kind);
                }
                state.changed();
            }
            Err(error) => {
                warn!(%error, "reading again");
                state.rules_due = Some(Instant::now() + RETRY_EVERY);
            }
        }
    }

    /// Reads the wanted sysctls: of most the kernel does not notify changes.
    async fn read_sysctls(&mut self, state: &mut State) {
        let keys: Vec<SysctlKey> = self.reconciler.wanted_sysctls().cloned().collect();
        for some in keys.chunks(BATCH) {
            for event in self.kernel.read_sysctls(some.to_vec()).await {
                self.event(event, state);
            }
            self.health.report(Loop::Dataplane, Instant::now());
        }
    }

    /// Reads the kernel: what the calculation is told of it, and how many routes are this agent's own. Those it knows, and a million of them
    /// are not kept for it.
    async fn read_kernel(&mut self) -> Result<(Vec<KernelEvent>, usize), DumpError> {
        let mut for_calc = Vec::new();
        let mut own_routes = 0;
        for (table, kinds) in TABLES {
            let (kept, own) = (for_calc.len(), own_routes);
            self.begin(kinds);
            let mut pieces = self.kernel.read(table).await;
            while let Some(piece) = pieces.next().await? {
                let events = match piece {
                    Piece::Events(events) => events,
                    Piece::Again => {
                        self.begin(kinds);
                        for_calc.truncate(kept);
                        own_routes = own;
                        continue;
                    }
                };
                for event in events {
                    match event {
                        KernelEvent::RowSet(row) => {
                            let is_route = matches!(row, Row::Route(..));
                            if is_route && self.reconciler.ownership().owns(&row) {
                                own_routes += 1;
                            } else if is_route {
                                for_calc.push(KernelEvent::RowSet(row.clone()));
                            }
                            self.reconciler.resync_entry(row);
                        }
                        event => {
                            self.reconciler.kernel_event(&event);
                            for_calc.push(event);
                        }
                    }
                }
            }
            for kind in kinds {
                self.reconciler.resync_end(*kind);
            }
        }
        Ok((for_calc, own_routes))
    }

    /// Rows of these kinds are being read, from the beginning.
    fn begin(&mut self, kinds: &[RowKind]) {
        for kind in kinds {
            self.reconciler.resync_begin(*kind);
        }
    }
}

/// The tables of the kernel and what they hold, devices first.
const TABLES: [(Table, &[RowKind]); 8] = [
    (Table::Links, &[RowKind::Link]),
    (Table::Addrs, &[RowKind::Addr]),
    (Table::NextHops, &[RowKind::NextHop]),
    (Table::Routes, &[RowKind::Route]),
    (Table::Neighbours, &[RowKind::Neigh]),
    (Table::Fdb, &[RowKind::Fdb]),
    (Table::Rules, RULES),
    (Table::Leftovers, &[RowKind::Leftover]),
];

/// What [`Table::Rules`] holds.
const RULES: &[RowKind] = &[RowKind::Rules, RowKind::Element];

/// What is said of chains that drop forwarded packets.
fn obstacles(chains: Vec<String>) -> Vec<Problem> {
    let chains = chains.into_iter();
    chains
        .map(|subject| Problem {
            subject,
            reason: "its policy drops the packets that pods exchange with others, unless a rule of its own accepts them: accept them \
                     there (by input and output interface cali…), or let its policy be accept"
                .to_owned(),
        })
        .collect()
}

/// Waits until `at`, for ever without one.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use felix::desired::{Mac, NextHop, RouteKey, RouteKind, RouteSpec};
    use felix::kernel::LinkState;
    use felix::ownership::{BgpRoutes, ExternalRoutes, Ownership};

    use super::*;

    fn ownership() -> Ownership {
        Ownership {
            interface_prefixes: vec!["cali".to_owned()],
            device_route_protocol: 3,
            bgp_routes: BgpRoutes::Ours,
            external_routes: ExternalRoutes::Remove,
        }
    }

    fn pod_route() -> Row {
        let key = RouteKey {
            table: 254,
            dst: "10.1.0.5/32".parse().unwrap(),
            tos: 0,
            metric: 1024,
        };
        let spec = RouteSpec {
            kind: RouteKind::Unicast,
            scope: 253,
            protocol: 3,
            next_hops: vec![NextHop {
                gateway: None,
                ifname: Some("cali1".into()),
                onlink: false,
            }]
            .into(),
            object: None,
            prefsrc: None,
            mtu_bytes: None,
        };
        Row::Route(key, spec)
    }

    fn neighbour(last: u8) -> Row {
        let addr = "10.1.0.5".parse().unwrap();
        felix::calc::pod_neighbour(&"cali1".into(), addr, Mac([2, 0, 0, 0, 0, last])).unwrap()
    }

    /// Executes all that is planned.
    fn run(reconciler: &mut Reconciler) {
        while let Some(op) = reconciler.poll_op(1) {
            reconciler.handle_result(Instant::now(), &op.key(), Ok(()));
        }
    }

    #[test]
    fn a_pod_whose_device_was_made_anew_is_connected_once_its_own_mac_stands_there() {
        let mut reconciler = Reconciler::new(ownership());
        for kind in TABLES.iter().flat_map(|(_, kinds)| *kinds) {
            reconciler.resync_begin(*kind);
            reconciler.resync_end(*kind);
        }
        let route = pod_route().key();
        let pods = BTreeMap::from([(route.clone(), IfName::from("cali1"))]);
        let (done, _asked) = oneshot::channel();
        let wait = Wait {
            route,
            neighbour: Some(neighbour(2)),
            ifname: "cali1".into(),
            ifindex: Some(8),
            done,
        };
        reconciler.kernel_event(&KernelEvent::Link(LinkState {
            ifname: "cali1".into(),
            ifindex: 8,
            up: true,
            mtu_bytes: 1500,
            mac: None,
            kind: Some("veth".into()),
        }));
        // The new device is there and has its route, but the datastore's word is still the former endpoint.
        reconciler.set(pod_route());
        reconciler.set(neighbour(1));
        run(&mut reconciler);
        assert!(reconciler.is_programmed(&wait.route));
        assert!(!wait.is_over(&reconciler, &pods));
        reconciler.set(neighbour(2));
        assert!(!wait.is_over(&reconciler, &pods), "wanted, not yet there");
        run(&mut reconciler);
        assert!(wait.is_over(&reconciler, &pods));
    }
}
