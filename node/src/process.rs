//! A program's frame: logging, runtime, signals.

use api::params::Params;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::telemetry;

/// The release profile aborts by itself; other profiles must not go on with a task missing either.
pub fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}

/// Runs `program` until it ends; SIGTERM and SIGINT cancel its token. Says what is wrong with the settings.
pub fn run<F>(
    params: Params,
    program: impl FnOnce(Params, CancellationToken) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
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
        let ended = program(params, cancel).await;
        listening.abort();
        ended
    });
    // Threads that wait for the kernel end with the process.
    runtime.shutdown_background();
    done
}
