//! A mailbox that coalesces: at most one pending value per key, so a slow reader sees the latest state of each key
//! and never a queue that grows.
//!
//! Keys are handed out in the order in which they first became pending; a newer value takes the place of the pending
//! one and keeps its position. So a marker put after some keys ("the first listing is complete") is never read before
//! them. What bounds a mailbox is the number of different keys, that is, of objects.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Makes a mailbox.
pub fn mailbox<K: Eq + Hash + Clone, V>() -> (Sender<K, V>, Receiver<K, V>) {
    let shared = Arc::new(Shared {
        pending: Mutex::new(Pending {
            slots: BTreeMap::new(),
            position: HashMap::new(),
            next: 0,
            senders: 1,
        }),
        changed: Notify::new(),
    });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

struct Shared<K, V> {
    pending: Mutex<Pending<K, V>>,
    changed: Notify,
}

struct Pending<K, V> {
    slots: BTreeMap<u64, (K, V)>,
    position: HashMap<K, u64>,
    next: u64,
    senders: usize,
}

impl<K, V> Shared<K, V> {
    /// The lock is held for a few map operations and never across an await.
    fn lock(&self) -> MutexGuard<'_, Pending<K, V>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The side that writes.
pub struct Sender<K, V>(Arc<Shared<K, V>>);

impl<K: Eq + Hash + Clone, V> Sender<K, V> {
    /// Makes `value` the pending value of `key`.
    pub fn put(&self, key: K, value: V) {
        {
            let mut pending = self.0.lock();
            let position = pending.position.get(&key).copied();
            if let Some(slot) = position.and_then(|at| pending.slots.get_mut(&at)) {
                slot.1 = value;
            } else {
                let at = pending.next;
                pending.next += 1;
                pending.position.insert(key.clone(), at);
                pending.slots.insert(at, (key, value));
            }
        }
        self.0.changed.notify_one();
    }
}

impl<K: Eq + Hash + Clone, V> Sender<K, V> {
    /// Makes `value` the pending value of `key`, behind everything pending, and drops the pending values of all keys
    /// that `superseded` names: for a snapshot that holds whatever they said.
    pub fn put_instead(&self, key: K, value: V, superseded: impl Fn(&K) -> bool) {
        {
            let mut pending = self.0.lock();
            let Pending {
                slots, position, ..
            } = &mut *pending;
            slots.retain(|_, (pending_key, _)| {
                let keep = *pending_key != key && !superseded(pending_key);
                if !keep {
                    position.remove(pending_key);
                }
                keep
            });
            let at = pending.next;
            pending.next += 1;
            pending.position.insert(key.clone(), at);
            pending.slots.insert(at, (key, value));
        }
        self.0.changed.notify_one();
    }
}

impl<K, V> Clone for Sender<K, V> {
    fn clone(&self) -> Self {
        self.0.lock().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<K, V> Drop for Sender<K, V> {
    fn drop(&mut self) {
        self.0.lock().senders -= 1;
        self.0.changed.notify_one();
    }
}

/// The side that reads.
pub struct Receiver<K, V>(Arc<Shared<K, V>>);

impl<K: Eq + Hash + Clone, V> Receiver<K, V> {
    /// Waits until something is pending and takes at most `room` keys. `None` when nothing is pending and every
    /// sender is gone. Dropping the future loses nothing: keys are taken in the same step in which it completes.
    pub async fn take(&mut self, room: usize) -> Option<Vec<(K, V)>> {
        loop {
            // `notify_one` stores a permit when nobody waits, so a `put` between the look and the wait is not lost.
            {
                let mut pending = self.0.lock();
                if !pending.slots.is_empty() {
                    return Some(pending.take(room));
                }
                if pending.senders == 0 {
                    return None;
                }
            }
            self.0.changed.notified().await;
        }
    }

    /// Takes at most `room` keys without waiting.
    pub fn take_now(&mut self, room: usize) -> Vec<(K, V)> {
        self.0.lock().take(room)
    }
}

impl<K: Eq + Hash + Clone, V> Pending<K, V> {
    fn take(&mut self, room: usize) -> Vec<(K, V)> {
        let mut taken = Vec::with_capacity(room.min(self.slots.len()));
        while taken.len() < room {
            let Some((_, slot)) = self.slots.pop_first() else {
                break;
            };
            self.position.remove(&slot.0);
            taken.push(slot);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Put(u8, u32),
        Take(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        prop::collection::vec(
            prop_oneof![
                3 => (0_u8..12, any::<u32>()).prop_map(|(key, value)| Step::Put(key, value)),
                1 => (1_usize..5).prop_map(Step::Take),
            ],
            0..200,
        )
    }

    proptest! {
        #[test]
        fn reader_ends_with_the_latest_value_of_every_key_and_at_most_one_is_pending_per_key(
            steps in steps()
        ) {
            let (sender, mut receiver) = mailbox::<u8, u32>();
            let mut written = BTreeMap::new();
            let mut seen = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Put(key, value) => {
                        written.insert(key, value);
                        sender.put(key, value);
                    }
                    Step::Take(room) => {
                        let taken = receiver.take_now(room);
                        prop_assert!(taken.len() <= room);
                        seen.extend(taken);
                    }
                }
                let pending = receiver.0.lock();
                prop_assert!(pending.slots.len() <= written.len());
                prop_assert_eq!(pending.slots.len(), pending.position.len());
            }
            seen.extend(receiver.take_now(usize::MAX));
            prop_assert_eq!(seen, written);
        }
    }

    #[test]
    fn marker_put_after_a_key_is_read_after_it_even_when_the_key_changes_again() {
        let (sender, mut receiver) = mailbox();
        sender.put("object", 1);
        sender.put("in sync", 0);
        sender.put("object", 2);
        assert_eq!(receiver.take_now(9), vec![("object", 2), ("in sync", 0)]);
    }

    #[test]
    fn snapshot_drops_what_it_supersedes_and_comes_last() {
        let (sender, mut receiver) = mailbox();
        sender.put("snapshot", 0);
        sender.put("route a", 1);
        sender.put("object", 2);
        sender.put_instead("snapshot", 3, |key| key.starts_with("route"));
        sender.put("route a", 4);
        assert_eq!(
            receiver.take_now(9),
            vec![("object", 2), ("snapshot", 3), ("route a", 4)]
        );
    }

    #[tokio::test]
    async fn waiting_reader_wakes_for_a_value_and_ends_with_the_last_sender() {
        let (sender, mut receiver) = mailbox();
        let other = sender.clone();
        let reader = tokio::spawn(async move {
            let first = receiver.take(1).await;
            let rest = receiver.take(9).await;
            (first, rest, receiver.take(1).await)
        });
        sender.put(1, 'a');
        other.put(2, 'b');
        drop(sender);
        drop(other);
        let (first, rest, end) = reader.await.unwrap();
        assert_eq!(first.unwrap().len(), 1);
        assert_eq!(rest, Some(vec![(2, 'b')]));
        assert_eq!(end, None);
    }
}
