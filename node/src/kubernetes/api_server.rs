//! Kubernetes itself: the API server that the datastore is, too.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use api::without_effect::Resource;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use datastore_kube::settings::SERVICE_ACCOUNT;
use datastore_kube::{Client, Error};
use futures_util::future::BoxFuture;
use ipnet::IpNet;
use serde_json::Value;

use crate::startup::chain;

use super::{Answer, Condition, Endpoint, Kubernetes, KubernetesError, NodeFacts, Token};

/// Where service accounts are looked for outside a pod.
const NAMESPACE: &str = "kube-system";
/// Objects asked for at once.
const PAGE: usize = 500;

/// An API server.
pub struct ApiServer {
    client: Client,
    namespace: String,
}

impl ApiServer {
    /// The one behind this client.
    pub fn new(client: Client) -> Self {
        let namespace = std::fs::read_to_string(Path::new(SERVICE_ACCOUNT).join("namespace"));
        Self {
            client,
            namespace: namespace.unwrap_or_else(|_| NAMESPACE.to_owned()),
        }
    }

    async fn ranges_of_nodes(&self) -> Result<Vec<IpNet>, Error> {
        let mut ranges = Vec::new();
        let mut more = String::new();
        loop {
            let path = format!("/api/v1/nodes?limit={PAGE}&continue={more}");
            let list = self.client.get(&path).await?.unwrap_or_default();
            let nodes = list["items"].as_array().into_iter().flatten();
            ranges.extend(nodes.flat_map(pod_cidrs));
            match list["metadata"]["continue"].as_str() {
                // Of letters, digits, `-` and `_`.
                Some(text) if !text.is_empty() => text.clone_into(&mut more),
                _ => return Ok(ranges),
            }
        }
    }
}

/// Labels that Pods of kube-controller-manager have: those of kubeadm, those of older installers.
const CONTROLLER_MANAGERS: [&str; 2] = ["component", "k8s-app"];

/// Pods of Calico's controllers, whoever installed them.
const KUBE_CONTROLLERS: &str = "/api/v1/pods?labelSelector=k8s-app%3Dcalico-kube-controllers";

/// Groups that may have their configuration.
const KUBE_CONTROLLERS_CONFIGURATIONS: [&str; 2] =
    ["crd.projectcalico.org/v1", "projectcalico.org/v3"];

/// The words that a Pod's containers are started with.
fn command_line(pod: &Value) -> Vec<String> {
    let containers = pod["spec"]["containers"].as_array();
    let arguments = containers.into_iter().flatten().flat_map(|container| {
        let lists = [&container["command"], &container["args"]];
        lists.into_iter().filter_map(Value::as_array).flatten()
    });
    arguments
        .filter_map(Value::as_str)
        // A shell may have them all in one.
        .flat_map(str::split_whitespace)
        .map(str::to_owned)
        .collect()
}

impl From<Error> for KubernetesError {
    fn from(error: Error) -> Self {
        match error {
            Error::Unavailable(text) => Self::Unavailable(text),
            Error::Refused(status) => Self::Refused(status.to_string()),
        }
    }
}

/// `spec.podCIDRs`, or the one that clusters without dual stack have in its place.
fn pod_cidrs(node: &Value) -> Vec<IpNet> {
    let spec = &node["spec"];
    let all = spec["podCIDRs"].as_array().into_iter().flatten();
    let all: Vec<IpNet> = all.filter_map(parsed).collect();
    if all.is_empty() {
        parsed(&spec["podCIDR"]).into_iter().collect()
    } else {
        all
    }
}

fn parsed<T: std::str::FromStr>(text: &Value) -> Option<T> {
    text.as_str()?.parse().ok()
}

fn internal_ips(node: &Value) -> Vec<IpAddr> {
    let addresses = node["status"]["addresses"].as_array();
    let internal = addresses
        .into_iter()
        .flatten()
        .filter(|address| address["type"] == "InternalIP");
    internal
        .filter_map(|address| parsed(&address["address"]))
        .collect()
}

/// Waits for an answer, and words its error for the agent.
fn answer<'a, T: Send + 'a>(
    asked: impl Future<Output = Result<T, Error>> + Send + 'a,
) -> BoxFuture<'a, Result<T, KubernetesError>> {
    Box::pin(async { Ok(asked.await?) })
}

impl Kubernetes for ApiServer {
    fn node<'a>(&'a self, name: &'a str) -> Answer<'a, Option<NodeFacts>> {
        answer(async move {
            let node = self.client.get(&format!("/api/v1/nodes/{name}")).await?;
            Ok(node.map(|node| NodeFacts {
                internal_ips: internal_ips(&node),
                pod_cidrs: pod_cidrs(&node),
            }))
        })
    }

    fn pod_cidrs(&self) -> Answer<'_, Vec<IpNet>> {
        answer(self.ranges_of_nodes())
    }

    fn controller_managers(&self) -> Answer<'_, Vec<Vec<String>>> {
        answer(async {
            let mut found = Vec::new();
            for label in CONTROLLER_MANAGERS {
                let path = format!(
                    "/api/v1/namespaces/kube-system/pods?labelSelector={label}%3Dkube-controller-manager"
                );
                let list = match self.client.get(&path).await {
                    Err(Error::Refused(status)) if status.code == 403 => None,
                    list => list?,
                };
                let list = list.unwrap_or_default();
                let pods = list["items"].as_array().into_iter().flatten();
                found.extend(pods.map(command_line));
            }
            Ok(found)
        })
    }

    fn kube_controllers(&self) -> Answer<'_, bool> {
        answer(async {
            let list = self.client.get(KUBE_CONTROLLERS).await?.unwrap_or_default();
            let pods = list["items"].as_array().into_iter().flatten();
            let mut phases = pods.map(|pod| pod["status"]["phase"].as_str().unwrap_or_default());
            Ok(phases.any(|phase| !matches!(phase, "Succeeded" | "Failed")))
        })
    }

    fn leak_grace_period(&self) -> Answer<'_, Option<String>> {
        answer(async {
            for group in KUBE_CONTROLLERS_CONFIGURATIONS {
                let path = format!("/apis/{group}/kubecontrollersconfigurations/default");
                let found = match self.client.get(&path).await {
                    Err(Error::Refused(status)) if status.code == 403 => None,
                    found => found?,
                };
                if let Some(found) = found {
                    let period = &found["spec"]["controllers"]["node"]["leakGracePeriod"];
                    return Ok(period.as_str().map(str::to_owned));
                }
            }
            Ok(None)
        })
    }

    fn config_map<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> Answer<'a, Option<BTreeMap<String, String>>> {
        answer(async move {
            let path = format!("/api/v1/namespaces/{namespace}/configmaps/{name}");
            let found = match self.client.get(&path).await {
                Err(Error::Refused(status)) if status.code == 403 => None,
                found => found?,
            };
            Ok(found.map(|map| {
                let data = map["data"].as_object().into_iter().flatten();
                let texts =
                    data.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
                texts.collect()
            }))
        })
    }

    fn set_condition<'a>(&'a self, node: &'a str, condition: &'a Condition) -> Answer<'a, ()> {
        let Condition {
            kind,
            status,
            reason,
            message,
        } = *condition;
        answer(async move {
            let set = self
                .client
                .set_condition(node, kind, status, reason, message);
            set.await
        })
    }

    fn token<'a>(&'a self, service_account: &'a str, validity: Duration) -> Answer<'a, Token> {
        answer(async move {
            let asked = self
                .client
                .token(&self.namespace, service_account, validity);
            let (text, expires) = asked.await?;
            Ok(Token { text, expires })
        })
    }

    fn count<'a>(&'a self, resource: &'a Resource) -> Answer<'a, u64> {
        answer(self.client.count(resource))
    }

    fn warn<'a>(&'a self, node: &'a str, reason: &'a str, message: &'a str) -> Answer<'a, ()> {
        answer(self.client.warn_of_node(node, reason, message))
    }

    fn endpoint(&self) -> Answer<'_, Endpoint> {
        Box::pin(async {
            let found = self.client.endpoint().await;
            let found = found.map_err(|error| KubernetesError::Files(chain(&error)))?;
            Ok(Endpoint {
                server: found.server,
                certificate_authority: BASE64_STANDARD.encode(found.certificate_authority),
            })
        })
    }
}
