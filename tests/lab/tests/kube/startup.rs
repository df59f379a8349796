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
