//! Kind::WorkloadEndpoint of a Pod's first interface: Calico keeps its addresses and container in annotations of the Pod.
//! An empty `podIP` says that the endpoint is gone while the Pod still is there.
//!
//! A Pod has no room for the device, the MAC, the handle and the network: they stand in a file of the node
//! ([`Kept`](crate::kept::Kept)), and where that is gone the endpoint is what Calico's names say.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::attachment::{AttachmentId, FIRST_INTERFACE};
use api::endpoint::endpoint_name;
use api::key::{Key, Kind};
use bytes::Bytes;
use datastore::store::KeyValue;
use datastore::version::Version;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::warn;

use crate::group::segment;
use crate::metadata::Metadata;

/// How the names of annotations begin that are about the network.
const PREFIX: &str = "cni.projectcalico.org/";
const POD_IP: &str = "cni.projectcalico.org/podIP";
const POD_IPS: &str = "cni.projectcalico.org/podIPs";
const CONTAINER: &str = "cni.projectcalico.org/containerID";
const FLOATING_IPS: &str = "cni.projectcalico.org/floatingIPs";
const SOURCE_PREFIXES: &str = "cni.projectcalico.org/allowedSourcePrefixes";
/// What Calico calls Kubernetes in an endpoint's name.
const ORCHESTRATOR: &str = "k8s";

/// As much of a Pod as is read. The answer to a write is its metadata alone.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct KubePod {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: String,
    host_network: bool,
    service_account_name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: String,
    #[serde(rename = "podIP")]
    pod_ip: String,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<PodIp>,
}

#[derive(Clone, Debug, Deserialize)]
struct PodIp {
    #[serde(default)]
    ip: String,
}

/// The Pod that an endpoint's name is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodName {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl PodName {
    /// `None` when Pods do not hold the endpoint: a further interface, a container outside Kubernetes.
    pub(crate) fn of(key: &Key) -> Option<Self> {
        let [_, orchestrator, pod, interface] = parts(&key.name)?;
        (orchestrator == ORCHESTRATOR && interface == FIRST_INTERFACE).then(|| Self {
            namespace: key.namespace.clone(),
            name: pod,
        })
    }

    pub(crate) fn path(&self) -> String {
        format!(
            "/api/v1/namespaces/{}/pods/{}",
            segment(&self.namespace),
            segment(&self.name)
        )
    }

    /// Where annotations are written without the right to change Pods.
    pub(crate) fn status_path(&self) -> String {
        format!("{}/status", self.path())
    }
}

/// The four parts of an endpoint's name: joined by single dashes, those inside a part doubled.
fn parts(name: &str) -> Option<[String; 4]> {
    let mut parts = vec![String::new()];
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '-' && chars.next_if_eq(&'-').is_none() {
            parts.push(String::new());
        } else {
            parts.last_mut()?.push(c);
        }
    }
    parts.try_into().ok()
}

impl KubePod {
    pub(crate) fn parse(object: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(object).map_err(|error| error.to_string())
    }

    pub(crate) fn resource_version(&self) -> &str {
        &self.metadata.resource_version
    }

    pub(crate) fn uid(&self) -> &str {
        &self.metadata.uid
    }

    /// What people ask of its network. Others' annotations are not kept: they may be long.
    pub(crate) fn asked(&self) -> BTreeMap<String, String> {
        asked(&self.metadata.annotations)
    }

    /// The key of its endpoint; `None` for one that has no network of ours, or no node yet.
    pub(crate) fn key(&self) -> Option<Key> {
        if self.spec.host_network || self.spec.node_name.is_empty() {
            return None;
        }
        let name = endpoint_name(
            &self.spec.node_name,
            ORCHESTRATOR,
            &self.metadata.name,
            FIRST_INTERFACE,
        );
        Some(Key::namespaced(
            Kind::WorkloadEndpoint,
            self.metadata.namespace.as_str(),
            name,
        ))
    }

    /// What made it as it is. The endpoint's life is the container's: kubelet writes the Pod for its own reasons.
    pub(crate) fn version(&self) -> Result<Version, String> {
        let container = self.annotation(CONTAINER);
        let life = format!("{}.{container}", self.metadata.uid);
        crate::custom::version(Some(&self.metadata.resource_version), Some(&life))
    }

    /// The endpoint, unless it is gone. `kept`: what a file of this node says of it.
    pub(crate) fn read(
        &self,
        interface_prefix: &str,
        kept: impl FnOnce(&Key) -> Option<KeyValue>,
    ) -> Result<Option<KeyValue>, String> {
        let (Some(key), networks) = (self.key(), self.networks()) else {
            return Ok(None);
        };
        if networks.is_empty() || matches!(self.status.phase.as_str(), "Succeeded" | "Failed") {
            return Ok(None);
        }
        let version = self.version()?;
        let kept = kept(&key).filter(|kept| self.is_about_this(&kept.value, &networks));
        let value = match kept {
            Some(kept) => kept.value,
            None => {
                let endpoint = self.calicos(&key, interface_prefix, &networks);
                endpoint.to_string().into()
            }
        };
        let value = self.with_what_it_asks(value, &networks);
        Ok(Some(KeyValue {
            key,
            value,
            version,
        }))
    }

    fn is_about_this(&self, kept: &[u8], networks: &[IpNet]) -> bool {
        Written::parse(kept).is_ok_and(|kept| {
            kept.container == self.annotation(CONTAINER) && kept.networks == networks
        })
    }

    /// The plugin's words count before kubelet's, which come later.
    fn networks(&self) -> Vec<IpNet> {
        let annotations = &self.metadata.annotations;
        let given = [POD_IPS, POD_IP]
            .into_iter()
            .find_map(|name| annotations.get(name));
        match given {
            Some(texts) => texts.split(',').filter_map(network).collect(),
            None if !self.status.pod_ips.is_empty() => {
                let ips = self.status.pod_ips.iter();
                ips.filter_map(|pod| network(&pod.ip)).collect()
            }
            None => network(&self.status.pod_ip).into_iter().collect(),
        }
    }

    fn annotation(&self, name: &str) -> &str {
        self.metadata
            .annotations
            .get(name)
            .map_or("", String::as_str)
    }

    /// The endpoint with floating addresses and foreign source prefixes, which follow the Pod's annotations as long as it lives.
    fn with_what_it_asks(&self, value: Bytes, networks: &[IpNet]) -> Bytes {
        let (floating, sources) = (self.floating(networks), self.sources());
        if floating.is_empty() && sources.is_empty() {
            return value;
        }
        let Ok(mut endpoint) = serde_json::from_slice::<Value>(&value) else {
            return value;
        };
        if !floating.is_empty() {
            endpoint["spec"]["ipNATs"] = floating.into();
        }
        if !sources.is_empty() {
            endpoint["spec"]["allowSpoofedSourcePrefixes"] = json!(sources);
        }
        endpoint.to_string().into()
    }

    /// Each floating address stands for the Pod's own one of its family.
    fn floating(&self, networks: &[IpNet]) -> Vec<Value> {
        let asked: Vec<IpAddr> = self.list(FLOATING_IPS, |text| text.parse().ok());
        let of_family = |external: &IpAddr| {
            let mut own = networks.iter().map(IpNet::addr);
            own.find(|own| own.is_ipv4() == external.is_ipv4())
        };
        let pairs = asked.iter().filter_map(|external| {
            let own = of_family(external)?;
            Some(json!({"internalIP": own, "externalIP": external}))
        });
        pairs.collect()
    }

    fn sources(&self) -> Vec<IpNet> {
        self.list(SOURCE_PREFIXES, network)
    }

    /// An annotation that is a list of texts in JSON. What is none is told, and the rest counts.
    fn list<T>(&self, name: &str, read: impl Fn(&str) -> Option<T>) -> Vec<T> {
        let text = self.annotation(name);
        if text.is_empty() {
            return Vec::new();
        }
        let pod = || format!("Pod({}/{})", self.metadata.namespace, self.metadata.name);
        let texts: Vec<String> = serde_json::from_str(text).unwrap_or_else(|_| {
            warn!(
                pod = pod(),
                annotation = name,
                value = text,
                "must be a JSON list of texts"
            );
            Vec::new()
        });
        let one = |text: &String| {
            let value = read(text);
            if value.is_none() {
                warn!(
                    pod = pod(),
                    annotation = name,
                    value = text,
                    "no address or prefix, left out"
                );
            }
            value
        };
        texts.iter().filter_map(one).collect()
    }

    /// The endpoint as Calico derives it from a Pod.
    fn calicos(&self, key: &Key, interface_prefix: &str, networks: &[IpNet]) -> Value {
        let Metadata {
            name, namespace, ..
        } = &self.metadata;
        let account = &self.spec.service_account_name;
        let mut labels = self.metadata.labels.clone();
        labels.insert("projectcalico.org/namespace".into(), namespace.clone());
        labels.insert("projectcalico.org/orchestrator".into(), ORCHESTRATOR.into());
        let mut profiles = vec![format!("kns.{namespace}")];
        if !account.is_empty() {
            labels.insert("projectcalico.org/serviceaccount".into(), account.clone());
            profiles.push(format!("ksa.{namespace}.{account}"));
        }
        let container = self.annotation(CONTAINER);
        let attachment = AttachmentId {
            network: String::new(),
            container_id: container.to_owned(),
            ifname: FIRST_INTERFACE.to_owned(),
        };
        let mut endpoint = json!({
            "apiVersion": api::metadata::api_version(),
            "kind": "WorkloadEndpoint",
            "metadata": {
                "name": key.name, "namespace": namespace, "labels": labels, "uid": self.metadata.uid,
            },
            "spec": {
                "orchestrator": ORCHESTRATOR, "node": self.spec.node_name, "pod": name,
                "endpoint": FIRST_INTERFACE, "ipNetworks": networks, "profiles": profiles,
                "interfaceName": attachment.pod_interface_name(interface_prefix, namespace, name),
            },
        });
        if let Some(time) = &self.metadata.creation_timestamp {
            endpoint["metadata"]["creationTimestamp"] = time.as_str().into();
        }
        if !container.is_empty() {
            endpoint["spec"]["containerID"] = container.into();
        }
        endpoint
    }
}

/// Annotations that ask for something of the network.
pub(crate) fn asked(annotations: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let written = [POD_IP, POD_IPS, CONTAINER];
    annotations
        .iter()
        .filter(|(name, _)| name.starts_with(PREFIX) && !written.contains(&name.as_str()))
        .map(|(name, text)| (name.clone(), text.clone()))
        .collect()
}

/// An address, with or without its length.
fn network(text: &str) -> Option<IpNet> {
    let text = text.trim();
    text.parse()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// What of an endpoint goes to its Pod.
pub(crate) struct Written {
    /// Of the Pod that it was made for, if its writer knows.
    uid: Option<String>,
    container: String,
    networks: Vec<IpNet>,
}

impl Written {
    pub(crate) fn parse(endpoint: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(endpoint).map_err(|error| error.to_string())?;
        let spec = &value["spec"];
        let networks = spec["ipNetworks"].as_array().into_iter().flatten();
        let networks: Option<Vec<IpNet>> = networks.map(|text| network(text.as_str()?)).collect();
        let networks = networks.filter(|networks| !networks.is_empty());
        let uid = value["metadata"]["uid"].as_str();
        Ok(Self {
            uid: uid.filter(|uid| !uid.is_empty()).map(str::to_owned),
            container: spec["containerID"].as_str().unwrap_or_default().to_owned(),
            networks: networks
                .ok_or("spec.ipNetworks: a Pod's endpoint has at least one address")?,
        })
    }

    /// Why it is not that of the Pod with the UID `now`, if it is another's of the same name.
    pub(crate) fn is_of_another(&self, now: &str) -> Option<String> {
        let uid = self.uid.as_deref().filter(|uid| *uid != now)?;
        Some(format!(
            "it is of the Pod with uid {uid}, and the Pod of this name has uid {now} now"
        ))
    }

    /// The patch that writes it, only where the Pod is at `resource_version`.
    pub(crate) fn patch(&self, resource_version: &str) -> Value {
        let texts: Vec<String> = self.networks.iter().map(ToString::to_string).collect();
        let first = texts.first().cloned().unwrap_or_default();
        patch(
            resource_version,
            json!({
                POD_IP: first, POD_IPS: texts.join(","), CONTAINER: self.container,
            }),
        )
    }
}

/// The patch that says that the endpoint is gone.
pub(crate) fn gone(resource_version: &str) -> Value {
    patch(resource_version, json!({POD_IP: "", POD_IPS: ""}))
}

/// The same as a JSON patch, for a Pod of this life (see [`KubePod::version`]) only, whatever its kubelet wrote since.
/// `None`: nothing on the Pod says which container's it is.
pub(crate) fn gone_of(life: &str) -> Option<Value> {
    let (uid, container) = life.split_once('.')?;
    if uid.is_empty() || container.is_empty() {
        return None;
    }
    let annotation = |name: &str| format!("/metadata/annotations/{}", name.replace('/', "~1"));
    Some(json!([
        {"op": "test", "path": "/metadata/uid", "value": uid},
        {"op": "test", "path": annotation(CONTAINER), "value": container},
        {"op": "add", "path": annotation(POD_IP), "value": ""},
        {"op": "add", "path": annotation(POD_IPS), "value": ""},
    ]))
}

fn patch(resource_version: &str, annotations: Value) -> Value {
    json!({"metadata": {"resourceVersion": resource_version, "annotations": annotations}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoints_name_leads_to_its_pod() {
        for (node, pod, interface, found) in [
            ("n-1", "web-0", "eth0", true),
            ("n--1", "a", "eth0", true),
            ("n", "web-0", "net1", false),
        ] {
            let name = endpoint_name(node, "k8s", pod, interface);
            let key = Key::namespaced(Kind::WorkloadEndpoint, "ns", name);
            let wanted = found.then(|| PodName {
                namespace: "ns".to_owned(),
                name: pod.to_owned(),
            });
            assert_eq!(PodName::of(&key), wanted, "{key}");
        }
        let outside = endpoint_name("n", "cni", "4f1c", "eth0");
        for name in [outside.as_str(), "n-k8s-pod", "n-k8s-pod-eth0-more", ""] {
            let key = Key::namespaced(Kind::WorkloadEndpoint, "ns", name);
            assert_eq!(PodName::of(&key), None, "{key}");
        }
    }

    #[test]
    fn what_a_pod_asks_for_in_annotations_is_in_its_endpoint_and_what_cannot_be_read_is_left_out() {
        let read = |annotations: Value, kept: Option<Value>| -> Value {
            let annotations = annotations.as_object().unwrap().clone().into_iter();
            let own = [(POD_IPS.to_owned(), json!("10.0.0.1/32,fd00::1/128"))];
            let annotations: Value = annotations
                .chain(own)
                .collect::<serde_json::Map<_, _>>()
                .into();
            let metadata = json!({
                "name": "p", "namespace": "ns", "uid": "u", "resourceVersion": "7", "annotations": annotations,
            });
            let pod = json!({"metadata": metadata, "spec": {"nodeName": "n"}});
            let pod = KubePod::parse(pod.to_string().as_bytes()).unwrap();
            let kept = |key: &Key| {
                kept.map(|value| KeyValue {
                    key: key.clone(),
                    value: value.to_string().into(),
                    version: pod.version().unwrap(),
                })
            };
            let object = pod.read("cali", kept).unwrap().unwrap();
            serde_json::from_slice::<Value>(&object.value).unwrap()["spec"].clone()
        };
        let asks = json!({
            FLOATING_IPS: "[\"198.51.100.5\", \"2001:db8::5\", \"web\"]",
            SOURCE_PREFIXES: "[\"192.0.2.0/24\", \"192.0.3.1\"]",
        });
        let spec = read(asks.clone(), None);
        let pairs = json!([
            {"internalIP": "10.0.0.1", "externalIP": "198.51.100.5"},
            {"internalIP": "fd00::1", "externalIP": "2001:db8::5"},
        ]);
        assert_eq!(spec["ipNATs"], pairs);
        let sources = json!(["192.0.2.0/24", "192.0.3.1/32"]);
        assert_eq!(spec["allowSpoofedSourcePrefixes"], sources);
        // What the node keeps of the endpoint has them, too, and no longer than the Pod.
        let kept = json!({"spec": {
            "ipNetworks": ["10.0.0.1/32", "fd00::1/128"], "containerID": "", "mac": "02:00:00:00:00:01",
        }});
        let spec = read(asks, Some(kept.clone()));
        assert_eq!(
            (&spec["ipNATs"], &spec["mac"]),
            (&pairs, &json!("02:00:00:00:00:01"))
        );
        let spec = read(json!({FLOATING_IPS: "198.51.100.5"}), Some(kept));
        assert_eq!(spec.get("ipNATs"), None, "no list");
    }

    #[test]
    fn who_has_an_endpoint_and_which_addresses() {
        let pod = |annotations: Value, spec: Value, status: Value| {
            let metadata = json!({
                "name": "p", "namespace": "ns", "uid": "u", "resourceVersion": "7", "annotations": annotations,
            });
            let pod = json!({"metadata": metadata, "spec": spec, "status": status});
            let pod = KubePod::parse(pod.to_string().as_bytes()).unwrap();
            let read = pod.read("cali", |_| None).unwrap();
            read.map(|object| {
                let value: Value = serde_json::from_slice(&object.value).unwrap();
                value["spec"]["ipNetworks"].to_string()
            })
        };
        let here = || json!({"nodeName": "n"});
        let by_kubelet =
            || json!({"podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}, {"ip": "fd00::9"}]});
        let both = json!({POD_IP: "10.0.0.1/32", POD_IPS: "10.0.0.1/32,fd00::1/128"});
        let plugins = Some("[\"10.0.0.1/32\",\"fd00::1/128\"]".to_owned());
        let kubelets = Some("[\"10.0.0.9/32\",\"fd00::9/128\"]".to_owned());
        assert_eq!(
            pod(both.clone(), here(), by_kubelet()),
            plugins,
            "the plugin's count"
        );
        assert_eq!(pod(json!({}), here(), by_kubelet()), kubelets);
        assert_eq!(
            pod(json!({POD_IP: "", POD_IPS: ""}), here(), by_kubelet()),
            None,
            "DEL is done"
        );
        assert_eq!(pod(json!({}), here(), json!({})), None, "no address yet");
        assert_eq!(pod(both.clone(), json!({}), json!({})), None, "no node yet");
        assert_eq!(
            pod(
                both.clone(),
                json!({"nodeName": "n", "hostNetwork": true}),
                by_kubelet()
            ),
            None
        );
        assert_eq!(
            pod(both, here(), json!({"phase": "Succeeded"})),
            None,
            "its addresses are free"
        );
    }
}
