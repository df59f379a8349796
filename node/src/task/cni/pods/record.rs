//! A pod's endpoint in the store: found, written and deleted, each passed to the calculation at once.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

use api::key::{Key, Kind};
use api::object::Object;
use cni::spec::error::CniError;
use datastore::scope::Scope;
use datastore::store::{Change, Expect, KeyValue, Op, StoreError};

use super::Pods;
use super::endpoint::{Identity, Record};
use super::error::store_error;
use crate::task::watch::echo;

/// How often the deletion of an endpoint that others keep writing is tried anew.
const ATTEMPTS: usize = 10;

/// Whose endpoint there is.
#[derive(Debug)]
pub(super) enum Found {
    /// The attachment's.
    Own(Record),
    /// Another attachment's under the same name, or one that cannot be read.
    Others(Option<Record>),
    /// Nobody's.
    Nothing,
}

impl Pods {
    /// The endpoint of an attachment.
    pub(super) async fn find(&self, pod: &Identity) -> Result<Found, CniError> {
        let stored = self.store.get(&pod.key).await;
        let found = match stored.map_err(|error| store_error(&error))? {
            None => Found::Nothing,
            Some(stored) => match Record::read(stored) {
                Some(record) if record.is_of(&pod.attachment) || record.names_no_container() => {
                    return Ok(Found::Own(record));
                }
                record => Found::Others(record),
            },
        };
        // A runtime that has lost the pod's name (CNI_ARGS) still knows the container.
        if pod.is_outside_kubernetes()
            && let Some(record) = self
                .records()
                .await?
                .into_iter()
                .find(|record| record.is_of(&pod.attachment))
        {
            return Ok(Found::Own(record));
        }
        Ok(found)
    }

    /// The endpoints of this node.
    pub(super) async fn records(&self) -> Result<Vec<Record>, CniError> {
        let scope = Scope::Node(self.node.clone());
        let listing = self.store.list(Kind::WorkloadEndpoint, &scope).await;
        let items = listing.map_err(|error| store_error(&error))?.items;
        let records = items.into_iter().filter_map(Record::read);
        Ok(records.filter(|record| record.is_on(&self.node)).collect())
    }

    /// The endpoint of an attachment, as an ADD of this process wrote it: good enough to be deleted, since a deletion is
    /// refused where something else stands there now.
    pub(super) fn written(&self, pod: &Identity) -> Option<Record> {
        let stored = self.last_written().get(&pod.key).cloned()?;
        Record::read(stored).filter(|record| record.is_of(&pod.attachment))
    }

    fn last_written(&self) -> MutexGuard<'_, BTreeMap<Key, KeyValue>> {
        // Nothing panics while it is held.
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers an endpoint that an ADD wrote.
    pub(super) fn note_written(&self, stored: KeyValue) {
        self.last_written().insert(stored.key.clone(), stored);
    }

    /// An endpoint is about to be deleted.
    pub(super) fn forget_written(&self, key: &Key) {
        self.last_written().remove(key);
    }

    /// Whether nothing of this name is known to stand in the store: neither the watch has told of it, nor did this process write it.
    pub(super) fn seems_absent(&self, pod: &Identity) -> bool {
        !self.endpoints.borrow().contains_key(&pod.key)
            && !self.last_written().contains_key(&pod.key)
    }

    /// What a write of the endpoint is to find: what stands there now, of the pod's former container or of an earlier ADD.
    pub(super) async fn standing(&self, pod: &Identity) -> Result<Expect, CniError> {
        let uid = pod.pod_uid();
        let condition = self.store.condition(&pod.key, uid).await;
        condition.map_err(|error| store_error(&error))
    }

    /// Writes the endpoint, if what stands there is still the same, and echoes it. Otherwise somebody has written a newer one
    /// since this ADD began.
    pub(super) async fn write_endpoint(
        &self,
        object: Object,
        expect: Expect,
    ) -> Result<(), CniError> {
        let put = Op::Put {
            key: object.key(),
            value: bytes::Bytes::from(object.encode()),
            expect,
        };
        let written = self.store.write(put).await;
        let written = written.map_err(|error| store_error(&error))?;
        echo(&self.calc, &written);
        if let Some(Change::Put(stored)) = written {
            self.note_written(stored);
        }
        Ok(())
    }

    /// Deletes an endpoint that was read or written; what was written there since is deleted as long as it is the same
    /// attachment's.
    pub(super) async fn delete_record(&self, record: &Record) -> Result<(), StoreError> {
        self.forget_written(record.key());
        let mut version = record.stored.version.clone();
        for _ in 0..ATTEMPTS {
            let delete = Op::Delete {
                key: record.key().clone(),
                expect: Expect::Version(version),
            };
            match self.store.write(delete).await {
                Ok(deleted) => {
                    echo(&self.calc, &deleted);
                    return Ok(());
                }
                Err(StoreError::Conflict { current, .. }) => {
                    let current = current.and_then(|current| Record::read(*current));
                    match current.filter(|current| current.is_same_attachment(record)) {
                        Some(current) => version = current.stored.version,
                        // Somebody else deleted it or wrote another's: either way it is no longer ours.
                        None => return Ok(()),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let text = format!("{}: others keep changing it", record.key());
        Err(StoreError::Unavailable(text.into()))
    }
}
