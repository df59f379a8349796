//! BIRD 2 and BIRD 1.6: started with a configuration of the test's, asked over its control socket.
//!
//! The socket's protocol is lines: each reply line begins with a four-digit code and `-` (more lines follow) or a space (the last line),
//! or with a space when it repeats the code of the line before. Codes from 8000 on are refusals.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bgp::types::AfiSafi;
use lab::NetNs;

use crate::plan::Plan;
use crate::{eventually, process};

mod asked;
mod config;
mod route;

pub use config::{BgpProtocol, head};
pub use route::BirdRoute;

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(10);

/// A running BIRD. It is killed when dropped.
#[derive(Debug)]
pub struct Bird {
    namespace: NetNs,
    directory: PathBuf,
    program: PathBuf,
    child: Child,
    version: Version,
    /// Names of a plan's sessions, by our address.
    sessions: BTreeMap<IpAddr, String>,
}

/// Which BIRD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 2, one program for both families.
    Two,
    /// 1.6, a program for each family.
    One,
}

/// How BIRD comes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With nothing to recover.
    Fresh,
    /// As a restarting speaker (RFC 4724 §4.1): keeps the kernel's routes and sets the R bit.
    Recover,
}

impl Bird {
    /// Where the program is, on PATH or where Debian installs it.
    #[must_use]
    pub fn find() -> Option<PathBuf> {
        process::find(&["bird"])
    }

    /// As [`Bird::find`], of a version: 1.6 is looked for in the folder that TORTIE_BIRD1 names, else where `.ci/setup` unpacks it.
    #[must_use]
    pub fn find_version(version: Version) -> Option<PathBuf> {
        match version {
            Version::Two => Self::find(),
            Version::One => Some(one_folder()?.join("bird")).filter(|program| program.is_file()),
        }
    }

    /// Starts it in `namespace` and waits until it answers. `name` tells it from others of the same private world.
    ///
    /// # Errors
    /// When its files cannot be written or the program not be started.
    ///
    /// # Panics
    /// When it is not installed, or does not answer in time: with its log.
    pub fn start(name: &str, namespace: &NetNs, config: &str) -> io::Result<Self> {
        let program = Self::find().expect("the caller asked whether BIRD is there");
        Self::start_program(program, Version::Two, name, namespace, config)
    }

    pub(crate) fn start_plan(version: Version, namespace: &NetNs, plan: &Plan) -> io::Result<Self> {
        let mut program =
            Self::find_version(version).expect("the caller asked whether BIRD is there");
        let is_v6 =
            |neighbour: &crate::plan::Neighbour| neighbour.families.contains(&AfiSafi::Ipv6Unicast);
        if version == Version::One && plan.neighbours.iter().any(is_v6) {
            program.set_file_name("bird6");
        }
        let config = config::of(version, plan);
        let mut bird = Self::start_program(program, version, namespace.name(), namespace, &config)?;
        bird.sessions = plan
            .neighbours
            .iter()
            .enumerate()
            .map(|(n, neighbour)| (neighbour.address, config::session_name(n)))
            .collect();
        Ok(bird)
    }

    fn start_program(
        program: PathBuf,
        version: Version,
        name: &str,
        namespace: &NetNs,
        config: &str,
    ) -> io::Result<Self> {
        let directory = Path::new(lab::BASE).join(format!("bird-{name}"));
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("bird.conf"), config)?;
        let child = spawn(&program, &directory, namespace, Start::Fresh)?;
        let mut bird = Self {
            namespace: namespace.clone(),
            directory,
            program,
            child,
            version,
            sessions: BTreeMap::new(),
        };
        bird.wait_ready();
        Ok(bird)
    }

    fn wait_ready(&mut self) {
        eventually("BIRD answers", || {
            if let Some(status) = self.child.try_wait().map_err(|error| error.to_string())? {
                panic!("BIRD ended ({status}): {}", self.log());
            }
            self.ask("show status")
                .map_err(|error| format!("{error}; its log: {}", self.log()))
        });
    }

    /// Kills it with SIGKILL, as a crash would end it: its connections close without a NOTIFICATION, its kernel routes stay.
    ///
    /// # Errors
    /// When it was gone before.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Starts it again after [`Bird::kill`] and waits until it answers.
    ///
    /// # Errors
    /// When the program cannot be started.
    ///
    /// # Panics
    /// As [`Bird::start`].
    pub fn restart(&mut self, start: Start) -> io::Result<()> {
        self.child = spawn(&self.program, &self.directory, &self.namespace, start)?;
        self.wait_ready();
        Ok(())
    }

    /// Gives it a new configuration while it runs.
    ///
    /// # Errors
    /// When the file cannot be written, or BIRD refuses it (its words).
    pub fn configure(&self, config: &str) -> io::Result<()> {
        fs::write(self.directory.join("bird.conf"), config)?;
        self.ask("configure").map(drop)
    }

    /// Sends one command; the reply's lines without their codes, the last (`0000`) left out.
    ///
    /// # Errors
    /// When BIRD does not answer, or refuses the command (its words).
    pub fn ask(&self, command: &str) -> io::Result<String> {
        let stream = UnixStream::connect(self.directory.join("bird.ctl"))?;
        stream.set_read_timeout(Some(ANSWER))?;
        let mut lines = BufReader::new(&stream);
        read_reply(&mut lines)?;
        (&stream).write_all(format!("{command}\n").as_bytes())?;
        read_reply(&mut lines)
    }

    /// Every route of its main IPv4 table, filtered or hidden ones excepted.
    ///
    /// # Panics
    /// When BIRD does not answer.
    #[must_use]
    pub fn routes(&self) -> Vec<BirdRoute> {
        self.routes_of("master4")
    }

    /// Every route of one of its IPv4 tables.
    ///
    /// # Panics
    /// When BIRD does not answer, or has no such table.
    #[must_use]
    pub fn routes_of(&self, table: &str) -> Vec<BirdRoute> {
        let answer = self
            .ask(&format!("show route all table {table}"))
            .unwrap_or_else(|error| panic!("BIRD does not answer: {error}; {}", self.log()));
        route::parse(&answer)
    }

    /// The routes that it has from the BGP protocol of that name.
    #[must_use]
    pub fn routes_from(&self, protocol: &str) -> Vec<BirdRoute> {
        let mut routes = self.routes();
        routes.retain(|route| route.protocol == protocol);
        routes
    }

    /// Waits until it has a route to `prefix` from `protocol` with that next hop, and returns it.
    ///
    /// # Panics
    /// When it does not learn it in time: with its table.
    #[track_caller]
    pub fn wait_route(
        &self,
        protocol: &str,
        prefix: &str,
        next_hop: impl Into<IpAddr>,
    ) -> BirdRoute {
        let next_hop = next_hop.into();
        eventually(
            &format!("BIRD has {prefix} from {protocol} via {next_hop}"),
            || {
                let routes = self.routes();
                routes
                    .iter()
                    .find(|route| {
                        route.protocol == protocol
                            && route.prefix.to_string() == prefix
                            && route.next_hop == Some(next_hop)
                    })
                    .cloned()
                    .ok_or_else(|| format!("{routes:#?}\n{}", self.describe(protocol)))
            },
        )
    }

    /// Waits until it has no route from `protocol`.
    ///
    /// # Panics
    /// When it still has one after the deadline.
    #[track_caller]
    pub fn wait_no_route(&self, protocol: &str) {
        eventually(&format!("BIRD has no route from {protocol}"), || {
            let routes = self.routes_from(protocol);
            if routes.is_empty() {
                Ok(())
            } else {
                Err(format!("{routes:#?}"))
            }
        });
    }

    /// What it says about a protocol: state, capabilities, timers, counters. Its refusal when there is none of that name.
    #[must_use]
    pub fn describe(&self, protocol: &str) -> String {
        self.ask(&format!("show protocols all {protocol}"))
            .unwrap_or_else(|error| error.to_string())
    }

    /// The state of a BGP protocol's session, e.g. `Established`.
    #[must_use]
    pub fn session(&self, protocol: &str) -> String {
        self.describe(protocol)
            .lines()
            .find_map(|line| line.trim().strip_prefix("BGP state:"))
            .map_or_else(String::new, |state| state.trim().to_owned())
    }

    /// Waits until a BGP protocol's session is established.
    ///
    /// # Panics
    /// When it is not in time: with what BIRD says about it.
    #[track_caller]
    pub fn wait_established(&self, protocol: &str) {
        eventually(
            &format!("BIRD's session {protocol} is established"),
            || match self.session(protocol).as_str() {
                "Established" => Ok(()),
                _ => Err(format!("{}\n{}", self.describe(protocol), self.log())),
            },
        );
    }

    /// The end of its log.
    #[must_use]
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.kill();
    }
}

fn one_folder() -> Option<PathBuf> {
    std::env::var_os("TORTIE_BIRD1")
        .map(PathBuf::from)
        .or_else(|| {
            let home =
                std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
            Some(home.join(".cache/tortie/bird1/usr/sbin"))
        })
}

fn spawn(program: &Path, directory: &Path, namespace: &NetNs, start: Start) -> io::Result<Child> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(directory.join("log"))?;
    let mut command: Command = namespace.command(program);
    command.arg("-f");
    if start == Start::Recover {
        command.arg("-R");
    }
    for (flag, file) in [("-c", "bird.conf"), ("-s", "bird.ctl"), ("-P", "bird.pid")] {
        command.arg(flag).arg(directory.join(file));
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
}

/// Reads up to the last line of one reply.
fn read_reply(lines: &mut impl BufRead) -> io::Result<String> {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(code) = line.get(..4).and_then(|code| code.parse::<u16>().ok()) else {
            text.push_str(line.strip_prefix(' ').unwrap_or(&line));
            continue;
        };
        let (more, rest) = (line.as_bytes().get(4) == Some(&b'-'), line.get(5..));
        let rest = rest.unwrap_or_default();
        // 8001 to 9999: runtime and syntax errors.
        if code >= 8000 {
            return Err(io::Error::other(rest.trim().to_owned()));
        }
        if !more {
            return Ok(text);
        }
        text.push_str(rest);
    }
}
