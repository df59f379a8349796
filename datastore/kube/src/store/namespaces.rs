//! What namespaces ask of their pods' network, as one watch of all of them tells: asked for with each ADD, read would cost a request
//! each. The watch begins when somebody asks first. Until it stands, and while it does not, a namespace is read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::task::AbortHandle;
use tracing::debug;

use crate::client::{Client, Error, with_jitter};
use crate::lines::{Versioned, Watch};
use crate::metadata::Metadata;

const PATH: &str = "/api/v1/namespaces?";
/// First and longest wait before a lost watch is begun anew.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// As much of a namespace as is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Namespace {
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) labels: BTreeMap<String, String>,
}

impl From<Metadata> for Namespace {
    fn from(metadata: Metadata) -> Self {
        Self {
            annotations: crate::pod::asked(&metadata.annotations),
            labels: metadata.labels,
        }
    }
}

/// `None` while no watch stands: nothing is known then.
type Known = Mutex<Option<BTreeMap<String, Namespace>>>;

#[derive(Default)]
pub(super) struct Namespaces {
    known: Arc<Known>,
    follower: OnceLock<Follower>,
}

struct Follower(AbortHandle);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Namespaces {
    /// A namespace as the watch last told of it; `None` if it has not.
    pub(super) fn get(&self, client: &Client, name: &str) -> Option<Namespace> {
        self.follower.get_or_init(|| {
            let task = tokio::spawn(follow(client.clone(), Arc::clone(&self.known)));
            Follower(task.abort_handle())
        });
        lock(&self.known).as_ref()?.get(name).cloned()
    }
}

fn lock(known: &Known) -> MutexGuard<'_, Option<BTreeMap<String, Namespace>>> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn follow(client: Client, known: Arc<Known>) {
    let mut wait = RETRY.0;
    loop {
        let lost = match list(&client).await {
            Ok((namespaces, version)) => {
                *lock(&known) = Some(namespaces);
                wait = RETRY.0;
                watch(&client, &known, version).await
            }
            Err(error) => Err(error),
        };
        *lock(&known) = None;
        debug!(?lost, "namespaces are read one by one meanwhile");
        tokio::time::sleep(with_jitter(wait)).await;
        wait = wait.saturating_mul(2).min(RETRY.1);
    }
}

#[derive(Deserialize)]
struct List {
    metadata: Metadata,
    items: Option<Vec<Object>>,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
}

impl Versioned for Object {
    fn resource_version(&self) -> &str {
        &self.metadata.resource_version
    }
}

async fn list(client: &Client) -> Result<(BTreeMap<String, Namespace>, String), Error> {
    // As the server's own watch last told it: what comes after is what the watch from there tells.
    let path = format!("{PATH}resourceVersion=0");
    let body = client.metadata_of_all(&path).await?;
    let list: List = serde_json::from_slice(&body).map_err(|error| unreadable(&error))?;
    let items = list.items.into_iter().flatten();
    let namespaces = items.map(|item| (item.metadata.name.clone(), item.metadata.into()));
    Ok((namespaces.collect(), list.metadata.resource_version))
}

/// Follows changes until some are missed, or the watch is lost.
async fn watch(client: &Client, known: &Known, version: String) -> Result<(), Error> {
    let mut watch = Watch::open(client, PATH, version).await?;
    while let Some(event) = watch.next::<Object>().await? {
        let metadata = event.object.metadata;
        let mut known = lock(known);
        let namespaces = known.get_or_insert_default();
        match event.kind.as_str() {
            "ADDED" | "MODIFIED" => {
                namespaces.insert(metadata.name.clone(), metadata.into());
            }
            "DELETED" => {
                namespaces.remove(&metadata.name);
            }
            _ => {}
        }
    }
    Ok(())
}

fn unreadable(error: &dyn std::fmt::Display) -> Error {
    Error::Unavailable(format!("namespaces that cannot be read: {error}"))
}
