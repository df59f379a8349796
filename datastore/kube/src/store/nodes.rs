//! Writes of Nodes: single annotations of what kubelet made.

use api::key::Key;
use datastore::store::{Change, Op, StoreError};
use http::Method;
use serde_json::json;

use super::{
    ATTEMPTS, Shared, changed, conflict, failed, fits, is_absent, others_keep_changing, unreadable,
};
use crate::client::Patch;
use crate::node::{self, KubeNode};

impl Shared {
    pub(super) async fn write_node(&self, op: Op) -> Result<Option<Change>, StoreError> {
        let key = op.key().clone();
        for _ in 0..ATTEMPTS {
            let Some(standing) = self.kube_node(&key).await? else {
                return match op {
                    _ if !fits(op.expect(), None) => Err(conflict(key, None)),
                    Op::Put { .. } => Err(refused(
                        &key,
                        "there is no such Kubernetes Node; kubelet makes it",
                    )),
                    Op::Delete { .. } | Op::Check { .. } => Ok(None),
                };
            };
            let read = standing.read().map_err(|error| unreadable(&error))?;
            if !fits(op.expect(), Some(&read)) {
                return Err(conflict(key, Some(read)));
            }
            let value = match &op {
                Op::Put { value, .. } => value,
                Op::Delete { .. } => {
                    return Err(refused(
                        &key,
                        "a Kubernetes Node is not deleted from here; use kubectl",
                    ));
                }
                Op::Check { .. } => return Ok(None),
            };
            let changes = standing
                .changes(value)
                .map_err(|error| refused(&key, &error))?;
            if changes.is_empty() {
                return Ok(Some(Change::Put(read)));
            }
            let patch = json!({"metadata": {
                "resourceVersion": standing.resource_version(),
                "annotations": changes,
            }});
            let path = format!("{}/status", node::path(&key.name));
            let patch = patch.to_string().into_bytes();
            match self.client.patch_bytes(&path, Patch::Merge, patch).await {
                Ok(body) => return changed(self, &key, &body).await,
                // Kubelet was quicker; whether it matters shows next.
                Err(error) if error.is_conflict() || is_absent(&error) => {}
                Err(error) => return Err(failed(&key, error)),
            }
        }
        Err(others_keep_changing(&key))
    }

    async fn kube_node(&self, key: &Key) -> Result<Option<KubeNode>, StoreError> {
        let path = node::path(&key.name);
        match self.client.request(Method::GET, &path, None).await {
            Ok(body) => KubeNode::parse(&body)
                .map(Some)
                .map_err(|error| unreadable(&format!("{key}: {error}"))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failed(key, error)),
        }
    }
}

fn refused(key: &Key, why: &str) -> StoreError {
    StoreError::Refused(format!("{key}: {why}").into())
}
