//! CNI ADD: an address, a pair, an endpoint and a route.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime};

use api::attachment::AttachmentId;
use api::pool::AllowedUse;
use cni::protocol::Request;
use cni::spec::error::{CniError, Code};
use cni::spec::result::{AddResult, Interface, IpConfig, Route};
use datastore::store::{Change, Expect, StoreError};
use felix::calc::BlocksFrom;
use felix::desired::{IfName, Mac};
use felix_io::workload::{
    ALIAS_MAX, Attached, Attachment, Families, Forwarding, HOST_MAC, OldPair, PairSpec,
    WorkloadError,
};
use ipam::{Accompanied, AssignRequest, Assignment, Companion, Wanted};
use ipnet::IpNet;
use tracing::{debug, warn};

use super::Pods;
use super::endpoint::{Identity, Record};
use super::error::{kernel_error, stopping, store_error};
use super::record::Found;
use super::wishes::NamespaceLabels;
use crate::task::timestamp;

/// How long ADD waits for the route.
const ROUTE_PATIENCE: Duration = Duration::from_secs(10);

/// How the endpoint's record comes into the store.
pub(super) enum Recording {
    /// It is there: it was written with the address.
    Written,
    /// It is to be written over this.
    Apart(Expect),
}

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
        let early = self.early_mac(request, &pod);
        let standing = async {
            match early {
                Some(_) => Ok(None),
                None => self.standing(&pod).await.map(Some),
            }
        };
        // Both take their time and neither needs the other.
        let begun = tokio::join!(
            timed(
                container,
                "address",
                self.assign_for(request, &pod, labels, early)
            ),
            timed(container, "pair", self.begin(request, &pod, (netns, early))),
            timed(container, "look", standing),
        );
        let ((assignment, recording), attachment, standing) = match begun {
            (Ok(assigned), attachment, standing) => (assigned, attachment, standing),
            (Err(error), Ok(attachment), _) => {
                attachment.abandon().await;
                return Err(error);
            }
            (Err(error), Err(_), _) => return Err(error),
        };
        let is_written = matches!(recording, Some(Recording::Written));
        let recording = match (recording, standing) {
            (Some(recording), _) => Ok(recording),
            (None, Ok(standing)) => Ok(Recording::Apart(standing.unwrap_or(Expect::Absent))),
            (None, Err(error)) => Err(error),
        };
        let connected = match (attachment, recording) {
            (Ok(attachment), Ok(recording)) => {
                let begun = (attachment, recording);
                self.connect(request, &pod, &assignment, begun).await
            }
            (attachment, recording) => {
                let failed = match (attachment, recording) {
                    (Ok(attachment), Err(error)) => {
                        attachment.abandon().await;
                        error
                    }
                    (Err(error), _) => error,
                    (Ok(_), Ok(_)) => unreachable!("matched above"),
                };
                if is_written {
                    self.undo_endpoint(&pod).await;
                }
                Err(failed)
            }
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

    /// The MAC that the pod's end is given when its endpoint can be written together with its address: where the store does plans as a
    /// whole, and nothing is known to stand in the endpoint's place. Otherwise the kernel chooses one.
    pub(super) fn early_mac(&self, request: &Request, pod: &Identity) -> Option<Mac> {
        let is_given = !request.given.is_empty() || request.ip.is_some() || !request.ips.is_empty();
        if is_given || !self.store.folds() || !self.seems_absent(pod) {
            return None;
        }
        Some(request.mac.map_or_else(|| pod.pod_mac(), Mac))
    }

    /// Addresses, and with a MAC the endpoint's record in the same transaction; `None` of it where it was not asked for.
    pub(super) async fn assign_for(
        &self,
        request: &Request,
        pod: &Identity,
        labels: &NamespaceLabels,
        early: Option<Mac>,
    ) -> Result<(Assignment, Option<Recording>), CniError> {
        let Some(mac) = early else {
            return Ok((self.assign(request, pod, labels).await?, None));
        };
        self.may_assign()?;
        let (of, node) = (pod.clone(), self.node.clone());
        let compose = move |addresses: &[IpNet]| of.endpoint(&node, addresses, mac);
        let companion = Companion::put(pod.key.clone(), Expect::Absent, Box::new(compose));
        let asked = self.asked(pod, labels, any_of(request));
        let (given, became) = self.ask_assign(asked, Some(companion)).await?;
        let recording = match became {
            Accompanied::Done(change) => {
                if let Change::Put(stored) = change {
                    self.note_written(stored);
                }
                Recording::Written
            }
            // One that cannot be read is nobody's.
            Accompanied::Refused(stands) => match stands.clone().and_then(Record::read) {
                None => Recording::Apart(Expect::standing(stands.map(|found| found.version))),
                Some(_) => {
                    if !given.existing {
                        self.undo_address(pod).await;
                    }
                    return Err(store_error(&StoreError::Conflict {
                        key: pod.key.clone(),
                        current: stands.map(Box::new),
                    }));
                }
            },
            Accompanied::None => Recording::Apart(Expect::Absent),
        };
        Ok((given, Some(recording)))
    }

    /// Makes the pair. One of its name is replaced if it is an earlier one of the same attachment or of the pod's former
    /// container, or nobody's.
    async fn begin(
        &self,
        request: &Request,
        pod: &Identity,
        (netns, mac): (OwnedFd, Option<Mac>),
    ) -> Result<Attachment, CniError> {
        let cannot = |error: WorkloadError| kernel_error(&error);
        let mut pair = self.pair(request, pod);
        pair.pod_mac = mac.or(pair.pod_mac);
        let again = netns
            .try_clone()
            .map_err(|error| cannot(WorkloadError::Namespace(error)))?;
        let old = match Attachment::begin(&self.threads, netns, pair.clone()).await {
            Err(WorkloadError::HostInterfaceExists { alias, .. }) => alias,
            begun => return begun.map_err(cannot),
        };
        let own = &pod.attachment;
        let found = match mac {
            // Nothing stood there, and what does now is this ADD's own.
            Some(_) => Found::Nothing,
            None => self.find(pod).await?,
        };
        let other_network = match found {
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
        Attachment::begin(&self.threads, again, PairSpec { old_pair, ..pair })
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
        (attachment, recording): (Attachment, Recording),
    ) -> Result<Attached, CniError> {
        let addresses: Vec<IpAddr> = assignment.addresses.iter().map(IpNet::addr).collect();
        let mut network = pod.network(addresses.clone());
        if !request.routes.is_empty() {
            network.routes.clone_from(&request.routes);
        }
        if request.allow_ip_forwarding {
            network.forwarding = Forwarding::On;
        }
        let pod_mac = attachment.pod_mac;
        let record = async {
            match recording {
                Recording::Written => Ok(()),
                Recording::Apart(standing) => {
                    let object = pod.endpoint(&self.node, &assignment.addresses, pod_mac);
                    self.write_endpoint(object, standing).await
                }
            }
        };
        let made = (attachment.host_ifindex, attachment.pod_mac);
        let container = request.container_id.as_str();
        let (attached, written) = tokio::join!(
            timed(container, "pod", attachment.finish(network)),
            timed(container, "endpoint", record)
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
        self.undo_endpoint(pod).await;
        Err(failed)
    }

    async fn undo_endpoint(&self, pod: &Identity) {
        let undone = match self.find(pod).await {
            Ok(Found::Own(record)) => self
                .delete_record(&record)
                .await
                .map_err(|error| store_error(&error)),
            Ok(Found::Others(_) | Found::Nothing) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = undone {
            let error = error.msg;
            warn!(error, endpoint = %pod.key, "endpoint of a failed ADD is left behind; DEL will delete it");
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
        self.may_assign()?;
        let explicit = match request.ip {
            Some(address) => vec![address],
            None => request.ips.clone(),
        };
        if explicit.is_empty() {
            return self.assign_wanted(pod, labels, any_of(request)).await;
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

    fn may_assign(&self) -> Result<(), CniError> {
        if self.settings.blocks_from == BlocksFrom::PodCidrs {
            return Err(CniError::new(
                Code::INVALID_CONFIG,
                "ipam.type: \"calico-ipam\" gives out no addresses where USE_POD_CIDR is set; allowed: host-local with \
                 the subnet \"usePodCidr\"",
            ));
        }
        Ok(())
    }

    fn asked(&self, pod: &Identity, labels: &NamespaceLabels, wanted: Wanted) -> AssignRequest {
        AssignRequest {
            node_labels: self.view.borrow().node_labels.clone(),
            namespace_labels: labels.clone(),
            handle_id: pod.attachment.handle_id(),
            attributes: pod.attributes(&self.node),
            allowed_use: AllowedUse::Workload,
            wanted,
            now: timestamp(SystemTime::now()),
        }
    }

    async fn ask_assign(
        &self,
        asked: AssignRequest,
        companion: Option<Companion>,
    ) -> Result<(Assignment, Accompanied), CniError> {
        match self.addresses.assign(asked, companion).await {
            Some(outcome) => outcome.map_err(|error| self.ipam_error(&error)),
            None => Err(stopping()),
        }
    }

    async fn assign_wanted(
        &self,
        pod: &Identity,
        labels: &NamespaceLabels,
        wanted: Wanted,
    ) -> Result<Assignment, CniError> {
        let asked = self.asked(pod, labels, wanted);
        Ok(self.ask_assign(asked, None).await?.0)
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
        if let Err(error) = self.detach(&pod.attachment, &pod.host_ifname).await {
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

/// As many addresses of each family as the configuration says, from its pools.
fn any_of(request: &Request) -> Wanted {
    Wanted::Any {
        ipv4: usize::from(request.ipam.assign_ipv4),
        ipv6: usize::from(request.ipam.assign_ipv6),
        pools: [&request.ipam.ipv4_pools[..], &request.ipam.ipv6_pools[..]].concat(),
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
