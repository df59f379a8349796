//! The sockets that a process opens for people and probes, and how a process ends.

mod starting;

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
use tracing::{info, warn};

use crate::socket::Socket;
use crate::task::admin::{Admin, admin_routes, health_routes, metrics_routes};
use crate::task::calc::cluster::Live;
pub use starting::Starting;

/// After a failure a port is opened again this soon.
const REOPEN: Duration = Duration::from_secs(5);
/// How long tasks may take to end after a signal.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// Where to serve.
#[derive(Debug)]
pub struct Serve<'a> {
    /// Settings in force: which of the TCP ports.
    pub live: &'a Live,
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
        registry: Arc<Registry>,
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
        let port = |place, routes| Port {
            place,
            routes,
            live: self.live.clone(),
            cancel: self.cancel.clone(),
        };
        let health = port(health_place, health_routes(admin))
            .open()
            .await
            .context("FELIX_HEALTHHOST, FELIX_HEALTHPORT")?;
        tasks.spawn(health);
        let metrics = port(metrics_place, metrics_routes(registry))
            .open()
            .await
            .context("FELIX_PROMETHEUSMETRICSHOST, FELIX_PROMETHEUSMETRICSPORT")?;
        tasks.spawn(metrics);
        Ok(())
    }
}

/// Host and TCP port.
type Place = (String, u16);

fn health_place(params: &Params) -> Option<Place> {
    let place = || (params.health_host.clone(), params.health_port);
    params.health_enabled.then(place)
}

fn metrics_place(params: &Params) -> Option<Place> {
    let host = params.metrics_host.clone();
    let place = || {
        (
            host.unwrap_or_else(|| "0.0.0.0".to_owned()),
            params.metrics_port,
        )
    };
    params.metrics_enabled.then(place)
}

/// What is served over TCP, where the settings want it.
struct Port {
    place: fn(&Params) -> Option<Place>,
    routes: Router,
    live: Live,
    cancel: CancellationToken,
}

impl Port {
    /// Opens the port of the start, which must be there, and gives what serves it and follows the settings.
    async fn open(self) -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
        let place = (self.place)(&self.live.borrow());
        let listener = match &place {
            Some((host, port)) => Some(listen(host, *port).await?),
            None => None,
        };
        Ok(self.follow(place, listener))
    }

    async fn follow(mut self, mut place: Option<Place>, mut listener: Option<TcpListener>) {
        let cancel = self.cancel.clone();
        let mut failed = None;
        loop {
            let routes = self.routes.clone();
            tokio::select! {
                () = serve_one(listener.take(), routes) => {}
                wanted = another(&mut self.live, self.place, &place) => place = wanted,
                () = tokio::time::sleep(REOPEN), if failed.is_some() => {}
                () = cancel.cancelled() => return,
            }
            let Some((host, port)) = &place else {
                failed = None;
                continue;
            };
            match listen(host, *port).await {
                Ok(opened) => {
                    info!(host, port, "serving HTTP");
                    (listener, failed) = (Some(opened), None);
                }
                Err(error) => {
                    let text = format!("{error:#}");
                    if failed.as_ref() != Some(&text) {
                        warn!(error = text, "not served; trying again");
                    }
                    failed = Some(text);
                }
            }
        }
    }
}

/// Serves until serving fails; for ever where there is nothing to serve.
async fn serve_one(listener: Option<TcpListener>, routes: Router) {
    match listener {
        Some(listener) => tell(axum::serve(listener, routes).await),
        None => std::future::pending().await,
    }
}

/// Waits until the settings want another place than this.
async fn another(
    live: &mut Live,
    of: fn(&Params) -> Option<Place>,
    place: &Option<Place>,
) -> Option<Place> {
    loop {
        // Without a sender nothing changes any more.
        if live.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        let wanted = of(&live.borrow_and_update());
        if wanted != *place {
            return wanted;
        }
    }
}

async fn listen(host: &str, port: u16) -> anyhow::Result<TcpListener> {
    TcpListener::bind((host, port))
        .await
        .with_context(|| format!("listening on {host}:{port}"))
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

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::sync::watch;

    use super::*;
    use crate::http;

    pub(super) fn settings(variables: &[(&str, String)]) -> Arc<Params> {
        let owned = variables.iter().cloned();
        let owned = owned.map(|(name, text)| (name.to_owned(), text));
        Arc::new(Params::from_env(owned).unwrap())
    }

    /// A port that nobody listens on.
    pub(super) fn free_port() -> u16 {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    }

    fn on(port: u16) -> Arc<Params> {
        settings(&[
            ("FELIX_HEALTHENABLED", "true".to_owned()),
            ("FELIX_HEALTHHOST", "127.0.0.1".to_owned()),
            ("FELIX_HEALTHPORT", port.to_string()),
        ])
    }

    async fn answers(port: u16, wanted: bool) {
        let ask = move || {
            let patience = Duration::from_secs(60);
            http::get_tcp(&format!("127.0.0.1:{port}"), "/", patience).is_ok()
        };
        while tokio::task::spawn_blocking(ask).await.unwrap() != wanted {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_port_is_opened_closed_and_moved_as_the_settings_say() {
        let (live, in_force) = watch::channel(settings(&[]));
        let cancel = CancellationToken::new();
        let port = Port {
            place: health_place,
            routes: Router::new().route("/", get(|| async { "here" })),
            live: in_force,
            cancel: cancel.clone(),
        };
        let serving = tokio::spawn(port.open().await.unwrap());
        let first = free_port();
        live.send_replace(on(first));
        answers(first, true).await;
        let second = free_port();
        live.send_replace(on(second));
        answers(second, true).await;
        answers(first, false).await;
        live.send_replace(settings(&[]));
        answers(second, false).await;
        // A port that another holds is opened as soon as the settings name one that is free.
        let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        live.send_replace(on(held.local_addr().unwrap().port()));
        let third = free_port();
        live.send_replace(on(third));
        answers(third, true).await;
        cancel.cancel();
        serving.await.unwrap();
    }
}
