//! The program and a real API server.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its place fails where it stands"
)]

#[macro_use]
extern crate harness;

use std::process::{Command, Output};

use kube_lab::ApiServer;
use serde_json::{Value, json};

fn main() -> std::process::ExitCode {
    kube_lab::run()
}

const CRDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/crds");

fn checksystem(server: &ApiServer) -> String {
    let config = server.folder().join("kernel-config");
    std::fs::write(&config, "CONFIG_NET_NS=y\nCONFIG_VETH=y\n").unwrap();
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_tortiectl"))
        .args(["node", "checksystem", "--kernel-config"])
        .arg(config)
        .env("DATASTORE_TYPE", "kubernetes")
        .env("KUBECONFIG", server.kubeconfig())
        .output()
        .unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

fn apply(server: &ApiServer, objects: &[Value]) {
    let texts: Vec<String> = objects.iter().map(Value::to_string).collect();
    server.apply(&texts.join("\n---\n")).unwrap();
}

/// One test: what an installer sees before the first installation, and in a cluster that has policy.
#[test]
fn checksystem_says_what_in_the_cluster_has_no_effect() {
    let server = kube_lab::shared();
    let said = checksystem(&server);
    assert!(said.contains("Nothing found."), "{said}");

    let apply_all = ["apply", "--server-side", "--kustomize", CRDS];
    server.kubectl(&apply_all).unwrap();
    let established = ["wait", "--for=condition=Established", "--timeout=120s"];
    server
        .kubectl(&[&established[..], &["crd", "--all"]].concat())
        .unwrap();
    let policy = |version: &str, kind: &str, name: &str, spec: Value| {
        json!({"apiVersion": version, "kind": kind,
            "metadata": {"name": name, "namespace": "default"}, "spec": spec})
    };
    let crd = "crd.projectcalico.org/v1";
    let cluster_wide = |kind: &str, spec: Value| json!({"apiVersion": crd, "kind": kind, "metadata": {"name": "default"}, "spec": spec});
    apply(
        &server,
        &[
            policy(
                "networking.k8s.io/v1",
                "NetworkPolicy",
                "a",
                json!({"podSelector": {}}),
            ),
            policy(
                "networking.k8s.io/v1",
                "NetworkPolicy",
                "b",
                json!({"podSelector": {}}),
            ),
            policy(
                crd,
                "NetworkPolicy",
                "default.a",
                json!({"selector": "all()"}),
            ),
            cluster_wide("GlobalNetworkPolicy", json!({"selector": "all()"})),
            cluster_wide("HostEndpoint", json!({"node": "n1"})),
            cluster_wide(
                "FelixConfiguration",
                json!({"bpfEnabled": true, "wireguardEnabled": false}),
            ),
        ],
    );
    let said = checksystem(&server);
    for line in [
        "WARNING: NetworkPolicy: 2 objects have no effect: ",
        "WARNING: Calico NetworkPolicy: 1 object has no effect: ",
        "WARNING: GlobalNetworkPolicy: 1 object has no effect: ",
        "WARNING: HostEndpoint: 1 object has no effect: ",
        "WARNING: FelixConfiguration(default): spec.bpfEnabled = true has no effect: ",
    ] {
        assert!(said.contains(line), "no {line:?} in\n{said}");
    }
    assert!(!said.contains("wireguard"), "{said}");
}
