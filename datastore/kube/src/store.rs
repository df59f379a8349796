//! [`Store`] over an API server.

mod endpoints;
mod listing;
mod namespaces;
mod nodes;
mod objects;
mod seen_pods;
mod witness;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use api::key::{Key, Kind};
use api::pod::PodWords;
use bytes::Bytes;
use datastore::scope::Scope;
use datastore::store::{Change, Expect, KeyValue, Listing, Op, Store, StoreError, WatchEvent};
use datastore::version::{Cursor, Version};
use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use http::Method;

use crate::client::{Client, Error};
use crate::custom;
use crate::group::{Group, segment};
use crate::kept::Kept;
use crate::node::KubeNode;
use crate::pod::{KubePod, PodName};
use crate::service;
use crate::watch;
use namespaces::Namespaces;
use seen_pods::SeenPods;
use witness::Witness;

/// How often a write of an object that others keep changing is begun anew.
const ATTEMPTS: usize = 10;

/// What differs between the programs that use the store.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Folder of what Pods have no room for; none where no pods are connected.
    pub kept: Option<PathBuf>,
    /// Beginning of the names of pods' devices; empty: `cali`.
    pub interface_prefix: String,
}

/// Calico's objects in an API server.
pub struct KubeStore {
    shared: Arc<Shared>,
}

/// What watches have, too.
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) kept: Option<Kept>,
    interface_prefix: String,
    pub(crate) seen_pods: SeenPods,
    namespaces: Namespaces,
    witness: Witness,
    /// UID of the namespace `kube-system`, as it was last seen.
    cluster: Mutex<Option<Arc<str>>>,
}

/// What an object's JSON comes to.
pub(crate) struct Seen {
    /// `None` for an object that is none of ours.
    pub(crate) key: Option<Key>,
    /// `None`: the key has no object.
    pub(crate) object: Option<KeyValue>,
    pub(crate) number: u64,
    /// UID, or for a Pod its container's life.
    pub(crate) life: String,
}

impl KubeStore {
    /// A store over `client`.
    pub fn new(client: Client, options: Options) -> Self {
        let interface_prefix = if options.interface_prefix.is_empty() {
            "cali".to_owned()
        } else {
            options.interface_prefix
        };
        Self {
            shared: Arc::new(Shared {
                client,
                kept: options.kept.map(Kept::open),
                interface_prefix,
                seen_pods: SeenPods::default(),
                namespaces: Namespaces::default(),
                witness: Witness::default(),
                cluster: Mutex::new(None),
            }),
        }
    }

    async fn written(&self, op: Op) -> Result<Option<Change>, StoreError> {
        let shared = &*self.shared;
        if *op.expect() == Expect::Own {
            let text = format!("{}: nothing of the same plan was written before", op.key());
            return Err(StoreError::Refused(text.into()));
        }
        if let Op::Check { key, expect } = op {
            let current = shared.get(&key).await?;
            return match fits(&expect, current.as_ref()) {
                true => Ok(None),
                false => Err(conflict(key, current)),
            };
        }
        match op.key().kind {
            kind if kind.only_read() => {
                let text = format!(
                    "{}: objects of this kind are Kubernetes' own: use kubectl",
                    op.key()
                );
                Err(StoreError::Refused(text.into()))
            }
            Kind::Node => shared.write_node(op).await,
            Kind::WorkloadEndpoint => match PodName::of(op.key()) {
                Some(pod) => shared.write_endpoint(&pod, op).await,
                None => shared.write_file(op),
            },
            _ => shared.write_object(op).await,
        }
    }
}

impl Store for KubeStore {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KeyValue>, StoreError>> {
        Box::pin(self.shared.get(key))
    }

    fn list<'a>(
        &'a self,
        kind: Kind,
        scope: &'a Scope,
    ) -> BoxFuture<'a, Result<Listing, StoreError>> {
        Box::pin(self.shared.list(kind, scope))
    }

    fn names(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Key>, StoreError>> {
        Box::pin(self.shared.names(kind))
    }

    fn list_since<'a>(
        &'a self,
        kind: Kind,
        seen: &'a [Version],
    ) -> BoxFuture<'a, Result<Listing, StoreError>> {
        Box::pin(self.shared.list_since(kind, seen))
    }

    fn names_since<'a>(
        &'a self,
        kind: Kind,
        seen: &'a [Version],
    ) -> BoxFuture<'a, Result<Vec<Key>, StoreError>> {
        Box::pin(self.shared.names_since(kind, seen))
    }

    fn write(&self, op: Op) -> BoxFuture<'_, Result<Option<Change>, StoreError>> {
        Box::pin(self.written(op))
    }

    fn write_status(&self, object: KeyValue) -> BoxFuture<'_, Result<Option<Change>, StoreError>> {
        Box::pin(async move { self.shared.write_status(object).await })
    }

    fn watch(
        &self,
        kind: Kind,
        scope: Scope,
        after: Cursor,
    ) -> BoxStream<'static, Result<WatchEvent, StoreError>> {
        watch::follow(Arc::clone(&self.shared), kind, scope, after)
    }

    fn identity(&self) -> BoxFuture<'_, Result<Arc<str>, StoreError>> {
        Box::pin(async { Ok(self.shared.standing().await?.0) })
    }

    fn contains<'a>(&'a self, cursor: &'a Cursor) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(self.shared.contains(cursor))
    }

    fn condition<'a>(
        &'a self,
        key: &'a Key,
        uid: &'a str,
    ) -> BoxFuture<'a, Result<Expect, StoreError>> {
        Box::pin(self.shared.condition(key, uid))
    }

    fn pod_words<'a>(
        &'a self,
        endpoint: &'a Key,
        uid: &'a str,
    ) -> BoxFuture<'a, Result<Option<PodWords>, StoreError>> {
        Box::pin(async move {
            match PodName::of(endpoint) {
                Some(pod) => {
                    let words = self.shared.pod_words(&pod, endpoint, uid).await?;
                    Ok(Some(words))
                }
                None => Ok(None),
            }
        })
    }

    fn accept(&self) {
        self.shared.witness.forget();
        self.shared.seen_pods.forget_all();
    }
}

impl Shared {
    async fn get(&self, key: &Key) -> Result<Option<KeyValue>, StoreError> {
        let group = self.group(key.kind).await?;
        let path = match key.kind {
            Kind::Node => crate::node::path(&key.name),
            Kind::WorkloadEndpoint => match PodName::of(key) {
                Some(pod) => return self.get_endpoint(&pod, key).await,
                None => return Ok(self.kept.as_ref().and_then(|kept| kept.get(key))),
            },
            kind if kind.only_read() => service::one(key),
            _ => group.one(key),
        };
        match self.client.request(Method::GET, &path, None).await {
            Ok(body) => {
                let seen = self.read(group, key.kind, &body)?;
                let asked_for = |object: &KeyValue| object.key == *key;
                Ok(seen.object.filter(asked_for))
            }
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failed(key, error)),
        }
    }

    async fn condition(&self, key: &Key, uid: &str) -> Result<Expect, StoreError> {
        if key.kind == Kind::WorkloadEndpoint
            && let Some(pod) = PodName::of(key)
        {
            return self.endpoint_condition(&pod, key, uid).await;
        }
        let current = self.get(key).await?;
        Ok(Expect::standing(current.map(|current| current.version)))
    }

    /// Path of the objects of a kind and scope, up to further parameters; `None` for a scope that has none.
    pub(crate) async fn all(
        &self,
        kind: Kind,
        scope: &Scope,
    ) -> Result<Option<String>, StoreError> {
        let (path, field) = match kind {
            Kind::Node => ("/api/v1/nodes".to_owned(), "metadata.name"),
            Kind::WorkloadEndpoint => ("/api/v1/pods".to_owned(), "spec.nodeName"),
            _ => match service::all(kind) {
                Some(path) => (path.to_owned(), ""),
                None => (self.group(kind).await?.all(kind), ""),
            },
        };
        Ok(match scope {
            Scope::All => Some(format!("{path}?")),
            Scope::Node(_) if field.is_empty() => None,
            Scope::Node(node) => Some(format!(
                "{path}?fieldSelector={}&",
                segment(&format!("{field}={node}"))
            )),
        })
    }

    /// An object's JSON, as the store's users have it. `group`: [`Shared::group`].
    pub(crate) fn read(&self, group: Group, kind: Kind, object: &[u8]) -> Result<Seen, StoreError> {
        let read = match kind {
            Kind::Node => KubeNode::parse(object)
                .and_then(|node| node.read())
                .map(Seen::of),
            Kind::WorkloadEndpoint => KubePod::parse(object).and_then(|pod| self.read_pod(&pod)),
            kind if kind.only_read() => service::read(kind, object).map(Seen::of),
            _ => custom::read(group, kind, object).map(Seen::of),
        };
        read.map_err(|error| unreadable(&format!("{kind}: {error}")))
    }

    /// The group of a kind's objects; for Kubernetes' own it does not matter.
    pub(crate) async fn group(&self, kind: Kind) -> Result<Group, StoreError> {
        if is_kubernetes(kind) {
            return Ok(Group::Crd);
        }
        self.client.group().await.map_err(store_error)
    }

    /// The cluster as it was last seen.
    async fn cluster(&self) -> Result<Arc<str>, StoreError> {
        let known = self.cluster.lock();
        let known = known.unwrap_or_else(PoisonError::into_inner).clone();
        match known {
            Some(known) => Ok(known),
            None => Ok(self.standing().await?.0),
        }
    }

    /// Which cluster it is, and how far it has counted.
    pub(crate) async fn standing(&self) -> Result<(Arc<str>, u64), StoreError> {
        let path = "/api/v1/namespaces?fieldSelector=metadata.name%3Dkube-system";
        let list = self.client.get(path).await.map_err(store_error)?;
        let list = list.unwrap_or_default();
        let uid = list["items"][0]["metadata"]["uid"].as_str();
        // A server that was just started has not made it yet.
        let uid = uid.ok_or_else(|| {
            StoreError::Unavailable("the cluster has no namespace kube-system yet".into())
        })?;
        let number = list["metadata"]["resourceVersion"]
            .as_str()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| unreadable("a list without resourceVersion"))?;
        let uid: Arc<str> = uid.into();
        let mut known = self.cluster.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some(Arc::clone(&uid));
        Ok((uid, number))
    }

    /// Whether the cluster is the cursor's, has come as far, and has not lost what was written.
    pub(crate) async fn contains(&self, cursor: &Cursor) -> Result<bool, StoreError> {
        let (cluster, number) = self.standing().await?;
        let is_known = cursor.store().is_none_or(|store| *store == *cluster)
            && cursor.number().is_some_and(|wanted| wanted <= number);
        Ok(is_known && !self.lost_a_write().await?)
    }
}

impl Seen {
    fn of(object: KeyValue) -> Self {
        Self {
            key: Some(object.key.clone()),
            number: object.version.number().unwrap_or_default(),
            life: object.version.life().unwrap_or_default().to_owned(),
            object: Some(object),
        }
    }
}

/// Whether the objects of a kind are made of Kubernetes' own.
fn is_kubernetes(kind: Kind) -> bool {
    matches!(kind, Kind::Node | Kind::WorkloadEndpoint) || kind.only_read()
}

/// Whether a condition holds of what stands there.
fn fits(expect: &Expect, current: Option<&KeyValue>) -> bool {
    match current {
        None => matches!(expect, Expect::Any | Expect::Absent),
        Some(current) => is_met(expect, &current.key, Some(&current.version)),
    }
}

/// Whether a condition holds of an object at `current`. A Pod is written by kubelet for its own reasons: its endpoint is the
/// same as long as it is the same container's.
fn is_met(expect: &Expect, key: &Key, current: Option<&Version>) -> bool {
    let Some(current) = current else {
        return matches!(expect, Expect::Any | Expect::Absent);
    };
    match expect {
        Expect::Version(wanted) if PodName::of(key).is_some() => {
            key.kind == Kind::WorkloadEndpoint && current.life() == wanted.life()
                || current == wanted
        }
        expect => expect.holds(Some(current), None),
    }
}

fn conflict(key: Key, current: Option<KeyValue>) -> StoreError {
    StoreError::Conflict {
        key,
        current: current.map(Box::new),
    }
}

/// Whether the object is not there; a kind that is not there is something else.
fn is_absent(error: &Error) -> bool {
    matches!(error, Error::Refused(status) if status.code == 404 && status.reason == "NotFound")
}

pub(crate) fn store_error(error: Error) -> StoreError {
    match error {
        Error::Unavailable(text) => StoreError::Unavailable(text.into()),
        Error::Refused(status) => StoreError::Refused(status.to_string().into()),
    }
}

fn failed(key: &Key, error: Error) -> StoreError {
    match error {
        Error::Unavailable(text) => StoreError::Unavailable(text.into()),
        Error::Refused(status) => StoreError::Refused(format!("{key}: {status}").into()),
    }
}

fn failed_kind(kind: Kind, error: Error) -> StoreError {
    match error {
        Error::Unavailable(text) => StoreError::Unavailable(text.into()),
        Error::Refused(status) => StoreError::Refused(format!("{kind}: {status}").into()),
    }
}

/// The server's answer is not what it should be: a proxy's page, half an object.
fn unreadable(what: &str) -> StoreError {
    StoreError::Unavailable(format!("the API server's answer cannot be read: {what}").into())
}

fn others_keep_changing(key: &Key) -> StoreError {
    StoreError::Unavailable(format!("{key}: others keep changing it").into())
}

/// What a request answered, as the change that it made.
async fn changed(shared: &Shared, key: &Key, body: &Bytes) -> Result<Option<Change>, StoreError> {
    let group = shared.group(key.kind).await?;
    let seen = shared.read(group, key.kind, body)?;
    Ok(Some(Change::Put(asked_for(key, seen.object)?)))
}

/// What was read, if it is the object that was asked for.
fn asked_for(key: &Key, read: Option<KeyValue>) -> Result<KeyValue, StoreError> {
    read.filter(|object| object.key == *key)
        .ok_or_else(|| unreadable(&format!("{key}: another object")))
}
