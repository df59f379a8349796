//! Endpoints: annotations of Pods, and files of this node.

use std::collections::BTreeSet;

use api::key::Key;
use bytes::Bytes;
use datastore::scope::Scope;
use datastore::store::{Change, Expect, KeyValue, Op, StoreError};
use http::Method;
use serde_json::Value;
use tracing::warn;

use super::{
    ATTEMPTS, Seen, Shared, conflict, failed, fits, is_absent, others_keep_changing, unreadable,
};
use crate::client::{Error, Patch};
use crate::kept::Kept;
use crate::pod::{KubePod, PodName, Written, gone, gone_of};

impl Shared {
    pub(super) fn read_pod(&self, pod: &KubePod) -> Result<Seen, String> {
        let kept = |key: &Key| self.kept.as_ref().and_then(|kept| kept.get(key));
        let version = pod.version()?;
        Ok(Seen {
            key: pod.key(),
            object: pod.read(&self.interface_prefix, kept)?,
            number: version.number().unwrap_or_default(),
            life: version.life().unwrap_or_default().to_owned(),
        })
    }

    /// Writes the endpoint that a Pod holds.
    pub(super) async fn write_endpoint(
        &self,
        pod: &PodName,
        op: Op,
    ) -> Result<Option<Change>, StoreError> {
        match op {
            Op::Put { key, value, expect } => self.put_endpoint(pod, key, value, expect).await,
            Op::Delete { key, expect } => self.delete_endpoint(pod, key, expect).await,
            Op::Check { .. } => Ok(None),
        }
    }

    async fn put_endpoint(
        &self,
        pod: &PodName,
        key: Key,
        value: Bytes,
        expect: Expect,
    ) -> Result<Option<Change>, StoreError> {
        let written = Written::parse(&value)
            .map_err(|error| StoreError::Refused(format!("{key}: {error}").into()))?;
        // Whoever writes on a condition has read it a moment ago.
        let mut looked_at = self.looked_at.take(&key);
        for _ in 0..ATTEMPTS {
            let (standing, current) = match looked_at.take() {
                Some(pod) => (Some(pod.0), pod.1),
                None => self.kube_pod(pod, &key).await?,
            };
            let Some(standing) = standing else {
                let text = format!("{key}: there is no Pod {}/{}", pod.namespace, pod.name);
                return Err(StoreError::Refused(text.into()));
            };
            if !fits(&expect, current.as_ref()) {
                return Err(conflict(key, current));
            }
            if let Some(why) = written.is_of_another(&standing) {
                return Err(StoreError::Refused(format!("{key}: {why}").into()));
            }
            // The file first: what the Pod then says must find it.
            let before = self.keep(&key, &value)?;
            let patch = written.patch(standing.resource_version());
            match self.patch_pod(pod, Patch::Merge, patch).await {
                Ok(body) => return self.endpoint_changed(&key, &body),
                Err(error) if error.is_conflict() || is_absent(&error) => {
                    self.keep_again(&key, before);
                }
                Err(error @ Error::Refused(_)) => {
                    self.keep_again(&key, before);
                    return Err(failed(&key, error));
                }
                // It may have been done.
                Err(error) => return Err(failed(&key, error)),
            }
        }
        Err(others_keep_changing(&key))
    }

    /// Writes an endpoint's file; what stood there before.
    fn keep(&self, key: &Key, value: &Bytes) -> Result<Option<Bytes>, StoreError> {
        let Some(kept) = &self.kept else {
            return Ok(None);
        };
        let before = kept.get(key).map(|before| before.value);
        let put = kept.put_if(key, value, |_| true);
        put.map_err(|error| file_error(key, &error))?.ok();
        Ok(before)
    }

    /// Undoes [`keep`](Self::keep): the Pod did not take it.
    fn keep_again(&self, key: &Key, before: Option<Bytes>) {
        match before {
            None => self.forget(key),
            Some(before) => {
                if let Err(error) = self.keep(key, &before) {
                    warn!(%key, %error, "endpoint's file");
                }
            }
        }
    }

    async fn delete_endpoint(
        &self,
        pod: &PodName,
        key: Key,
        expect: Expect,
    ) -> Result<Option<Change>, StoreError> {
        // One request, where the Pod says itself whose endpoint it is.
        if let Expect::Version(version) = &expect
            && let Some(patch) = version.life().and_then(gone_of)
        {
            match self.patch_pod(pod, Patch::Json, patch).await {
                Ok(body) => {
                    self.forget(&key);
                    return self.endpoint_changed(&key, &body);
                }
                Err(error) if error.is_failed_test() || is_absent(&error) => {}
                Err(error) => return Err(failed(&key, error)),
            }
        }
        for _ in 0..ATTEMPTS {
            let (standing, current) = self.kube_pod(pod, &key).await?;
            if !fits(&expect, current.as_ref()) {
                if standing.is_none() {
                    self.forget(&key);
                }
                return Err(conflict(key, current));
            }
            let (Some(standing), Some(_)) = (standing, current) else {
                self.forget(&key);
                return Ok(None);
            };
            let patch = gone(standing.resource_version());
            match self.patch_pod(pod, Patch::Merge, patch).await {
                Ok(body) => {
                    self.forget(&key);
                    return self.endpoint_changed(&key, &body);
                }
                Err(error) if error.is_conflict() || is_absent(&error) => {}
                Err(error) => return Err(failed(&key, error)),
            }
        }
        Err(others_keep_changing(&key))
    }

    /// The endpoint that a Pod holds. Which Pod that was is remembered for a write of it.
    pub(super) async fn get_endpoint(
        &self,
        pod: &PodName,
        key: &Key,
    ) -> Result<Option<KeyValue>, StoreError> {
        let (standing, current) = self.kube_pod(pod, key).await?;
        if let Some(standing) = standing {
            self.looked_at.put(key, standing, current.clone());
        }
        Ok(current)
    }

    async fn kube_pod(
        &self,
        pod: &PodName,
        key: &Key,
    ) -> Result<(Option<KubePod>, Option<KeyValue>), StoreError> {
        let body = match self.client.request(Method::GET, &pod.path(), None).await {
            Ok(body) => body,
            Err(error) if is_absent(&error) => return Ok((None, None)),
            Err(error) => return Err(failed(key, error)),
        };
        let standing = KubePod::parse(&body).map_err(|error| unreadable(&error))?;
        let seen = self
            .read_pod(&standing)
            .map_err(|error| unreadable(&error))?;
        let current = seen.object.filter(|object| object.key == *key);
        Ok((Some(standing), current))
    }

    async fn patch_pod(&self, pod: &PodName, kind: Patch, patch: Value) -> Result<Bytes, Error> {
        let patch = patch.to_string().into_bytes();
        let path = pod.status_path();
        self.client.patch_bytes(&path, kind, patch).await
    }

    fn endpoint_changed(&self, key: &Key, body: &Bytes) -> Result<Option<Change>, StoreError> {
        let pod = KubePod::parse(body).map_err(|error| unreadable(&error))?;
        let seen = self.read_pod(&pod).map_err(|error| unreadable(&error))?;
        let version = pod.version().map_err(|error| unreadable(&error))?;
        match seen.object {
            Some(object) if object.key == *key => Ok(Some(Change::Put(object))),
            Some(object) => {
                let text = format!("{key}: the Pod is that of {}", object.key.name);
                Err(StoreError::Refused(text.into()))
            }
            None => Ok(Some(Change::Delete {
                key: key.clone(),
                version,
            })),
        }
    }

    fn forget(&self, key: &Key) {
        if let Some(kept) = &self.kept
            && let Err(error) = kept.remove_if(key, |_| true)
        {
            warn!(%key, %error, "endpoint's file");
        }
    }

    /// Endpoints that no Pod holds join a listing. Files of Pods that are gone go.
    pub(super) fn add_files(&self, items: &mut Vec<KeyValue>, scope: &Scope) {
        let Some(kept) = &self.kept else {
            return;
        };
        if matches!(scope, Scope::Node(_)) {
            let there: BTreeSet<&Key> = items.iter().map(|item| &item.key).collect();
            let orphans = kept.of_pods().into_iter().filter(|key| scope.holds(key));
            for key in orphans.filter(|key| !there.contains(key)) {
                self.forget(&key);
            }
        }
        items.extend(kept.list(scope));
    }

    /// Writes an endpoint that no Pod holds.
    pub(super) fn write_file(&self, op: Op) -> Result<Option<Change>, StoreError> {
        let key = op.key().clone();
        let kept: &Kept = self.kept.as_ref().ok_or_else(|| {
            let text =
                format!("{key}: only the agent of its node writes an endpoint that no Pod holds");
            StoreError::Refused(text.into())
        })?;
        let expect = op.expect().clone();
        let may = move |current: Option<&KeyValue>| fits(&expect, current);
        match op {
            Op::Put { key, value, .. } => match kept.put_if(&key, &value, may) {
                Ok(Ok(written)) => Ok(Some(Change::Put(written))),
                Ok(Err(current)) => Err(conflict(key, current)),
                Err(error) => Err(file_error(&key, &error)),
            },
            Op::Delete { key, .. } => match kept.remove_if(&key, may) {
                Ok(Ok(version)) => Ok(version.map(|version| Change::Delete { key, version })),
                Ok(Err(current)) => Err(conflict(key, current)),
                Err(error) => Err(file_error(&key, &error)),
            },
            Op::Check { .. } => Ok(None),
        }
    }
}

fn file_error(key: &Key, error: &std::io::Error) -> StoreError {
    StoreError::Unavailable(format!("{key}: its file on this node: {error}").into())
}
