//! The command line: no argument runs the agent; the other commands ask a running one, or are what manifests written for
//! calico/node call.

mod calico;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use api::admin::Peer;
use api::params::{Params, TABLE};
use clap::{Parser, Subcommand, ValueEnum};

use crate::health::THRESHOLD_MS;
use crate::http;

pub use calico::in_own_words;

/// The node agent: pod network, routes and BGP of one node. Settings are environment variables.
#[derive(Debug, Parser)]
#[command(name = "tortie-node", version, after_long_help = environment_help())]
pub struct Arguments {
    /// What to do; the agent runs when nothing is named.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of running the agent.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Ask the running agent about itself; exit code 0 when every named check holds, 1 otherwise.
    Health(HealthArguments),
    /// Before the node's container stops: note the time, and say in the Kubernetes Node that the network goes.
    Shutdown,
    /// This program's version.
    Version,
    /// The running agent's BGP sessions.
    Status {
        /// What of it.
        #[arg(value_enum, default_value_t = StatusCommand::Show)]
        what: StatusCommand,
    },
    /// Nothing: there is no eBPF dataplane to mount file systems for.
    Init {
        /// Accepted.
        #[arg(long)]
        best_effort: bool,
    },
    /// Nothing: the agent runs as root and makes its directories.
    HostpathInit,
    /// Nothing: the agent registers the node itself.
    Startup {
        /// Accepted.
        #[arg(long)]
        complete_startup: bool,
    },
    /// Nothing: the agent says itself when the network is there.
    CompleteStartup,
    /// Nothing: the agent keeps the tunnel addresses itself.
    AllocateTunnelAddrs {
        /// Accepted.
        #[arg(long)]
        run_once: bool,
    },
    /// Nothing: the agent looks at the node's addresses itself.
    MonitorAddresses,
    /// Nothing: the agent refreshes the plugin's token itself.
    MonitorToken,
    /// Nothing: the agent does all of them itself.
    NodeServices,
    /// Nothing: the agent does Felix's work itself.
    Felix,
    /// Nothing: there is no confd.
    Confd,
    /// Refused: there is no eBPF dataplane to look into.
    #[command(hide = true)]
    Bpf(Rest),
    /// Refused: no flows are counted.
    #[command(hide = true)]
    Flows(Rest),
    /// Refused: a program of its own.
    #[command(hide = true)]
    Ctl(Rest),
}

/// What follows a command that is refused whatever it is.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Rest {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _words: Vec<String>,
}

/// What of the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StatusCommand {
    /// Nothing: the agent reports itself.
    Report,
    /// Print the table of BGP peers.
    Show,
}

impl Command {
    /// For a command of Calico's that is not here: why, and what to use.
    pub const fn refused(&self) -> Option<&'static str> {
        match self {
            Self::Bpf(_) => Some("bpf: there is no eBPF dataplane to look into"),
            Self::Flows(_) => Some("flows: no flows are counted here"),
            Self::Ctl(_) => Some("ctl: this is a program of its own, tortiectl or calicoctl"),
            _ => None,
        }
    }

    /// For a command that the agent makes needless: what does it instead.
    pub const fn done_by_the_agent(&self) -> Option<&'static str> {
        match self {
            Self::Health(_)
            | Self::Shutdown
            | Self::Version
            | Self::Bpf(_)
            | Self::Flows(_)
            | Self::Ctl(_)
            | Self::Status {
                what: StatusCommand::Show,
            } => None,
            Self::Status {
                what: StatusCommand::Report,
            } => Some("status report: the agent reports its status itself"),
            Self::Init { .. } => Some("init: there is no eBPF dataplane, nothing is to be mounted"),
            Self::HostpathInit => {
                Some("hostpath-init: the agent runs as root and makes its directories itself")
            }
            Self::Startup { .. } => Some("startup: the agent registers the node when it starts"),
            Self::CompleteStartup => {
                Some("complete-startup: the agent says itself when the node's network is there")
            }
            Self::AllocateTunnelAddrs { .. } => {
                Some("allocate-tunnel-addrs: the agent keeps the tunnel addresses itself")
            }
            Self::MonitorAddresses => {
                Some("monitor-addresses: the agent looks at the node's addresses itself")
            }
            Self::MonitorToken => Some("monitor-token: the agent refreshes the token itself"),
            Self::NodeServices => Some("node-services: the agent does all of them itself"),
            Self::Felix => Some("felix: the agent (no argument) does Felix's work itself"),
            Self::Confd => Some("confd: the agent's BGP speaker is configured without files"),
        }
    }
}

/// The checks. Without one, liveness and readiness of the agent are asked.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct HealthArguments {
    /// The agent's loops go round.
    #[arg(long)]
    pub felix_live: bool,
    /// The datastore is read and the kernel written.
    #[arg(long)]
    pub felix_ready: bool,
    /// The BGP speaker's loop goes round.
    #[arg(long)]
    pub bird_live: bool,
    /// BGP sessions with IPv4 peers are established.
    #[arg(long)]
    pub bird_ready: bool,
    /// As --bird-live: one speaker serves both families.
    #[arg(long)]
    pub bird6_live: bool,
    /// BGP sessions with IPv6 peers are established.
    #[arg(long)]
    pub bird6_ready: bool,
    /// How long after the agent's start --bird-ready asks for every session; later one is enough. A Go duration.
    #[arg(long, default_value = "30s", value_parser = go_duration)]
    pub threshold_time: Duration,
    /// Instead of the checks above, ask this TCP port over HTTP.
    #[arg(long)]
    pub port: Option<u16>,
    /// What to ask of --port.
    #[arg(long, value_enum, default_value_t = ProbeType::Readiness, requires = "port")]
    pub r#type: ProbeType,
    /// Host of --port.
    #[arg(long, default_value = "localhost", requires = "port")]
    pub host: String,
    /// How long the answer from --port may take. A Go duration.
    #[arg(long, default_value = "5s", value_parser = go_duration, requires = "port")]
    pub timeout: Duration,
}

/// What a probe over HTTP asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProbeType {
    /// `/readiness`
    #[default]
    Readiness,
    /// `/liveness`
    Liveness,
}

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

fn go_duration(text: &str) -> Result<Duration, String> {
    api::duration::parse(text).ok_or_else(|| "allowed: a duration such as 30s or 1m30s".to_owned())
}

/// Every variable with default, allowed values and meaning.
fn environment_help() -> String {
    let mut text = String::from("Environment:\n");
    for row in TABLE {
        let default = if row.default.is_empty() {
            "unset"
        } else {
            row.default
        };
        // Writing into a String does not fail.
        let _ = writeln!(
            text,
            "  {}\n      {} Default: {default}. Allowed: {}.",
            row.names.join(", "),
            row.doc.trim(),
            row.allowed
        );
    }
    text
}

/// Runs the checks and gives each failed one's reason.
pub fn check_health(arguments: &HealthArguments, params: &Params) -> Result<(), Vec<String>> {
    if let Some(port) = arguments.port {
        return probe(arguments, port).map_err(|reason| vec![reason]);
    }
    let socket = Path::new(api::admin::SOCKET_PATH);
    let failed: Vec<String> = checks(arguments)
        .into_iter()
        .filter_map(|(name, path)| {
            let answer = match name {
                "felix-live" if params.health_enabled => over_tcp(params, "/liveness"),
                "felix-ready" if params.health_enabled => over_tcp(params, "/readiness"),
                _ => http::get_unix(socket, &path, PATIENCE)
                    .map_err(|error| format!("{}: {error}", socket.display())),
            };
            verdict(name, answer).err()
        })
        .collect();
    if failed.is_empty() {
        Ok(())
    } else {
        Err(failed)
    }
}

/// The checks that are asked for, and their paths on the admin socket.
fn checks(arguments: &HealthArguments) -> Vec<(&'static str, String)> {
    let wanted = [
        (arguments.felix_live, "felix-live"),
        (arguments.felix_ready, "felix-ready"),
        (arguments.bird_live, "bird-live"),
        (arguments.bird_ready, "bird-ready"),
        (arguments.bird6_live, "bird6-live"),
        (arguments.bird6_ready, "bird6-ready"),
    ];
    let none = wanted.iter().all(|(wanted, _)| !wanted);
    let window = arguments.threshold_time.as_millis();
    wanted
        .into_iter()
        .filter(|(wanted, name)| *wanted || none && name.starts_with("felix"))
        .map(|(_, name)| {
            let path = match name {
                "bird-ready" | "bird6-ready" => format!("/health/{name}?{THRESHOLD_MS}={window}"),
                "bird6-live" => "/health/bird-live".to_owned(),
                _ => format!("/health/{name}"),
            };
            (name, path)
        })
        .collect()
}

fn verdict(name: &str, answer: Result<http::Answer, String>) -> Result<(), String> {
    match answer {
        Ok(answer) if (200..400).contains(&answer.status) => Ok(()),
        Ok(answer) => Err(format!("{name}: {}", answer.body.trim())),
        Err(error) => Err(format!("{name}: no answer from the agent: {error}")),
    }
}

/// Asks any program that serves `/readiness` and `/liveness`.
fn probe(arguments: &HealthArguments, port: u16) -> Result<(), String> {
    let (name, path) = match arguments.r#type {
        ProbeType::Readiness => ("readiness", "/readiness"),
        ProbeType::Liveness => ("liveness", "/liveness"),
    };
    let host = format!("{}:{port}", arguments.host);
    let answer = http::get_tcp(&host, path, arguments.timeout);
    verdict(name, answer.map_err(|error| format!("{host}: {error}")))
}

/// The running agent's BGP peers as a table.
pub fn peers_shown() -> anyhow::Result<String> {
    use anyhow::Context;

    let socket = Path::new(api::admin::SOCKET_PATH);
    let answer = http::get_unix(socket, "/bgp/peers", PATIENCE)
        .with_context(|| format!("asking the agent at {}", socket.display()))?;
    let peers: Vec<Peer> =
        serde_json::from_str(&answer.body).context("reading the agent's answer")?;
    let mut text = format!("{:<40} {:<20} {:<12} SINCE\n", "PEER", "TYPE", "STATE");
    for peer in &peers {
        let address = peer.address.to_string();
        // Writing into a String does not fail.
        let _ = writeln!(
            text,
            "{address:<40} {:<20} {:<12} {}",
            peer.peer_type, peer.state, peer.since
        );
    }
    Ok(text)
}

fn over_tcp(params: &Params, path: &str) -> Result<http::Answer, String> {
    let host = format!("{}:{}", params.health_host, params.health_port);
    http::get_tcp(&host, path, PATIENCE).map_err(|error| format!("{host}: {error}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn probes_written_for_calico_node_are_understood() {
        let given = [
            "tortie-node",
            "health",
            "-felix-live",
            "--bird-ready",
            "-threshold-time=5s",
        ];
        let arguments = in_own_words(given.iter().map(ToString::to_string));
        let Some(Command::Health(health)) = Arguments::parse_from(arguments).command else {
            panic!("health is the command");
        };
        assert!(health.felix_live && health.bird_ready && !health.felix_ready);
        assert_eq!(health.threshold_time, Duration::from_secs(5));
        let wrong = ["tortie-node", "health", "--threshold-time", "5"];
        let error = Arguments::try_parse_from(wrong).unwrap_err().to_string();
        assert!(error.contains("'5'") && error.contains("1m30s"), "{error}");
    }

    fn parsed(given: &[&str]) -> Command {
        let words = in_own_words(given.iter().map(ToString::to_string));
        let command = Arguments::parse_from(words).command;
        command.unwrap_or_else(|| panic!("{given:?} runs the agent"))
    }

    #[test]
    fn every_command_line_of_calicos_manifests_is_a_command() {
        for given in [
            &["calico-node", "-startup"][..],
            &["calico-node", "-startup", "-complete-startup"],
            &["calico-node", "-complete-startup"],
            &["calico-node", "-init", "-best-effort"],
            &["calico-node", "-hostpath-init"],
            &["calico-node", "-allocate-tunnel-addrs"],
            &["calico-node", "-allocate-tunnel-addrs-run-once"],
            &["calico-node", "-monitor-addresses"],
            &["calico-node", "-monitor-token"],
            &["calico-node", "-status-reporter"],
            &["calico-node", "-node-services"],
            &["calico-node", "-felix"],
            &["calico-node", "-confd"],
            &["calico", "component", "node", "init", "--best-effort"],
            &[
                "calico",
                "component",
                "node",
                "startup",
                "--complete-startup",
            ],
            &[
                "calico",
                "component",
                "node",
                "allocate-tunnel-addrs",
                "--run-once",
            ],
            &["calico", "component", "node", "status", "report"],
            &["calico", "component", "node", "node-services"],
            &["calico", "component", "felix"],
        ] {
            let done = parsed(given).done_by_the_agent();
            assert!(done.is_some(), "{given:?} does something");
        }
        for given in [
            &["calico-node", "-shutdown"][..],
            &["calico-node", "-show-status"],
            &["calico-node", "-v"],
            &["calico-node", "-felix-live", "-bird-live"],
            &["calico", "component", "node", "shutdown"],
            &["calico", "component", "node", "status", "show"],
            &["calico", "component", "node", "version"],
            &["calico", "component", "node", "health", "--felix-ready"],
        ] {
            assert_eq!(parsed(given).done_by_the_agent(), None, "{given:?}");
        }
        for given in [
            &["calico-node", "-bpf", "nat", "dump"][..],
            &["calico-node", "-flows", "5"],
            &["calico", "component", "node", "bpf", "conntrack", "--raw"],
            &["calico", "component", "node", "flows", "-n", "5"],
            &["calico", "ctl", "get", "nodes", "-o", "wide"],
        ] {
            let command = parsed(given);
            assert!(command.refused().is_some(), "{given:?}");
            assert_eq!(command.done_by_the_agent(), None, "{given:?}");
        }
        let port = [
            "calico",
            "health",
            "--port=9099",
            "--type=liveness",
            "--timeout=2s",
        ];
        let Command::Health(health) = parsed(&port) else {
            panic!("health is the command");
        };
        assert_eq!(
            (health.port, health.r#type),
            (Some(9099), ProbeType::Liveness)
        );
        assert_eq!(health.timeout, Duration::from_secs(2));
    }

    #[test]
    fn checks_that_are_named_are_asked_and_those_of_felix_when_none_is() {
        let asked = |given: &[&str]| {
            let Command::Health(health) = parsed(given) else {
                panic!("health is the command");
            };
            let checks = checks(&health).into_iter();
            checks.map(|(_, path)| path).collect::<Vec<_>>()
        };
        assert_eq!(
            asked(&["calico-node", "health"]),
            ["/health/felix-live", "/health/felix-ready"]
        );
        assert_eq!(
            asked(&[
                "calico-node",
                "-bird6-live",
                "-bird6-ready",
                "-threshold-time=5s"
            ]),
            ["/health/bird-live", "/health/bird6-ready?threshold-ms=5000"]
        );
    }

    #[test]
    fn a_probe_over_http_takes_the_status_for_the_answer() {
        use std::io::{Read, Write};

        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = std::thread::spawn(move || {
            let mut asked = Vec::new();
            for status in ["200 OK", "503 Service Unavailable"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 1024];
                let length = stream.read(&mut request).unwrap();
                let text = String::from_utf8_lossy(&request[..length]).into_owned();
                asked.push(text.lines().next().unwrap_or_default().to_owned());
                write!(stream, "HTTP/1.0 {status}\r\n\r\nwhy").unwrap();
            }
            asked
        });
        let mut health = HealthArguments {
            host: "127.0.0.1".to_owned(),
            timeout: Duration::from_secs(60),
            ..HealthArguments::default()
        };
        assert_eq!(probe(&health, port), Ok(()));
        health.r#type = ProbeType::Liveness;
        assert_eq!(probe(&health, port), Err("liveness: why".to_owned()));
        let asked = serving.join().unwrap();
        assert_eq!(asked, ["GET /readiness HTTP/1.0", "GET /liveness HTTP/1.0"]);
    }

    #[test]
    fn help_lists_every_variable_of_the_table() {
        let help = Arguments::command().render_long_help().to_string();
        for row in TABLE {
            assert!(help.contains(row.names[0]), "{} is missing", row.names[0]);
        }
    }
}
