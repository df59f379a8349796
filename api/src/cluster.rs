//! `ClusterInformation`: what the cluster is, and whether its datastore may be used.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::metadata::Resource;

/// A `ClusterInformation` object; the one that counts is named `default`.
pub type ClusterInformation = Resource<ClusterInformationSpec>;

/// Facts of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterInformationSpec {
    /// Unique id of the cluster, hexadecimal digits; made once.
    #[serde(rename = "clusterGUID", skip_serializing_if = "String::is_empty")]
    pub cluster_guid: String,
    /// Where the cluster runs: words joined by commas.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cluster_type: String,
    /// Version of the last agent that started.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub calico_version: String,
    /// `false` while the datastore is locked for a migration; true when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datastore_ready: Option<bool>,
    /// Fields not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl ClusterInformationSpec {
    /// Whether the datastore may be used: it is not locked.
    pub fn is_ready(&self) -> bool {
        self.datastore_ready.unwrap_or(true)
    }
}
