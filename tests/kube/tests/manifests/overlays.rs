//! What kustomize makes of them.

use std::collections::BTreeMap;

use kube_lab::ApiServer;
use serde_json::Value;

use crate::{manifests, server};

/// The objects of a folder, as the API server would take them.
fn rendered(server: &ApiServer, folder: &str) -> Vec<Value> {
    let text = server.kubectl(&["kustomize", &manifests(folder)]).unwrap();
    let strictly = ["apply", "--server-side", "--validate=strict"];
    let dry = ["--dry-run=server", "--output=json", "-f", "-"];
    let taken = server
        .kubectl_reading(&[&strictly[..], &dry[..]].concat(), &text)
        .unwrap();
    let list: Value = serde_json::from_str(&taken).unwrap();
    list["items"].as_array().unwrap().clone()
}

fn one<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let mut found = objects
        .iter()
        .filter(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    let one = found.next().unwrap_or_else(|| panic!("no {kind} {name}"));
    assert_eq!(found.next(), None);
    one
}

/// The pod's one container of a DaemonSet or Deployment.
fn container(workload: &Value) -> &Value {
    &workload["spec"]["template"]["spec"]["containers"][0]
}

fn environment(container: &Value) -> BTreeMap<&str, &str> {
    let variables = container["env"].as_array().unwrap().iter();
    variables
        .map(|variable| {
            let value = variable["value"].as_str();
            (
                variable["name"].as_str().unwrap(),
                value.unwrap_or("from elsewhere"),
            )
        })
        .collect()
}

fn probe(container: &Value, name: &str) -> String {
    let command = container[name]["exec"]["command"].as_array().unwrap();
    let words: Vec<&str> = command.iter().filter_map(Value::as_str).collect();
    words.join(" ")
}

#[test]
fn each_overlay_is_taken_strictly_and_chooses_backend_pool_and_probes() {
    let server = server();
    for (overlay, backend, ipip, vxlan, bgp) in [
        ("bgp", "bird", "Never", "Never", true),
        ("ipip", "bird", "Always", "Never", true),
        ("vxlan", "vxlan", "Never", "Always", false),
        ("vxlan-crosssubnet", "vxlan", "Never", "CrossSubnet", false),
    ] {
        let objects = rendered(&server, &format!("overlays/{overlay}"));
        let config = one(&objects, "ConfigMap", "calico-config");
        assert_eq!(config["data"]["calico_backend"], backend, "{overlay}");
        let list = config["data"]["cni_network_config"].as_str().unwrap();
        let list = list.replace("__CNI_MTU__", "0");
        serde_json::from_str::<Value>(&list).expect("the network configuration list is JSON");

        let agent = container(one(&objects, "DaemonSet", "calico-node"));
        let environment = environment(agent);
        assert_eq!(environment["CALICO_IPV4POOL_IPIP"], ipip, "{overlay}");
        assert_eq!(environment["CALICO_IPV4POOL_VXLAN"], vxlan, "{overlay}");
        assert!(!environment.contains_key("IP6"), "{overlay}");
        assert_eq!(environment["DATASTORE_TYPE"], "kubernetes");
        assert_eq!(environment["FELIX_IPV6SUPPORT"], "false");
        assert!(environment.contains_key("NODENAME"));
        let ready = probe(agent, "readinessProbe");
        assert!(ready.contains("--felix-ready"), "{ready}");
        assert_eq!(ready.contains("--bird-ready"), bgp, "{overlay}: {ready}");
        let live = probe(agent, "livenessProbe");
        assert_eq!(live.contains("--bird-live"), bgp, "{overlay}: {live}");
    }
}

#[test]
fn the_daemon_set_runs_on_every_node_and_is_replaced_node_by_node() {
    let server = server();
    let objects = rendered(&server, "base");
    let set = one(&objects, "DaemonSet", "calico-node");
    let update = &set["spec"]["updateStrategy"]["rollingUpdate"];
    assert_eq!(update["maxUnavailable"], 1);
    assert_eq!(
        set["spec"]["selector"]["matchLabels"]["k8s-app"],
        "calico-node"
    );
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(pod["hostNetwork"], true);
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    let tolerated = pod["tolerations"].as_array().unwrap();
    for effect in ["NoSchedule", "NoExecute"] {
        let any =
            |toleration: &Value| toleration["effect"] == effect && toleration.get("key").is_none();
        assert!(tolerated.iter().any(any), "{effect}");
    }
    let mounted = container(set)["volumeMounts"].as_array().unwrap();
    let paths: Vec<&str> = mounted
        .iter()
        .filter_map(|mount| mount["mountPath"].as_str())
        .collect();
    assert_eq!(paths, ["/var/run/calico", "/var/lib/calico"]);
    let plugin = &pod["initContainers"][0];
    assert!(plugin["securityContext"].get("privileged").is_none());
    let dropped = &plugin["securityContext"]["capabilities"]["drop"];
    assert_eq!(*dropped, serde_json::json!(["ALL"]));
}

#[test]
fn reflectors_and_agents_never_share_a_node() {
    let server = server();
    let label = "node-role.kubernetes.io/route-reflector";
    let reflectors = rendered(&server, "route-reflector");
    let deployment = one(&reflectors, "Deployment", "tortie-rr");
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["nodeSelector"][label], "");
    assert!(
        container(deployment)["securityContext"]
            .get("privileged")
            .is_none()
    );

    let objects = rendered(&server, "base");
    let pod = &one(&objects, "DaemonSet", "calico-node")["spec"]["template"]["spec"];
    let required =
        &pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let expression = &required["nodeSelectorTerms"][0]["matchExpressions"][0];
    assert_eq!(expression["key"], label);
    assert_eq!(expression["operator"], "DoesNotExist");
}

/// A component cannot be applied alone: the test stands where an operator's own overlay would.
#[test]
fn the_component_for_a_plugins_token_adds_the_account_and_its_directory() {
    let server = server();
    let objects = with_component(&server, "bgp", "cni-token");
    one(&objects, "ServiceAccount", "calico-cni-plugin");
    let agent = container(one(&objects, "DaemonSet", "calico-node"));
    assert_eq!(environment(agent)["CALICO_MANAGE_CNI"], "true");
    let mounted = agent["volumeMounts"].as_array().unwrap().iter();
    let mut paths = mounted.filter_map(|mount| mount["mountPath"].as_str());
    assert!(paths.any(|path| path == "/host/etc/cni/net.d"));
}

#[test]
fn the_component_for_both_families_asks_for_them_and_leaves_the_rest_as_it_is() {
    let server = server();
    for (overlay, vxlan) in [("bgp", None), ("vxlan", Some("Always"))] {
        let objects = with_component(&server, overlay, "dual-stack");
        let alone = rendered(&server, &format!("overlays/{overlay}"));
        let agent = container(one(&objects, "DaemonSet", "calico-node"));
        let mut both = environment(agent);
        assert_eq!(both.get("CALICO_IPV6POOL_VXLAN").copied(), vxlan);
        assert_eq!(both.remove("IP6"), Some("autodetect"));
        assert_eq!(both.insert("FELIX_IPV6SUPPORT", "false"), Some("true"));
        assert!(both.remove("FELIX_VXLANMTUV6").is_some());
        let before = container(one(&alone, "DaemonSet", "calico-node"));
        assert_eq!(both, environment(before), "{overlay}");

        let list = |objects: &[Value]| -> Value {
            let config = one(objects, "ConfigMap", "calico-config");
            let list = config["data"]["cni_network_config"].as_str().unwrap();
            serde_json::from_str(&list.replace("__CNI_MTU__", "0")).unwrap()
        };
        let mut wanted = list(&alone);
        let families = serde_json::json!({"type": "calico-ipam", "assign_ipv4": "true", "assign_ipv6": "true"});
        wanted["plugins"][0]["ipam"] = families;
        assert_eq!(list(&objects), wanted, "{overlay}");
    }
}

/// The objects of an overlay with a component.
fn with_component(server: &ApiServer, overlay: &str, component: &str) -> Vec<Value> {
    // Kustomize takes relative paths only.
    let folder = tempfolder(server, &format!("{overlay}-{component}"));
    let own = format!(
        "resources: [{}]\ncomponents: [{}]\n",
        relative(&folder, &format!("overlays/{overlay}")),
        relative(&folder, &format!("components/{component}"))
    );
    std::fs::write(folder.join("kustomization.yaml"), own).unwrap();
    rendered(server, &folder.display().to_string())
}

fn tempfolder(server: &ApiServer, name: &str) -> std::path::PathBuf {
    let folder = server.folder().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder.canonicalize().unwrap()
}

fn relative(from: &std::path::Path, path: &str) -> String {
    let to = std::fs::canonicalize(manifests(path)).unwrap();
    let up = "../".repeat(from.components().count() - 1);
    format!("{up}{}", to.strip_prefix("/").unwrap().display())
}
