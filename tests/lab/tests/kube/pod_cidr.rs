//! USE_POD_CIDR: pods' addresses come from their node's range of Kubernetes, given out by the standard plugin host-local.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::Path;

use lab::{Lab, Options};
use serde_json::json;

use crate::traffic::converged;
use crate::{options, with_programs};

/// Where Debian's containernetworking-plugins has it.
const HOST_LOCAL: &str = "/usr/lib/cni/host-local";
/// Where the lab's runtime looks for plugins, and for the network configuration.
const PLUGINS: &str = "/run/tortie-lab/cni-bin";
const CONFLIST: &str = "/etc/cni/net.d/10-calico.conflist";

/// Where host-local notes the addresses of a node.
fn notes(node: &str) -> String {
    format!("/run/tortie-lab/host-local-{node}")
}

fn give_ranges(lab: &mut Lab) {
    for (number, site) in lab.topology.sites.clone().into_iter().enumerate() {
        let range = format!("10.77.{number}.0/24");
        let patch = json!({"spec": {"podCIDR": range, "podCIDRs": [range]}});
        let patch = format!("--patch={patch}");
        let arguments = ["patch", "node", &site.name, "--type=merge", &patch];
        let patched = lab.kube().server.kubectl(&arguments);
        patched.unwrap_or_else(|error| panic!("{error}"));
        let conflist = json!({
            "name": "k8s-pod-network",
            "cniVersion": "1.0.0",
            "plugins": [{
                "type": "calico",
                "datastore_type": "kubernetes",
                "ipam": {
                    "type": "host-local", "dataDir": notes(&site.name), "ranges": [[{"subnet": "usePodCidr"}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
                "policy": {"type": "k8s"},
            }],
        });
        let write = || std::fs::write(CONFLIST, conflist.to_string());
        site.namespace.run(write).unwrap();
    }
}

/// Addresses that host-local holds on a node.
fn held(node: &str) -> Vec<String> {
    let entries = std::fs::read_dir(Path::new(&notes(node)).join("k8s-pod-network"));
    let names = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut held: Vec<String> = names.filter(|name| name.starts_with("10.")).collect();
    held.sort();
    held
}

#[test]
fn pods_have_addresses_of_their_nodes_range_and_bgp_announces_it() {
    let name = "pod_cidr::pods_have_addresses_of_their_nodes_range_and_bgp_announces_it";
    if !lab::is_inside() && !Path::new(HOST_LOCAL).exists() {
        harness::skip(
            "host-local",
            "no /usr/lib/cni/host-local (Debian: containernetworking-plugins)",
        );
    }
    with_programs(name, |programs| {
        let options = Options {
            nodes: 2,
            pool: "10.77.0.0/16".to_owned(),
            // What the proof takes for a node's block.
            block_size: 24,
            environment: vec![("USE_POD_CIDR".to_owned(), "true".to_owned())],
            ..options()
        };
        let mut lab =
            Lab::without_agents(options, programs).unwrap_or_else(|error| panic!("{error}"));
        symlink(HOST_LOCAL, Path::new(PLUGINS).join("host-local")).unwrap();
        give_ranges(&mut lab);
        lab.start_agents().unwrap_or_else(|error| panic!("{error}"));
        lab.fill_pods(2)
            .unwrap_or_else(|errors| panic!("{errors:?}"));
        let mut given: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for pod in &lab.pods {
            given
                .entry(&pod.node)
                .or_default()
                .push(pod.address.to_string());
        }
        for (node, range) in [("n1", "10.77.0."), ("n2", "10.77.1.")] {
            let addresses = given.get_mut(node).unwrap();
            addresses.sort();
            assert!(
                addresses.iter().all(|address| address.starts_with(range)),
                "{node}: {addresses:?}"
            );
            assert_eq!(held(node), *addresses, "{node}");
        }
        converged(&mut lab);
        let proof = lab.prove();
        assert!(proof.faults.is_empty(), "{:#?}", proof.faults);
        let blocks = ["get", "ipamblocks,blockaffinities", "--output=name"];
        let blocks = lab.kube().server.kubectl(&blocks);
        assert_eq!(blocks.unwrap_or_else(|error| panic!("{error}")), "");

        lab.delete_pods()
            .unwrap_or_else(|errors| panic!("{errors:?}"));
        assert_eq!(
            [held("n1"), held("n2")],
            [const { Vec::<String>::new() }; 2]
        );
    });
}
