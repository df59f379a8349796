//! 100 nodes and 2,900 pods, as far as one node's agent sees them: two nodes are real, of the others there are the objects.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use ipnet::Ipv4Net;
use lab::{Lab, Store};
use serde_json::{Value, json};

use super::cluster::{Cluster, documents, pod_object};
use super::scenario::{Measures, ensure_distinct};
use super::spent::{Counted, Spent, memory};

/// Nodes of which there are only objects.
const NODES: u8 = 98;
/// Pods on each node.
const PODS: usize = 29;
/// Objects that one kubectl makes.
const AT_ONCE: usize = 500;
/// How long it is idle.
const IDLE: Duration = Duration::from_secs(60);

pub(super) fn run(seed: u64) -> anyhow::Result<Measures> {
    let mut cluster = Cluster::start(Store::Kube, 26, seed, others)?;
    let mut measures = Measures::default();
    let mut pods = cluster.prepare(PODS)?;
    cluster.call_all(&mut pods, "ADD", 1)?;
    ensure_distinct(&pods)?;
    cluster.say_running(&pods)?;
    let before = Spent::so_far(&mut cluster, Counted::Yes)?;
    // What is measured is a minute in which nothing happens.
    thread::sleep(IDLE);
    let spent = before.since(&mut cluster, Counted::Yes)?;
    measures.note_cpu("idle minute", &spent, 1);
    measures.note_requests("idle minute", &spent, 1);
    // The counters are those of both agents.
    let asked = measures.samples.get_mut("idle minute requests");
    asked.into_iter().flatten().for_each(|asked| *asked /= 2.0);
    let each = measures.requests.get_mut("idle minute");
    each.into_iter()
        .flat_map(BTreeMap::values_mut)
        .for_each(|asked| *asked /= 2.0);
    let (resident, peak) = memory()?;
    measures.note("agent of 100 nodes MiB", resident);
    measures.note("agent of 100 nodes peak MiB", peak);
    Ok(measures)
}

/// Makes what the other nodes' agents, kubelets and users would have made.
fn others(lab: &mut Lab) -> anyhow::Result<()> {
    let mut objects = Vec::new();
    for number in 0..NODES {
        let name = format!("other{number}");
        let address = Ipv4Addr::new(10, 10, 1, 13 + number);
        // Far from where the real nodes' names lead them.
        let block = Ipv4Net::new(Ipv4Addr::new(192, 168, 100 + number, 0), 26)?;
        objects.push(node(&name, address));
        objects.extend(claim(&name, block));
        objects.extend((0..PODS).map(|pod| pod_object(&format!("{name}-{pod}"), &name)));
    }
    // kubectl says a line for each, which is read only when it has read all of them.
    for some in objects.chunks(AT_ONCE) {
        let server = &lab.kube().server;
        server.kubectl_reading(&["create", "--filename=-"], &documents(some))?;
    }
    Ok(())
}

fn node(name: &str, address: Ipv4Addr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"},
            "annotations": {"projectcalico.org/IPv4Address": format!("{address}/24"), "projectcalico.org/ASNumber": "64512"},
        },
    })
}

pub(super) fn claim(node: &str, block: Ipv4Net) -> [Value; 2] {
    let name = block.to_string().replace(['.', '/'], "-");
    let given = (0..64).map(|ordinal| (ordinal < PODS).then_some(ordinal));
    let attributes = (0..PODS).map(|pod| {
        json!({
            "handle_id": format!("k8s-pod-network.{node}-{pod:056x}"),
            "secondary": {"node": node, "namespace": "default", "pod": format!("{node}-{pod}")},
        })
    });
    let numbers = (0..PODS).map(|ordinal| (ordinal.to_string(), json!(ordinal)));
    let numbers: serde_json::Map<String, Value> = numbers.collect();
    let block_object = json!({
        "apiVersion": "crd.projectcalico.org/v1", "kind": "IPAMBlock", "metadata": {"name": name},
        "spec": {
            "cidr": block, "affinity": format!("host:{node}"), "strictAffinity": false, "deleted": false,
            "allocations": given.collect::<Vec<_>>(), "unallocated": (PODS..64).collect::<Vec<_>>(),
            "attributes": attributes.collect::<Vec<_>>(),
            "sequenceNumber": PODS, "sequenceNumberForAllocation": numbers,
        },
    });
    let affinity = json!({
        "apiVersion": "crd.projectcalico.org/v1", "kind": "BlockAffinity", "metadata": {"name": format!("{node}-{name}")},
        "spec": {"cidr": block, "node": node, "state": "confirmed", "deleted": "false", "type": "host"},
    });
    [block_object, affinity]
}
