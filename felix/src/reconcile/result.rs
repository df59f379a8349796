//! Results of operations, and when to try again.

use std::time::{Duration, Instant};

use super::entry::{Failure, Held, matches, same_device};
use super::{Link, Reconciler, is_setting};
use crate::desired::{Row, RowKey};
use crate::kernel::OpError;

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Times in a row that the kernel may show another row than was written before writing slows down.
const REPEATS_MAX: u32 = 3;

impl Reconciler {
    pub(super) fn was_set(&mut self, now: Instant, key: &RowKey, row: Row, observed: bool) {
        self.stats.sets += 1;
        self.reset_backoff(key);
        let repeats = self.entries.get(key).map_or(0, |entry| entry.repeats);
        if repeats >= REPEATS_MAX {
            // Somebody undoes what is written, or the kernel shows it in another form: no race with either.
            self.hold_back(now, key, OpError::Undone, repeats);
        }
        if let (RowKey::Link(name), Row::Link(_, spec)) = (key, &row) {
            self.links.entry(name.clone()).or_insert(Link {
                up: true,
                ifindex: None,
                mac: None,
            });
            let held = self.entries.get(key).and_then(|entry| entry.held());
            let made_anew = match held {
                Some(Row::Link(_, held)) => !same_device(spec, held),
                Some(_) | None => true,
            };
            for on in self.keys_on(name) {
                self.edit(&on, |entry| {
                    if made_anew && on != *key {
                        entry.mark_stale();
                    }
                });
            }
        }
        self.edit(key, |entry| {
            entry.written = true;
            // What was notified meanwhile may be older or newer than the write: if newer, it holds; if older, the
            // notification of the write is still to come.
            let shown = entry.held().is_some_and(|held| matches(&row, held));
            if !entry.is_wanted() && is_setting(key) {
                entry.hold(Held::Absent);
            } else if !observed {
                entry.hold(Held::Has(row));
            } else if !shown {
                entry.repeats = entry.repeats.saturating_add(1);
                if entry.is_absent() {
                    entry.hold(Held::Stale(row));
                }
            }
        });
    }

    pub(super) fn was_removed(&mut self, key: &RowKey) {
        self.stats.removes += 1;
        self.reset_backoff(key);
        if let RowKey::Rules(family) = key {
            self.elements_are(*family, &[]);
        }
        self.edit(key, |entry| entry.hold(Held::Absent));
    }

    pub(super) fn failed(&mut self, now: Instant, key: &RowKey, error: OpError) {
        self.stats.failures += 1;
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let attempts = entry
            .failure
            .as_ref()
            .map_or(1, |failure| failure.attempts.saturating_add(1));
        self.hold_back(now, key, error, attempts);
        self.review(key);
    }

    /// No further attempt for a while.
    pub(super) fn hold_back(&mut self, now: Instant, key: &RowKey, error: OpError, attempts: u32) {
        let wait = match error {
            OpError::Unsupported(_) => BACKOFF_MAX,
            OpError::NoDevice(_)
            | OpError::Unreachable
            | OpError::Undone
            | OpError::Kernel { .. } => BACKOFF_MIN
                .saturating_mul(1 << attempts.saturating_sub(1).min(16))
                .min(BACKOFF_MAX),
        };
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let retry_at = now + wait;
        let failure = Failure {
            error,
            attempts,
            retry_at,
        };
        let before = entry.failure.replace(Box::new(failure));
        self.failing += usize::from(before.is_none());
        self.retries.insert((retry_at, key.clone()));
    }

    /// Forgets failures, so that the next attempt is not held back.
    pub(super) fn reset_backoff(&mut self, key: &RowKey) {
        if self.failing == 0 {
            return;
        }
        if let Some(entry) = self.entries.get_mut(key)
            && let Some(failure) = entry.failure.take()
        {
            self.failing -= 1;
            self.retries.remove(&(failure.retry_at, key.clone()));
        }
    }

    pub(super) fn retry_unreachable(&mut self) {
        let retries = self.retries.iter();
        let keys: Vec<RowKey> = retries
            .filter(|(_, key)| {
                let failure = self
                    .entries
                    .get(key)
                    .and_then(|entry| entry.failure.as_ref());
                failure.is_some_and(|failure| failure.error == OpError::Unreachable)
            })
            .map(|(_, key)| key.clone())
            .collect();
        for key in keys {
            self.reset_backoff(&key);
            self.review(&key);
        }
    }
}
