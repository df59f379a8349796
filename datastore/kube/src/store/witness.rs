//! The object that this process wrote last, as it then was. In an older copy of the cluster that has counted further than what
//! was read from it, the numbers say nothing; but the object lost that write, and an object's resourceVersion never falls by
//! itself. One that is gone, or was written again since, says nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};

use http::Method;
use serde::Deserialize;

use super::{Shared, is_absent, store_error, unreadable};
use crate::metadata::Metadata;
use datastore::store::StoreError;
use datastore::version::Version;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Written {
    path: String,
    uid: String,
    number: u64,
}

#[derive(Default)]
pub(super) struct Witness(Mutex<Option<Written>>);

#[derive(Deserialize)]
struct Standing {
    metadata: Metadata,
}

impl Witness {
    /// An object was written, and is now this.
    pub(super) fn note(&self, path: &str, version: &Version) {
        if let (Some(uid), Some(number)) = (version.life(), version.number()) {
            *self.lock() = Some(Written {
                path: path.to_owned(),
                uid: uid.to_owned(),
                number,
            });
        }
    }

    pub(super) fn forget(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Written>> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Whether the object that was written last has lost that write.
    pub(super) async fn lost_a_write(&self) -> Result<bool, StoreError> {
        let written = self.witness.lock().clone();
        let Some(written) = written else {
            return Ok(false);
        };
        let answer = self.client.request(Method::GET, &written.path, None).await;
        let body = match answer {
            Ok(body) => body,
            Err(error) if is_absent(&error) => return Ok(false),
            Err(error) => return Err(store_error(error)),
        };
        let standing: Standing =
            serde_json::from_slice(&body).map_err(|error| unreadable(&error.to_string()))?;
        let standing = standing.metadata;
        let number: u64 = standing
            .resource_version
            .parse()
            .map_err(|_| unreadable("an object without resourceVersion"))?;
        Ok(standing.uid == written.uid && number < written.number)
    }
}
