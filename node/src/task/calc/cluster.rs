//! What the datastore says about the agents as a whole: its lock, and settings that wait for the next start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::admin::Problem;
use api::felix::{FelixConfiguration, given_to};
use api::key::{Key, Kind};
use api::object::Object;
use api::params::Params;

use super::State;

/// The kinds this looks at, beside those of the graph.
pub const KINDS: [Kind; 2] = [Kind::FelixConfiguration, Kind::ClusterInformation];

/// Holds back what the datastore says while it is locked (`datastoreReady` is false), so that nothing is done because
/// of objects that are being carried to another place.
#[derive(Debug, Default)]
pub(super) struct Lock {
    locked: bool,
    /// Newest state of each object that was held back.
    objects: BTreeMap<Key, State>,
    in_sync: BTreeSet<Kind>,
}

/// What a lock let through: objects, then kinds that are complete.
pub(super) type Passed = (Vec<(Key, State)>, Vec<Kind>);

impl Lock {
    pub(super) const fn is_locked(&self) -> bool {
        self.locked
    }

    /// An object of the watch; what may be acted on now.
    pub(super) fn object(&mut self, key: Key, state: State) -> Passed {
        if key.kind != Kind::ClusterInformation {
            if self.locked {
                self.objects.insert(key, state);
                return Passed::default();
            }
            return (vec![(key, state)], Vec::new());
        }
        if key.name == "default" {
            self.locked = match &state {
                State::Present(object) => match &**object {
                    Object::ClusterInformation(info) => !info.spec.is_ready(),
                    _ => false,
                },
                State::Absent => false,
                // What cannot be read says nothing new.
                State::Invalid(_) => self.locked,
            };
        }
        let mut passed: Passed = (vec![(key, state)], Vec::new());
        if !self.locked {
            passed.0.extend(std::mem::take(&mut self.objects));
            passed.1.extend(std::mem::take(&mut self.in_sync));
        }
        passed
    }

    /// A kind was read completely; whether that may be acted on now.
    pub(super) fn in_sync(&mut self, kind: Kind) -> bool {
        if self.locked {
            self.in_sync.insert(kind);
        }
        !self.locked
    }

    /// This process wrote the object: what was held back of it is older.
    pub(super) fn written(&mut self, key: &Key) {
        self.objects.remove(key);
    }

    pub(super) fn problem(&self) -> Option<Problem> {
        self.locked.then(|| Problem {
            subject: "ClusterInformation(default)".to_owned(),
            reason: format!(
                "spec.datastoreReady is false: the datastore is locked; no pod is connected or disconnected, and {} changed objects wait for `tortiectl datastore migrate unlock`",
                self.objects.len()
            ),
        })
    }
}

/// Settings of FelixConfigurations against those in force, which are the ones of the start.
#[derive(Debug)]
pub struct Settings {
    node: String,
    params: Arc<Params>,
    configs: BTreeMap<Key, FelixConfiguration>,
    in_sync: bool,
    /// The labels that `problems` is right for; `None` when something else changed since.
    labels: Option<BTreeMap<String, String>>,
    problems: Vec<Problem>,
}

impl Settings {
    /// `params` are in force.
    pub const fn new(node: String, params: Arc<Params>) -> Self {
        Self {
            node,
            params,
            configs: BTreeMap::new(),
            in_sync: false,
            labels: None,
            problems: Vec::new(),
        }
    }

    pub(super) fn object(&mut self, key: &Key, state: &State) {
        if key.kind != Kind::FelixConfiguration {
            return;
        }
        self.labels = None;
        let config = match state {
            State::Present(object) => match &**object {
                Object::FelixConfiguration(config) => Some(config.clone()),
                _ => None,
            },
            State::Absent | State::Invalid(_) => None,
        };
        match config {
            Some(config) => self.configs.insert(key.clone(), config),
            None => self.configs.remove(key),
        };
    }

    pub(super) fn in_sync(&mut self, kind: Kind) {
        if kind == Kind::FelixConfiguration {
            self.in_sync = true;
            self.labels = None;
        }
    }

    /// Settings that the agent would have if it started now.
    pub(super) fn problems(&mut self, labels: &BTreeMap<String, String>) -> &[Problem] {
        if self.labels.as_ref() != Some(labels) {
            self.problems = self.differences(labels);
            self.labels = Some(labels.clone());
        }
        &self.problems
    }

    fn differences(&self, labels: &BTreeMap<String, String>) -> Vec<Problem> {
        if !self.in_sync {
            return Vec::new();
        }
        let configs: Vec<FelixConfiguration> = self.configs.values().cloned().collect();
        let wanted = self.params.with(&given_to(&configs, &self.node, labels));
        let pairs = wanted.settings().iter().zip(self.params.settings());
        pairs
            .filter(|(wanted, used)| wanted.text != used.text)
            .map(|(wanted, used)| Problem {
                subject: used.row.names[0].to_owned(),
                reason: format!(
                    "is {:?} ({}); from the next start of the agent it is {:?} ({})",
                    used.text, used.origin, wanted.text, wanted.origin
                ),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
