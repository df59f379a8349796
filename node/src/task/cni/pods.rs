//! What the runtime's commands do to one pod.

mod check;
mod endpoint;
mod gc;
mod record;

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use api::pool::AllowedUse;
use cni::protocol::Request;
use cni::spec::error::{CniError, Code};
use cni::spec::result::{AddResult, Interface, IpConfig};
use datastore::store::{Store, StoreError};
use felix::desired::IfName;
use felix_io::workload::{
    self, Attached, Attachment, Families, Forwarding, HOST_MAC, PairSpec, PodNetwork, WorkloadError,
};
use ipam::{AssignError, AssignRequest, Assignment, Wanted};
use ipnet::IpNet;
use tokio::sync::{Notify, OwnedMutexGuard, mpsc, oneshot, watch};
use tracing::{debug, warn};

use super::addresses::Addresses;
use super::locks::Locks;
use crate::health::Health;
use crate::startup::chain;
use crate::task::calc::{CalcView, Inbox};
use crate::task::dataplane::Wait;
use crate::task::timestamp;
use endpoint::Identity;

/// How long ADD waits for the route.
const ROUTE_PATIENCE: Duration = Duration::from_secs(10);
/// How long after a DEL devices are swept away.
const SWEEP_AFTER: Duration = Duration::from_millis(100);
/// How soon a failed sweep is tried again.
const SWEEP_RETRY: Duration = Duration::from_secs(2);

/// What serving pods needs.
pub struct Pods {
    /// Node name.
    pub node: String,
    /// Beginning of the names of pods' devices.
    pub interface_prefix: String,
    /// The graph's settings: they know the key of a pod's route.
    pub settings: felix::calc::Settings,
    /// MTU for pods while the graph does not know one.
    pub mtu_bytes: Option<u32>,
    /// Endpoints.
    pub store: Arc<dyn Store>,
    /// Addresses.
    pub addresses: Addresses,
    /// Where own writes are echoed.
    pub calc: Inbox,
    /// MTU and labels.
    pub view: watch::Receiver<CalcView>,
    /// Tells when a route is there.
    pub waits: mpsc::Sender<Wait>,
    /// Facts for STATUS.
    pub health: Health,
    /// One request at a time for each container and for each device.
    pub locks: Locks,
    /// Told when a device waits for being swept away.
    pub detached: Notify,
}

impl Pods {
    /// Connects a pod.
    pub async fn add(
        &self,
        request: &Request,
        netns: Option<OwnedFd>,
    ) -> Result<AddResult, CniError> {
        let pod = self.identify(request)?;
        let Some(netns) = netns else {
            return Err(CniError::new(
                Code::INVALID_NETNS,
                "ADD came without the descriptor of the pod's network namespace (CNI_NETNS)",
            ));
        };
        let _turn = self.turn(&pod, &request.container_id).await;
        let pair = self.pair(request, &pod);
        let container = request.container_id.as_str();
        // Both take their time and neither needs the other.
        let begun = tokio::join!(
            timed(container, "address", self.assign(request, &pod)),
            timed(container, "pair", Attachment::begin(netns, pair))
        );
        let (assignment, attachment) = match begun {
            (Ok(assignment), attachment) => (assignment, attachment),
            (Err(error), Ok(attachment)) => {
                attachment.abandon().await;
                return Err(error);
            }
            (Err(error), Err(_)) => return Err(error),
        };
        let connected = match attachment {
            Ok(attachment) => self.connect(request, &pod, &assignment, attachment).await,
            Err(error) => Err(kernel_error(&error)),
        };
        match connected {
            Ok(attached) => Ok(result(request, &assignment, &attached)),
            Err(error) => {
                if !assignment.existing {
                    self.undo_address(request).await;
                }
                Err(error)
            }
        }
    }

    /// Configures the pod and writes the endpoint, both at once, and waits for the route, which comes meanwhile. Undoes
    /// what it did when it fails.
    async fn connect(
        &self,
        request: &Request,
        pod: &Identity,
        assignment: &Assignment,
        attachment: Attachment,
    ) -> Result<Attached, CniError> {
        let addresses: Vec<IpAddr> = assignment.addresses.iter().map(IpNet::addr).collect();
        let mut network = PodNetwork::new(addresses.clone());
        if request.allow_ip_forwarding {
            network.forwarding = Forwarding::On;
        }
        let object = pod.endpoint(&self.node, &assignment.addresses, attachment.pod_mac);
        let host_ifindex = attachment.host_ifindex;
        let container = request.container_id.as_str();
        let (attached, written) = tokio::join!(
            timed(container, "pod", attachment.finish(network)),
            timed(container, "endpoint", self.write_endpoint(object))
        );
        let failed = match (attached, written) {
            (Ok(attached), Ok(())) => {
                let routed = self.await_routes(pod, host_ifindex, &addresses);
                match timed(container, "route", routed).await {
                    Ok(()) => return Ok(attached),
                    Err(error) => self.detached(pod, error).await,
                }
            }
            // `finish` has removed the pair.
            (Err(error), _) => kernel_error(&error),
            (Ok(_), Err(error)) => self.detached(pod, error).await,
        };
        if let Err(error) = self.delete_endpoint(pod, &request.container_id).await {
            warn!(%error, endpoint = %pod.key, "endpoint of a failed ADD is left behind");
        }
        Err(failed)
    }

    /// Undoes ADD. Nothing to undo is success.
    pub async fn del(&self, request: &Request) -> Result<(), CniError> {
        let pod = self.identify(request)?;
        let _turn = self.turn(&pod, &request.container_id).await;
        self.remove(&pod, &request.container_id, request.handle_id())
            .await
    }

    /// Takes an endpoint of this container away and frees its addresses. The endpoint and device of a newer container
    /// of the same pod stay.
    async fn remove(
        &self,
        pod: &Identity,
        container: &str,
        handle: String,
    ) -> Result<(), CniError> {
        let stored = self
            .store
            .get(&pod.key)
            .await
            .map_err(|error| store_error(&error))?;
        let ours = stored
            .as_ref()
            .is_none_or(|stored| endpoint::container_of(stored).is_none_or(|id| id == container));
        if ours {
            let (detached, deleted) = tokio::join!(
                workload::detach(pod.host_ifname.clone()),
                self.delete_stored(pod, stored.as_ref())
            );
            self.detached.notify_one();
            detached.map_err(|error| kernel_error(&error))?;
            deleted?;
        }
        // After the route is gone: the address may be another pod's from here on.
        match self.addresses.release(handle).await {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(assign_error(&error)),
            None => Err(stopping()),
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
    async fn turn(&self, pod: &Identity, container: &str) -> [OwnedMutexGuard<()>; 2] {
        let container = self.container_turn(container).await;
        [container, self.device_turn(&pod.host_ifname).await]
    }

    async fn container_turn(&self, container: &str) -> OwnedMutexGuard<()> {
        self.locks.lock(&format!("container {container}")).await
    }

    async fn device_turn(&self, ifname: &IfName) -> OwnedMutexGuard<()> {
        self.locks.lock(&format!("device {ifname}")).await
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

    fn pair(&self, request: &Request, pod: &Identity) -> PairSpec {
        let mtu = match request.mtu_bytes {
            0 => self.view.borrow().pod_mtu_bytes.or(self.mtu_bytes),
            bytes => Some(bytes),
        };
        PairSpec {
            host_ifname: pod.host_ifname.clone(),
            pod_ifname: IfName::from(request.ifname.as_str()),
            mtu_bytes: mtu,
            host_mac: HOST_MAC,
            pod_mac: None,
            families: if request.ipam.assign_ipv6 {
                Families::Dual
            } else {
                Families::V4
            },
        }
    }

    async fn assign(&self, request: &Request, pod: &Identity) -> Result<Assignment, CniError> {
        let wanted = match request.ip {
            Some(address) => Wanted::Address(address),
            None => Wanted::Any {
                ipv4: usize::from(request.ipam.assign_ipv4),
                ipv6: usize::from(request.ipam.assign_ipv6),
                pools: [&request.ipam.ipv4_pools[..], &request.ipam.ipv6_pools[..]].concat(),
            },
        };
        let asked = AssignRequest {
            node_labels: self.view.borrow().node_labels.clone(),
            namespace_labels: None,
            handle_id: request.handle_id(),
            attributes: pod.attributes(&self.node),
            allowed_use: AllowedUse::Workload,
            wanted,
            now: timestamp(SystemTime::now()),
        };
        match self.addresses.assign(asked).await {
            Some(outcome) => outcome.map_err(|error| assign_error(&error)),
            None => Err(stopping()),
        }
    }

    async fn undo_address(&self, request: &Request) {
        match self.addresses.release(request.handle_id()).await {
            Some(Ok(_)) | None => {}
            Some(Err(error)) => warn!(
                error = chain(&error),
                handle = request.handle_id(),
                "address of a failed ADD is not given back yet; DEL will"
            ),
        }
    }

    /// Takes the device of an ADD that failed with `failed` away.
    async fn detached(&self, pod: &Identity, failed: CniError) -> CniError {
        if let Err(error) = workload::detach(pod.host_ifname.clone()).await {
            warn!(%error, ifname = %pod.host_ifname, "device of a failed ADD is left behind");
        }
        self.detached.notify_one();
        failed
    }

    async fn await_routes(
        &self,
        pod: &Identity,
        host_ifindex: u32,
        addresses: &[IpAddr],
    ) -> Result<(), CniError> {
        tokio::time::timeout(
            ROUTE_PATIENCE,
            self.routes(pod, Some(host_ifindex), addresses),
        )
            .await
            .unwrap_or_else(|_| {
                Err(CniError::new(
                    Code::TRY_AGAIN_LATER,
                    format!(
                        "the route to {addresses:?} on {} is not in the kernel after {} s; see `tortiectl node status`",
                        pod.host_ifname,
                        ROUTE_PATIENCE.as_secs()
                    ),
                ))
            })
    }

    /// Waits for the routes to a pod's device, which has this index if one is given.
    async fn routes(
        &self,
        pod: &Identity,
        host_ifindex: Option<u32>,
        addresses: &[IpAddr],
    ) -> Result<(), CniError> {
        for addr in addresses {
            let (done, told) = oneshot::channel();
            let wait = Wait {
                route: self.settings.workload_route_key(*addr),
                ifname: pod.host_ifname.clone(),
                ifindex: host_ifindex,
                done,
            };
            self.waits.send(wait).await.map_err(|_| stopping())?;
            told.await.map_err(|_| stopping())?;
        }
        Ok(())
    }
}

/// Does a step of ADD and says how long it took.
async fn timed<T>(container: &str, step: &'static str, work: impl Future<Output = T>) -> T {
    let started = Instant::now();
    let done = work.await;
    let took_us = started.elapsed().as_micros();
    debug!(container, step, took_us, "step of ADD");
    done
}

/// What the plugin prints: addresses narrowed to hosts, both devices.
fn result(request: &Request, assignment: &Assignment, attached: &Attached) -> AddResult {
    let sandbox = request.netns_path.clone().unwrap_or_default();
    AddResult {
        interfaces: vec![
            Interface {
                name: attached.host_ifname.to_string(),
                ..Interface::default()
            },
            Interface {
                name: attached.pod_ifname.to_string(),
                mac: attached.pod_mac.to_string(),
                mtu: Some(attached.mtu_bytes),
                sandbox,
            },
        ],
        ips: assignment
            .addresses
            .iter()
            .map(|net| IpConfig {
                address: IpNet::from(net.addr()),
                gateway: None,
                interface: Some(1),
            })
            .collect(),
        ..AddResult::default()
    }
}

fn stopping() -> CniError {
    CniError::new(Code::TRY_AGAIN_LATER, "the agent is stopping")
}

fn store_error(error: &StoreError) -> CniError {
    let code = match error {
        StoreError::Unavailable(_) | StoreError::Conflict { .. } | StoreError::Gone { .. } => {
            Code::TRY_AGAIN_LATER
        }
        StoreError::Refused(_) => Code::DATASTORE,
    };
    CniError::new(code, chain(error))
}

fn assign_error(error: &AssignError) -> CniError {
    match error {
        AssignError::Store(error) => store_error(error),
        AssignError::Contended { .. } => CniError::new(Code::TRY_AGAIN_LATER, chain(error)),
        AssignError::NoPools { .. }
        | AssignError::UnknownPool { .. }
        | AssignError::BlockLimit { .. }
        | AssignError::Exhausted { .. }
        | AssignError::NotInPool { .. }
        | AssignError::InUse { .. }
        | AssignError::ForeignBlock { .. }
        | AssignError::Overlap { .. }
        | AssignError::Corrupt { .. } => CniError::new(Code::NO_ADDRESS, chain(error)),
    }
}

fn kernel_error(error: &WorkloadError) -> CniError {
    let code = match error {
        WorkloadError::Namespace(_) | WorkloadError::HostNamespace => Code::INVALID_NETNS,
        WorkloadError::Name(_) => Code::INVALID_ENVIRONMENT,
        _ => Code::KERNEL,
    };
    CniError::new(code, chain(error))
}
