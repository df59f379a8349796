//! Kubernetes in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use api::without_effect::Resource;
use ipnet::IpNet;

use super::{Answer, Condition, Endpoint, Kubernetes, KubernetesError, NodeFacts, Token};

/// A cluster that says what it was given, and remembers what it was told.
#[derive(Default)]
pub(crate) struct Fake(Mutex<Content>);

#[derive(Default)]
pub(crate) struct Content {
    pub(crate) nodes: BTreeMap<String, NodeFacts>,
    pub(crate) config_maps: BTreeMap<(String, String), BTreeMap<String, String>>,
    /// Calico's controllers run.
    pub(crate) kube_controllers: bool,
    pub(crate) leak_grace_period: Option<String>,
    /// Command lines of kube-controller-manager.
    pub(crate) controller_managers: Vec<Vec<String>>,
    /// Counts by group, version and plural.
    pub(crate) counts: BTreeMap<(String, String), u64>,
    /// Resources that may not be listed.
    pub(crate) forbidden: Vec<String>,
    conditions: Vec<String>,
    warnings: Vec<String>,
    tokens: Vec<String>,
    failures: usize,
}

impl Fake {
    pub(crate) fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next so many questions get no answer.
    pub(crate) fn fail(&self, times: usize) {
        self.content().failures = times;
    }

    /// Conditions that were set, in words.
    pub(crate) fn conditions(&self) -> Vec<String> {
        self.content().conditions.clone()
    }

    /// Events that were written, in words.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.content().warnings.clone()
    }

    /// Tokens that were asked for, in words.
    pub(crate) fn tokens(&self) -> Vec<String> {
        self.content().tokens.clone()
    }

    fn answer<T: Send + 'static>(&self, of: impl FnOnce(&mut Content) -> T) -> Answer<'static, T> {
        let mut content = self.content();
        let answer = if content.failures > 0 {
            content.failures -= 1;
            Err(KubernetesError::Unavailable(
                "connection refused".to_owned(),
            ))
        } else {
            Ok(of(&mut content))
        };
        Box::pin(std::future::ready(answer))
    }
}

impl Kubernetes for Fake {
    fn node<'a>(&'a self, name: &'a str) -> Answer<'a, Option<NodeFacts>> {
        self.answer(|content| content.nodes.get(name).cloned())
    }

    fn pod_cidrs(&self) -> Answer<'_, Vec<IpNet>> {
        self.answer(|content| {
            let nodes = content.nodes.values();
            nodes.flat_map(|node| node.pod_cidrs.clone()).collect()
        })
    }

    fn controller_managers(&self) -> Answer<'_, Vec<Vec<String>>> {
        self.answer(|content| content.controller_managers.clone())
    }

    fn kube_controllers(&self) -> Answer<'_, bool> {
        self.answer(|content| content.kube_controllers)
    }

    fn leak_grace_period(&self) -> Answer<'_, Option<String>> {
        self.answer(|content| content.leak_grace_period.clone())
    }

    fn config_map<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> Answer<'a, Option<BTreeMap<String, String>>> {
        let key = (namespace.to_owned(), name.to_owned());
        self.answer(|content| content.config_maps.get(&key).cloned())
    }

    fn set_condition<'a>(&'a self, node: &'a str, condition: &'a Condition) -> Answer<'a, ()> {
        self.answer(|content| {
            let status = if condition.status { "True" } else { "False" };
            content.conditions.push(format!(
                "{node}: {}={status} {}: {}",
                condition.kind, condition.reason, condition.message
            ));
        })
    }

    fn token<'a>(&'a self, service_account: &'a str, validity: Duration) -> Answer<'a, Token> {
        self.answer(|content| {
            content
                .tokens
                .push(format!("{service_account} for {} s", validity.as_secs()));
            Token {
                text: format!("token-{}", content.tokens.len()),
                expires: SystemTime::now() + validity,
            }
        })
    }

    fn count<'a>(&'a self, resource: &'a Resource) -> Answer<'a, u64> {
        let name = resource.plural;
        if self.content().forbidden.iter().any(|plural| plural == name) {
            let refused = Err(KubernetesError::Refused("may not list".to_owned()));
            return Box::pin(std::future::ready(refused));
        }
        self.answer(|content| {
            let groups = resource.group_versions.iter();
            let mut keys = groups.map(|group| ((*group).to_owned(), name.to_owned()));
            keys.find_map(|key| content.counts.get(&key).copied())
                .unwrap_or(0)
        })
    }

    fn warn<'a>(&'a self, node: &'a str, reason: &'a str, message: &'a str) -> Answer<'a, ()> {
        self.answer(|content| {
            content
                .warnings
                .push(format!("{node}: {reason}: {message}"))
        })
    }

    fn endpoint(&self) -> Answer<'_, Endpoint> {
        let endpoint = Endpoint {
            server: "https://10.96.0.1:443".to_owned(),
            certificate_authority: "Y2E=".to_owned(),
        };
        Box::pin(std::future::ready(Ok(endpoint)))
    }
}
