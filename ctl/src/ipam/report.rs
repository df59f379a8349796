//! What `ipam check` writes and `ipam release` reads: Calico's report.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use ::ipam::audit::{Allocation, Audit, Usage};
use ::ipam::request::ReleaseAddress;
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::cluster;
use crate::objects::Objects;

/// A report. Fields that are Calico's alone are left unread.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// Of the program that wrote it.
    pub(super) version: String,
    #[serde(rename = "clusterGUID")]
    pub(super) cluster_guid: String,
    pub(super) datastore_locked: bool,
    /// Of the cluster's own object, which changes when the datastore is locked and unlocked.
    pub(super) cluster_information_revision: String,
    pub(super) cluster_type: String,
    /// By address.
    pub(super) allocations: BTreeMap<IpAddr, Vec<Value>>,
    /// Handles without an address.
    #[serde(default)]
    pub(super) leaked_handles: Vec<Value>,
}

impl Report {
    pub(super) async fn of(audit: &Audit, objects: &Objects) -> anyhow::Result<Self> {
        let (info, revision) = cluster(objects).await?;
        let mut allocations: BTreeMap<IpAddr, Vec<Value>> = BTreeMap::new();
        for found in &audit.allocations {
            let of_address = allocations.entry(found.address).or_default();
            of_address.push(allocation(found));
        }
        let handles = audit.leaked_handles.iter();
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_guid: info.cluster_guid.clone(),
            datastore_locked: !info.is_ready(),
            cluster_information_revision: revision,
            cluster_type: info.cluster_type,
            allocations,
            leaked_handles: handles.map(|id| json!({"id": id})).collect(),
        })
    }

    pub(super) fn read(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is no report of `ipam check`", file.display()))
    }

    /// What it names as used by nobody, as it may be released.
    ///
    /// # Errors
    /// One without the sequence number that tells whether it was given out anew.
    pub(super) fn leaked(&self) -> anyhow::Result<Vec<ReleaseAddress>> {
        let mut leaked = Vec::new();
        for (address, found) in &self.allocations {
            for one in found.iter().filter(|one| one["inUse"] == false) {
                let Some(number) = one["sequenceNumber"].as_u64() else {
                    bail!(
                        "{address}: the report has no sequenceNumber, without which it could be somebody else's by now; release it by --ip"
                    );
                };
                leaked.push(ReleaseAddress {
                    address: *address,
                    handle_id: one["handle"].as_str().map(str::to_owned),
                    sequence_number: Some(number),
                });
            }
        }
        Ok(leaked)
    }
}

/// An address as a report has it. One of which nobody knows whether it is used counts as used.
pub(super) fn allocation(found: &Allocation) -> Value {
    let owners = match &found.usage {
        Usage::By(users) => users.clone(),
        Usage::Cooling | Usage::NotLookedAt | Usage::Nobody => Vec::new(),
    };
    let mut value = Map::new();
    value.insert("ip".to_owned(), found.address.to_string().into());
    value.insert("block".to_owned(), found.block.to_string().into());
    let texts = [
        ("affinity", &found.affinity),
        ("handle", &found.holder.handle_id),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            value.insert(name.to_owned(), text.as_str().into());
        }
    }
    for (name, text) in &found.holder.secondary {
        value.insert(name.clone(), text.as_str().into());
    }
    if let Some(number) = found.sequence_number {
        value.insert("sequenceNumber".to_owned(), number.into());
    }
    let in_use = found.usage != Usage::Nobody;
    value.insert("inUse".to_owned(), in_use.into());
    value.insert("owners".to_owned(), owners.into());
    Value::Object(value)
}
