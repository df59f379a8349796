//! Writes of custom resources.

use api::key::{Key, Kind};
use bytes::Bytes;
use datastore::store::{Change, Expect, KeyValue, Op, StoreError};
use datastore::version::Version;
use http::Method;
use serde_json::{Value, json};

use super::{
    ATTEMPTS, Shared, asked_for, conflict, failed, is_absent, others_keep_changing, unreadable,
};
use crate::client::Error;
use crate::custom;
use crate::group::Group;

/// Kinds whose objects stand as they were sent: their definitions have no defaults that we leave out.
const ANSWERED_BY_METADATA: [Kind; 3] = [Kind::IPAMBlock, Kind::BlockAffinity, Kind::IPAMHandle];

/// What one attempt came to.
enum Attempt {
    Done(Option<Change>),
    /// Somebody else was quicker.
    Lost,
}

fn body(
    group: Group,
    key: &Key,
    value: &[u8],
    version: Option<&Version>,
) -> Result<Vec<u8>, StoreError> {
    custom::write(group, key, value, version)
        .map_err(|error| StoreError::Refused(format!("{key}: {error}").into()))
}

/// What a write was answered, read as the object that stands now.
type Answer = Result<Result<KeyValue, String>, Error>;

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
        let body = body(group, key, value, version)?;
        let (method, path) = match version {
            Some(_) => (Method::PUT, group.one(key)),
            None => (Method::POST, group.all(key.kind)),
        };
        let answer = match ANSWERED_BY_METADATA.contains(&key.kind) {
            true => {
                let sent = body.clone();
                let answer = self.client.request_for_metadata(method, &path, sent).await;
                answer.map(|answer| custom::read_written(group, key.kind, &body, &answer))
            }
            false => {
                let answer = self.client.request(method, &path, Some(body)).await;
                answer.map(|answer| custom::read(group, key.kind, &answer))
            }
        };
        self.attempt(key, version.is_some(), answer).await
    }

    /// What an attempt to write came to.
    async fn attempt(
        &self,
        key: &Key,
        over_another: bool,
        answer: Answer,
    ) -> Result<Attempt, StoreError> {
        match answer {
            Ok(read) => {
                let read = read.map_err(|error| unreadable(&format!("{key}: {error}")))?;
                let object = asked_for(key, Some(read))?;
                // Blocks: nobody else writes this node's, as a rule.
                if key.kind == Kind::IPAMBlock {
                    let path = self.group(key.kind).await?.one(key);
                    self.witness.note(&path, &object.version);
                }
                Ok(Attempt::Done(Some(Change::Put(object))))
            }
            Err(error) if error.is_conflict() => Ok(Attempt::Lost),
            Err(error) if is_absent(&error) && over_another => Ok(Attempt::Lost),
            Err(error) => Err(failed(key, error)),
        }
    }

    /// Where the kind's definition knows no status apart from the rest, as Calico's older ones, the whole is written.
    pub(super) async fn write_status(
        &self,
        object: KeyValue,
    ) -> Result<Option<Change>, StoreError> {
        let key = &object.key;
        let group = self.group(key.kind).await?;
        let body = body(group, key, &object.value, Some(&object.version))?;
        let path = group.one(key);
        let apart = format!("{path}/status");
        let put = |path, body| self.client.request(Method::PUT, path, Some(body));
        let mut answer = put(&apart, body.clone()).await;
        if answer.as_ref().is_err_and(Error::is_not_found) {
            answer = put(&path, body).await;
        }
        let answer = answer.map(|answer| custom::read(group, key.kind, &answer));
        match self.attempt(key, true, answer).await? {
            Attempt::Done(change) => Ok(change),
            Attempt::Lost => Err(conflict(key.clone(), self.get(key).await?)),
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
