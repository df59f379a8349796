//! A container runtime, as far as networking goes: it makes a pod's namespace and calls the CNI plugin.
//!
//! Source: CNI specification 1.1.0, sections 2 (execution protocol) and 5 (result types).

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::UnshareFlags;
use serde_json::{Value, json};

use crate::enter::doing;
use crate::kube::Kube;
use crate::netlink::{Netlink, NetlinkError};
use crate::netns::{NetNs, on_fresh_thread};
use crate::options::Options;
use crate::sys;
use crate::topology::{Site, addresses};

/// Where the plugin is installed on every node, under the name of the network's type.
pub const PLUGIN_DIRECTORY: &str = "/run/tortie-lab/cni-bin";
/// The network's configuration on every node.
pub(crate) const CONFLIST_PATH: &str = "/etc/cni/net.d/10-calico.conflist";
const CNI_VERSION: &str = "1.0.0";
const NAMESPACE: &str = "default";

/// A pod: a network namespace that the plugin has connected.
#[derive(Clone, Debug)]
pub struct Pod {
    /// `p0`, `p1`, …; unique on its node.
    pub name: String,
    /// Name of its node.
    pub node: String,
    /// The address that the plugin reported; that of IPv4 where it reported both.
    pub address: IpAddr,
    /// That of IPv6, where it reported one.
    pub address6: Option<Ipv6Addr>,
    /// Its network namespace.
    pub namespace: NetNs,
    /// How long the plugin ran.
    pub took: Duration,
    /// When the plugin was started.
    pub started: Instant,
    sandbox: Sandbox,
}

impl Pod {
    /// A pod that something else than this network's plugin has connected: what [`make_sandbox`] made of `name`, and its address.
    #[must_use]
    pub fn connected(
        site: &Site,
        name: &str,
        sandbox: Sandbox,
        namespace: NetNs,
        address: Ipv4Addr,
    ) -> Self {
        Self {
            name: name.to_owned(),
            node: site.name.clone(),
            address: address.into(),
            address6: None,
            namespace,
            took: Duration::ZERO,
            started: Instant::now(),
            sandbox,
        }
    }

    /// What its runtime keeps of it.
    #[must_use]
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        addresses(self.address, self.address6)
    }

    /// `n1/p0`.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}/{}", self.node, self.name)
    }
}

/// What the runtime keeps of a pod to call the plugin again.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// 64 hexadecimal digits.
    pub container_id: String,
    /// Path of the bind-mounted network namespace in the node's mount namespace.
    pub netns_path: PathBuf,
    /// Value of K8S_POD_NAME; empty for a container outside Kubernetes, which has no CNI_ARGS.
    pub pod_name: String,
    /// Value of K8S_POD_UID, where there are Pods.
    pub pod_uid: Option<String>,
    /// Value of CNI_IFNAME.
    pub ifname: String,
}

impl Sandbox {
    /// CNI_ARGS as kubelet's runtimes have them; none for a container outside Kubernetes.
    #[must_use]
    pub fn arguments(&self) -> Option<String> {
        let (name, id) = (&self.pod_name, &self.container_id);
        (!name.is_empty()).then(|| {
            let uid = self.pod_uid.as_ref();
            let uid = uid.map_or_else(String::new, |uid| format!(";K8S_POD_UID={uid}"));
            format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE={NAMESPACE};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={id}{uid}"
            )
        })
    }
}

/// Why a pod did not come up or go down.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The namespace or the call itself failed.
    #[error("{what}")]
    System {
        /// What was being done.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The API server refused the pod's object.
    #[error(transparent)]
    Kubernetes(#[from] kube_lab::Error),
    /// The plugin ended with an error.
    #[error("CNI {command} of {pod}: {status}: {stdout} {stderr}")]
    Plugin {
        /// ADD, DEL, …
        command: &'static str,
        /// Label of the pod.
        pod: String,
        /// Exit code or signal.
        status: String,
        /// The plugin's standard output: by the specification a JSON object with code, msg and details.
        stdout: String,
        /// The plugin's standard error.
        stderr: String,
    },
    /// The plugin's result does not have the shape that the specification gives it.
    #[error("CNI ADD of {pod}: the result breaks the specification: {fault}: {result}")]
    Result {
        /// Label of the pod.
        pod: String,
        /// What is wrong.
        fault: String,
        /// The result.
        result: String,
    },
}

/// The default network configuration list, with the keys that Calico's installer writes.
fn conflist(options: &Options) -> Value {
    let mut ipam = json!({ "type": "calico-ipam" });
    if options.families.has_v6() {
        ipam["assign_ipv4"] = options.families.has_v4().to_string().into();
        ipam["assign_ipv6"] = "true".into();
    }
    json!({
        "name": "k8s-pod-network",
        "cniVersion": CNI_VERSION,
        "plugins": [{
            "type": "calico",
            "log_level": "info",
            "datastore_type": options.store.datastore_type(),
            "ipam": ipam,
            "policy": { "type": "k8s" },
        }],
    })
}

/// Writes the network's configuration where a node's runtime looks for it.
///
/// # Errors
/// What the file system answers.
pub(crate) fn install_conflist(site: &Site, options: &Options) -> io::Result<()> {
    let text = conflist(options).to_string();
    site.namespace.run(|| fs::write(CONFLIST_PATH, text))
}

/// Makes a pod's namespace on `site` and has the plugin connect it; with Kubernetes, its object as well, and says there what its address
/// became.
///
/// # Errors
/// See [`RuntimeError`]. After a plugin's error the namespace is gone again.
pub(crate) fn add_pod(site: &Site, name: &str, kube: Option<&Kube>) -> Result<Pod, RuntimeError> {
    let (sandbox, namespace) = make_sandbox(site, name)?;
    let label = format!("{}/{name}", site.name);
    if let Some(kube) = kube {
        // Its UID is not told: tests that empty etcd make the objects of living sandboxes anew, which no kubelet does.
        kube.create_pod(site, &sandbox.pod_name)?;
    }
    let started = Instant::now();
    let output = call_plugin(site, &sandbox, "ADD", None)?;
    let took = started.elapsed();
    let result =
        plugin_answer("ADD", &label, &output).and_then(|answer| check_result(&label, &answer));
    match result {
        Ok((address, address6)) => {
            if let Some(kube) = kube {
                let addresses: Vec<IpAddr> = addresses(address, address6).collect();
                kube.pod_runs(&sandbox.pod_name, &addresses)?;
            }
            Ok(Pod {
                name: name.to_owned(),
                node: site.name.clone(),
                address,
                address6,
                namespace,
                took,
                started,
                sandbox,
            })
        }
        Err(error) => {
            // Specification, "ADD": after a failure the runtime calls DEL. Its own failure must not hide the first error.
            let _ = call_plugin(site, &sandbox, "DEL", None);
            remove_sandbox(site, &sandbox)?;
            if let Some(kube) = kube {
                kube.forget_pod(&sandbox.pod_name)?;
            }
            Err(error)
        }
    }
}

/// Has the plugin disconnect a pod and removes its namespace; with Kubernetes, first somebody asks for that, and last its object goes.
///
/// # Errors
/// See [`RuntimeError`].
pub(crate) fn delete_pod(site: &Site, pod: &Pod, kube: Option<&Kube>) -> Result<(), RuntimeError> {
    if let Some(kube) = kube {
        kube.ask_to_end(&pod.sandbox.pod_name)?;
    }
    let output = call_plugin(site, &pod.sandbox, "DEL", None)?;
    plugin_answer("DEL", &pod.label(), &output)?;
    remove_sandbox(site, &pod.sandbox)?;
    if let Some(kube) = kube {
        kube.forget_pod(&pod.sandbox.pod_name)?;
    }
    Ok(())
}

/// Makes an unconnected pod namespace on `site`, bind-mounted as runtimes do.
///
/// # Errors
/// See [`RuntimeError`].
pub fn make_sandbox(site: &Site, name: &str) -> Result<(Sandbox, NetNs), RuntimeError> {
    let mut container_id = String::new();
    for byte in format!("{}/{name}", site.name)
        .bytes()
        .chain(std::iter::repeat(0))
        .take(32)
    {
        container_id.push_str(&format!("{byte:02x}"));
    }
    let netns_path = PathBuf::from(format!("/run/netns/cni-{name}"));
    let sandbox = Sandbox {
        container_id,
        netns_path,
        pod_name: format!("{name}-{}", site.name),
        pod_uid: None,
        ifname: "eth0".to_owned(),
    };
    let namespace = site
        .namespace
        .run(|| bind_new_namespace(name, &sandbox.netns_path))
        .map_err(|source| RuntimeError::System {
            what: format!("make the namespace of {}/{name}", site.name),
            source,
        })?;
    Ok((sandbox, namespace))
}

/// Runs in the node's mount namespace.
fn bind_new_namespace(name: &str, path: &Path) -> io::Result<NetNs> {
    fs::write(path, "")?;
    sys::unshare_thread(UnshareFlags::NEWNET)?;
    Netlink::open()?
        .set_up("lo")
        .map_err(NetlinkError::into_io)?;
    rustix::mount::mount_bind("/proc/thread-self/ns/net", path)
        .map_err(|error| doing("bind a pod's namespace", error))?;
    NetNs::current(name)
}

/// Unbinds what [`make_sandbox`] made: the namespace goes, unless it is held elsewhere.
///
/// # Errors
/// See [`RuntimeError`].
pub fn remove_sandbox(site: &Site, sandbox: &Sandbox) -> Result<(), RuntimeError> {
    let remove = || -> io::Result<()> {
        rustix::mount::unmount(&sandbox.netns_path, rustix::mount::UnmountFlags::DETACH)?;
        fs::remove_file(&sandbox.netns_path)
    };
    site.namespace
        .run(remove)
        .map_err(|source| RuntimeError::System {
            what: format!(
                "remove the namespace {} on {}",
                sandbox.netns_path.display(),
                site.name
            ),
            source,
        })
}

/// Makes a program a CNI plugin that is called: `command` is CNI_COMMAND, `path` CNI_PATH. Nothing of this process' environment is left.
pub fn as_plugin_call<'a>(
    program: &'a mut Command,
    command: &str,
    sandbox: &Sandbox,
    path: &Path,
) -> &'a mut Command {
    program
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", &sandbox.container_id)
        .env("CNI_NETNS", &sandbox.netns_path)
        .env("CNI_IFNAME", &sandbox.ifname)
        .env("CNI_PATH", path)
        .envs(sandbox.arguments().map(|text| ("CNI_ARGS", text)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
}

/// Calls the plugin on a node. `configuration` replaces what the conflist says.
///
/// # Errors
/// When the plugin cannot be started.
pub fn call_plugin(
    site: &Site,
    sandbox: &Sandbox,
    command: &str,
    configuration: Option<&str>,
) -> Result<Output, RuntimeError> {
    let failed = |source| RuntimeError::System {
        what: format!("run the CNI plugin on {}", site.name),
        source,
    };
    let configuration = match configuration {
        Some(given) => given.to_owned(),
        None => plugin_configuration(site).map_err(failed)?,
    };
    // Spawning from a thread that lives until the call is over: the plugin dies with it.
    let run = || -> io::Result<Output> {
        let plugins = Path::new(PLUGIN_DIRECTORY);
        let mut program = site.namespace.command(plugins.join("calico"));
        let mut child = as_plugin_call(&mut program, command, sandbox, plugins).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(configuration.as_bytes())?;
        }
        child.wait_with_output()
    };
    run().map_err(failed)
}

/// The plugin's configuration on a node, as a runtime has it in memory.
///
/// # Errors
/// When its conflist cannot be read.
pub fn plugin_configuration(site: &Site) -> io::Result<String> {
    site.namespace.run(read_configuration)
}

/// The plugin's own configuration, made from the conflist as libcni does: one plugin's object plus the list's name and version.
fn read_configuration() -> io::Result<String> {
    let list: Value = serde_json::from_slice(&fs::read(CONFLIST_PATH)?)?;
    let mut plugin = list["plugins"][0].clone();
    plugin["name"] = list["name"].clone();
    plugin["cniVersion"] = list["cniVersion"].clone();
    Ok(plugin.to_string())
}

fn plugin_answer(
    command: &'static str,
    pod: &str,
    output: &Output,
) -> Result<String, RuntimeError> {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    Err(RuntimeError::Plugin {
        command,
        pod: pod.to_owned(),
        status: output.status.to_string(),
        stdout,
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// Checks the shape of an ADD result (specification 1.0.0 and 1.1.0, "Success") and returns the pod's addresses.
fn check_result(pod: &str, answer: &str) -> Result<Addresses, RuntimeError> {
    find_addresses(answer).map_err(|fault| RuntimeError::Result {
        pod: pod.to_owned(),
        fault,
        result: answer.trim().to_owned(),
    })
}

/// The first, of IPv4 where there are both, and that of IPv6 where there is one.
type Addresses = (IpAddr, Option<Ipv6Addr>);

fn find_addresses(answer: &str) -> Result<Addresses, String> {
    let result: Value =
        serde_json::from_str(answer).map_err(|error| format!("no JSON: {error}"))?;
    if result["cniVersion"] != CNI_VERSION {
        return Err(format!(
            "cniVersion is {}, expected \"{CNI_VERSION}\"",
            result["cniVersion"]
        ));
    }
    let interfaces = list(&result, "interfaces")?;
    for interface in interfaces {
        if interface["name"].as_str().is_none_or(str::is_empty) {
            return Err("an interface has no name".to_owned());
        }
    }
    for route in list(&result, "routes")? {
        let destination = route["dst"].as_str().unwrap_or_default();
        destination
            .parse::<ipnet::IpNet>()
            .map_err(|_| format!("routes: dst \"{destination}\" is no prefix"))?;
    }
    let (mut found, mut found6) = (None, None);
    for ip in list(&result, "ips")? {
        let text = ip["address"].as_str().unwrap_or_default();
        let address: ipnet::IpNet = text
            .parse()
            .map_err(|_| format!("ips: address \"{text}\" is no prefix"))?;
        if let Some(index) = ip.get("interface").filter(|index| !index.is_null())
            && index
                .as_u64()
                .is_none_or(|index| index >= interfaces.len() as u64)
        {
            return Err(format!(
                "ips: interface {index} is not an index into interfaces"
            ));
        }
        match address.addr() {
            IpAddr::V4(address) => found = Some(address),
            IpAddr::V6(address) => found6 = Some(address),
        }
    }
    let first = found.map(IpAddr::V4).or(found6.map(IpAddr::V6));
    let first = first.ok_or_else(|| "ips holds no address".to_owned())?;
    Ok((first, found6))
}

/// An optional list of the result; empty when absent.
fn list<'a>(result: &'a Value, key: &str) -> Result<&'a [Value], String> {
    match result.get(key) {
        None => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(other) => Err(format!("{key} is {other}, expected a list")),
    }
}

/// Installs the plugin for all nodes. Call once, before nodes are built.
///
/// # Errors
/// What the file system answers.
pub(crate) fn install_plugin(program: &Path) -> io::Result<()> {
    fs::create_dir_all(PLUGIN_DIRECTORY)?;
    std::os::unix::fs::symlink(program, Path::new(PLUGIN_DIRECTORY).join("calico"))
}

/// Deletes many pods, a few at a time; returns the errors.
pub(crate) fn delete_all(
    pods: &[(&Site, &Pod)],
    threads: usize,
    kube: Option<&Kube>,
) -> Vec<RuntimeError> {
    let parts = pods.chunks(pods.len().div_ceil(threads.max(1)).max(1));
    on_fresh_thread(|| {
        std::thread::scope(|scope| {
            let workers: Vec<_> = parts
                .map(|part| {
                    scope.spawn(move || {
                        part.iter()
                            .filter_map(|(site, pod)| delete_pod(site, pod, kube).err())
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            workers
                .into_iter()
                .flat_map(|worker| worker.join().unwrap_or_default())
                .collect()
        })
    })
}
