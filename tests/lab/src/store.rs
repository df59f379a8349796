//! Where the cluster's objects are kept: the embedded store's process, or Kubernetes.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use kube_lab::Part;

use crate::cluster::{Lab, LabError, log_end, spawn_logged, still_runs};
use crate::kube::Kube;
use crate::options::{Options, Store};
use crate::programs::Programs;
use crate::topology::Topology;
use crate::wait;

/// Where the embedded store listens; the same path in every mount namespace.
pub const SOCKET: &str = "/run/tortie-lab/store.sock";

/// What it keeps them in.
pub const FILE: &str = "/run/tortie-lab/store/store.redb";

/// What keeps the objects.
#[derive(Debug)]
pub(crate) enum Datastore {
    /// `tortie-store`.
    Local(Child),
    /// An API server.
    Kube(Box<Kube>),
}

impl Datastore {
    /// Starts the one that the options name, and waits until it answers.
    pub(crate) fn start(
        programs: &Programs,
        options: &Options,
        topology: &Topology,
    ) -> Result<Self, LabError> {
        match options.store {
            Store::Local => start_local(programs, options).map(Self::Local),
            Store::Kube => Kube::start(topology).map(|kube| Self::Kube(Box::new(kube))),
        }
    }

    /// Kubernetes, when it is that.
    pub(crate) fn kube(&self) -> Option<&Kube> {
        match self {
            Self::Local(_) => None,
            Self::Kube(kube) => Some(kube),
        }
    }

    /// An error when it has ended by itself.
    pub(crate) fn check(&mut self) -> Result<(), LabError> {
        match self {
            Self::Local(child) => still_runs(child).map_err(|error| LabError::Program {
                program: "tortie-store".to_owned(),
                what: error.to_string(),
                log: log_end("store"),
            }),
            Self::Kube(kube) => kube.check(),
        }
    }
}

impl Lab {
    /// Kills the store with SIGKILL and waits until it is gone: with Kubernetes, the API server.
    ///
    /// # Errors
    /// When it was gone before.
    pub fn kill_store(&mut self) -> io::Result<()> {
        match &mut self.store {
            Datastore::Local(child) => child.kill().and_then(|()| child.wait().map(drop)),
            Datastore::Kube(kube) => kube.server.kill(Part::ApiServer).map_err(io::Error::other),
        }
    }

    /// Starts the store again, after [`Lab::kill_store`], and waits until it accepts connections.
    ///
    /// # Errors
    /// See [`LabError`].
    pub fn restart_store(&mut self) -> Result<(), LabError> {
        match &mut self.store {
            Datastore::Local(child) => *child = start_local(&self.programs, &self.options)?,
            Datastore::Kube(kube) => kube.server.start_part(Part::ApiServer)?,
        }
        Ok(())
    }

    /// Kubernetes of this lab.
    ///
    /// # Panics
    /// When the options name another store.
    pub fn kube(&mut self) -> &mut Kube {
        match &mut self.store {
            Datastore::Kube(kube) => kube,
            Datastore::Local(_) => panic!("the options name the embedded store"),
        }
    }

    /// Writes a manifest's objects to the store with `tortiectl`, as an operator would.
    pub(crate) fn apply(&self, manifest: &Path) -> Result<(), LabError> {
        let program = self.programs().ctl();
        let mut command = match &self.store {
            Datastore::Local(_) => Command::new(program),
            Datastore::Kube(kube) => kube.site.namespace.command(program),
        };
        let output = command
            .env_clear()
            .envs(self.options.store.operators_environment())
            .args(["apply", "-f"])
            .arg(manifest)
            .stdin(Stdio::null())
            .output()
            .map_err(LabError::system("start tortiectl"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(LabError::Program {
            program: "tortiectl apply".to_owned(),
            what: output.status.to_string(),
            log: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

fn start_local(programs: &Programs, options: &Options) -> Result<Child, LabError> {
    if let Some(directory) = Path::new(FILE).parent() {
        fs::create_dir_all(directory).map_err(LabError::system("make the store's directory"))?;
    }
    let mut command = Command::new(programs.store());
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .args(["--data", FILE, "--listen", &format!("unix:{SOCKET}")])
        .stdin(Stdio::null());
    let mut store = spawn_logged(command, "store")?;
    let deadline = Instant::now() + options.patience;
    let mut alive = || still_runs(&mut store);
    let came = wait::for_path(Path::new(SOCKET), deadline, &mut alive);
    // A socket file of a killed store may lie there: ready means that somebody accepts.
    let accepts = came.and_then(|_| {
        wait::until(deadline, || match alive() {
            Err(error) => Some(Err(error)),
            Ok(()) => UnixStream::connect(SOCKET).ok().map(|_| Ok(())),
        })
        .transpose()
    });
    let what = match accepts.map(|answer| answer.is_some()) {
        Ok(true) => return Ok(store),
        Ok(false) => format!("{SOCKET} did not come within {:?}", options.patience),
        Err(error) => error.to_string(),
    };
    Err(LabError::Program {
        program: "tortie-store".to_owned(),
        what,
        log: log_end("store"),
    })
}
