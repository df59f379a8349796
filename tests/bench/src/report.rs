//! Medians, as a table and as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::daemon::Kind;
use crate::plan::Plan;
use crate::scenario::Measured;

/// All that was measured.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    scenario: &'static str,
    phase: &'static str,
    runs: BTreeMap<Kind, Vec<Measured>>,
}

/// A cell of the table.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Cell {
    runs: usize,
    wall_seconds: f64,
    cpu_seconds: f64,
    peak_mib: f64,
}

impl Report {
    /// Adds a run.
    pub fn add(&mut self, plan: &Plan, kind: Kind, run: Vec<Measured>) {
        for measured in run {
            let (scenario, phase) = (plan.name, measured.phase.name());
            let position = self
                .rows
                .iter()
                .position(|row| (row.scenario, row.phase) == (scenario, phase));
            let position = position.unwrap_or_else(|| {
                self.rows.push(Row {
                    scenario,
                    phase,
                    runs: BTreeMap::new(),
                });
                self.rows.len() - 1
            });
            let runs = &mut self.rows[position].runs;
            runs.entry(kind).or_default().push(measured);
        }
    }

    /// The table: wall seconds / CPU seconds / peak MiB, each the median of the runs.
    #[must_use]
    pub fn table(&self, kinds: &[Kind]) -> String {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        let mut header = vec!["scenario".to_owned(), "phase".to_owned()];
        header.extend(kinds.iter().map(Kind::to_string));
        table.set_header(header);
        for row in &self.rows {
            let mut cells = vec![row.scenario.to_owned(), row.phase.to_owned()];
            cells.extend(kinds.iter().map(|kind| {
                row.runs.get(kind).map_or_else(
                    || "—".to_owned(),
                    |runs| {
                        let cell = cell(runs);
                        format!(
                            "{:.4} / {:.3} / {:.0}",
                            cell.wall_seconds, cell.cpu_seconds, cell.peak_mib
                        )
                    },
                )
            }));
            table.add_row(cells);
        }
        table.to_string()
    }

    /// The same as JSON: versions, and one object per row with one per daemon in it.
    ///
    /// # Errors
    /// Never in practice.
    pub fn json(&self, kinds: &[Kind]) -> serde_json::Result<String> {
        let versions: BTreeMap<String, String> = kinds
            .iter()
            .map(|kind| (kind.to_string(), kind.version()))
            .collect();
        let rows: Vec<serde_json::Value> = self
            .rows
            .iter()
            .map(|row| {
                let daemons: BTreeMap<String, Cell> = row
                    .runs
                    .iter()
                    .map(|(kind, runs)| (kind.to_string(), cell(runs)))
                    .collect();
                serde_json::json!({"scenario": row.scenario, "phase": row.phase, "daemons": daemons})
            })
            .collect();
        serde_json::to_string_pretty(&serde_json::json!({"versions": versions, "rows": rows}))
    }
}

fn cell(runs: &[Measured]) -> Cell {
    #[expect(
        clippy::cast_precision_loss,
        reason = "memory in KiB is far below 2^52"
    )]
    let peak_mib = median(runs, |run| run.peak_kib).unwrap_or_default() as f64 / 1024.0;
    let seconds = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64();
    Cell {
        runs: runs.len(),
        wall_seconds: seconds(median(runs, |run| run.wall)),
        cpu_seconds: seconds(median(runs, |run| run.cpu)),
        peak_mib,
    }
}

fn median<T: Ord + Copy>(runs: &[Measured], field: impl Fn(&Measured) -> T) -> Option<T> {
    let mut values: Vec<T> = runs.iter().map(field).collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}
