//! Frees what nobody needs any more: what a plugin or an agent that died left behind, what a node that is gone had.
//!
//! Each agent looks at its own blocks, of which it knows everything. What belongs to no living node, what stands in another
//! node's block, and handles without an address are looked at by one agent of the cluster, which is elected by an annotation
//! of ClusterInformation; where Calico's controllers run, by those. Nothing depends on there being one: an address is freed
//! only if it is still what was looked at, so two that do the same are one too many and no more.
//!
//! Nothing is freed for lack of evidence: every question must have been answered, the same must have been found for the
//! grace, and a device of the pod's in this kernel counts as much as its endpoint.

mod cluster;
mod election;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::attachment::AttachmentId;
use api::ipam::AllocationAttribute;
use api::key::Kind;
use api::object::Object;
use datastore::scope::Scope;
use datastore::store::Store;
use felix::calc::BlocksFrom;
use felix_io::workload::{self, HostEnd};
use ipam::collect::{self, Garbage, Watchlist};
use ipam::request::ReleaseAddress;
use ipam::{Ipam, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::health::Health;
use crate::kubernetes::Kubernetes;
use crate::startup::chain;
use crate::task::calc::{CalcView, Inbox};
use crate::task::timestamp;
use crate::task::watch::echo;
use crate::telemetry::Metrics;

/// How long something must have been of no use.
pub const GRACE: Duration = Duration::from_secs(15 * 60);
/// How far clocks drift within a grace.
const CLOCK_ERROR: Duration = Duration::from_secs(30);
/// Looks within a grace.
const LOOKS: u32 = 2;

/// What the task is made of.
pub struct Collector {
    /// Node name.
    pub node: String,
    /// Beginning of the names of pods' devices.
    pub interface_prefix: String,
    /// Where the node's ranges come from: what another plugin gives out is no concern of ours.
    pub blocks_from: BlocksFrom,
    /// Objects.
    pub store: Arc<dyn Store>,
    /// Addresses.
    pub ipam: Arc<Ipam>,
    /// Where own writes are echoed.
    pub calc: Inbox,
    /// Kubernetes, where the datastore is one.
    pub kubernetes: Option<Arc<dyn Kubernetes>>,
    /// Whether everything is known, and the datastore unlocked.
    pub view: watch::Receiver<CalcView>,
    /// Whether the datastore is the one that was read.
    pub health: Health,
    /// Other nodes may not have written back yet what they have: nothing is said of them until the agent starts anew.
    pub may_lack_others: bool,
    /// How long something must have been of no use.
    pub grace: Duration,
    /// Counters.
    pub metrics: Metrics,
    /// End of the process.
    pub cancel: CancellationToken,
}

/// What was found before.
#[derive(Debug, Default)]
pub(crate) struct Found {
    own: Watchlist,
    cluster: Watchlist,
}

impl Collector {
    /// Runs until the token is cancelled.
    pub async fn run(self) {
        let cancel = self.cancel.clone();
        tokio::select! {
            () = self.collect() => {}
            () = cancel.cancelled() => {}
        }
    }

    async fn collect(self) {
        // A task that ends by itself ends the agent.
        if self.grace.is_zero() || self.blocks_from == BlocksFrom::PodCidrs {
            return std::future::pending().await;
        }
        let mut found = Found::default();
        let mut before = (SystemTime::now(), Instant::now());
        loop {
            tokio::time::sleep(self.grace / LOOKS).await;
            let now = (SystemTime::now(), Instant::now());
            if is_set(before, now) {
                found = Found::default();
            }
            before = now;
            self.look(&mut found, timestamp(now.0)).await;
            let waiting = found.own.len() + found.cluster.len();
            let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
            self.metrics.ipam_gc_candidates.set(waiting);
        }
    }

    /// Looks once, and frees what has been of no use for long enough.
    pub(crate) async fn look(&self, found: &mut Found, now: Timestamp) {
        if let Some(why) = self.unsure() {
            debug!(why, "nothing is collected");
            *found = Found::default();
            return;
        }
        if let Err(error) = self.look_at_own(&mut found.own, now).await {
            warn!(error, "looking for addresses of this node that nobody uses");
        }
        if self.may_lack_others || self.health.objects_kept() > 0 {
            found.cluster.clear();
            return;
        }
        match self.is_elected(now).await {
            Ok(true) => {
                if let Err(error) = self.look_at_cluster(&mut found.cluster, now).await {
                    warn!(error, "looking for addresses that no node uses");
                }
            }
            Ok(false) => found.cluster.clear(),
            Err(error) => debug!(error, "who collects for the cluster is not known"),
        }
    }

    /// Why nothing may be said of what is used.
    fn unsure(&self) -> Option<String> {
        let view = self.view.borrow();
        if !view.in_sync {
            return Some("not everything was read yet".to_owned());
        }
        if view.datastore_locked {
            return Some("the datastore is locked".to_owned());
        }
        self.health
            .datastore_unknown()
            .or_else(|| self.health.namesake())
    }

    async fn look_at_own(&self, list: &mut Watchlist, now: Timestamp) -> Result<(), String> {
        // Before the endpoints: what is given out from here on is not looked at.
        let Some(blocks) = self.ipam.own_blocks() else {
            return Ok(());
        };
        let used = self.used_by(&self.node).await?;
        let ends = workload::host_ends(self.interface_prefix.clone()).await;
        let ends = ends.map_err(|error| chain(&error))?;
        let devices = Devices::of(&self.interface_prefix, ends);
        let found = collect::of_node(
            &self.node,
            &blocks,
            self.ipam.cooldown(now),
            |address, held| used.contains(&address) || devices.are_of(held),
        );
        let ripe = list.look(found, now, self.grace);
        self.free(&ripe, now).await
    }

    /// Addresses that the endpoints of a node have.
    async fn used_by(&self, node: &str) -> Result<BTreeSet<IpAddr>, String> {
        let scope = Scope::Node(node.to_owned());
        let listed = self.store.list(Kind::WorkloadEndpoint, &scope).await;
        let listed = listed.map_err(|error| chain(&error))?;
        let mut used = BTreeSet::new();
        for item in listed.items {
            match Object::decode(&item.key, &item.value) {
                Ok(Object::WorkloadEndpoint(endpoint)) => {
                    used.extend(endpoint.spec.ip_networks.iter().map(ipnet::IpNet::addr));
                }
                Ok(_) => {}
                // It may say that an address is used.
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(used)
    }

    /// Frees addresses and gives up blocks, each if it is still what was looked at.
    async fn free(&self, ripe: &BTreeSet<Garbage>, now: Timestamp) -> Result<(), String> {
        let addresses = ripe.iter().filter_map(|garbage| match garbage {
            Garbage::Address {
                address,
                handle_id,
                sequence_number,
            } => Some(ReleaseAddress {
                address: *address,
                handle_id: Some(handle_id.clone()),
                sequence_number: *sequence_number,
            }),
            _ => None,
        });
        let addresses: Vec<ReleaseAddress> = addresses.collect();
        if !addresses.is_empty() {
            let freed = self.ipam.release_ips(&addresses, now).await;
            let freed = freed.map_err(|error| chain(&error))?;
            echo(&self.calc, &freed.written);
            for address in &freed.outcome.released {
                info!(%address, "address released: nobody uses it");
                self.metrics.ipam_gc_reclamations.inc();
            }
        }
        for garbage in ripe {
            if let Garbage::Block {
                cidr,
                sequence_number,
            } = garbage
            {
                let given_up = self.ipam.release_block(*cidr, *sequence_number, now).await;
                let given_up = given_up.map_err(|error| chain(&error))?;
                echo(&self.calc, &given_up.written);
                if given_up.outcome {
                    info!(block = %cidr, "block given up: it is empty, and the node has another");
                }
            }
        }
        Ok(())
    }
}

/// Whether somebody set the clock between two moments: how long something has been of no use is not known then.
fn is_set(before: (SystemTime, Instant), now: (SystemTime, Instant)) -> bool {
    let passed = now.1.saturating_duration_since(before.1);
    let shown = now.0.duration_since(before.0);
    shown.map_or(true, |shown| shown.abs_diff(passed) > CLOCK_ERROR)
}

/// Devices of pods in this kernel: whoever has one has its address, whatever the datastore says.
struct Devices {
    prefix: String,
    handles: BTreeSet<String>,
    names: BTreeSet<String>,
}

impl Devices {
    fn of(prefix: &str, ends: Vec<HostEnd>) -> Self {
        let mut devices = Self {
            prefix: prefix.to_owned(),
            handles: BTreeSet::new(),
            names: BTreeSet::new(),
        };
        for end in ends {
            if let Some(of) = AttachmentId::of_path(&end.alias) {
                devices.handles.insert(of.handle_id().to_lowercase());
            } else {
                // Calico's say nothing of whose they are but by their names.
                devices.names.insert(end.ifname.to_string());
            }
        }
        devices
    }

    fn are_of(&self, held: &AllocationAttribute) -> bool {
        let handle = held.handle_id.as_deref().unwrap_or_default();
        if self.handles.contains(&handle.to_lowercase()) {
            return true;
        }
        let part = |name: &str| held.secondary.get(name);
        let (Some(pod), Some(namespace)) = (part("pod"), part("namespace")) else {
            return false;
        };
        let of = AttachmentId {
            network: String::new(),
            container_id: String::new(),
            ifname: api::attachment::FIRST_INTERFACE.to_owned(),
        };
        let name = of.pod_interface_name(&self.prefix, namespace, pod);
        self.names.contains(&name)
    }
}
