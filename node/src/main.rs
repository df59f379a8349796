//! The node agent: no argument runs it, `health` asks a running one. Settings are environment variables.

use std::io::ErrorKind;
use std::process::ExitCode;

use api::params::Params;
use clap::Parser;
use node::cli::{Arguments, Command, check_health, in_own_words, peers_shown};
use node::{agent, process, shutdown};

/// Felix's configuration file.
const FELIX_CFG: &str = "/etc/calico/felix.cfg";

fn main() -> ExitCode {
    process::abort_on_panic();
    let arguments = Arguments::parse_from(in_own_words(std::env::args()));
    if let Some(done) = arguments
        .command
        .as_ref()
        .and_then(Command::done_by_the_agent)
    {
        println!("tortie-node: {done}; nothing is left to do here");
        return ExitCode::SUCCESS;
    }
    if let Some(why) = arguments.command.as_ref().and_then(Command::refused) {
        eprintln!("tortie-node: {why}");
        return ExitCode::FAILURE;
    }
    if let Some(Command::Version) = arguments.command {
        println!("{}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let params = match Params::from_env(std::env::vars()) {
        Ok(params) => params,
        Err(errors) => {
            for error in errors {
                eprintln!("tortie-node: {error}");
            }
            return ExitCode::FAILURE;
        }
    };
    let params = match std::fs::read_to_string(FELIX_CFG) {
        Ok(text) => params.with_file(FELIX_CFG, &text),
        Err(error) if error.kind() == ErrorKind::NotFound => params,
        Err(error) => {
            eprintln!("tortie-node: {FELIX_CFG}: {error}");
            return ExitCode::FAILURE;
        }
    };
    match arguments.command {
        Some(Command::Health(health)) => match check_health(&health, &params) {
            Ok(()) => ExitCode::SUCCESS,
            Err(reasons) => {
                for reason in reasons {
                    eprintln!("tortie-node: {reason}");
                }
                ExitCode::FAILURE
            }
        },
        Some(Command::Status { .. }) => told(peers_shown().map(|table| print!("{table}"))),
        Some(Command::Shutdown) => told(process::run(params, shutdown::run)),
        Some(_) | None => told(process::run(params, agent::run)),
    }
}

fn told(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tortie-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}
