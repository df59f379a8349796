//! What the tests begin with.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use api::key::Kind;
use datastore::scope::Scope;
use datastore::store::{Store, StoreError, WatchEvent};
use datastore_kube::{Client, KubeStore, Options, Settings};
use futures_core::stream::BoxStream;
use kube_lab::ApiServer;
use serde_json::{Value, json};

pub(crate) type Events = BoxStream<'static, Result<WatchEvent, StoreError>>;

/// Kinds, plurals, short forms of custom resource definitions that keep whatever they are given.
const KINDS: [(&str, &str); 12] = [
    ("IPPool", "ippools"),
    ("BGPConfiguration", "bgpconfigurations"),
    ("BGPPeer", "bgppeers"),
    ("BGPFilter", "bgpfilters"),
    ("FelixConfiguration", "felixconfigurations"),
    ("ClusterInformation", "clusterinformations"),
    ("CalicoNodeStatus", "caliconodestatuses"),
    ("IPAMConfig", "ipamconfigs"),
    ("IPReservation", "ipreservations"),
    ("IPAMBlock", "ipamblocks"),
    ("BlockAffinity", "blockaffinities"),
    ("IPAMHandle", "ipamhandles"),
];

const GROUP: &str = "crd.projectcalico.org";

fn definition(kind: &str, plural: &str, group: &str, version: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group,
            "scope": "Cluster",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List")},
            "versions": [{
                "name": version, "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    })
}

/// Makes the server know Calico's kinds.
pub(crate) fn define_kinds(server: &ApiServer) {
    let define = |(kind, plural): &(&str, &str)| definition(kind, plural, GROUP, "v1").to_string();
    let definitions: Vec<String> = KINDS.iter().map(define).collect();
    server.apply(&definitions.join("\n---\n")).unwrap();
    wait_for_kinds(server);
}

/// Makes the server know some of them in the API's own group, where one has another name.
pub(crate) fn define_kinds_of_the_api(server: &ApiServer) {
    let kinds = [
        ("IPAMBlock", "ipamblocks"),
        ("BlockAffinity", "blockaffinities"),
        ("IPAMConfiguration", "ipamconfigurations"),
    ];
    let group = "projectcalico.org";
    let definitions = kinds.map(|(kind, plural)| definition(kind, plural, group, "v3").to_string());
    server.apply(&definitions.join("\n---\n")).unwrap();
    for (_, plural) in kinds {
        let name = format!("crd/{plural}.{group}");
        let arguments = [
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            &name,
        ];
        server.kubectl(&arguments).unwrap();
    }
}

fn wait_for_kinds(server: &ApiServer) {
    let names: Vec<String> = KINDS
        .iter()
        .map(|(_, plural)| format!("crd/{plural}.crd.projectcalico.org"))
        .collect();
    let mut arguments = vec!["wait", "--for=condition=Established", "--timeout=60s"];
    arguments.extend(names.iter().map(String::as_str));
    server.kubectl(&arguments).unwrap();
}

/// The shared server, with the CRDs of this project.
pub(crate) fn with_calicos_kinds() -> Arc<ApiServer> {
    static APPLIED: Mutex<bool> = Mutex::new(false);
    let server = kube_lab::shared();
    let mut applied = APPLIED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*applied {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests/crds");
        server
            .kubectl(&["apply", "--server-side", "--kustomize", folder])
            .unwrap();
        wait_for_kinds(&server);
        *applied = true;
    }
    server
}

/// Paths of Calico's kinds.
pub(crate) fn paths() -> impl Iterator<Item = String> {
    KINDS
        .iter()
        .map(|(_, plural)| format!("/apis/crd.projectcalico.org/v1/{plural}"))
}

/// An administrator.
pub(crate) async fn client(server: &ApiServer) -> Client {
    let settings = Settings {
        kubeconfig: Some(server.kubeconfig()),
        ..Settings::default()
    };
    Client::new(settings).await.unwrap()
}

/// A folder for a store's files, below the server's.
pub(crate) fn folder(server: &ApiServer) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    server.folder().join(format!("kept-{number}"))
}

pub(crate) fn store(client: Client, kept: PathBuf) -> KubeStore {
    let options = Options {
        kept: Some(kept),
        ..Options::default()
    };
    KubeStore::new(client, options)
}

/// Every change from now on.
pub(crate) async fn watch(store: &KubeStore, kind: Kind, scope: Scope) -> Events {
    let listing = store.list(kind, &scope).await.unwrap();
    store.watch(kind, scope, listing.cursor)
}
