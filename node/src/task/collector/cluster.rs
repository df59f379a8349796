//! What the elected agent looks at.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::key::{Key, Kind};
use api::object::Object;
use datastore::scope::Scope;
use datastore::store::{Expect, Op, StoreError};
use ipam::Timestamp;
use ipam::block;
use ipam::collect::{Cluster, Garbage, Watchlist};
use tracing::info;

use super::Collector;
use crate::startup::chain;
use crate::task::watch::echo;

impl Collector {
    pub(super) async fn look_at_cluster(
        &self,
        list: &mut Watchlist,
        now: Timestamp,
    ) -> Result<(), String> {
        let cluster = self.read_cluster().await.map_err(|error| chain(&error))?;
        let mut used: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
        for node in cluster.to_be_asked() {
            let addresses = self.used_by(&node).await?;
            used.insert(node, addresses);
        }
        let mut found = cluster.garbage(&self.node, |address, held| {
            let of_node = held.secondary.get("node").and_then(|node| used.get(node));
            of_node.is_none_or(|used| used.contains(&address))
        });
        for name in cluster.handles_without_address() {
            let key = Key::new(Kind::IPAMHandle, name.as_str());
            let stands = self.store.get(&key).await;
            if let Some(stands) = stands.map_err(|error| chain(&error))? {
                let version = stands.version;
                found.insert(Garbage::Handle { name, version });
            }
        }
        let ripe = list.look(found, now, self.grace);
        self.free(&ripe, now).await?;
        for garbage in ripe {
            match garbage {
                Garbage::Handle { name, version } => self.delete_handle(&name, version).await?,
                Garbage::Node(node) => self.release_node(&node, now).await?,
                Garbage::Address { .. } | Garbage::Block { .. } => {}
            }
        }
        Ok(())
    }

    /// Handles before blocks: of one that is made meanwhile the address is seen, not the handle.
    async fn read_cluster(&self) -> Result<Cluster, StoreError> {
        let handles = self.store.names(Kind::IPAMHandle).await?;
        let mut cluster = Cluster {
            handles: handles.into_iter().map(|key| key.name).collect(),
            ..Cluster::default()
        };
        for kind in [Kind::BlockAffinity, Kind::IPAMBlock, Kind::Node] {
            for item in self.store.list(kind, &Scope::All).await?.items {
                let object = Object::decode(&item.key, &item.value);
                match object {
                    Ok(Object::BlockAffinity(claim)) => cluster.affinities.push(claim.spec),
                    Ok(Object::IPAMBlock(found)) if block::fault(&found.spec).is_none() => {
                        cluster.blocks.push(found.spec);
                    }
                    // One that cannot be read says nothing of what is used: nothing may be missed in it.
                    Ok(Object::IPAMBlock(_)) | Err(_) if kind == Kind::IPAMBlock => {
                        let text = format!("{} cannot be read", item.key);
                        return Err(StoreError::Refused(text.into()));
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

    async fn delete_handle(
        &self,
        name: &str,
        version: datastore::version::Version,
    ) -> Result<(), String> {
        let delete = Op::Delete {
            key: Key::new(Kind::IPAMHandle, name),
            expect: Expect::Version(version),
        };
        match self.store.write(delete).await {
            Ok(_) => {
                info!(handle = name, "handle deleted: no address has it");
                Ok(())
            }
            // Somebody uses it again.
            Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(chain(&error)),
        }
    }

    async fn release_node(&self, node: &str, now: Timestamp) -> Result<(), String> {
        let released = self.ipam.release_host_affinities(node, true, now).await;
        let released = released.map_err(|error| chain(&error))?;
        echo(&self.calc, &released.written);
        if !released.outcome.released.is_empty() {
            let blocks = released.outcome.released.len();
            info!(node, blocks, "blocks of a node that is gone are given up");
        }
        Ok(())
    }
}
