//! The embedded store as a process of its own.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Parser;
use datastore_local::{RedbStore, bind, relay, serve};
use tokio::signal::unix::{SignalKind, signal};

/// After a signal, requests under way get this long to be answered.
const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// Keeps a cluster's objects in one file and serves them to the agents of this machine.
#[derive(Parser)]
#[command(name = "tortie-store", version)]
struct Arguments {
    /// File the objects are kept in; made when it does not exist.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/lib/calico/tortie-store.redb"
    )]
    data: PathBuf,
    /// Socket to listen on.
    #[arg(long, value_name = "unix:PATH", default_value_t = format!("unix:{}", relay::SOCKET))]
    listen: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        // Otherwise a reader that closes the pipe would make the next line a panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(tracing_subscriber::EnvFilter::new("info"))
        .init();
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let socket = socket_path(&arguments.listen)?;
    // Before the socket appears: who sees it may send a signal.
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    let store = Arc::new(RedbStore::open(&arguments.data)?);
    let listener = bind(&socket).await?;
    tracing::info!(data = %arguments.data.display(), listen = %socket.display(), "ready");

    let (stop, stopping) = tokio::sync::watch::channel(false);
    let stopped = |mut stopping: tokio::sync::watch::Receiver<bool>| async move {
        // An error means that the sender is gone, which is a stop, too.
        let _ = stopping.wait_for(|stop| *stop).await;
    };
    let serving = serve(Arc::clone(&store) as _, listener, stopped(stopping.clone()));
    let signalled = async {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping");
        stop.send_replace(true);
        tokio::time::sleep(STOP_DEADLINE).await;
    };
    let served = tokio::select! {
        served = serving => served.with_context(|| format!("{}: serving failed", socket.display())),
        () = signalled => Ok(()),
    };
    // A new store removes what this one could not.
    if let Err(error) = std::fs::remove_file(&socket) {
        tracing::warn!(socket = %socket.display(), %error, "cannot remove the socket");
    }
    drop(store);
    served
}

fn socket_path(listen: &str) -> anyhow::Result<PathBuf> {
    match listen.strip_prefix("unix:") {
        Some(path) if path.starts_with('/') => Ok(PathBuf::from(path)),
        _ => Err(anyhow!(
            "--listen {listen:?} is not allowed; allowed: `unix:` and an absolute path, such as unix:{}",
            relay::SOCKET
        )),
    }
}
