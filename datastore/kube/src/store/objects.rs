//! Writes of custom resources.

use api::key::Key;
use bytes::Bytes;
use datastore::store::{Change, Expect, KeyValue, Op, StoreError};
use datastore::version::Version;
use http::Method;
use serde_json::{Value, json};

use super::{
    ATTEMPTS, Shared, changed, conflict, failed, is_absent, others_keep_changing, unreadable,
};
use crate::custom;

/// What one attempt came to.
enum Attempt {
    Done(Option<Change>),
    /// Somebody else was quicker.
    Lost,
}

impl Shared {
    pub(super) async fn write_object(&self, op: Op) -> Result<Option<Change>, StoreError> {
        for _ in 0..ATTEMPTS {
            let standing = match op.expect() {
                Expect::Any => self.get(op.key()).await?.map(|current| current.version),
                Expect::Version(version) => Some(version.clone()),
                Expect::Absent | Expect::Own => None,
            };
            let attempt = match (&op, standing) {
                (Op::Put { key, value, .. }, version) => {
                    self.put(key, value, version.as_ref()).await?
                }
                (Op::Delete { key, .. }, Some(version)) => self.delete(key, &version).await?,
                (Op::Delete { .. } | Op::Check { .. }, None) => Attempt::Done(None),
                (Op::Check { .. }, Some(_)) => Attempt::Lost,
            };
            match (attempt, op.expect()) {
                (Attempt::Done(change), _) => return Ok(change),
                (Attempt::Lost, Expect::Any) => {}
                (Attempt::Lost, expect) => {
                    let current = self.get(op.key()).await?;
                    // Deleted before we looked at what was in the way.
                    if *expect != Expect::Absent || current.is_some() {
                        return Err(conflict(op.key().clone(), current));
                    }
                }
            }
        }
        Err(others_keep_changing(op.key()))
    }

    async fn put(
        &self,
        key: &Key,
        value: &Bytes,
        version: Option<&Version>,
    ) -> Result<Attempt, StoreError> {
        let group = self.group(key.kind).await?;
        if version.is_some_and(|version| version.number().is_none() || version.life().is_none()) {
            return Ok(Attempt::Lost);
        }
        let body = custom::write(group, key, value, version)
            .map_err(|error| StoreError::Refused(format!("{key}: {error}").into()))?;
        let answer = match version {
            Some(_) => {
                self.client
                    .request(Method::PUT, &group.one(key), Some(body))
                    .await
            }
            None => {
                self.client
                    .request(Method::POST, &group.all(key.kind), Some(body))
                    .await
            }
        };
        match answer {
            Ok(body) => Ok(Attempt::Done(changed(self, key, &body).await?)),
            Err(error) if error.is_conflict() => Ok(Attempt::Lost),
            Err(error) if is_absent(&error) && version.is_some() => Ok(Attempt::Lost),
            Err(error) => Err(failed(key, error)),
        }
    }

    async fn delete(&self, key: &Key, version: &Version) -> Result<Attempt, StoreError> {
        let (Some(number), Some(uid)) = (version.number(), version.life()) else {
            return Ok(Attempt::Lost);
        };
        let options = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"resourceVersion": number.to_string(), "uid": uid},
        });
        let path = self.group(key.kind).await?.one(key);
        match self.client.delete(&path, &options).await {
            Ok(answer) => Ok(Attempt::Done(
                self.deleted(key, version, uid, answer).await?,
            )),
            Err(error) if error.is_conflict() || is_absent(&error) => Ok(Attempt::Lost),
            Err(error) => Err(failed(key, error)),
        }
    }

    /// What a deletion answered: the object itself where finalizers hold it.
    async fn deleted(
        &self,
        key: &Key,
        version: &Version,
        uid: &str,
        answer: Value,
    ) -> Result<Option<Change>, StoreError> {
        let finalizers = answer["metadata"]["finalizers"].as_array();
        if finalizers.is_none_or(Vec::is_empty) {
            let number = version.number().unwrap_or_default();
            return Ok(Some(Change::Delete {
                key: key.clone(),
                version: Version::end_of(uid, number),
            }));
        }
        let object = answer.to_string();
        let group = self.group(key.kind).await?;
        let read = self.read(group, key.kind, object.as_bytes())?.object;
        let marked: KeyValue = read.ok_or_else(|| unreadable(&key.to_string()))?;
        Ok(Some(Change::Put(marked)))
    }
}
