//! The node agent: no argument runs it, `health` asks a running one. Settings are environment variables.

use std::process::ExitCode;

use api::params::Params;
use clap::Parser;
use node::cli::{Arguments, Command, check_health, with_double_dashes};
use node::{agent, process};

fn main() -> ExitCode {
    process::abort_on_panic();
    let arguments = Arguments::parse_from(with_double_dashes(std::env::args()));
    let params = match Params::from_env(std::env::vars()) {
        Ok(params) => params,
        Err(errors) => {
            for error in errors {
                eprintln!("tortie-node: {error}");
            }
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
        None => match process::run(params, agent::run) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("tortie-node: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}
