//! What the datastore says about all agents: whether it is locked, and settings below the environment's.

use std::time::Duration;

use api::cluster::{ClusterInformation, ClusterInformationSpec};
use api::felix::{FelixConfiguration, FelixConfigurationSpec, Given, given_to};
use api::key::{Key, Kind};
use api::object::Object;
use api::params::Params;
use api::validate::validate;
use datastore::scope::Scope;
use tracing::warn;

use super::{Startup, StartupError, What, objects};

/// How often a locked datastore is looked at again.
const LOCKED_RETRY: Duration = Duration::from_secs(1);
/// A log line for every so many looks.
const LOG_EVERY: u32 = 30;

fn key() -> Key {
    Key::new(Kind::ClusterInformation, "default")
}

const LOCKED: &str = "the datastore is locked (ClusterInformation(default): spec.datastoreReady is false); waiting for \
                      `tortiectl datastore migrate unlock`";

impl Startup<'_> {
    /// Waits until the datastore is not locked (`datastoreReady`): nothing is written before.
    pub(super) async fn wait_for_unlock(&self) -> Result<(), StartupError> {
        let mut looked = 0_u32;
        loop {
            let stored = self
                .store
                .get(&key())
                .await
                .map_err(self.failed("reading ClusterInformation(default)"))?;
            let info = stored.and_then(|stored| Object::decode(&key(), &stored.value).ok());
            match info {
                Some(Object::ClusterInformation(info)) if !info.spec.is_ready() => {}
                _ => return Ok(()),
            }
            if looked.is_multiple_of(LOG_EVERY) {
                warn!("{LOCKED}");
            }
            self.waits.on(What::Else, LOCKED);
            looked += 1;
            tokio::time::sleep(LOCKED_RETRY).await;
        }
    }

    /// Makes ClusterInformation, or says in it that this version runs.
    pub(super) async fn write_cluster_information(
        &self,
        types: &[&str],
    ) -> Result<(), StartupError> {
        let guid = new_guid();
        let change = |stored: Option<Object>| {
            let mut info = match stored {
                Some(Object::ClusterInformation(info)) => info,
                _ => ClusterInformation::new(
                    &key(),
                    ClusterInformationSpec {
                        datastore_ready: Some(true),
                        ..ClusterInformationSpec::default()
                    },
                ),
            };
            if info.spec.cluster_guid.is_empty() {
                info.spec.cluster_guid.clone_from(&guid);
            }
            env!("CARGO_PKG_VERSION").clone_into(&mut info.spec.calico_version);
            info.spec.add_type(&self.params.cluster_type);
            for word in types {
                info.spec.add_type(word);
            }
            Object::ClusterInformation(info)
        };
        objects::update(&*self.store, &key(), change)
            .await
            .map_err(self.failed("writing ClusterInformation(default)"))?;
        Ok(())
    }

    /// Makes FelixConfiguration `node.<name>`, by which pods reach their own node, unless it exists or another one says for this
    /// node what `defaultEndpointToHostAction` is. As calico/node does outside Kubernetes, where no manifest has set the variable;
    /// its default alone, `DROP`, would leave pods without the services of their node.
    pub(super) async fn let_pods_reach_the_node(&self, name: &str) -> Result<(), StartupError> {
        const FIELD: &str = "defaultEndpointToHostAction";
        let said = self.given(name).await?;
        let place = format!(": spec.{FIELD}");
        if said.iter().any(|given| given.place.ends_with(&place)) {
            return Ok(());
        }
        let spec = FelixConfigurationSpec {
            node_selector: None,
            fields: [(FIELD.to_owned(), "Return".into())].into_iter().collect(),
        };
        let key = Key::new(Kind::FelixConfiguration, format!("node.{name}"));
        let own = Object::FelixConfiguration(FelixConfiguration::new(&key, spec));
        let made = objects::create(&*self.store, own).await;
        made.map_err(self.failed("creating the node's FelixConfiguration"))?;
        Ok(())
    }

    /// The settings with what FelixConfigurations give this node.
    pub async fn settings(&self, name: &str) -> Result<Params, StartupError> {
        Ok(self.params.with(&self.given(name).await?))
    }

    /// What FelixConfigurations give this node.
    async fn given(&self, name: &str) -> Result<Vec<Given>, StartupError> {
        let listing = self
            .store
            .list(Kind::FelixConfiguration, &Scope::All)
            .await
            .map_err(self.failed("listing the FelixConfigurations"))?;
        let mut configs: Vec<FelixConfiguration> = Vec::new();
        for item in &listing.items {
            match Object::decode(&item.key, &item.value) {
                Ok(object) => {
                    let faults = validate(&object);
                    if faults.is_empty() {
                        configs.extend(configuration(object));
                    }
                    for fault in faults {
                        warn!(object = %item.key, %fault, "object is not valid and counts as absent");
                    }
                }
                Err(error) => warn!(%error, "object is not valid and counts as absent"),
            }
        }
        let node = self.stored_node(name).await?;
        let labels = node.map(|node| node.metadata.labels).unwrap_or_default();
        Ok(given_to(&configs, name, &labels))
    }
}

fn configuration(object: Object) -> Option<FelixConfiguration> {
    match object {
        Object::FelixConfiguration(config) => Some(config),
        _ => None,
    }
}

/// 32 hexadecimal digits that no other cluster has.
fn new_guid() -> String {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    uuid.chars().filter(char::is_ascii_hexdigit).collect()
}

/// Octets that no other cluster has.
pub(super) fn random_octets<const N: usize>() -> [u8; N] {
    let mut octets = [0; N];
    let guid = new_guid();
    for (octet, digits) in octets.iter_mut().zip(guid.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).unwrap_or_default();
        *octet = u8::from_str_radix(digits, 16).unwrap_or_default();
    }
    octets
}

#[cfg(test)]
mod tests;
