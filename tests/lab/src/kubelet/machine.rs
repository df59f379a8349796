//! A machine with containerd, a kubelet and kube-proxy.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use kube_lab::{ApiServer, Keeper, Process};
use serde_json::{Value, json};

use crate::cluster::LabError;
use crate::enter::{BASE, mount_new};
use crate::kubelet::{PODS, PODS6, busybox, cgroups};
use crate::topology::Site;
use crate::wait;

/// Directories that each machine has for itself, besides those of every machine of the lab.
const DIRECTORIES: [&str; 4] = ["/opt", "/run/containerd", "/var/lib/cni", "/var/log"];
/// Where the plugins of Debian's containernetworking-plugins are.
pub(super) const OTHER_PLUGINS: &str = "/usr/lib/cni";
/// Those of them that every machine of a kubeadm cluster has, as far as they are called here.
pub(super) const NEEDED_PLUGINS: [&str; 2] = ["loopback", "portmap"];
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// A machine that runs pods.
#[derive(Debug)]
pub struct Machine {
    /// Its name, address and namespaces.
    pub site: Site,
    folder: PathBuf,
    keeper: Keeper,
    containerd: Process,
    kubelet: Option<Process>,
    proxy: Option<Process>,
}

impl Machine {
    /// Prepares the machine's directories, starts containerd and gives it the images.
    pub(super) fn start(site: Site, images: &[&Path], deadline: Instant) -> Result<Self, LabError> {
        let folder = Path::new(BASE).join(format!("machine-{}", site.name));
        fs::create_dir_all(&folder).map_err(LabError::system("make a machine's folder"))?;
        site.namespace
            .run(prepare)
            .map_err(LabError::system(format!("prepare machine {}", site.name)))?;
        let configuration = folder.join("containerd.toml");
        fs::write(&configuration, containerd(&folder))
            .map_err(LabError::system("write containerd's configuration"))?;
        let keeper = Keeper::new();
        let mut command = site.namespace.command("containerd");
        command
            .env("PATH", PATH)
            .arg("--config")
            .arg(&configuration);
        let containerd = Process::spawn(&keeper, "containerd", command, &folder)?;
        let mut machine = Self {
            site,
            folder,
            keeper,
            containerd,
            kubelet: None,
            proxy: None,
        };
        machine.wait_containerd(deadline)?;
        for image in images {
            machine.import(image)?;
        }
        Ok(machine)
    }

    fn wait_containerd(&mut self, deadline: Instant) -> Result<(), LabError> {
        let mut ended = None;
        let answers = wait::until(deadline, || {
            ended = self.containerd.check().err();
            let answers = self.ctr(&["version"]).is_ok();
            (answers || ended.is_some()).then_some(answers)
        });
        match (answers, ended) {
            (Some(true), _) => Ok(()),
            (_, Some(error)) => Err(error.into()),
            (_, None) => Err(LabError::Program {
                program: format!("containerd of {}", self.site.name),
                what: "does not answer".to_owned(),
                log: self.containerd.log_end(),
            }),
        }
    }

    /// Gives containerd an image.
    ///
    /// # Errors
    /// containerd's words.
    pub fn import(&self, archive: &Path) -> Result<(), LabError> {
        let archive = archive.display().to_string();
        self.ctr(&["images", "import", &archive]).map(drop)
    }

    /// Runs containerd's own client; what it prints.
    ///
    /// # Errors
    /// containerd's words.
    pub fn ctr(&self, arguments: &[&str]) -> Result<String, LabError> {
        let mut command = self.site.namespace.command("ctr");
        let socket = self.socket();
        command
            .args(["--address", &socket, "--namespace", "k8s.io"])
            .args(arguments)
            .stdin(Stdio::null());
        said(command, &format!("ctr {}", arguments.join(" ")))
    }

    /// A process of a pod, when it runs here.
    pub(super) fn process_of(&self, pod: &str) -> Result<Option<u32>, LabError> {
        let filter = format!(r#"labels."io.kubernetes.pod.name"=={pod}"#);
        let containers = self.ctr(&["containers", "list", "--quiet", &filter])?;
        let tasks = self.ctr(&["tasks", "list"])?;
        let mut running = tasks.lines().filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (container, pid) = (fields.next()?, fields.next()?);
            let runs = fields.next()? == "RUNNING" && containers.lines().any(|id| id == container);
            runs.then(|| pid.parse().ok())?
        });
        Ok(running.next_back())
    }

    fn socket(&self) -> String {
        self.folder.join("containerd.sock").display().to_string()
    }

    /// Starts the kubelet and kube-proxy; the node's object appears soon after.
    pub(super) fn join(&mut self, server: &ApiServer) -> Result<(), LabError> {
        let kubelet = self.kubelet_configuration(&server.ca_file());
        let kubelet = self.write("kubelet.json", &kubelet)?;
        let pods = match self.site.address6 {
            Some(_) => format!("{PODS},{PODS6}"),
            None => PODS.to_owned(),
        };
        let proxy = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "hostnameOverride": self.site.name,
            "clusterCIDR": pods,
            "clientConnection": {"kubeconfig": server.kubeconfig()},
            // Those limits belong to the machine's first namespace.
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        });
        let proxy = self.write("kube-proxy.json", &proxy)?;
        let addresses = self.site.addresses().map(|address| address.to_string());
        let addresses: Vec<String> = addresses.collect();
        let flag = |name: &str, value: &Path| {
            let mut flag = OsString::from(format!("--{name}="));
            flag.push(value);
            flag
        };
        let program = server
            .programs()
            .path("kubelet")
            .map_err(kube_lab::Error::from)?;
        let mut command = self.site.namespace.command(program);
        command
            .env("PATH", PATH)
            .arg(flag("config", &kubelet))
            .arg(flag("kubeconfig", &server.kubeconfig()))
            .arg(flag("root-dir", &self.folder.join("kubelet")))
            .arg(flag("cert-dir", &self.folder.join("certificates")))
            .arg(format!("--hostname-override={}", self.site.name))
            .arg(format!("--node-ip={}", addresses.join(",")));
        self.kubelet = Some(Process::spawn(
            &self.keeper,
            "kubelet",
            command,
            &self.folder,
        )?);
        let program = server
            .programs()
            .path("kube-proxy")
            .map_err(kube_lab::Error::from)?;
        let mut command = self.site.namespace.command(program);
        command.env("PATH", PATH).arg(flag("config", &proxy));
        self.proxy = Some(Process::spawn(
            &self.keeper,
            "kube-proxy",
            command,
            &self.folder,
        )?);
        Ok(())
    }

    fn kubelet_configuration(&self, authority: &Path) -> Value {
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": format!("unix://{}", self.socket()),
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": false},
                "x509": {"clientCAFile": authority},
            },
            "authorization": {"mode": "AlwaysAllow"},
            "failCgroupV1": false,
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": false,
            "enforceNodeAllocatable": [],
            "failSwapOn": false,
            "localStorageCapacityIsolation": false,
            // The disk is the machine's, and how full it is no business of the lab.
            "evictionHard": {"nodefs.available": "0%", "imagefs.available": "0%", "memory.available": "0%"},
            "imageGCHighThresholdPercent": 100,
            "podLogsDir": self.folder.join("pods"),
            "volumePluginDir": self.folder.join("volume-plugins"),
            "resolvConf": "",
            "nodeStatusUpdateFrequency": "1s",
        })
    }

    fn write(&self, name: &str, value: &Value) -> Result<PathBuf, LabError> {
        let path = self.folder.join(name);
        fs::write(&path, value.to_string()).map_err(LabError::system(format!("write {name}")))?;
        Ok(path)
    }

    /// An error when one of its programs has ended.
    pub(super) fn check(&mut self) -> Result<(), LabError> {
        self.containerd.check()?;
        for process in self.kubelet.iter_mut().chain(&mut self.proxy) {
            process.check()?;
        }
        Ok(())
    }

    /// The ends of its programs' logs.
    pub(super) fn logs(&self) -> String {
        let processes = [
            Some(&self.containerd),
            self.kubelet.as_ref(),
            self.proxy.as_ref(),
        ];
        let ends = processes.into_iter().flatten().map(Process::log_end);
        format!(
            "--- {}:\n{}",
            self.site.name,
            ends.collect::<Vec<_>>().join("\n")
        )
    }
}

/// In the machine's mount namespace.
fn prepare() -> io::Result<()> {
    for directory in DIRECTORIES {
        fs::create_dir_all(directory)?;
        let real = Path::new(directory).canonicalize()?;
        mount_new("tmpfs", &real)?;
    }
    cgroups::show()?;
    fs::create_dir_all("/opt/cni/bin")?;
    for plugin in NEEDED_PLUGINS {
        let plugins = Path::new("/opt/cni/bin");
        std::os::unix::fs::symlink(Path::new(OTHER_PLUGINS).join(plugin), plugins.join(plugin))?;
    }
    Ok(())
}

/// containerd's configuration; it is TOML.
fn containerd(folder: &Path) -> String {
    let folder = folder.display();
    let pause = busybox::NAME;
    // Lowering a process's score is not permitted everywhere.
    format!(
        r#"version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/opt/cni/bin"
  conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
"#
    )
}

fn said(mut command: Command, name: &str) -> Result<String, LabError> {
    let output = command
        .output()
        .map_err(LabError::system(format!("run {name}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(LabError::Program {
        program: name.to_owned(),
        what: output.status.to_string(),
        log: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
