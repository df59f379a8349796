//! One agent's looks for garbage, and what it frees. Nothing is freed for lack of evidence: every question must have been
//! answered, and what is found must be found again and again for the grace.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::ipam::AllocationAttribute;
use api::key::{Key, Kind};
use api::object::Object;
use datastore::scope::Scope;
use datastore::store::{Change, Expect, Op, StoreError};
use datastore::version::Version;
use ipnet::IpNet;
use thiserror::Error;

use super::{Cluster, Garbage, Watchlist, of_node};
use crate::allocator::Ipam;
use crate::block;
use crate::error::AssignError;
use crate::request::ReleaseAddress;
use crate::time::Timestamp;
use crate::view::{block_key, is_tombstone};

/// Why a look ended early. What it did before stands; the next one begins anew.
#[derive(Debug, Error)]
pub enum LookError {
    /// The store did not answer.
    #[error("asking the datastore")]
    Store(#[from] StoreError),
    /// Freeing failed.
    #[error("freeing what nobody uses")]
    Free(#[from] AssignError),
    /// Who holds devices is not known.
    #[error("reading the devices of pods")]
    Devices(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An object that may say that something is used.
    #[error("{0} cannot be read")]
    Unreadable(Key),
}

/// What a look freed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Freed {
    /// An address that nobody used.
    Address(IpAddr),
    /// An empty block of a node that has another.
    Block(IpNet),
    /// A claim on a block that is not the node's, by the name of the affinity.
    Claim(String),
    /// A handle without an address, by the name of its object.
    Handle(String),
    /// What was marked as deleted and still there.
    Tombstone(Key),
    /// Blocks of a node that is gone.
    Node {
        /// Its name.
        node: String,
        /// How many blocks.
        blocks: usize,
    },
}

/// What a look did, also one that failed.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// For the caller's own view of the store.
    pub written: Vec<Change>,
    /// In the order in which it was done.
    pub freed: Vec<Freed>,
}

/// What an agent has found so far.
pub struct Looks {
    ipam: Arc<Ipam>,
    grace: Duration,
    own: Watchlist,
    cluster: Watchlist,
}

impl Looks {
    /// For the agent of `ipam`. What is found must be found for `grace`.
    pub fn new(ipam: Arc<Ipam>, grace: Duration) -> Self {
        Self {
            ipam,
            grace,
            own: Watchlist::default(),
            cluster: Watchlist::default(),
        }
    }

    pub(super) fn ipam(&self) -> &Ipam {
        &self.ipam
    }

    /// For how long something must have been of no use.
    pub const fn grace(&self) -> Duration {
        self.grace
    }

    /// Another one; what is known of what was found stays.
    pub const fn set_grace(&mut self, grace: Duration) {
        self.grace = grace;
    }

    /// How many pieces of garbage wait.
    pub fn waiting(&self) -> usize {
        self.own.len() + self.cluster.len()
    }

    /// Everything is found anew: nobody looked for a while, or what was seen is not believed any more.
    pub fn forget(&mut self) {
        self.own.clear();
        self.forget_cluster();
    }

    /// The same of what other nodes have.
    pub fn forget_cluster(&mut self) {
        self.cluster.clear();
    }

    /// Looks at the node's own blocks. `devices` is awaited last; it says whether a device in this kernel is that of an
    /// address' holder.
    pub async fn at_own<D, E>(
        &mut self,
        devices: impl Future<Output = Result<D, E>>,
        now: Timestamp,
        done: &mut Done,
    ) -> Result<(), LookError>
    where
        D: Fn(&AllocationAttribute) -> bool,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        // Before the endpoints: what is given out from here on is not looked at.
        let Some(blocks) = self.ipam.own_blocks() else {
            return Ok(());
        };
        let node = self.ipam.node();
        let used = self.used_by(node).await?;
        let has_device = devices
            .await
            .map_err(|error| LookError::Devices(error.into()))?;
        let claims = self.ipam.lone_claims().into_iter();
        let mut found = of_node(node, &blocks, self.ipam.cooldown(now), |address, held| {
            used.contains(&address) || has_device(held)
        });
        found.extend(claims.map(|(name, cidr, version)| Garbage::Claim {
            name,
            cidr,
            version,
        }));
        let ripe = self.own.look(found, now, self.grace);
        self.free(&ripe, now, done).await?;
        for garbage in ripe {
            if let Garbage::Claim {
                name,
                cidr,
                version,
            } = garbage
                && !self.owns(cidr).await?
            {
                let key = Key::new(Kind::BlockAffinity, name.as_str());
                self.delete(key, version, Freed::Claim(name), done).await?;
            }
        }
        Ok(())
    }

    /// Looks at what is no living node's own concern: for the elected agent.
    pub async fn at_cluster(&mut self, now: Timestamp, done: &mut Done) -> Result<(), LookError> {
        let cluster = self.read_cluster().await?;
        let mut used: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
        for node in cluster.to_be_asked() {
            let addresses = self.used_by(&node).await?;
            used.insert(node, addresses);
        }
        let mut found = cluster.garbage(self.ipam.node(), |address, held| {
            let of_node = held.secondary.get("node").and_then(|node| used.get(node));
            of_node.is_none_or(|used| used.contains(&address))
        });
        for name in cluster.handles_without_address() {
            let key = Key::new(Kind::IPAMHandle, name.as_str());
            if let Some(stands) = self.ipam.store().get(&key).await? {
                let version = stands.version;
                found.insert(Garbage::Handle { name, version });
            }
        }
        let ripe = self.cluster.look(found, now, self.grace);
        self.free(&ripe, now, done).await?;
        for garbage in ripe {
            match garbage {
                Garbage::Handle { name, version } => {
                    let key = Key::new(Kind::IPAMHandle, name.as_str());
                    self.delete(key, version, Freed::Handle(name), done).await?;
                }
                Garbage::Tombstone { key, version } => {
                    let freed = Freed::Tombstone(key.clone());
                    self.delete(key, version, freed, done).await?;
                }
                Garbage::Node(node) => self.release_node(&node, now, done).await?,
                Garbage::Address { .. } | Garbage::Block { .. } | Garbage::Claim { .. } => {}
            }
        }
        Ok(())
    }

    /// Addresses that the endpoints of a node have.
    async fn used_by(&self, node: &str) -> Result<BTreeSet<IpAddr>, LookError> {
        let scope = Scope::Node(node.to_owned());
        let listed = self.ipam.store().list(Kind::WorkloadEndpoint, &scope).await;
        let mut used = BTreeSet::new();
        for item in listed?.items {
            match Object::decode(&item.key, &item.value) {
                Ok(Object::WorkloadEndpoint(endpoint)) => {
                    used.extend(endpoint.spec.ip_networks.iter().map(IpNet::addr));
                }
                Ok(_) => {}
                // It may say that an address is used.
                Err(_) => return Err(LookError::Unreadable(item.key)),
            }
        }
        Ok(used)
    }

    /// Handles before blocks: of one that is made meanwhile the address is seen, not the handle.
    async fn read_cluster(&self) -> Result<Cluster, LookError> {
        let store = self.ipam.store();
        let handles = store.names(Kind::IPAMHandle).await?;
        let mut cluster = Cluster {
            handles: handles.into_iter().map(|key| key.name).collect(),
            ..Cluster::default()
        };
        for kind in [Kind::BlockAffinity, Kind::IPAMBlock, Kind::Node] {
            for item in store.list(kind, &Scope::All).await?.items {
                let object = Object::decode(&item.key, &item.value);
                match object {
                    Ok(object) if is_tombstone(&object) => {
                        cluster.tombstones.push((item.key, item.version));
                    }
                    Ok(Object::BlockAffinity(claim)) => cluster.affinities.push(claim.spec),
                    Ok(Object::IPAMBlock(found)) if block::fault(&found.spec).is_none() => {
                        cluster.blocks.push(found.spec);
                    }
                    // One that cannot be read says nothing of what is used: nothing may be missed in it.
                    Ok(Object::IPAMBlock(_)) | Err(_) if kind == Kind::IPAMBlock => {
                        return Err(LookError::Unreadable(item.key));
                    }
                    _ if kind == Kind::Node => {
                        cluster.nodes.insert(item.key.name);
                    }
                    _ => {}
                }
            }
        }
        Ok(cluster)
    }

    /// Frees addresses and gives up blocks, each if it is still what was looked at.
    async fn free(
        &self,
        ripe: &BTreeSet<Garbage>,
        now: Timestamp,
        done: &mut Done,
    ) -> Result<(), LookError> {
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
            let freed = self.ipam.release_ips(&addresses, now).await?;
            done.written.extend(freed.written);
            let released = freed.outcome.released.into_iter().map(Freed::Address);
            done.freed.extend(released);
        }
        for garbage in ripe {
            if let Garbage::Block {
                cidr,
                sequence_number,
            } = garbage
            {
                let given_up = self
                    .ipam
                    .release_block(*cidr, *sequence_number, now)
                    .await?;
                done.written.extend(given_up.written);
                if given_up.outcome {
                    done.freed.push(Freed::Block(*cidr));
                }
            }
        }
        Ok(())
    }

    /// Whether a block is the node's own.
    async fn owns(&self, cidr: IpNet) -> Result<bool, LookError> {
        let key = block_key(cidr);
        let Some(stands) = self.ipam.store().get(&key).await? else {
            return Ok(false);
        };
        match Object::decode(&key, &stands.value) {
            Ok(Object::IPAMBlock(found)) => {
                let host = block::host_affinity(self.ipam.node());
                Ok(found.spec.affinity == Some(host))
            }
            Ok(_) | Err(_) => Err(LookError::Unreadable(key)),
        }
    }

    /// Deletes an object that is still as it was looked at.
    async fn delete(
        &self,
        key: Key,
        version: Version,
        freed: Freed,
        done: &mut Done,
    ) -> Result<(), LookError> {
        let expect = Expect::Version(version);
        match self.ipam.store().write(Op::Delete { key, expect }).await {
            Ok(deleted) => {
                if let Some(change) = deleted {
                    self.ipam.observe(&change);
                    done.written.push(change);
                }
                done.freed.push(freed);
                Ok(())
            }
            // Somebody uses it again.
            Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn release_node(
        &self,
        node: &str,
        now: Timestamp,
        done: &mut Done,
    ) -> Result<(), LookError> {
        let released = self.ipam.release_host_affinities(node, true, now).await?;
        done.written.extend(released.written);
        let blocks = released.outcome.released.len();
        if blocks > 0 {
            let node = node.to_owned();
            done.freed.push(Freed::Node { node, blocks });
        }
        Ok(())
    }
}
