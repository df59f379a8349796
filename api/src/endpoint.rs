//! `WorkloadEndpoint`: a pod's interface.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha1::{Digest, Sha1};

use crate::metadata::Resource;

/// A `WorkloadEndpoint` object; its name is [`endpoint_name`], its namespace the pod's.
pub type WorkloadEndpoint = Resource<WorkloadEndpointSpec>;

/// A pod's interface and addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadEndpointSpec {
    /// `k8s`, or `cni` outside Kubernetes.
    pub orchestrator: String,
    /// Container id outside Kubernetes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub workload: String,
    /// Node name.
    pub node: String,
    /// The sandbox's container id.
    #[serde(rename = "containerID", skip_serializing_if = "String::is_empty")]
    pub container_id: String,
    /// Pod name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// Interface name inside the pod, normally `eth0`.
    pub endpoint: String,
    /// Addresses as /32 and /128.
    #[serde(rename = "ipNetworks")]
    pub ip_networks: Vec<IpNet>,
    /// `kns.<namespace>` and the like.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<String>,
    /// Host side device, `cali…`.
    pub interface_name: String,
    /// MAC of the pod's side.
    #[serde(rename = "mac", skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Fields not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Node, orchestrator, pod and interface joined by `-`, every `-` inside a part doubled.
pub fn endpoint_name(node: &str, orchestrator: &str, workload: &str, endpoint: &str) -> String {
    [node, orchestrator, workload, endpoint]
        .map(|part| part.replace('-', "--"))
        .join("-")
}

/// Host side device of a Kubernetes pod: `prefix` and the first 11 hex digits of the SHA-1 of `<namespace>.<pod>`.
///
/// It depends on the pod's name only, so a pod made anew under its name gets the same device name. Outside Kubernetes
/// the first 11 characters of the container id take the place of the digits: [`container_interface_name`].
/// `prefix` is the first element of `FELIX_INTERFACEPREFIX`, at most 4 octets, `cali` by default.
pub fn pod_interface_name(prefix: &str, namespace: &str, pod: &str) -> String {
    let digest = Sha1::digest(format!("{namespace}.{pod}"));
    let hex: String = digest.iter().map(|octet| format!("{octet:02x}")).collect();
    format!("{prefix}{}", &hex[..11])
}

/// Host side device of a container outside Kubernetes.
pub fn container_interface_name(prefix: &str, container_id: &str) -> String {
    let head: String = container_id.chars().take(11).collect();
    format!("{prefix}{head}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_are_those_of_calico() {
        // `printf default.web-0 | sha1sum`
        assert_eq!(
            pod_interface_name("cali", "default", "web-0"),
            "cali0d7763386da"
        );
        assert_eq!(
            container_interface_name("cali", "0123456789abcdef"),
            "cali0123456789a"
        );
        assert_eq!(container_interface_name("cali", "ab"), "caliab");
    }
}
