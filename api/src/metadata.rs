//! The parts every object has.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::key::Key;

/// Kubernetes object metadata, as much as is used; the rest is kept in `extra`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Name, unique for a kind (and namespace).
    pub name: String,
    /// Namespace, for kinds that have one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Store revision as text, set by what reads from a store; absent in a manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// Unique id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// RFC 3339 time of creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    /// Fields not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One object: `apiVersion`, `kind`, `metadata`, `spec`, and whatever else it came with (`status`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource<S> {
    /// `projectcalico.org/v3`, or what the object was read with.
    #[serde(default = "api_version")]
    pub api_version: String,
    /// The kind's name.
    #[serde(default)]
    pub kind: String,
    /// Metadata.
    #[serde(default)]
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: S,
    /// Fields not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl<S> Resource<S> {
    /// A new object of this name, with nothing but a spec.
    pub fn new(key: &Key, spec: S) -> Self {
        Self {
            api_version: api_version(),
            kind: key.kind.name().to_owned(),
            metadata: Metadata {
                name: key.name.clone(),
                namespace: key.namespace.clone(),
                ..Metadata::default()
            },
            spec,
            extra: Map::new(),
        }
    }
}

/// The API version written by default.
pub fn api_version() -> String {
    "projectcalico.org/v3".to_owned()
}

/// Reads a list; `null` is an empty one.
pub(crate) fn list_or_null<'de, T, D>(source: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(source).map(Option::unwrap_or_default)
}
