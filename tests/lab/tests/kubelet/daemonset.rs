//! The DaemonSet of manifests/ with this project's image.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};
use std::time::{Duration, Instant};

use lab::kubelet::KubeletCluster;
use lab::{Families, NetNs, SourceReporter, Stream};
use serde_json::{Value, json};

use crate::{PATIENCE, with_product};

/// Addresses of the Service that leads to pod `b`.
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 80);
const SERVICE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x80);

#[test]
fn pods_are_addressed_by_the_plugin_and_reach_each_other_and_an_upgrade_loses_no_packet() {
    let name = "daemonset::pods_are_addressed_by_the_plugin_and_reach_each_other_and_an_upgrade_loses_no_packet";
    with_product(name, Families::Both, |mut cluster| {
        let done = |what: &str, started: Instant| println!("{what} after {:?}", started.elapsed());
        let started = Instant::now();
        cluster
            .install("bgp")
            .unwrap_or_else(|error| panic!("{error}"));
        cluster
            .wait_nodes_ready()
            .unwrap_or_else(|error| panic!("{error}"));
        done("nodes ready", started);
        cluster.server.apply(&pods()).unwrap();
        for pod in ["a", "b"] {
            cluster
                .wait_pod(pod)
                .unwrap_or_else(|error| panic!("{error}"));
        }
        done("pods ready", started);
        logs_and_exec(&cluster);
        reach(&mut cluster);
        host_port_and_service(&mut cluster);
        upgrade(&mut cluster, restart);
    });
}

/// The first node that speaks BGP has nobody to speak it with until the last one does. The pool stays in VXLAN all the while.
#[test]
fn an_upgrade_in_vxlan_that_brings_bgp_goes_through_by_itself_and_loses_no_packet() {
    let name =
        "daemonset::an_upgrade_in_vxlan_that_brings_bgp_goes_through_by_itself_and_loses_no_packet";
    with_product(name, Families::Both, |mut cluster| {
        cluster
            .install("vxlan")
            .and_then(|()| cluster.wait_nodes_ready())
            .unwrap_or_else(|error| panic!("{error}"));
        cluster.server.apply(&pods()).unwrap();
        for pod in ["a", "b"] {
            cluster
                .wait_pod(pod)
                .unwrap_or_else(|error| panic!("{error}"));
        }
        reach(&mut cluster);
        upgrade(&mut cluster, |cluster| {
            cluster
                .install("bgp")
                .unwrap_or_else(|error| panic!("{error}"));
        });
    });
}

/// Has every agent replaced by its like.
fn restart(cluster: &KubeletCluster) {
    let words = [
        "rollout",
        "restart",
        "--namespace=kube-system",
        "daemonset/calico-node",
    ];
    cluster.server.kubectl(&words).unwrap();
}

/// One pod on each node; `b` serves its name over HTTP, on a port of its node and through a Service, too.
fn pods() -> String {
    let pod = |name: &str, node: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "dnsPolicy": "Default", "containers": [{
                "name": "main", "image": "busybox:lab", "imagePullPolicy": "Never",
                "command": ["/bin/sh", "-c", "mkdir /www && hostname >/www/name && echo serving && exec httpd -f -p 80 -h /www"],
                "ports": [{"containerPort": 80, "hostPort": 8080}],
            }]},
        })
    };
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "b"},
        "spec": {
            "selector": {"app": "b"}, "ipFamilyPolicy": "RequireDualStack",
            "clusterIP": SERVICE, "clusterIPs": [SERVICE, SERVICE6],
            "ports": [{"port": 80}],
        },
    });
    [pod("a", "n1"), pod("b", "n2"), service]
        .map(|object| object.to_string())
        .join("\n---\n")
}

fn exec(cluster: &KubeletCluster, pod: &str, words: &[&str]) -> Result<String, kube_lab::Error> {
    let words = [&["exec", pod, "--"], words].concat();
    cluster.server.kubectl(&words)
}

fn logs_and_exec(cluster: &KubeletCluster) {
    for pod in ["a", "b"] {
        assert_eq!(cluster.server.kubectl(&["logs", pod]).unwrap(), "serving\n");
        assert_eq!(
            exec(cluster, pod, &["hostname"]).unwrap(),
            format!("{pod}\n")
        );
    }
}

/// Of both families.
fn addresses(cluster: &mut KubeletCluster, pod: &str) -> Vec<IpAddr> {
    let addresses = cluster.wait_addresses(pod);
    addresses.unwrap_or_else(|error| panic!("{error}"))
}

/// The page that a pod serves, asked for from a namespace.
fn page(from: &NetNs, server: IpAddr, port: u16) -> std::io::Result<String> {
    from.run(|| {
        let limit = Duration::from_secs(5);
        let mut connection = TcpStream::connect_timeout(&(server, port).into(), limit)?;
        connection.set_read_timeout(Some(limit))?;
        connection.write_all(b"GET /name HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        Ok(body.to_owned())
    })
}

/// Asked again until there is an answer: what kube-proxy and the other agent do takes its time.
fn asked(cluster: &mut KubeletCluster, from: &NetNs, server: IpAddr, port: u16) -> String {
    let answer = cluster.wait(&format!("an answer of {server}:{port}"), |_| {
        Ok(page(from, server, port).ok())
    });
    answer.unwrap_or_else(|error| panic!("{error}"))
}

/// In both directions by each family, and the receiver's kernel has the sender's own address.
fn reach(cluster: &mut KubeletCluster) {
    let pools: [ipnet::IpNet; 2] =
        [lab::kubelet::PODS, lab::kubelet::PODS6].map(|pool| pool.parse().unwrap());
    for (from, to) in [("a", "b"), ("b", "a")] {
        let (sources, targets) = (addresses(cluster, from), addresses(cluster, to));
        let namespaces = [from, to].map(|pod| cluster.pod_namespace(pod).unwrap());
        for ((source, target), pool) in sources.into_iter().zip(targets).zip(&pools) {
            assert!(pool.contains(&source), "{from} has {source}");
            assert_eq!(
                asked(cluster, &namespaces[0], target, 80),
                format!("{to}\n")
            );
            let reporter = SourceReporter::open(&namespaces[1], target).unwrap();
            let seen = lab::ask_source(&namespaces[0], reporter.address(), PATIENCE).unwrap();
            assert_eq!(seen.source, source, "what {to} saw of {from}");
        }
    }
}

/// The other node's port, and the Service's addresses, from a pod and from a node.
fn host_port_and_service(cluster: &mut KubeletCluster) {
    let node = cluster.machines[1].site.clone();
    let ports = node.addresses().map(|address| (address, 8080));
    let services = [(SERVICE.into(), 80), (SERVICE6.into(), 80)];
    let pod = cluster.pod_namespace("a").unwrap();
    let first = cluster.machines[0].site.namespace.clone();
    for (server, port) in ports.chain(services) {
        assert_eq!(
            asked(cluster, &pod, server, port),
            "b\n",
            "{server} from a pod"
        );
        assert_eq!(
            asked(cluster, &first, server, port),
            "b\n",
            "{server} from a node"
        );
    }
}

/// 100 numbered packets a second of each family in both directions, while every node's agent is replaced in its turn, which `begin` asks for,
/// and until the new ones, which speak BGP, have their sessions.
fn upgrade(cluster: &mut KubeletCluster, begin: impl FnOnce(&KubeletCluster)) {
    let namespaces = ["a", "b"].map(|pod| cluster.pod_namespace(pod).unwrap());
    let targets = ["a", "b"].map(|pod| addresses(cluster, pod));
    let mut streams = Vec::new();
    for (from, to) in [(0, 1), (1, 0)] {
        for address in &targets[to] {
            let name = format!("{from} -> {to} ({address})");
            let (sender, receiver) = (&namespaces[from], &namespaces[to]);
            streams.push(Stream::start(&name, sender, receiver, *address, 100).unwrap());
        }
    }
    let before = agents(cluster);
    let started = Instant::now();
    begin(cluster);
    let status = [
        "rollout",
        "status",
        "--namespace=kube-system",
        "daemonset/calico-node",
        "--timeout=180s",
    ];
    cluster
        .server
        .kubectl(&status)
        .unwrap_or_else(|error| panic!("{error}\n{}", cluster.state()));
    println!("upgraded after {:?}", started.elapsed());
    // BGP peers of a new agent have its routes anew, and what the old one announced is swept: nothing may go then either.
    cluster.wait_bgp().unwrap_or_else(|error| panic!("{error}"));
    std::thread::park_timeout(Duration::from_secs(2));
    let after = agents(cluster);
    assert!(
        before.iter().all(|pod| !after.contains(pod)),
        "{before:?} {after:?}"
    );
    for stream in streams {
        let outcome = stream.finish().unwrap();
        println!("{outcome:?}");
        assert!(outcome.sent > 100, "{outcome:?}");
        assert_eq!(outcome.lost, Vec::<u64>::new(), "{}", cluster.state());
    }
}

/// The unique names of the agents' pods.
fn agents(cluster: &KubeletCluster) -> Vec<String> {
    let asked = [
        "get",
        "pods",
        "--namespace=kube-system",
        "--selector=k8s-app=calico-node",
        "--output=json",
    ];
    let pods: Value = serde_json::from_str(&cluster.server.kubectl(&asked).unwrap()).unwrap();
    let pods = pods["items"].as_array().unwrap();
    let uids: Vec<String> = pods
        .iter()
        .map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(uids.len(), cluster.machines.len());
    uids
}
