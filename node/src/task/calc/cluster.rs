//! What the datastore says about the agents as a whole: its lock, and their settings, which count at once or from the next
//! start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::admin::Problem;
use api::felix::{FelixConfiguration, given_to, selecting_names};
use api::key::{Key, Kind};
use api::object::Object;
use api::params::{Params, Setting};
use tokio::sync::watch;
use tracing::info;

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

/// Where the settings in force are read.
pub type Live = watch::Receiver<Arc<Params>>;

/// Settings of FelixConfigurations against those in force.
#[derive(Debug)]
pub struct Settings {
    node: String,
    /// In force.
    params: Arc<Params>,
    /// Told of what comes into force; `None` where nothing changes before the next start.
    live: Option<watch::Sender<Arc<Params>>>,
    configs: BTreeMap<Key, FelixConfiguration>,
    in_sync: bool,
    /// The labels that `problems` is right for; `None` when something else changed since.
    labels: Option<BTreeMap<String, String>>,
    problems: Vec<Problem>,
}

impl Settings {
    /// `params` are in force until the process ends.
    pub const fn fixed(node: String, params: Arc<Params>) -> Self {
        Self {
            node,
            params,
            live: None,
            configs: BTreeMap::new(),
            in_sync: false,
            labels: None,
            problems: Vec::new(),
        }
    }

    /// `params` are in force at first; and where those are read that are.
    pub fn live(node: String, params: Arc<Params>) -> (Self, Live) {
        let (live, in_force) = watch::channel(Arc::clone(&params));
        let settings = Self {
            live: Some(live),
            ..Self::fixed(node, params)
        };
        (settings, in_force)
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

    /// Settings that the agent would have if it started now and has not.
    pub(super) fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Looks at what the objects give a node with these labels; the settings that come into force by it, if any do.
    pub(super) fn review(&mut self, labels: &BTreeMap<String, String>) -> Option<Arc<Params>> {
        if !self.in_sync || self.labels.as_ref() == Some(labels) {
            return None;
        }
        self.labels = Some(labels.clone());
        let configs: Vec<FelixConfiguration> = self.configs.values().cloned().collect();
        let given = given_to(&configs, &self.node, labels);
        let changed = self.live.as_ref().and_then(|live| {
            let now = self.params.with_live(&given);
            let changes = differences(&self.params, &now);
            for (before, now) in &changes {
                info!(
                    setting = now.row.names[0],
                    before = before.text,
                    now = now.text,
                    origin = %now.origin,
                    "setting changed"
                );
            }
            if changes.is_empty() {
                return None;
            }
            self.params = Arc::new(now);
            live.send_replace(Arc::clone(&self.params));
            Some(Arc::clone(&self.params))
        });
        let next = self.params.with(&given);
        self.problems = differences(&self.params, &next)
            .into_iter()
            .map(|(used, wanted)| Problem {
                subject: used.row.names[0].to_owned(),
                reason: format!(
                    "is {:?} ({}); from the next start of the agent it is {:?} ({})",
                    used.text, used.origin, wanted.text, wanted.origin
                ),
            })
            .chain(passed_over(&configs, &self.node, labels))
            .collect();
        changed
    }
}

/// Objects that select the node and do not count since an older one does.
fn passed_over(
    configs: &[FelixConfiguration],
    node: &str,
    labels: &BTreeMap<String, String>,
) -> Vec<Problem> {
    let mut names = selecting_names(configs, node, labels).into_iter();
    let Some(first) = names.next() else {
        return Vec::new();
    };
    names
        .map(|name| Problem {
            subject: format!("FelixConfiguration({name})"),
            reason: format!(
                "spec.nodeSelector selects this node, but FelixConfiguration({first}), which does so too, is older and counts alone"
            ),
        })
        .collect()
}

/// The settings whose texts differ, before and after.
fn differences(before: &Params, after: &Params) -> Vec<(Setting, Setting)> {
    let pairs = before.settings().iter().zip(after.settings());
    pairs
        .filter(|(before, after)| before.text != after.text)
        .map(|(before, after)| (before.clone(), after.clone()))
        .collect()
}

#[cfg(test)]
mod tests;
