//! The command line: no argument runs the agent, `health` asks a running one.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use api::params::{Params, TABLE};
use clap::{Parser, Subcommand};

use crate::health::THRESHOLD_MS;
use crate::http;

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
    /// BGP sessions are established.
    #[arg(long)]
    pub bird_ready: bool,
    /// How long after the agent's start --bird-ready asks for every session; later one is enough. A Go duration.
    #[arg(long, default_value = "30s", value_parser = go_duration)]
    pub threshold_time: Duration,
}

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

fn go_duration(text: &str) -> Result<Duration, String> {
    api::duration::parse(text).ok_or_else(|| "allowed: a duration such as 30s or 1m30s".to_owned())
}

/// calico-node's probes write flags with one dash: `-felix-live`. The table says which become two.
pub fn with_double_dashes(arguments: impl Iterator<Item = String>) -> Vec<String> {
    const FLAGS: [&str; 5] = [
        "-felix-live",
        "-felix-ready",
        "-bird-live",
        "-bird-ready",
        "-threshold-time",
    ];
    arguments
        .map(|argument| {
            let name = argument.split('=').next().unwrap_or_default();
            if FLAGS.contains(&name) {
                format!("-{argument}")
            } else {
                argument
            }
        })
        .collect()
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
    let none = !(arguments.felix_live
        || arguments.felix_ready
        || arguments.bird_live
        || arguments.bird_ready);
    let socket = Path::new(api::admin::SOCKET_PATH);
    let bird_ready = format!(
        "/health/bird-ready?{THRESHOLD_MS}={}",
        arguments.threshold_time.as_millis()
    );
    let checks = [
        (
            arguments.felix_live || none,
            "felix-live",
            "/health/felix-live",
        ),
        (
            arguments.felix_ready || none,
            "felix-ready",
            "/health/felix-ready",
        ),
        (arguments.bird_live, "bird-live", "/health/bird-live"),
        (arguments.bird_ready, "bird-ready", bird_ready.as_str()),
    ];
    let mut failed = Vec::new();
    for (wanted, name, path) in checks {
        if !wanted {
            continue;
        }
        let answer = match name {
            "felix-live" if params.health_enabled => over_tcp(params, "/liveness"),
            "felix-ready" if params.health_enabled => over_tcp(params, "/readiness"),
            _ => http::get_unix(socket, path, PATIENCE)
                .map_err(|error| format!("{}: {error}", socket.display())),
        };
        match answer {
            Ok(answer) if (200..400).contains(&answer.status) => {}
            Ok(answer) => failed.push(format!("{name}: {}", answer.body.trim())),
            Err(error) => failed.push(format!("{name}: no answer from the agent: {error}")),
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(failed)
    }
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
        let arguments = with_double_dashes(given.iter().map(ToString::to_string));
        let Some(Command::Health(health)) = Arguments::parse_from(arguments).command else {
            panic!("health is the command");
        };
        assert!(health.felix_live && health.bird_ready && !health.felix_ready);
        assert_eq!(health.threshold_time, Duration::from_secs(5));
        let wrong = ["tortie-node", "health", "--threshold-time", "5"];
        let error = Arguments::try_parse_from(wrong).unwrap_err().to_string();
        assert!(error.contains("'5'") && error.contains("1m30s"), "{error}");
    }

    #[test]
    fn help_lists_every_variable_of_the_table() {
        let help = Arguments::command().render_long_help().to_string();
        for row in TABLE {
            assert!(help.contains(row.names[0]), "{} is missing", row.names[0]);
        }
    }
}
