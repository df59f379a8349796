//! The sockets that a process opens for people and probes, and how a process ends.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use api::params::Params;
use axum::Router;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::socket::Socket;
use crate::task::admin::{Admin, admin_routes, health_routes, metrics_routes};

/// How long tasks may take to end after a signal.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// Where to serve.
#[derive(Debug)]
pub struct Serve<'a> {
    /// Settings: which of the TCP ports.
    pub params: &'a Params,
    /// Path of the admin socket.
    pub admin_socket: &'a Path,
    /// End of the process.
    pub cancel: &'a CancellationToken,
}

impl Serve<'_> {
    /// Admin socket always; health and metrics when they are switched on.
    pub async fn start(
        &self,
        tasks: &mut JoinSet<()>,
        admin: Arc<Admin>,
        registry: Registry,
    ) -> anyhow::Result<()> {
        let path = self.admin_socket;
        let socket =
            Socket::bind(path).with_context(|| format!("listening on {}", path.display()))?;
        let app = admin_routes(Arc::clone(&admin));
        let cancelled = self.cancel.clone().cancelled_owned();
        tasks.spawn(async move {
            tokio::select! {
                served = axum::serve(socket, app) => tell(served),
                () = cancelled => {}
            }
        });
        let params = self.params;
        if params.health_enabled {
            let (host, port) = (params.health_host.as_str(), params.health_port);
            self.tcp(tasks, host, port, health_routes(admin))
                .await
                .context("FELIX_HEALTHHOST, FELIX_HEALTHPORT")?;
        }
        if params.metrics_enabled {
            let host = params.metrics_host.as_deref().unwrap_or("0.0.0.0");
            let routes = metrics_routes(Arc::new(registry));
            self.tcp(tasks, host, params.metrics_port, routes)
                .await
                .context("FELIX_PROMETHEUSMETRICSHOST, FELIX_PROMETHEUSMETRICSPORT")?;
        }
        Ok(())
    }

    async fn tcp(
        &self,
        tasks: &mut JoinSet<()>,
        host: &str,
        port: u16,
        app: Router,
    ) -> anyhow::Result<()> {
        let listener = TcpListener::bind((host, port))
            .await
            .with_context(|| format!("listening on {host}:{port}"))?;
        let cancelled = self.cancel.clone().cancelled_owned();
        tasks.spawn(async move {
            tokio::select! {
                served = axum::serve(listener, app) => tell(served),
                () = cancelled => {}
            }
        });
        Ok(())
    }
}

fn tell(served: std::io::Result<()>) {
    if let Err(error) = served {
        warn!(%error, "serving HTTP ended");
    }
}

/// Waits for the end of the process or of a task, which is the same: no task ends by itself.
pub async fn finish(mut tasks: JoinSet<()>, cancel: &CancellationToken) -> anyhow::Result<()> {
    let ended = tokio::select! {
        // A signal ends every task at once: then none of them ended by itself.
        biased;
        () = cancel.cancelled() => None,
        ended = tasks.join_next() => ended,
    };
    cancel.cancel();
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_PATIENCE, all).await.is_err() {
        warn!("some tasks did not end in time");
    }
    match ended {
        None => Ok(()),
        Some(Ok(())) => anyhow::bail!("a task ended by itself"),
        Some(Err(error)) => Err(error).context("a task failed"),
    }
}
