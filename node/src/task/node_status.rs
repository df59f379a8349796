//! Answers CalicoNodeStatuses that ask about this node: what its speaker, its sessions and its routes are. An answer has
//! all that was asked for, or none is written.

mod answer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::key::{Key, Kind};
use api::node_status::{CalicoNodeStatus, CalicoNodeStatusSpec, Class, NodeStatus};
use api::object::Object;
use api::validate::validate;
use datastore::scope::Scope;
use datastore::store::{Change, KeyValue, Store, StoreError};
use datastore::watcher::{Update, Watcher};
use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

pub use answer::{Facts, Sources};

use crate::task::watch::backoff;

/// How often an answer is tried, when others change the object at the same time.
const ATTEMPTS: usize = 3;
/// After a failure it is tried again this soon, or at the next period where that is later.
const AGAIN: Duration = Duration::from_secs(30);

/// Asks for what these classes are answered from.
pub type Ask = Box<dyn Fn(Vec<Class>) -> Answer + Send + Sync>;

/// Facts that come later.
pub type Answer = BoxFuture<'static, Result<Facts, String>>;

/// What the task is made of.
pub struct NodeStatusTask {
    /// Node name.
    pub node: String,
    /// Objects.
    pub store: Arc<dyn Store>,
    /// What the answers are made from.
    pub facts: Ask,
    /// End of the process.
    pub cancel: CancellationToken,
}

/// An object that asks about this node.
struct Asked {
    /// As it was last seen or written.
    object: KeyValue,
    resource: CalicoNodeStatus,
    /// When it is to be answered.
    due: Option<Instant>,
    /// The last answer, without its time.
    answered: Option<NodeStatus>,
    /// Why there was none the last time.
    failed: Option<String>,
}

/// Why an object was not answered.
enum Failure {
    /// It is not as it was, or not there: the watch says more.
    Changed,
    Other(String),
}

impl NodeStatusTask {
    /// Runs until the token is cancelled.
    pub async fn run(self) {
        let cancel = self.cancel.clone();
        tokio::select! {
            () = self.follow() => {}
            () = cancel.cancelled() => {}
        }
    }

    async fn follow(self) {
        let store = Arc::clone(&self.store);
        let mut watcher = Watcher::new(store, Kind::CalicoNodeStatus, Scope::All, backoff);
        let mut asked: BTreeMap<Key, Asked> = BTreeMap::new();
        loop {
            let due = asked.values().filter_map(|asked| asked.due).min();
            tokio::select! {
                update = watcher.next() => match update {
                    Update::Put(object) => self.put(object, &mut asked),
                    Update::Delete { key, .. } | Update::Missing { key, .. } => {
                        asked.remove(&key);
                    }
                    // Nothing here is kept beyond the answer: whoever asks in the datastore that is there is answered.
                    Update::Diverged(_) => watcher.accept(),
                    Update::Lost(error) => debug!(%error, "following CalicoNodeStatuses"),
                    Update::InSync(_) => {}
                },
                () = until(due) => self.answer_due(&mut asked).await,
            }
        }
    }

    fn put(&self, object: KeyValue, asked: &mut BTreeMap<Key, Asked>) {
        let key = object.key.clone();
        let Some(resource) = self.read(&object) else {
            asked.remove(&key);
            return;
        };
        match asked.get_mut(&key) {
            // An answer, or another's label.
            Some(known) if known.resource.spec == resource.spec => {
                (known.object, known.resource) = (object, resource);
            }
            _ => {
                let new = Asked {
                    object,
                    resource,
                    due: Some(Instant::now()),
                    answered: None,
                    failed: None,
                };
                asked.insert(key, new);
            }
        }
    }

    /// The object, if it can be read and is about this node.
    fn read(&self, object: &KeyValue) -> Option<CalicoNodeStatus> {
        let decoded = Object::decode(&object.key, &object.value);
        let resource = match decoded {
            Ok(decoded) => {
                let faults = validate(&decoded);
                let Object::CalicoNodeStatus(resource) = decoded else {
                    return None;
                };
                if resource.spec.node != self.node {
                    return None;
                }
                if let Some(fault) = faults.first() {
                    warn!(key = %object.key, %fault, "not answered");
                    return None;
                }
                resource
            }
            Err(error) => {
                warn!(%error, "not answered");
                return None;
            }
        };
        Some(resource)
    }

    async fn answer_due(&self, asked: &mut BTreeMap<Key, Asked>) {
        let now = Instant::now();
        for (key, one) in asked.iter_mut() {
            if one.due.is_none_or(|due| due > now) {
                continue;
            }
            let period = period(&one.resource.spec);
            let result = self.answer(one).await;
            one.due = match (&result, period) {
                (Ok(()) | Err(Failure::Changed), period) => period,
                (Err(Failure::Other(_)), period) => Some(period.unwrap_or(AGAIN).max(AGAIN)),
            }
            .map(|wait| Instant::now() + wait);
            let failed = match result {
                Err(Failure::Other(error)) => Some(error),
                Ok(()) | Err(Failure::Changed) => None,
            };
            if let Some(error) = &failed
                && one.failed != failed
            {
                warn!(%key, error, "not answered; trying again");
            }
            one.failed = failed;
        }
    }

    async fn answer(&self, asked: &mut Asked) -> Result<(), Failure> {
        let classes = asked.resource.spec.asked();
        let facts = (self.facts)(classes.clone()).await;
        let mut status = answer::answer(&classes, &facts.map_err(Failure::Other)?);
        if asked.answered.as_ref() == Some(&status) {
            return Ok(());
        }
        let answered = status.clone();
        status.last_updated = Some(crate::task::timestamp(std::time::SystemTime::now()).rfc3339());
        let json = serde_json::to_value(&status);
        let json = json.map_err(|error| Failure::Other(error.to_string()))?;
        for _ in 0..ATTEMPTS {
            let mut resource = asked.resource.clone();
            resource.extra.insert("status".to_owned(), json.clone());
            let object = KeyValue {
                value: Object::CalicoNodeStatus(resource).encode().into(),
                ..asked.object.clone()
            };
            match self.store.write_status(object).await {
                Ok(change) => {
                    if let Some(Change::Put(object)) = change {
                        asked.object = object;
                    }
                    asked.answered = Some(answered);
                    return Ok(());
                }
                Err(StoreError::Conflict { current, .. }) => {
                    let current = current.ok_or(Failure::Changed)?;
                    let resource = self.read(&current).ok_or(Failure::Changed)?;
                    if resource.spec != asked.resource.spec {
                        return Err(Failure::Changed);
                    }
                    (asked.object, asked.resource) = (*current, resource);
                }
                Err(error) => return Err(Failure::Other(error.to_string())),
            }
        }
        Err(Failure::Other("others keep changing it".to_owned()))
    }
}

/// How often it is answered; `None`: once.
fn period(spec: &CalicoNodeStatusSpec) -> Option<Duration> {
    let seconds = spec.update_period_seconds.filter(|seconds| *seconds > 0)?;
    Some(Duration::from_secs(seconds.into()))
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
