//! The suite that every store passes. It writes texts where an API server wants objects, and makes Nodes and Pods, which
//! others make here: [`Texts`] stands between.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::key::{Key, Kind};
use bytes::Bytes;
use datastore::conformance;
use datastore::scope::Scope;
use datastore::store::{Change, Expect, KeyValue, Listing, Op, Store, StoreError, WatchEvent};
use datastore::version::Cursor;
use datastore_kube::{Client, KubeStore};
use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use futures_util::StreamExt;
use kube_lab::{ApiServer, Options};
use serde_json::{Value, json};

use crate::setup;

/// A suite that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(300);

#[test]
async fn the_store_conforms() {
    let _ = kube_lab::required(&[]);
    // Its own: it is emptied again and again.
    let started = ApiServer::start(Options::default());
    let server = started.unwrap_or_else(|error| panic!("{error}"));
    setup::define_kinds(&server);
    let client = setup::client(&server).await;
    let server = Mutex::new(server);
    let make = async || {
        empty(&client).await;
        let folder = setup::folder(&server.lock().unwrap());
        Arc::new(Texts {
            inner: setup::store(client.clone(), folder),
            client: client.clone(),
        }) as Arc<dyn Store>
    };
    let compact = async || server.lock().unwrap().compact().unwrap();
    tokio::time::timeout(DEADLINE, conformance::run_compacting(make, compact))
        .await
        .expect("the suite hangs");
}

/// Deletes whatever a test of the suite made.
async fn empty(client: &Client) {
    let at_once = json!({"gracePeriodSeconds": 0});
    let pods = client.get("/api/v1/pods").await.unwrap().unwrap();
    for pod in pods["items"].as_array().unwrap() {
        let name = |field: &str| pod["metadata"][field].as_str().unwrap().to_owned();
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}",
            name("namespace"),
            name("name")
        );
        client.delete(&path, &at_once).await.unwrap();
    }
    for path in setup::paths().chain(["/api/v1/nodes".to_owned()]) {
        client.delete(&path, &at_once).await.unwrap();
    }
}

/// Keeps texts in objects.
struct Texts {
    inner: KubeStore,
    client: Client,
}

/// An object that holds a text, as the kind allows.
fn object(key: &Key, text: &str) -> Bytes {
    let mut object =
        json!({"metadata": {"name": key.name, "namespace": key.namespace}, "spec": {}});
    match key.kind {
        Kind::Node => object["metadata"]["annotations"] = json!({"text": text}),
        Kind::WorkloadEndpoint => {
            object["spec"] =
                json!({"containerID": "c", "ipNetworks": ["10.0.0.1/32"], "text": text});
        }
        _ => object["spec"]["text"] = text.into(),
    }
    object.to_string().into()
}

fn text(kind: Kind, object: &[u8]) -> Option<Bytes> {
    let object: Value = serde_json::from_slice(object).unwrap();
    let text = match kind {
        Kind::Node => &object["metadata"]["annotations"]["text"],
        _ => &object["spec"]["text"],
    };
    text.as_str().map(|text| text.to_owned().into())
}

fn read(item: KeyValue) -> Option<KeyValue> {
    let value = text(item.key.kind, &item.value)?;
    Some(KeyValue { value, ..item })
}

fn change(change: Change) -> Option<Change> {
    match change {
        Change::Put(item) => read(item).map(Change::Put),
        deleted @ Change::Delete { .. } => Some(deleted),
    }
}

fn error(error: StoreError) -> StoreError {
    match error {
        StoreError::Conflict { key, current } => {
            let current = current.and_then(|current| read(*current)).map(Box::new);
            StoreError::Conflict { key, current }
        }
        other => other,
    }
}

impl Texts {
    /// What kubelet and the scheduler do.
    async fn make_kubernetes_object(&self, key: &Key) {
        let (path, object) = match key.kind {
            Kind::Node => (
                "/api/v1/nodes".to_owned(),
                json!({"metadata": {"name": key.name}}),
            ),
            Kind::WorkloadEndpoint => {
                let namespace = json!({"metadata": {"name": key.namespace}});
                self.make("/api/v1/namespaces", namespace).await;
                let parts = key.name.replace("--", "\0");
                let parts: Vec<String> = parts
                    .split('-')
                    .map(|part| part.replace('\0', "-"))
                    .collect();
                let spec =
                    json!({"nodeName": parts[0], "containers": [{"name": "c", "image": "none"}]});
                (
                    format!("/api/v1/namespaces/{}/pods", key.namespace),
                    json!({"metadata": {"name": parts[2]}, "spec": spec}),
                )
            }
            _ => return,
        };
        self.make(&path, object).await;
    }

    async fn make(&self, path: &str, object: Value) {
        match self.client.create(path, &object).await {
            Err(error) if !error.is_conflict() => panic!("{path}: {error}"),
            _ => {}
        }
    }

    async fn written(&self, op: Op) -> Result<Option<Change>, StoreError> {
        let op = match op {
            Op::Put { key, value, expect } => {
                self.make_kubernetes_object(&key).await;
                let expect = match expect {
                    // It was just made.
                    Expect::Absent if key.kind == Kind::Node => Expect::Any,
                    expect => expect,
                };
                let value = object(&key, std::str::from_utf8(&value).unwrap());
                Op::Put { key, value, expect }
            }
            op => op,
        };
        let written = self.inner.write(op).await.map_err(error)?;
        Ok(written.and_then(change))
    }
}

impl Store for Texts {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KeyValue>, StoreError>> {
        Box::pin(async { Ok(self.inner.get(key).await?.and_then(read)) })
    }

    fn list<'a>(
        &'a self,
        kind: Kind,
        scope: &'a Scope,
    ) -> BoxFuture<'a, Result<Listing, StoreError>> {
        Box::pin(async move {
            let Listing { items, cursor } = self.inner.list(kind, scope).await?;
            let items = items.into_iter().filter_map(read).collect();
            Ok(Listing { items, cursor })
        })
    }

    fn names(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Key>, StoreError>> {
        self.inner.names(kind)
    }

    fn write(&self, op: Op) -> BoxFuture<'_, Result<Option<Change>, StoreError>> {
        Box::pin(self.written(op))
    }

    fn watch(
        &self,
        kind: Kind,
        scope: Scope,
        after: Cursor,
    ) -> BoxStream<'static, Result<WatchEvent, StoreError>> {
        let told = self
            .inner
            .watch(kind, scope, after)
            .map(|event| match event {
                Ok(WatchEvent::Change(told, cursor)) => Ok(match change(told) {
                    Some(told) => WatchEvent::Change(told, cursor),
                    None => WatchEvent::Bookmark(cursor),
                }),
                other => other,
            });
        told.boxed()
    }

    fn identity(&self) -> BoxFuture<'_, Result<Arc<str>, StoreError>> {
        self.inner.identity()
    }

    fn contains<'a>(&'a self, cursor: &'a Cursor) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.inner.contains(cursor)
    }
}
