//! Endpoints: annotations of Pods, and files of this node.

use std::collections::BTreeSet;

use api::key::Key;
use api::pod::PodWords;
use bytes::Bytes;
use datastore::scope::Scope;
use datastore::store::{Change, Expect, KeyValue, Op, StoreError};
use http::Method;
use serde_json::Value;
use tracing::warn;

use super::namespaces::Namespace;
use super::seen_pods::SeenPod;
use super::{
    ATTEMPTS, Seen, Shared, conflict, failed, fits, is_absent, is_met, others_keep_changing,
    unreadable,
};
use crate::client::{Error, Patch};
use crate::group::segment;
use crate::kept::Kept;
use crate::pod::{KubePod, PodName, Written, gone, gone_of};

impl Shared {
    pub(super) fn read_pod(&self, pod: &KubePod) -> Result<Seen, String> {
        let kept = |key: &Key| self.kept.as_ref().and_then(|kept| kept.get(key));
        let version = pod.version()?;
        let key = pod.key();
        let object = pod.read(&self.interface_prefix, kept)?;
        if let Some(key) = &key
            && let Some(seen) = SeenPod::of(pod, object.as_ref())
        {
            self.seen_pods.note(key, seen);
        }
        Ok(Seen {
            key,
            object,
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
        let mut seen = self.seen_pods.get(&key);
        for _ in 0..ATTEMPTS {
            // What was seen is good enough as long as it lets the write be tried.
            let fitting = seen.take().filter(|seen| {
                let met = is_met(&expect, &key, seen.endpoint());
                met && written.is_of_another(&seen.uid).is_none()
            });
            let standing = match fitting {
                Some(seen) => seen,
                None => self.look_for(pod, &key, &expect, &written).await?,
            };
            // The file first: what the Pod then says must find it.
            let before = self.keep(&key, &value)?;
            let patch = written.patch(&standing.resource_version());
            match self.patch_pod(pod, Patch::Strategic, patch).await {
                Ok(body) => return self.endpoint_written(key, value, &body),
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

    /// Reads the Pod that an endpoint is to be written to, and sees whether it may be.
    async fn look_for(
        &self,
        pod: &PodName,
        key: &Key,
        expect: &Expect,
        written: &Written,
    ) -> Result<SeenPod, StoreError> {
        self.seen_pods.forget(key);
        let (standing, current) = self.kube_pod(pod, key).await?;
        let Some(standing) = standing else {
            let text = format!("{key}: there is no Pod {}/{}", pod.namespace, pod.name);
            return Err(StoreError::Refused(text.into()));
        };
        if !fits(expect, current.as_ref()) {
            return Err(conflict(key.clone(), current));
        }
        if let Some(why) = written.is_of_another(standing.uid()) {
            return Err(StoreError::Refused(format!("{key}: {why}").into()));
        }
        SeenPod::of(&standing, current.as_ref())
            .ok_or_else(|| unreadable("a Pod's resourceVersion is no number"))
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
                    return self.endpoint_gone(key, &body);
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
                    return self.endpoint_gone(key, &body);
                }
                Err(error) if error.is_conflict() || is_absent(&error) => {}
                Err(error) => return Err(failed(&key, error)),
            }
        }
        Err(others_keep_changing(&key))
    }

    /// The endpoint that a Pod holds.
    pub(super) async fn get_endpoint(
        &self,
        pod: &PodName,
        key: &Key,
    ) -> Result<Option<KeyValue>, StoreError> {
        Ok(self.kube_pod(pod, key).await?.1)
    }

    /// The condition of a write over a Pod's endpoint; of a Pod that was not seen as the one with this UID, it is asked for.
    pub(super) async fn endpoint_condition(
        &self,
        pod: &PodName,
        key: &Key,
        uid: &str,
    ) -> Result<Expect, StoreError> {
        let seen = self.seen_pods.get(key);
        if let Some(seen) = seen.filter(|seen| !uid.is_empty() && seen.uid == uid) {
            return Ok(seen.condition());
        }
        let current = self.get_endpoint(pod, key).await?;
        Ok(Expect::standing(current.map(|current| current.version)))
    }

    /// What people ask for of a Pod's network.
    pub(super) async fn pod_words(
        &self,
        pod: &PodName,
        key: &Key,
        uid: &str,
    ) -> Result<PodWords, StoreError> {
        let seen = self.seen_pods.get(key);
        let seen = seen.filter(|seen| !uid.is_empty() && seen.uid == uid);
        let annotations = async {
            Ok(match seen {
                Some(seen) => seen.asked,
                // Without a Pod there is nothing to write the endpoint to: that says why.
                None => {
                    let (found, _) = self.kube_pod(pod, key).await?;
                    found.map(|pod| pod.asked()).unwrap_or_default()
                }
            })
        };
        let namespace = async {
            if let Some(known) = self.namespaces.get(&self.client, &pod.namespace) {
                return Ok(known);
            }
            let path = format!("/api/v1/namespaces/{}", segment(&pod.namespace));
            match self.client.request(Method::GET, &path, None).await {
                Ok(body) => crate::metadata::of(&body)
                    .map(Namespace::from)
                    .map_err(|error| unreadable(&error)),
                Err(error) if is_absent(&error) => Ok(Namespace::default()),
                Err(error) => Err(failed(key, error)),
            }
        };
        let (annotations, namespace) =
            futures_util::future::try_join(annotations, namespace).await?;
        Ok(PodWords {
            annotations,
            namespace_annotations: namespace.annotations,
            namespace_labels: namespace.labels,
        })
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

    /// Answers the Pod's metadata.
    async fn patch_pod(&self, pod: &PodName, kind: Patch, patch: Value) -> Result<Bytes, Error> {
        let patch = patch.to_string().into_bytes();
        let path = pod.status_path();
        self.client.patch_for_metadata(&path, kind, patch).await
    }

    fn endpoint_written(
        &self,
        key: Key,
        value: Bytes,
        answer: &Bytes,
    ) -> Result<Option<Change>, StoreError> {
        let pod = KubePod::parse(answer).map_err(|error| unreadable(&error))?;
        let written = KeyValue {
            version: pod.version().map_err(|error| unreadable(&error))?,
            key,
            value,
        };
        if let Some(seen) = SeenPod::of(&pod, Some(&written)) {
            self.seen_pods.note(&written.key, seen);
        }
        Ok(Some(Change::Put(written)))
    }

    fn endpoint_gone(&self, key: Key, answer: &Bytes) -> Result<Option<Change>, StoreError> {
        self.forget(&key);
        let pod = KubePod::parse(answer).map_err(|error| unreadable(&error))?;
        let version = pod.version().map_err(|error| unreadable(&error))?;
        if let Some(seen) = SeenPod::of(&pod, None) {
            self.seen_pods.note(&key, seen);
        }
        Ok(Some(Change::Delete { key, version }))
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
