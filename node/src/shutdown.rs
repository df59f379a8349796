//! `tortie-node shutdown`: what a DaemonSet calls before the agent's container stops.
//!
//! It changes nothing of the network: the next agent adopts what is there. The time is noted in a file, and the
//! Kubernetes Node says that no network comes up for new pods until the next agent is ready.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::params::{Backend, Params};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::kubernetes::{Condition, Kubernetes, NETWORK_IS_DOWN};
use crate::startup::host::kernel_hostname;
use crate::startup::{StartupError, files};

/// First and longest wait before the API server is asked again.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Notes the time, and sets the condition; tries until the API server takes it or the token is cancelled.
pub async fn run(params: Params, cancel: CancellationToken) -> anyhow::Result<()> {
    let name = params.node_name(files::read_nodename(&params).as_deref(), &kernel_hostname());
    let name = name.ok_or(StartupError::NoName)?;
    let kubernetes = crate::store::open(&params).await?.kubernetes().await?;
    tokio::select! {
        told = tell(&params, &name, kubernetes) => Ok(told?),
        () = cancel.cancelled() => Ok(()),
    }
}

async fn tell(
    params: &Params,
    name: &str,
    kubernetes: Option<Arc<dyn Kubernetes>>,
) -> Result<(), StartupError> {
    let now = crate::task::timestamp(SystemTime::now()).rfc3339();
    files::write_shutdown_time(params, &now)?;
    info!(file = %Path::new(&params.shutdown_timestamp_file).display(), "time of the shutdown noted");
    // A node that only enforces policy has another network, which stays.
    if params.backend == Backend::None {
        return Ok(());
    }
    if let Some(kubernetes) = kubernetes {
        let node = params.kubernetes_node.as_deref().unwrap_or(name);
        set_condition(&*kubernetes, node, &NETWORK_IS_DOWN).await;
    }
    Ok(())
}

/// Sets a condition, however often it must be tried.
pub(crate) async fn set_condition(kubernetes: &dyn Kubernetes, node: &str, condition: &Condition) {
    let mut wait = RETRY.0;
    let mut failed = None;
    loop {
        match kubernetes.set_condition(node, condition).await {
            Ok(()) => break,
            Err(error) => {
                let text = error.to_string();
                if failed.as_ref() != Some(&text) {
                    warn!(node, %error, "setting NetworkUnavailable; trying again");
                }
                failed = Some(text);
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    }
    info!(
        node,
        status = condition.status,
        reason = condition.reason,
        "NetworkUnavailable set"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::fake::Fake;
    use crate::scratch::Scratch;

    fn params(backend: &str, file: &Path) -> Params {
        let file = file.display().to_string();
        let variables = [
            ("CALICO_SHUTDOWN_TIMESTAMP_FILE", file.as_str()),
            ("CALICO_NETWORKING_BACKEND", backend),
            ("CALICO_K8S_NODE_REF", "worker-1"),
        ];
        Params::from_env(variables.map(|(name, text)| (name.to_owned(), text.to_owned()))).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_is_noted_and_the_condition_set_however_often_it_must_be_tried() {
        let directory = Scratch::new();
        let file = directory.path().join("state/shutdownTS");
        let fake = Arc::new(Fake::default());
        fake.fail(3);
        tell(&params("bird", &file), "n1", Some(Arc::clone(&fake) as _))
            .await
            .unwrap();
        let noted = std::fs::read_to_string(&file).unwrap();
        assert!(noted.ends_with('Z') && noted.contains('T'), "{noted}");
        assert_eq!(
            fake.conditions(),
            [
                "worker-1: NetworkUnavailable=True CalicoIsDown: Calico is shutting down on this node"
            ]
        );
    }

    #[tokio::test]
    async fn a_node_without_a_network_of_ours_only_notes_the_time() {
        let directory = Scratch::new();
        let file = directory.path().join("shutdownTS");
        let fake = Arc::new(Fake::default());
        tell(&params("none", &file), "n1", Some(Arc::clone(&fake) as _))
            .await
            .unwrap();
        assert!(file.exists());
        assert!(fake.conditions().is_empty());
        tell(&params("bird", &file), "n1", None).await.unwrap();
    }
}
