//! Frees what nobody needs any more: what a plugin or an agent that died left behind, what a node that is gone had.
//!
//! Each agent looks at its own blocks, of which it knows everything. What belongs to no living node, what stands in another
//! node's block, and handles without an address are looked at by one agent of the cluster, which is elected by an annotation
//! of ClusterInformation; where Calico's controllers run, by those. Nothing depends on there being one: an address is freed
//! only if it is still what was looked at, so two that do the same are one too many and no more.
//!
//! What is looked at, and when it is freed, stands in `ipam::collect`. Here is what only the agent knows: whether anything may
//! be said at all, and devices in this kernel, which count as much as endpoints.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::attachment::AttachmentId;
use api::ipam::AllocationAttribute;
use felix::calc::BlocksFrom;
use felix_io::workload::{self, HostEnd, WorkloadError};
use ipam::collect::looks::{Done, Freed, Looks};
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

/// How long something must have been of no use where nobody says otherwise.
pub const GRACE: Duration = Duration::from_secs(15 * 60);
/// How far clocks drift within a grace.
const CLOCK_ERROR: Duration = Duration::from_secs(30);
/// Looks within a grace.
const LOOKS: u32 = 2;
/// The least time between two looks, however short the grace: the elected agent lists the cluster's blocks and handles.
const REST: Duration = Duration::from_secs(5);

/// What the task is made of.
pub struct Collector {
    /// Beginning of the names of pods' devices.
    pub interface_prefix: String,
    /// Where the node's ranges come from: what another plugin gives out is no concern of ours.
    pub blocks_from: BlocksFrom,
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
    /// How long something must have been of no use; zero: nothing is collected. Where it is not set here a KubeControllersConfiguration
    /// may say it.
    pub grace: Option<Duration>,
    /// Counters.
    pub metrics: Metrics,
    /// End of the process.
    pub cancel: CancellationToken,
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
        if self.grace == Some(Duration::ZERO) || self.blocks_from == BlocksFrom::PodCidrs {
            return std::future::pending().await;
        }
        let mut looks = self.looks();
        let mut before = (SystemTime::now(), Instant::now());
        loop {
            let grace = Some(looks.grace()).filter(|grace| !grace.is_zero());
            let rest = grace.unwrap_or(GRACE) / LOOKS;
            tokio::time::sleep(rest.max(REST)).await;
            let now = (SystemTime::now(), Instant::now());
            if is_set(before, now) {
                looks.forget();
            }
            before = now;
            self.look(&mut looks, timestamp(now.0)).await;
            let waiting = i64::try_from(looks.waiting()).unwrap_or(i64::MAX);
            self.metrics.ipam_gc_candidates.set(waiting);
        }
    }

    pub(crate) fn looks(&self) -> Looks {
        Looks::new(Arc::clone(&self.ipam), self.grace.unwrap_or(GRACE))
    }

    /// The grace that counts now.
    async fn grace_now(&self) -> Result<Duration, String> {
        let (None, Some(kubernetes)) = (self.grace, &self.kubernetes) else {
            return Ok(self.grace.unwrap_or(GRACE));
        };
        let said = kubernetes.leak_grace_period().await;
        let Some(text) = said.map_err(|error| error.to_string())? else {
            return Ok(GRACE);
        };
        api::duration::parse(&text).ok_or_else(|| {
            format!(
                "KubeControllersConfiguration(default): spec.controllers.node.leakGracePeriod: {text:?}; allowed: a duration such as 15m, \
                 0s for never"
            )
        })
    }

    /// Looks once, and frees what has been of no use for long enough.
    pub(crate) async fn look(&self, looks: &mut Looks, now: Timestamp) {
        if let Some(why) = self.unsure() {
            debug!(why, "nothing is collected");
            looks.forget();
            return;
        }
        match self.grace_now().await {
            Ok(grace) => looks.set_grace(grace),
            Err(error) => {
                warn!(error, "nothing is collected: how long to wait is not known");
                looks.forget();
                return;
            }
        }
        if looks.grace().is_zero() {
            looks.forget();
            return;
        }
        let mut done = Done::default();
        if let Err(error) = looks.at_own(self.devices(), now, &mut done).await {
            let error = chain(&error);
            warn!(error, "looking for addresses of this node that nobody uses");
        }
        self.report(done);
        if self.may_lack_others || self.health.objects_kept() > 0 {
            looks.forget_cluster();
            return;
        }
        match self.is_elected(looks, now).await {
            Ok(true) => {
                let mut done = Done::default();
                if let Err(error) = looks.at_cluster(now, &mut done).await {
                    let error = chain(&error);
                    warn!(error, "looking for addresses that no node uses");
                }
                self.report(done);
            }
            Ok(false) => looks.forget_cluster(),
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

    /// Whether this agent looks at the cluster now: not where Calico's controllers do.
    async fn is_elected(&self, looks: &Looks, now: Timestamp) -> Result<bool, String> {
        if let Some(kubernetes) = &self.kubernetes
            && kubernetes
                .kube_controllers()
                .await
                .map_err(|error| error.to_string())?
        {
            return Ok(false);
        }
        looks.is_elected(now).await.map_err(|error| chain(&error))
    }

    async fn devices(&self) -> Result<impl Fn(&AllocationAttribute) -> bool, WorkloadError> {
        let ends = workload::host_ends(self.interface_prefix.clone()).await?;
        let devices = Devices::of(&self.interface_prefix, ends);
        Ok(move |held: &AllocationAttribute| devices.are_of(held))
    }

    fn report(&self, done: Done) {
        echo(&self.calc, &done.written);
        for freed in done.freed {
            match freed {
                Freed::Address(address) => {
                    info!(%address, "address released: nobody uses it");
                    self.metrics.ipam_gc_reclamations.inc();
                }
                Freed::Block(block) => {
                    info!(%block, "block given up: it is empty, and the node has another");
                }
                Freed::Claim(affinity) => {
                    info!(affinity, "claim deleted: its block is not this node's");
                }
                Freed::Handle(handle) => info!(handle, "handle deleted: no address has it"),
                Freed::Tombstone(object) => {
                    info!(%object, "deleted: it was marked so, and still there");
                }
                Freed::Node { node, blocks } => {
                    info!(node, blocks, "blocks of a node that is gone are given up");
                }
            }
        }
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
