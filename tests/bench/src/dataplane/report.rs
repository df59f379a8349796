//! What was measured, and the table of it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use comfy_table::{Table, presets};
use serde::{Deserialize, Serialize};

use super::rules::POOLS;
use super::{READINGS, Spent, Way, Work};
use crate::facts::Facts;
use crate::report::write_between;

/// Before the table in the document.
const BEGIN: &str =
    "<!-- bench dataplane: begin. `cargo xtask bench table` writes what is below. -->\n";
/// After it.
const END: &str = "<!-- bench dataplane: end -->";

/// All that was measured.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// Where and when.
    pub facts: Facts,
    /// From which prefixes, peers and pools follow.
    pub seed: u64,
    /// What was done, by what, and what it took in each run.
    dataplane: Vec<Row>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Row {
    work: Work,
    routes: u32,
    ways: BTreeMap<Way, Vec<Spent>>,
}

impl Report {
    /// Nothing is measured yet.
    #[must_use]
    pub fn new(facts: Facts, seed: u64) -> Self {
        Self {
            facts,
            seed,
            dataplane: Vec::new(),
        }
    }

    /// Adds a run of something.
    pub fn add(&mut self, work: Work, routes: u32, way: Way, spent: Spent) {
        let rows = self.dataplane.iter_mut();
        let row = rows
            .into_iter()
            .find(|row| row.work == work && row.routes == routes);
        match row {
            Some(row) => row.ways.entry(way).or_default().push(spent),
            None => self.dataplane.push(Row {
                work,
                routes,
                ways: BTreeMap::from([(way, vec![spent])]),
            }),
        }
    }

    /// Reads what [`Report::json`] wrote.
    ///
    /// # Errors
    /// When the text is something else.
    pub fn parse(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }

    /// As JSON.
    ///
    /// # Errors
    /// Never in practice.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    /// The facts and the table in Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header([
            "work",
            "by",
            "seconds",
            "a second",
            "to the quickest",
            "CPU seconds",
            "to the least",
            "peak, MiB",
        ]);
        for row in &self.dataplane {
            row.show(&mut table);
        }
        let runs = format!("medians of {} runs, seed {}", self.facts.runs, self.seed);
        format!("{}\n\n{table}\n", self.facts.measured(&runs))
    }

    /// Puts the table into a document, in place of the one in it.
    ///
    /// # Errors
    /// When the document lacks the marks, or cannot be read or written.
    pub fn write_into(&self, path: &Path) -> anyhow::Result<()> {
        write_between(path, (BEGIN, END), &self.markdown())
            .with_context(|| path.display().to_string())
    }
}

impl Row {
    fn show(&self, table: &mut Table) {
        let medians = self.ways.iter().map(|(way, runs)| (*way, median(runs)));
        let medians: Vec<(Way, Spent)> = medians.collect();
        let least = |of: fn(&Spent) -> f64| {
            let all = medians.iter().map(|(_, spent)| of(spent));
            all.min_by(f64::total_cmp).unwrap_or_default()
        };
        let (quickest, cheapest) = (
            least(|spent| spent.seconds),
            least(|spent| spent.cpu_seconds),
        );
        let what = match self.work {
            Work::Add => format!("{} routes are added", self.routes),
            Work::Resync => format!("{} unchanged routes are read", self.routes),
            Work::Idle => format!("{} routes stand, {READINGS} readings", self.routes),
            Work::Move => format!("the peer of {} routes moves", self.routes),
            Work::Rules => format!("the rules of {POOLS} pools are replaced"),
        };
        for (way, spent) in medians {
            let rate = match self.work {
                Work::Rules | Work::Idle => "—".to_owned(),
                _ => format!("{:.2} M", f64::from(self.routes) / spent.seconds / 1e6),
            };
            table.add_row([
                what.clone(),
                way.shown(self.work).to_owned(),
                format!("{:.4}", spent.seconds),
                rate,
                format!("{:.1}", spent.seconds / quickest),
                format!("{:.4}", spent.cpu_seconds),
                format!("{:.1}", spent.cpu_seconds / cheapest),
                format!("{:.0}", spent.peak_mib),
            ]);
        }
    }
}

impl Way {
    const fn shown(self, work: Work) -> &'static str {
        match (self, work) {
            (Self::Tortie, _) => "tortie",
            (Self::Classic, _) => "tortie, no next-hop objects",
            (Self::Deaf, _) => "tortie, no notifications",
            (Self::Raw, _) => "raw netlink",
            (Self::Ip, Work::Rules) => "nft -f",
            (Self::Ip, Work::Resync) => "ip route show",
            (Self::Ip, _) => "ip -batch",
            (Self::Object, _) => "ip nexthop replace, nobody listens",
            (Self::Rtnetlink, _) => "rtnetlink",
            (Self::Proto, _) => "netlink-proto, batches of 100",
        }
    }
}

fn median(runs: &[Spent]) -> Spent {
    let of = |of: fn(&Spent) -> f64| {
        let mut sorted: Vec<f64> = runs.iter().map(of).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    };
    Spent {
        seconds: of(|spent| spent.seconds),
        cpu_seconds: of(|spent| spent.cpu_seconds),
        peak_mib: of(|spent| spent.peak_mib),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new(Facts::default(), 7);
        for (way, seconds) in [(Way::Tortie, 3.0), (Way::Tortie, 1.0), (Way::Tortie, 2.0)] {
            let spent = Spent {
                seconds,
                cpu_seconds: 1.0,
                peak_mib: 20.0,
            };
            report.add(Work::Add, 1_000_000, way, spent);
        }
        let floor = Spent {
            seconds: 0.5,
            cpu_seconds: 0.5,
            peak_mib: 4.0,
        };
        report.add(Work::Add, 1_000_000, Way::Raw, floor);
        report
    }

    #[test]
    fn the_table_has_medians_rates_and_ratios_to_the_best() {
        let markdown = report().markdown();
        let line = markdown.lines().find(|line| line.contains("| tortie"));
        let cells: Vec<&str> = line.unwrap().split('|').map(str::trim).collect();
        let shown = ["2.0000", "0.50 M", "4.0", "1.0000", "2.0", "20"];
        assert_eq!(cells[3..9], shown);
    }

    #[test]
    fn a_report_comes_back_from_its_json_and_is_not_taken_for_one_of_another_bench() {
        let report = report();
        let json = report.json().unwrap();
        assert_eq!(Report::parse(&json).unwrap().markdown(), report.markdown());
        assert!(Report::parse(r#"{"facts": {}, "seed": 7, "stores": {}}"#).is_err());
    }

    #[test]
    fn the_published_table_is_that_of_the_committed_result() {
        crate::report::published("dataplane.json", (BEGIN, END), |json| {
            Report::parse(json).unwrap().markdown()
        });
    }
}
