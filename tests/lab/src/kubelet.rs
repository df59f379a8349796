//! A real Kubernetes cluster on the lab's machines: API server, controllers and scheduler on one, and on each of the others containerd,
//! a kubelet and kube-proxy. It shares nothing with the lab's own role of a kubelet: pods come by `kubectl apply`.
//!
//! ```text
//! kube: etcd, kube-apiserver, kube-controller-manager, kube-scheduler      n1, n2: kubelet ─► containerd ─► runc ─► pods
//!                                                                                 kube-proxy ─► nftables
//! ```
//!
//! All of it ends with process 1 of the private world: shims and containers are processes below it, and what they mount is below its
//! mount namespace. What remains are control groups, which [`sweep`] removes from outside.

mod busybox;
mod cgroups;
mod machine;
pub(crate) mod run;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kube_lab::{ApiServer, Controllers, Place, Ports};
use serde_json::{Value, json};

pub use machine::Machine;

use crate::cluster::LabError;
use crate::enter::BASE;
use crate::netns::NetNs;
use crate::proof::sessions::established_peers;
use crate::topology::{Families, Site, Topology};
use crate::wait;

/// Name of the machine that runs the API server.
const SERVERS: &str = "kube";
/// Last octet of its address.
const SERVERS_HOST: u8 = 10;
/// IPv4 addresses of pods.
pub const PODS: &str = "192.168.0.0/16";
/// IPv6 addresses of pods.
pub const PODS6: &str = "fd00:192:168::/48";
/// Addresses of Services of both families.
const SERVICES: &str = "10.96.0.0/16,fd00:10:96::/112";
/// What an operator applies.
const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests");
/// Programs of Debian packages that the machines run, with the packages.
const PROGRAMS: [(&str, &str); 5] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
];

/// What a machine lacks for kubelets of its own, in one line; the first thing that is missing.
///
/// # Errors
/// The reason to skip.
pub fn available() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root may run kubelets and containerd".to_owned());
    }
    if !cgroups::are_version_1() {
        return Err("the lab's kubelets need control groups of version 1, which this machine has not mounted".to_owned());
    }
    let programs = kube_lab::available().map_err(|missing| missing.to_string())?;
    for program in [
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
        "kube-proxy",
    ] {
        programs
            .path(program)
            .map_err(|missing| missing.to_string())?;
    }
    for (program, package) in PROGRAMS {
        let places = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        if !places
            .iter()
            .any(|place| Path::new(place).join(program).exists())
        {
            return Err(format!("no program `{program}` (Debian: {package})"));
        }
    }
    if !Path::new(busybox::PROGRAM).exists() {
        return Err(format!("no {} (Debian: busybox-static)", busybox::PROGRAM));
    }
    for plugin in machine::NEEDED_PLUGINS {
        if !Path::new(machine::OTHER_PLUGINS).join(plugin).exists() {
            return Err(format!(
                "no plugin {plugin} in {} (Debian: containernetworking-plugins)",
                machine::OTHER_PLUGINS
            ));
        }
    }
    Ok(())
}

/// Removes control groups that former clusters left; to be called outside their private worlds. Answers what could not be removed.
///
/// # Errors
/// When /proc cannot be read.
pub fn sweep() -> io::Result<Vec<PathBuf>> {
    cgroups::sweep()
}

/// Where [`build_image`] puts the image.
#[must_use]
pub fn image(profile: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../target/image/lab-{profile}.tar"))
}

/// The profile that this program is built with.
#[must_use]
pub fn profile() -> &'static str {
    let program = std::env::current_exe().unwrap_or_default();
    if program
        .components()
        .any(|part| part.as_os_str() == "release")
    {
        "release"
    } else {
        "dev"
    }
}

/// Makes this project's image of programs built with `profile`. To be called outside the private world.
///
/// # Errors
/// When the build fails; it has said why.
pub fn build_image(profile: &str) -> Result<(), LabError> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let status = Command::new(cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["run", "--quiet", "--package", "xtask", "--", "image"])
        .args(["--profile", profile, "--output"])
        .arg(image(profile))
        .stdout(io::stderr())
        .status()
        .map_err(LabError::system("start cargo"))?;
    if status.success() {
        return Ok(());
    }
    Err(LabError::Program {
        program: "cargo xtask image".to_owned(),
        what: status.to_string(),
        log: String::new(),
    })
}

/// A running cluster. Lives inside a private world ([`crate::in_namespaces`]).
#[derive(Debug)]
pub struct KubeletCluster {
    /// Racks, router and machines.
    pub topology: Topology,
    /// The API server.
    pub server: ApiServer,
    /// The machine that the API server runs on.
    pub servers: Site,
    /// The nodes.
    pub machines: Vec<Machine>,
    controllers: Controllers,
    families: Families,
    patience: Duration,
}

impl KubeletCluster {
    /// Builds machines, API server and nodes, and waits until each node's object is there. They are not ready: they have no network.
    /// `images` are archives that containerd takes, besides busybox. Of both families, nodes, Services and pods have addresses of both;
    /// of IPv6 alone there are none. Must be called by process 1's first thread before it has others.
    ///
    /// # Errors
    /// See [`LabError`].
    pub fn start(
        nodes: usize,
        families: Families,
        images: &[&Path],
        patience: Duration,
    ) -> Result<Self, LabError> {
        cgroups::enter().map_err(LabError::system("enter control groups of its own"))?;
        let topology = Topology::build(nodes, 1, families)
            .map_err(LabError::system("build the rack and its machines"))?;
        let servers = topology
            .attach(SERVERS, SERVERS_HOST, 1)
            .map_err(LabError::system("attach the API server's machine"))?;
        let namespace = servers.namespace.clone();
        let flags = match families {
            Families::Both => vec![format!("--service-cluster-ip-range={SERVICES}")],
            Families::V4 | Families::V6 => Vec::new(),
        };
        let server = ApiServer::start(kube_lab::Options {
            parent: Some(BASE.into()),
            place: Place::of(move |program| namespace.command(program)),
            address: servers.address,
            ports: Some(Ports::USUAL),
            service_accounts: true,
            flags,
            patience,
            ..kube_lab::Options::default()
        })?;
        // It makes the directory where it looks for them, on the machine itself.
        let plugins = format!("--flex-volume-plugin-dir={BASE}/volume-plugins");
        let controllers = Controllers::start(&server, &[&plugins])?;
        let busybox = Path::new(BASE).join("busybox.tar");
        busybox::write(&busybox).map_err(LabError::system("make an image of busybox"))?;
        let images: Vec<&Path> = [busybox.as_path()]
            .into_iter()
            .chain(images.iter().copied())
            .collect();
        let mut machines = Vec::new();
        for site in &topology.sites {
            let mut machine = Machine::start(site.clone(), &images, Instant::now() + patience)?;
            machine.join(&server)?;
            machines.push(machine);
        }
        let mut cluster = Self {
            topology,
            server,
            servers,
            machines,
            controllers,
            families,
            patience,
        };
        cluster.wait("every node's object", |cluster| {
            let nodes = cluster.server.kubectl(&["get", "nodes", "--output=name"])?;
            Ok((nodes.lines().count() == cluster.machines.len()).then_some(()))
        })?;
        Ok(cluster)
    }

    /// Asks again and again until `ask` has an answer; errors of kubectl are answers that did not come.
    ///
    /// # Errors
    /// When a program of the cluster has ended, or nothing came within the patience: with what is known then.
    pub fn wait<T>(
        &mut self,
        what: &str,
        mut ask: impl FnMut(&Self) -> Result<Option<T>, kube_lab::Error>,
    ) -> Result<T, LabError> {
        let deadline = Instant::now() + self.patience;
        let mut last = None;
        let mut ended = None;
        let found = wait::until(deadline, || {
            ended = self.check().err();
            if ended.is_some() {
                return Some(None);
            }
            match ask(self) {
                Ok(found) => found.map(Some),
                Err(error) => {
                    last = Some(error.to_string());
                    None
                }
            }
        });
        match (found, ended) {
            (Some(Some(found)), _) => Ok(found),
            (_, Some(error)) => Err(error),
            (_, None) => Err(LabError::Program {
                program: "the cluster".to_owned(),
                what: format!("{what} did not come; {}", last.unwrap_or_default()),
                log: self.state(),
            }),
        }
    }

    /// An error when a program of the cluster has ended.
    ///
    /// # Errors
    /// Which, with the end of its log.
    pub fn check(&mut self) -> Result<(), LabError> {
        self.controllers.check()?;
        self.machines.iter_mut().try_for_each(Machine::check)
    }

    /// What an operator would look at first.
    #[must_use]
    pub fn state(&self) -> String {
        let asked = [
            &["get", "nodes,pods", "--all-namespaces", "--output=wide"][..],
            &["get", "events", "--all-namespaces"],
            &[
                "logs",
                "--namespace=kube-system",
                "--selector=k8s-app=calico-node",
                "--all-containers",
                "--prefix",
                "--tail=30",
            ],
        ];
        let answers = asked.map(|words| match self.server.kubectl(words) {
            Ok(text) => text,
            Err(error) => error.to_string(),
        });
        let logs: Vec<String> = self.machines.iter().map(Machine::logs).collect();
        format!("{}\n{}", answers.join("\n"), logs.join("\n"))
    }

    /// Applies an overlay of manifests/overlays, as an operator does; where both families are wanted, within an overlay that adds the
    /// component for it.
    ///
    /// # Errors
    /// kubectl's words.
    pub fn install(&self, overlay: &str) -> Result<(), LabError> {
        let overlay = match self.families {
            Families::Both => dual_stack(overlay)
                .map_err(LabError::system("write an overlay for both families"))?,
            Families::V4 | Families::V6 => format!("{MANIFESTS}/overlays/{overlay}"),
        };
        let apply = ["apply", "--server-side", "--kustomize", &overlay];
        self.server.kubectl(&apply)?;
        Ok(())
    }

    /// Waits until a pod of the namespace `default` is ready.
    ///
    /// # Errors
    /// As [`KubeletCluster::wait`].
    pub fn wait_pod(&mut self, name: &str) -> Result<(), LabError> {
        self.wait(&format!("a condition Ready of pod {name}"), |cluster| {
            let pod = cluster
                .server
                .kubectl(&["get", "pod", name, "--output=json"])?;
            let pod: Value = serde_json::from_str(&pod).unwrap_or_default();
            Ok(is_ready(&pod).then_some(()))
        })
    }

    /// The addresses of a pod of the namespace `default`, as its kubelet says them, once there is one of each family: IPv4 first.
    ///
    /// # Errors
    /// As [`KubeletCluster::wait`].
    pub fn wait_addresses(&mut self, name: &str) -> Result<Vec<IpAddr>, LabError> {
        self.wait(&format!("addresses of pod {name}"), |cluster| {
            let words = [
                "get",
                "pod",
                name,
                "--output=jsonpath={.status.podIPs[*].ip}",
            ];
            let said = cluster.server.kubectl(&words)?;
            let said = said.split_whitespace().map(str::parse);
            let mut addresses = said.collect::<Result<Vec<IpAddr>, _>>().unwrap_or_default();
            addresses.sort_unstable();
            let wanted = 1 + usize::from(cluster.families == Families::Both);
            Ok((addresses.len() == wanted).then_some(addresses))
        })
    }

    /// The network namespace of a pod of the namespace `default`.
    ///
    /// # Errors
    /// When no machine runs it.
    pub fn pod_namespace(&self, name: &str) -> Result<NetNs, LabError> {
        for machine in &self.machines {
            if let Some(pid) = machine.process_of(name)? {
                return NetNs::of_process(name, pid).map_err(LabError::system(format!(
                    "open the namespace of pod {name}"
                )));
            }
        }
        let missing = io::Error::from(io::ErrorKind::NotFound);
        Err(LabError::system(format!("find pod {name}"))(missing))
    }

    /// Waits until every node has a BGP connection with every address of every other.
    ///
    /// # Errors
    /// As [`KubeletCluster::wait`].
    pub fn wait_bgp(&mut self) -> Result<(), LabError> {
        self.wait("a full mesh of BGP", |cluster| {
            let sites = cluster.machines.iter().map(|machine| &machine.site);
            let meshed = sites.clone().all(|site| {
                let peers = established_peers(&site.namespace).unwrap_or_default();
                sites
                    .clone()
                    .filter(|other| other.name != site.name)
                    .flat_map(Site::addresses)
                    .all(|address| peers.contains(&address))
            });
            Ok(meshed.then_some(()))
        })
    }

    /// Waits until every node is ready.
    ///
    /// # Errors
    /// As [`KubeletCluster::wait`].
    pub fn wait_nodes_ready(&mut self) -> Result<(), LabError> {
        self.wait("a condition Ready of every node", |cluster| {
            let nodes = cluster.server.kubectl(&["get", "nodes", "--output=json"])?;
            let nodes: Value = serde_json::from_str(&nodes).unwrap_or_default();
            let items = nodes["items"].as_array().cloned().unwrap_or_default();
            Ok(items.iter().all(is_ready).then_some(()))
        })
    }

    /// Puts another network's configuration on every machine, for tests of the cluster itself.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn write_network(&self, name: &str, list: impl Fn(usize) -> Value) -> io::Result<()> {
        for (index, machine) in self.machines.iter().enumerate() {
            let text = list(index).to_string();
            let path = Path::new("/etc/cni/net.d").join(name);
            machine.site.namespace.run(|| fs::write(path, text))?;
        }
        Ok(())
    }
}

/// An operator's own overlay: one of ours with the component for both families, and the IPv6 pool's range. Its folder.
fn dual_stack(overlay: &str) -> io::Result<String> {
    let folder = Path::new(BASE).join("overlay");
    fs::create_dir_all(&folder)?;
    // Kustomize takes relative paths only.
    let up = "../".repeat(folder.components().count() - 1);
    let manifests = fs::canonicalize(MANIFESTS)?;
    let manifests = format!(
        "{up}{}",
        manifests.display().to_string().trim_start_matches('/')
    );
    let range = json!([{
        "op": "add",
        "path": "/spec/template/spec/containers/0/env/-",
        "value": {"name": "CALICO_IPV6POOL_CIDR", "value": PODS6},
    }]);
    let text = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [format!("{manifests}/overlays/{overlay}")],
        "components": [format!("{manifests}/components/dual-stack")],
        "patches": [{"target": {"kind": "DaemonSet", "name": "calico-node"}, "patch": range.to_string()}],
    });
    fs::write(folder.join("kustomization.yaml"), text.to_string())?;
    Ok(folder.display().to_string())
}

/// Whether an object's condition `Ready` is true.
fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|conditions| {
        conditions
            .iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    })
}
