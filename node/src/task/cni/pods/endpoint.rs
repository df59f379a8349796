//! Who a request is about: names, and the endpoint's object.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::endpoint::{
    WorkloadEndpoint, WorkloadEndpointSpec, container_interface_name, endpoint_name,
    pod_interface_name,
};
use api::key::{Key, Kind};
use api::object::Object;
use cni::protocol::Request;
use datastore::store::KeyValue;
use felix::desired::{IfName, Mac};
use ipnet::IpNet;

/// Names of one pod's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// The endpoint.
    pub(super) key: Key,
    /// Host side device.
    pub(super) host_ifname: IfName,
    orchestrator: &'static str,
    container_id: String,
    ifname: String,
    pod: Option<cni::protocol::Pod>,
}

impl Identity {
    /// From the runtime's request.
    pub(super) fn new(node: &str, interface_prefix: &str, request: &Request) -> Self {
        let (namespace, workload, host_ifname) = match &request.pod {
            Some(pod) => (
                pod.namespace.as_str(),
                pod.name.as_str(),
                pod_interface_name(interface_prefix, &pod.namespace, &pod.name),
            ),
            None => (
                "default",
                request.container_id.as_str(),
                container_interface_name(interface_prefix, &request.container_id),
            ),
        };
        let name = endpoint_name(node, request.orchestrator(), workload, &request.ifname);
        Self {
            key: Key::namespaced(Kind::WorkloadEndpoint, namespace, name),
            host_ifname: IfName::from(host_ifname.as_str()),
            orchestrator: request.orchestrator(),
            container_id: request.container_id.clone(),
            ifname: request.ifname.clone(),
            pod: request.pod.clone(),
        }
    }

    /// From a stored endpoint of a network; `None` when it is none.
    pub(super) fn of_stored(stored: &KeyValue) -> Option<Self> {
        let Ok(Object::WorkloadEndpoint(endpoint)) = Object::decode(&stored.key, &stored.value)
        else {
            return None;
        };
        let spec = endpoint.spec;
        let pod = (!spec.pod.is_empty()).then(|| cni::protocol::Pod {
            namespace: stored.key.namespace.clone(),
            name: spec.pod,
            uid: String::new(),
        });
        Some(Self {
            key: stored.key.clone(),
            host_ifname: IfName::from(spec.interface_name.as_str()),
            orchestrator: if pod.is_some() { "k8s" } else { "cni" },
            container_id: spec.container_id,
            ifname: spec.endpoint,
            pod,
        })
    }

    /// The container.
    pub(super) fn container_id(&self) -> &str {
        &self.container_id
    }

    /// The device's name inside the pod.
    pub(super) fn ifname(&self) -> &str {
        &self.ifname
    }

    /// What IPAM notes about the address.
    pub(super) fn attributes(&self, node: &str) -> BTreeMap<String, String> {
        let mut attributes = BTreeMap::from([("node".to_owned(), node.to_owned())]);
        if let Some(pod) = &self.pod {
            attributes.insert("pod".to_owned(), pod.name.clone());
            attributes.insert("namespace".to_owned(), pod.namespace.clone());
        }
        attributes
    }

    /// The endpoint's object.
    pub(super) fn endpoint(&self, node: &str, addresses: &[IpNet], pod_mac: Mac) -> Object {
        let workload = match &self.pod {
            Some(_) => String::new(),
            None => self.container_id.clone(),
        };
        let profiles = match &self.pod {
            Some(pod) => vec![format!("kns.{}", pod.namespace)],
            None => Vec::new(),
        };
        let mut labels = BTreeMap::from([
            (
                "projectcalico.org/namespace".to_owned(),
                self.key.namespace.clone(),
            ),
            (
                "projectcalico.org/orchestrator".to_owned(),
                self.orchestrator.to_owned(),
            ),
        ]);
        labels.retain(|_, value| value.len() < 64);
        let spec = WorkloadEndpointSpec {
            orchestrator: self.orchestrator.to_owned(),
            workload,
            node: node.to_owned(),
            container_id: self.container_id.clone(),
            pod: self
                .pod
                .as_ref()
                .map_or_else(String::new, |pod| pod.name.clone()),
            endpoint: self.ifname.clone(),
            ip_networks: addresses
                .iter()
                .map(|net| IpNet::from(net.addr()))
                .collect(),
            profiles,
            interface_name: self.host_ifname.to_string(),
            mac: pod_mac.to_string(),
            extra: serde_json::Map::new(),
        };
        let mut endpoint = WorkloadEndpoint::new(&self.key, spec);
        endpoint.metadata.labels = labels;
        Object::WorkloadEndpoint(endpoint)
    }
}

/// The container a stored endpoint belongs to; `None` when it names none or cannot be read.
pub(super) fn container_of(stored: &KeyValue) -> Option<String> {
    match Object::decode(&stored.key, &stored.value) {
        Ok(Object::WorkloadEndpoint(endpoint)) if !endpoint.spec.container_id.is_empty() => {
            Some(endpoint.spec.container_id)
        }
        Ok(_) | Err(_) => None,
    }
}

/// The addresses of a stored endpoint.
pub(super) fn addresses_of(stored: &KeyValue) -> Vec<IpAddr> {
    match Object::decode(&stored.key, &stored.value) {
        Ok(Object::WorkloadEndpoint(endpoint)) => {
            endpoint.spec.ip_networks.iter().map(IpNet::addr).collect()
        }
        Ok(_) | Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(pod: Option<(&str, &str)>) -> Request {
        let mut json = serde_json::json!({
            "command": "ADD",
            "cni_version": "1.0.0",
            "network": "k8s-pod-network",
            "container_id": "0123456789abcdef",
            "ifname": "eth0",
        });
        if let Some((namespace, name)) = pod {
            json["pod"] = serde_json::json!({"namespace": namespace, "name": name});
        }
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn kubernetes_pod_is_named_as_calico_names_it() {
        let identity = Identity::new("n1", "cali", &request(Some(("default", "web-0"))));
        assert_eq!(
            identity.key,
            Key::namespaced(Kind::WorkloadEndpoint, "default", "n1-k8s-web--0-eth0")
        );
        assert_eq!(identity.host_ifname, IfName::from("cali0d7763386da"));
    }

    #[test]
    fn container_outside_kubernetes_is_named_by_its_id() {
        let identity = Identity::new("n1", "cali", &request(None));
        assert_eq!(
            identity.key,
            Key::namespaced(
                Kind::WorkloadEndpoint,
                "default",
                "n1-cni-0123456789abcdef-eth0"
            )
        );
        assert_eq!(identity.host_ifname, IfName::from("cali0123456789a"));
    }

    #[test]
    fn stored_endpoint_leads_back_to_the_same_identity() {
        for pod in [None, Some(("default", "web-0"))] {
            let identity = Identity::new("n1", "cali", &request(pod));
            let object = identity.endpoint("n1", &["10.0.0.1/26".parse().unwrap()], Mac([2; 6]));
            let stored = KeyValue {
                key: object.key(),
                value: object.encode().into(),
                revision: 1,
            };
            assert_eq!(Identity::of_stored(&stored), Some(identity));
            assert_eq!(container_of(&stored).as_deref(), Some("0123456789abcdef"));
            assert_eq!(
                addresses_of(&stored),
                ["10.0.0.1".parse::<IpAddr>().unwrap()]
            );
        }
    }
}
