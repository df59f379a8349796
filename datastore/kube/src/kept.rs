//! Endpoints in files of this node: what Pods have no room for, and endpoints of further interfaces and of containers
//! outside Kubernetes as a whole. The folder may vanish at a reboot: so do the devices that it tells of.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{Error, ErrorKind};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use api::key::Key;
use bytes::Bytes;
use datastore::scope::Scope;
use datastore::store::{Change, KeyValue};
use datastore::version::Version;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tracing::warn;

use crate::pod::PodName;

/// Deletions that are remembered, for watches that go on where they were.
const DELETIONS_MAX: usize = 1000;

/// The folder, and what stands in it.
pub(crate) struct Kept {
    folder: PathBuf,
    state: Mutex<State>,
    latest: watch::Sender<u64>,
}

struct State {
    records: BTreeMap<Key, Record>,
    /// Deletions by when they were.
    deleted: BTreeMap<u64, Key>,
    next: u64,
    /// Names this process in versions.
    run: u64,
}

struct Record {
    at: u64,
    /// `None`: deleted.
    value: Option<Bytes>,
}

/// A file.
#[derive(Serialize, Deserialize)]
struct File {
    key: Key,
    endpoint: Box<RawValue>,
}

impl State {
    fn version(&self, at: u64) -> Version {
        Version::read(&format!("file-{:x}-{at}", self.run))
    }

    fn object(&self, key: &Key) -> Option<KeyValue> {
        let record = self.records.get(key)?;
        Some(KeyValue {
            key: key.clone(),
            value: record.value.clone()?,
            version: self.version(record.at),
        })
    }

    fn set(&mut self, key: &Key, value: Option<Bytes>) -> u64 {
        let at = self.next;
        self.next += 1;
        if value.is_none() {
            self.deleted.insert(at, key.clone());
            if self.deleted.len() > DELETIONS_MAX
                && let Some((at, key)) = self.deleted.pop_first()
                && self.records.get(&key).is_some_and(|record| record.at == at)
            {
                self.records.remove(&key);
            }
        }
        self.records.insert(key.clone(), Record { at, value });
        at
    }
}

impl Kept {
    /// Reads what a former process left. What cannot be read is left alone and said.
    pub(crate) fn open(folder: PathBuf) -> Self {
        let kept = Self {
            folder,
            state: Mutex::new(State {
                records: BTreeMap::new(),
                deleted: BTreeMap::new(),
                next: 1,
                run: RandomState::new().hash_one(0),
            }),
            latest: watch::Sender::new(0),
        };
        let Ok(entries) = std::fs::read_dir(&kept.folder) else {
            return kept;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let read = std::fs::read(&path).and_then(|text| Ok(serde_json::from_slice(&text)?));
            match read {
                Ok(File { key, endpoint }) => {
                    let value = Bytes::from(endpoint.get().to_owned());
                    kept.lock().set(&key, Some(value));
                }
                Err(error) => warn!(path = %path.display(), %error, "endpoint's file"),
            }
        }
        kept
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An endpoint's file.
    pub(crate) fn get(&self, key: &Key) -> Option<KeyValue> {
        self.lock().object(key)
    }

    /// Those that no Pod holds.
    pub(crate) fn list(&self, scope: &Scope) -> Vec<KeyValue> {
        let state = self.lock();
        let keys = state.records.keys();
        keys.filter(|key| PodName::of(key).is_none() && scope.holds(key))
            .filter_map(|key| state.object(key))
            .collect()
    }

    /// Keys of Pods' endpoints.
    pub(crate) fn of_pods(&self) -> Vec<Key> {
        let state = self.lock();
        let there = state
            .records
            .iter()
            .filter(|(_, record)| record.value.is_some());
        there
            .map(|(key, _)| key.clone())
            .filter(|key| PodName::of(key).is_some())
            .collect()
    }

    /// Writes a file if `may` says so of what stands there now; else answers that.
    pub(crate) fn put_if(
        &self,
        key: &Key,
        value: &Bytes,
        may: impl FnOnce(Option<&KeyValue>) -> bool,
    ) -> Result<Result<KeyValue, Option<KeyValue>>, Error> {
        let text = std::str::from_utf8(value)
            .map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
        let file = File {
            key: key.clone(),
            endpoint: RawValue::from_string(text.to_owned())?,
        };
        let written = {
            let mut state = self.lock();
            let current = state.object(key);
            if !may(current.as_ref()) {
                return Ok(Err(current));
            }
            std::fs::create_dir_all(&self.folder)?;
            let path = self.path(key);
            let new = path.with_extension("new");
            std::fs::write(&new, serde_json::to_vec(&file)?)?;
            std::fs::rename(&new, &path)?;
            let at = state.set(key, Some(value.clone()));
            self.latest.send_replace(at);
            state.object(key)
        };
        Ok(written.ok_or(None))
    }

    /// Deletes a file if `may` says so of what stands there now; else answers that. `Ok(None)`: there was none.
    pub(crate) fn remove_if(
        &self,
        key: &Key,
        may: impl FnOnce(Option<&KeyValue>) -> bool,
    ) -> Result<Result<Option<Version>, Option<KeyValue>>, Error> {
        let mut state = self.lock();
        let current = state.object(key);
        if !may(current.as_ref()) {
            return Ok(Err(current));
        }
        if current.is_none() {
            return Ok(Ok(None));
        }
        match std::fs::remove_file(self.path(key)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let at = state.set(key, None);
        self.latest.send_replace(at);
        Ok(Ok(Some(state.version(at))))
    }

    /// Changes of endpoints that no Pod holds, after a moment, and the moment up to which they are.
    pub(crate) fn changes(&self, scope: &Scope, after: u64) -> (Vec<Change>, u64) {
        let state = self.lock();
        let mut changes: Vec<(u64, Change)> = state
            .records
            .iter()
            .filter(|(key, record)| {
                record.at > after && PodName::of(key).is_none() && scope.holds(key)
            })
            .map(|(key, record)| {
                let change = state.object(key).map_or_else(
                    || Change::Delete {
                        key: key.clone(),
                        version: state.version(record.at),
                    },
                    Change::Put,
                );
                (record.at, change)
            })
            .collect();
        changes.sort_by_key(|(at, _)| *at);
        let changes = changes.into_iter().map(|(_, change)| change).collect();
        (changes, state.next - 1)
    }

    /// Says when there is another change.
    pub(crate) fn follow(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }

    fn path(&self, key: &Key) -> PathBuf {
        let digest = Sha256::digest(format!("{}/{}", key.namespace, key.name));
        let name: String = digest
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        self.folder.join(name).with_extension("json")
    }
}
