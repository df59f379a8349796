//! `cargo lab`: a cluster on one machine that pings.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use lab::{Families, Kept, KeptError, Kernel, Mode, Options, Output, Sabotage, Store, launch};

/// Builds a cluster of network namespaces, proves that it works, and takes it down again.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<KeptCommand>,
    /// Number of nodes: 3, or 2 with --kubelet.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=200))]
    nodes: Option<u16>,
    /// Pods per node.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=1000))]
    pods: u16,
    /// How packets between nodes travel.
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
    /// Nodes and pods have IPv6 addresses, too, and everything holds for both families.
    #[arg(long, conflicts_with = "ipv6")]
    dual_stack: bool,
    /// Nodes and pods have IPv6 addresses alone.
    #[arg(long, conflicts_with_all = ["kubelet", "block_size"])]
    ipv6: bool,
    /// A real Kubernetes: API server, controllers, scheduler, and on each node a kubelet with containerd, which run the DaemonSet
    /// of manifests/ and the pods. Needs root and what `.ci/setup` installs and builds.
    #[arg(long, conflicts_with_all = ["store", "racks", "reflectors", "tors", "environment", "block_size", "sabotage"])]
    kubelet: bool,
    /// Where objects are kept: in the embedded store, or in a real Kubernetes API server, given the programs that
    /// `.ci/setup` builds. The lab then makes the nodes' and the pods' objects, as kubelets and a scheduler would.
    #[arg(long, value_enum, default_value_t)]
    store: Store,
    /// Subnets, joined by a router.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    racks: u8,
    /// Route reflectors: no mesh, each node peers with each of these. One is killed at the end and started again, and
    /// nothing may be lost.
    #[arg(long = "rr", value_name = "COUNT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=4))]
    reflectors: u8,
    /// Top-of-rack routers: BIRD 2, by eBGP with every node, and no mesh. Each announces a default route; nodes must use
    /// all of them. Of several one is killed and cut off at the end, and nothing may be lost.
    #[arg(long = "tor", value_name = "COUNT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=4))]
    tors: u8,
    /// The kernel: this machine's own, or User Mode Linux, which has what that may lack (ipip). `cargo xtask uml` builds it.
    #[arg(long, value_enum, default_value_t, conflicts_with_all = ["kubelet", "keep"])]
    kernel: Kernel,
    /// Print one JSON object instead of tables.
    #[arg(long)]
    json: bool,
    /// Leave the cluster up, for `cargo lab exec NODE CMD` and `cargo lab down`.
    #[arg(long)]
    keep: bool,
    /// Copy the programs' logs to this directory at the end.
    #[arg(long, value_name = "DIRECTORY")]
    logs: Option<PathBuf>,
    /// One more variable for every agent.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    environment: Vec<(String, String)>,
    /// Prefix length of a node's blocks.
    #[arg(long, default_value_t = 26, value_parser = clap::value_parser!(u8).range(20..=32))]
    block_size: u8,
    /// Seconds that each stage may take: 30, or 180 with --kubelet.
    #[arg(long)]
    patience: Option<u64>,
    /// Bring in a fault, to see the lab's own checks find it.
    #[arg(long, value_enum, hide = true)]
    sabotage: Option<Sabotage>,
}

#[derive(Debug, Subcommand)]
enum KeptCommand {
    /// Run a command on a machine of a kept lab, in its network and mount namespaces.
    Exec {
        /// The node's name, or `rr1`, `tor1` or `kube`.
        node: String,
        /// The command.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
    /// End a kept lab.
    Down,
}

fn main() -> ExitCode {
    if let Some(status) = as_process_1() {
        return status;
    }
    let arguments = Arguments::parse();
    match &arguments.command {
        Some(KeptCommand::Exec { node, command }) => on_kept(|kept| {
            let status = kept.exec(node, command)?;
            Ok(ExitCode::from(
                status
                    .code()
                    .and_then(|code| u8::try_from(code).ok())
                    .unwrap_or(1),
            ))
        }),
        Some(KeptCommand::Down) => on_kept(|kept| {
            kept.end()?;
            // A cluster of kubelets has groups; another has none.
            if let Err(error) = lab::kubelet::sweep() {
                eprintln!("error: control groups: {error}");
            }
            Ok(ExitCode::SUCCESS)
        }),
        None => {
            let output = Output {
                json: arguments.json,
                keep: arguments.keep,
                kernel: arguments.kernel,
                logs: arguments.logs.clone(),
            };
            launch(&options(&arguments), &output)
        }
    }
}

/// What a User Mode Linux guest of the tests runs as its first process.
fn as_process_1() -> Option<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    if words.next()? != lab::uml::INIT {
        return None;
    }
    let folder = PathBuf::from(words.next()?);
    Some(match lab::uml::init(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("process 1: {error}");
            ExitCode::FAILURE
        }
    })
}

fn on_kept(work: impl FnOnce(&Kept) -> Result<ExitCode, KeptError>) -> ExitCode {
    Kept::find()
        .and_then(|kept| work(&kept))
        .unwrap_or_else(|error| {
            eprintln!("error: {:#}", anyhow::Error::from(error));
            ExitCode::FAILURE
        })
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn options(arguments: &Arguments) -> Options {
    let (nodes, patience) = if arguments.kubelet { (2, 180) } else { (3, 30) };
    Options {
        nodes: arguments.nodes.map_or(nodes, usize::from),
        kubelets: arguments.kubelet,
        pods: arguments.pods.into(),
        mode: arguments.mode,
        families: match (arguments.dual_stack, arguments.ipv6) {
            (true, _) => Families::Both,
            (false, true) => Families::V6,
            (false, false) => Families::V4,
        },
        store: arguments.store,
        racks: arguments.racks,
        reflectors: arguments.reflectors,
        tors: arguments.tors,
        block_size: arguments.block_size,
        patience: Duration::from_secs(arguments.patience.unwrap_or(patience)),
        environment: arguments.environment.clone(),
        sabotage: arguments.sabotage,
        ..Options::default()
    }
}
