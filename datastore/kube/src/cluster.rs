//! What is asked of an API server, and told to it, beside the objects of the store.

use std::time::SystemTime;

use api::without_effect::Resource;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use crate::client::{Client, Error};

/// Namespace of the events of what has none.
const EVENTS: &str = "/api/v1/namespaces/default/events";

/// As much of a listing as counts its objects.
#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    metadata: ListMetadata,
    /// `null` where there are none.
    items: Option<Vec<IgnoredAny>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMetadata {
    remaining_item_count: Option<u64>,
    #[serde(rename = "continue")]
    more: String,
}

impl Listed {
    /// At least: not every listing says how many there are beyond it.
    fn count(&self) -> u64 {
        let more = u64::from(!self.metadata.more.is_empty());
        let here = self.items.as_ref().map_or(0, Vec::len) as u64;
        here + self.metadata.remaining_item_count.unwrap_or(more)
    }
}

impl Client {
    /// How many objects a resource has, in the first of its groups that the cluster has. One is asked for, of which the
    /// metadata alone are sent.
    ///
    /// # Errors
    /// [`Error`]; one that is refused is so for lack of rights.
    pub async fn count(&self, resource: &Resource) -> Result<u64, Error> {
        for group_version in resource.group_versions {
            let path = format!("/apis/{group_version}/{}?limit=1", resource.plural);
            let body = match self.metadata_of_all(&path).await {
                Ok(body) => body,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error),
            };
            let listed: Listed = serde_json::from_slice(&body)
                .map_err(|error| Error::Unavailable(format!("GET {path}: {error}")))?;
            return Ok(listed.count());
        }
        Ok(0)
    }

    /// Writes an event of type Warning about a Kubernetes Node: `kubectl describe node` shows it.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn warn_of_node(&self, node: &str, reason: &str, message: &str) -> Result<(), Error> {
        let now = SystemTime::now();
        let nanoseconds = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        let time = Timestamp::try_from(now).unwrap_or_default();
        let time = time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let event = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": format!("{node}.{nanoseconds:x}"), "namespace": "default"},
            // As a kubelet names its Node.
            "involvedObject": {"kind": "Node", "name": node, "uid": node},
            "type": "Warning",
            "reason": reason,
            "message": message,
            "source": {"component": "tortie-node", "host": node},
            "firstTimestamp": time,
            "lastTimestamp": time,
            "count": 1,
        });
        self.create(EVENTS, &event).await.map(drop)
    }
}
