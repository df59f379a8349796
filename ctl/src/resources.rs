//! get, apply, create, delete: objects in the datastore.

use std::sync::Arc;

use anyhow::{anyhow, bail};
use api::key::{Key, Kind};
use api::object::Object;
use datastore::store::{Expect, KeyValue, Op, Store, StoreError};
use datastore_local::RelayStore;

use crate::check;
use crate::cli::{Datastore, Delete, Files, Format, Get};
use crate::kinds::kind_of;
use crate::manifest::read_all;
use crate::output;

/// How often a write is tried anew when somebody else was quicker.
const ATTEMPTS: usize = 10;

fn open(datastore: &Datastore) -> anyhow::Result<Arc<dyn Store>> {
    if datastore.datastore_type != "local" {
        bail!(
            "DATASTORE_TYPE={:?} is not in this build yet; allowed: `local`, with TORTIE_STORE=unix:PATH",
            datastore.datastore_type
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
    Ok(Arc::new(RelayStore::new(path)))
}

/// `tortiectl get`.
pub(crate) async fn get(get: Get) -> anyhow::Result<()> {
    let kind = kind_of(&get.kind)?;
    let store = open(&get.datastore)?;
    let mut missing = Vec::new();
    let found = if get.names.is_empty() {
        let listing = store.list(&[kind]).await?;
        let all = get.all_namespaces || !kind.namespaced();
        listing
            .items
            .into_iter()
            .filter(|item| all || item.key.namespace == get.namespace)
            .collect()
    } else {
        let mut found = Vec::new();
        for name in &get.names {
            let key = key(kind, &get.namespace, name);
            match store.get(&key).await? {
                Some(item) => found.push(item),
                None => missing.push(format!("resource does not exist: {key}")),
            }
        }
        found
    };
    let objects: Vec<Object> = found
        .iter()
        .map(with_revision)
        .collect::<anyhow::Result<_>>()?;
    let inherited = match (kind, get.output) {
        (Kind::Node, Format::Wide) => default_asn(&*store).await?,
        _ => 64512,
    };
    output::objects(kind, &objects, get.output, get.names.len() == 1, inherited)?;
    if missing.is_empty() {
        Ok(())
    } else {
        bail!(missing.join("\n"))
    }
}

/// The AS of nodes that name none.
async fn default_asn(store: &dyn Store) -> anyhow::Result<u32> {
    let key = Key::new(Kind::BGPConfiguration, "default");
    let stored = store.get(&key).await?;
    let object = stored.and_then(|stored| Object::decode(&key, &stored.value).ok());
    Ok(match object {
        Some(Object::BGPConfiguration(config)) => config.spec.as_number.unwrap_or(64512),
        _ => 64512,
    })
}

/// The stored object with its revision in the metadata, as calicoctl shows it.
fn with_revision(stored: &KeyValue) -> anyhow::Result<Object> {
    let mut value: serde_json::Value = serde_json::from_slice(&stored.value)?;
    value["metadata"]["resourceVersion"] = stored.revision.to_string().into();
    Ok(Object::decode(&stored.key, &serde_json::to_vec(&value)?)?)
}

/// `tortiectl apply`.
pub(crate) async fn apply(files: Files) -> anyhow::Result<()> {
    write(files, Verb::Apply).await
}

/// `tortiectl create`.
pub(crate) async fn create(files: Files) -> anyhow::Result<()> {
    write(files, Verb::Create).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Apply,
    Create,
}

/// The objects of the files, of which each is sound by itself.
fn read_checked(files: &Files) -> anyhow::Result<Vec<Object>> {
    let objects = read_all(&files.filename, &files.namespace)?;
    check::each_alone(&objects)?;
    for note in check::without_effect(&objects) {
        eprintln!("{note}");
    }
    Ok(objects)
}

async fn write(files: Files, verb: Verb) -> anyhow::Result<()> {
    let objects = read_checked(&files)?;
    let store = open(&files.datastore)?;
    check::against_store(&*store, &objects).await?;
    let mut report = Report::new(match verb {
        Verb::Apply => "applied",
        Verb::Create => "created",
    });
    for object in &objects {
        match put(&*store, object, verb).await {
            Ok(()) => report.done(object.kind()),
            Err(StoreError::Conflict { .. }) if verb == Verb::Create => {
                if !files.skip_exists {
                    report.failed(format!("resource already exists: {}", object.key()));
                }
            }
            Err(error) => report.failed(format!("{}: {error}", object.key())),
        }
    }
    report.print()
}

/// `tortiectl validate`.
pub(crate) fn validate(files: &Files) -> anyhow::Result<()> {
    let objects = read_checked(files)?;
    println!("{} resource(s) are valid", objects.len());
    Ok(())
}

/// Writes one object. What a manifest does not say of identity (`uid`, time of creation) is kept.
async fn put(store: &dyn Store, object: &Object, verb: Verb) -> Result<(), StoreError> {
    let key = object.key();
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let stored = match verb {
            Verb::Apply => store.get(&key).await?,
            Verb::Create => None,
        };
        let put = Op::Put {
            key: key.clone(),
            value: merged(object, stored.as_ref()).into(),
            expect: stored
                .as_ref()
                .map_or(Expect::Absent, |stored| Expect::Revision(stored.revision)),
        };
        match store.transact(vec![put]).await {
            Ok(_) => return Ok(()),
            Err(conflict @ StoreError::Conflict { .. }) if verb == Verb::Apply => {
                last = Some(conflict);
            }
            Err(error) => return Err(error),
        }
    }
    Err(last.expect("every attempt but a conflict returns"))
}

fn merged(object: &Object, stored: Option<&KeyValue>) -> Vec<u8> {
    let mut value: serde_json::Value =
        serde_json::from_slice(&object.encode()).expect("an object encodes as JSON");
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
        let before: serde_json::Value = stored
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

/// `tortiectl delete`.
pub(crate) async fn delete(delete: Delete) -> anyhow::Result<()> {
    let keys: Vec<Key> = match &delete.kind {
        Some(kind) => {
            let kind = kind_of(kind)?;
            if delete.names.is_empty() {
                bail!("name at least one {kind} to delete");
            }
            delete
                .names
                .iter()
                .map(|name| key(kind, &delete.namespace, name))
                .collect()
        }
        None => read_all(&delete.filename, &delete.namespace)?
            .iter()
            .map(Object::key)
            .collect(),
    };
    let store = open(&delete.datastore)?;
    let mut report = Report::new("deleted");
    for key in keys {
        match remove(&*store, &key).await {
            Ok(true) => report.done(key.kind),
            Ok(false) if delete.skip_not_exists => {}
            Ok(false) => report.failed(format!("resource does not exist: {key}")),
            Err(error) => report.failed(format!("{key}: {error}")),
        }
    }
    report.print()
}

/// Whether there was something to delete.
async fn remove(store: &dyn Store, key: &Key) -> anyhow::Result<bool> {
    for _ in 0..ATTEMPTS {
        let Some(stored) = store.get(key).await? else {
            return Ok(false);
        };
        let delete = Op::Delete {
            key: key.clone(),
            expect: Expect::Revision(stored.revision),
        };
        match store.transact(vec![delete]).await {
            Ok(_) => return Ok(true),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(anyhow!("others keep changing it"))
}

fn key(kind: Kind, namespace: &str, name: &str) -> Key {
    if kind.namespaced() {
        Key::namespaced(kind, namespace, name)
    } else {
        Key::new(kind, name)
    }
}

/// Collects outcomes and says them as calicoctl does.
struct Report {
    verb: &'static str,
    done: Vec<Kind>,
    failed: Vec<String>,
}

impl Report {
    const fn new(verb: &'static str) -> Self {
        Self {
            verb,
            done: Vec::new(),
            failed: Vec::new(),
        }
    }

    fn done(&mut self, kind: Kind) {
        self.done.push(kind);
    }

    fn failed(&mut self, reason: String) {
        self.failed.push(reason);
    }

    fn print(self) -> anyhow::Result<()> {
        let count = self.done.len();
        let what = match self.done.first() {
            Some(first) if self.done.iter().all(|kind| kind == first) => {
                format!("{count} '{first}' resource(s)")
            }
            _ => format!("{count} resource(s)"),
        };
        if self.failed.is_empty() {
            println!("Successfully {} {what}", self.verb);
            return Ok(());
        }
        if count > 0 {
            println!("Partial success: {} {what}", self.verb);
        }
        bail!(self.failed.join("\n"))
    }
}
