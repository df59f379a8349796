//! The operator's tool: resources of the cluster, state of this node's agent.
//!
//! ```text
//! tortiectl get|apply|delete … ──► datastore (TORTIE_STORE)
//! tortiectl node|bgp …         ──► admin socket of the agent on this node
//! ```
//! Verbs, kinds, columns and success texts are calicoctl's. Errors are sentences on standard error, exit code 1.

mod agent;
mod check;
mod cli;
mod kinds;
mod manifest;
mod output;
mod resources;

use std::process::ExitCode;

use clap::Parser;
use cli::{Arguments, Command};

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
        Command::Get(get) => block_on(resources::get(get)),
        Command::Apply(files) => block_on(resources::apply(files)),
        Command::Create(files) => block_on(resources::create(files)),
        Command::Delete(delete) => block_on(resources::delete(delete)),
        Command::Validate(files) => resources::validate(&files),
        Command::Node(node) => agent::node(&node),
        Command::Bgp(bgp) => agent::bgp(&bgp),
        Command::Version => {
            println!("Client Version:    {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    }
}

fn block_on<F: Future<Output = anyhow::Result<()>>>(future: F) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(future)
}
