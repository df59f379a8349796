//! Addresses of Services, as a top-of-rack router hears of them.

use std::time::Instant;

use lab::{Lab, Options};
use serde_json::{Value, json};

use crate::{options, with_programs};

const RANGE: &str = "192.0.2.0/24";
const ADDRESS: &str = "192.0.2.9/32";
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

fn kubectl(lab: &mut Lab, arguments: &[&str]) -> String {
    let answer = lab.kube().server.kubectl(arguments);
    answer.unwrap_or_else(|error| panic!("{error}"))
}

fn apply(lab: &mut Lab, object: &Value) {
    let applied = lab.kube().server.apply(&object.to_string());
    applied.unwrap_or_else(|error| panic!("{error}"));
}

/// The Service's endpoint on `n2`.
fn endpoint(lab: &mut Lab, ready: bool) {
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.2.3"], "nodeName": "n2", "conditions": {"ready": ready}}],
        "ports": [{"port": 80}],
    });
    apply(lab, &slice);
}

/// The nodes from which the router has a route, once they are these.
fn wait_announcers(lab: &Lab, prefix: &str, nodes: &[&str]) {
    let deadline = Instant::now() + lab.options.patience;
    let tor = &lab.tors[0].site.namespace;
    loop {
        let mut command = tor.command("birdc");
        command.args(["-s", "/run/bird/bird.ctl", "show", "route", prefix, "all"]);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let announces = |node: &&str| said.contains(&format!("[{node}v4"));
        let found: Vec<&str> = ["n1", "n2"].into_iter().filter(announces).collect();
        if found == nodes {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{prefix} is from {found:?}, and should be from {nodes:?}\n{said}"
        );
        std::thread::yield_now();
    }
}

#[test]
fn a_router_hears_of_a_range_from_every_node_and_of_a_local_service_from_those_with_endpoints() {
    let name = "services::a_router_hears_of_a_range_from_every_node_and_of_a_local_service_from_those_with_endpoints";
    if !lab::is_inside() && lab::find_bird().is_none() {
        harness::skip(
            "bird",
            "no program `bird` on PATH or in /usr/sbin (Debian: bird2)",
        );
    }
    with_programs(name, |programs| {
        let options = Options {
            nodes: 2,
            tors: 1,
            ..options()
        };
        let mut lab = Lab::start(options, programs).unwrap_or_else(|error| panic!("{error}"));
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]},
        });
        apply(&mut lab, &service);
        let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}}});
        let status = format!("--patch={status}");
        let patch = [
            "patch",
            "service",
            "web",
            "--subresource=status",
            "--type=merge",
            &status,
        ];
        kubectl(&mut lab, &patch);
        endpoint(&mut lab, true);
        let cluster_ip = kubectl(
            &mut lab,
            &[
                "get",
                "service",
                "web",
                "--output=jsonpath={.spec.clusterIP}",
            ],
        );
        let cluster_ip = format!("{}/32", cluster_ip.trim());
        // Nobody asked for Services before.
        let ranges = json!({"spec": {
            "serviceClusterIPs": [{"cidr": "10.0.0.0/8"}],
            "serviceLoadBalancerIPs": [{"cidr": RANGE}],
        }});
        let ranges = format!("--patch={ranges}");
        let config = "bgpconfigurations.crd.projectcalico.org/default";
        kubectl(&mut lab, &["patch", config, "--type=merge", &ranges]);
        wait_announcers(&lab, RANGE, &["n1", "n2"]);
        for address in [ADDRESS, &cluster_ip] {
            wait_announcers(&lab, address, &["n2"]);
        }
        endpoint(&mut lab, false);
        for address in [ADDRESS, &cluster_ip] {
            wait_announcers(&lab, address, &[]);
        }
        endpoint(&mut lab, true);
        wait_announcers(&lab, ADDRESS, &["n2"]);
        kubectl(&mut lab, &["delete", "endpointslice", "web-1"]);
        wait_announcers(&lab, ADDRESS, &[]);
        kubectl(
            &mut lab,
            &["label", "node", "n2", &format!("{EXCLUDE}=true")],
        );
        wait_announcers(&lab, RANGE, &["n1"]);
    });
}
