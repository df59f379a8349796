//! Points in time as the stored objects spell them.

use std::time::Duration;

/// Time since 1970-01-01 00:00:00 UTC, given by the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(Duration);

impl Timestamp {
    /// From the time since the epoch.
    pub const fn from_unix(since_epoch: Duration) -> Self {
        Self(since_epoch)
    }

    /// Nanoseconds since the epoch, up to the year 2554.
    pub fn unix_nanos(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }

    /// `2026-11-21T12:00:00Z`: how `affinityClaimTime` is written.
    pub fn rfc3339(self) -> String {
        let (year, month, day, hour, minute, second) = self.civil();
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }

    /// `2026-11-21 12:00:00.000000001 +0000 UTC`: how the attribute `timestamp` is written.
    pub fn attribute(self) -> String {
        let (year, month, day, hour, minute, second) = self.civil();
        let nanos = self.0.subsec_nanos();
        let fraction = if nanos == 0 {
            String::new()
        } else {
            format!(".{nanos:09}").trim_end_matches('0').to_owned()
        };
        format!(
            "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}{fraction} +0000 UTC"
        )
    }

    /// Reads RFC 3339, with `Z` or an offset; fractions of a second are dropped.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let (date, rest) = text.split_once(['T', 't'])?;
        let mut date = date.splitn(3, '-').map(str::parse::<i64>);
        let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
        let clock = rest.get(..8)?;
        let zone = rest
            .get(8..)?
            .trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
        let mut clock = clock.splitn(3, ':').map(str::parse::<i64>);
        let (hour, minute, second) = (
            clock.next()?.ok()?,
            clock.next()?.ok()?,
            clock.next()?.ok()?,
        );
        let offset_seconds = match zone {
            "Z" | "z" => 0,
            _ => {
                let (hours, minutes) = zone.get(1..)?.split_once(':')?;
                let size = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
                match zone.get(..1)? {
                    "+" => size,
                    "-" => -size,
                    _ => return None,
                }
            }
        };
        let in_range = (1..=12).contains(&month)
            && (1..=31).contains(&day)
            && (0..24).contains(&hour)
            && (0..60).contains(&minute)
            && (0..=60).contains(&second);
        if !in_range {
            return None;
        }
        let seconds =
            days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second
                - offset_seconds;
        Some(Self(Duration::from_secs(u64::try_from(seconds).ok()?)))
    }

    /// How much later than `earlier`; zero when it is not.
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    fn civil(self) -> (u64, u64, u64, u64, u64, u64) {
        let seconds = self.0.as_secs();
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        // Days of the 400-year cycle that starts on 0000-03-01, so that a leap day ends its year.
        let shifted = days + 719_468;
        let (era, of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        (year, month, day, rest / 3600, rest % 3600 / 60, rest % 60)
    }
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted_month = (month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_instants_are_spelled_right() {
        let at = |seconds, nanos| Timestamp::from_unix(Duration::new(seconds, nanos));
        assert_eq!(at(0, 0).rfc3339(), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399, 0).rfc3339(), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400, 0).rfc3339(), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_790_000_000, 0).rfc3339(), "2026-09-21T14:13:20Z");
        assert_eq!(
            at(0, 120_000_000).attribute(),
            "1970-01-01 00:00:00.12 +0000 UTC"
        );
        assert_eq!(
            Timestamp::parse_rfc3339("2026-09-21T16:13:20.5+02:00"),
            Some(at(1_790_000_000, 0))
        );
        for text in [
            "",
            "yesterday",
            "2026-13-01T00:00:00Z",
            "2026-09-21T16:13:20",
        ] {
            assert_eq!(Timestamp::parse_rfc3339(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(seconds in 0_u64..20_000_000_000) {
            let at = Timestamp::from_unix(Duration::from_secs(seconds));
            prop_assert_eq!(Timestamp::parse_rfc3339(&at.rfc3339()), Some(at));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = Timestamp::parse_rfc3339(&text);
        }
    }
}
