//! A pod's endpoint in the store: found, written and deleted, each passed to the calculation at once.

use api::key::Kind;
use api::object::Object;
use cni::spec::error::CniError;
use datastore::scope::Scope;
use datastore::store::{Expect, Op, StoreError};

use super::Pods;
use super::endpoint::{Identity, Record};
use super::error::store_error;
use crate::task::watch::echo;

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

    /// What a write of the endpoint is to find: what stands there now, of the pod's former container or of an earlier ADD.
    pub(super) async fn standing(&self, pod: &Identity) -> Result<Expect, CniError> {
        let stored = self.store.get(&pod.key).await;
        let stored = stored.map_err(|error| store_error(&error))?;
        Ok(stored.map_or(Expect::Absent, |stored| Expect::Version(stored.version)))
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
        Ok(())
    }

    /// Deletes an endpoint that was read.
    pub(super) async fn delete_record(&self, record: &Record) -> Result<(), StoreError> {
        let delete = Op::Delete {
            key: record.key().clone(),
            expect: Expect::Version(record.stored.version.clone()),
        };
        match self.store.write(delete).await {
            Ok(deleted) => {
                echo(&self.calc, &deleted);
                Ok(())
            }
            // Somebody else deleted it or wrote a newer one: either way it is no longer ours.
            Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
