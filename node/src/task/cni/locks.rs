//! One request at a time for each container and for each device.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

/// Locks by name. A name takes memory only while somebody holds or awaits its lock.
#[derive(Debug, Default)]
pub struct Locks(Mutex<BTreeMap<String, Arc<Turn<()>>>>);

impl Locks {
    /// Waits for the name's turn, which ends when the guard is dropped.
    pub(super) async fn lock(&self, name: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Only this map holds those that nobody uses: nobody can be about to, as that needs the map's lock.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(name.to_owned()).or_default())
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn same_name_waits_and_other_names_do_not() {
        let locks = Arc::new(Locks::default());
        let first = locks.lock("a").await;
        let other = locks.lock("b").await;
        let waiting = tokio::spawn({
            let locks = Arc::clone(&locks);
            async move { drop(locks.lock("a").await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
        drop(other);
        drop(locks.lock("c").await);
        drop(locks.lock("d").await);
        assert_eq!(
            locks.0.lock().unwrap().len(),
            1,
            "only the last name is left"
        );
    }
}
