//! When the node's network is there: says so in the Kubernetes Node, and forgets the time of the last shutdown.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::kubernetes::{Kubernetes, NETWORK_IS_UP};
use crate::shutdown::set_condition;

/// After this long the network counts as there whatever is not ready: what is missing may be a peer that never comes.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often readiness is asked.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Whether the agent is ready, or why it is not.
pub type Ready = Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// What the task is made of.
pub struct Completion {
    /// The probes' verdict.
    pub ready: Ready,
    /// Name of the Kubernetes Node.
    pub node: String,
    /// Kubernetes, when the node is one of its nodes.
    pub kubernetes: Option<Arc<dyn Kubernetes>>,
    /// CALICO_SHUTDOWN_TIMESTAMP_FILE.
    pub shutdown_file: PathBuf,
    /// End of the process.
    pub cancel: CancellationToken,
}

impl Completion {
    /// Runs until the token is cancelled.
    pub async fn run(self) {
        tokio::select! {
            () = self.complete() => self.cancel.cancelled().await,
            () = self.cancel.cancelled() => {}
        }
    }

    async fn complete(&self) {
        let started = tokio::time::Instant::now();
        while let Err(reason) = (self.ready)().await {
            if started.elapsed() >= PATIENCE {
                warn!(
                    reason,
                    seconds = PATIENCE.as_secs(),
                    "not ready after all this time; going on"
                );
                break;
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        if let Some(kubernetes) = &self.kubernetes {
            set_condition(&**kubernetes, &self.node, &NETWORK_IS_UP).await;
        }
        self.forget_shutdown();
    }

    fn forget_shutdown(&self) {
        let noted = std::fs::read_to_string(&self.shutdown_file).unwrap_or_default();
        match std::fs::remove_file(&self.shutdown_file) {
            Ok(()) => info!(
                shutdown = noted.trim(),
                "the node's network is there again after its shutdown"
            ),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                warn!(file = %self.shutdown_file.display(), %error, "removing the time of the shutdown");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::kubernetes::fake::Fake;
    use crate::scratch::Scratch;

    const UP: &str = "n1: NetworkUnavailable=False CalicoIsUp: Calico is running on this node";

    /// A task that is ready at the `ready_at`th question; and how often it was asked.
    fn completion(
        ready_at: usize,
        fake: &Arc<Fake>,
        shutdown_file: PathBuf,
    ) -> (Completion, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let seen = Arc::clone(fake);
        let ready = move || -> BoxFuture<'static, Result<(), String>> {
            assert!(seen.conditions().is_empty(), "set before it was ready");
            let now = count.fetch_add(1, Ordering::Relaxed) + 1;
            let verdict = if now >= ready_at {
                Ok(())
            } else {
                Err("BGP is not ready".to_owned())
            };
            Box::pin(std::future::ready(verdict))
        };
        let completion = Completion {
            ready: Box::new(ready),
            node: "n1".to_owned(),
            kubernetes: Some(Arc::clone(fake) as _),
            shutdown_file,
            cancel: CancellationToken::new(),
        };
        (completion, asked)
    }

    #[tokio::test(start_paused = true)]
    async fn the_network_is_there_when_the_agent_is_ready_and_not_before() {
        let directory = Scratch::new();
        let file = directory.path().join("shutdownTS");
        std::fs::write(&file, "2026-01-01T00:00:00Z").unwrap();
        let fake = Arc::new(Fake::default());
        let (completion, asked) = completion(4, &fake, file.clone());
        completion.complete().await;
        assert_eq!(asked.load(Ordering::Relaxed), 4);
        assert_eq!(fake.conditions(), [UP]);
        assert!(!file.exists());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_never_comes_does_not_keep_the_node_out_for_ever() {
        let directory = Scratch::new();
        let fake = Arc::new(Fake::default());
        fake.fail(2);
        let missing = directory.path().join("shutdownTS");
        let (completion, _) = completion(usize::MAX, &fake, missing);
        let started = tokio::time::Instant::now();
        completion.complete().await;
        assert!(started.elapsed() >= PATIENCE);
        assert_eq!(fake.conditions(), [UP]);
    }
}
