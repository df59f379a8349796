//! The speaker's task and what joins it to the calculation.
//!
//! ```text
//! calc ── mailbox: configuration, originations, next hops ──► pump_down ── bounded channel ──► bgp_io::run
//! calc ◄── mailbox: best routes, next hops in use ── pump_up ◄── bounded channel ──────────────────────────────────┘
//! ```
//! `bgp_io::run` stops while its output channel is full, so `pump_up` only writes to mailboxes, counters and the log,
//! and never waits.

pub mod status;
#[cfg(test)]
mod tests;
mod throttle;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Instant, SystemTime};

use api::admin::Problem;
use bgp::event::Event;
use bgp::route::{RouteChange, RouteSource};
use bgp::speaker::Speaker;
use bgp::types::PeerName;
use bgp_io::{Command, Output};
use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::health::{Health, Loop, REPORT_EVERY};
use crate::mailbox;
use crate::task::calc::Inbox;
use throttle::Throttle;

use crate::telemetry::{Metrics, SessionState, StateLabel};

/// What the speaker is told, one pending value per key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DownKey {
    /// The configuration.
    Config,
    /// An own prefix.
    Originate(IpNet),
    /// All own prefixes were given.
    OriginationsComplete,
    /// A next hop.
    NextHop(IpAddr),
}

/// Calc's side of the way down.
pub type Down = mailbox::Sender<DownKey, Command>;

/// How many commands and outputs wait at most: enough that neither side wakes for every one.
const CHANNEL_ROOM: usize = 256;

/// What the speaker's task is made of.
pub struct BgpTask {
    /// Kernel routes of a former process still forward.
    pub restarting: bool,
    /// Decides jitter.
    pub seed: u64,
    /// Commands from calc.
    pub down: mailbox::Receiver<DownKey, Command>,
    /// Where best routes go.
    pub calc: Inbox,
    /// Facts for probes.
    pub health: Health,
    /// Counters.
    pub metrics: Metrics,
    /// End of the process.
    pub cancel: CancellationToken,
}

/// Asks the speaker for its state.
#[derive(Clone, Debug)]
pub struct Asker {
    commands: mpsc::Sender<Command>,
    /// Addresses that cannot be listened on, and why.
    listen_failures: watch::Receiver<ListenFailures>,
    /// When the speaker was last configured.
    configured: watch::Receiver<Option<SystemTime>>,
}

/// Addresses that cannot be listened on, and the system's words.
type ListenFailures = BTreeMap<SocketAddr, String>;

impl Asker {
    /// What is wrong with the speaker as a whole.
    pub async fn problems(&self) -> Vec<Problem> {
        let mut problems = self.listen_problems();
        problems.extend(status::problems(&self.peers().await.unwrap_or_default()));
        problems
    }

    /// Addresses that cannot be listened on.
    pub fn listen_problems(&self) -> Vec<Problem> {
        let failures = self.listen_failures.borrow();
        let problem = |(address, error): (&SocketAddr, &String)| Problem {
            subject: format!("BGP listening on {address}"),
            reason: format!(
                "{error}: peers cannot connect to this node. Another BGP daemon has the port, or no interface has the address. Tried again every 3 s"
            ),
        };
        failures.iter().map(problem).collect()
    }

    /// When the speaker was last configured; `None` before it was.
    pub fn configured(&self) -> Option<SystemTime> {
        *self.configured.borrow()
    }

    /// Every peer; `None` when the speaker is gone.
    pub async fn peers(&self) -> Option<Vec<bgp::status::PeerStatus>> {
        let (answer, asked) = tokio::sync::oneshot::channel();
        self.commands.send(Command::Peers(answer)).await.ok()?;
        asked.await.ok()
    }

    /// Every prefix.
    pub async fn routes(&self) -> Option<Vec<bgp::status::RouteStatus>> {
        let (answer, asked) = tokio::sync::oneshot::channel();
        self.commands.send(Command::Routes(answer)).await.ok()?;
        let mut routes = asked.await.ok()?;
        routes.sort_by_key(|route| route.prefix);
        Some(routes)
    }
}

impl BgpTask {
    /// The way to ask the speaker, and the future that runs it until the token is cancelled: then every TCP connection
    /// is closed without a NOTIFICATION, so that peers keep our routes (RFC 4724).
    pub fn start(self) -> (Asker, impl Future<Output = ()> + Send) {
        // Full: the asker or `pump_down` waits; the speaker drains it at every wake-up.
        let (commands, commands_in) = mpsc::channel(CHANNEL_ROOM);
        // Full: the speaker waits for `pump_up`, which never waits for it.
        let (outputs_out, outputs) = mpsc::channel(CHANNEL_ROOM);
        let now = Instant::now();
        let speaker = if self.restarting {
            Speaker::restarting(self.seed, now)
        } else {
            Speaker::new(self.seed, now)
        };
        let (listen_failures_in, listen_failures) = watch::channel(ListenFailures::new());
        let (configured_in, configured) = watch::channel(None);
        let asker = Asker {
            commands: commands.clone(),
            listen_failures,
            configured,
        };
        let cancelled = self.cancel.clone();
        let counting = count_sessions(asker.clone(), self.health.clone(), self.metrics.clone());
        let up = PumpUp {
            calc: self.calc,
            health: self.health,
            metrics: self.metrics,
            from_peers: BTreeSet::new(),
            listen_failures: listen_failures_in,
            faults: Throttle::default(),
            ambiguous: Throttle::default(),
        };
        let future = async move {
            let speaking = bgp_io::run(
                speaker,
                commands_in,
                outputs_out,
                cancelled.cancelled_owned(),
            );
            tokio::join!(
                speaking,
                async {
                    tokio::select! {
                        () = pump_down(self.down, commands, configured_in) => {}
                        () = self.cancel.cancelled() => {}
                    }
                },
                up.run(outputs),
                async {
                    tokio::select! {
                        () = counting => {}
                        () = self.cancel.cancelled() => {}
                    }
                },
            );
        };
        (asker, future)
    }
}

/// Passes commands on in the order in which their keys became pending.
async fn pump_down(
    mut down: mailbox::Receiver<DownKey, Command>,
    commands: mpsc::Sender<Command>,
    configured: watch::Sender<Option<SystemTime>>,
) {
    while let Some(batch) = down.take(CHANNEL_ROOM).await {
        for (key, command) in batch {
            if key == DownKey::Config {
                configured.send_replace(Some(SystemTime::now()));
            }
            if commands.send(command).await.is_err() {
                return;
            }
        }
    }
}

struct PumpUp {
    calc: Inbox,
    health: Health,
    metrics: Metrics,
    /// Prefixes whose best route is a peer's.
    from_peers: BTreeSet<IpNet>,
    listen_failures: watch::Sender<ListenFailures>,
    /// Lines about faulty UPDATEs.
    faults: Throttle<PeerName>,
    /// Lines about connections that fit several peers.
    ambiguous: Throttle<IpAddr>,
}

impl PumpUp {
    async fn run(mut self, mut outputs: mpsc::Receiver<Output>) {
        let mut tick = tokio::time::interval(REPORT_EVERY);
        loop {
            tokio::select! {
                output = outputs.recv() => match output {
                    Some(output) => self.output(output),
                    None => return,
                },
                _ = tick.tick() => {
                    for (peer, suppressed) in self.faults.over(Instant::now()) {
                        warn!(%peer, suppressed, "further faulty attributes in UPDATEs");
                    }
                    self.ambiguous.over(Instant::now());
                }
            }
        }
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Route(change) => self.route(change),
            // Until told otherwise the speaker takes every next hop as reachable.
            Output::NextHopWatch(next_hop, used) => self.calc.next_hop(next_hop, used),
            Output::Listening(address) => {
                info!(%address, "BGP listens");
                self.listen_result(address, None);
            }
            Output::NotWanted(address) => self.listen_result(address, None),
            Output::ListenFailed { address, error } => self.listen_result(address, Some(error)),
            Output::Event(event) => self.event(event),
        }
    }

    /// Notes that an address cannot be listened on, or that this is over.
    fn listen_result(&self, address: SocketAddr, error: Option<String>) {
        self.listen_failures
            .send_if_modified(|failures| match error {
                Some(error) => {
                    let is_news = failures.get(&address) != Some(&error);
                    if is_news {
                        warn!(%address, error, "BGP cannot listen; trying again");
                        failures.insert(address, error);
                    }
                    is_news
                }
                None => failures.remove(&address).is_some(),
            });
        let count = self.listen_failures.borrow().len();
        self.metrics
            .bgp_listen_failed
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    fn route(&mut self, change: RouteChange) {
        let best = change.best.as_ref();
        if best.is_some_and(|best| best.source != RouteSource::Local) {
            self.from_peers.insert(change.prefix);
        } else {
            self.from_peers.remove(&change.prefix);
        }
        let count = i64::try_from(self.from_peers.len()).unwrap_or(i64::MAX);
        self.metrics.bgp_routes.set(count);
        self.calc.bgp_route(change);
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::SessionUp {
                peer,
                router_id,
                remote,
            } => {
                self.metrics.bgp_sessions_up.inc();
                info!(%peer, %router_id, %remote, "BGP session established");
            }
            Event::SessionDown {
                peer,
                reason,
                routes_kept,
            } => {
                self.metrics.bgp_sessions_down.inc();
                warn!(%peer, %reason, routes_kept, "BGP session down");
            }
            Event::SelectionComplete => {
                info!("BGP has chosen its routes");
                self.health.set_selection_complete();
            }
            Event::PeersReported => {
                info!("BGP peers have sent their routes: what a former process left may go");
                self.calc.peers_reported();
            }
            Event::AttributeFault { peer, fault } => {
                if let Some(suppressed) = self.faults.admit(&peer, Instant::now()) {
                    warn!(%peer, fault, suppressed, "faulty attribute in an UPDATE");
                }
            }
            Event::FamilyDisabled {
                peer,
                family,
                fault,
                removed,
            } => {
                warn!(%peer, ?family, fault, removed, "family ignored until the session ends");
            }
            Event::PrefixLimitNear {
                peer,
                family,
                received,
                limit,
            } => {
                warn!(%peer, ?family, received, ?limit, "peer nears its prefix limit");
            }
            Event::StaleRoutesRemoved {
                peer,
                count,
                reason,
            } => {
                info!(%peer, count, ?reason, "retained routes removed");
            }
            Event::ConnectionFailed {
                peer,
                reason,
                is_news: true,
            } => info!(%peer, %reason, "BGP connection failed"),
            Event::ConnectionFailed { peer, reason, .. } => {
                debug!(%peer, %reason, "BGP connection failed again");
            }
            Event::SocketRefused { peer, fault } => {
                warn!(%peer, fault, "the system refuses a socket option of a BGP peer");
            }
            Event::ConnectionAmbiguous {
                remote,
                asn,
                router_id,
                peers,
            } if self.ambiguous.admit(&remote.ip(), Instant::now()).is_some() => {
                let peers: Vec<String> = peers.iter().map(ToString::to_string).collect();
                let peers = peers.join(", ");
                warn!(%remote, %asn, %router_id, peers, "a BGP connection fits several peers; refused");
            }
            Event::ConnectionAmbiguous { .. } => {}
            Event::RouteRefused {
                peer,
                prefix,
                reason,
            } => debug!(%peer, %prefix, %reason, "received route takes no part"),
            Event::NotAdvertised {
                peer,
                prefix,
                reason,
            } => debug!(%peer, %prefix, ?reason, "route cannot be sent"),
            Event::EndOfRib { peer, family } => debug!(%peer, ?family, "End-of-RIB"),
        }
    }
}

async fn count_sessions(asker: Asker, health: Health, metrics: Metrics) {
    let mut tick = tokio::time::interval(REPORT_EVERY);
    loop {
        tick.tick().await;
        let Some(peers) = asker.peers().await else {
            return;
        };
        health.report(Loop::Bgp, Instant::now());
        for state in SessionState::ALL {
            let count = peers
                .iter()
                .filter(|peer| status::session_state(peer.state) == state)
                .count();
            metrics
                .bgp_sessions
                .get_or_create(&StateLabel { state })
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}
