//! This node's object in the store: its addresses are found, checked against other nodes', and written.

use std::time::{Duration, SystemTime};

use api::key::{Key, Kind};
use api::node::Node;
use api::object::Object;
use api::params::Backend;
use datastore::scope::Scope;
use tracing::{info, warn};

use super::address::{self, Family};
use super::node_object::{self, Addresses, NodeError};
use super::{ADDRESS_ATTEMPTS, Identity, Startup, StartupError, What, objects};

impl Startup<'_> {
    pub(super) async fn stored_node(&self, name: &str) -> Result<Option<Node>, StartupError> {
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
    pub(super) async fn facts_in_the_end(
        &self,
        name: &str,
        wait: Duration,
    ) -> Result<Identity, StartupError> {
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
            let why = format!("waiting for the other node to leave the address: {error}");
            self.waits.on(What::Else, why);
            tokio::time::sleep(wait).await;
        }
    }

    /// Takes the stored addresses out of this node's object that are on none of the host's interfaces; whether there were any.
    pub(super) async fn leave_address(
        &self,
        name: &str,
        stored: Option<&Node>,
    ) -> Result<bool, StartupError> {
        let before = stored.map(Addresses::of).unwrap_or_default();
        let mut left = false;
        for family in before.families() {
            let Some(address) = before.get(family) else {
                continue;
            };
            if node_object::is_local(address.addr(), self.host) {
                continue;
            }
            let key = Key::new(Kind::Node, name);
            objects::change(&*self.store, &key, |stored| match stored {
                Object::Node(node) if Addresses::of(&node).get(family) == Some(address) => {
                    node_object::without_address(node, family).map(Object::Node)
                }
                _ => None,
            })
            .await
            .map_err(self.failed("taking the old address out of this node"))?;
            info!(node = name, %address, "old address left: it is on none of the node's interfaces");
            left = true;
        }
        Ok(left)
    }

    /// Addresses and router id.
    pub(super) async fn facts(
        &self,
        name: &str,
        stored: Option<&Node>,
    ) -> Result<Identity, StartupError> {
        let mut identity = Identity {
            name: name.to_owned(),
            ipv4: None,
            ipv6: None,
            router_id: None,
        };
        if self.params.backend == Backend::None {
            return Ok(identity);
        }
        let host = self.known_host(name).await?;
        let before = stored.map(Addresses::of).unwrap_or_default();
        let found = |family| {
            let (found, warning) =
                node_object::address(self.params, family, before.get(family), &host)?;
            if let Some(warning) = warning {
                warn!(reason = warning, "node address");
            }
            Ok::<_, NodeError>(found)
        };
        let addresses = Addresses {
            ipv4: found(Family::V4)?,
            ipv6: found(Family::V6)?,
        };
        if addresses.families().is_empty() {
            return Err(NodeError::NoAddress {
                ip: "none".to_owned(),
                backend: if self.params.backend == Backend::Bgp {
                    "bird"
                } else {
                    "vxlan"
                },
            }
            .into());
        }
        if addresses != before && !self.params.disable_node_ip_check {
            let nodes = self.nodes().await?;
            node_object::check_duplicate(name, addresses, &nodes)?;
        }
        let router_id = node_object::router_id(self.params.router_id, name, addresses.ipv4)?;
        identity.ipv4 = addresses.ipv4;
        identity.ipv6 = addresses.ipv6;
        identity.router_id = Some(router_id);
        Ok(identity)
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

    /// Writes the Node if it changed, from what is stored at that moment.
    pub(super) async fn write_node(&self, identity: &Identity) -> Result<(), StartupError> {
        let name = identity.name.as_str();
        let addresses = Addresses {
            ipv4: identity.ipv4,
            ipv6: identity.ipv6,
        };
        let facts = node_object::Facts {
            as_number: self.params.as_number,
            interfaces: address::listed_interfaces(self.host, &addresses.families()),
            kubernetes_node: self.params.kubernetes_node.as_deref(),
            now: crate::task::timestamp(SystemTime::now()).rfc3339(),
        };
        let changed = objects::update(&*self.store, &Key::new(Kind::Node, name), |stored| {
            let stored = match stored {
                Some(Object::Node(node)) => Some(node),
                _ => None,
            };
            Object::Node(node_object::with_facts(stored, name, addresses, &facts))
        })
        .await
        .map_err(self.failed("writing this node"))?;
        if changed {
            info!(
                node = name,
                address = identity.ipv4.map(tracing::field::display),
                address6 = identity.ipv6.map(tracing::field::display),
                "node written"
            );
        }
        Ok(())
    }
}
