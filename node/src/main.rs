//! The node agent: no argument runs it, `health` asks a running one. Settings are environment variables.

use std::process::ExitCode;

use api::params::Params;
use clap::Parser;
use node::cli::{Arguments, Command, check_health, with_double_dashes};
use node::{agent, telemetry};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

fn main() -> ExitCode {
    abort_on_panic();
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
        None => match run(params) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("tortie-node: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

/// The release profile aborts by itself; other profiles must not go on with a task missing either.
fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}

fn run(params: Params) -> anyhow::Result<()> {
    let severity = format!("{:?}", params.log_severity_screen);
    let directives = std::env::var("RUST_LOG").ok();
    telemetry::start_logging(&severity, directives.as_deref());
    for rejected in params.rejected() {
        warn!(reason = %rejected, "setting: the default is used");
    }
    for notice in params.notices() {
        warn!(reason = %notice, "setting");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(async {
        let cancel = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = cancel.clone();
        let listening = tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            info!(signal = name, "stopping; devices and routes stay");
            stop.cancel();
        });
        let ended = agent::run(params, cancel).await;
        listening.abort();
        ended
    });
    // Threads that wait for the kernel end with the process.
    runtime.shutdown_background();
    done
}
