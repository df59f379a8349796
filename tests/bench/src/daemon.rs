//! The daemons: how each is configured as a route reflector for the same clients, started and stopped.

use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::usage::Processes;
use crate::wire::ASN;
use crate::world::World;

/// Longest time until a daemon listens.
const START_TIME: Duration = Duration::from_secs(20);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// Our speaker, in a program of its own.
    Tortie,
    /// BIRD 2.
    Bird,
    /// FRR's bgpd, without zebra.
    Frr,
    /// GoBGP.
    Gobgp,
    /// OpenBGPD.
    Openbgpd,
}

impl Kind {
    /// All of them; ours first.
    pub const ALL: [Self; 5] = [
        Self::Tortie,
        Self::Bird,
        Self::Frr,
        Self::Gobgp,
        Self::Openbgpd,
    ];

    /// Its program, when it is there.
    #[must_use]
    pub fn program(self) -> Option<PathBuf> {
        let places: &[&str] = match self {
            Self::Tortie => {
                // Beside this program, or one folder up when this is a test's.
                let own = std::env::current_exe().ok()?;
                return own
                    .ancestors()
                    .skip(1)
                    .take(2)
                    .map(|folder| folder.join("bench-speaker"))
                    .find(|program| program.is_file());
            }
            Self::Bird => &["/usr/sbin/bird", "/usr/local/sbin/bird"],
            Self::Frr => &["/usr/lib/frr/bgpd", "/usr/local/lib/frr/bgpd"],
            Self::Gobgp => &["/usr/bin/gobgpd", "/usr/local/bin/gobgpd"],
            Self::Openbgpd => &["/usr/sbin/bgpd", "/usr/local/sbin/bgpd"],
        };
        places
            .iter()
            .map(PathBuf::from)
            .find(|program| program.is_file())
    }

    /// What it calls its version.
    #[must_use]
    pub fn version(self) -> String {
        let flag = match self {
            Self::Tortie => return format!("tortie {}", env!("CARGO_PKG_VERSION")),
            Self::Bird | Self::Gobgp => "--version",
            Self::Frr => "-v",
            Self::Openbgpd => "-V",
        };
        let output = self
            .program()
            .and_then(|program| Command::new(program).arg(flag).output().ok());
        let line = output.and_then(|output| {
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text).into_owned();
            text.lines().next().map(str::to_owned)
        });
        line.unwrap_or_else(|| "not installed".to_owned())
    }

    /// Time after the sessions stand in which it has nothing to do: FRR holds a young session's routes back for some seconds.
    #[must_use]
    pub const fn rest(self) -> Duration {
        match self {
            Self::Frr => Duration::from_secs(11),
            Self::Tortie | Self::Bird | Self::Gobgp | Self::Openbgpd => Duration::from_secs(1),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tortie => "tortie",
            Self::Bird => "bird",
            Self::Frr => "frr",
            Self::Gobgp => "gobgp",
            Self::Openbgpd => "openbgpd",
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
    /// Starts one that reflects routes between `clients`, and waits until it listens. Its files are in `directory`.
    ///
    /// # Errors
    /// When it is not installed, or does not listen in time: with its log.
    pub fn start(
        kind: Kind,
        world: World,
        clients: &[Ipv4Addr],
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let directory = directory.join(kind.to_string());
        fs::create_dir_all(&directory)?;
        if kind == Kind::Openbgpd {
            // Where Debian's locks its processes in; made by systemd elsewhere.
            fs::create_dir_all("/run/openbgpd")?;
        }
        let program = kind
            .program()
            .with_context(|| format!("{kind} is not installed"))?;
        let mut command = Command::new(program);
        fs::write(
            directory.join("conf"),
            config(kind, world, clients, &directory),
        )?;
        arguments(kind, &mut command, &directory);
        let log = File::create(directory.join("log"))?;
        let stdout = if kind == Kind::Tortie {
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
            address: SocketAddr::from((world.daemon(), world.port)),
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
        // OpenBGPD's children end when their parent is asked to end; a killed parent is noticed, too. Gone already is as good.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

fn arguments(kind: Kind, command: &mut Command, directory: &Path) {
    let conf = directory.join("conf");
    match kind {
        Kind::Tortie => command.arg(conf),
        Kind::Bird => command
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
        Kind::Openbgpd => command.args(["-d", "-f"]).arg(conf),
    };
}

fn config(kind: Kind, world: World, clients: &[Ipv4Addr], directory: &Path) -> String {
    let daemon = world.daemon();
    let mut text = match kind {
        Kind::Tortie => format!("{daemon} {}\n", world.port),
        Kind::Bird => format!(
            "router id {daemon};\n\
             protocol device {{}}\n\
             protocol direct {{ ipv4; interface \"nexthops\"; }}\n\
             template bgp reflected {{\n\
               local {daemon} as {ASN};\n\
               rr client; passive on; multihop; hold time 240;\n\
               ipv4 {{ import all; export where source = RTS_BGP; }};\n\
             }}\n"
        ),
        Kind::Frr => format!(
            "router bgp {ASN}\n\
             bgp router-id {daemon}\n\
             neighbor clients peer-group\n\
             neighbor clients remote-as {ASN}\n\
             neighbor clients passive\n\
             neighbor clients timers 80 240\n\
             neighbor clients route-reflector-client\n"
        ),
        Kind::Gobgp => format!(
            "[global.config]\nas = {ASN}\nrouter-id = \"{daemon}\"\nlocal-address-list = [\"{daemon}\"]\n"
        ),
        Kind::Openbgpd => format!(
            "AS {ASN}\nrouter-id {daemon}\nlisten on {daemon}\nfib-update no\nholdtime 240\n\
             socket \"{}\"\nallow from any\nallow to any\n",
            directory.join("ctl").display()
        ),
    };
    for (number, client) in clients.iter().enumerate() {
        let line = match kind {
            Kind::Tortie => format!("{client}\n"),
            Kind::Bird => {
                format!("protocol bgp c{number} from reflected {{ neighbor {client} as {ASN}; }}\n")
            }
            Kind::Frr => format!("neighbor {client} peer-group clients\n"),
            Kind::Gobgp => format!(
                "[[neighbors]]\n\
                 [neighbors.config]\nneighbor-address = \"{client}\"\npeer-as = {ASN}\n\
                 [neighbors.timers.config]\nhold-time = 240\nkeepalive-interval = 80\n\
                 [neighbors.transport.config]\npassive-mode = true\nlocal-address = \"{daemon}\"\n\
                 [neighbors.route-reflector.config]\nroute-reflector-client = true\n\
                 route-reflector-cluster-id = \"{daemon}\"\n"
            ),
            Kind::Openbgpd => format!(
                "neighbor {client} {{\nremote-as {ASN}\npassive\nroute-reflector\nannounce IPv4 unicast\nlocal-address {daemon}\n}}\n"
            ),
        };
        // Writing to a string cannot fail.
        let _ = text.write_str(&line);
    }
    text
}
