//! Commands about the node they run on.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Anything, Datastore, Format};

/// Where the agent is.
#[derive(Debug, Args)]
pub(crate) struct Agent {
    /// Admin socket of the agent.
    #[arg(long, env = "TORTIE_ADMIN", default_value = api::admin::SOCKET_PATH)]
    pub(crate) socket: PathBuf,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Node {
    #[command(subcommand)]
    pub(crate) command: NodeCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// BGP sessions, state of the dataplane, problems.
    Status(Agent),
    /// The settings in force and where each comes from.
    Config(Agent),
    /// Take traffic off a node before it goes away (RFC 8326): its routes become the last resort of others, then only pods that are
    /// still there keep theirs. Sessions stand.
    Drain(Drain),
    /// Collect what a bug report needs into a tar.gz.
    Diags(Diags),
    /// Whether this host's kernel has what an agent needs; with DATASTORE_TYPE=kubernetes also what in the cluster has no
    /// effect, such as policy.
    Checksystem(Kernel),
    #[command(hide = true)]
    Run(Anything),
}

#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// The node.
    pub(crate) name: String,
    /// Take it back.
    #[arg(long, conflicts_with_all = ["after", "last_resort_only"])]
    pub(crate) undo: bool,
    /// Time between the two steps, for routes to change everywhere, such as 60s.
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    pub(crate) after: Duration,
    /// Withdraw nothing.
    #[arg(long)]
    pub(crate) last_resort_only: bool,
    #[command(flatten)]
    pub(crate) datastore: Datastore,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    api::duration::parse(text).ok_or_else(|| "must be a time such as 60s".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct Diags {
    /// Directory of log files to take along.
    #[arg(long, default_value = "/var/log/calico")]
    pub(crate) log_dir: PathBuf,
    /// Where the archive is written; the directory of temporary files when it is not given.
    #[arg(long)]
    pub(crate) output_dir: Option<PathBuf>,
    /// Admin socket of the agent.
    #[arg(long, env = "TORTIE_ADMIN", default_value = api::admin::SOCKET_PATH)]
    pub(crate) socket: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Kernel {
    /// The kernel's configuration, if it is neither /proc/config.gz nor in /boot.
    #[arg(short = 'f', long)]
    pub(crate) kernel_config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) datastore: Datastore,
}

#[derive(Debug, Args)]
pub(crate) struct Bgp {
    #[command(subcommand)]
    pub(crate) command: BgpCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BgpCommand {
    /// Sessions.
    Peers(Agent),
    /// Prefixes and all their paths.
    Routes(Agent),
}
