//! The command line.

mod ipam;
mod node;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use ipam::{
    Ipam, IpamCheck, IpamCommand, IpamConfigure, IpamRelease, IpamShow, IpamSplit,
};
pub(crate) use node::{Agent, Bgp, BgpCommand, Diags, Drain, Kernel, Node, NodeCommand};

use crate::output::Output;

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
    /// Write resources that exist already.
    Replace(Files),
    /// Change fields of one resource.
    Patch(Patch),
    /// Set or remove a label of one resource.
    Label(Label),
    /// Delete resources.
    Delete(Delete),
    /// Check manifests without a datastore.
    Validate(Files),
    /// The agent on this node.
    Node(Node),
    /// The BGP speaker on this node.
    Bgp(Bgp),
    /// Addresses: who has them, how many are left.
    Ipam(Ipam),
    /// Lock the datastore for a migration.
    Datastore(DatastoreGroup),
    /// Show versions of this program and of the cluster.
    Version(Version),
    #[command(hide = true)]
    Cluster(Anything),
    #[command(hide = true)]
    Convert(Anything),
}

/// Arguments of a command that is named only to say what to use in its place.
#[derive(Debug, Args)]
pub(crate) struct Anything {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<String>,
}

/// Where the datastore is.
#[derive(Debug, Args)]
pub(crate) struct Datastore {
    /// Which datastore: `kubernetes` (with KUBECONFIG or K8S_API_ENDPOINT) or `local`.
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

/// How to print what an agent answers.
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
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// Kind: ippool, node, bgpconfig, bgppeer, felixconfig, workloadendpoint, …, or `all`.
    pub(crate) kind: String,
    /// Names; all when none is given.
    pub(crate) names: Vec<String>,
    /// Namespace.
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
    /// All namespaces.
    #[arg(short = 'A', short_alias = 'a', long, alias = "all-namespaces")]
    pub(crate) all_namespaces: bool,
    /// Only resources with these labels: `rack=r1,tier!=db,has-label,!lacks-label`, or a selector such as
    /// `rack in {'r1', 'r2'}`.
    #[arg(short = 'l', long, conflicts_with = "names")]
    pub(crate) selector: Option<String>,
    /// Go on showing what changes until interrupted.
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// Without what belongs to this cluster alone: resourceVersion, uid, creationTimestamp.
    #[arg(long)]
    pub(crate) export: bool,
    /// ps, wide, yaml, json, name, custom-columns=HEADING,… or HEADING:.path,…, go-template=TEMPLATE,
    /// go-template-file=FILE.
    #[arg(short, long, default_value = "ps")]
    pub(crate) output: Output,
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
pub(crate) struct Patch {
    /// Kind.
    pub(crate) kind: String,
    /// Name.
    pub(crate) name: String,
    /// What to change, JSON or YAML: `{"spec": {"natOutgoing": false}}`; with --type json a list of operations.
    #[arg(short, long)]
    pub(crate) patch: String,
    /// How the patch is meant.
    #[arg(short = 't', long = "type", value_enum, default_value_t)]
    pub(crate) kind_of_patch: PatchType,
    /// Namespace.
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
    #[command(flatten)]
    pub(crate) datastore: Datastore,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PatchType {
    /// Fields replace fields, `null` removes, lists are replaced whole: for these kinds the same as merge.
    #[default]
    Strategic,
    /// RFC 6902: a list of operations.
    Json,
    /// RFC 7396: fields replace fields, `null` removes, lists are replaced whole.
    Merge,
}

#[derive(Debug, Args)]
pub(crate) struct Label {
    /// Kind.
    pub(crate) kind: String,
    /// Name.
    pub(crate) name: String,
    /// `key=value` to set; `key` with --remove, or `key-`, to remove.
    #[arg(required = true)]
    pub(crate) labels: Vec<String>,
    /// Replace a label that exists with another value.
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Remove the labels.
    #[arg(long)]
    pub(crate) remove: bool,
    /// Namespace.
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
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

#[derive(Debug, Args)]
pub(crate) struct DatastoreGroup {
    #[command(subcommand)]
    pub(crate) command: DatastoreCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DatastoreCommand {
    /// Hold the agents while objects are carried to another datastore.
    Migrate(Migrate),
    /// Tell this node's agent to take a datastore that lacks what was read from it before: another one, or an older copy.
    Accept(Accept),
}

#[derive(Debug, Args)]
pub(crate) struct Accept {
    #[command(flatten)]
    pub(crate) agent: Agent,
    /// Where the agent notes how far it read the datastore.
    #[arg(long, default_value = "/var/lib/calico/tortie-datastore")]
    pub(crate) note: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Migrate {
    #[command(subcommand)]
    pub(crate) command: MigrateCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MigrateCommand {
    /// Agents connect no new pods and act on no change of the datastore until it is unlocked.
    Lock(Datastore),
    /// Agents go on.
    Unlock(Datastore),
    #[command(hide = true)]
    Export(Anything),
    #[command(hide = true)]
    Import(Anything),
}

#[derive(Debug, Args)]
pub(crate) struct Version {
    /// Only of this program.
    #[arg(long)]
    pub(crate) client: bool,
    #[command(flatten)]
    pub(crate) datastore: Datastore,
}
