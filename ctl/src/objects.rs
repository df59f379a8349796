//! The objects of a datastore: reading, and writing what others may write at the same time.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{anyhow, bail};
use api::key::{Key, Kind};
use api::object::Object;
#[cfg(feature = "kube")]
use api::params::Params;
use datastore::scope::Scope;
use datastore::store::{Change as Stored, Expect, KeyValue, Op, Store, StoreError};
use datastore_local::RelayStore;
use futures_util::StreamExt;
use serde_json::Value;

use crate::cli::Datastore;

/// How often a write is tried anew when somebody else was quicker.
const ATTEMPTS: usize = 10;
/// The AS of nodes when nobody names one.
const DEFAULT_ASN: u32 = 64512;

/// A datastore.
pub(crate) struct Objects(Arc<dyn Store>);

/// Why an object was not written.
#[derive(Debug)]
pub(crate) enum Refused {
    /// It exists, and should not.
    Exists,
    /// It does not exist, and should.
    Absent,
    /// Whatever else.
    Other(anyhow::Error),
}

impl Refused {
    /// In words.
    pub(crate) fn text(&self, key: &Key) -> String {
        match self {
            Self::Exists => format!("resource already exists: {key}"),
            Self::Absent => format!("resource does not exist: {key}"),
            Self::Other(error) => format!("{key}: {error:#}"),
        }
    }

    /// As an error of its own.
    pub(crate) fn error(&self, key: &Key) -> anyhow::Error {
        anyhow!(self.text(key))
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::Other(error.into())
    }
}

/// A change that a watch saw.
pub(crate) enum Change {
    Written(Box<Object>),
    Deleted(Key),
    /// Written by somebody in a form that cannot be read.
    Unreadable(String),
}

impl Change {
    fn of(stored: &KeyValue) -> Self {
        match with_version(stored) {
            Ok(object) => Self::Written(object.into()),
            Err(error) => Self::Unreadable(format!("{error:#}")),
        }
    }
}

impl Objects {
    /// The datastore that the options name.
    pub(crate) async fn open(datastore: &Datastore) -> anyhow::Result<Self> {
        #[cfg(feature = "kube")]
        if datastore.datastore_type == "kubernetes" {
            let client = Self::kubernetes().await?;
            let options = datastore_kube::Options::default();
            let store = datastore_kube::KubeStore::new(client, options);
            return Ok(Self(Arc::new(store)));
        }
        if datastore.datastore_type != "local" {
            bail!(
                "DATASTORE_TYPE={:?} is not in this build; allowed: {}`local` with TORTIE_STORE=unix:PATH",
                datastore.datastore_type,
                if cfg!(feature = "kube") {
                    "`kubernetes`, or "
                } else {
                    ""
                }
            );
        }
        let path = datastore
            .store
            .strip_prefix("unix:")
            .unwrap_or(&datastore.store);
        if !path.starts_with('/') {
            bail!(
                "TORTIE_STORE={:?} is not allowed; allowed: `unix:` and an absolute path",
                datastore.store
            );
        }
        Ok(Self(Arc::new(RelayStore::new(path))))
    }

    /// The API server of the environment's settings. Other variables are not this program's, right or wrong.
    #[cfg(feature = "kube")]
    pub(crate) async fn kubernetes() -> anyhow::Result<datastore_kube::Client> {
        let is_ours = |(name, _): &(String, String)| {
            ["K8S_", "KUBE"].iter().any(|part| name.contains(part)) || name == "CALICO_API_GROUP"
        };
        let params = Params::from_env(std::env::vars().filter(is_ours)).map_err(|errors| {
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            anyhow!(texts.join("; "))
        })?;
        let settings = datastore_kube::Settings::from_params(&params);
        Ok(datastore_kube::Client::new(settings).await?)
    }

    /// An object with its version in the metadata, as calicoctl shows it.
    pub(crate) async fn get(&self, key: &Key) -> anyhow::Result<Option<Object>> {
        let stored = self.0.get(key).await?;
        stored.as_ref().map(with_version).transpose()
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.0)
    }

    /// All objects of a kind as they are stored.
    pub(crate) async fn stored(&self, kind: Kind) -> anyhow::Result<Vec<KeyValue>> {
        Ok(self.0.list(kind, &Scope::All).await?.items)
    }

    /// All objects of a kind, in the order of their keys, and what is wrong with those that cannot be read.
    pub(crate) async fn list(&self, kind: Kind) -> anyhow::Result<(Vec<Object>, Vec<String>)> {
        let mut objects = Vec::new();
        let mut unreadable = Vec::new();
        for item in &self.stored(kind).await? {
            match with_version(item) {
                Ok(object) => objects.push(object),
                Err(error) => unreadable.push(format!("{error:#}")),
            }
        }
        Ok((objects, unreadable))
    }

    /// Shows the objects of a kind, and then each change, until `show` fails or the datastore is lost.
    pub(crate) async fn watch(
        &self,
        kind: Kind,
        mut show: impl FnMut(Change) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let listing = self.0.list(kind, &Scope::All).await?;
        for item in &listing.items {
            show(Change::of(item))?;
        }
        let mut changes = self.0.watch(kind, Scope::All, listing.cursor);
        while let Some(change) = changes.next().await {
            match change?.change() {
                Some(Stored::Put(item)) => show(Change::of(&item))?,
                Some(Stored::Delete { key, .. }) => show(Change::Deleted(key))?,
                None => {}
            }
        }
        bail!("the datastore ended the watch")
    }

    /// Writes an object, whether or not it exists.
    pub(crate) async fn apply(&self, object: &Object) -> Result<(), Refused> {
        self.write(&object.key(), |_| Ok(object.clone())).await
    }

    /// Writes an object that exists.
    pub(crate) async fn replace(&self, object: &Object) -> Result<(), Refused> {
        let change = |stored: Option<_>| match stored {
            Some(_) => Ok(object.clone()),
            None => Err(Refused::Absent),
        };
        self.write(&object.key(), change).await
    }

    /// Writes an object that does not exist.
    pub(crate) async fn create(&self, object: &Object) -> Result<(), Refused> {
        let put = Op::Put {
            key: object.key(),
            value: merged(object, None).into(),
            expect: Expect::Absent,
        };
        match self.0.write(put).await {
            Ok(_) => Ok(()),
            Err(StoreError::Conflict { .. }) => Err(Refused::Exists),
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces an object by what `change` makes of the stored one, which may be one that cannot be read, and tries again when others were quicker. What it
    /// does not say of identity (`uid`, time of creation) is kept.
    pub(crate) async fn write(
        &self,
        key: &Key,
        change: impl Fn(Option<anyhow::Result<Object>>) -> Result<Object, Refused>,
    ) -> Result<(), Refused> {
        for _ in 0..ATTEMPTS {
            let stored = self.0.get(key).await?;
            let object = change(stored.as_ref().map(decode))?;
            let put = Op::Put {
                key: key.clone(),
                value: merged(&object, stored.as_ref()).into(),
                expect: Expect::standing(stored.map(|stored| stored.version)),
            };
            match self.0.write(put).await {
                Ok(_) => return Ok(()),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Refused::Other(anyhow!("others keep changing it")))
    }

    /// Deletes an object.
    pub(crate) async fn remove(&self, key: &Key) -> Result<(), Refused> {
        for _ in 0..ATTEMPTS {
            let Some(stored) = self.0.get(key).await? else {
                return Err(Refused::Absent);
            };
            let delete = Op::Delete {
                key: key.clone(),
                expect: Expect::Version(stored.version),
            };
            match self.0.write(delete).await {
                Ok(_) => return Ok(()),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Refused::Other(anyhow!("others keep changing it")))
    }

    /// Specs of the pools that can be read, by name.
    pub(crate) async fn pools(&self) -> anyhow::Result<BTreeMap<String, api::pool::IPPoolSpec>> {
        let listing = self.0.list(Kind::IPPool, &Scope::All).await?;
        let pool = |item: &KeyValue| match Object::decode(&item.key, &item.value) {
            Ok(Object::IPPool(pool)) => Some((pool.metadata.name, pool.spec)),
            Ok(_) | Err(_) => None,
        };
        Ok(listing.items.iter().filter_map(pool).collect())
    }

    /// The AS of nodes that name none.
    pub(crate) async fn default_asn(&self) -> anyhow::Result<u32> {
        let key = Key::new(Kind::BGPConfiguration, "default");
        let stored = self.0.get(&key).await?;
        let object = stored.and_then(|stored| Object::decode(&key, &stored.value).ok());
        Ok(match object {
            Some(Object::BGPConfiguration(config)) => config.spec.as_number.unwrap_or(DEFAULT_ASN),
            _ => DEFAULT_ASN,
        })
    }
}

/// The key of an object that is named on the command line.
pub(crate) fn key(kind: Kind, namespace: &str, name: &str) -> Key {
    if kind.namespaced() {
        Key::namespaced(kind, namespace, name)
    } else {
        Key::new(kind, name)
    }
}

fn decode(stored: &KeyValue) -> anyhow::Result<Object> {
    Ok(Object::decode(&stored.key, &stored.value)?)
}

fn with_version(stored: &KeyValue) -> anyhow::Result<Object> {
    let mut value: Value = serde_json::from_slice(&stored.value)?;
    value["metadata"]["resourceVersion"] = stored.version.to_string().into();
    Ok(Object::decode(&stored.key, &serde_json::to_vec(&value)?)?)
}

/// What is stored of `object` in place of `stored`.
fn merged(object: &Object, stored: Option<&KeyValue>) -> Vec<u8> {
    let mut value: Value =
        serde_json::from_slice(&object.encode()).expect("an object encodes as JSON");
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
        let before: Value = stored
            .and_then(|stored| serde_json::from_slice(&stored.value).ok())
            .unwrap_or_default();
        for field in ["uid", "creationTimestamp"] {
            if let Some(kept) = before["metadata"].get(field)
                && !metadata.contains_key(field)
            {
                metadata.insert(field.to_owned(), kept.clone());
            }
        }
    }
    value.to_string().into_bytes()
}
