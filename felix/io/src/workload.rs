//! A pod's interface pair: made, configured, checked, taken down.
//!
//! ```text
//! begin   host namespace: old link of the name gone, pair made with the pod's end in the pod's
//!         namespace (0.2 ms; moving it there would cost 18), host end up with its settings
//! finish  pod namespace: up, addresses, 169.254.1.1 on link with its MAC, routes via it, then both ends
//!         are waited for: a packet sent before they are operational is lost, and TCP retries after 1 s
//! detach  host end down (its routes vanish at once), marked; `sweep` deletes the marked ones
//!         together, because each single deletion waits 20 ms for the kernel
//! ```
//! The host's end bears no address. It would answer for 169.254.1.1 by proxy ARP; but the pod is given the MAC as a
//! permanent neighbour, because the kernel keeps at most 1,024 others for all namespaces together (`gc_thresh3`): beyond
//! these a pod's first packets were lost.

mod check;
mod pair;
mod routing;
mod threads;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;

use felix::desired::{IfName, Mac};
use ipnet::IpNet;
use tokio::sync::oneshot;

pub use check::check;
pub use threads::Threads;

use pair::Pair;
use threads::Host;

use crate::netlink::decode::Link;
use crate::netlink::socket::Requests;
use crate::netlink::uapi::{AF_UNSPEC, IFF_UP, IFLA_GROUP, RTM_DELLINK, RTM_SETLINK};
use crate::netlink::{link, socket::Failure};
use crate::netns;
use crate::sysctl::SysctlError;

/// MAC of every host end: a pod that keeps its neighbour cache over a migration still finds its node.
pub const HOST_MAC: Mac = felix::ownership::HOST_END_MAC;
/// The pod's IPv4 gateway, answered by proxy ARP.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The longest alias, in octets: `IFALIASZ` of linux/if.h counts the final zero.
pub const ALIAS_MAX: usize = 255;
/// Link group of host ends that wait for deletion.
const DETACHED_GROUP: u32 = 0x746f_7274;

/// The interface pair, before addresses are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairSpec {
    /// Host end (`cali…`), at most 15 bytes.
    pub host_ifname: IfName,
    /// `ip link`'s alias of the host end: whose it is. Empty for none, at most [`ALIAS_MAX`] octets.
    pub alias: String,
    /// What becomes of a pair whose host end has this name.
    pub old_pair: OldPair,
    /// Pod end (CNI_IFNAME), at most 15 bytes; must not exist yet.
    pub pod_ifname: IfName,
    /// MTU of both ends in bytes; `None` leaves the kernel's 1500.
    pub mtu_bytes: Option<u32>,
    /// MAC of the host end, normally [`HOST_MAC`].
    pub host_mac: Mac,
    /// MAC of the pod end; `None` lets the kernel choose.
    pub pod_mac: Option<Mac>,
    /// Transmit and receive queues of both ends. The kernel's default of one per processor costs time and memory per pod.
    pub queues: u32,
    /// Families the host end is prepared for.
    pub families: Families,
}

/// What becomes of a pair that is in a new one's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldPair {
    /// It stays unless it is detached, and the new one is refused: [`WorkloadError::HostInterfaceExists`].
    Keep,
    /// It is deleted.
    Replace,
}

/// Address families of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// IPv4 only.
    V4,
    /// IPv4 and IPv6, or IPv6 alone.
    Dual,
}

/// What is configured inside the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodNetwork {
    /// Addresses, given to the pod as /32 and /128.
    pub addresses: Vec<IpAddr>,
    /// Destinations routed via the host; [`PodNetwork::new`] gives a default route per family.
    pub routes: Vec<IpNet>,
    /// IP forwarding inside the pod.
    pub forwarding: Forwarding,
    /// Where the routes stand.
    pub routing: Routing,
}

/// Where an interface's routes stand inside the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routing {
    /// In the main table: the pod's first interface.
    Main,
    /// In a table of its own, for packets from its addresses: every further interface, so that it leaves the first
    /// one's routes alone.
    BySource,
}

/// IP forwarding inside the pod (`container_settings.allow_ip_forwarding`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// Off, Calico's default.
    Off,
    /// On.
    On,
}

impl PodNetwork {
    /// These addresses, a default route for each of their families in the main table, no forwarding.
    pub fn new(addresses: Vec<IpAddr>) -> Self {
        let any = |v4: bool| addresses.iter().any(|addr| addr.is_ipv4() == v4);
        let mut routes = Vec::new();
        if any(true) {
            routes.push(IpNet::V4(ipnet::Ipv4Net::default()));
        }
        if any(false) {
            routes.push(IpNet::V6(ipnet::Ipv6Net::default()));
        }
        Self {
            addresses,
            routes,
            forwarding: Forwarding::Off,
            routing: Routing::Main,
        }
    }
}

/// A pair that is ready: both ends operational.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Host end.
    pub host_ifname: IfName,
    /// Index of the host end.
    pub host_ifindex: u32,
    /// MAC of the host end.
    pub host_mac: Mac,
    /// Pod end.
    pub pod_ifname: IfName,
    /// MAC of the pod end.
    pub pod_mac: Mac,
    /// MTU of the pod end, bytes.
    pub mtu_bytes: u32,
}

/// Why a pod could not be attached, checked or detached. Nothing half-made is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// A device name the kernel cannot take.
    #[error(
        "interface name `{0}` is not valid: 1 to 15 bytes without `/`, `:` or white space are \
         allowed"
    )]
    Name(IfName),
    /// An MTU that IPv6 cannot have (RFC 8200 §5).
    #[error(
        "the MTU of interface `{ifname}` would be {mtu_bytes}, and one with an IPv6 address needs at least 1280: it is the smallest \
         of the node's tunnels, or the network configuration's `mtu`"
    )]
    MtuTooSmall {
        /// The pod's end.
        ifname: IfName,
        /// Octets.
        mtu_bytes: u32,
    },
    /// The descriptor is not a network namespace that can be entered.
    #[error("the pod's network namespace (CNI_NETNS) cannot be entered")]
    Namespace(#[source] io::Error),
    /// The descriptor is the agent's own namespace.
    #[error("the pod's network namespace (CNI_NETNS) is the host's own")]
    HostNamespace,
    /// The host has a pair of the name, and it was not to be replaced.
    #[error("the host has an interface `{ifname}` already")]
    HostInterfaceExists {
        /// Name.
        ifname: IfName,
        /// Whose it is; empty when it does not say.
        alias: String,
    },
    /// The pod has such an interface already.
    #[error("the pod already has an interface `{0}` (CNI_IFNAME)")]
    PodInterfaceExists(IfName),
    /// The host has a device of the name that is not a pod's.
    #[error("the host's interface `{ifname}` is in the way: its kind is {kind}, not veth")]
    ForeignLink {
        /// Name.
        ifname: IfName,
        /// Kind.
        kind: String,
    },
    /// The kernel refused a step.
    #[error("cannot {doing}: {text} (errno {errno})")]
    Kernel {
        /// The step, with its object.
        doing: String,
        /// errno, positive.
        errno: i32,
        /// The kernel's words.
        text: String,
    },
    /// A sysctl could not be written.
    #[error("cannot prepare interface `{ifname}`")]
    Sysctl {
        /// Interface.
        ifname: IfName,
        /// Cause.
        #[source]
        source: SysctlError,
    },
    /// An end did not become operational.
    #[error("interface `{ifname}` is not operationally up after {waited_ms} ms")]
    NotOperational {
        /// Interface.
        ifname: IfName,
        /// How long it was waited for.
        waited_ms: u128,
    },
    /// CNI CHECK: something is not as ADD left it.
    #[error("{0}")]
    Differs(String),
    /// No thread could be made, or it died.
    #[error("no thread for the pod's namespace")]
    Thread(#[source] io::Error),
}

impl WorkloadError {
    /// From a request the kernel refused.
    fn kernel(doing: String) -> impl FnOnce(Failure) -> Self {
        move |failure| Self::Kernel {
            doing,
            errno: failure.errno,
            text: failure.text,
        }
    }
}

/// A pair whose addresses are still being decided. Dropping it removes the pair.
#[derive(Debug)]
pub struct Attachment {
    threads: Threads,
    /// None once it is configured or removed.
    pair: Option<Pair>,
    /// Of the host end, for the endpoint's record.
    pub host_ifindex: u32,
    /// MAC of the pod end, for the endpoint's record.
    pub pod_mac: Mac,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let Some(pair) = self.pair.take() else {
            return;
        };
        let removed = self.threads.submit(Box::new(move |host| pair.undo(host)));
        if let Err(error) = removed {
            tracing::warn!(%error, "no thread to remove a pod's interface with: it is left over");
        }
    }
}

impl Attachment {
    /// Makes the pair. The host's namespace is that of the threads.
    ///
    /// # Errors
    /// Any of [`WorkloadError`]; nothing is left then.
    pub async fn begin(
        threads: &Threads,
        netns: OwnedFd,
        spec: PairSpec,
    ) -> Result<Self, WorkloadError> {
        let own = threads.clone();
        let made = threads.run(move |host| {
            let pair = Pair::make(host, netns, spec)?;
            // If nobody waits for it any more, it is dropped, and removed.
            Ok(Self {
                threads: own,
                host_ifindex: pair.host_ifindex(),
                pod_mac: pair.pod_mac(),
                pair: Some(pair),
            })
        });
        made.await
    }

    /// Removes the pair and waits until it is gone, so that another one of the name can be made without being taken
    /// for this one.
    pub async fn abandon(mut self) {
        let Some(pair) = self.pair.take() else {
            return;
        };
        let removed = self.threads.run(move |host| {
            pair.undo(host);
            Ok(())
        });
        if let Err(error) = removed.await {
            tracing::warn!(%error, "no thread to remove a pod's interface with: it is left over");
        }
    }

    /// Configures the pod and waits until both ends are operational.
    ///
    /// # Errors
    /// Any of [`WorkloadError`]; the pair is removed then.
    pub async fn finish(mut self, network: PodNetwork) -> Result<Attached, WorkloadError> {
        let Some(pair) = self.pair.take() else {
            unreachable!("only what consumes the attachment takes the pair");
        };
        let (reply, answer) = oneshot::channel();
        let job = move |host: &mut Host<'_>| {
            let done = pair.configure(host, &network);
            let failed = done.is_err();
            // Before the error is told: whoever hears of it may make another one of the name.
            if failed {
                pair.undo(host);
            }
            if reply.send(done).is_err() && !failed {
                pair.undo(host);
            }
        };
        self.threads
            .submit(Box::new(job))
            .map_err(WorkloadError::Thread)?;
        answer
            .await
            .map_err(|_| WorkloadError::Thread(io::Error::other("it panicked")))?
    }
}

/// Makes and configures a pair in one go, on a thread of its own. The host's namespace is that of the calling thread.
///
/// # Errors
/// Any of [`WorkloadError`]; nothing is left then.
pub async fn attach(
    netns: OwnedFd,
    spec: PairSpec,
    network: PodNetwork,
) -> Result<Attached, WorkloadError> {
    let threads = Threads::open().map_err(WorkloadError::Thread)?;
    Attachment::begin(&threads, netns, spec)
        .await?
        .finish(network)
        .await
}

/// Takes a pod's host end down, so that its routes vanish, and marks it for [`sweep`]. No such
/// device is success: it went with the pod's namespace.
///
/// # Errors
/// The kernel refused, or the device is not a pod's.
pub async fn detach(host_ifname: IfName) -> Result<(), WorkloadError> {
    netns::on_thread("felix-detach", move || {
        detach_now(&mut requests()?, &host_ifname, None)
    })
    .await
    .map_err(WorkloadError::Thread)?
}

/// As [`detach`], but a host end that bears another alias than this one stays: it is somebody else's.
///
/// # Errors
/// The kernel refused, or the device is not a pod's.
pub async fn detach_own(
    threads: &Threads,
    host_ifname: IfName,
    alias: String,
) -> Result<(), WorkloadError> {
    let done = threads.run(move |host| detach_now(host.requests()?, &host_ifname, Some(&alias)));
    done.await
}

impl Link {
    /// Whether it is a host end that waits for deletion.
    const fn is_detached(&self) -> bool {
        self.group == DETACHED_GROUP
    }
}

fn detach_now(
    host: &mut Requests,
    host_ifname: &IfName,
    own_alias: Option<&str>,
) -> Result<(), WorkloadError> {
    let doing = || format!("take interface `{host_ifname}` down");
    let Some(found) = pair::find_veth(host, host_ifname)? else {
        return Ok(());
    };
    if own_alias.is_some_and(|own| !found.alias.is_empty() && found.alias != own) {
        return Ok(());
    }
    let answer = host.request(RTM_SETLINK, 0, |writer| {
        writer.ifinfo(AF_UNSPEC, found.state.ifindex, 0, IFF_UP);
        writer.attr_u32(IFLA_GROUP, DETACHED_GROUP);
    });
    match answer {
        Err(failure) if failure.errno == libc::ENODEV => Ok(()),
        answer => answer.map_err(WorkloadError::kernel(doing())),
    }
}

/// A pod's host end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostEnd {
    /// Its name.
    pub ifname: IfName,
    /// Whose it is; empty when it does not say.
    pub alias: String,
    /// Whether it is administratively up: one that is not, without an alias, was never finished.
    pub admin_up: bool,
}

/// The pods' host ends that are not detached: interface pairs whose name begins with `prefix`.
///
/// # Errors
/// The kernel refused.
pub async fn host_ends(prefix: String) -> Result<Vec<HostEnd>, WorkloadError> {
    netns::on_thread("felix-list", move || {
        let mut host = requests()?;
        let doing = "list the pods' interfaces".to_owned();
        let links = link::list(&mut host).map_err(WorkloadError::kernel(doing))?;
        Ok(links
            .into_iter()
            .filter(|link| {
                link.state.kind.as_deref() == Some("veth")
                    && !link.is_detached()
                    && link.state.ifname.0.starts_with(&prefix)
            })
            .map(|link| HostEnd {
                ifname: link.state.ifname,
                alias: link.alias,
                admin_up: link.admin_up,
            })
            .collect())
    })
    .await
    .map_err(WorkloadError::Thread)?
}

/// Deletes all detached host ends that did not go with their pods' namespaces, in one operation;
/// how many there were. To be called soon after [`detach`] and at the start, off any hot path: it
/// waits for the kernel.
///
/// # Errors
/// The kernel refused.
pub async fn sweep() -> Result<usize, WorkloadError> {
    netns::on_thread("felix-sweep", sweep_now)
        .await
        .map_err(WorkloadError::Thread)?
}

fn sweep_now() -> Result<usize, WorkloadError> {
    let doing = || "delete the interfaces of pods that are gone".to_owned();
    let mut host = requests()?;
    let links = link::list(&mut host).map_err(WorkloadError::kernel(doing()))?;
    let detached = links.iter().filter(|link| link.is_detached()).count();
    if detached == 0 {
        return Ok(0);
    }
    let answer = host.request(RTM_DELLINK, 0, |writer| {
        writer.ifinfo(AF_UNSPEC, 0, 0, 0);
        writer.attr_u32(IFLA_GROUP, DETACHED_GROUP);
    });
    match answer {
        Err(failure) if failure.errno == libc::ENODEV => Ok(0),
        answer => answer
            .map_err(WorkloadError::kernel(doing()))
            .map(|()| detached),
    }
}

/// A request socket in the calling thread's namespace.
fn requests() -> Result<Requests, WorkloadError> {
    Requests::open()
        .map_err(|error| WorkloadError::kernel("open a netlink socket".to_owned())(error.into()))
}
