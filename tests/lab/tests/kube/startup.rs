//! What an agent finds out from Kubernetes when it starts, and says there about its node.

use std::time::Instant;

use lab::{Lab, Options};

use crate::{options, with_programs};

/// One node that is to find out its address and the range of its pods by itself.
fn one_node() -> Options {
    let unset = ["CALICO_IPV4POOL_CIDR", "FELIX_IPV6SUPPORT"];
    let mut environment: Vec<(String, String)> = unset
        .into_iter()
        .map(|name| (name.to_owned(), String::new()))
        .collect();
    for (name, value) in [
        ("IP", "autodetect"),
        ("IP_AUTODETECTION_METHOD", "kubernetes-internal-ip"),
        ("CLUSTER_TYPE", "k8s,bgp"),
        ("WAIT_FOR_DATASTORE", "true"),
    ] {
        environment.push((name.to_owned(), value.to_owned()));
    }
    Options {
        nodes: 1,
        environment,
        ..options()
    }
}

/// What kubectl shows of an object.
fn shown(lab: &mut Lab, what: &[&str], path: &str) -> String {
    let path = format!("--output=jsonpath={{{path}}}");
    let arguments = [&["get"], what, &[path.as_str()]].concat();
    lab.kube()
        .server
        .kubectl(&arguments)
        .unwrap_or_else(|error| panic!("{what:?}: {error}"))
}

fn network_unavailable(lab: &mut Lab, field: &str) -> String {
    let path = format!(".status.conditions[?(@.type=='NetworkUnavailable')].{field}");
    shown(lab, &["node", "n1"], &path)
}

/// Waits until the condition has this reason.
fn reason_becomes(lab: &mut Lab, wanted: &str) {
    let deadline = Instant::now() + lab.options.patience;
    let mut reason = network_unavailable(lab, "reason");
    while reason != wanted {
        assert!(Instant::now() < deadline, "{reason:?} is not {wanted:?}");
        std::thread::yield_now();
        reason = network_unavailable(lab, "reason");
    }
}

#[test]
fn a_node_of_a_kubeadm_cluster_starts_with_the_clusters_facts_and_says_when_its_network_is_there() {
    let name = "startup::a_node_of_a_kubeadm_cluster_starts_with_the_clusters_facts_and_says_when_its_network_is_there";
    with_programs(name, |programs| {
        let mut lab =
            Lab::without_agents(one_node(), programs).unwrap_or_else(|error| panic!("{error}"));
        let configuration =
            "ClusterConfiguration=networking:\n  podSubnet: 10.77.0.0/16,fd77:1::/56\n";
        let literal = format!("--from-literal={configuration}");
        let made = lab.kube().server.kubectl(&[
            "create",
            "configmap",
            "kubeadm-config",
            "--namespace=kube-system",
            &literal,
        ]);
        made.unwrap_or_else(|error| panic!("{error}"));
        lab.start_agents().unwrap_or_else(|error| panic!("{error}"));

        let pools = "ippools.crd.projectcalico.org";
        let cidr = |lab: &mut Lab, pool| shown(lab, &[pools, pool], ".spec.cidr");
        assert_eq!(cidr(&mut lab, "default-ipv4-ippool"), "10.77.0.0/16");
        assert_eq!(cidr(&mut lab, "default-ipv6-ippool"), "fd77:1::/56");
        let information = ["clusterinformations.crd.projectcalico.org", "default"];
        let words = shown(&mut lab, &information, ".spec.clusterType");
        assert_eq!(words, "k8s,bgp,kubeadm");
        let site = lab.topology.sites[0].address.to_string();
        let annotation = ".metadata.annotations.projectcalico\\.org/IPv4Address";
        let written = shown(&mut lab, &["node", "n1"], annotation);
        assert!(written.starts_with(&format!("{site}/")), "{written}");
        reason_becomes(&mut lab, "CalicoIsUp");
        assert_eq!(network_unavailable(&mut lab, "status"), "False");
        let message = network_unavailable(&mut lab, "message");
        assert_eq!(message, "Calico is running on this node");

        // What a DaemonSet calls before the container stops, under the name it has in Calico's manifests.
        let stopped = lab.node_program(0, &["-shutdown"]).unwrap();
        assert!(stopped.status.success(), "{stopped:?}");
        assert_eq!(network_unavailable(&mut lab, "reason"), "CalicoIsDown");
        assert_eq!(network_unavailable(&mut lab, "status"), "True");
        lab.terminate_agent(0).unwrap();
        lab.restart_agent(0)
            .unwrap_or_else(|error| panic!("{error}"));
        reason_becomes(&mut lab, "CalicoIsUp");
    });
}

#[test]
fn a_start_without_a_fact_that_nobody_may_guess_ends_and_names_the_variable() {
    let name = "startup::a_start_without_a_fact_that_nobody_may_guess_ends_and_names_the_variable";
    with_programs(name, |programs| {
        let mut lab =
            Lab::without_agents(one_node(), programs).unwrap_or_else(|error| panic!("{error}"));
        let pools = "ippools.crd.projectcalico.org";
        let refused = |lab: &mut Lab, words: &[&str]| {
            let output = lab.node_program(0, &[]).unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{said}");
            for word in words {
                assert!(said.contains(word), "no {word:?} in: {said}");
            }
            assert_eq!(shown(lab, &[pools], ".items"), "[]");
        };
        // A name that kubelet registered no Node under.
        lab.options
            .environment
            .push(("NODENAME".to_owned(), "nobody".to_owned()));
        refused(&mut lab, &["\"nobody\"", "NODENAME", "spec.nodeName"]);
        lab.options.environment.pop();

        // The range of one node is not the cluster's.
        let ranges =
            r#"--patch={"spec": {"podCIDR": "10.42.3.0/24", "podCIDRs": ["10.42.3.0/24"]}}"#;
        let patch = ["patch", "node", "n1", ranges];
        let patched = lab.kube().server.kubectl(&patch);
        patched.unwrap_or_else(|error| panic!("{error}"));
        let words = ["CALICO_IPV4POOL_CIDR", "10.42.3.0/24", "--cluster-cidr"];
        refused(&mut lab, &words);

        // A controller manager that runs as a Pod has it in its command line.
        let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "kube-controller-manager-n1", "namespace": "kube-system",
                "labels": {"component": "kube-controller-manager"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "kube-controller-manager", "image": "none",
                "command": ["kube-controller-manager", "--cluster-cidr=10.42.0.0/16", "--allocate-node-cidrs=true"]}]}});
        let path = "--raw=/api/v1/namespaces/kube-system/pods";
        let create = ["create", path, "--filename=-"];
        let created = lab.kube().server.kubectl_reading(&create, &pod.to_string());
        created.unwrap_or_else(|error| panic!("{error}"));
        lab.start_agents().unwrap_or_else(|error| panic!("{error}"));
        let cidr = shown(&mut lab, &[pools, "default-ipv4-ippool"], ".spec.cidr");
        assert_eq!(cidr, "10.42.0.0/16");
    });
}

#[test]
fn an_interface_that_comes_later_is_in_the_node_after_the_next_look() {
    let name = "startup::an_interface_that_comes_later_is_in_the_node_after_the_next_look";
    with_programs(name, |programs| {
        let mut some = Options {
            nodes: 1,
            ..options()
        };
        let often = ("AUTODETECT_POLL_INTERVAL", "1s");
        some.environment
            .push((often.0.to_owned(), often.1.to_owned()));
        let mut lab = Lab::start(some, programs).unwrap_or_else(|error| panic!("{error}"));
        let annotation = ".metadata.annotations.projectcalico\\.org/Interfaces";
        let before = shown(&mut lab, &["node", "n1"], annotation);
        assert!(!before.contains("10.9.9.9"), "{before}");
        let mut netlink = lab.topology.sites[0].namespace.netlink().unwrap();
        netlink.add_bridge("second").unwrap();
        let address = "10.9.9.9/24".parse().unwrap();
        netlink.add_address("second", address).unwrap();
        let deadline = Instant::now() + lab.options.patience;
        let mut after = before.clone();
        while !(after.contains("second") && after.contains("10.9.9.9")) {
            assert!(Instant::now() < deadline, "{after}");
            std::thread::yield_now();
            after = shown(&mut lab, &["node", "n1"], annotation);
        }
    });
}
