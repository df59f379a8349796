//! Octets kept once each, called by dense counted ids.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

/// Runs of octets, each stored once, with reference counts kept by the caller.
///
/// A dense id costs 4 bytes where a counted pointer costs 8, and comparing two values is comparing two numbers.
#[derive(Debug)]
pub(crate) struct Interner {
    slots: Vec<Slot>,
    free: Vec<u32>,
    index: HashTable<u32>,
    hasher: FixedState,
}

/// Free exactly when nothing refers to it.
#[derive(Debug)]
struct Slot {
    octets: Box<[u8]>,
    references: u32,
    /// Of the octets, so that they are hashed once in their life.
    hash: u32,
}

/// A hash for the index, which looks at the highest bits and the lowest.
const fn spread(hash: u32) -> u64 {
    (hash as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Interner {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            hasher: FixedState::with_seed(seed),
        }
    }

    /// A seeded hash.
    pub(crate) fn hash(&self, octets: &[u8]) -> u32 {
        let [a, b, c, d, ..] = self.hasher.hash_one(octets).to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// The id of `octets`, with one more reference to it, and whether they were not there before.
    pub(crate) fn acquire(&mut self, octets: &[u8]) -> (u32, bool) {
        let short = self.hash(octets);
        let hash = spread(short);
        let slots = &self.slots;
        let same = |id: &u32| {
            let slot = &slots[*id as usize];
            slot.hash == short && *slot.octets == *octets
        };
        if let Some(id) = self.index.find(hash, same).copied() {
            self.slots[id as usize].references += 1;
            return (id, false);
        }
        let slot = Slot {
            octets: octets.into(),
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
        assert!(slot.references > 0, "id {id} is free");
        slot.references += 1;
    }

    /// One reference less; the octets go with the last one, and are returned then.
    pub(crate) fn release(&mut self, id: u32) -> Option<Box<[u8]>> {
        let slot = &mut self.slots[id as usize];
        assert!(slot.references > 0, "id {id} is free");
        slot.references -= 1;
        if slot.references > 0 {
            return None;
        }
        let octets = std::mem::take(&mut slot.octets);
        let hash = spread(slot.hash);
        self.index
            .find_entry(hash, |other| *other == id)
            .expect("what is referred to is indexed")
            .remove();
        self.free.push(id);
        Some(octets)
    }

    /// Gives memory back that a flood took.
    pub(crate) fn trim(&mut self) {
        let used = |slot: &Slot| slot.references > 0;
        let end = self.slots.iter().rposition(used).map_or(0, |last| last + 1);
        self.slots.truncate(end);
        self.slots.shrink_to_fit();
        self.free.retain(|id| (*id as usize) < end);
        self.free.shrink_to_fit();
        let slots = &self.slots;
        self.index
            .shrink_to_fit(|id| spread(slots[*id as usize].hash));
    }

    /// The octets of an id that has references.
    pub(crate) fn octets(&self, id: u32) -> &[u8] {
        let slot = &self.slots[id as usize];
        assert!(slot.references > 0, "id {id} is free");
        &slot.octets
    }

    /// Number of different runs of octets.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_octets_share_an_id_and_go_with_the_last_reference() {
        let mut interner = Interner::new(7);
        let (a, is_new) = interner.acquire(b"a");
        assert!(is_new);
        let (b, _) = interner.acquire(b"b");
        assert_eq!(interner.acquire(b"a"), (a, false));
        assert_ne!(a, b);
        assert_eq!(interner.release(a), None);
        assert_eq!(interner.octets(a), b"a");
        assert_eq!(interner.release(a).as_deref(), Some(&b"a"[..]));
        assert_eq!(interner.len(), 1);
        let (c, _) = interner.acquire(b"c");
        assert_eq!(c, a, "ids stay dense");
        assert_eq!(interner.octets(c), b"c");
    }

    #[test]
    fn many_values_are_found_again_after_growth() {
        let mut interner = Interner::new(1);
        let values = (0..1000u32).map(u32::to_be_bytes);
        let ids: Vec<u32> = values.clone().map(|n| interner.acquire(&n).0).collect();
        for (n, id) in values.zip(&ids) {
            assert_eq!(interner.acquire(&n).0, *id);
        }
    }
}
