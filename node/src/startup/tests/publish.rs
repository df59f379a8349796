//! What a start writes, and in which order.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use datastore::store::{Change, KeyValue, Listing, WatchEvent};
use datastore::version::Cursor;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use ipam::Ipam;
use serde_json::{Value, json};

use super::*;
use crate::scratch::Scratch;

/// A store that notes which kinds are written, and whether a file is there by then.
struct Noting {
    store: MemoryStore,
    file: PathBuf,
    written: Mutex<Vec<(Kind, bool)>>,
}

impl Noting {
    fn new(file: &Path) -> Arc<Self> {
        Arc::new(Self {
            store: MemoryStore::new(),
            file: file.to_owned(),
            written: Mutex::default(),
        })
    }

    /// Kinds in the order in which they were written, without repetitions.
    fn kinds(&self) -> Vec<Kind> {
        let written = self.written.lock().unwrap();
        let mut kinds: Vec<Kind> = written.iter().map(|(kind, _)| *kind).collect();
        kinds.dedup();
        kinds
    }
}

impl Store for Noting {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KeyValue>, StoreError>> {
        self.store.get(key)
    }

    fn list<'a>(
        &'a self,
        kind: Kind,
        scope: &'a Scope,
    ) -> BoxFuture<'a, Result<Listing, StoreError>> {
        self.store.list(kind, scope)
    }

    fn write(&self, op: Op) -> BoxFuture<'_, Result<Option<Change>, StoreError>> {
        if !matches!(op, Op::Check { .. }) {
            let note = (op.key().kind, self.file.exists());
            self.written.lock().unwrap().push(note);
        }
        self.store.write(op)
    }

    fn watch(
        &self,
        kind: Kind,
        scope: Scope,
        after: Cursor,
    ) -> BoxStream<'static, Result<WatchEvent, StoreError>> {
        self.store.watch(kind, scope, after)
    }

    fn identity(&self) -> BoxFuture<'_, Result<Arc<str>, StoreError>> {
        self.store.identity()
    }

    fn contains<'a>(&'a self, cursor: &'a Cursor) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.store.contains(cursor)
    }
}

/// A start with this backend, up to the nodename file.
async fn publish(store: &Arc<Noting>, backend: &str) {
    let host = one_interface("10.0.0.1/24");
    let file = store.file.display().to_string();
    let variables = [
        ("CALICO_NETWORKING_BACKEND", backend),
        ("CALICO_IPV4POOL_CIDR", "10.48.0.0/16"),
        ("CALICO_IPV4POOL_VXLAN", "Always"),
        ("CALICO_IPV6POOL_CIDR", "none"),
        ("CALICO_NODENAME_FILE", &file),
        ("AS", "65001"),
    ];
    let owned = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let params = Params::from_env(owned).unwrap();
    let startup = Startup {
        waits: crate::startup::Waits::default(),
        params: &params,
        host: &host,
        store: Arc::clone(store) as Arc<dyn Store>,
        kubernetes: None,
    };
    let cluster = startup.cluster_facts().await.unwrap();
    let identity = startup.facts("n1", None).await.unwrap();
    let pools = startup.missing_pools(&cluster).await.unwrap();
    startup.write_shared(pools, &cluster.types).await.unwrap();
    let ipam = Ipam::new(Arc::clone(&startup.store), "n1");
    startup.join(&identity, &ipam).await.unwrap();
}

async fn object(store: &Noting, kind: Kind, name: &str) -> Option<Value> {
    let stored = store.get(&Key::new(kind, name)).await.unwrap()?;
    serde_json::from_slice(&stored.value).ok()
}

#[tokio::test]
async fn objects_come_before_the_nodename_file_and_the_pool_before_the_node() {
    let scratch = Scratch::new();
    let store = Noting::new(&scratch.path().join("nodename"));
    publish(&store, "bird").await;
    let kinds = store.kinds();
    assert_eq!(
        kinds[..7],
        [
            Kind::IPPool,
            Kind::FelixConfiguration,
            Kind::BGPConfiguration,
            Kind::IPAMConfig,
            Kind::ClusterInformation,
            // The node's own.
            Kind::FelixConfiguration,
            Kind::Node,
        ]
    );
    // The tunnel's address: from a block, under a handle; into the Node once the device takes packets.
    assert!(kinds[7..].contains(&Kind::IPAMBlock) && kinds[7..].contains(&Kind::IPAMHandle));
    assert!(!kinds[7..].contains(&Kind::Node));
    let written = store.written.lock().unwrap().clone();
    assert!(written.iter().all(|(_, named)| !named), "{written:?}");
    assert_eq!(std::fs::read_to_string(&store.file).unwrap(), "n1");
    assert!(!store.file.with_extension("new").exists());
}

#[tokio::test]
async fn a_node_of_backend_vxlan_is_written_and_one_without_backend_is_not() {
    for (backend, written) in [("vxlan", true), ("none", false)] {
        let scratch = Scratch::new();
        let store = Noting::new(&scratch.path().join("nodename"));
        publish(&store, backend).await;
        let node = object(&store, Kind::Node, "n1").await;
        assert_eq!(node.is_some(), written, "{backend}");
        if let Some(node) = node {
            assert_eq!(node["spec"]["bgp"]["ipv4Address"], "10.0.0.1/24");
            assert_eq!(node["spec"]["bgp"]["asNumber"], 65001);
        }
        // Pools and the rest are for all nodes.
        let pool = object(&store, Kind::IPPool, "default-ipv4-ippool").await;
        assert!(pool.is_some(), "{backend}");
        assert!(store.file.exists(), "{backend}");
    }
}

#[tokio::test]
async fn the_default_objects_are_calicos_and_those_that_exist_stay() {
    let scratch = Scratch::new();
    let store = Noting::new(&scratch.path().join("nodename"));
    publish(&store, "bird").await;
    let spec = async |kind| object(&store, kind, "default").await.unwrap()["spec"].clone();
    let felix = json!({"logSeverityScreen": "Info", "reportingInterval": "0s"});
    assert_eq!(spec(Kind::FelixConfiguration).await, felix);
    assert_eq!(spec(Kind::BGPConfiguration).await, json!({}));
    let ipam = spec(Kind::IPAMConfig).await;
    assert_eq!(ipam["autoAllocateBlocks"], true);
    assert_eq!(ipam["strictAffinity"], false);
    assert!(matches!(
        ipam.get("maxBlocksPerHost"),
        None | Some(Value::Number(_))
    ));

    let key = Key::new(Kind::BGPConfiguration, "default");
    let mine = json!({"metadata": {"name": "default"}, "spec": {"asNumber": 64600}});
    let put = Op::Put {
        key,
        value: mine.to_string().into(),
        expect: Expect::Any,
    };
    store.write(put).await.unwrap();
    publish(&store, "bird").await;
    assert_eq!(
        spec(Kind::BGPConfiguration).await,
        json!({"asNumber": 64600})
    );
}
