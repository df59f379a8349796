//! From the environment to a node the cluster knows.
//!
//! Everything that can be found wrong is found before anything is written: settings first, then what the datastore
//! says. Order of the writes: pool, default objects, ClusterInformation, what living pods hold if the
//! datastore lacks it, Node, tunnel address, nodename file. The CNI plugin refuses pods
//! until that file exists, so a node that did not start has no pods without a network.

pub mod address;
mod cluster;
mod cluster_facts;
pub mod files;
pub mod host;
mod known_store;
mod missing_pools;
pub mod node_object;
pub mod objects;
mod own_node;
pub mod pool;
pub mod tunnel;
mod waits;
mod write_back;

use tunnel::announcement::Announcement;
pub(crate) use tunnel::chain;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use api::key::{Key, Kind};
use api::params::{Backend, Params};
use api::pool::IPPool;
use datastore::store::{Store, StoreError};
use ipam::Ipam;
use ipnet::IpNet;
use tracing::{debug, warn};

use address::Host;
use known_store::Datastore;
use node_object::NodeError;
pub use waits::Waits;
pub(crate) use waits::What;

use crate::kubernetes::{Kubernetes, KubernetesError};
use crate::own::Own;

/// What start-up found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Node name.
    pub name: String,
    /// The node's IPv4 address with its subnet's prefix length.
    pub ipv4: Option<IpNet>,
    /// The node's IPv6 address with its subnet's prefix length.
    pub ipv6: Option<IpNet>,
    /// BGP Identifier.
    pub router_id: Option<Ipv4Addr>,
}

/// What start-up came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// The node.
    pub identity: Identity,
    /// The datastore was accepted though it lacks what was read before: other nodes may not have written back what they have
    /// there yet.
    pub may_lack_others: bool,
}

/// Why the node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    /// No name from any source.
    #[error(
        "the node has no name: set NODENAME to 1 to 253 lower-case letters, digits, `-` and `.`, with a letter or digit at \
         both ends"
    )]
    NoName,
    /// A name that no Node object can have.
    #[error("the node's name {name:?} {why}; set NODENAME")]
    Name {
        /// As found.
        name: String,
        /// What it must be.
        why: &'static str,
    },
    /// Address, method, router id.
    #[error(transparent)]
    Node(#[from] node_object::NodeError),
    /// The datastore did not do it.
    #[error("datastore {socket}: {doing}")]
    Store {
        /// Where the store is.
        socket: String,
        /// What was to be done.
        doing: &'static str,
        /// Why not.
        #[source]
        source: StoreError,
    },
    /// Kubernetes does not know the node.
    #[error(
        "there is no Kubernetes Node {name:?}: set NODENAME to the name under which kubelet registered this node \
         (in a Pod: fieldRef spec.nodeName), and CALICO_K8S_NODE_REF, if it is set, to that of a Node"
    )]
    NoKubernetesNode {
        /// As looked for.
        name: String,
    },
    /// Kubernetes did not answer.
    #[error("Kubernetes: {doing}")]
    Kubernetes {
        /// What was asked.
        doing: String,
        /// Why not.
        #[source]
        source: KubernetesError,
    },
    /// The range for the default pool holds addresses that are not pods'.
    #[error(transparent)]
    Pool(#[from] pool::OverlapError),
    /// The range for the default pool is not known.
    #[error(transparent)]
    PoolRange(#[from] pool::UnknownRangeError),
    /// An object in the store that start-up needs is not readable.
    #[error("object in the datastore is not valid")]
    Object(#[from] api::object::DecodeError),
    /// A file or directory.
    #[error("{path}: {doing}")]
    File {
        /// Path.
        path: String,
        /// What was to be done.
        doing: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// IPAM gave no tunnel address.
    #[error("no address for the {device} device from pools with that mode: {reason}")]
    Tunnel {
        /// Device.
        device: &'static str,
        /// Why not.
        reason: String,
    },
}

/// Everything start-up works with.
pub struct Startup<'a> {
    /// Settings.
    pub params: &'a Params,
    /// The host.
    pub host: &'a dyn Host,
    /// Objects.
    pub store: Arc<dyn Store>,
    /// Kubernetes, when the node is one of its nodes.
    pub kubernetes: Option<Arc<dyn Kubernetes>>,
    /// What it waits for.
    pub waits: Waits,
}

/// First and longest wait before an unreachable datastore is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// A log line for every so many attempts.
const TELL_EVERY: u32 = 10;
/// How often, and how long apart, a node whose address is another one asks whether the node that had it has left it.
const ADDRESS_ATTEMPTS: u32 = 20;
const ADDRESS_WAIT: Duration = Duration::from_secs(1);

impl Startup<'_> {
    /// Makes the node known. `name` is from [`Params::node_name`], `ipam` that node's.
    pub async fn run(&self, name: String, ipam: &Ipam) -> Result<Started, StartupError> {
        // What needs no datastore is checked before it is waited for.
        check_name(&name)?;
        node_object::check_methods(self.params)?;
        self.wait_for_store().await?;
        let notes = files::notes();
        let datastore = self.wait_for_known_store(&name, &notes).await?;
        self.wait_for_unlock().await?;
        self.waits.over();

        self.check_kubernetes_node(&name).await?;
        let cluster = self.cluster_facts().await?;
        let identity = self.facts_in_the_end(&name, ADDRESS_WAIT).await?;
        let pools = self.missing_pools(&cluster).await?;
        files::make_directories(self.params)?;

        self.write_shared(pools, &cluster.types).await?;
        let mut may_lack_others = false;
        if datastore == Datastore::Accepted {
            let living = self.living().await?;
            let own = Own::load(name.clone(), &notes.own);
            self.write_back(ipam, own, &living).await?;
            may_lack_others = !living.pods.is_empty();
        }
        self.join(&identity, ipam).await?;
        Ok(Started {
            identity,
            may_lack_others,
        })
    }

    /// Makes what is for all nodes.
    async fn write_shared(&self, pools: Vec<IPPool>, types: &[&str]) -> Result<(), StartupError> {
        for pool in pools {
            self.create_pool(pool).await?;
        }
        self.create_defaults().await?;
        self.write_cluster_information(types).await
    }

    /// Makes this node one of the cluster's: its object, its tunnels' addresses, and last the nodename file.
    async fn join(&self, identity: &Identity, ipam: &Ipam) -> Result<(), StartupError> {
        if self.kubernetes.is_none() {
            self.let_pods_reach_the_node(&identity.name).await?;
        }
        if self.params.backend != Backend::None {
            self.write_node(identity).await?;
            // New addresses are named once their devices take packets.
            let said = &mut Announcement::default();
            self.tunnels(ipam, &identity.name, said).await?;
        }
        files::write_nodename(self.params, &identity.name)
    }

    /// Makes a node without pods known, a route reflector: its Node gets its address, nothing else is made.
    pub async fn announce(&self, name: String) -> Result<Identity, StartupError> {
        self.announce_waiting(name, ADDRESS_WAIT).await
    }

    async fn announce_waiting(
        &self,
        name: String,
        wait: Duration,
    ) -> Result<Identity, StartupError> {
        check_name(&name)?;
        node_object::check_methods(self.params)?;
        self.wait_for_store().await?;
        let identity = self.facts_in_the_end(&name, wait).await?;
        self.write_node(&identity).await?;
        Ok(identity)
    }

    /// Looks at the host again and writes the Node if its address or interfaces changed, or what is stored lacks them: what
    /// runs every AUTODETECT_POLL_INTERVAL, and when the Node object changes.
    pub async fn refresh(&self, name: &str) -> Result<(), StartupError> {
        if self.params.backend == Backend::None {
            return Ok(());
        }
        let stored = self.stored_node(name).await?;
        let identity = match self.facts(name, stored.as_ref()).await {
            Err(error @ StartupError::Node(NodeError::Duplicate { .. })) => {
                self.leave_address(name, stored.as_ref()).await?;
                return Err(error);
            }
            facts => facts?,
        };
        self.write_node(&identity).await
    }

    /// Sees to it that the node has the tunnel addresses its pools ask for: what runs when a pool or a device changes.
    pub async fn refresh_tunnels(
        &self,
        name: &str,
        ipam: &Ipam,
        said: &mut Announcement,
    ) -> Result<(), StartupError> {
        if self.params.backend == Backend::None {
            return Ok(());
        }
        self.tunnels(ipam, name, said).await
    }

    async fn tunnels(
        &self,
        ipam: &Ipam,
        name: &str,
        said: &mut Announcement,
    ) -> Result<(), StartupError> {
        if self.params.use_pod_cidr {
            return tunnel::first_of_pod_cidr(&*self.store, name, said).await;
        }
        tunnel::allocate(&*self.store, ipam, name, said).await
    }

    /// Asks for one key until the store answers. Without WAIT_FOR_DATASTORE the first failure ends it.
    async fn wait_for_store(&self) -> Result<(), StartupError> {
        let probe = Key::new(Kind::Node, "foo");
        let mut attempt = 0_u32;
        let mut wait = RETRY.0;
        loop {
            match self.store.get(&probe).await {
                Ok(_) => return Ok(()),
                Err(error @ StoreError::Unavailable(_)) => {
                    if !self.params.wait_for_datastore {
                        return Err(self.failed("reaching it (WAIT_FOR_DATASTORE is not set)")(
                            error,
                        ));
                    }
                    if attempt.is_multiple_of(TELL_EVERY) {
                        warn!(socket = self.socket(), %error, "waiting for the datastore");
                    }
                    let why = format!("waiting for the datastore: {}", chain(&error));
                    self.waits.on(What::Answer, why);
                    attempt += 1;
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY.1);
                }
                // It answers. What is refused here may be allowed where it counts, and is told there.
                Err(error) => {
                    debug!(socket = self.socket(), %error, "asking for a node that is not there");
                    return Ok(());
                }
            }
        }
    }

    fn socket(&self) -> &str {
        self.params.store.as_deref().unwrap_or("(none)")
    }

    fn failed(&self, doing: &'static str) -> impl FnOnce(StoreError) -> StartupError {
        let socket = self.socket().to_owned();
        move |source| StartupError::Store {
            socket,
            doing,
            source,
        }
    }

    async fn create_defaults(&self) -> Result<(), StartupError> {
        for object in objects::defaults() {
            objects::create(&*self.store, object)
                .await
                .map_err(self.failed("creating the default objects"))?;
        }
        Ok(())
    }
}

/// Refuses a name that the other nodes would refuse in the Node object.
fn check_name(name: &str) -> Result<(), StartupError> {
    api::validate::check_object_name(name).map_err(|why| StartupError::Name {
        name: name.to_owned(),
        why,
    })
}

#[cfg(test)]
mod tests;
