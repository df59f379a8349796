//! A table that remembers which of its values the reader has not seen: one pending change a key, however often it changed.

use std::collections::BTreeMap;

#[derive(Debug)]
pub(super) struct Changes<K, V> {
    wanted: BTreeMap<K, V>,
    /// What the reader was last given, for keys whose value was touched since.
    unread: BTreeMap<K, Option<V>>,
}

impl<K, V> Default for Changes<K, V> {
    fn default() -> Self {
        Self {
            wanted: BTreeMap::new(),
            unread: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> Changes<K, V> {
    pub(super) fn put(&mut self, key: K, value: Option<V>) {
        let before = match value.clone() {
            Some(value) => self.wanted.insert(key.clone(), value),
            None => self.wanted.remove(&key),
        };
        if before != value {
            self.unread.entry(key).or_insert(before);
        }
    }

    pub(super) fn poll(&mut self) -> Option<(K, Option<V>)> {
        while let Some((key, given)) = self.unread.pop_first() {
            let now = self.wanted.get(&key);
            if now != given.as_ref() {
                let now = now.cloned();
                return Some((key, now));
            }
        }
        None
    }

    pub(super) fn is_read(&self) -> bool {
        self.unread.is_empty()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.wanted.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_the_last_value_once_and_nothing_that_went_back() {
        let mut table = Changes::default();
        table.put(1, Some('a'));
        table.put(1, Some('b'));
        table.put(2, Some('c'));
        table.put(2, None);
        assert_eq!(table.poll(), Some((1, Some('b'))));
        assert_eq!(table.poll(), None);
        table.put(1, Some('x'));
        table.put(1, Some('b'));
        assert_eq!(table.poll(), None);
        table.put(1, None);
        assert!(!table.is_read());
        assert_eq!(table.poll(), Some((1, None)));
        assert!(table.is_read());
    }
}
