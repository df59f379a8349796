//! Where and when something was measured.

use std::fmt;
use std::fs;

use serde::{Deserialize, Serialize};

/// The machine and the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Runs of each scenario with each daemon.
    pub runs: usize,
    /// Day, as year-month-day.
    pub day: String,
    /// The kernel's release.
    pub kernel: String,
    /// What /proc/cpuinfo calls the processor.
    pub processor: String,
    /// Processors that may be used.
    pub cores: usize,
    /// Load average over one minute when it began, and when it ended.
    pub load: [f64; 2],
}

impl Facts {
    /// Those of now.
    #[must_use]
    pub fn gather(runs: usize) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("unknown", |(_, name)| name);
        let kernel = rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned();
        let load = load();
        Self {
            runs,
            day: day(),
            kernel,
            processor: processor.to_owned(),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            load: [load, load],
        }
    }

    /// Of what, and where and when.
    pub(crate) fn measured(&self, what: &str) -> String {
        let Self {
            day,
            kernel,
            processor,
            cores,
            load: [begin, end],
            ..
        } = self;
        format!(
            "Measured {day}: {what}, {cores} cores of {processor}, Linux {kernel}, load average {begin:.1} when it began and {end:.1} when it \
             ended (its own included)."
        )
    }

    /// It has ended.
    pub fn end(&mut self) {
        self.load[1] = load();
    }
}

/// Load average over one minute.
fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split(' ').next().and_then(|first| first.parse().ok());
    first.unwrap_or_default()
}

fn day() -> String {
    let seconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    format!("{year}-{month:02}-{day:02}")
}

/// Year, month and day of a day counted from 1970-01-01.
fn civil(mut days: u64) -> (u64, usize, u64) {
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut months = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    months[1] += u64::from(leap(year));
    let mut month = 0;
    while days >= months[month] {
        days -= months[month];
        month += 1;
    }
    (year, month + 1, days + 1)
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let measured = self.measured(&format!("medians of {} runs", self.runs));
        writeln!(
            f,
            "{measured} Times are **wall seconds ± half the distance of the quartiles / CPU seconds of the daemon**.\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Facts, civil};

    #[test]
    fn days_are_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(59), (1970, 3, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_778), (2026, 11, 21));
    }

    #[test]
    fn this_machine_has_a_kernel_and_a_core() {
        let facts = Facts::gather(1);
        assert!(!facts.kernel.is_empty() && facts.cores > 0, "{facts:?}");
    }
}
