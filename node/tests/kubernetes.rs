//! What the agent asks of a real API server, with exactly the rights that the manifests give it. What it did is read with kubectl.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its place fails where it stands"
)]

#[macro_use]
extern crate harness;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use api::without_effect::RESOURCES;
use datastore_kube::{Client, Settings};
use kube_lab::ApiServer as Server;
use node::kubernetes::api_server::ApiServer;
use node::kubernetes::{Kubernetes, KubernetesError, NETWORK_IS_DOWN, NETWORK_IS_UP};
use serde_json::json;

fn main() -> std::process::ExitCode {
    kube_lab::run()
}

const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests");
const ACCOUNT: &str = "system:serviceaccount:kube-system:calico-node";

/// The shared server, with the accounts and roles of the manifests.
fn server() -> Arc<Server> {
    static GRANTED: Mutex<bool> = Mutex::new(false);

    let server = kube_lab::shared();
    let mut granted = GRANTED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*granted {
        let files = ["base/rbac.yaml", "components/cni-token/rbac.yaml"];
        for file in files {
            let path = format!("{MANIFESTS}/{file}");
            let apply = ["apply", "--server-side", "--validate=strict", "-f", &path];
            server.kubectl(&apply).unwrap();
        }
        *granted = true;
    }
    server
}

/// As the agent's pod asks.
async fn kubernetes(server: &Server) -> ApiServer {
    let file = server.folder().join("agent-kubeconfig");
    let text = server.kubeconfig_with(&server.url(), server.token_of(ACCOUNT));
    std::fs::write(&file, text).unwrap();
    let settings = Settings {
        kubeconfig: Some(file),
        ..Settings::default()
    };
    let client = Client::new(settings).await.unwrap();
    ApiServer::new(client)
}

fn make_node(server: &Server, name: &str, ranges: &[&str], address: &str) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "spec": {"podCIDR": ranges[0], "podCIDRs": ranges}});
    server.apply(&node.to_string()).unwrap();
    let status = json!({"status": {
        "addresses": [
            {"type": "Hostname", "address": name},
            {"type": "ExternalIP", "address": "198.51.100.1"},
            {"type": "InternalIP", "address": address},
        ],
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}],
    }});
    let patch = format!("--patch={status}");
    let arguments = ["patch", "node", name, "--subresource=status", &patch];
    server.kubectl(&arguments).unwrap();
}

#[test]
async fn facts_of_nodes_and_of_the_cluster_are_read() {
    let server = server();
    make_node(
        &server,
        "facts",
        &["10.244.7.0/24", "fd00:7::/64"],
        "10.0.0.7",
    );
    let kubernetes = kubernetes(&server).await;
    let facts = kubernetes.node("facts").await.unwrap().unwrap();
    assert_eq!(
        facts.internal_ips,
        ["10.0.0.7".parse::<std::net::IpAddr>().unwrap()]
    );
    let ranges: Vec<String> = facts.pod_cidrs.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["10.244.7.0/24", "fd00:7::/64"]);
    assert_eq!(kubernetes.node("nobody").await, Ok(None));
    let all = kubernetes.pod_cidrs().await.unwrap();
    assert!(
        facts.pod_cidrs.iter().all(|range| all.contains(range)),
        "{all:?}"
    );

    let configuration = "kind: ClusterConfiguration\nnetworking:\n  podSubnet: 10.244.0.0/16\n";
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "kubeadm-config", "namespace": "kube-system"},
        "data": {"ClusterConfiguration": configuration}});
    assert_eq!(
        kubernetes.config_map("kube-system", "kubeadm-config").await,
        Ok(None)
    );
    server.apply(&map.to_string()).unwrap();
    let data = kubernetes.config_map("kube-system", "kubeadm-config").await;
    assert_eq!(
        data.unwrap().unwrap()["ClusterConfiguration"],
        configuration
    );
    // One that it has no right to read is as good as none.
    assert_eq!(
        kubernetes
            .config_map("kube-system", "full-cluster-state")
            .await,
        Ok(None)
    );
}

#[test]
async fn the_controller_managers_command_line_is_read_from_its_pod() {
    let server = server();
    let kubernetes = kubernetes(&server).await;
    assert_eq!(kubernetes.controller_managers().await, Ok(Vec::new()));
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "kube-controller-manager-facts", "namespace": "kube-system",
            "labels": {"k8s-app": "kube-controller-manager"}},
        "spec": {"nodeName": "facts", "containers": [{"name": "main", "image": "none",
            "command": ["/bin/sh", "-c"], "args": ["exec kube-controller-manager --cluster-cidr=10.42.0.0/16"]}]}});
    let create = [
        "create",
        "--raw=/api/v1/namespaces/kube-system/pods",
        "--filename=-",
    ];
    server.kubectl_reading(&create, &pod.to_string()).unwrap();
    let lines = kubernetes.controller_managers().await.unwrap();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let ranges = node::kubernetes::cluster_cidrs(&lines[0]);
    assert_eq!(ranges, ["10.42.0.0/16".parse().unwrap()]);
}

#[test]
async fn calicos_controllers_are_seen_and_so_is_their_grace() {
    let server = server();
    let kubernetes = kubernetes(&server).await;
    assert_eq!(kubernetes.kube_controllers().await, Ok(false));
    assert_eq!(kubernetes.leak_grace_period().await, Ok(None), "no kind");
    let kind = "crd.projectcalico.org_kubecontrollersconfigurations";
    let path = format!("{MANIFESTS}/crds/{kind}.yaml");
    let apply = ["apply", "--server-side", "-f", &path];
    server.kubectl(&apply).unwrap();
    let definition = "crd/kubecontrollersconfigurations.crd.projectcalico.org";
    let wait = ["wait", "--for=condition=Established", definition];
    server.kubectl(&wait).unwrap();
    assert_eq!(kubernetes.leak_grace_period().await, Ok(None), "no object");
    // As Calico's controllers make it, and with a grace of one's own.
    for (node, said) in [
        (json!({"reconcilerPeriod": "5m"}), None),
        (json!({"leakGracePeriod": "7m"}), Some("7m".to_owned())),
    ] {
        let object = json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "KubeControllersConfiguration",
            "metadata": {"name": "default"}, "spec": {"controllers": {"node": node}}});
        server.apply(&object.to_string()).unwrap();
        assert_eq!(kubernetes.leak_grace_period().await, Ok(said));
    }
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "calico-kube-controllers-facts", "namespace": "kube-system",
            "labels": {"k8s-app": "calico-kube-controllers"}},
        "spec": {"nodeName": "facts", "containers": [{"name": "main", "image": "none"}]}});
    let create = [
        "create",
        "--raw=/api/v1/namespaces/kube-system/pods",
        "--filename=-",
    ];
    server.kubectl_reading(&create, &pod.to_string()).unwrap();
    assert_eq!(kubernetes.kube_controllers().await, Ok(true));
    let over = [
        "patch",
        "pod",
        "calico-kube-controllers-facts",
        "--namespace=kube-system",
        "--subresource=status",
        r#"--patch={"status":{"phase":"Succeeded"}}"#,
    ];
    server.kubectl(&over).unwrap();
    assert_eq!(kubernetes.kube_controllers().await, Ok(false), "it has run");
}

#[test]
async fn the_condition_of_a_node_is_set_and_the_others_stay() {
    let server = server();
    make_node(&server, "condition", &["10.244.8.0/24"], "10.0.0.8");
    let kubernetes = kubernetes(&server).await;
    for (condition, expected) in [
        (&NETWORK_IS_DOWN, "True CalicoIsDown"),
        (&NETWORK_IS_UP, "False CalicoIsUp"),
    ] {
        kubernetes
            .set_condition("condition", condition)
            .await
            .unwrap();
        let path =
            "-o=jsonpath={range .status.conditions[*]}{.type} {.status} {.reason}{\"\\n\"}{end}";
        let shown = server.kubectl(&["get", "node", "condition", path]).unwrap();
        assert!(
            shown.contains(&format!("NetworkUnavailable {expected}\n")),
            "{shown}"
        );
        assert!(shown.contains("Ready True KubeletReady"), "{shown}");
    }
}

#[test]
async fn a_plugins_token_is_given_and_no_other() {
    let server = server();
    let kubernetes = kubernetes(&server).await;
    let validity = Duration::from_secs(24 * 3600);
    let token = kubernetes
        .token("calico-cni-plugin", validity)
        .await
        .unwrap();
    let left = token.expires.duration_since(SystemTime::now()).unwrap();
    assert!(left > validity / 2 && left <= validity, "{left:?}");
    let endpoint = kubernetes.endpoint().await.unwrap();
    assert_eq!(endpoint.server, server.url());
    assert!(!endpoint.certificate_authority.is_empty());
    assert_eq!(token.text.split('.').count(), 3, "a JSON web token");
    let refused = kubernetes.token("calico-node", validity).await;
    assert!(matches!(refused, Err(KubernetesError::Refused(_))));
}

#[test]
async fn what_has_no_effect_is_counted_and_said_in_an_event() {
    let server = server();
    make_node(&server, "warned", &["10.244.9.0/24"], "10.0.0.9");
    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "counted", "namespace": "default"}, "spec": {"podSelector": {}}});
    server.apply(&policy.to_string()).unwrap();
    let kubernetes = kubernetes(&server).await;
    for resource in &RESOURCES {
        let expected = u64::from(resource.kind == "NetworkPolicy");
        assert_eq!(
            kubernetes.count(resource).await,
            Ok(expected),
            "{resource:?}"
        );
    }
    let told = kubernetes.warn("warned", "WithoutEffect", "1 object has no effect");
    told.await.unwrap();
    let events = server.kubectl(&["get", "events", "--output=wide"]).unwrap();
    assert!(
        events.contains("WithoutEffect") && events.contains("node/warned"),
        "{events}"
    );
}
