//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Resources of the cluster and the state of this node's agent.
#[derive(Debug, Parser)]
#[command(name = "tortiectl", version, propagate_version = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show resources.
    Get(Get),
    /// Write resources: new ones are created, others replaced.
    Apply(Files),
    /// Write resources that do not exist yet.
    Create(Files),
    /// Delete resources.
    Delete(Delete),
    /// Check manifests without a datastore.
    Validate(Files),
    /// The agent on this node.
    Node(Node),
    /// The BGP speaker on this node.
    Bgp(Bgp),
    /// Show versions.
    Version,
}

/// Where the datastore is.
#[derive(Debug, Args)]
pub(crate) struct Datastore {
    /// Which datastore; `local` is the only one in this build.
    #[arg(
        long,
        env = "DATASTORE_TYPE",
        default_value = "local",
        hide_env_values = true
    )]
    pub(crate) datastore_type: String,
    /// Socket of the embedded store, `unix:PATH`.
    #[arg(
        long,
        env = "TORTIE_STORE",
        default_value = "unix:/var/run/calico/tortie-store.sock"
    )]
    pub(crate) store: String,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table.
    #[default]
    Ps,
    /// A wider table.
    Wide,
    /// YAML documents.
    Yaml,
    /// One JSON object or list.
    Json,
    /// `kind/name` lines.
    Name,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// Kind: ippool, node, bgpconfig, bgppeer, workloadendpoint, ipamblock, …
    pub(crate) kind: String,
    /// Names; all when none is given.
    pub(crate) names: Vec<String>,
    /// Namespace.
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
    /// All namespaces.
    #[arg(short = 'A', short_alias = 'a', long, alias = "all-namespaces")]
    pub(crate) all_namespaces: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
    #[command(flatten)]
    pub(crate) datastore: Datastore,
}

#[derive(Debug, Args)]
pub(crate) struct Files {
    /// Manifest: a file of YAML documents or JSON, `-` for standard input.
    #[arg(short, long = "filename", required = true)]
    pub(crate) filename: Vec<PathBuf>,
    /// Namespace of objects that name none.
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
    /// Leave alone what exists already (create).
    #[arg(long)]
    pub(crate) skip_exists: bool,
    #[command(flatten)]
    pub(crate) datastore: Datastore,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Kind.
    #[arg(required_unless_present = "filename")]
    pub(crate) kind: Option<String>,
    /// Names.
    #[arg(requires = "kind")]
    pub(crate) names: Vec<String>,
    /// Manifest whose objects are deleted, `-` for standard input.
    #[arg(short, long = "filename", conflicts_with = "kind")]
    pub(crate) filename: Vec<PathBuf>,
    /// Namespace.
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
    /// What does not exist is no error.
    #[arg(short, long)]
    pub(crate) skip_not_exists: bool,
    #[command(flatten)]
    pub(crate) datastore: Datastore,
}

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
