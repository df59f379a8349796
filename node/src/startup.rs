//! From the environment to a node the cluster knows.
//!
//! Everything that can be found wrong is found before anything is written: settings first, then what the datastore
//! says. Order of the writes: pool, default objects, ClusterInformation, Node, tunnel address, nodename file. The CNI plugin refuses pods
//! until that file exists, so a node that did not start has no pods without a network.

pub mod address;
mod cluster;
pub mod files;
pub mod host;
mod known_store;
pub mod node_object;
pub mod objects;
pub mod pool;
mod tunnel;

pub(crate) use tunnel::chain;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::key::{Key, Kind};
use api::node::Node;
use api::object::Object;
use api::params::{Backend, Params};
use api::pool::IPPool;
use datastore::scope::Scope;
use datastore::store::{Store, StoreError};
use ipnet::IpNet;
use tracing::{info, warn};

use address::Host;
use node_object::NodeError;

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
/// How often, and how long apart, a node whose address is another one asks whether the node that had it has left it.
const ADDRESS_ATTEMPTS: u32 = 20;
const ADDRESS_WAIT: Duration = Duration::from_secs(1);

impl Startup<'_> {
    /// Makes the node known. `name` is from [`Params::node_name`].
    pub async fn run(&self, name: String) -> Result<Identity, StartupError> {
        // What needs no datastore is checked before it is waited for.
        check_name(&name)?;
        address::Method::parse(&self.params.ip_autodetection_method)
            .map_err(node_object::NodeError::from)?;
        self.wait_for_store().await?;
        self.wait_for_known_store(&files::read_file()).await?;
        self.wait_for_unlock().await?;

        let facts = self.facts_in_the_end(&name, ADDRESS_WAIT).await?;
        let pool = self.missing_pool().await?;
        files::make_directories(self.params)?;

        if let Some(pool) = pool {
            self.create_pool(pool).await?;
        }
        self.create_defaults().await?;
        self.write_cluster_information().await?;
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
        self.announce_waiting(name, ADDRESS_WAIT).await
    }

    async fn announce_waiting(
        &self,
        name: String,
        wait: Duration,
    ) -> Result<Identity, StartupError> {
        check_name(&name)?;
        address::Method::parse(&self.params.ip_autodetection_method)
            .map_err(node_object::NodeError::from)?;
        self.wait_for_store().await?;
        let (ipv4, router_id) = self.facts_in_the_end(&name, wait).await?;
        self.write_node(&name, ipv4).await?;
        Ok(Identity {
            name,
            ipv4,
            router_id,
        })
    }

    /// Looks at the host again and writes the Node if its address or interfaces changed, or what is stored lacks them: what
    /// runs every AUTODETECT_POLL_INTERVAL, and when the Node object changes.
    pub async fn refresh(&self, name: &str) -> Result<(), StartupError> {
        if self.params.backend == Backend::None {
            return Ok(());
        }
        let stored = self.stored_node(name).await?;
        let (ipv4, _) = match self.facts(name, stored.as_ref()).await {
            Err(error @ StartupError::Node(NodeError::Duplicate { .. })) => {
                self.leave_address(name, stored.as_ref()).await?;
                return Err(error);
            }
            facts => facts?,
        };
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
            .list(Kind::IPPool, &Scope::All)
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

    /// Address and router id. Where this node's address has changed and another Node still has the new one, the other may
    /// have moved as well: the old address is left to whoever has it now, and the new one is waited for.
    async fn facts_in_the_end(&self, name: &str, wait: Duration) -> Result<Facts, StartupError> {
        let mut attempts = 0;
        loop {
            let stored = self.stored_node(name).await?;
            let error = match self.facts(name, stored.as_ref()).await {
                Err(StartupError::Node(error @ NodeError::Duplicate { .. })) => error,
                facts => return facts,
            };
            let moved = self.leave_address(name, stored.as_ref()).await?;
            if !(moved || attempts > 0) || attempts == ADDRESS_ATTEMPTS {
                return Err(error.into());
            }
            if attempts == 0 {
                warn!(%error, "waiting for the other node to leave the address");
            }
            attempts += 1;
            tokio::time::sleep(wait).await;
        }
    }

    /// Takes the stored address out of this node's object if it is on none of the host's interfaces; whether it was so.
    async fn leave_address(&self, name: &str, stored: Option<&Node>) -> Result<bool, StartupError> {
        let Some(address) = stored.and_then(address_of) else {
            return Ok(false);
        };
        if node_object::is_local(address.addr(), self.host) {
            return Ok(false);
        }
        let key = Key::new(Kind::Node, name);
        objects::change(&*self.store, &key, |stored| match stored {
            Object::Node(node) if address_of(&node) == Some(address) => {
                node_object::without_address(node).map(Object::Node)
            }
            _ => None,
        })
        .await
        .map_err(self.failed("taking the old address out of this node"))?;
        info!(node = name, %address, "old address left: it is on none of the node's interfaces");
        Ok(true)
    }

    /// Address and router id.
    async fn facts(&self, name: &str, stored: Option<&Node>) -> Result<Facts, StartupError> {
        if self.params.backend == Backend::None {
            return Ok((None, None));
        }
        let before = stored.and_then(address_of);
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
            .list(Kind::Node, &Scope::All)
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
        let now = crate::task::timestamp(SystemTime::now()).rfc3339();
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
                &now,
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

/// A node's IPv4 address and router id.
type Facts = (Option<IpNet>, Option<Ipv4Addr>);

fn address_of(node: &Node) -> Option<IpNet> {
    node.spec.bgp.as_ref()?.ipv4_address
}

/// Refuses a name that the other nodes would refuse in the Node object.
fn check_name(name: &str) -> Result<(), StartupError> {
    api::validate::check_object_name(name).map_err(|why| StartupError::Name {
        name: name.to_owned(),
        why,
    })
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
            store.write(put).await.unwrap();
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

    /// Start-up of `name` on a host that has `address`, with IP=autodetect.
    async fn started(
        store: &Arc<MemoryStore>,
        name: &str,
        address: &str,
    ) -> Result<Identity, StartupError> {
        let host = Fake(vec![HostInterface {
            name: "eth0".to_owned(),
            ifindex: 2,
            addresses: vec![address.parse().unwrap()],
        }]);
        let variables = [("IP".to_owned(), "autodetect".to_owned())];
        let params = Params::from_env(variables).unwrap();
        let startup = Startup {
            params: &params,
            host: &host,
            store: Arc::clone(store) as Arc<dyn Store>,
        };
        let wait = Duration::from_millis(1);
        startup.announce_waiting(name.to_owned(), wait).await
    }

    #[tokio::test]
    async fn two_nodes_that_swapped_addresses_both_start() {
        let store = Arc::new(MemoryStore::new());
        started(&store, "n1", "10.0.0.1/24").await.unwrap();
        started(&store, "n2", "10.0.0.2/24").await.unwrap();
        let (one, two) = tokio::join!(
            started(&store, "n1", "10.0.0.2/24"),
            started(&store, "n2", "10.0.0.1/24")
        );
        assert_eq!(one.unwrap().ipv4, Some("10.0.0.2/24".parse().unwrap()));
        assert_eq!(two.unwrap().ipv4, Some("10.0.0.1/24".parse().unwrap()));
        for (name, address) in [("n1", "10.0.0.2/24"), ("n2", "10.0.0.1/24")] {
            let key = Key::new(Kind::Node, name);
            let stored = store.get(&key).await.unwrap().unwrap();
            let Object::Node(node) = Object::decode(&key, &stored.value).unwrap() else {
                unreachable!("a Node stands under its key")
            };
            assert_eq!(address_of(&node), Some(address.parse().unwrap()), "{name}");
        }
    }

    #[tokio::test]
    async fn an_address_that_another_node_keeps_is_refused_and_a_stale_own_one_is_left() {
        let store = Arc::new(MemoryStore::new());
        started(&store, "n1", "10.0.0.1/24").await.unwrap();
        let error = started(&store, "n2", "10.0.0.1/24").await.unwrap_err();
        assert!(
            error.to_string().contains("node n1 has the address"),
            "{error}"
        );
        started(&store, "n3", "10.0.0.3/24").await.unwrap();
        started(&store, "n3", "10.0.0.1/24").await.unwrap_err();
        let key = Key::new(Kind::Node, "n3");
        let stored = store.get(&key).await.unwrap().unwrap();
        let node: serde_json::Value = serde_json::from_slice(&stored.value).unwrap();
        assert_eq!(node["spec"]["bgp"], serde_json::Value::Null, "{node}");
        started(&store, "n4", "10.0.0.3/24").await.unwrap();
    }

    #[tokio::test]
    async fn a_name_that_no_node_object_can_have_is_refused_with_the_rule() {
        for name in ["Node1", "node_1", "-node", "node."] {
            let store = Arc::new(MemoryStore::new());
            let error = started(&store, name, "10.0.0.1/24").await.unwrap_err();
            let text = error.to_string();
            assert!(text.contains(name) && text.contains("lower-case"), "{text}");
            let listing = store.list(Kind::Node, &Scope::All).await.unwrap();
            assert_eq!(listing.items.len(), 0, "{name}");
        }
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
