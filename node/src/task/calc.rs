//! The calculation's task: owner of the graph.
//!
//! It takes facts from its mailbox, lets the graph work them off, and puts what changed into the mailboxes of the
//! dataplane and of the speaker. It never waits for either.

pub mod cluster;
pub mod inbox;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use api::admin::Problem;
use api::key::{Key, Kind};
use api::object::Object;
use bgp_io::Command;
use datastore::version::{Cursor, Order, Version};
use felix::calc::{Graph, SecretRef};
use ipnet::IpNet;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub use inbox::{Inbox, Input, InputKey, Seen, Since, State};

use crate::health::{Health, Loop, REPORT_EVERY};
use crate::instance::{self, Instance};
use crate::mailbox;
use crate::task::bgp::{Down, DownKey};
use crate::task::dataplane::{Desired, DesiredKey};
use crate::task::endpoint_status::Endpoints;
use crate::telemetry::{Metrics, ProblemOrigin};

/// Facts taken into one flush.
const BATCH: usize = 1024;

/// What the calculation reports about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CalcView {
    /// Every fact of the start is known: the datastore's objects and the kernel. Nothing here is an answer before, and
    /// whoever acts on it waits.
    pub in_sync: bool,
    /// Pods of this node.
    pub local_endpoints: usize,
    /// Objects and routes that are skipped, and why.
    pub problems: Vec<Problem>,
    /// Next hops of BGP routes that lead nowhere, and why.
    pub lost_next_hops: BTreeMap<IpAddr, String>,
    /// MTU for pods, once known.
    pub pod_mtu_bytes: Option<u32>,
    /// Metric of routes to pods.
    pub route_metric: Option<u32>,
    /// Labels of this node.
    pub node_labels: BTreeMap<String, String>,
    /// The datastore is locked: nothing may be written to it.
    pub datastore_locked: bool,
    /// IPv4 address of this node, as its object has it now.
    pub node_ipv4: Option<IpNet>,
    /// Who signed this node's object.
    pub agent: Option<Instance>,
    /// Routes to other nodes' pods come from blocks, whatever BGP says. Not so until it is known.
    pub blocks_lead_to_pods: bool,
    /// Grows with every change of a pool or of this node's object: what the Keeper compares with what should be there.
    pub own_generation: u64,
}

/// What the calculation's task is made of.
pub struct CalcTask {
    /// The graph, empty.
    pub graph: Graph,
    /// Facts.
    pub inbox: mailbox::Receiver<InputKey, Input>,
    /// Wanted rows.
    pub dataplane: mailbox::Sender<DesiredKey, Desired>,
    /// The speaker; `None` when the node does not speak BGP.
    pub bgp: Option<Down>,
    /// Passwords that objects name: asked for here, answered in the inbox.
    pub wanted_passwords: watch::Sender<BTreeSet<SecretRef>>,
    /// Settings of the datastore against those in force.
    pub settings: cluster::Settings,
    /// This node's endpoints.
    pub endpoints: watch::Sender<Endpoints>,
    /// Account of itself.
    pub view: watch::Sender<CalcView>,
    /// Facts for probes.
    pub health: Health,
    /// Counters.
    pub metrics: Metrics,
    /// End of the process.
    pub cancel: CancellationToken,
}

impl CalcTask {
    /// Runs until the token is cancelled.
    pub async fn run(mut self) {
        let mut progress = Progress::default();
        let mut echoes = Echoes::default();
        let mut census = Census::new(self.graph.settings().node_name.clone());
        let mut tick = tokio::time::interval(REPORT_EVERY);
        loop {
            tokio::select! {
                batch = self.inbox.take(BATCH) => {
                    let Some(batch) = batch else { return };
                    for (key, input) in batch {
                        self.handle(key, input, &mut progress, &mut echoes, &mut census);
                    }
                    self.ask_for_passwords();
                    self.review_settings(&census);
                    self.graph.flush();
                    self.hand_out(&mut progress);
                    self.account(&census, &progress.lock);
                }
                // Whether the datastore is known changes without a fact.
                _ = tick.tick() => {
                    self.account(&census, &progress.lock);
                }
                () = self.cancel.cancelled() => return,
            }
            self.health.report(Loop::Calc, Instant::now());
        }
    }

    fn handle(
        &mut self,
        key: InputKey,
        input: Input,
        progress: &mut Progress,
        echoes: &mut Echoes,
        census: &mut Census,
    ) {
        match (key, input) {
            (InputKey::Object(key), Input::Object(seen)) => {
                if echoes.watched(&key, &seen.since) {
                    let (objects, kinds) = progress.lock.object(key, seen.state);
                    for (key, state) in objects {
                        self.object(&key, state, census);
                    }
                    for kind in kinds {
                        self.in_sync(kind);
                    }
                }
            }
            (InputKey::Echo(key), Input::Object(seen)) => {
                if let Since::Write(version) = &seen.since
                    && echoes.written(&key, version)
                {
                    progress.lock.written(&key);
                    self.object(&key, seen.state, census);
                }
            }
            (InputKey::InSync(kind), Input::InSync(cursor)) => {
                echoes.listed(kind, cursor);
                if progress.lock.in_sync(kind) {
                    self.in_sync(kind);
                }
            }
            (InputKey::Refused(kind), Input::Refused(why)) => {
                self.graph.handle_refused(kind, why);
            }
            (InputKey::PeersReported, _) => progress.peers_reported = true,
            (_, Input::BgpRoute(change)) => self.graph.handle_bgp_route(change),
            (InputKey::Password(secret), Input::Password(known)) => {
                self.graph.handle_password(&secret, known);
            }
            (InputKey::NextHop(next_hop), Input::NextHop(used)) => {
                self.graph.handle_next_hop_watch(next_hop, used);
            }
            (InputKey::TunnelAddr(device), Input::TunnelAddr(addr)) => {
                self.graph.handle_tunnel_addr(device, addr);
            }
            (_, Input::KernelEvent(event)) => self.graph.handle_kernel_event(&event),
            (_, Input::Kernel(events)) => {
                self.graph.handle_kernel_resync();
                for event in &events {
                    self.graph.handle_kernel_event(event);
                }
                self.graph.handle_kernel_in_sync();
            }
            (
                key,
                Input::Object(_)
                | Input::InSync(_)
                | Input::Refused(_)
                | Input::Marker
                | Input::NextHop(_)
                | Input::TunnelAddr(_)
                | Input::Password(_),
            ) => unreachable!("the inbox pairs {key:?} with another kind of value"),
        }
        self.metrics.updates_processed.inc();
    }

    fn ask_for_passwords(&self) {
        let wanted = self.graph.wanted_passwords();
        self.wanted_passwords.send_if_modified(|before| {
            let changed = *before != wanted;
            if changed {
                *before = wanted;
            }
            changed
        });
    }

    fn review_settings(&mut self, census: &Census) {
        if let Some(params) = self.settings.review(&census.node_labels) {
            let settings = self.graph.settings().with_live(&params);
            self.graph.handle_settings(settings);
        }
    }

    fn in_sync(&mut self, kind: Kind) {
        self.settings.in_sync(kind);
        self.graph.handle_in_sync(kind);
    }

    fn object(&mut self, key: &Key, state: State, census: &mut Census) {
        self.settings.object(key, &state);
        self.endpoint(key, &state);
        match state {
            State::Present(object) => {
                census.present(key, &object);
                self.graph.handle_update(key, Some(&object));
            }
            State::Absent => {
                census.absent(key);
                self.graph.handle_update(key, None);
            }
            State::Invalid(reason) => {
                census.absent(key);
                warn!(object = %key, %reason, "object is not valid and counts as absent");
                self.graph.handle_invalid(key, reason);
            }
        }
    }

    fn endpoint(&self, key: &Key, state: &State) {
        if key.kind != Kind::WorkloadEndpoint {
            return;
        }
        let own = match state {
            State::Present(object) => match &**object {
                Object::WorkloadEndpoint(endpoint)
                    if endpoint.spec.node == self.graph.settings().node_name =>
                {
                    Some(endpoint)
                }
                _ => None,
            },
            State::Absent | State::Invalid(_) => None,
        };
        self.endpoints.send_if_modified(|all| match own {
            Some(own) if all.get(key).is_none_or(|was| **was != *own) => {
                all.insert(key.clone(), Arc::new(own.clone()));
                true
            }
            Some(_) => false,
            None => all.remove(key).is_some(),
        });
    }

    /// Passes on what the flush changed. Permissions to delete follow the rows they depend on.
    fn hand_out(&mut self, progress: &mut Progress) {
        while let Some((key, row)) = self.graph.poll_desired() {
            debug!(%key, wanted = row.is_some(), "row");
            self.metrics.output_events.inc();
            let value = match row {
                Some(row) => Desired::Set(row),
                None => Desired::Remove,
            };
            self.dataplane.put(DesiredKey::Row(key), value);
        }
        if let Some(bgp) = &self.bgp {
            while let Some((prefix, origination)) = self.graph.poll_originate() {
                debug!(%prefix, announced = origination.is_some(), "own prefix");
                let command = Command::Originate(prefix, origination);
                bgp.put(DownKey::Originate(prefix), command);
            }
            // A session that stands is not to end because the secret that its object names now is still to be read.
            let passwords_looked_at = self.graph.passwords_looked_at();
            if passwords_looked_at && let Some(config) = self.graph.poll_bgp_config() {
                info!(
                    asn = %config.asn,
                    router_id = %config.router_id,
                    peers = config.peers.len(),
                    "BGP configuration"
                );
                bgp.put(DownKey::Config, Command::Config(Box::new(config)));
            }
            while let Some((next_hop, reachability)) = self.graph.poll_next_hop() {
                debug!(%next_hop, ?reachability, "BGP next hop");
                let command = Command::NextHop(next_hop, reachability);
                bgp.put(DownKey::NextHop(next_hop), command);
            }
            let complete = passwords_looked_at && self.graph.originations_complete();
            if complete && !progress.originations_reported {
                progress.originations_reported = true;
                bgp.put(DownKey::OriginationsComplete, Command::OriginationsComplete);
            }
        }
        self.allow_deletes(progress);
    }

    fn allow_deletes(&self, progress: &mut Progress) {
        if self.graph.in_sync() && !progress.deletes_allowed {
            progress.deletes_allowed = true;
            info!("datastore in sync");
            self.health.set_datastore_in_sync();
            self.dataplane.put(DesiredKey::AllowDeletes, Desired::Allow);
        }
        let reported = progress.peers_reported || self.bgp.is_none();
        if progress.deletes_allowed && reported && !progress.bgp_deletes_allowed {
            progress.bgp_deletes_allowed = true;
            self.dataplane
                .put(DesiredKey::AllowBgpDeletes, Desired::Allow);
        }
    }

    fn account(&mut self, census: &Census, lock: &cluster::Lock) {
        let problems: Vec<Problem> = self
            .graph
            .problems()
            .iter()
            .map(|problem| Problem {
                subject: problem.subject.to_string(),
                reason: if problem.field.is_empty() {
                    problem.reason.to_string()
                } else {
                    format!("{}: {}", problem.field, problem.reason)
                },
            })
            .chain(lock.problem())
            .chain(self.settings.problems().iter().cloned())
            .collect();
        self.metrics
            .count_problems(ProblemOrigin::Configuration, problems.len());
        let count = |set: &BTreeSet<Key>| i64::try_from(set.len()).unwrap_or(i64::MAX);
        self.metrics.local_endpoints.set(count(&census.local));
        self.metrics.cluster_hosts.set(count(&census.hosts));
        let unknown = self.health.datastore_unknown().is_some();
        self.metrics.datastore_unknown.set(i64::from(unknown));
        let lost = self.health.datastore_lost().is_some();
        self.metrics.datastore_lost.set(i64::from(lost));
        self.metrics
            .resync_state
            .set(match (lost, self.graph.in_sync()) {
                (true, _) => 0,
                (false, false) => 1,
                (false, true) => 2,
            });
        let endpoints = census.pods.values().sum::<usize>();
        let endpoints = i64::try_from(endpoints).unwrap_or(i64::MAX);
        self.metrics.cluster_endpoints.set(endpoints);
        let lost = self.graph.lost_next_hops();
        let view = CalcView {
            in_sync: self.graph.in_sync(),
            local_endpoints: census.local.len(),
            problems,
            lost_next_hops: lost.map(|(at, loss)| (at, loss.to_string())).collect(),
            pod_mtu_bytes: self.graph.pod_mtu_bytes(),
            route_metric: Some(self.graph.settings().normal_route_metric),
            node_labels: census.node_labels.clone(),
            datastore_locked: lock.is_locked(),
            node_ipv4: census.node_ipv4,
            agent: census.agent.clone(),
            blocks_lead_to_pods: self.graph.blocks_lead_to_pods(),
            own_generation: census.own_generation,
        };
        self.view.send_if_modified(|before| {
            let changed = *before != view;
            if changed {
                *before = view;
            }
            changed
        });
    }
}

/// How far this has come.
#[derive(Debug, Default)]
struct Progress {
    lock: cluster::Lock,
    peers_reported: bool,
    originations_reported: bool,
    deletes_allowed: bool,
    bgp_deletes_allowed: bool,
}

/// Keeps what this process wrote from being undone by an older event of the watch, and the reverse.
#[derive(Debug, Default)]
struct Echoes {
    /// The newest echo of a key that the watch has not reached.
    written: BTreeMap<Key, Version>,
    /// How far the watch of a kind has come.
    watched: BTreeMap<Kind, Since>,
}

impl Echoes {
    /// The watch reports a change; whether it is news.
    fn watched(&mut self, key: &Key, since: &Since) -> bool {
        if let Since::Write(_) = since {
            self.watched.insert(key.kind, since.clone());
        }
        match self.written.get(key) {
            Some(written) if since.order(written) == Order::Older => false,
            Some(_) => {
                self.written.remove(key);
                true
            }
            None => true,
        }
    }

    /// A kind was listed: the watch is there now, and a store that was replaced counts anew.
    fn listed(&mut self, kind: Kind, cursor: Cursor) {
        self.watched.insert(kind, Since::Listing(cursor));
        self.written.retain(|key, _| key.kind != kind);
    }

    /// This process wrote `key`; whether it is news.
    fn written(&mut self, key: &Key, version: &Version) -> bool {
        let watched = self.watched.get(&key.kind);
        let reached = watched.map(|since| since.order(version));
        let before = self.written.get(key);
        if matches!(reached, Some(Order::Newer | Order::Same))
            || before.is_some_and(|before| version.order(before) == Order::Older)
        {
            return false;
        }
        self.written.insert(key.clone(), version.clone());
        true
    }
}

/// Who is there, for the metrics.
#[derive(Debug)]
struct Census {
    node: String,
    hosts: BTreeSet<Key>,
    /// Pods that have an address in a block: endpoints of other nodes are not followed.
    pods: BTreeMap<Key, usize>,
    local: BTreeSet<Key>,
    node_labels: BTreeMap<String, String>,
    node_ipv4: Option<IpNet>,
    agent: Option<Instance>,
    own_generation: u64,
}

impl Census {
    const fn new(node: String) -> Self {
        Self {
            node,
            hosts: BTreeSet::new(),
            pods: BTreeMap::new(),
            local: BTreeSet::new(),
            node_labels: BTreeMap::new(),
            node_ipv4: None,
            agent: None,
            own_generation: 0,
        }
    }

    fn changed(&mut self, key: &Key) {
        if key.kind == Kind::IPPool || (key.kind == Kind::Node && key.name == self.node) {
            self.own_generation += 1;
        }
    }

    fn present(&mut self, key: &Key, object: &Object) {
        self.changed(key);
        match object {
            Object::Node(node) => {
                self.hosts.insert(key.clone());
                if key.name == self.node {
                    self.node_labels.clone_from(&node.metadata.labels);
                    self.node_ipv4 = node.spec.bgp.as_ref().and_then(|bgp| bgp.ipv4_address);
                    let signature = node.metadata.annotations.get(instance::ANNOTATION);
                    self.agent = signature.and_then(|text| Instance::read(text));
                }
            }
            Object::WorkloadEndpoint(endpoint) if endpoint.spec.node == self.node => {
                self.local.insert(key.clone());
            }
            Object::IPAMBlock(block) => {
                let attributes = block.spec.attributes.iter();
                let pods = attributes.filter(|held| {
                    held.secondary.contains_key("pod") && held.released_at().is_none()
                });
                self.pods.insert(key.clone(), pods.count());
            }
            _ => {}
        }
    }

    fn absent(&mut self, key: &Key) {
        self.changed(key);
        self.hosts.remove(key);
        self.pods.remove(key);
        self.local.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::new(Kind::Node, "n1")
    }

    fn at(version: u64) -> Since {
        Since::Write(version.into())
    }

    #[test]
    fn older_watch_event_does_not_undo_an_own_write() {
        let mut echoes = Echoes::default();
        assert!(echoes.watched(&key(), &at(5)));
        assert!(echoes.written(&key(), &9.into()));
        assert!(!echoes.watched(&key(), &at(7)), "the write at 9 is newer");
        assert!(!echoes.watched(&key(), &Since::Listing(8.into())));
        assert!(echoes.watched(&key(), &at(9)));
        assert!(echoes.watched(&key(), &at(12)));
        assert!(echoes.written.is_empty(), "nothing is kept for long");
        assert!(echoes.written(&key(), &14.into()));
        assert!(echoes.watched(&key(), &Since::Listing(15.into())));
    }

    #[test]
    fn a_store_that_counts_anew_is_followed() {
        let mut echoes = Echoes::default();
        assert!(echoes.written(&key(), &900.into()));
        echoes.listed(Kind::Node, 3.into());
        assert!(echoes.watched(&key(), &at(4)));
        assert!(echoes.written(&key(), &5.into()));
    }

    #[test]
    fn late_echo_does_not_undo_what_the_watch_has_told() {
        let mut echoes = Echoes::default();
        assert!(echoes.watched(&key(), &at(12)));
        assert!(!echoes.written(&key(), &10.into()));
        assert!(!echoes.written(&key(), &12.into()));
        assert!(echoes.written(&key(), &14.into()));
        assert!(
            !echoes.written(&key(), &13.into()),
            "two echoes in the wrong order"
        );
    }
}
