//! Pods as they were last seen: by a watch, by a look, in the answer to a write. So the write of an endpoint needs no look of
//! its own. It is made on the condition that the Pod is still the same: one that no longer is costs a request and nothing else.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use api::key::Key;
use datastore::store::{Expect, KeyValue};
use datastore::version::Version;

use crate::pod::KubePod;

/// More are not remembered: a node has some hundred Pods, and who looks at all of the cluster's writes none.
const PODS_MAX: usize = 1024;

/// As much of a Pod as a condition needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SeenPod {
    pub(super) uid: String,
    /// The version of its endpoint, if it holds one.
    endpoint: Option<Version>,
    number: u64,
    /// What it asks of its network.
    pub(super) asked: BTreeMap<String, String>,
}

impl SeenPod {
    /// `None` for a Pod of which no condition can be made.
    pub(super) fn of(pod: &KubePod, endpoint: Option<&KeyValue>) -> Option<Self> {
        Some(Self {
            uid: pod.uid().to_owned(),
            endpoint: endpoint.map(|endpoint| endpoint.version.clone()),
            number: pod.resource_version().parse().ok()?,
            asked: pod.asked(),
        })
    }

    pub(super) fn resource_version(&self) -> String {
        self.number.to_string()
    }

    /// The condition of a write over its endpoint.
    pub(super) fn condition(&self) -> Expect {
        Expect::standing(self.endpoint.clone())
    }

    pub(super) const fn endpoint(&self) -> Option<&Version> {
        self.endpoint.as_ref()
    }
}

#[derive(Default)]
pub(crate) struct SeenPods(Mutex<BTreeMap<Key, SeenPod>>);

impl SeenPods {
    /// What is older than what is known counts for nothing: a watch may be behind.
    pub(super) fn note(&self, key: &Key, pod: SeenPod) {
        let mut pods = self.lock();
        let newest = pods
            .remove(key)
            .filter(|known| known.number > pod.number)
            .unwrap_or(pod);
        if pods.len() < PODS_MAX {
            pods.insert(key.clone(), newest);
        }
    }

    pub(super) fn get(&self, key: &Key) -> Option<SeenPod> {
        self.lock().get(key).cloned()
    }

    pub(crate) fn forget(&self, key: &Key) {
        self.lock().remove(key);
    }

    pub(super) fn forget_all(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, SeenPod>> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use api::key::Kind;
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, number: u64) -> SeenPod {
        let pod = json!({"metadata": {
            "name": "p", "namespace": "ns", "uid": uid, "resourceVersion": number.to_string(),
        }});
        let pod = KubePod::parse(pod.to_string().as_bytes()).unwrap();
        SeenPod::of(&pod, None).unwrap()
    }

    #[test]
    fn a_watch_that_is_behind_does_not_take_back_what_a_write_answered() {
        let key = Key::namespaced(Kind::WorkloadEndpoint, "ns", "n-k8s-p-eth0");
        let pods = SeenPods::default();
        pods.note(&key, pod("a", 7));
        pods.note(&key, pod("a", 5));
        assert_eq!(pods.get(&key), Some(pod("a", 7)));
        pods.note(&key, pod("b", 9));
        assert_eq!(pods.get(&key), Some(pod("b", 9)), "made anew");
        pods.forget(&key);
        assert_eq!(pods.get(&key), None);
    }

    #[test]
    fn more_pods_than_a_node_has_are_not_remembered() {
        let pods = SeenPods::default();
        for number in 0..2 * PODS_MAX {
            let key = Key::namespaced(
                Kind::WorkloadEndpoint,
                "ns",
                format!("n-k8s-p{number}-eth0"),
            );
            pods.note(&key, pod("a", 7));
        }
        assert_eq!(pods.lock().len(), PODS_MAX);
    }
}
