//! The operator's tool: resources of the cluster, state of this node's agent.
//!
//! ```text
//! tortiectl get|apply|patch|delete … ──► datastore (TORTIE_STORE)
//! tortiectl node|bgp …               ──► admin socket of the agent on this node
//! ```
//! Verbs, kinds, columns and success texts are calicoctl's. Errors are sentences on standard error, exit code 1.

#![deny(clippy::print_stdout)]

mod agent;
mod check;
mod checksystem;
mod cli;
mod cluster;
mod diags;
mod drain;
mod get;
mod in_use;
mod ipam;
mod kinds;
mod labels;
mod manifest;
mod objects;
mod output;
mod patch;
mod print;
mod resources;
mod substitute;
#[cfg(feature = "kube")]
mod without_effect;

use std::process::ExitCode;

use clap::Parser;
use cli::{Arguments, Command, NodeCommand};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.command {
        Command::Get(get) => block_on(get::get(get)),
        Command::Apply(files) => block_on(resources::apply(files)),
        Command::Create(files) => block_on(resources::create(files)),
        Command::Replace(files) => block_on(resources::replace(files)),
        Command::Patch(patch) => block_on(patch::patch(patch)),
        Command::Label(label) => block_on(patch::label(label)),
        Command::Delete(delete) => block_on(resources::delete(delete)),
        Command::Validate(files) => resources::validate(&files),
        Command::Node(node) => run_node(&node.command),
        Command::Bgp(bgp) => agent::bgp(&bgp),
        Command::Datastore(group) => block_on(cluster::datastore(group)),
        Command::Version(version) => block_on(cluster::version(version)),
        Command::Ipam(asked) => block_on(ipam::ipam(asked)),
        Command::Cluster(anything) => substitute::cluster(&anything),
        Command::Convert(anything) => substitute::convert(&anything),
    }
}

fn run_node(command: &NodeCommand) -> anyhow::Result<()> {
    match command {
        NodeCommand::Status(agent) => agent::status(agent),
        NodeCommand::Config(agent) => agent::config(agent),
        NodeCommand::Drain(asked) => block_on(drain::drain(asked)),
        NodeCommand::Diags(diags) => diags::collect(diags),
        NodeCommand::Checksystem(kernel) => {
            let checked = checksystem::check(kernel);
            // What else there is to say, also of a kernel that does not do.
            #[cfg(feature = "kube")]
            if kernel.datastore.datastore_type == "kubernetes" {
                block_on(without_effect::check(&kernel.datastore))?;
            }
            checked
        }
        NodeCommand::Run(anything) => substitute::run(anything),
    }
}

fn block_on<F: Future<Output = anyhow::Result<()>>>(future: F) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(future)
}
