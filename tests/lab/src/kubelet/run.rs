//! `cargo lab --kubelet` from inside its private world: build, install, prove.

use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::NetNs;
use crate::cluster::{Lab, LabError};
use crate::kept::KeptNode;
use crate::kubelet::{KubeletCluster, busybox, image, profile};
use crate::options::{Mode, Options};
use crate::probe::ping::Pinger;
use crate::probe::tcp::{SourceReporter, ask_source};
use crate::progress::Progress;
use crate::report::{NodeReport, PingCounts, Report, SessionCounts};
use crate::topology::Families;
use crate::wait;

/// One exchange between two pods.
const EXCHANGE: Duration = Duration::from_secs(2);
/// How long routes may take to come after a pod is ready.
const ROUTES: Duration = Duration::from_secs(30);

/// A pod as the API server and its node's kernel know it.
struct Pod {
    name: String,
    node: String,
    /// IPv4 first.
    addresses: Vec<IpAddr>,
    namespace: NetNs,
}

/// Builds the cluster, installs the product as an operator does, and proves that pods reach each other as they are.
pub(crate) fn run(
    options: &Options,
    progress: Progress,
) -> Result<(KubeletCluster, Report), LabError> {
    let overlay = overlay(options.mode)?;
    Lab::check_kernel(options.mode)?;
    let (nodes, families) = (options.nodes, options.families);
    let mut cluster = progress.stage(&format!("Kubernetes with {nodes} kubelets"), || {
        KubeletCluster::start(nodes, families, &[&image(profile())], options.patience)
    })?;
    let applied = format!("kubectl apply --server-side --kustomize manifests/overlays/{overlay}");
    progress.stage(&applied, || cluster.install(overlay))?;
    progress.stage("nodes ready", || cluster.wait_nodes_ready())?;
    let meshed = !matches!(options.mode, Mode::Vxlan | Mode::VxlanCrosssubnet);
    if meshed {
        progress.stage("BGP sessions", || cluster.wait_bgp())?;
    }
    let pods = progress.stage(&format!("{} pods", nodes * options.pods), || {
        make_pods(&mut cluster, options)
    })?;
    let mut report = Report {
        mode: options.mode.name().to_owned(),
        store: "kube".to_owned(),
        nodes: nodes_of(&cluster, &pods),
        ..Report::default()
    };
    if meshed {
        let of_each = 1 + usize::from(families == Families::Both);
        let ends = of_each * nodes * nodes.saturating_sub(1);
        report.sessions = SessionCounts {
            expected: ends,
            established: ends,
        };
    }
    progress.stage("pings and TCP exchanges", || {
        prove(&pods, &mut report);
        Ok::<_, LabError>(())
    })?;
    Ok((cluster, report))
}

/// The overlay of manifests/ for a mode.
///
/// # Errors
/// Which modes have one.
pub(crate) fn overlay(mode: Mode) -> Result<&'static str, LabError> {
    match mode {
        Mode::Bgp | Mode::Ipip | Mode::Vxlan | Mode::VxlanCrosssubnet => Ok(mode.name()),
        Mode::IpipCrosssubnet => Err(LabError::NoOverlay { mode: mode.name() }),
    }
}

fn make_pods(cluster: &mut KubeletCluster, options: &Options) -> Result<Vec<Pod>, LabError> {
    let mut placed = Vec::new();
    for machine in &cluster.machines {
        for number in 1..=options.pods {
            let node = machine.site.name.clone();
            placed.push((format!("{node}-pod{number}"), node));
        }
    }
    let manifests: Vec<String> = placed
        .iter()
        .map(|(name, node)| manifest(name, node))
        .collect();
    if !manifests.is_empty() {
        cluster.server.apply(&manifests.join("\n---\n"))?;
    }
    let mut pods = Vec::new();
    for (name, node) in placed {
        cluster.wait_pod(&name)?;
        let addresses = cluster.wait_addresses(&name)?;
        pods.push(Pod {
            namespace: cluster.pod_namespace(&name)?,
            name,
            node,
            addresses,
        });
    }
    Ok(pods)
}

fn manifest(name: &str, node: &str) -> String {
    let pod: Value = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "dnsPolicy": "Default",
            "containers": [{"name": "main", "image": busybox::NAME, "imagePullPolicy": "Never"}],
        },
    });
    pod.to_string()
}

fn nodes_of(cluster: &KubeletCluster, pods: &[Pod]) -> Vec<NodeReport> {
    let machines = cluster.machines.iter().map(|machine| &machine.site);
    machines
        .map(|site| NodeReport {
            name: site.name.clone(),
            rack: site.rack,
            address: site.address.to_string(),
            address6: site.addresses().nth(1).map(|address| address.to_string()),
            blocks: Vec::new(),
            pods: pods
                .iter()
                .filter(|pod| pod.node == site.name)
                .flat_map(|pod| pod.addresses.iter().map(IpAddr::to_string))
                .collect(),
        })
        .collect()
}

/// Every pod with every other, by each family: a ping, and whom a listener saw.
fn prove(pods: &[Pod], report: &mut Report) {
    report.source_address_kept = true;
    let mut counts = PingCounts::default();
    let pairs = pods
        .iter()
        .flat_map(|from| pods.iter().map(move |to| (from, to)));
    let others = pairs.filter(|(from, to)| from.name != to.name);
    let ways = others.flat_map(|(from, to)| {
        let ends = from.addresses.iter().zip(&to.addresses);
        ends.map(move |(source, target)| (from, *source, to, *target))
    });
    for (from, source, to, target) in ways {
        counts.sent += 1;
        let ping = || {
            let mut pinger = Pinger::open_for(&from.namespace, 1, target).ok()?;
            pinger.ping(target, EXCHANGE).ok()?
        };
        if wait::until(Instant::now() + ROUTES, ping).is_none() {
            counts.lost += 1;
            report.faults.push(format!(
                "{} -> {} ({target}): no answer to pings",
                from.name, to.name
            ));
        }
        let seen = SourceReporter::open(&to.namespace, target)
            .and_then(|reporter| ask_source(&from.namespace, reporter.address(), EXCHANGE));
        match seen {
            Ok(seen) if seen.source == source => {}
            other => {
                report.source_address_kept = false;
                report.faults.push(format!(
                    "{} -> {} ({target}): expected the source {source}, but {other:?}",
                    from.name, to.name
                ));
            }
        }
    }
    report.pings = counts;
}

/// The machines, for a lab that is kept; kubectl is at hand on each, as the administrator.
pub(crate) fn kept_nodes(cluster: &KubeletCluster) -> Vec<KeptNode> {
    let nodes = cluster.machines.iter().map(|machine| &machine.site);
    let kubeconfig = cluster.server.kubeconfig().display().to_string();
    let kept = nodes.chain([&cluster.servers]).filter_map(|site| {
        Some(KeptNode {
            name: site.name.clone(),
            net: site.namespace.fd().as_raw_fd(),
            mount: site.namespace.mount_fd()?.as_raw_fd(),
            environment: vec![("KUBECONFIG".to_owned(), kubeconfig.clone())],
            programs: vec![cluster.server.programs().folder().to_path_buf()],
        })
    });
    kept.collect()
}
