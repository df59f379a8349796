//! What an ADD's three writes cost the API server in any case: a client that does them one after the other, with a warm connection
//! and nothing else to do.

use std::time::Instant;

use anyhow::Context;
use datastore_kube::{Client, Patch, Settings};
use ipnet::Ipv4Net;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::many::claim;
use super::scenario::Measures;

/// How often.
const TIMES: usize = 40;
const GROUP: &str = "/apis/crd.projectcalico.org/v1";

/// Does so from the first node, with a block of nobody's that is half full.
pub(super) fn run(cluster: &mut Cluster, measures: &mut Measures) -> anyhow::Result<()> {
    let [block, _] = claim("floor", Ipv4Net::new([192, 168, 250, 0].into(), 26)?);
    cluster.create(vec![block])?;
    let pod = cluster.prepare(1)?;
    let pod = pod.first().context("one was made")?.name().to_owned();
    let settings = Settings {
        kubeconfig: Some(cluster.lab.kube().server.kubeconfig()),
        ..Settings::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let node = cluster.site().namespace.clone();
    node.run(|| runtime.block_on(write(settings, &pod, measures)))
}

async fn write(settings: Settings, pod: &str, measures: &mut Measures) -> anyhow::Result<()> {
    let client = Client::new(settings).await?;
    let path = format!("{GROUP}/ipamblocks/192-168-250-0-26");
    let mut block = client.get(&path).await?.context("it was made")?;
    let pod = format!("/api/v1/namespaces/default/pods/{pod}/status");
    for number in 0..TIMES {
        let started = Instant::now();
        client
            .create(&format!("{GROUP}/ipamhandles"), &handle(number))
            .await?;
        let noted = Instant::now();
        block["spec"]["sequenceNumber"] = json!(1000 + number);
        block = client.replace(&path, &block).await?;
        let taken = Instant::now();
        let address = format!("192.168.250.{number}/32");
        let annotations = json!({
            "cni.projectcalico.org/podIP": address, "cni.projectcalico.org/podIPs": address,
            "cni.projectcalico.org/containerID": format!("{number:064x}"),
        });
        let patch = json!({"metadata": {"annotations": annotations}});
        client.patch(&pod, Patch::Merge, &patch).await?;
        let said = Instant::now();
        for (name, from, to) in [
            ("floor ms", started, said),
            ("floor handle ms", started, noted),
            ("floor block ms", noted, taken),
            ("floor pod ms", taken, said),
        ] {
            measures.note(name, (to - from).as_secs_f64() * 1e3);
        }
    }
    Ok(())
}

fn handle(number: usize) -> Value {
    let name = format!("k8s-pod-network.{number:064x}");
    json!({
        "apiVersion": "crd.projectcalico.org/v1", "kind": "IPAMHandle", "metadata": {"name": name},
        "spec": {"handleID": name, "block": {"192.168.250.0/26": 1}, "deleted": false},
    })
}
