//! The product on the topology: a store, an agent per node, pods.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Instant;

use ipnet::IpNet;
use rustix::process::{Pid, Signal};

use crate::enter::BASE;
use crate::options::{Mode, Options};
use crate::programs::Programs;
use crate::reflectors::Reflector;
use crate::runtime::{self, Pod, RuntimeError};
use crate::store::Datastore;
use crate::sys::Mounts;
use crate::topology::{Site, Topology};
use crate::tors::Tor;
use crate::{NetNs, wait};

/// Where an agent listens for the plugin.
const AGENT_SOCKET: &str = "/var/run/calico/tortie-cni.sock";
/// Lines of a log that an error shows.
const LOG_LINES: usize = 15;
/// How many pods are made or removed at the same time.
const PARALLEL: usize = 8;

/// A running cluster. Lives inside a private world ([`crate::in_namespaces`]).
#[derive(Debug)]
pub struct Lab {
    /// What was asked for.
    pub options: Options,
    /// Racks, router and machines.
    pub topology: Topology,
    /// All pods, in the order in which they were made.
    pub pods: Vec<Pod>,
    /// When the first agent was started.
    pub started: Instant,
    /// Route reflectors, when there is no mesh.
    pub reflectors: Vec<Reflector>,
    /// Top-of-rack routers.
    pub tors: Vec<Tor>,
    pub(crate) programs: Programs,
    pub(crate) store: Datastore,
    agents: Vec<Child>,
}

/// Why the cluster did not come up.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The lab itself could not do something.
    #[error("{what}")]
    System {
        /// What was being done.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A program of the product ended, or never became ready.
    #[error("{program}: {what}\n{log}")]
    Program {
        /// Which, e.g. `tortie-node of n1`.
        program: String,
        /// What it did.
        what: String,
        /// The end of its log.
        log: String,
    },
    /// Kubernetes' programs are missing, or one of them failed.
    #[error(transparent)]
    Kubernetes(#[from] kube_lab::Error),
    /// manifests/overlays has nothing for the mode.
    #[error(
        "manifests/overlays has no overlay for mode {mode}; with --kubelet the modes are bgp, ipip, vxlan and vxlan-crosssubnet"
    )]
    NoOverlay {
        /// The mode's name.
        mode: &'static str,
    },
    /// The kernel lacks something that the mode needs.
    #[error(
        "mode {mode} needs the kernel module `{module}`, which this kernel does not have loaded: {advice}"
    )]
    Kernel {
        /// The mode's name.
        mode: &'static str,
        /// The module's name.
        module: &'static str,
        /// What to do.
        advice: &'static str,
    },
}

impl LabError {
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }
}

impl Lab {
    /// Checks that the kernel can do what the mode needs. Builds nothing.
    ///
    /// # Errors
    /// [`LabError::Kernel`], or what the kernel answers.
    pub fn check_kernel(mode: Mode) -> Result<(), LabError> {
        if !matches!(mode, Mode::Ipip | Mode::IpipCrosssubnet) {
            return Ok(());
        }
        let probe = NetNs::new("probe").map_err(LabError::system("make a namespace"))?;
        let has_module = probe.run(|| -> io::Result<bool> {
            let mut netlink = crate::Netlink::open()?;
            // Where the module is there, tunl0 is made with every namespace or on this request.
            let known = netlink
                .links()
                .map_err(crate::NetlinkError::into_io)?
                .iter()
                .any(|link| link.name == "tunl0");
            Ok(known || netlink.add_plain_link("probe0", "ipip").is_ok())
        });
        if has_module.map_err(LabError::system("ask the kernel for ipip"))? {
            return Ok(());
        }
        Err(LabError::Kernel {
            mode: mode.name(),
            module: "ipip",
            advice: "run `modprobe ipip` as root, or use --kernel uml, or --mode vxlan or vxlan-crosssubnet",
        })
    }

    /// Builds topology, store and agents, and waits until every agent is ready for the plugin.
    ///
    /// # Errors
    /// See [`LabError`].
    pub fn start(options: Options, programs: Programs) -> Result<Self, LabError> {
        Self::start_with(options, programs, |_| Ok(()))
    }

    /// As [`Lab::start`]; `prepare` sees the topology before the first agent starts.
    ///
    /// # Errors
    /// See [`LabError`].
    pub fn start_with(
        options: Options,
        programs: Programs,
        prepare: impl FnOnce(&Topology) -> io::Result<()>,
    ) -> Result<Self, LabError> {
        let mut lab = Self::without_agents(options, programs)?;
        prepare(&lab.topology).map_err(LabError::system("prepare the topology"))?;
        lab.start_reflectors()?;
        lab.start_tors()?;
        lab.started = Instant::now();
        for node in 0..lab.options.nodes {
            let agent = lab.spawn_agent(node)?;
            lab.agents.push(agent);
        }
        for node in 0..lab.options.nodes {
            lab.wait_ready(node)?;
        }
        Ok(lab)
    }

    /// Builds topology and store only, for tests of what comes before a running agent.
    ///
    /// # Errors
    /// See [`LabError`].
    pub fn without_agents(options: Options, programs: Programs) -> Result<Self, LabError> {
        Self::check_kernel(options.mode)?;
        runtime::install_plugin(&programs.cni()).map_err(LabError::system("install the plugin"))?;
        fs::create_dir_all(log_directory()).map_err(LabError::system("make the log directory"))?;
        let topology = Topology::build(options.nodes, options.racks, options.families)
            .map_err(LabError::system("build racks and nodes"))?;
        for site in &topology.sites {
            runtime::install_conflist(site, &options)
                .map_err(LabError::system("write the conflist"))?;
        }
        let store = Datastore::start(&programs, &options, &topology)?;
        Ok(Self {
            options,
            topology,
            pods: Vec::new(),
            started: Instant::now(),
            reflectors: Vec::new(),
            tors: Vec::new(),
            programs,
            store,
            agents: Vec::new(),
        })
    }

    /// Runs an agent that is expected to end by itself, with more or other variables than usual. Returns how it ended and what it said.
    ///
    /// # Errors
    /// [`LabError::Program`] when it still runs after the lab's patience; it is killed then.
    pub fn try_agent(
        &self,
        node: usize,
        environment: &[(&str, &str)],
    ) -> Result<(ExitStatus, String), LabError> {
        let name = &self.topology.sites[node].name;
        // Its words only, not those of an agent before.
        fs::remove_file(log_path(name))
            .or_else(ignore_missing)
            .map_err(LabError::system("remove a log"))?;
        let mut agent = spawn_logged(self.agent_command(node, environment), name)?;
        let deadline = Instant::now() + self.options.patience;
        let ended = wait::until(deadline, || agent.try_wait().transpose());
        let log = fs::read_to_string(log_path(name)).unwrap_or_default();
        match ended {
            Some(status) => Ok((status.map_err(LabError::system("wait for an agent"))?, log)),
            None => {
                agent
                    .kill()
                    .and_then(|()| agent.wait())
                    .map_err(LabError::system("kill an agent"))?;
                let what = format!("still runs after {:?}", self.options.patience);
                Err(LabError::Program {
                    program: format!("tortie-node of {name}"),
                    what,
                    log,
                })
            }
        }
    }

    /// Starts an agent on every node, after [`Lab::without_agents`], and waits until all are ready.
    ///
    /// # Errors
    /// See [`LabError`].
    pub fn start_agents(&mut self) -> Result<(), LabError> {
        for node in 0..self.options.nodes {
            let agent = self.spawn_agent(node)?;
            self.agents.push(agent);
        }
        (0..self.options.nodes).try_for_each(|node| self.wait_ready(node))
    }

    /// Starts the agent of the first node that has none, after [`Lab::without_agents`], and waits until it is ready.
    ///
    /// # Errors
    /// See [`LabError`].
    pub fn start_next_agent(&mut self) -> Result<(), LabError> {
        let node = self.agents.len();
        let agent = self.spawn_agent(node)?;
        self.agents.push(agent);
        self.wait_ready(node)
    }

    /// Runs `tortie-node` with these arguments on a node, with the settings of its agent.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn node_program(&self, node: usize, arguments: &[&str]) -> io::Result<Output> {
        let mut command = self.agent_command(node, &[]);
        command.args(arguments).output()
    }

    fn spawn_agent(&self, node: usize) -> Result<Child, LabError> {
        spawn_logged(
            self.agent_command(node, &[]),
            &self.topology.sites[node].name,
        )
    }

    fn agent_command(&self, node: usize, environment: &[(&str, &str)]) -> Command {
        let mut command = self.command_of(&self.topology.sites[node], self.programs.node());
        command.envs(environment.iter().copied());
        command
    }

    /// A program of the product on a machine, with the settings of that machine's agent and no others.
    pub(crate) fn command_of(&self, site: &Site, program: PathBuf) -> Command {
        let mut command = site.namespace.command_with(program, Mounts::Copied);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(self.options.environment_of(site))
            .stdin(Stdio::null());
        command
    }

    /// Starts the agent of a node again, after [`Lab::kill_agent`], and waits until it is ready.
    ///
    /// # Errors
    /// See [`LabError`].
    pub fn restart_agent(&mut self, node: usize) -> Result<(), LabError> {
        self.start_agent(node)?;
        self.wait_ready(node)
    }

    /// As [`Lab::restart_agent`], without the waiting.
    ///
    /// # Errors
    /// See [`LabError`].
    pub fn start_agent(&mut self, node: usize) -> Result<(), LabError> {
        self.agents[node] = self.spawn_agent(node)?;
        Ok(())
    }

    /// As [`Lab::restart_agent`], without CAP_NET_ADMIN.
    ///
    /// # Errors
    /// See [`LabError`]; also where util-linux has no `setpriv`.
    pub fn restart_agent_without_net_admin(&mut self, node: usize) -> Result<(), LabError> {
        let site = &self.topology.sites[node];
        let mut command = self.command_of(site, PathBuf::from("setpriv"));
        command
            .args(["--bounding-set=-net_admin", "--inh-caps=-net_admin"])
            .arg(self.programs.node());
        self.agents[node] = spawn_logged(command, &site.name)?;
        self.wait_ready(node)
    }

    /// Kills the agent of a node with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// When it was gone before.
    pub fn kill_agent(&mut self, node: usize) -> io::Result<()> {
        self.agents[node].kill()?;
        self.agents[node].wait().map(drop)
    }

    /// Asks the agent of a node to end, with SIGTERM, and waits until it has.
    ///
    /// # Errors
    /// When it was gone before.
    pub fn terminate_agent(&mut self, node: usize) -> io::Result<ExitStatus> {
        self.signal_agent(node, Signal::TERM)?;
        self.agents[node].wait()
    }

    /// Stops the agent of a node where it stands, so that a fault stays unrepaired.
    ///
    /// # Errors
    /// When it is gone.
    pub fn freeze_agent(&self, node: usize) -> io::Result<()> {
        self.signal_agent(node, Signal::STOP)
    }

    /// Lets a frozen agent go on.
    ///
    /// # Errors
    /// When it is gone.
    pub fn thaw_agent(&self, node: usize) -> io::Result<()> {
        self.signal_agent(node, Signal::CONT)
    }

    fn signal_agent(&self, node: usize, signal: Signal) -> io::Result<()> {
        let pid = Pid::from_child(&self.agents[node]);
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// Waits until the agent of a node accepts the plugin's calls.
    ///
    /// # Errors
    /// [`LabError::Program`] when it ended, or did not within the lab's patience.
    pub fn wait_ready(&mut self, node: usize) -> Result<(), LabError> {
        let deadline = Instant::now() + self.options.patience;
        let site = self.topology.sites[node].clone();
        let program = format!("tortie-node of {}", site.name);
        let agent = &mut self.agents[node];
        let ready = site.namespace.run(|| -> io::Result<bool> {
            let mut alive = || still_runs(agent);
            if !wait::for_path(Path::new(AGENT_SOCKET), deadline, &mut alive)? {
                return Ok(false);
            }
            // A socket file of a former process may lie there: ready means that somebody accepts.
            let answered = wait::until(deadline, || match alive() {
                Err(error) => Some(Err(error)),
                Ok(()) => UnixStream::connect(AGENT_SOCKET).ok().map(|_| Ok(())),
            });
            answered.transpose().map(|answer| answer.is_some())
        });
        let what = match ready {
            Ok(true) => return Ok(()),
            Ok(false) => format!(
                "{AGENT_SOCKET} did not come within {:?}",
                self.options.patience
            ),
            Err(error) => error.to_string(),
        };
        Err(LabError::Program {
            program,
            what,
            log: log_end(&site.name),
        })
    }

    /// An error when a program of the cluster has ended.
    ///
    /// # Errors
    /// [`LabError::Program`] with the end of its log.
    pub fn check_programs(&mut self) -> Result<(), LabError> {
        let names = self.topology.sites.iter().map(|site| site.name.clone());
        self.store.check()?;
        for (name, child) in names.zip(&mut self.agents) {
            if let Err(error) = still_runs(child) {
                return Err(LabError::Program {
                    program: format!("the program of {name}"),
                    what: error.to_string(),
                    log: log_end(&name),
                });
            }
        }
        for tor in &mut self.tors {
            if let Err(error) = tor.check() {
                return Err(LabError::Program {
                    program: format!("BIRD of {}", tor.site.name),
                    what: error.to_string(),
                    log: log_end(&tor.site.name),
                });
            }
        }
        for reflector in &mut self.reflectors {
            if let Err(error) = reflector.check() {
                return Err(LabError::Program {
                    program: format!("tortie-rr of {}", reflector.site.name),
                    what: error.to_string(),
                    log: log_end(&reflector.site.name),
                });
            }
        }
        Ok(())
    }

    /// Makes one pod on a node.
    ///
    /// # Errors
    /// See [`RuntimeError`].
    pub fn add_pod(&mut self, node: usize) -> Result<&Pod, RuntimeError> {
        let site = &self.topology.sites[node];
        let name = format!(
            "p{}",
            self.pods.iter().filter(|pod| pod.node == site.name).count()
        );
        let pod = runtime::add_pod(site, &name, self.store.kube())?;
        self.pods.push(pod);
        self.teach_router()?;
        Ok(&self.pods[self.pods.len() - 1])
    }

    /// Makes pods until every node has `count`, the nodes in parallel.
    ///
    /// # Errors
    /// The first error of each node that had one.
    pub fn fill_pods(&mut self, count: usize) -> Result<(), Vec<RuntimeError>> {
        let made: Vec<Result<Vec<Pod>, RuntimeError>> = std::thread::scope(|scope| {
            let parts: Vec<_> = self
                .topology
                .sites
                .iter()
                .map(|site| {
                    let kube = self.store.kube();
                    let first = self.pods.iter().filter(|pod| pod.node == site.name).count();
                    scope.spawn(move || {
                        (first..count)
                            .map(|index| runtime::add_pod(site, &format!("p{index}"), kube))
                            .collect()
                    })
                })
                .collect();
            parts
                .into_iter()
                .map(|part| part.join().expect("making pods does not panic"))
                .collect()
        });
        let mut errors = Vec::new();
        for result in made {
            match result {
                Ok(pods) => self.pods.extend(pods),
                Err(error) => errors.push(error),
            }
        }
        errors.extend(self.teach_router().err());
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    /// Plain routes between racks: the fabric has to know the way to every block, as its operator would see to.
    fn teach_router(&self) -> Result<(), RuntimeError> {
        if self.topology.racks.len() < 2 {
            return Ok(());
        }
        let plain = |block: &IpNet| self.options.mode_of(block.addr()) == Mode::Bgp;
        let blocks = self.blocks().into_iter();
        for (block, owner) in blocks.filter(|(block, _)| plain(block)) {
            self.topology
                .route_on_router(block, owner)
                .map_err(|error| RuntimeError::System {
                    what: error.what,
                    source: error.source,
                })?;
        }
        Ok(())
    }

    /// Disconnects and removes all pods.
    ///
    /// # Errors
    /// All errors that there were; the pods are forgotten in any case.
    pub fn delete_pods(&mut self) -> Result<(), Vec<RuntimeError>> {
        self.delete_pods_after(0)
    }

    /// Disconnects and removes all pods but the first `kept`.
    ///
    /// # Errors
    /// As [`Lab::delete_pods`].
    pub fn delete_pods_after(&mut self, kept: usize) -> Result<(), Vec<RuntimeError>> {
        let pods = self.pods.split_off(kept);
        let placed: Vec<(&Site, &Pod)> =
            pods.iter().map(|pod| (self.site(&pod.node), pod)).collect();
        let errors = runtime::delete_all(&placed, PARALLEL, self.store.kube());
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    /// The machine of a name.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn site(&self, name: &str) -> &Site {
        self.topology
            .sites
            .iter()
            .find(|site| site.name == name)
            .expect("pods name nodes of this lab")
    }

    /// The blocks in use: each with the machine whose pods live in it.
    #[must_use]
    pub fn blocks(&self) -> Vec<(IpNet, &Site)> {
        let mut blocks: Vec<(IpNet, &Site)> = Vec::new();
        for pod in &self.pods {
            let site = self.site(&pod.node);
            for address in pod.addresses() {
                let block = self.options.block_of(address);
                if !blocks
                    .iter()
                    .any(|(known, owner)| *known == block && owner.name == site.name)
                {
                    blocks.push((block, site));
                }
            }
        }
        blocks.sort_by_key(|(block, _)| *block);
        blocks
    }

    /// The next hop by which a machine reaches another's block without a tunnel.
    #[must_use]
    pub fn plain_next_hop(&self, from: &Site, to: &Site, block: IpNet) -> IpAddr {
        if from.rack == to.rack {
            to.address_like(block.addr())
        } else {
            self.topology.racks[usize::from(from.rack) - 1].gateway_like(block.addr())
        }
    }

    /// The built programs.
    #[must_use]
    pub fn programs(&self) -> &Programs {
        &self.programs
    }
}

pub(crate) fn spawn_logged(mut command: Command, name: &str) -> Result<Child, LabError> {
    let log = || -> io::Result<File> {
        File::options()
            .create(true)
            .append(true)
            .open(log_path(name))
    };
    let open = || -> io::Result<(File, File)> {
        let first = log()?;
        let second = first.try_clone()?;
        Ok((first, second))
    };
    let (out, err) = open().map_err(LabError::system(format!("open the log of {name}")))?;
    command
        .stdout(out)
        .stderr(err)
        .spawn()
        .map_err(LabError::system(format!(
            "start {} for {name}",
            command.get_program().display()
        )))
}

pub(crate) fn still_runs(child: &mut Child) -> io::Result<()> {
    match child.try_wait()? {
        None => Ok(()),
        Some(status) => Err(io::Error::other(match status.signal() {
            Some(signal) => format!("killed by signal {signal}"),
            None => format!("ended with {status}"),
        })),
    }
}

fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound {
        Ok(())
    } else {
        Err(error)
    }
}

pub(crate) fn log_directory() -> PathBuf {
    Path::new(BASE).join("log")
}

/// The log of a node's agent, or of `store`.
#[must_use]
pub fn log_path(name: &str) -> PathBuf {
    log_directory().join(format!("{name}.log"))
}

/// The last lines of a log, for an error.
#[must_use]
pub fn log_end(name: &str) -> String {
    let text = fs::read(log_path(name)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}
