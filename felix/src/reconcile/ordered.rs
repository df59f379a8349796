//! A map in the order of its keys that finds the key beside the last one at once.
//!
//! The kernel shows its routes in the order of keys, BGP's are wanted in that order, and each is looked up several times while it is
//! written. The standard library's tree goes down all its levels each time, and after insertions in order half of each node is empty. Here
//! keys and values stand in chunks that are full then; a tree has the chunks only.
//!
//! ```text
//! index: least key ► chunk        chunks: [ key value │ key value │ … ]  at most CHUNK each, sorted, none is empty
//!                                                        ▲ finger: the last one that was changed
//! ```

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Pairs of a chunk: an insertion moves half of them.
const CHUNK: usize = 32;

#[derive(Debug)]
pub(super) struct Ordered<K, V> {
    /// A bound below which the chunk has no key, and above which no chunk before has one.
    index: BTreeMap<K, usize>,
    chunks: Vec<Vec<(K, V)>>,
    /// Chunks that are empty, to be used again.
    free: Vec<usize>,
    finger: Place,
    until: Until<K>,
}

/// Where the chunk of the finger ends: a key below that, and above the chunk's last one, would be its next.
#[derive(Debug)]
enum Until<K> {
    Unknown,
    Below(K),
    Endless,
}

/// Chunk and position in it.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    chunk: usize,
    at: usize,
}

impl<K: Ord + Clone, V> Ordered<K, V> {
    pub(super) const fn new() -> Self {
        Self {
            index: BTreeMap::new(),
            chunks: Vec::new(),
            free: Vec::new(),
            finger: Place { chunk: 0, at: 0 },
            until: Until::Unknown,
        }
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        let place = self.find(key).ok()?;
        self.pair(place).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let place = self.find(key).ok()?;
        self.point_at(place);
        let chunk = self.chunks.get_mut(place.chunk)?;
        chunk.get_mut(place.at).map(|(_, value)| value)
    }

    pub(super) fn contains_key(&self, key: &K) -> bool {
        self.find(key).is_ok()
    }

    /// The value of a key, made if there is none.
    pub(super) fn or_default(&mut self, key: &K) -> &mut V
    where
        V: Default,
    {
        let place = match self.find(key) {
            Ok(place) => place,
            Err(place) => self.insert(key.clone(), V::default(), place),
        };
        self.point_at(place);
        &mut self.chunks[place.chunk][place.at].1
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let place = self.find(key).ok()?;
        let chunk = self.chunks.get_mut(place.chunk)?;
        let (_, value) = chunk.remove(place.at);
        if chunk.is_empty() {
            *chunk = Vec::new();
            let (bound, _) = self.index.range(..=key).next_back()?;
            let bound = bound.clone();
            self.index.remove(&bound);
            self.until = Until::Unknown;
            self.free.push(place.chunk);
        } else if chunk.len() * 4 <= chunk.capacity() {
            chunk.shrink_to(chunk.len() * 2);
        }
        Some(value)
    }

    /// All, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let chunks = self
            .index
            .values()
            .filter_map(|chunk| self.chunks.get(*chunk));
        chunks.flatten().map(|(key, value)| (key, value))
    }

    /// All from this key on, in order.
    pub(super) fn from<'a>(
        &'a self,
        key: &K,
    ) -> impl Iterator<Item = (&'a K, &'a V)> + use<'a, K, V> {
        let first = self.index.range(..=key).next_back();
        let (bound, rest) = match first {
            Some((bound, chunk)) => {
                let chunk = &self.chunks[*chunk];
                let at = chunk.partition_point(|(other, _)| other < key);
                (Bound::Excluded(bound), &chunk[at..])
            }
            None => (Bound::Unbounded, &[][..]),
        };
        let others = self.index.range((bound, Bound::Unbounded));
        let others = others.flat_map(|(_, chunk)| &self.chunks[*chunk]);
        rest.iter().chain(others).map(|(key, value)| (key, value))
    }

    fn pair(&self, place: Place) -> Option<&(K, V)> {
        self.chunks.get(place.chunk)?.get(place.at)
    }

    /// Where a key is, or would be in the chunk that has its neighbours.
    fn find(&self, key: &K) -> Result<Place, Place> {
        if let Some(found) = self.beside(key) {
            return found;
        }
        let before = self.index.range(..=key).next_back();
        let Some((_, &chunk)) = before.or_else(|| self.index.first_key_value()) else {
            return Err(Place::default());
        };
        let pairs = self.chunks.get(chunk).map_or(&[][..], Vec::as_slice);
        match pairs.binary_search_by(|(other, _)| other.cmp(key)) {
            Ok(at) => Ok(Place { chunk, at }),
            Err(at) => Err(Place { chunk, at }),
        }
    }

    /// The same, where the finger tells it: a key that is the finger's own, the next one, or between both.
    fn beside(&self, key: &K) -> Option<Result<Place, Place>> {
        let Place { chunk, at } = self.finger;
        let pairs = self.chunks.get(chunk)?;
        let next = Place { chunk, at: at + 1 };
        match key.cmp(&pairs.get(at)?.0) {
            Ordering::Less => return None,
            Ordering::Equal => return Some(Ok(self.finger)),
            Ordering::Greater => {}
        }
        match (pairs.get(next.at), &self.until) {
            (Some((other, _)), _) => match key.cmp(other) {
                Ordering::Less => Some(Err(next)),
                Ordering::Equal => Some(Ok(next)),
                Ordering::Greater => None,
            },
            (None, Until::Below(bound)) => (key < bound).then_some(Err(next)),
            (None, Until::Endless) => Some(Err(next)),
            (None, Until::Unknown) => None,
        }
    }

    fn point_at(&mut self, place: Place) {
        let is_known = !matches!(self.until, Until::Unknown);
        let before = std::mem::replace(&mut self.finger, place);
        if before.chunk == place.chunk && is_known {
            return;
        }
        let last = self.chunks.get(place.chunk).and_then(|pairs| pairs.last());
        let next = last.and_then(|(last, _)| {
            let after = (Bound::Excluded(last), Bound::Unbounded);
            self.index.range(after).next()
        });
        self.until = match next {
            Some((bound, _)) => Until::Below(bound.clone()),
            None => Until::Endless,
        };
    }

    /// Puts a pair where [`Ordered::find`] said that it would be.
    fn insert(&mut self, key: K, value: V, place: Place) -> Place {
        let Place { chunk, at } = place;
        match self.index.first_entry() {
            None => return self.begin(key.clone(), vec![(key, value)]),
            Some(first) if *first.key() > key => {
                let chunk = first.remove();
                self.index.insert(key.clone(), chunk);
                self.until = Until::Unknown;
            }
            Some(_) => {}
        }
        let pairs = &mut self.chunks[chunk];
        if pairs.len() < CHUNK {
            pairs.insert(at, (key, value));
            return place;
        }
        if at == CHUNK {
            // What comes in order leaves full chunks behind.
            return self.begin(key.clone(), vec![(key, value)]);
        }
        let upper = pairs.split_off(CHUNK / 2);
        let bound = upper[0].0.clone();
        let upper = self.begin(bound, upper);
        let place = match at.checked_sub(CHUNK / 2) {
            None | Some(0) => place,
            Some(at) => Place { at, ..upper },
        };
        self.chunks[place.chunk].insert(place.at, (key, value));
        place
    }

    /// Takes in a chunk; the place of its first pair.
    fn begin(&mut self, bound: K, pairs: Vec<(K, V)>) -> Place {
        let chunk = match self.free.pop() {
            Some(chunk) => {
                self.chunks[chunk] = pairs;
                chunk
            }
            None => {
                self.chunks.push(pairs);
                self.chunks.len() - 1
            }
        };
        self.index.insert(bound, chunk);
        self.until = Until::Unknown;
        Place { chunk, at: 0 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Set(u16, u8),
        Remove(u16),
        /// A run of keys in order, as BGP brings them.
        Run(u16, u16),
        /// And as it takes them away.
        RunAway(u16, u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = 0..600_u16;
        prop_oneof![
            6 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Step::Set(key, value)),
            6 => key.clone().prop_map(Step::Remove),
            1 => (key.clone(), 0..200_u16).prop_map(|(from, count)| Step::Run(from, count)),
            1 => (key, 0..200_u16).prop_map(|(from, count)| Step::RunAway(from, count)),
        ]
    }

    /// What of the two differs, for each way to look at them.
    fn differences(ordered: &Ordered<u16, u8>, tree: &BTreeMap<u16, u8>) -> Vec<String> {
        let mut found = Vec::new();
        if !ordered.iter().eq(tree) {
            found.push("all".to_owned());
        }
        for key in 0..=u16::try_from(tree.len()).unwrap().max(800) {
            if ordered.get(&key) != tree.get(&key)
                || ordered.contains_key(&key) != tree.contains_key(&key)
            {
                found.push(format!("value of {key}"));
            }
            if key % 37 == 0 && !ordered.from(&key).eq(tree.range(key..)) {
                found.push(format!("from {key} on"));
            }
        }
        let bounds = ordered.index.keys().zip(ordered.index.values());
        for (bound, chunk) in bounds {
            let pairs = &ordered.chunks[*chunk];
            if pairs.is_empty() || pairs.len() > CHUNK || pairs[0].0 < *bound {
                found.push(format!("chunk at {bound}"));
            }
        }
        found
    }

    fn take(step: Step, ordered: &mut Ordered<u16, u8>, tree: &mut BTreeMap<u16, u8>) {
        match step {
            Step::Set(key, value) => {
                *ordered.or_default(&key) = value;
                tree.insert(key, value);
            }
            Step::Remove(key) => assert_eq!(ordered.remove(&key), tree.remove(&key)),
            Step::Run(from, count) => {
                for key in from..from + count {
                    *ordered.or_default(&key) = 7;
                    *ordered.get_mut(&key).unwrap() += 1;
                    tree.insert(key, 8);
                }
            }
            Step::RunAway(from, count) => {
                for key in from..from + count {
                    assert_eq!(ordered.remove(&key), tree.remove(&key));
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_is_the_standard_librarys_map_after_any_history(
            steps in proptest::collection::vec(step(), 0..80),
        ) {
            let (mut ordered, mut tree) = (Ordered::new(), BTreeMap::new());
            for step in steps {
                take(step, &mut ordered, &mut tree);
                prop_assert!(ordered.iter().eq(&tree), "after {step:?}");
            }
            prop_assert_eq!(differences(&ordered, &tree), Vec::<String>::new());
        }
    }

    #[test]
    fn the_comparison_notices_a_value_a_key_and_a_bound_that_are_wrong() {
        let whole = || {
            let (mut ordered, mut tree) = (Ordered::new(), BTreeMap::new());
            take(Step::Run(0, 100), &mut ordered, &mut tree);
            (ordered, tree)
        };
        let (ordered, mut tree) = whole();
        assert_eq!(differences(&ordered, &tree), Vec::<String>::new());
        tree.insert(5, 1);
        assert!(differences(&ordered, &tree).contains(&"value of 5".to_owned()));
        tree.remove(&99);
        assert!(differences(&ordered, &tree).contains(&"from 74 on".to_owned()));
        let (mut ordered, tree) = whole();
        let chunk = ordered.index.remove(&32).unwrap();
        ordered.index.insert(40, chunk);
        assert!(differences(&ordered, &tree).contains(&"chunk at 40".to_owned()));
    }

    #[test]
    fn what_comes_in_order_fills_its_chunks_and_what_goes_leaves_none() {
        let (mut ordered, mut tree) = (Ordered::new(), BTreeMap::new());
        take(Step::Run(0, 320), &mut ordered, &mut tree);
        assert_eq!(ordered.index.len(), 320 / CHUNK);
        take(Step::RunAway(0, 320), &mut ordered, &mut tree);
        assert_eq!((ordered.index.len(), ordered.free.len()), (0, 320 / CHUNK));
        take(Step::Run(0, 320), &mut ordered, &mut tree);
        assert_eq!((ordered.chunks.len(), ordered.free.len()), (320 / CHUNK, 0));
    }
}
