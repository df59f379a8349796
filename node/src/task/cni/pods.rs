//! What the runtime's commands do to one pod.

mod add;
mod check;
pub(super) mod endpoint;
mod error;
mod gc;
mod lend;
mod record;
#[cfg(test)]
mod tests;
mod wishes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::attachment::AttachmentId;
use api::key::{Key, Kind};
use api::object::Object;
use cni::protocol::Request;
use cni::spec::error::{CniError, Code};
use datastore::store::{KeyValue, Store, StoreError};
use felix::desired::{IfName, Mac};
use felix_io::workload::{self, WorkloadError};
use ipam::request::{ReleaseAddress, Released};
use ipam::{Accompanied, AssignError, Companion};
use ipnet::IpNet;
use tokio::sync::{Notify, OwnedMutexGuard, mpsc, oneshot, watch};
use tracing::warn;

use super::addresses::Addresses;
use super::locks::Locks;
use crate::health::Health;
use crate::task::calc::{CalcView, Inbox};
use crate::task::dataplane::Wait;
use crate::task::endpoint_status::Endpoints;
use endpoint::{Identity, Record};
use error::{assign_error, kernel_error, stopping, store_error};
use record::Found;

/// How long a request waits for an agent that has just started: a pod that is refused is tried again by its kubelet much
/// later.
const SYNC_PATIENCE: Duration = Duration::from_secs(5);
/// How long after a DEL detached devices are deleted.
const SWEEP_AFTER: Duration = Duration::from_millis(100);
/// How soon a failed sweep is tried again.
const SWEEP_RETRY: Duration = Duration::from_secs(2);

/// Why nothing is done while ClusterInformation says that the datastore is not ready.
const LOCKED: &str = "the datastore is locked (ClusterInformation(default): spec.datastoreReady is false); `tortiectl datastore migrate unlock` ends that; pods that run keep running";

/// What serving pods needs.
pub struct Pods {
    /// Node name.
    pub node: String,
    /// Beginning of the names of pods' devices.
    pub interface_prefix: String,
    /// The graph's settings: they know the key of a pod's route.
    pub settings: felix::calc::Settings,
    /// MTU for pods while the graph knows none: the last one, else the host's.
    pub last_mtu_bytes: Option<u32>,
    /// Endpoints.
    pub store: Arc<dyn Store>,
    /// Addresses.
    pub addresses: Addresses,
    /// This node's endpoints, as the watch tells them.
    pub endpoints: watch::Receiver<Endpoints>,
    /// Where own writes are echoed.
    pub calc: Inbox,
    /// MTU and labels.
    pub view: watch::Receiver<CalcView>,
    /// Reports when a route is there.
    pub waits: mpsc::Sender<Wait>,
    /// Facts for STATUS.
    pub health: Health,
    /// One request at a time for each container and for each device.
    pub locks: Locks,
    /// Endpoints as ADDs of this process wrote them, by name, until they are deleted.
    pub written: Mutex<BTreeMap<Key, KeyValue>>,
    /// Notified when a device waits for its deletion.
    pub detached: Notify,
    /// Where devices are made and taken down.
    pub threads: workload::Threads,
}

impl Pods {
    /// Undoes ADD. Nothing to undo is success.
    pub async fn del(&self, request: &Request) -> Result<(), CniError> {
        self.may_write()?;
        let pod = self.identify(request)?;
        let mut device = pod.host_ifname.clone();
        loop {
            let _turn = self.turn(&pod.attachment.container_id, &device).await;
            let found = match self.written(&pod) {
                Some(record) => Found::Own(record),
                None => self.find(&pod).await?,
            };
            match &found {
                // Written by Calico, which names devices in other ways.
                Found::Own(record) if record.host_ifname() != device => {
                    device = record.host_ifname();
                }
                _ => return self.remove(&pod.attachment, &device, found).await,
            }
        }
    }

    /// Removes what an attachment has and frees its addresses. What another one has stays: a newer container of the same
    /// pod, the same interface in another network.
    async fn remove(
        &self,
        attachment: &AttachmentId,
        device: &IfName,
        found: Found,
    ) -> Result<(), CniError> {
        let mut handles = BTreeSet::from([attachment.handle_id()]);
        if let Found::Own(record) = &found {
            handles.insert(record.handle_id(&attachment.network));
        }
        let looked = self.look(handles);
        let looks = match &found {
            Found::Own(record) if self.store.folds() => {
                let (detached, looks) = tokio::join!(self.detach(attachment, device), looked);
                detached.map_err(|error| kernel_error(&error))?;
                self.detached.notify_one();
                return self.release_with(record, looks?).await;
            }
            Found::Own(record) => {
                let (detached, deleted, looks) = tokio::join!(
                    self.detach(attachment, device),
                    self.delete_record(record),
                    looked
                );
                self.detached.notify_one();
                detached.map_err(|error| kernel_error(&error))?;
                deleted.map_err(|error| store_error(&error))?;
                looks?
            }
            Found::Nothing => {
                let (detached, looks) = tokio::join!(self.detach(attachment, device), looked);
                detached.map_err(|error| kernel_error(&error))?;
                self.detached.notify_one();
                looks?
            }
            Found::Others(_) => looked.await?,
        };
        // After the route is gone: the address may be another pod's from here on.
        for (handle, held) in looks {
            self.release(handle, held).await?;
        }
        Ok(())
    }

    /// IPAM's error for the runtime. That the datastore has lost a write concerns more than this pod.
    fn ipam_error(&self, error: &AssignError) -> CniError {
        if let AssignError::Store(diverged @ StoreError::Diverged { .. }) = error {
            self.health.report_diverged(diverged.clone());
        }
        assign_error(error)
    }

    /// What each handle holds now.
    async fn look(
        &self,
        handles: BTreeSet<String>,
    ) -> Result<Vec<(String, Vec<ReleaseAddress>)>, CniError> {
        let mut looks = Vec::new();
        for handle in handles {
            match self.addresses.held(handle.clone()).await {
                Some(Ok(held)) => looks.push((handle, held)),
                Some(Err(error)) => return Err(self.ipam_error(&error)),
                None => return Err(stopping()),
            }
        }
        Ok(looks)
    }

    /// Releases what an endpoint's handles held when they were looked at, and deletes it with the first of them, in one transaction.
    async fn release_with(
        &self,
        record: &Record,
        looks: Vec<(String, Vec<ReleaseAddress>)>,
    ) -> Result<(), CniError> {
        self.forget_written(record.key());
        let mut deleted = false;
        for (handle, held) in looks {
            if !deleted {
                let version = record.stored.version.clone();
                let companion = Companion::delete(record.key().clone(), version);
                let look = (handle.clone(), held.clone());
                let (released, became) = self.ask_release(look, Some(companion)).await?;
                deleted = true;
                if let Accompanied::Done(_) = became {
                    all_released(&handle, &released)?;
                    continue;
                }
                let apart = self.delete_record(record).await;
                apart.map_err(|error| store_error(&error))?;
            }
            self.release(handle, held).await?;
        }
        Ok(())
    }

    async fn ask_release(
        &self,
        look: (String, Vec<ReleaseAddress>),
        companion: Option<Companion>,
    ) -> Result<(Released, Accompanied), CniError> {
        match self.addresses.release(look, companion).await {
            Some(Ok(released)) => Ok(released),
            Some(Err(error)) => Err(self.ipam_error(&error)),
            None => Err(stopping()),
        }
    }

    /// Releases what a handle held when it was looked at.
    async fn release(&self, handle: String, held: Vec<ReleaseAddress>) -> Result<(), CniError> {
        let (released, _) = self.ask_release((handle.clone(), held), None).await?;
        all_released(&handle, &released)
    }

    /// The ranges that Kubernetes gave this node.
    pub async fn pod_cidrs(&self) -> Result<Vec<IpNet>, CniError> {
        let key = Key::new(Kind::Node, self.node.as_str());
        let found = self.store.get(&key).await;
        let found = found.map_err(|error| store_error(&error))?;
        let decoded = found.and_then(|found| Object::decode(&key, &found.value).ok());
        Ok(match decoded {
            Some(Object::Node(node)) => api::node::pod_cidrs(&node),
            _ => Vec::new(),
        })
    }

    /// Waits until the calculation knows every fact of the start. Before that nobody can tell a pod's MTU, which pools
    /// are the node's, or what is superfluous.
    async fn in_sync(&self) -> Result<(), CniError> {
        let mut view = self.view.clone();
        let synced = view.wait_for(|view| view.in_sync);
        match tokio::time::timeout(SYNC_PATIENCE, synced).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(stopping()),
            Err(_) => Err(CniError::new(
                Code::TRY_AGAIN_LATER,
                "the agent has started but not read the datastore and the kernel completely yet; \
                 the runtime will try again",
            )),
        }
    }

    /// Refuses while the datastore lacks what was read from it: addresses of living pods may look free.
    fn known_datastore(&self) -> Result<(), CniError> {
        match self.health.datastore_unknown() {
            None => Ok(()),
            Some(reason) => Err(CniError::new(Code::TRY_AGAIN_LATER, reason)),
        }
    }

    /// Removes devices of pods that are gone, until dropped: those that a former process left, and those that a DEL
    /// leaves, soon after it. What comes within [`SWEEP_AFTER`] goes together, because each deletion takes the kernel
    /// 20 ms during which no device is made; most go with their pods' namespaces anyway.
    pub async fn sweep(&self) {
        loop {
            if let Err(error) = workload::sweep().await {
                warn!(%error, "devices of pods that are gone could not be deleted; trying again");
                self.detached.notify_one();
                tokio::time::sleep(SWEEP_RETRY).await;
            }
            self.detached.notified().await;
            tokio::time::sleep(SWEEP_AFTER).await;
        }
    }

    /// Waits for the turn of a request: two of one container, or about one device (a pod's old and new container), run
    /// one after the other. Always in this order, so that nobody waits for each other.
    async fn turn(&self, container: &str, device: &IfName) -> [OwnedMutexGuard<()>; 2] {
        let container = self.container_turn(container).await;
        [container, self.device_turn(device).await]
    }

    async fn container_turn(&self, container: &str) -> OwnedMutexGuard<()> {
        self.locks.lock(&format!("container {container}")).await
    }

    async fn device_turn(&self, ifname: &IfName) -> OwnedMutexGuard<()> {
        self.locks.lock(&format!("device {ifname}")).await
    }

    /// Refuses while the datastore is locked, as Calico's plugin does: the runtime tries again.
    fn may_write(&self) -> Result<(), CniError> {
        if self.view.borrow().datastore_locked {
            return Err(CniError::new(Code::TRY_AGAIN_LATER, LOCKED));
        }
        Ok(())
    }

    /// Takes an attachment's device down. One that says that it is another's stays: the store may have lost its endpoint.
    async fn detach(
        &self,
        attachment: &AttachmentId,
        device: &IfName,
    ) -> Result<(), WorkloadError> {
        workload::detach_own(&self.threads, device.clone(), attachment.path()).await
    }

    fn identify(&self, request: &Request) -> Result<Identity, CniError> {
        if let Some(named) = &request.nodename
            && *named != self.node
        {
            return Err(CniError::new(
                Code::INVALID_CONFIG,
                format!(
                    "nodename: {named:?} is not this node; allowed: {:?}, or leave it out",
                    self.node
                ),
            ));
        }
        Ok(Identity::new(&self.node, &self.interface_prefix, request))
    }

    /// Waits for the routes to a pod's device; to one that was just made (its index and the pod's MAC), for the pod's
    /// neighbours too.
    async fn routes(
        &self,
        ifname: &IfName,
        made: Option<(u32, Mac)>,
        addresses: &[IpAddr],
    ) -> Result<(), CniError> {
        let mut settings = self.settings.clone();
        if let Some(metric) = self.view.borrow().route_metric {
            settings.normal_route_metric = metric;
        }
        for addr in addresses {
            let (done, present) = oneshot::channel();
            let wait = Wait {
                route: settings.workload_route_key(*addr),
                neighbour: made.and_then(|(_, mac)| felix::calc::pod_neighbour(ifname, *addr, mac)),
                ifname: ifname.clone(),
                ifindex: made.map(|(ifindex, _)| ifindex),
                done,
            };
            self.waits.send(wait).await.map_err(|_| stopping())?;
            present.await.map_err(|_| stopping())?;
        }
        Ok(())
    }
}

/// An error where an address was not released.
fn all_released(handle: &str, released: &Released) -> Result<(), CniError> {
    match released.refused.first() {
        None => Ok(()),
        Some((address, why)) => Err(CniError::new(
            Code::TRY_AGAIN_LATER,
            format!("address {address} of {handle} was not released: {why}"),
        )),
    }
}
