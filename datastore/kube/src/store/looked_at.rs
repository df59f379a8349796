//! Pods as they were last read one by one: the write that follows a look needs no look of its own. It is made on the condition
//! that the Pod is still the same, so that one which is no longer so costs a request and nothing else.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use api::key::Key;
use datastore::store::KeyValue;

use crate::pod::KubePod;

/// Looks that no write may ever follow are forgotten beyond so many.
const LOOKS_MAX: usize = 64;

/// A Pod, and the endpoint that it holds.
type Look = (KubePod, Option<KeyValue>);

#[derive(Default)]
pub(super) struct LookedAt(Mutex<BTreeMap<Key, Look>>);

impl LookedAt {
    pub(super) fn put(&self, key: &Key, pod: KubePod, endpoint: Option<KeyValue>) {
        let mut looks = self.lock();
        looks.insert(key.clone(), (pod, endpoint));
        if looks.len() > LOOKS_MAX {
            looks.retain(|of, _| of == key);
        }
    }

    /// The last look at it, which is forgotten.
    pub(super) fn take(&self, key: &Key) -> Option<Look> {
        self.lock().remove(key)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Look>> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
