//! CNI ADD: an address, a pair, an endpoint and a route.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime};

use api::attachment::AttachmentId;
use api::pool::AllowedUse;
use cni::protocol::Request;
use cni::spec::error::{CniError, Code};
use cni::spec::result::{AddResult, Interface, IpConfig, Route};
use datastore::store::Expect;
use felix::calc::BlocksFrom;
use felix::desired::{IfName, Mac};
use felix_io::workload::{
    ALIAS_MAX, Attached, Attachment, Families, Forwarding, HOST_MAC, OldPair, PairSpec,
    WorkloadError,
};
use ipam::{AssignRequest, Assignment, Wanted};
use ipnet::IpNet;
use tracing::{debug, warn};

use super::endpoint::Identity;
use super::error::{kernel_error, stopping, store_error};
use super::record::Found;
use super::wishes::NamespaceLabels;
use super::{Pods, detach};
use crate::task::timestamp;

/// How long ADD waits for the route.
const ROUTE_PATIENCE: Duration = Duration::from_secs(10);

impl Pods {
    /// Connects a pod, unless by then nobody `waits` for it: once the plugin has died, its runtime may have called DEL, which
    /// may have come first.
    pub async fn add(
        &self,
        request: &Request,
        netns: Option<OwnedFd>,
        waits: &(dyn Fn() -> bool + Sync),
    ) -> Result<AddResult, CniError> {
        let pod = self.identify(request)?;
        let Some(netns) = netns else {
            return Err(CniError::new(
                Code::INVALID_NETNS,
                "ADD came without the descriptor of the pod's network namespace (CNI_NETNS)",
            ));
        };
        self.in_sync().await?;
        self.known_datastore()?;
        self.may_write()?;
        let (request, labels) = &self.with_wishes(request, &pod).await?;
        let _turn = self.turn(&request.container_id, &pod.host_ifname).await;
        if !waits() {
            let text = "the plugin ended before its ADD was begun; its runtime calls DEL";
            return Err(CniError::new(Code::TRY_AGAIN_LATER, text));
        }
        let container = request.container_id.as_str();
        // Both take their time and neither needs the other.
        let begun = tokio::join!(
            timed(container, "address", self.assign(request, &pod, labels)),
            timed(container, "pair", self.begin(request, &pod, netns)),
            timed(container, "look", self.standing(&pod)),
        );
        let (assignment, attachment, standing) = match begun {
            (Ok(assignment), attachment, standing) => (assignment, attachment, standing),
            (Err(error), Ok(attachment), _) => {
                attachment.abandon().await;
                return Err(error);
            }
            (Err(error), Err(_), _) => return Err(error),
        };
        let connected = match (attachment, standing) {
            (Ok(attachment), Ok(standing)) => {
                let begun = (attachment, standing);
                self.connect(request, &pod, &assignment, begun).await
            }
            (Ok(attachment), Err(error)) => {
                attachment.abandon().await;
                Err(error)
            }
            (Err(error), _) => Err(error),
        };
        match connected {
            Ok(attached) => Ok(result(request, &assignment, &attached)),
            Err(error) => {
                if !assignment.existing {
                    self.undo_address(&pod).await;
                }
                Err(error)
            }
        }
    }

    /// Makes the pair. One of its name is replaced if it is an earlier one of the same attachment or of the pod's former
    /// container, or nobody's.
    async fn begin(
        &self,
        request: &Request,
        pod: &Identity,
        netns: OwnedFd,
    ) -> Result<Attachment, CniError> {
        let cannot = |error: WorkloadError| kernel_error(&error);
        let pair = self.pair(request, pod);
        let again = netns
            .try_clone()
            .map_err(|error| cannot(WorkloadError::Namespace(error)))?;
        let old = match Attachment::begin(netns, pair.clone()).await {
            Err(WorkloadError::HostInterfaceExists { alias, .. }) => alias,
            begun => return begun.map_err(cannot),
        };
        let own = &pod.attachment;
        let other_network = match self.find(pod).await? {
            Found::Own(_) => None,
            Found::Others(Some(record)) if record.is_of_interface(own) => {
                Some(record.network().unwrap_or_default().to_owned())
            }
            // The store may have lost its endpoint.
            Found::Others(_) | Found::Nothing => AttachmentId::of_path(&old)
                .filter(|old| old.container_id == own.container_id && old.ifname == own.ifname)
                .map(|old| old.network)
                .filter(|network| *network != own.network),
        };
        if let Some(network) = other_network {
            return Err(CniError::new(
                Code::KERNEL,
                format!(
                    "container {}: interface {:?} (CNI_IFNAME) is one of network {network:?}; \
                     allowed: a name that the container does not have yet",
                    own.container_id, own.ifname
                ),
            ));
        }
        let old_pair = OldPair::Replace;
        Attachment::begin(again, PairSpec { old_pair, ..pair })
            .await
            .map_err(cannot)
    }

    /// Configures the pod and writes the endpoint, both at once, and waits for the route, which comes meanwhile. Undoes
    /// what it did when it fails.
    async fn connect(
        &self,
        request: &Request,
        pod: &Identity,
        assignment: &Assignment,
        (attachment, standing): (Attachment, Expect),
    ) -> Result<Attached, CniError> {
        let addresses: Vec<IpAddr> = assignment.addresses.iter().map(IpNet::addr).collect();
        let mut network = pod.network(addresses.clone());
        if !request.routes.is_empty() {
            network.routes.clone_from(&request.routes);
        }
        if request.allow_ip_forwarding {
            network.forwarding = Forwarding::On;
        }
        let object = pod.endpoint(&self.node, &assignment.addresses, attachment.pod_mac);
        let made = (attachment.host_ifindex, attachment.pod_mac);
        let container = request.container_id.as_str();
        let (attached, written) = tokio::join!(
            timed(container, "pod", attachment.finish(network)),
            timed(container, "endpoint", self.write_endpoint(object, standing))
        );
        let failed = match (attached, written) {
            (Ok(attached), Ok(())) => {
                let routed = self.await_routes(pod, made, &addresses);
                match timed(container, "route", routed).await {
                    Ok(()) => return Ok(attached),
                    Err(error) => self.detached(pod, error).await,
                }
            }
            // `finish` has removed the pair.
            (Err(error), _) => kernel_error(&error),
            (Ok(_), Err(error)) => self.detached(pod, error).await,
        };
        if let Err(error) = self.undo_endpoint(pod).await {
            let error = error.msg;
            warn!(error, endpoint = %pod.key, "endpoint of a failed ADD is left behind; DEL will delete it");
        }
        Err(failed)
    }

    async fn undo_endpoint(&self, pod: &Identity) -> Result<(), CniError> {
        match self.find(pod).await? {
            Found::Own(record) => self
                .delete_record(&record)
                .await
                .map_err(|error| store_error(&error)),
            Found::Others(_) | Found::Nothing => Ok(()),
        }
    }

    pub(super) fn pair(&self, request: &Request, pod: &Identity) -> PairSpec {
        let mtu = match request.mtu_bytes {
            0 => self.view.borrow().pod_mtu_bytes.or(self.last_mtu_bytes),
            bytes => Some(bytes),
        };
        PairSpec {
            host_ifname: pod.host_ifname.clone(),
            // One that is too long is left out: then GC leaves the device of a lost endpoint to DEL.
            alias: Some(pod.attachment.path())
                .filter(|path| path.len() <= ALIAS_MAX)
                .unwrap_or_default(),
            old_pair: OldPair::Keep,
            pod_ifname: IfName::from(request.ifname.as_str()),
            mtu_bytes: mtu,
            host_mac: HOST_MAC,
            pod_mac: request.mac.map(Mac),
            queues: request.queues.max(1),
            families: if request.ipam.assign_ipv6 {
                Families::Dual
            } else {
                Families::V4
            },
        }
    }

    pub(super) async fn assign(
        &self,
        request: &Request,
        pod: &Identity,
        labels: &NamespaceLabels,
    ) -> Result<Assignment, CniError> {
        if !request.given.is_empty() {
            return Ok(Assignment {
                addresses: request.given.clone(),
                pools: Vec::new(),
                claimed: Vec::new(),
                // Whoever gave them takes them back.
                existing: true,
            });
        }
        if self.settings.blocks_from == BlocksFrom::PodCidrs {
            return Err(CniError::new(
                Code::INVALID_CONFIG,
                "ipam.type: \"calico-ipam\" gives out no addresses where USE_POD_CIDR is set; allowed: host-local with \
                 the subnet \"usePodCidr\"",
            ));
        }
        let explicit = match request.ip {
            Some(address) => vec![address],
            None => request.ips.clone(),
        };
        if explicit.is_empty() {
            let any = Wanted::Any {
                ipv4: usize::from(request.ipam.assign_ipv4),
                ipv6: usize::from(request.ipam.assign_ipv6),
                pools: [&request.ipam.ipv4_pools[..], &request.ipam.ipv6_pools[..]].concat(),
            };
            return self.assign_wanted(pod, labels, any).await;
        }
        let mut all = Assignment {
            existing: true,
            ..Assignment::default()
        };
        for address in explicit {
            match self
                .assign_wanted(pod, labels, Wanted::Address(address))
                .await
            {
                Ok(given) => {
                    all.existing &= given.existing;
                    all.addresses.extend(given.addresses);
                    all.pools.extend(given.pools);
                    all.claimed.extend(given.claimed);
                }
                Err(error) => {
                    if !all.existing {
                        self.undo_address(pod).await;
                    }
                    return Err(error);
                }
            }
        }
        Ok(all)
    }

    async fn assign_wanted(
        &self,
        pod: &Identity,
        labels: &NamespaceLabels,
        wanted: Wanted,
    ) -> Result<Assignment, CniError> {
        let asked = AssignRequest {
            node_labels: self.view.borrow().node_labels.clone(),
            namespace_labels: labels.clone(),
            handle_id: pod.attachment.handle_id(),
            attributes: pod.attributes(&self.node),
            allowed_use: AllowedUse::Workload,
            wanted,
            now: timestamp(SystemTime::now()),
        };
        match self.addresses.assign(asked).await {
            Some(outcome) => outcome.map_err(|error| self.ipam_error(&error)),
            None => Err(stopping()),
        }
    }

    async fn undo_address(&self, pod: &Identity) {
        let handle = pod.attachment.handle_id();
        let looks = self.look([handle.clone()].into()).await;
        let released = match looks.map(|mut looks| looks.pop()) {
            Ok(Some((handle, held))) => self.release(handle, held).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = released {
            let error = error.msg;
            warn!(
                error,
                handle, "address of a failed ADD is not given back yet; DEL will"
            );
        }
    }

    /// Removes the device of an ADD that failed with `failed`.
    async fn detached(&self, pod: &Identity, failed: CniError) -> CniError {
        if let Err(error) = detach(&pod.attachment, &pod.host_ifname).await {
            warn!(%error, ifname = %pod.host_ifname, "device of a failed ADD is left behind");
        }
        self.detached.notify_one();
        failed
    }

    async fn await_routes(
        &self,
        pod: &Identity,
        made: (u32, Mac),
        addresses: &[IpAddr],
    ) -> Result<(), CniError> {
        tokio::time::timeout(
            ROUTE_PATIENCE,
            self.routes(&pod.host_ifname, Some(made), addresses),
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
        routes: request
            .routes
            .iter()
            .map(|dst| Route::new(*dst, None))
            .collect(),
        ..AddResult::default()
    }
}
