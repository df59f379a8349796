//! Kinds that cannot be read now: since when, why, and which lines of that the log gets.
//!
//! A datastore may come and go every second, and each kind fails with words of its own: the log gets the first line of
//! each kind within [`TOLD_EVERY`], the status always has the newest.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use api::key::Kind;
use datastore::store::StoreError;

use crate::task::timestamp;

/// A line of one sort comes at most this often.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// A watch that goes on says nothing before the next change. A kind that has been lost says so again at the latest after
/// the longest wait between two attempts: one that did not for longer is back when the store answers.
pub(super) const SETTLED: Duration = Duration::from_secs(8);

/// What a change of [`Lost`] is worth in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// The first kind was lost. `before`: how often that happened since the last such line, without one.
    Lost {
        /// Times without a line.
        before: u64,
    },
    /// It is still lost, for another reason.
    Changed,
    /// Everything is read again, after so long.
    Back(Duration),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// Why each cannot be read, and when it failed last.
    kinds: BTreeMap<Kind, (StoreError, Instant)>,
    /// When the first of them was lost, and the same for people.
    since: Option<(Instant, SystemTime)>,
    /// When a line told of it last, and with which cause.
    told: Option<(Instant, String)>,
    untold: u64,
    /// Whether the last loss has a line, so that its end gets one too.
    told_of_this: bool,
}

impl Lost {
    /// A kind cannot be read.
    pub(super) fn lose(
        &mut self,
        kind: Kind,
        error: StoreError,
        now: Instant,
        wall: SystemTime,
    ) -> Option<Line> {
        let first = self.since.is_none();
        self.since.get_or_insert((now, wall));
        let cause = cause(&error).to_owned();
        self.kinds.insert(kind, (error, now));
        let is_due = |(at, _): &(Instant, String)| now.duration_since(*at) >= TOLD_EVERY;
        let due = self.told.as_ref().is_none_or(is_due);
        let other = self.told.as_ref().is_none_or(|(_, told)| *told != cause);
        if first {
            self.told_of_this = due;
            if !due {
                self.untold += 1;
                return None;
            }
        } else if !due || (!other && self.told_of_this) {
            return None;
        }
        self.told = Some((now, cause));
        let before = std::mem::take(&mut self.untold);
        // A loss without a line that lasts gets its line late.
        let anew = first || !std::mem::replace(&mut self.told_of_this, true);
        Some(if anew {
            Line::Lost { before }
        } else {
            Line::Changed
        })
    }

    /// A kind is read again.
    pub(super) fn found(&mut self, kind: Kind, now: Instant) -> Option<Line> {
        self.kinds.remove(&kind)?;
        self.kinds.is_empty().then(|| self.end(now)).flatten()
    }

    /// The store answers.
    pub(super) fn answers(&mut self, now: Instant) -> Option<Line> {
        let is_any = self.is_any();
        self.kinds
            .retain(|_, (_, failed)| now.duration_since(*failed) < SETTLED);
        (is_any && self.kinds.is_empty())
            .then(|| self.end(now))
            .flatten()
    }

    fn end(&mut self, now: Instant) -> Option<Line> {
        let (since, _) = self.since.take()?;
        let took = now.duration_since(since);
        std::mem::take(&mut self.told_of_this).then_some(Line::Back(took))
    }

    /// Whether something cannot be read.
    pub(super) fn is_any(&self) -> bool {
        !self.kinds.is_empty()
    }

    /// For the status: what cannot be read of `all` kinds, since when, why.
    pub(super) fn reason(&self, all: usize) -> Option<String> {
        let (_, (error, _)) = self.kinds.first_key_value()?;
        let (_, since) = self.since?;
        let since = timestamp(since).rfc3339();
        let what = if self.kinds.len() >= all {
            "it".to_owned()
        } else {
            let names: Vec<&str> = self.kinds.keys().map(|kind| kind.name()).collect();
            names.join(", ")
        };
        Some(format!(
            "{what} cannot be read since {since}: {error}; pods that run keep running, new ones wait"
        ))
    }
}

/// What two errors of one cause have in common: not the object.
fn cause(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unavailable(text) => {
            let known = ["401", "certificate", "403"];
            let found = known.into_iter().find(|word| text.contains(word));
            found.unwrap_or("no answer")
        }
        StoreError::Refused(_) => "refused",
        StoreError::Conflict { .. } | StoreError::Gone { .. } | StoreError::Diverged { .. } => {
            "other"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> StoreError {
        StoreError::Unavailable(text.into())
    }

    /// A second after the start, as both clocks show it.
    fn at(seconds: u64) -> (Instant, SystemTime) {
        use std::sync::OnceLock;
        static START: OnceLock<Instant> = OnceLock::new();
        let start = *START.get_or_init(Instant::now);
        let after = Duration::from_secs(seconds);
        (start + after, SystemTime::UNIX_EPOCH + after)
    }

    fn lose(lost: &mut Lost, kind: Kind, text: &str, seconds: u64) -> Option<Line> {
        let (now, wall) = at(seconds);
        lost.lose(kind, error(text), now, wall)
    }

    #[test]
    fn an_outage_has_a_line_at_its_start_at_its_end_and_when_its_cause_is_another() {
        let mut lost = Lost::default();
        let first = lose(&mut lost, Kind::Node, "connection refused", 0);
        assert_eq!(first, Some(Line::Lost { before: 0 }));
        for second in 1..100 {
            let again = lose(&mut lost, Kind::IPPool, "connection reset", second);
            assert_eq!(again, None);
        }
        let other = lose(&mut lost, Kind::IPPool, "Unauthorized (401)", 100);
        assert_eq!(other, Some(Line::Changed));
        assert_eq!(lose(&mut lost, Kind::Node, "no answer", 101), None);
        assert_eq!(lost.found(Kind::Node, at(110).0), None);
        let back = lost.found(Kind::IPPool, at(120).0);
        assert_eq!(back, Some(Line::Back(Duration::from_secs(120))));
        assert_eq!(lost.reason(2), None);
    }

    #[test]
    fn one_that_comes_and_goes_every_second_has_a_line_a_minute() {
        let mut lost = Lost::default();
        let mut lines = 0;
        for second in 0..600 {
            let told = lose(&mut lost, Kind::Node, "connection reset", second);
            lines += u64::from(told.is_some());
            if second == 60 {
                assert_eq!(told, Some(Line::Lost { before: 59 }));
            }
            lines += u64::from(lost.found(Kind::Node, at(second).0).is_some());
        }
        assert_eq!(lines, 20, "its beginning and its end, ten times");
        // The last of them, which had no line, lasts.
        assert_eq!(
            lose(&mut lost, Kind::Node, "connection reset", 600),
            Some(Line::Lost { before: 59 })
        );
        lost.found(Kind::Node, at(601).0);
        assert_eq!(lose(&mut lost, Kind::Node, "connection reset", 602), None);
        let late = lose(&mut lost, Kind::Node, "connection reset", 661);
        assert_eq!(late, Some(Line::Lost { before: 1 }));
    }

    #[test]
    fn a_kind_that_stays_lost_keeps_the_datastore_lost_though_it_answers() {
        let mut lost = Lost::default();
        lose(&mut lost, Kind::BGPFilter, "no such resource", 0);
        lose(&mut lost, Kind::Node, "connection refused", 0);
        for second in 1..100 {
            if second % 7 == 0 {
                lose(&mut lost, Kind::BGPFilter, "no such resource", second);
            }
            assert_eq!(lost.answers(at(second).0), None, "{second}");
            if second < 8 {
                continue;
            }
            let reason = lost.reason(9).unwrap_or_default();
            assert!(
                reason.starts_with("BGPFilter cannot be read since 1970-01-01T00:00:00Z: "),
                "{reason}"
            );
        }
        let back = lost.answers(at(106).0);
        assert_eq!(back, Some(Line::Back(Duration::from_secs(106))));
        assert!(!lost.is_any());
    }

    #[test]
    fn when_nothing_can_be_read_the_reason_names_no_kind() {
        let mut lost = Lost::default();
        lose(&mut lost, Kind::Node, "a", 0);
        lose(&mut lost, Kind::IPPool, "b", 1);
        let reason = lost.reason(2).unwrap_or_default();
        assert!(reason.starts_with("it cannot be read since "), "{reason}");
    }
}
