//! Kind::Node: Calico's Node is assembled from a Kubernetes Node and its annotations, and written back into them one by
//! one. Kubelet makes and deletes the object.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use api::key::{Key, Kind};
use datastore::store::KeyValue;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::custom::version;
use crate::metadata::Metadata;

/// Calico's own labels and annotations of the Node, each a JSON object of texts.
const LABELS: &str = "projectcalico.org/labels";
const ANNOTATIONS: &str = "projectcalico.org/annotations";
/// Which labels are Kubernetes': in Calico's Node only.
const KUBE_LABELS: &str = "projectcalico.org/kube-labels";

/// What an annotation's text may be; another text counts as none.
#[derive(Clone, Copy)]
enum Form {
    Net,
    Ip,
    Ipv4,
    AsNumber,
    Mac,
    Text,
    Json,
}

/// Annotations, and where their values stand in Calico's Node.
const FIELDS: [(&str, &str, Form); 14] = [
    ("IPv4Address", "/spec/bgp/ipv4Address", Form::Net),
    ("IPv6Address", "/spec/bgp/ipv6Address", Form::Net),
    ("ASNumber", "/spec/bgp/asNumber", Form::AsNumber),
    (
        "RouteReflectorClusterID",
        "/spec/bgp/routeReflectorClusterID",
        Form::Ipv4,
    ),
    (
        "IPv4IPIPTunnelAddr",
        "/spec/bgp/ipv4IPIPTunnelAddr",
        Form::Ipv4,
    ),
    (
        "IPv4VXLANTunnelAddr",
        "/spec/ipv4VXLANTunnelAddr",
        Form::Ipv4,
    ),
    ("IPv6VXLANTunnelAddr", "/spec/ipv6VXLANTunnelAddr", Form::Ip),
    ("VXLANTunnelMACAddr", "/spec/vxlanTunnelMACAddr", Form::Mac),
    (
        "VXLANTunnelMACAddrV6",
        "/spec/vxlanTunnelMACAddrV6",
        Form::Mac,
    ),
    (
        "IPv4WireguardInterfaceAddr",
        "/spec/wireguard/interfaceIPv4Address",
        Form::Ipv4,
    ),
    (
        "IPv6WireguardInterfaceAddr",
        "/spec/wireguard/interfaceIPv6Address",
        Form::Ip,
    ),
    (
        "WireguardPublicKey",
        "/status/wireguardPublicKey",
        Form::Text,
    ),
    (
        "WireguardPublicKeyV6",
        "/status/wireguardPublicKeyV6",
        Form::Text,
    ),
    ("Interfaces", "/spec/interfaces", Form::Json),
];

/// As much of a Kubernetes Node as is read.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct KubeNode {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    addresses: Vec<Address>,
}

#[derive(Clone, Debug, Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

/// Path of a Node.
pub(crate) fn path(name: &str) -> String {
    format!("/api/v1/nodes/{}", crate::group::segment(name))
}

impl KubeNode {
    pub(crate) fn parse(object: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(object).map_err(|error| error.to_string())
    }

    pub(crate) fn resource_version(&self) -> &str {
        &self.metadata.resource_version
    }

    /// As Calico's Node.
    pub(crate) fn read(&self) -> Result<KeyValue, String> {
        let metadata = &self.metadata;
        let key = Key::new(Kind::Node, metadata.name.as_str());
        let version = version(Some(&metadata.resource_version), Some(&metadata.uid))?;
        let mut labels = self.texts(LABELS);
        // Kubernetes' win.
        labels.extend(metadata.labels.clone());
        let mut annotations = self.texts(ANNOTATIONS);
        annotations.remove(KUBE_LABELS);
        let mut node = json!({
            "apiVersion": api::metadata::api_version(),
            "kind": "Node",
            "metadata": {"name": metadata.name, "uid": metadata.uid},
            "spec": {"orchRefs": [{"nodeName": metadata.name, "orchestrator": "k8s"}]},
        });
        if let Some(time) = &metadata.creation_timestamp {
            node["metadata"]["creationTimestamp"] = time.as_str().into();
        }
        for (field, texts) in [("labels", labels), ("annotations", annotations)] {
            if !texts.is_empty() {
                node["metadata"][field] = json!(texts);
            }
        }
        for (annotation, pointer, form) in FIELDS {
            if let Some(value) = self.field(annotation, form) {
                put(&mut node, pointer, value);
            }
        }
        let addresses = self.addresses(&node);
        if !addresses.is_empty() {
            node["spec"]["addresses"] = addresses.into();
        }
        if !self.spec.pod_cidrs.is_empty() {
            put(&mut node, "/status/podCIDRs", json!(self.spec.pod_cidrs));
        }
        Ok(KeyValue {
            key,
            value: node.to_string().into(),
            version,
        })
    }

    /// The annotations that make this Node say what `value` says: texts, and `null` for those that go.
    pub(crate) fn changes(&self, value: &[u8]) -> Result<Map<String, Value>, String> {
        let wanted: Value = serde_json::from_slice(value).map_err(|error| error.to_string())?;
        let mut changes = Map::new();
        for (annotation, pointer, form) in FIELDS {
            let wanted = wanted.pointer(pointer).filter(|value| !is_nothing(value));
            if self.field(annotation, form).as_ref() != wanted {
                let name = format!("projectcalico.org/{annotation}");
                changes.insert(name, wanted.map_or(Value::Null, |value| text(value).into()));
            }
        }
        let mut labels = texts(&wanted["metadata"]["labels"]);
        labels.retain(|name, _| !self.metadata.labels.contains_key(name));
        let mut before = self.texts(LABELS);
        before.retain(|name, _| !self.metadata.labels.contains_key(name));
        let mut annotations = texts(&wanted["metadata"]["annotations"]);
        annotations.remove(KUBE_LABELS);
        let mut noted = self.texts(ANNOTATIONS);
        noted.remove(KUBE_LABELS);
        for (name, before, now) in [(LABELS, before, labels), (ANNOTATIONS, noted, annotations)] {
            if before != now {
                let value = if now.is_empty() {
                    Value::Null
                } else {
                    json!(now).to_string().into()
                };
                changes.insert(name.to_owned(), value);
            }
        }
        Ok(changes)
    }

    fn field(&self, annotation: &str, form: Form) -> Option<Value> {
        let name = format!("projectcalico.org/{annotation}");
        let text = self.metadata.annotations.get(&name)?;
        read_text(text, form)
    }

    /// An annotation that holds a JSON object of texts.
    fn texts(&self, annotation: &str) -> BTreeMap<String, String> {
        let text = self.metadata.annotations.get(annotation);
        text.and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default()
    }

    fn addresses(&self, node: &Value) -> Vec<Value> {
        let calicos = ["/spec/bgp/ipv4Address", "/spec/bgp/ipv6Address"]
            .into_iter()
            .filter_map(|pointer| node.pointer(pointer))
            .map(|address| json!({"address": address, "type": "CalicoNodeIP"}));
        let kubernetes = self
            .status
            .addresses
            .iter()
            .filter(|address| matches!(address.kind.as_str(), "InternalIP" | "ExternalIP"))
            .map(|address| json!({"address": address.address, "type": address.kind}));
        calicos.chain(kubernetes).collect()
    }
}

/// What an annotation's text means; `None` when it is not what it should be.
fn read_text(text: &str, form: Form) -> Option<Value> {
    let fits = match form {
        Form::Net => text.parse::<IpNet>().is_ok() || text.parse::<IpAddr>().is_ok(),
        Form::Ip => text.parse::<IpAddr>().is_ok(),
        Form::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
        Form::Mac => api::node::parse_mac(text).is_some(),
        Form::Text => !text.is_empty(),
        Form::AsNumber => return as_number(text).map(Value::from),
        Form::Json => {
            let value: Value = serde_json::from_str(text).ok()?;
            return (!is_nothing(&value)).then_some(value);
        }
    };
    fits.then(|| text.into())
}

/// `64512`, or `1.10`.
fn as_number(text: &str) -> Option<u32> {
    match text.split_once('.') {
        None => text.parse().ok(),
        Some((high, low)) => {
            let half = |text: &str| text.parse::<u16>().ok().map(u32::from);
            Some((half(high)? << 16) | half(low)?)
        }
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// A value as an annotation.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn texts(value: &Value) -> BTreeMap<String, String> {
    let fields = value.as_object().into_iter().flatten();
    fields
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// Puts a value at a pointer (RFC 6901, names only), with what is missing on the way.
fn put(object: &mut Value, pointer: &str, value: Value) {
    let mut at = object;
    for name in pointer.split('/').skip(1) {
        at = &mut at[name];
    }
    *at = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text that an annotation may have, what it says in Calico's Node, and one that it may not have.
    const EXAMPLES: [(&str, &str, &str, &str, &str); 14] = [
        (
            "IPv4Address",
            "10.0.0.1/24",
            "/spec/bgp/ipv4Address",
            "\"10.0.0.1/24\"",
            "10.0.0",
        ),
        (
            "IPv6Address",
            "fd00::1/64",
            "/spec/bgp/ipv6Address",
            "\"fd00::1/64\"",
            "fd00",
        ),
        ("ASNumber", "1.10", "/spec/bgp/asNumber", "65546", "1.70000"),
        (
            "RouteReflectorClusterID",
            "1.0.0.1",
            "/spec/bgp/routeReflectorClusterID",
            "\"1.0.0.1\"",
            "1",
        ),
        (
            "IPv4IPIPTunnelAddr",
            "10.1.0.1",
            "/spec/bgp/ipv4IPIPTunnelAddr",
            "\"10.1.0.1\"",
            "fd00::1",
        ),
        (
            "IPv4VXLANTunnelAddr",
            "10.1.0.2",
            "/spec/ipv4VXLANTunnelAddr",
            "\"10.1.0.2\"",
            "x",
        ),
        (
            "IPv6VXLANTunnelAddr",
            "fd00::2",
            "/spec/ipv6VXLANTunnelAddr",
            "\"fd00::2\"",
            "x",
        ),
        (
            "VXLANTunnelMACAddr",
            "66:00:00:00:00:01",
            "/spec/vxlanTunnelMACAddr",
            "\"66:00:00:00:00:01\"",
            "66",
        ),
        (
            "VXLANTunnelMACAddrV6",
            "66:00:00:00:00:02",
            "/spec/vxlanTunnelMACAddrV6",
            "\"66:00:00:00:00:02\"",
            "66",
        ),
        (
            "IPv4WireguardInterfaceAddr",
            "10.1.0.3",
            "/spec/wireguard/interfaceIPv4Address",
            "\"10.1.0.3\"",
            "x",
        ),
        (
            "IPv6WireguardInterfaceAddr",
            "fd00::3",
            "/spec/wireguard/interfaceIPv6Address",
            "\"fd00::3\"",
            "x",
        ),
        (
            "WireguardPublicKey",
            "cHVibGlj",
            "/status/wireguardPublicKey",
            "\"cHVibGlj\"",
            "",
        ),
        (
            "WireguardPublicKeyV6",
            "djY=",
            "/status/wireguardPublicKeyV6",
            "\"djY=\"",
            "",
        ),
        (
            "Interfaces",
            r#"[{"addresses":["10.0.0.1"],"name":"eth0"}]"#,
            "/spec/interfaces",
            r#"[{"addresses":["10.0.0.1"],"name":"eth0"}]"#,
            "[{",
        ),
    ];

    fn name(annotation: &str) -> String {
        format!("projectcalico.org/{annotation}")
    }

    fn node(annotations: Map<String, Value>) -> KubeNode {
        let object = json!({"metadata": {
            "name": "n1", "uid": "u", "resourceVersion": "7", "annotations": annotations,
        }});
        KubeNode::parse(object.to_string().as_bytes()).unwrap()
    }

    fn read(node: &KubeNode) -> Value {
        serde_json::from_slice(&node.read().unwrap().value).unwrap()
    }

    #[test]
    fn each_annotation_is_a_field_both_ways_and_counts_as_absent_when_it_cannot_be_read() {
        let all = |of: fn(&(&str, &str, &str, &str, &str)) -> String| {
            let examples = EXAMPLES.iter();
            let texts = examples.map(|example| (name(example.0), Value::from(of(example))));
            texts.collect::<Map<String, Value>>()
        };
        let right = node(all(|example| example.1.to_owned()));
        let calicos = read(&right);
        for (annotation, _, pointer, value, _) in EXAMPLES {
            let found = calicos.pointer(pointer).map(ToString::to_string);
            assert_eq!(found.as_deref(), Some(value), "{annotation}");
        }
        let wrong = node(all(|example| example.4.to_owned()));
        let nothing = read(&wrong);
        for (annotation, _, pointer, _, _) in EXAMPLES {
            assert_eq!(nothing.pointer(pointer), None, "{annotation}");
        }
        // What is written is what was read, and what the Node says no more goes.
        let bare = node(Map::new());
        let written = bare.changes(calicos.to_string().as_bytes()).unwrap();
        for (annotation, text, _, _, _) in EXAMPLES {
            let text = if annotation == "ASNumber" {
                "65546"
            } else {
                text
            };
            assert_eq!(written[&name(annotation)], text, "{annotation}");
        }
        assert_eq!(written.len(), EXAMPLES.len());
        let gone = right.changes(b"{}").unwrap();
        assert!(gone.values().all(Value::is_null), "{gone:?}");
        assert_eq!(gone.len(), EXAMPLES.len());
    }
}
