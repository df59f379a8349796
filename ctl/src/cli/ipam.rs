//! Commands about addresses.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use ipnet::IpNet;

use super::{Datastore, Format};

#[derive(Debug, Args)]
pub(crate) struct Ipam {
    #[command(subcommand)]
    pub(crate) command: IpamCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum IpamCommand {
    /// How full pools and blocks are; who has an address.
    Show(IpamShow),
    /// Compare what is given out with what is used.
    Check(IpamCheck),
    /// Free addresses that nobody uses.
    Release(IpamRelease),
    /// Change the rules by which addresses are given out.
    Configure(IpamConfigure),
    /// Cut a pool into smaller ones of the same size; lock the datastore before.
    Split(IpamSplit),
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["ip", "show_blocks", "show_borrowed", "show_configuration"]))]
pub(crate) struct IpamShow {
    /// Who has this address.
    #[arg(long)]
    pub(crate) ip: Option<IpAddr>,
    /// Each block, too.
    #[arg(long)]
    pub(crate) show_blocks: bool,
    /// Addresses that pods have of other nodes' blocks.
    #[arg(long)]
    pub(crate) show_borrowed: bool,
    /// The rules by which addresses are given out.
    #[arg(long)]
    pub(crate) show_configuration: bool,
    /// How to print: ps, yaml or json.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
    #[command(flatten)]
    pub(crate) datastore: Datastore,
}

#[derive(Debug, Args)]
pub(crate) struct IpamCheck {
    /// Print each address that is given out.
    #[arg(long)]
    pub(crate) show_all_ips: bool,
    /// Print each address with which something is wrong.
    #[arg(long)]
    pub(crate) show_problem_ips: bool,
    /// Write a report for `ipam release --from-report` to this file.
    #[arg(short, long)]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) datastore: Datastore,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["ip", "from_report"]))]
pub(crate) struct IpamRelease {
    /// This one address; make sure that nobody uses it.
    #[arg(long)]
    pub(crate) ip: Option<IpAddr>,
    /// What each of these reports of `ipam check` names as used by nobody, and nobody was given since.
    #[arg(long)]
    pub(crate) from_report: Vec<PathBuf>,
    /// Even though the datastore is not locked, or a report is of another version.
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) datastore: Datastore,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("rule").required(true).multiple(true).args(["strict_affinity", "max_blocks_per_host", "ip_cooldown_seconds"]))]
pub(crate) struct IpamConfigure {
    /// Nodes give out addresses of their own blocks only.
    #[arg(
        long = "strictaffinity",
        alias = "strict-affinity",
        value_name = "true|false"
    )]
    pub(crate) strict_affinity: Option<bool>,
    /// How many blocks a node may have at most; 0 stands for 20.
    #[arg(long, value_name = "N")]
    pub(crate) max_blocks_per_host: Option<u32>,
    /// How long a released address is kept from being given out again, in seconds; 1200 at most.
    #[arg(long, value_name = "N")]
    pub(crate) ip_cooldown_seconds: Option<u32>,
    #[command(flatten)]
    pub(crate) datastore: Datastore,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("pool").required(true).args(["cidr", "name"]))]
pub(crate) struct IpamSplit {
    /// Into how many: a power of two.
    pub(crate) parts: u32,
    /// The pool's range.
    #[arg(long)]
    pub(crate) cidr: Option<IpNet>,
    /// The pool's name.
    #[arg(long)]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) datastore: Datastore,
}
