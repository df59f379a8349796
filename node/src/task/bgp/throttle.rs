//! At most one log line of a kind for a peer and second.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(1);

/// Counts what is not written. Keys without anything new for a second are forgotten by [`Self::over`].
#[derive(Debug)]
pub(super) struct Throttle<K> {
    windows: BTreeMap<K, Window>,
}

#[derive(Debug)]
struct Window {
    until: Instant,
    suppressed: u64,
}

impl<K> Default for Throttle<K> {
    fn default() -> Self {
        Self {
            windows: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone> Throttle<K> {
    /// Whether a line may be written: then, how many were suppressed since the one before.
    pub(super) fn admit(&mut self, key: &K, now: Instant) -> Option<u64> {
        let fresh = Window {
            until: now + WINDOW,
            suppressed: 0,
        };
        let Some(window) = self.windows.get_mut(key) else {
            self.windows.insert(key.clone(), fresh);
            return Some(0);
        };
        if now < window.until {
            window.suppressed += 1;
            return None;
        }
        Some(std::mem::replace(window, fresh).suppressed)
    }

    /// The keys whose second is over, and how many lines were suppressed in it.
    pub(super) fn over(&mut self, now: Instant) -> Vec<(K, u64)> {
        let over = self.windows.extract_if(.., |_, window| window.until <= now);
        over.map(|(key, window)| (key, window.suppressed))
            .filter(|(_, suppressed)| *suppressed > 0)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_for_each_key_and_the_others_are_counted() {
        let start = Instant::now();
        let mut throttle = Throttle::default();
        assert_eq!(throttle.admit(&"a", start), Some(0));
        for _ in 0..1000 {
            assert_eq!(throttle.admit(&"a", start), None);
        }
        assert_eq!(throttle.admit(&"b", start), Some(0), "another key");
        assert_eq!(throttle.over(start), []);
        let later = start + WINDOW;
        assert_eq!(throttle.admit(&"a", later), Some(1000));
        assert_eq!(throttle.admit(&"a", later), None);
        assert_eq!(throttle.over(later + WINDOW), [("a", 1)]);
        assert!(throttle.windows.is_empty());
    }
}
