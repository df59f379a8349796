//! The daemons: where each lies, how it is started and stopped.

mod config;

use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

pub use self::config::unused;
use self::config::{Setting, config};
use crate::plan::{Family, Phase, Plan};
use crate::usage::Processes;
use crate::world::{Peer, World};

/// Longest time until a daemon listens.
const START_TIME: Duration = Duration::from_secs(20);
/// Longest time until its killed processes are gone.
const END_TIME: Duration = Duration::from_secs(5);

/// What is measured.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Our speaker, in a program of its own.
    Tortie,
    /// BIRD 1.6.
    Bird1,
    /// BIRD 2.
    Bird,
    /// BIRD 3.
    Bird3,
    /// FRR's bgpd, without zebra.
    Frr,
    /// GoBGP.
    Gobgp,
    /// RustyBGP.
    Rustybgp,
    /// OpenBGPD.
    Openbgpd,
    /// No speaker: bytes are copied. What is left is the kernel and the bench.
    Floor,
}

impl Kind {
    /// All of them; ours first.
    pub const ALL: [Self; 9] = [
        Self::Tortie,
        Self::Bird1,
        Self::Bird,
        Self::Bird3,
        Self::Frr,
        Self::Gobgp,
        Self::Rustybgp,
        Self::Openbgpd,
        Self::Floor,
    ];

    /// Its program for a family, when it is there: the first of the variable `TORTIE_<KIND>`, the folder of newer versions, and the
    /// places where packages put it.
    #[must_use]
    pub fn program(self, family: Family) -> Option<PathBuf> {
        let cache = std::env::var_os("HOME").map_or_else(PathBuf::new, PathBuf::from);
        let cache = cache.join(".cache/tortie");
        let named = std::env::var_os(format!("TORTIE_{self}").to_uppercase()).map(PathBuf::from);
        let places: &[&str] = match self {
            Self::Tortie | Self::Floor => {
                // Beside this program, or one folder up when this is a test's.
                let own = std::env::current_exe().ok()?;
                return own
                    .ancestors()
                    .skip(1)
                    .take(2)
                    .map(|folder| {
                        folder.join(if self == Self::Floor {
                            "bench-floor"
                        } else {
                            "bench-speaker"
                        })
                    })
                    .find(|program| program.is_file());
            }
            Self::Bird1 => {
                // A folder: a program for each family lies in it.
                let folder = named.unwrap_or_else(|| cache.join("bird1"));
                let program = folder.join(match family {
                    Family::V4 => "usr/sbin/bird",
                    Family::V6 => "usr/sbin/bird6",
                });
                return program.is_file().then_some(program);
            }
            Self::Bird => &["/usr/sbin/bird", "/usr/local/sbin/bird"],
            Self::Frr => &["/usr/lib/frr/bgpd", "/usr/local/lib/frr/bgpd"],
            Self::Gobgp => &["/usr/bin/gobgpd", "/usr/local/bin/gobgpd"],
            Self::Bird3 => &[],
            Self::Rustybgp => &["/usr/bin/rustybgpd", "/usr/local/bin/rustybgpd"],
            Self::Openbgpd => &["/usr/sbin/bgpd", "/usr/local/sbin/bgpd"],
        };
        let newer = cache.join("peers/bin").join(self.to_string());
        named
            .into_iter()
            .chain([newer])
            .chain(places.iter().map(PathBuf::from))
            .find(|program| program.is_file())
    }

    /// Whether it is told of all that a plan says: a policy is written for some only.
    #[must_use]
    pub const fn serves(self, plan: &Plan) -> bool {
        match self {
            Self::Tortie | Self::Bird1 | Self::Bird | Self::Bird3 | Self::Frr => true,
            Self::Gobgp | Self::Rustybgp | Self::Openbgpd | Self::Floor => plan.terms == 0,
        }
    }

    /// Whether it can do a phase.
    #[must_use]
    pub const fn can(self, plan: &Plan, phase: Phase) -> bool {
        match self {
            Self::Floor => {
                !plan.layout.is_shared()
                    && matches!(
                        phase,
                        Phase::Establish
                            | Phase::Announce
                            | Phase::Readvertise
                            | Phase::OneChange
                            | Phase::Withdraw
                    )
            }
            Self::Tortie
            | Self::Bird1
            | Self::Bird
            | Self::Bird3
            | Self::Frr
            | Self::Gobgp
            | Self::Rustybgp
            | Self::Openbgpd => true,
        }
    }

    /// What it calls its version.
    #[must_use]
    pub fn version(self) -> String {
        let flag = match self {
            Self::Tortie => return format!("tortie {}", env!("CARGO_PKG_VERSION")),
            Self::Floor => return "no speaker: what comes is copied to all others".to_owned(),
            Self::Bird1 | Self::Bird | Self::Bird3 | Self::Gobgp | Self::Rustybgp => "--version",
            Self::Frr => "-v",
            Self::Openbgpd => "-V",
        };
        let output = self
            .program(Family::V4)
            .and_then(|program| Command::new(program).arg(flag).output().ok());
        let line = output.and_then(|output| {
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text).into_owned();
            text.lines().next().map(str::to_owned)
        });
        line.unwrap_or_else(|| "not installed".to_owned())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tortie => "tortie",
            Self::Bird1 => "bird1",
            Self::Bird => "bird",
            Self::Bird3 => "bird3",
            Self::Frr => "frr",
            Self::Gobgp => "gobgp",
            Self::Rustybgp => "rustybgp",
            Self::Openbgpd => "openbgpd",
            Self::Floor => "floor",
        })
    }
}

/// A running daemon; it is killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    directory: PathBuf,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Daemon {
    /// Starts one for a plan and its peers, and waits until it listens. Its files are in `directory`.
    ///
    /// # Errors
    /// When it is not installed, or does not listen in time: with its log.
    pub fn start(
        kind: Kind,
        plan: &Plan,
        world: World,
        peers: &[Peer],
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let directory = directory.join(kind.to_string());
        fs::create_dir_all(&directory)?;
        if kind == Kind::Openbgpd {
            // Where Debian's locks its processes in; made by systemd elsewhere.
            fs::create_dir_all("/run/openbgpd")?;
        }
        let program = kind
            .program(plan.family)
            .with_context(|| format!("{kind} is not installed"))?;
        let mut command = Command::new(program);
        let setting = Setting {
            plan,
            world,
            peers,
            directory: &directory,
        };
        let conf = directory.join("conf");
        fs::write(&conf, config(kind, setting))?;
        // OpenBGPD refuses one that others may read.
        fs::set_permissions(&conf, fs::Permissions::from_mode(0o600))?;
        arguments(kind, &mut command, &directory);
        let log = File::create(directory.join("log"))?;
        let stdout = if matches!(kind, Kind::Tortie | Kind::Floor) {
            Stdio::piped()
        } else {
            log.try_clone()?.into()
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {kind}"))?;
        let mut daemon = Self {
            child,
            directory,
            address: SocketAddr::from((world.daemon(plan.family), world.port)),
        };
        daemon.wait()?;
        Ok(daemon)
    }

    /// Its processes.
    #[must_use]
    pub fn processes(&self) -> Processes {
        Processes::of(self.child.id())
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        if let Some(stdout) = self.child.stdout.take() {
            // Ours says where it listens.
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line)?;
            self.address = line
                .trim()
                .parse()
                .with_context(|| format!("not an address: {line:?}\n{}", self.log()))?;
            return Ok(());
        }
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("ended: {status}\n{}", self.log());
            }
            if TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).is_ok() {
                return Ok(());
            }
            if start.elapsed() > START_TIME {
                bail!("does not listen on {}\n{}", self.address, self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it said.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The children of OpenBGPD outlive their parent for a while, and hold its port. Gone already is as good as killed.
        let ids = self.processes().ids().unwrap_or_default();
        for id in &ids {
            let id = i32::try_from(*id).ok().and_then(Pid::from_raw);
            let _ = id.map(|id| rustix::process::kill_process(id, Signal::KILL));
        }
        let _ = self.child.wait();
        // Somebody else waits for the children; a process that has ended has no program.
        let runs = |id: &u32| fs::read_link(format!("/proc/{id}/exe")).is_ok();
        let start = Instant::now();
        while ids.iter().any(runs) && start.elapsed() < END_TIME {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn arguments(kind: Kind, command: &mut Command, directory: &Path) {
    let conf = directory.join("conf");
    match kind {
        Kind::Tortie | Kind::Floor => command.arg(conf),
        Kind::Bird1 | Kind::Bird | Kind::Bird3 => command
            .args(["-f", "-c"])
            .arg(conf)
            .arg("-s")
            .arg(directory.join("ctl")),
        Kind::Frr => command
            .args(["--no_zebra", "--skip_runas", "--vty_port", "0", "-f"])
            .arg(conf)
            .arg("-i")
            .arg(directory.join("pid"))
            .arg("--vty_socket")
            .arg(directory),
        Kind::Gobgp => command
            .args([
                "-l",
                "error",
                "--pprof-disable",
                "--api-hosts",
                "127.0.0.1:50051",
                "-f",
            ])
            .arg(conf),
        Kind::Rustybgp => command.arg("-f").arg(conf),
        Kind::Openbgpd => command.args(["-d", "-f"]).arg(conf),
    };
}
