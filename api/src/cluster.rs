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

    /// Adds words, joined by commas, to the cluster's type; none stands there twice.
    pub fn add_type(&mut self, words: &str) {
        for word in words
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
        {
            if self.cluster_type.split(',').all(|known| known != word) {
                if !self.cluster_type.is_empty() {
                    self.cluster_type.push(',');
                }
                self.cluster_type.push_str(word);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_the_type_stands_once() {
        let mut spec = ClusterInformationSpec::default();
        spec.add_type("k8s,bgp");
        spec.add_type(" bgp, kubeadm,");
        assert_eq!(spec.cluster_type, "k8s,bgp,kubeadm");
        assert!(spec.is_ready());
    }
}
