//! Durations as Go writes them: `90s`, `1m30s`, `1.5h`.

use std::time::Duration;

/// Reads a non-negative Go duration; `None` when it is none. Units are `h`, `m`, `s`, `ms`, `us`, `µs`, `ns`; a bare `0`
/// needs no unit.
pub fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    loop {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(unit_at);
        let (seconds, tail) = unit(tail)?;
        total = total.checked_add(scaled(number, seconds)?)?;
        if tail.is_empty() {
            return Some(total);
        }
        rest = tail;
    }
}

/// Reads a number of seconds, which may have a fraction: `90`, `0.5`.
pub fn parse_seconds(text: &str) -> Option<Duration> {
    scaled(text, 1.0)
}

fn scaled(number: &str, seconds: f64) -> Option<Duration> {
    // `f64` would also read `inf` and `1e3`.
    if !number.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    Duration::try_from_secs_f64(number * seconds).ok()
}

fn unit(text: &str) -> Option<(f64, &str)> {
    const UNITS: [(&str, f64); 7] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("µs", 1e-6),
        ("ms", 1e-3),
        ("h", 3600.0),
        ("m", 60.0),
        ("s", 1.0),
    ];
    UNITS
        .iter()
        .find_map(|(name, seconds)| Some((*seconds, text.strip_prefix(name)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_are_read_and_others_are_not() {
        for (text, millis) in [
            ("0", 0),
            ("120s", 120_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("250ms", 250),
            ("1h0m0.5s", 3_600_500),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "90",
            "s",
            "-1s",
            "1x",
            "1s2",
            "infs",
            "1e3s",
            ".s",
            "99999999999999999999h",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
