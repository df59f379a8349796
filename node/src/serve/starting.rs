//! What probes and people are answered while the node starts: it is alive, and why it goes no further. Without an answer a kubelet
//! would kill a process that only waits.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::params::Params;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use tracing::{info, warn};

use super::{health_place, listen, serve_one, tell};
use crate::socket::Socket;
use crate::startup::Waits;

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
}

impl Starting<'_> {
    /// Does `work` and answers meanwhile. The sockets are closed afterwards.
    pub async fn beside<T>(&self, work: impl Future<Output = T>) -> T {
        let admin = self.admin_routes();
        let health = self.health_routes();
        let serving = async {
            tokio::join!(
                serve_admin(self.admin_socket, admin),
                self.serve_health(health)
            );
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            done = work => done,
            never = serving => match never {},
        }
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

    async fn serve_health(&self, routes: Router) {
        let Some((host, port)) = health_place(self.params) else {
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

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_node_that_starts_is_alive_not_ready_and_says_what_it_waits_for() {
        let scratch = Scratch::new();
        let socket = scratch.path().join("admin");
        let note = scratch.path().join("note");
        std::fs::write(&note, "read").unwrap();
        let off = [("FELIX_HEALTHENABLED".to_owned(), "false".to_owned())];
        let params = Params::from_env(off).unwrap();
        let waits = Waits::default();
        let starting = Starting {
            params: &params,
            admin_socket: &socket,
            note: note.clone(),
            waits: waits.clone(),
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
            waits.on("the datastore is locked");
            for path in ["/health/felix-ready", "/health/bird-ready", "/status"] {
                let answer = ask(path).await;
                assert_eq!(answer.status, 503, "{path}");
                assert_eq!(
                    answer.body.trim(),
                    "the node is starting: the datastore is locked"
                );
            }
            // Only a POST accepts anything.
            assert_eq!(ask("/datastore/accept").await.status, 405);
            assert!(note.exists());
            "started"
        };
        assert_eq!(starting.beside(work).await, "started");
        assert!(std::os::unix::net::UnixStream::connect(&socket).is_err());

        let accepted = accept(State(Arc::new(note.clone()))).await;
        assert!(accepted.0.is_success() && !note.exists());
        let again = accept(State(Arc::new(note))).await;
        assert_eq!(again.0, StatusCode::CONFLICT);
    }
}
