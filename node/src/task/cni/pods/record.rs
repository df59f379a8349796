//! A pod's endpoint in the store: written and deleted, each told to the calculation at once.

use api::object::Object;
use cni::spec::error::CniError;
use datastore::store::{Expect, KeyValue, Op, StoreError, WatchEvent};

use super::endpoint::{self, Identity};
use super::{Pods, store_error};
use crate::task::watch::echo;

impl Pods {
    /// Writes the endpoint and echoes it.
    pub(super) async fn write_endpoint(&self, object: Object) -> Result<(), CniError> {
        let key = object.key();
        let value = bytes::Bytes::from(object.encode());
        let put = Op::Put {
            key: key.clone(),
            value: value.clone(),
            expect: Expect::Any,
        };
        let revision = self
            .store
            .transact(vec![put])
            .await
            .map_err(|error| store_error(&error))?;
        let written = KeyValue {
            key,
            value,
            revision,
        };
        echo(&self.calc, &[WatchEvent::Put(written)]);
        Ok(())
    }

    /// Deletes the endpoint if it is this container's.
    pub(super) async fn delete_endpoint(
        &self,
        pod: &Identity,
        container: &str,
    ) -> Result<(), StoreError> {
        let stored = self.store.get(&pod.key).await?;
        match &stored {
            Some(found) if endpoint::container_of(found).is_none_or(|id| id == container) => {
                self.delete_at(pod, found).await
            }
            _ => Ok(()),
        }
    }

    /// Deletes the endpoint that was read, if there was one.
    pub(super) async fn delete_stored(
        &self,
        pod: &Identity,
        stored: Option<&KeyValue>,
    ) -> Result<(), CniError> {
        match stored {
            Some(found) => self
                .delete_at(pod, found)
                .await
                .map_err(|error| store_error(&error)),
            None => Ok(()),
        }
    }

    async fn delete_at(&self, pod: &Identity, found: &KeyValue) -> Result<(), StoreError> {
        let delete = Op::Delete {
            key: pod.key.clone(),
            expect: Expect::Revision(found.revision),
        };
        match self.store.transact(vec![delete]).await {
            Ok(revision) => {
                let key = pod.key.clone();
                echo(&self.calc, &[WatchEvent::Delete { key, revision }]);
                Ok(())
            }
            // Somebody else deleted it or wrote a newer one: either way it is no longer ours.
            Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
