//! As much of the metadata of Kubernetes' own objects as is read.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Of a Node or a Namespace, whose own namespace is empty, or a Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    pub(crate) creation_timestamp: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// The metadata of an object of any kind.
pub(crate) fn of(object: &[u8]) -> Result<Metadata, String> {
    #[derive(Deserialize)]
    struct Holder {
        metadata: Metadata,
    }
    let holder: Holder = serde_json::from_slice(object).map_err(|error| error.to_string())?;
    Ok(holder.metadata)
}
