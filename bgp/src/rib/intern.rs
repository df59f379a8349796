//! Values kept once each, called by dense counted ids.

use std::hash::{BuildHasher, Hash};

use foldhash::fast::FixedState;
use hashbrown::HashTable;

/// Values of `T`, each stored once, with reference counts kept by the caller.
///
/// A dense id costs 4 bytes where a counted pointer costs 8, and comparing two values is comparing two numbers.
#[derive(Debug)]
pub(crate) struct Interner<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    index: HashTable<u32>,
    hasher: FixedState,
}

#[derive(Debug)]
struct Slot<T> {
    value: Option<T>,
    references: u32,
    /// Of the value, so that it is hashed once in its life. It lies in the room that alignment leaves.
    hash: u32,
}

/// A hash for the index, which looks at the highest bits and the lowest.
const fn spread(hash: u32) -> u64 {
    (hash as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl<T: Hash + Eq> Interner<T> {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            hasher: FixedState::with_seed(seed),
        }
    }

    /// The id of `value`, with one more reference to it, and whether it was not there before.
    pub(crate) fn acquire(&mut self, value: T) -> (u32, bool) {
        let [a, b, c, d, ..] = self.hasher.hash_one(&value).to_le_bytes();
        let short = u32::from_le_bytes([a, b, c, d]);
        let hash = spread(short);
        let slots = &self.slots;
        let same = |id: &u32| {
            let slot = &slots[*id as usize];
            slot.hash == short && slot.value.as_ref() == Some(&value)
        };
        if let Some(id) = self.index.find(hash, same).copied() {
            self.slots[id as usize].references += 1;
            return (id, false);
        }
        let slot = Slot {
            value: Some(value),
            references: 1,
            hash: short,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id as usize] = slot;
                id
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).expect("memory ends before ids do")
            }
        };
        let slots = &self.slots;
        self.index
            .insert_unique(hash, id, |id| spread(slots[*id as usize].hash));
        (id, true)
    }

    /// One more reference to an id that has some.
    pub(crate) fn retain(&mut self, id: u32) {
        let slot = &mut self.slots[id as usize];
        assert!(slot.value.is_some(), "id {id} is free");
        slot.references += 1;
    }

    /// One reference less; the value goes with the last one, and is returned then.
    pub(crate) fn release(&mut self, id: u32) -> Option<T> {
        let slot = &mut self.slots[id as usize];
        assert!(slot.references > 0, "id {id} is free");
        slot.references -= 1;
        if slot.references > 0 {
            return None;
        }
        let value = slot.value.take().expect("a referenced slot has a value");
        let hash = spread(slot.hash);
        self.index
            .find_entry(hash, |other| *other == id)
            .expect("a referenced value is indexed")
            .remove();
        self.free.push(id);
        Some(value)
    }

    /// The value of an id that has references.
    pub(crate) fn value(&self, id: u32) -> &T {
        self.slots[id as usize]
            .value
            .as_ref()
            .expect("an id in use has a value")
    }

    /// Number of values.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_share_an_id_and_go_with_the_last_reference() {
        let mut interner = Interner::new(7);
        let (a, is_new) = interner.acquire("a".to_owned());
        assert!(is_new);
        let (b, _) = interner.acquire("b".to_owned());
        assert_eq!(interner.acquire("a".to_owned()), (a, false));
        assert_ne!(a, b);
        assert_eq!(interner.release(a), None);
        assert_eq!(interner.value(a), "a");
        assert_eq!(interner.release(a), Some("a".to_owned()));
        assert_eq!(interner.len(), 1);
        let (c, _) = interner.acquire("c".to_owned());
        assert_eq!(c, a, "ids stay dense");
        assert_eq!(interner.value(c), "c");
    }

    #[test]
    fn many_values_are_found_again_after_growth() {
        let mut interner = Interner::new(1);
        let ids: Vec<u32> = (0..1000u32).map(|n| interner.acquire(n).0).collect();
        for (n, id) in (0..1000u32).zip(&ids) {
            assert_eq!(interner.acquire(n).0, *id);
        }
    }
}
