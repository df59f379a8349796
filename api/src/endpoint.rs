//! `WorkloadEndpoint`: a pod's interface.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::metadata::{Resource, list_or_null};

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
    /// Further addresses under which it is reached, each translated to one of its own.
    #[serde(
        rename = "ipNATs",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "list_or_null"
    )]
    pub ip_nats: Vec<IpNat>,
    /// Prefixes under which it may send besides its own addresses.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "list_or_null"
    )]
    pub allow_spoofed_source_prefixes: Vec<IpNet>,
    /// Fields not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A floating address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpNat {
    /// The endpoint's own address.
    #[serde(rename = "internalIP")]
    pub internal: IpAddr,
    /// What others send to.
    #[serde(rename = "externalIP")]
    pub external: IpAddr,
}

/// Name of the file that says that an endpoint is connected: orchestrator, workload (`<namespace>/<pod>` of Kubernetes, else the
/// container's id) and interface, each escaped as a part of a path (RFC 3986 §3.3), joined by blanks.
///
/// Source: Calico, endpoint status files.
pub fn status_file_name(orchestrator: &str, workload: &str, endpoint: &str) -> String {
    [orchestrator, workload, endpoint].map(escaped).join(" ")
}

fn escaped(part: &str) -> String {
    let mut text = String::with_capacity(part.len());
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+=:@".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// Node, orchestrator, pod and interface joined by `-`, every `-` inside a part doubled.
pub fn endpoint_name(node: &str, orchestrator: &str, workload: &str, endpoint: &str) -> String {
    [node, orchestrator, workload, endpoint]
        .map(|part| part.replace('-', "--"))
        .join("-")
}
