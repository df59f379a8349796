//! Everything that was measured: as JSON, from which the tables of docs/performance.md are made.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, ensure};
use comfy_table::{Table, presets};
use serde::{Deserialize, Serialize};

use crate::daemon::Kind;
use crate::facts::Facts;
use crate::plan::{Phase, Plan};
use crate::scenario::Measured;

/// Before the tables in the document.
const BEGIN: &str = "<!-- bench bgp: begin. `cargo xtask bench table` writes what is below. -->\n";
/// After them.
const END: &str = "<!-- bench bgp: end -->";

/// All that was measured.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// Where and when.
    pub facts: Facts,
    /// What the daemons call their versions.
    pub versions: BTreeMap<Kind, String>,
    /// That of the routes; results from before seeds varied have none.
    #[serde(default)]
    seed: Option<u64>,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Row {
    scenario: String,
    phase: String,
    /// Every run.
    daemons: BTreeMap<Kind, Vec<Measured>>,
}

impl Report {
    /// Nothing is measured yet.
    #[must_use]
    pub fn new(facts: Facts, kinds: &[Kind], seed: u64) -> Self {
        let versions = kinds.iter().map(|kind| (*kind, kind.version())).collect();
        Self {
            facts,
            versions,
            seed: Some(seed),
            rows: Vec::new(),
        }
    }

    /// Adds a run's phases. A scenario's rows stay together.
    pub fn add(&mut self, plan: &Plan, kind: Kind, phases: &[(Phase, Measured)]) {
        for (phase, measured) in phases {
            let (scenario, phase) = (plan.name, phase.name());
            let same = |row: &Row| (row.scenario.as_str(), row.phase.as_str()) == (scenario, phase);
            let position = self.rows.iter().position(same).unwrap_or_else(|| {
                let last = self.rows.iter().rposition(|row| row.scenario == scenario);
                let position = last.map_or(self.rows.len(), |last| last + 1);
                let row = Row {
                    scenario: scenario.to_owned(),
                    phase: phase.to_owned(),
                    daemons: BTreeMap::new(),
                };
                self.rows.insert(position, row);
                position
            });
            let daemons = &mut self.rows[position].daemons;
            daemons.entry(kind).or_default().push(*measured);
        }
    }

    /// Reads what [`Report::json`] wrote.
    ///
    /// # Errors
    /// When the file is missing or something else.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is no result of `bench bgp`", path.display()))
    }

    /// As JSON.
    ///
    /// # Errors
    /// Never in practice.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    /// The facts and two tables in Markdown: times, and memory.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = self.facts.to_string();
        if let Some(seed) = self.seed {
            let _ = writeln!(text, "Seed of the routes {seed}.\n");
        }
        for (kind, version) in &self.versions {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "- {kind}: {version}");
        }
        let times = self.table("phase", &self.rows, times);
        let mut last_rows: Vec<&Row> = Vec::new();
        for row in &self.rows {
            last_rows.retain(|other| other.scenario != row.scenario);
            last_rows.push(row);
        }
        let memory = self.table("after", last_rows, |runs| {
            format!("{:.0}", spread(runs, |run| run.peak_mib).median)
        });
        let _ = write!(
            text,
            "\n{times}\n\nPeak of resident memory, MiB:\n\n{memory}\n"
        );
        text
    }

    fn table<'a>(
        &self,
        phase: &str,
        rows: impl IntoIterator<Item = &'a Row>,
        cell: impl Fn(&[Measured]) -> String,
    ) -> Table {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        let mut header = vec!["scenario".to_owned(), phase.to_owned()];
        header.extend(self.versions.keys().map(Kind::to_string));
        table.set_header(header);
        for row in rows {
            let mut cells = vec![row.scenario.clone(), row.phase.clone()];
            cells.extend(self.versions.keys().map(|kind| {
                let runs = row.daemons.get(kind);
                runs.map_or_else(|| "—".to_owned(), |runs| cell(runs))
            }));
            table.add_row(cells);
        }
        table
    }

    /// Puts the tables into a document, in place of those in it.
    ///
    /// # Errors
    /// When the document lacks the marks, or cannot be read or written.
    pub fn write_into(&self, path: &Path) -> anyhow::Result<()> {
        write_between(path, (BEGIN, END), &self.markdown())
    }
}

/// Puts a text into a document, between two marks.
pub(crate) fn write_between(
    path: &Path,
    (begin, end): (&str, &str),
    written: &str,
) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let parts = text
        .split_once(begin)
        .and_then(|(before, rest)| Some((before, rest.split_once(end)?.1)));
    ensure!(
        parts.is_some(),
        "{} lacks the lines {begin:?} and {end:?}",
        path.display()
    );
    let (before, after) = parts.unwrap_or_default();
    let new = format!("{before}{begin}\n{written}\n{end}{after}");
    std::fs::write(path, new).with_context(|| path.display().to_string())
}

/// The document has what `markdown` makes of a committed result.
#[cfg(test)]
pub(crate) fn published(result: &str, (begin, end): (&str, &str), markdown: fn(&str) -> String) {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let json = std::fs::read_to_string(docs.join("performance").join(result)).unwrap();
    let document = std::fs::read_to_string(docs.join("performance.md")).unwrap();
    let (_, rest) = document.split_once(begin).unwrap();
    let (published, _) = rest.split_once(end).unwrap();
    assert!(
        published.trim() == markdown(&json).trim(),
        "run: cargo xtask bench table docs/performance/{result} --into docs/performance.md"
    );
}

fn times(runs: &[Measured]) -> String {
    // A phase that did not end is longer than all that did.
    let wall = spread(runs, |run| run.wall_seconds.unwrap_or(f64::INFINITY));
    let cpu = spread(runs, |run| run.cpu_seconds).median;
    if wall.median.is_infinite() {
        let limit = runs.iter().find_map(|run| run.limit_seconds);
        return format!("> {:.0}", limit.unwrap_or_default());
    }
    if runs.len() < 3 {
        return format!("{:.4} / {cpu:.3}", wall.median);
    }
    let percent = (wall.upper - wall.lower) / 2.0 / wall.median * 100.0;
    format!("{:.4} ±{percent:.0} % / {cpu:.3}", wall.median)
}

/// Median and quartiles.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    lower: f64,
    median: f64,
    upper: f64,
}

fn spread(runs: &[Measured], field: impl Fn(&Measured) -> f64) -> Spread {
    let mut values: Vec<f64> = runs.iter().map(field).collect();
    values.sort_unstable_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    let at = |quarters: usize| values.get((last * quarters).div_ceil(4)).copied();
    Spread {
        lower: values.get(last / 4).copied().unwrap_or_default(),
        median: at(2).unwrap_or_default(),
        upper: at(3).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::PLANS;

    fn measured(wall_seconds: Option<f64>) -> Measured {
        Measured {
            wall_seconds,
            cpu_seconds: 0.25,
            peers_cpu_seconds: 0.1,
            peak_mib: 16.4,
            limit_seconds: wall_seconds.is_none().then_some(20.0),
        }
    }

    fn report() -> Report {
        let mut report = Report {
            facts: Facts::default(),
            versions: [Kind::Tortie, Kind::Bird, Kind::Frr]
                .map(|kind| (kind, "1".to_owned()))
                .into(),
            seed: Some(5),
            rows: Vec::new(),
        };
        for wall in [5.0, 1.0, 4.0, 2.0, 3.0] {
            let phases = [(Phase::Announce, measured(Some(wall)))];
            report.add(&PLANS[0], Kind::Tortie, &phases);
            report.add(&PLANS[1], Kind::Tortie, &phases);
            report.add(
                &PLANS[0],
                Kind::Tortie,
                &[(Phase::Withdraw, measured(Some(wall)))],
            );
        }
        report.add(&PLANS[0], Kind::Bird, &[(Phase::Announce, measured(None))]);
        report
    }

    #[test]
    fn the_tables_have_medians_limits_and_gaps() {
        let markdown = report().markdown();
        let cells = |phase: &str| {
            let line = markdown.lines().find(|line| line.contains(phase)).unwrap();
            line.split('|')
                .map(|cell| cell.trim().to_owned())
                .collect::<Vec<_>>()
        };
        let row = [
            "",
            "10x10k-1",
            "announce",
            "3.0000 ±33 % / 0.250",
            "> 20",
            "—",
            "",
        ];
        assert_eq!(cells("announce"), row);
        assert_eq!(cells("withdraw")[3], "3.0000 ±33 % / 0.250");
        let memory = markdown.split_once("memory").unwrap().1;
        assert!(memory.contains("| 16 "), "{memory}");
    }

    #[test]
    fn a_report_comes_back_from_its_json() {
        let report = report();
        let again: Report = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(again.markdown(), report.markdown());
    }

    #[test]
    fn the_published_tables_are_those_of_the_committed_result() {
        published("result.json", (BEGIN, END), |json| {
            serde_json::from_str::<Report>(json).unwrap().markdown()
        });
    }

    #[test]
    fn the_tables_are_replaced_between_their_marks_and_nothing_else_is() {
        let path = std::env::temp_dir().join(format!("tortie-bench-{}.md", std::process::id()));
        std::fs::write(&path, format!("before\n{BEGIN}old\n{END}\nafter\n")).unwrap();
        report().write_into(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("before\n") && text.ends_with("\nafter\n"),
            "{text}"
        );
        assert!(text.contains("> 20") && !text.contains("old"), "{text}");
        std::fs::write(&path, "no marks").unwrap();
        assert!(report().write_into(&path).is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
