//! The CNI task: the plugin's socket and what its requests do.
//!
//! Each connection is a task of its own, so requests run in parallel; those of one container run one after the other.
//! Addresses come from one [`addresses`] task, which serves all requests that have piled up with one write of the block.
//!
//! ```text
//! ADD   ┌ address ──┐   ┌ pod's end configured, both ends up ─┐
//!       ┤           ├──►┤                                     ├──► reply
//!       └ veth pair ┘   └ endpoint written, echoed, /32 in FIB┘
//! DEL   host end down ∥ endpoint deleted, address released ──► reply; the device goes with the pod or in a sweep
//! ```
//! Where the store does plans as a whole the endpoint is written with the address, and deleted with its release.

pub mod addresses;
pub mod connection;
pub mod locks;
mod pods;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cni::protocol::{Command, Reply, Request};
use cni::spec::error::{CniError, Code};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::socket::Socket;
use crate::telemetry::Metrics;
pub use pods::Pods;
pub(crate) use pods::endpoint::attributes_beside_handle;

/// Connections served at once; more wait in the socket's backlog.
const CONNECTIONS_MAX: usize = 256;

/// What the CNI task is made of.
pub struct CniTask {
    /// Where the plugin connects.
    pub socket: Socket,
    /// Who serves.
    pub pods: Arc<Pods>,
    /// Counters.
    pub metrics: Metrics,
    /// End of the process.
    pub cancel: CancellationToken,
}

impl CniTask {
    /// Serves until the token is cancelled; requests in work are dropped then, and undo what they have half made.
    pub async fn run(mut self) {
        let mut requests = JoinSet::new();
        let pods = Arc::clone(&self.pods);
        // Beside this loop: deleting devices takes a while, and requests must not wait for it.
        let mut sweeping = JoinSet::new();
        sweeping.spawn(async move { pods.sweep().await });
        loop {
            tokio::select! {
                accepted = self.socket.next(), if requests.len() < CONNECTIONS_MAX => {
                    match accepted {
                        Ok(stream) => {
                            requests.spawn(serve(stream, Arc::clone(&self.pods), self.metrics.clone()));
                        }
                        Err(error) => {
                            warn!(%error, "accepting a connection of the CNI plugin failed");
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                    }
                }
                Some(ended) = requests.join_next() => {
                    if let Err(error) = ended {
                        warn!(%error, "a CNI request ended early");
                    }
                }
                () = self.cancel.cancelled() => return,
            }
        }
    }
}

async fn serve(stream: UnixStream, pods: Arc<Pods>, metrics: Metrics) {
    let started = Instant::now();
    let reply = match connection::read_request(&stream).await {
        Ok(None) => return,
        Ok(Some((request, netns))) => {
            let waits = || connection::caller_waits(&stream);
            answer(request, (netns, &waits), &pods, &metrics, started).await
        }
        Err(error) => {
            warn!(%error, "request of the CNI plugin not understood");
            let text = crate::startup::chain(&error);
            Reply::Failed(CniError::new(Code::PROTOCOL, text))
        }
    };
    if let Err(error) = connection::write_reply(stream, &reply).await {
        debug!(%error, "the CNI plugin did not wait for its answer");
    }
}

async fn answer(
    request: Request,
    (netns, waits): (Option<OwnedFd>, &(dyn Fn() -> bool + Sync)),
    pods: &Pods,
    metrics: &Metrics,
    started: Instant,
) -> Reply {
    let command = request.command;
    let container = request.container_id.clone();
    let outcome = match command {
        Command::Add => pods.add(&request, netns, waits).await.map(Reply::Added),
        Command::Del => pods.del(&request).await.map(|()| Reply::Done),
        Command::Check => pods.check(&request, netns).await.map(|()| Reply::Done),
        Command::Status => pods.status().await.map(|()| Reply::Done),
        Command::Gc => pods.gc(&request).await.map(|()| Reply::Done),
        Command::Assign => pods.assign_alone(&request, waits).await.map(Reply::Added),
        Command::Release => pods.release_alone(&request).await.map(|()| Reply::Done),
        Command::Verify => pods.verify_alone(&request).await.map(|()| Reply::Done),
        Command::PodCidrs => pods.pod_cidrs().await.map(Reply::PodCidrs),
    };
    let took = started.elapsed();
    match outcome {
        Ok(reply) => {
            if command == Command::Add {
                metrics.add_seconds.observe(took.as_secs_f64());
            }
            info!(?command, container, took_us = took.as_micros(), "CNI");
            reply
        }
        Err(error) => {
            metrics.cni_failures.inc();
            warn!(
                ?command,
                container,
                code = error.code.0,
                error = error.msg,
                "CNI"
            );
            Reply::Failed(error)
        }
    }
}
