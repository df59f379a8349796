//! Commands about the node they run on.

use std::path::PathBuf;

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
    /// Collect what a bug report needs into a tar.gz.
    Diags(Diags),
    /// Whether this host's kernel has what an agent needs; with DATASTORE_TYPE=kubernetes also what in the cluster has no
    /// effect, such as policy.
    Checksystem(Kernel),
    #[command(hide = true)]
    Run(Anything),
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
