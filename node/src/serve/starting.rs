//! What probes and people are answered while the node starts: it is alive, and why it goes no further. Without an answer a kubelet
//! would kill a process that only waits.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::params::Params;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::routing::{get, post};
use prometheus_client::registry::Registry;
use tracing::{info, warn};

use super::{Place, health_place, listen, metrics_place, serve_one, tell};
use crate::socket::Socket;
use crate::startup::{Waits, What};
use crate::task::admin::metrics_routes;
use crate::telemetry::Metrics;

/// The sockets of a start.
#[derive(Debug)]
pub struct Starting<'a> {
    /// Settings of the start.
    pub params: &'a Params,
    /// Path of the admin socket.
    pub admin_socket: &'a Path,
    /// File whose removal accepts an unknown datastore.
    pub note: PathBuf,
    /// What the start waits for.
    pub waits: Waits,
    /// Say so, too.
    pub metrics: Metrics,
    /// All of them.
    pub registry: Arc<Registry>,
}

impl Starting<'_> {
    /// Does `work` and answers meanwhile. The sockets are closed afterwards.
    pub async fn beside<T>(&self, work: impl Future<Output = T>) -> T {
        self.metrics.starting.set(1);
        let admin = self.admin_routes();
        let health = serve_port(health_place(self.params), self.health_routes());
        let metrics = serve_port(metrics_place(self.params), self.metrics_routes());
        let serving = async {
            tokio::join!(serve_admin(self.admin_socket, admin), health, metrics);
            std::future::pending::<Infallible>().await
        };
        let done = tokio::select! {
            done = work => done,
            never = serving => match never {},
        };
        self.metrics.starting.set(0);
        done
    }

    fn admin_routes(&self) -> Router {
        let accepting = Arc::new(self.note.clone());
        let accept = Router::new()
            .route("/datastore/accept", post(accept))
            .with_state(accepting);
        Router::new()
            .route("/health/felix-live", get(alive))
            .route("/health/bird-live", get(alive))
            .fallback(told)
            .with_state(self.waits.clone())
            .merge(accept)
    }

    fn health_routes(&self) -> Router {
        Router::new()
            .route("/liveness", get(alive))
            .route("/readiness", get(told))
            .with_state(self.waits.clone())
    }

    fn metrics_routes(&self) -> Router {
        let (metrics, waits) = (self.metrics.clone(), self.waits.clone());
        let look = move || {
            let lost = waits.are_on(What::Answer);
            metrics.datastore_lost.set(i64::from(lost));
            let unknown = waits.are_on(What::Acceptance);
            metrics.datastore_unknown.set(i64::from(unknown));
        };
        let looking = move |request: Request, next: Next| {
            look();
            next.run(request)
        };
        metrics_routes(Arc::clone(&self.registry)).layer(middleware::from_fn(looking))
    }
}

async fn serve_port(place: Option<Place>, routes: Router) {
    let Some((host, port)) = place else {
        return;
    };
    match listen(&host, port).await {
        Ok(listener) => serve_one(Some(listener), routes).await,
        // The node's own tasks open it again, and end the process when they cannot.
        Err(error) => warn!(
            error = format!("{error:#}"),
            "not served while the node starts"
        ),
    }
}

async fn serve_admin(path: &Path, routes: Router) {
    match Socket::bind(path) {
        Ok(socket) => tell(axum::serve(socket, routes).await),
        Err(error) => warn!(path = %path.display(), %error, "not served while the node starts"),
    }
}

async fn alive(State(waits): State<Waits>) -> String {
    waits.told()
}

async fn told(State(waits): State<Waits>) -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, waits.told())
}

async fn accept(State(note): State<Arc<PathBuf>>) -> (StatusCode, String) {
    match std::fs::remove_file(&*note) {
        Ok(()) => {
            info!("the operator accepts the datastore");
            (StatusCode::OK, "accepted".to_owned())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            (StatusCode::CONFLICT, "nothing waits for it".to_owned())
        }
        Err(error) => {
            let text = format!("{}: {error}", note.display());
            (StatusCode::INTERNAL_SERVER_ERROR, text)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::http;
    use crate::scratch::Scratch;
    use crate::serve::tests::{free_port, settings};

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_node_that_starts_is_alive_not_ready_and_says_what_it_waits_for() {
        let scratch = Scratch::new();
        let socket = scratch.path().join("admin");
        let note = scratch.path().join("note");
        std::fs::write(&note, "read").unwrap();
        let port = free_port();
        let variables = [
            ("FELIX_HEALTHENABLED", "false".to_owned()),
            ("FELIX_PROMETHEUSMETRICSENABLED", "true".to_owned()),
            ("FELIX_PROMETHEUSMETRICSHOST", "127.0.0.1".to_owned()),
            ("FELIX_PROMETHEUSMETRICSPORT", port.to_string()),
        ];
        let params = settings(&variables);
        let waits = Waits::default();
        let (metrics, registry) = Metrics::new("n1");
        let starting = Starting {
            params: &params,
            admin_socket: &socket,
            note: note.clone(),
            waits: waits.clone(),
            metrics,
            registry: Arc::new(registry),
        };
        let scrape = async || {
            let place = format!("127.0.0.1:{port}");
            let asked = tokio::task::spawn_blocking(move || {
                loop {
                    if let Ok(answer) = http::get_tcp(&place, "/metrics", PATIENCE) {
                        return answer.body;
                    }
                }
            });
            asked.await.unwrap()
        };
        let ask = async |path: &'static str| {
            let socket = socket.clone();
            let asked = tokio::task::spawn_blocking(move || {
                loop {
                    // The first question may come before the socket.
                    if let Ok(answer) = http::get_unix(&socket, path, PATIENCE) {
                        return answer;
                    }
                }
            });
            asked.await.unwrap()
        };
        let work = async {
            for path in ["/health/felix-live", "/health/bird-live"] {
                assert_eq!(ask(path).await.status, 200, "{path}");
            }
            waits.on(What::Else, "the datastore is locked");
            for path in ["/health/felix-ready", "/health/bird-ready", "/status"] {
                let answer = ask(path).await;
                assert_eq!(answer.status, 503, "{path}");
                assert_eq!(
                    answer.body.trim(),
                    "the node is starting: the datastore is locked"
                );
            }
            for (what, lost, unknown) in [
                (What::Else, 0, 0),
                (What::Answer, 1, 0),
                (What::Acceptance, 0, 1),
            ] {
                waits.on(what, "it waits");
                let text = scrape().await;
                for line in [
                    "tortie_starting 1".to_owned(),
                    format!("tortie_datastore_lost {lost}"),
                    format!("tortie_datastore_unknown {unknown}"),
                ] {
                    assert!(
                        text.contains(&line),
                        "{what:?}: {line} is missing in\n{text}"
                    );
                }
            }
            // Only a POST accepts anything.
            assert_eq!(ask("/datastore/accept").await.status, 405);
            assert!(note.exists());
            "started"
        };
        assert_eq!(starting.beside(work).await, "started");
        assert_eq!(starting.metrics.starting.get(), 0);
        assert!(std::os::unix::net::UnixStream::connect(&socket).is_err());

        let accepted = accept(State(Arc::new(note.clone()))).await;
        assert!(accepted.0.is_success() && !note.exists());
        let again = accept(State(Arc::new(note))).await;
        assert_eq!(again.0, StatusCode::CONFLICT);
    }
}
