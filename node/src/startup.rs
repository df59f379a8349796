//! From the environment to a node the cluster knows.
//!
//! Everything that can be found wrong is found before anything is written: settings first, then what the datastore
//! says. Order of the writes: pool, default objects, Node, tunnel address, nodename file. The CNI plugin refuses pods
//! until that file exists, so a node that did not start has no pods without a network.

pub mod address;
pub mod files;
pub mod host;
pub mod node_object;
pub mod objects;
pub mod pool;
mod tunnel;

pub(crate) use tunnel::chain;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use api::key::{Key, Kind};
use api::node::Node;
use api::object::Object;
use api::params::{Backend, Params};
use api::pool::IPPool;
use datastore::store::{Store, StoreError};
use ipnet::IpNet;
use tracing::{info, warn};

use address::Host;

/// What start-up found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Node name.
    pub name: String,
    /// The node's IPv4 address with its subnet's prefix length.
    pub ipv4: Option<IpNet>,
    /// BGP Identifier.
    pub router_id: Option<Ipv4Addr>,
}

/// Why the node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    /// No name from any source.
    #[error("the node has no name: set NODENAME to 1 to 253 letters, digits, `-`, `_` and `.`")]
    NoName,
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
    /// The range for the default pool holds addresses that are not pods'.
    #[error(transparent)]
    Pool(#[from] pool::OverlapError),
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
}

/// First and longest wait before an unreachable datastore is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// A log line for every so many attempts.
const TELL_EVERY: u32 = 10;

impl Startup<'_> {
    /// Makes the node known. `name` is from [`Params::node_name`].
    pub async fn run(&self, name: String) -> Result<Identity, StartupError> {
        // Settings that need no datastore are judged before it is waited for.
        address::Method::parse(&self.params.ip_autodetection_method)
            .map_err(node_object::NodeError::from)?;
        self.wait_for_store().await?;

        let stored = self.stored_node(&name).await?;
        let facts = self.facts(&name, stored.as_ref()).await?;
        let pool = self.missing_pool().await?;
        files::make_directories(self.params)?;

        if let Some(pool) = pool {
            self.create_pool(pool).await?;
        }
        self.create_defaults().await?;
        if self.params.backend != Backend::None {
            self.write_node(&name, facts.0).await?;
            tunnel::allocate(&self.store, &name).await?;
        }
        files::write_nodename(self.params, &name)?;
        Ok(Identity {
            name,
            ipv4: facts.0,
            router_id: facts.1,
        })
    }

    /// Makes a node without pods known, a route reflector: its Node gets its address, nothing else is made.
    pub async fn announce(&self, name: String) -> Result<Identity, StartupError> {
        address::Method::parse(&self.params.ip_autodetection_method)
            .map_err(node_object::NodeError::from)?;
        self.wait_for_store().await?;
        let stored = self.stored_node(&name).await?;
        let (ipv4, router_id) = self.facts(&name, stored.as_ref()).await?;
        self.write_node(&name, ipv4).await?;
        Ok(Identity {
            name,
            ipv4,
            router_id,
        })
    }

    /// Looks at the host again and writes the Node if its address or interfaces changed: what runs every
    /// AUTODETECT_POLL_INTERVAL.
    pub async fn refresh(&self, name: &str) -> Result<(), StartupError> {
        if self.params.backend == Backend::None {
            return Ok(());
        }
        let stored = self.stored_node(name).await?;
        let (ipv4, _) = self.facts(name, stored.as_ref()).await?;
        self.write_node(name, ipv4).await
    }

    /// Sees to it that the node has the tunnel addresses its pools ask for: what runs when a pool changes.
    pub async fn refresh_tunnels(&self, name: &str) -> Result<(), StartupError> {
        if self.params.backend == Backend::None {
            return Ok(());
        }
        tunnel::allocate(&self.store, name).await
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
                    attempt += 1;
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY.1);
                }
                Err(error) => return Err(self.failed("asking it for a node")(error)),
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

    /// The pools, and how many more cannot be read.
    async fn pools(&self) -> Result<(Vec<IPPool>, usize), StartupError> {
        let listing = self
            .store
            .list(&[Kind::IPPool])
            .await
            .map_err(self.failed("listing the pools"))?;
        let mut pools = Vec::new();
        let mut unreadable = 0;
        for item in &listing.items {
            match Object::decode(&item.key, &item.value) {
                Ok(Object::IPPool(pool)) => pools.push(pool),
                Ok(_) => {}
                Err(error) => {
                    warn!(%error, "pool is not valid; no default pool is made");
                    unreadable += 1;
                }
            }
        }
        Ok((pools, unreadable))
    }

    async fn stored_node(&self, name: &str) -> Result<Option<Node>, StartupError> {
        let key = Key::new(Kind::Node, name);
        let stored = self
            .store
            .get(&key)
            .await
            .map_err(self.failed("reading this node"))?;
        let Some(stored) = stored else {
            return Ok(None);
        };
        match Object::decode(&key, &stored.value)? {
            Object::Node(node) => Ok(Some(node)),
            _ => Ok(None),
        }
    }

    /// Address and router id.
    async fn facts(
        &self,
        name: &str,
        stored: Option<&Node>,
    ) -> Result<(Option<IpNet>, Option<Ipv4Addr>), StartupError> {
        if self.params.backend == Backend::None {
            return Ok((None, None));
        }
        let before = stored
            .and_then(|node| node.spec.bgp.as_ref())
            .and_then(|bgp| bgp.ipv4_address);
        let (ipv4, warning) = node_object::ipv4_address(self.params, before, self.host)?;
        if let Some(warning) = warning {
            warn!(reason = warning, "node address");
        }
        if ipv4.is_none() {
            return Err(node_object::NodeError::NoAddress {
                ip: "none".to_owned(),
                backend: if self.params.backend == Backend::Bgp {
                    "bird"
                } else {
                    "vxlan"
                },
            }
            .into());
        }
        if ipv4 != before && !self.params.disable_node_ip_check {
            let nodes = self.nodes().await?;
            node_object::check_duplicate(name, ipv4, &nodes)?;
        }
        let router_id = node_object::router_id(self.params.router_id, name, ipv4)?;
        Ok((ipv4, Some(router_id)))
    }

    async fn nodes(&self) -> Result<Vec<Node>, StartupError> {
        let listing = self
            .store
            .list(&[Kind::Node])
            .await
            .map_err(self.failed("listing the nodes"))?;
        Ok(listing
            .items
            .iter()
            .filter_map(|item| match Object::decode(&item.key, &item.value) {
                Ok(Object::Node(node)) => Some(node),
                Ok(_) | Err(_) => None,
            })
            .collect())
    }

    /// The default pool, when there is none and one is wanted.
    async fn missing_pool(&self) -> Result<Option<IPPool>, StartupError> {
        match self.pools().await? {
            (pools, 0) => self.wanted_pool(&pools),
            // A pool that cannot be read is a pool all the same: none must be made beside it.
            (_, _) => Ok(None),
        }
    }

    /// The default pool, when no IPv4 pool exists.
    fn wanted_pool(&self, pools: &[IPPool]) -> Result<Option<IPPool>, StartupError> {
        let Some(wanted) = pool::default_pool(self.params, self.host) else {
            return Ok(None);
        };
        let existing: Vec<String> = pools
            .iter()
            .filter(|pool| matches!(pool.spec.cidr, IpNet::V4(_)))
            .map(|pool| format!("{} {}", pool.metadata.name, pool.spec.cidr))
            .collect();
        let asked = matches!(self.params.pool_cidr, api::params::PoolCidr::Cidr(_));
        if existing.is_empty() {
            if asked {
                pool::check_host_addresses(wanted.spec.cidr, self.host)?;
            }
            return Ok(Some(wanted));
        }
        let same = pools.iter().any(|pool| pool.spec.cidr == wanted.spec.cidr);
        if asked && !same {
            warn!(
                cidr = %wanted.spec.cidr,
                pools = existing.join(", "),
                "CALICO_IPV4POOL_CIDR is ignored: IPv4 pools exist"
            );
        }
        Ok(None)
    }

    async fn create_pool(&self, pool: IPPool) -> Result<(), StartupError> {
        let (name, cidr) = (pool.metadata.name.clone(), pool.spec.cidr);
        let made = objects::create(&*self.store, Object::IPPool(pool))
            .await
            .map_err(self.failed("creating the default pool"))?;
        if made {
            info!(pool = name, %cidr, "default pool created");
        }
        Ok(())
    }

    async fn create_defaults(&self) -> Result<(), StartupError> {
        for object in objects::defaults() {
            objects::create(&*self.store, object)
                .await
                .map_err(self.failed("creating the default objects"))?;
        }
        Ok(())
    }

    /// Writes the Node if it changed, from what is stored at that moment.
    async fn write_node(&self, name: &str, ipv4: Option<IpNet>) -> Result<(), StartupError> {
        let interfaces = address::listed_interfaces(self.host);
        let as_number = self.params.as_number;
        let changed = objects::update(&*self.store, &Key::new(Kind::Node, name), |stored| {
            let stored = match stored {
                Some(Object::Node(node)) => Some(node),
                _ => None,
            };
            Object::Node(node_object::with_facts(
                stored,
                name,
                ipv4,
                as_number,
                interfaces.clone(),
            ))
        })
        .await
        .map_err(self.failed("writing this node"))?;
        if changed {
            info!(
                node = name,
                address = ipv4.map(tracing::field::display),
                "node written"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use datastore::memory::MemoryStore;
    use datastore::store::{Expect, Op};

    use super::address::{Family, HostInterface};
    use super::*;

    /// A host with these interfaces.
    pub(super) struct Fake(pub(super) Vec<HostInterface>);

    impl Host for Fake {
        fn interfaces(&self) -> &[HostInterface] {
            &self.0
        }

        fn source_towards(&self, _: &str, _: Family) -> Option<std::net::IpAddr> {
            None
        }
    }

    /// What start-up makes of these variables and of a pool in the store with this text.
    async fn pool_made(variables: &[(&str, &str)], stored: Option<&str>) -> Option<IpNet> {
        let host = Fake(vec![HostInterface {
            name: "eth0".to_owned(),
            ifindex: 2,
            addresses: vec!["10.10.1.11/24".parse().unwrap()],
        }]);
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let params = Params::from_env(variables.iter().map(owned)).unwrap();
        let store = Arc::new(MemoryStore::new());
        if let Some(text) = stored {
            let put = Op::Put {
                key: Key::new(Kind::IPPool, "mine"),
                value: text.to_owned().into(),
                expect: Expect::Absent,
            };
            store.transact(vec![put]).await.unwrap();
        }
        let startup = Startup {
            params: &params,
            host: &host,
            store,
        };
        startup
            .missing_pool()
            .await
            .unwrap()
            .map(|pool| pool.spec.cidr)
    }

    #[tokio::test]
    async fn no_pool_is_made_beside_another_whether_they_overlap_or_it_cannot_be_read() {
        let asked = [("CALICO_IPV4POOL_CIDR", "192.168.0.0/16")];
        let expected = Some("192.168.0.0/16".parse().unwrap());
        assert_eq!(pool_made(&asked, None).await, expected);
        for stored in [
            r#"{"metadata":{"name":"mine"},"spec":{"cidr":"192.168.128.0/17"}}"#,
            r#"{"metadata":{"name":"mine"},"spec":{"cidr":"192.168.0.0/16"}}"#,
            r#"{"metadata":{"name":"mine"},"spec":{"cidr":"172.16.0.0/16"}}"#,
            r#"{"metadata":{"name":"mine"},"spec":{"cidr":"nonsense"}}"#,
            "no object at all",
        ] {
            assert_eq!(pool_made(&asked, Some(stored)).await, None, "{stored}");
        }
        let ipv6 = r#"{"metadata":{"name":"mine"},"spec":{"cidr":"fd00:10::/64"}}"#;
        assert_eq!(pool_made(&asked, Some(ipv6)).await, expected);
    }
}
