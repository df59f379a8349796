//! Kubernetes' Services and EndpointSlices, as much of them as says which addresses a node announces.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::metadata::{Resource, list_or_null};

/// A Service (`v1`). Its load balancer's addresses stand in `status`, see [`load_balancer_ips`].
pub type Service = Resource<ServiceSpec>;
/// An EndpointSlice (`discovery.k8s.io/v1`). Kubernetes' has no `spec`: this one is made from it, see [`ready_endpoints`].
pub type EndpointSlice = Resource<EndpointSliceSpec>;

/// The label of an EndpointSlice that names its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// A node that has this label with the value `true` announces no Service.
pub const EXCLUDE_NODE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// What a Service asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// `ClusterIP`, `NodePort`, `LoadBalancer`, `ExternalName`.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Addresses inside the cluster, one a family; none of a headless Service, whose field holds the word `None`.
    #[serde(
        rename = "clusterIPs",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "addresses"
    )]
    pub cluster_ips: Vec<IpAddr>,
    /// Addresses that somebody else leads to the nodes.
    #[serde(
        rename = "externalIPs",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "addresses"
    )]
    pub external_ips: Vec<IpAddr>,
    /// `Cluster` or `Local`; absent where no packet comes from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<String>,
    /// Fields not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Where a Service's pods are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSliceSpec {
    /// Name of the Service, of the same namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// `IPv4`, `IPv6`, `FQDN`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address_type: String,
    /// Whether any endpoint is ready.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ready: bool,
    /// Nodes with ready endpoints.
    #[serde(skip_serializing_if = "BTreeSet::is_empty", deserialize_with = "nodes")]
    pub nodes: BTreeSet<String>,
    /// Fields not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The addresses of a Service's load balancer (`status.loadBalancer.ingress[].ip`); names are left out.
pub fn load_balancer_ips(service: &Service) -> impl Iterator<Item = IpAddr> + '_ {
    let status = service.extra.get("status");
    let ingress = status.and_then(|status| status.pointer("/loadBalancer/ingress")?.as_array());
    let ip = |entry: &Value| entry.get("ip")?.as_str()?.parse().ok();
    ingress.into_iter().flatten().filter_map(ip)
}

/// What is read of Kubernetes' EndpointSlice. An endpoint is ready when `conditions.ready` is true or not there.
pub fn ready_endpoints(slice: &Value) -> EndpointSliceSpec {
    let text = |path: &str| slice.pointer(path).and_then(Value::as_str);
    // `/` in a name is written `~1` (RFC 6901).
    let service = text("/metadata/labels/kubernetes.io~1service-name");
    let endpoints = slice.get("endpoints").and_then(Value::as_array);
    let is_ready = |endpoint: &&Value| {
        let ready = endpoint.pointer("/conditions/ready");
        ready.and_then(Value::as_bool) != Some(false)
    };
    let ready: Vec<&Value> = endpoints.into_iter().flatten().filter(is_ready).collect();
    let node = |endpoint: &&Value| Some(endpoint.get("nodeName")?.as_str()?.to_owned());
    EndpointSliceSpec {
        service: service.unwrap_or_default().to_owned(),
        address_type: text("/addressType").unwrap_or_default().to_owned(),
        ready: !ready.is_empty(),
        nodes: ready.iter().filter_map(node).collect(),
        extra: Map::new(),
    }
}

/// Texts that are addresses; the others (`None`, the empty one) are left out.
fn addresses<'de, D: Deserializer<'de>>(source: D) -> Result<Vec<IpAddr>, D::Error> {
    let texts: Vec<String> = list_or_null(source)?;
    Ok(texts.iter().filter_map(|text| text.parse().ok()).collect())
}

fn nodes<'de, D: Deserializer<'de>>(source: D) -> Result<BTreeSet<String>, D::Error> {
    Ok(list_or_null(source)?.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::key::{Key, Kind};
    use crate::object::Object;

    #[test]
    fn a_services_addresses_are_read_and_words_in_their_place_are_none() {
        let service = |object: Value| {
            let key = Key::namespaced(Kind::Service, "ns", "web");
            match Object::decode(&key, object.to_string().as_bytes()).unwrap() {
                Object::Service(service) => service,
                other => panic!("{other:?}"),
            }
        };
        let of_both = service(json!({
            "metadata": {"name": "web", "namespace": "ns"},
            "spec": {
                "type": "LoadBalancer", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd96::9"],
                "externalIPs": null, "externalTrafficPolicy": "Local",
            },
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}, {"hostname": "lb.example.org"}]}},
        }));
        assert_eq!(of_both.spec.cluster_ips.len(), 2);
        assert_eq!(of_both.spec.external_ips, Vec::<IpAddr>::new());
        let of_lb: Vec<String> = load_balancer_ips(&of_both)
            .map(|ip| ip.to_string())
            .collect();
        assert_eq!(of_lb, ["192.0.2.7"]);
        let headless = service(json!({
            "metadata": {"name": "web", "namespace": "ns"},
            "spec": {"clusterIPs": ["None"]},
        }));
        assert_eq!(headless.spec.cluster_ips, Vec::<IpAddr>::new());
        assert_eq!(load_balancer_ips(&headless).count(), 0);
    }

    #[test]
    fn an_endpoint_is_ready_unless_it_says_that_it_is_not() {
        let slice = json!({
            "metadata": {"labels": {SERVICE_NAME: "web"}},
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.1.0.1"], "nodeName": "a", "conditions": {"ready": true}},
                {"addresses": ["10.1.0.2"], "nodeName": "b", "conditions": {}},
                {"addresses": ["10.1.0.3"], "nodeName": "c", "conditions": {"ready": false, "serving": true}},
                {"addresses": ["10.1.0.4"], "conditions": {"ready": true}},
            ],
        });
        let read = ready_endpoints(&slice);
        assert_eq!(
            (read.service.as_str(), read.address_type.as_str()),
            ("web", "IPv4")
        );
        assert!(read.ready);
        let nodes: Vec<&str> = read.nodes.iter().map(String::as_str).collect();
        assert_eq!(nodes, ["a", "b"]);
        let none = ready_endpoints(&json!({"addressType": "IPv6", "endpoints": null}));
        assert!(!none.ready && none.nodes.is_empty() && none.service.is_empty());
    }
}
