//! Looks at times for what a cluster asks of its network and this version does not do ([`api::without_effect`]), and says
//! so in status, log, metric and an event of the node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::admin::Problem;
use api::key::{Key, Kind};
use api::object::Object;
use api::without_effect::{RESOURCES, settings};
use datastore::scope::Scope;
use datastore::store::Store;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::health::Health;
use crate::kubernetes::{Kubernetes, KubernetesError};
use crate::telemetry::{KindLabel, Metrics};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(600);
/// How soon again when there was no answer.
const AGAIN: Duration = Duration::from_secs(30);
/// How often it says the same once more: an API server forgets an event after an hour.
const EVENT_EVERY: Duration = Duration::from_secs(3600);
/// Of the event, in one word.
const REASON: &str = "WithoutEffect";

/// What the task is made of.
pub struct WithoutEffect {
    /// Asked for policies; `None` where there is no Kubernetes.
    pub kubernetes: Option<Arc<dyn Kubernetes>>,
    /// The Kubernetes Node the event is about.
    pub node: String,
    /// Asked for FelixConfigurations.
    pub store: Arc<dyn Store>,
    /// Where `tortiectl node status` finds it.
    pub health: Health,
    /// Where it is counted.
    pub metrics: Metrics,
    /// End of the process.
    pub cancel: CancellationToken,
}

/// What was found: problems, and objects by kind.
#[derive(Debug, Default, PartialEq)]
struct Found {
    problems: Vec<Problem>,
    counts: BTreeMap<String, i64>,
}

impl Found {
    fn add(&mut self, kind: &str, count: u64, problems: impl IntoIterator<Item = Problem>) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        *self.counts.entry(kind.to_owned()).or_default() += count;
        self.problems.extend(problems);
    }
}

impl WithoutEffect {
    /// Runs until the token is cancelled.
    pub async fn run(self) {
        let cancel = self.cancel.clone();
        tokio::select! {
            () = self.watch() => {}
            () = cancel.cancelled() => {}
        }
    }

    async fn watch(self) {
        let mut event_at = None;
        loop {
            // What is not known is kept as it was last known.
            let wait = match self.look().await {
                Ok(found) => {
                    self.tell(found, &mut event_at).await;
                    EVERY
                }
                Err(reason) => {
                    debug!(reason, "looking for what has no effect");
                    AGAIN
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn look(&self) -> Result<Found, String> {
        let mut found = Found::default();
        if let Some(kubernetes) = &self.kubernetes {
            for resource in &RESOURCES {
                match kubernetes.count(resource).await {
                    Ok(count) => found.add(resource.kind, count, resource.problem(count)),
                    Err(KubernetesError::Refused(reason)) => found.problems.push(Problem {
                        subject: resource.kind.to_owned(),
                        reason: format!("whether there are any is not known: {reason}"),
                    }),
                    Err(error) => return Err(error.to_string()),
                }
            }
        }
        let listing = self
            .store
            .list(Kind::FelixConfiguration, &Scope::All)
            .await
            .map_err(|error| error.to_string())?;
        for item in listing.items {
            let Key { kind, .. } = item.key;
            // One that cannot be read is reported by who watches it.
            if let Ok(Object::FelixConfiguration(config)) = Object::decode(&item.key, &item.value) {
                let problems = settings(&config);
                found.add(kind.name(), u64::from(!problems.is_empty()), problems);
            }
        }
        Ok(found)
    }

    async fn tell(&self, found: Found, event_at: &mut Option<Instant>) {
        for (kind, count) in found.counts {
            let label = KindLabel { kind };
            self.metrics.without_effect.get_or_create(&label).set(count);
        }
        let texts: Vec<String> = found
            .problems
            .iter()
            .map(|problem| format!("{}: {}", problem.subject, problem.reason))
            .collect();
        let news = self.health.set_without_effect(found.problems);
        if news {
            for text in &texts {
                warn!(reason = text, "something in this cluster has no effect");
            }
        }
        let due = event_at.is_none_or(|at| at.elapsed() >= EVENT_EVERY);
        if let Some(kubernetes) = &self.kubernetes
            && !texts.is_empty()
            && (news || due)
        {
            *event_at = Some(Instant::now());
            let text = texts.join("\n");
            if let Err(error) = kubernetes.warn(&self.node, REASON, &text).await {
                warn!(%error, "writing an event");
            }
        }
    }
}

#[cfg(test)]
mod tests;
