//! `WorkloadEndpoint`: a pod's interface.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

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
