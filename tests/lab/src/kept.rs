//! A lab that was left up by `--keep`: its state file, commands in it, its end.

use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cluster::Lab;
use crate::topology::Site;
use crate::{sys, wait};

/// How long a killed lab may take to vanish.
const VANISHING: Duration = Duration::from_secs(10);

/// What the state file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Process 1 of the lab, as the machine sees it.
    pub host_pid: u32,
    /// Its PID namespace, to tell it from a later process with the same number.
    pub pid_namespace: String,
    /// The nodes.
    pub nodes: Vec<KeptNode>,
}

/// A node, a reflector or a router of a kept lab: descriptors of process 1 that hold its namespaces. Paths would not do: the kernel refuses to bind a mount
/// namespace below one that it numbers higher, and its numbers follow no order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptNode {
    /// Its name.
    pub name: String,
    /// Descriptor of the network namespace.
    pub net: i32,
    /// Descriptor of the mount namespace.
    pub mount: i32,
    /// The agent's own settings: what `tortiectl` reads is the node's then.
    pub environment: Vec<(String, String)>,
    /// Where the programs are.
    pub programs: Vec<PathBuf>,
}

impl KeptNode {
    /// The nodes and other machines of a lab that this process, as process 1, goes on holding.
    #[must_use]
    pub fn all(lab: &Lab) -> Vec<Self> {
        let kube = lab.store.kube();
        let reflectors = lab.reflectors.iter().map(|reflector| &reflector.site);
        let tors = lab.tors.iter().map(|tor| &tor.site);
        let sites = lab.topology.sites.iter().chain(reflectors).chain(tors);
        let sites = sites.chain(kube.map(|kube| &kube.site));
        sites
            .filter_map(|site| {
                let mount = site.namespace.mount_fd()?.as_raw_fd();
                Some(Self {
                    name: site.name.clone(),
                    net: site.namespace.fd().as_raw_fd(),
                    mount,
                    environment: environment(lab, site),
                    programs: [
                        Some(lab.programs().folder()),
                        kube.map(crate::Kube::programs),
                    ]
                    .into_iter()
                    .flatten()
                    .map(std::path::Path::to_path_buf)
                    .collect(),
                })
            })
            .collect()
    }
}

/// The agent's own, with what makes an operator of the user.
fn environment(lab: &Lab, site: &Site) -> Vec<(String, String)> {
    let mut all = lab.options.environment_of(site);
    for (name, value) in lab.options.store.operators_environment() {
        all.retain(|(known, _)| known != name);
        all.push((name.to_owned(), value));
    }
    all
}

/// Why a kept lab cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// There is none.
    #[error("no lab is up; start one with `cargo lab --keep`")]
    None,
    /// One is up already.
    #[error("a kept lab is up already (process {0}); end it with `cargo lab down`")]
    AlreadyUp(u32),
    /// The node's name is wrong.
    #[error("node \"{given}\" is not in the kept lab; it has {}", known.join(", "))]
    NoSuchNode {
        /// What was asked for.
        given: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The system refused something.
    #[error("{what}")]
    System {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> KeptError {
    move |source| KeptError::System { what, source }
}

fn directory() -> PathBuf {
    std::env::temp_dir().join(format!(
        "tortie-lab-{}",
        rustix::process::geteuid().as_raw()
    ))
}

fn state_path() -> PathBuf {
    directory().join("state.json")
}

impl Kept {
    /// The kept lab of this user.
    ///
    /// # Errors
    /// [`KeptError::None`]; a stale state file is removed.
    pub fn find() -> Result<Self, KeptError> {
        let Ok(text) = fs::read(state_path()) else {
            return Err(KeptError::None);
        };
        let kept: Option<Self> = serde_json::from_slice(&text).ok();
        match kept.filter(Self::is_alive) {
            Some(kept) => Ok(kept),
            None => {
                remove_state();
                Err(KeptError::None)
            }
        }
    }

    /// Fails when a lab is kept already.
    ///
    /// # Errors
    /// [`KeptError::AlreadyUp`].
    pub fn check_none() -> Result<(), KeptError> {
        match Self::find() {
            Ok(kept) => Err(KeptError::AlreadyUp(kept.host_pid)),
            Err(_) => Ok(()),
        }
    }

    /// Writes the state file.
    ///
    /// # Errors
    /// What the file system answers, or that somebody else owns the directory.
    pub fn save(&self) -> Result<(), KeptError> {
        let save = || -> io::Result<()> {
            fs::DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(directory())?;
            let metadata = fs::symlink_metadata(directory())?;
            if !metadata.is_dir() || metadata.uid() != rustix::process::geteuid().as_raw() {
                return Err(io::Error::other(format!(
                    "{} belongs to somebody else",
                    directory().display()
                )));
            }
            fs::write(state_path(), serde_json::to_vec(self)?)
        };
        save().map_err(system("write the kept lab's state file"))
    }

    fn is_alive(&self) -> bool {
        fs::read_link(format!("/proc/{}/ns/pid", self.host_pid))
            .is_ok_and(|namespace| namespace.to_string_lossy() == self.pid_namespace)
    }

    /// Runs a command on a node and waits for it.
    ///
    /// # Errors
    /// See [`KeptError`].
    pub fn exec(&self, node: &str, arguments: &[OsString]) -> Result<ExitStatus, KeptError> {
        let Some(node) = self.nodes.iter().find(|known| known.name == node) else {
            let known = self.nodes.iter().map(|node| node.name.clone()).collect();
            return Err(KeptError::NoSuchNode {
                given: node.to_owned(),
                known,
            });
        };
        let prepare = || -> io::Result<Command> {
            let (program, rest) = arguments
                .split_first()
                .ok_or_else(|| io::Error::other("no command was given"))?;
            let mut command = Command::new(program);
            command.args(rest);
            command.envs(node.environment.iter().cloned());
            // Behind all others, so that nothing the user has is hidden. Debian keeps `birdc` where only root looks.
            let path = std::env::var_os("PATH").unwrap_or_default();
            let folders = std::env::split_paths(&path)
                .chain(node.programs.iter().cloned())
                .chain([PathBuf::from("/usr/sbin")]);
            command.env(
                "PATH",
                std::env::join_paths(folders).map_err(io::Error::other)?,
            );
            let mut outer = Vec::new();
            for kind in ["user", "pid", "mnt", "net"] {
                let path = format!("/proc/{}/ns/{kind}", self.host_pid);
                // The user namespace is the same for root, and joining one's own is refused.
                if fs::read_link(&path)? != fs::read_link(format!("/proc/self/ns/{kind}"))? {
                    outer.push(File::open(path)?);
                }
            }
            let inner = [node.net, node.mount].map(|fd| {
                CString::new(format!("/proc/1/fd/{fd}")).expect("digits hold no zero byte")
            });
            sys::in_kept_lab(&mut command, outer, inner.to_vec());
            Ok(command)
        };
        prepare()
            .and_then(|mut command| command.status())
            .map_err(system("run the command"))
    }

    /// Ends the kept lab and waits until its processes are gone.
    ///
    /// # Errors
    /// See [`KeptError`].
    pub fn end(&self) -> Result<(), KeptError> {
        let pid = i32::try_from(self.host_pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let kill = || -> io::Result<()> {
            let pid = pid.ok_or_else(|| io::Error::other("the state file names no process"))?;
            // By descriptor: the number could belong to somebody else by now.
            let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
            if !self.is_alive() {
                return Ok(());
            }
            rustix::process::pidfd_send_signal(&process, rustix::process::Signal::KILL)?;
            if wait::readable(process.as_raw_fd(), VANISHING)? {
                Ok(())
            } else {
                Err(io::ErrorKind::TimedOut.into())
            }
        };
        kill().map_err(system("end the kept lab"))?;
        wait::until(Instant::now() + VANISHING, || {
            (!self.is_alive()).then_some(())
        });
        remove_state();
        Ok(())
    }
}

/// Neither may exist any more, and nothing else depends on them.
fn remove_state() {
    let _ = fs::remove_file(state_path());
    let _ = fs::remove_dir(directory());
}
