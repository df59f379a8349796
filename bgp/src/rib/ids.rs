//! Sets of prefixes.

use crate::rib::table::PrefixId;

/// A set of prefix ids, one bit for each id of the table: a million prefixes take 125 KB, however they came here.
#[derive(Debug, Default)]
pub(crate) struct IdSet {
    words: Vec<u64>,
    count: usize,
    /// No word before this one has a bit.
    first: usize,
}

impl IdSet {
    pub(crate) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn contains(&self, id: PrefixId) -> bool {
        let (word, bit) = place(id);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Adds an id; false when it was there.
    pub(crate) fn insert(&mut self, id: PrefixId) -> bool {
        let (word, bit) = place(id);
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += usize::from(is_new);
        self.first = self.first.min(word);
        is_new
    }

    /// Removes an id; false when it was not there.
    pub(crate) fn remove(&mut self, id: PrefixId) -> bool {
        let (word, bit) = place(id);
        let Some(word) = self.words.get_mut(word) else {
            return false;
        };
        let was_there = *word & bit != 0;
        *word &= !bit;
        self.count -= usize::from(was_there);
        was_there
    }

    /// Removes the lowest id. The last one takes the set's memory with it.
    pub(crate) fn pop_first(&mut self) -> Option<PrefixId> {
        while self.count > 0 {
            let word = &mut self.words[self.first];
            if *word == 0 {
                self.first += 1;
                continue;
            }
            let id = id_at(self.first, word.trailing_zeros());
            *word &= *word - 1;
            self.count -= 1;
            if self.count == 0 {
                *self = Self::default();
            }
            return Some(id);
        }
        None
    }

    /// Gives memory back when the set is empty.
    pub(crate) fn trim(&mut self) {
        if self.count == 0 {
            *self = Self::default();
        }
    }
}

fn place(id: PrefixId) -> (usize, u64) {
    (id.index() / 64, 1 << (id.index() % 64))
}

fn id_at(word: usize, bit: u32) -> PrefixId {
    let word = u32::try_from(word).expect("ids are 32 bit");
    PrefixId(word * 64 + bit)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(steps in prop::collection::vec((0..3u8, 0..300u32), 0..200)) {
            let (mut set, mut model) = (IdSet::default(), BTreeSet::new());
            for (step, n) in steps {
                match step {
                    0 => prop_assert_eq!(set.insert(PrefixId(n)), model.insert(n)),
                    1 => prop_assert_eq!(set.remove(PrefixId(n)), model.remove(&n)),
                    _ => prop_assert_eq!(set.pop_first(), model.pop_first().map(PrefixId)),
                }
                prop_assert_eq!(set.contains(PrefixId(n)), model.contains(&n));
                prop_assert_eq!((set.count, set.is_empty()), (model.len(), model.is_empty()));
            }
            while let Some(id) = set.pop_first() {
                prop_assert_eq!(Some(id.0), model.pop_first());
            }
            set.trim();
            prop_assert_eq!(set.words.capacity(), 0, "an empty set takes no room");
        }
    }
}
