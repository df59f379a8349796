//! What was measured, and the tables of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use comfy_table::{Table, presets};
use lab::Store;
use serde::{Deserialize, Serialize};

use super::scenario::Measures;
use crate::facts::Facts;
use crate::report::write_between;

/// Before the tables in the document.
const BEGIN: &str = "<!-- bench cni: begin. `cargo xtask bench table` writes what is below. -->\n";
/// After them.
const END: &str = "<!-- bench cni: end -->";

/// All that was measured.
///
/// As JSON it begins with `tortie`, `ptp` and `bridge`, where scenario `beside` was measured: `add_p50_ms` and so on.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tortie: Option<Beside>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ptp: Option<Beside>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bridge: Option<Beside>,
    /// Where and when.
    pub facts: Facts,
    /// From which the worlds' names follow.
    pub seed: u64,
    /// By the store's name.
    stores: BTreeMap<String, Measures>,
}

/// What one plugin takes beside the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Beside {
    /// One ADD at a time, milliseconds from before the program's start until it has ended.
    add_p50_ms: f64,
    /// The same.
    add_p99_ms: f64,
    /// One DEL at a time.
    del_p50_ms: f64,
    /// The same.
    del_p99_ms: f64,
    /// ADDs each second, 8 at a time: the median of the rounds.
    pods_per_s_8: f64,
    /// DELs each second, 8 at a time.
    dels_per_s_8: f64,
}

impl Beside {
    fn of(plugin: &str, measures: &Measures) -> Option<Self> {
        let samples = |what: &str| measures.samples.get(&format!("{plugin} {what}"));
        let (add, del) = (samples("ADD ms")?, samples("DEL ms")?);
        Some(Self {
            add_p50_ms: p50(add),
            add_p99_ms: p99(add),
            del_p50_ms: p50(del),
            del_p99_ms: p99(del),
            pods_per_s_8: p50(samples("ADD each second, 8 at a time")?),
            dels_per_s_8: p50(samples("DEL each second, 8 at a time")?),
        })
    }
}

/// A row of the table of plugins: what, the goal, and the figure.
type BesideRow = (&'static str, &'static str, fn(&Beside) -> f64);

const BESIDE: [BesideRow; 6] = [
    ("ADD, one at a time: p50, ms", "≤ 1.0", |of| of.add_p50_ms),
    ("the same: p99, ms", "≤ 3", |of| of.add_p99_ms),
    ("ADD, 8 at a time: each second", "≥ 1500", |of| {
        of.pods_per_s_8
    }),
    ("DEL, one at a time: p50, ms", "≤ 0.8", |of| of.del_p50_ms),
    ("the same: p99, ms", "", |of| of.del_p99_ms),
    ("DEL, 8 at a time: each second", "≥ 2000", |of| {
        of.dels_per_s_8
    }),
];

/// Of one run's samples in their order.
fn first(samples: &[f64]) -> f64 {
    samples.first().copied().unwrap_or(f64::NAN)
}

fn last(samples: &[f64]) -> f64 {
    samples.last().copied().unwrap_or(f64::NAN)
}

/// A figure of the table.
struct Figure {
    what: &'static str,
    /// Name of the samples.
    samples: &'static str,
    statistic: fn(&[f64]) -> f64,
    goal: &'static str,
    /// Of Calico: see docs/performance.md for where it is from.
    calico: Option<f64>,
    is_rate: bool,
}

const fn figure(
    what: &'static str,
    samples: &'static str,
    statistic: fn(&[f64]) -> f64,
    goal: &'static str,
    calico: Option<f64>,
) -> Figure {
    Figure {
        what,
        samples,
        statistic,
        goal,
        calico,
        is_rate: false,
    }
}

const FIGURES: &[Figure] = &[
    figure(
        "ADD, one at a time, block half full: p50, ms",
        "ADD ms",
        p50,
        "≤ 9",
        Some(103.0),
    ),
    figure("the same: p99, ms", "ADD ms", p99, "", Some(148.0)),
    figure(
        "floor: its three writes in order, by a client that does nothing else: p50, ms",
        "floor ms",
        p50,
        "",
        None,
    ),
    figure("of them the handle", "floor handle ms", p50, "", None),
    figure("the block", "floor block ms", p50, "", None),
    figure("the pod", "floor pod ms", p50, "", None),
    Figure {
        is_rate: true,
        ..figure(
            "ADD, 8 at a time: each second",
            "8 ADD each second",
            p50,
            "≥ 250",
            Some(9.7),
        )
    },
    figure("the same: p50 of one, ms", "8 ADD ms", p50, "", Some(805.0)),
    figure("DEL: p50, ms", "DEL ms", p50, "≤ 10", Some(112.0)),
    figure("the same: p99, ms", "DEL ms", p99, "", Some(173.0)),
    Figure {
        is_rate: true,
        ..figure(
            "DEL, 8 at a time: each second",
            "8 DEL each second",
            p50,
            "",
            None,
        )
    },
    figure(
        "ADD that claims a block, until it is in the other node's FIB: p50, ms",
        "claim to remote FIB ms",
        p50,
        "≤ 30",
        Some(137.0),
    ),
    figure(
        "the same ADD's own time: p50, ms",
        "claim ADD ms",
        p50,
        "",
        None,
    ),
    figure(
        "agent with 100 nodes, 2,900 pods: resident, MiB",
        "agent of 100 nodes MiB",
        p50,
        "≤ 20",
        Some(341.0),
    ),
    figure(
        "the same: peak, MiB",
        "agent of 100 nodes peak MiB",
        p50,
        "",
        None,
    ),
    figure(
        "agent with 2 nodes, after 110 pods came and went: resident, MiB",
        "agent MiB",
        p50,
        "",
        Some(309.0),
    ),
    figure(
        "the plugin's program, asked for its version: p50, ms",
        "start ms",
        p50,
        "",
        None,
    ),
    figure(
        "a pair made and configured by the agent's code alone: p50, ms",
        "pair ms",
        p50,
        "",
        None,
    ),
    figure(
        "ADD into an own block: p50, ms",
        "small ADD ms",
        p50,
        "",
        None,
    ),
    figure(
        "beside 10,000 blocks and 100,000 handles of others",
        "large ADD ms",
        p50,
        "1.5×",
        None,
    ),
    figure(
        "ADD that claims a block: p50, ms",
        "small claim ADD ms",
        p50,
        "",
        None,
    ),
    figure(
        "beside 10,000 blocks",
        "large claim ADD ms",
        p50,
        "≤ 50",
        None,
    ),
    figure(
        "ADD that borrows: p50, ms",
        "small borrowed ADD ms",
        p50,
        "",
        None,
    ),
    figure(
        "beside 10,000 blocks",
        "large borrowed ADD ms",
        p50,
        "",
        None,
    ),
    figure(
        "DEL of what was borrowed: p50, ms",
        "small DEL ms",
        p50,
        "",
        None,
    ),
    figure("beside 10,000 blocks", "large DEL ms", p50, "", None),
    figure(
        "agent that knows them: resident, MiB",
        "large agent MiB",
        p50,
        "",
        None,
    ),
    figure(
        "1,000 pods came and went: agent resident, MiB",
        "cycles agent MiB",
        first,
        "",
        None,
    ),
    figure(
        "9,000 came and went",
        "cycles agent MiB",
        last,
        "the same",
        None,
    ),
    figure(
        "store resident, MiB: 1,000",
        "cycles store MiB",
        first,
        "",
        None,
    ),
    figure("9,000", "cycles store MiB", last, "the same", None),
    figure(
        "store's file, MiB: 1,000",
        "cycles file MiB",
        first,
        "",
        None,
    ),
    figure("9,000", "cycles file MiB", last, "the same", None),
    figure(
        "CPU of one ADD, ms: agent",
        "ADD agent CPU ms",
        p50,
        "",
        None,
    ),
    figure("of the plugin", "ADD plugin CPU ms", p50, "", Some(77.0)),
    figure("of the API server", "ADD API server CPU ms", p50, "", None),
    figure("of etcd", "ADD etcd CPU ms", p50, "", None),
    figure(
        "CPU of one ADD of 8 at a time, ms: agent",
        "8 ADD agent CPU ms",
        p50,
        "",
        None,
    ),
    figure("of the plugin", "8 ADD plugin CPU ms", p50, "", None),
    figure(
        "of the API server",
        "8 ADD API server CPU ms",
        p50,
        "",
        None,
    ),
    figure("of etcd", "8 ADD etcd CPU ms", p50, "", None),
    figure(
        "CPU of one DEL, ms: agent",
        "DEL agent CPU ms",
        p50,
        "",
        None,
    ),
    figure(
        "CPU of the agent in an idle minute, ms",
        "idle minute agent CPU ms",
        p50,
        "",
        None,
    ),
    figure("requests: of an ADD", "ADD requests", p50, "", None),
    figure("of an ADD, 8 at a time", "8 ADD requests", p50, "", None),
    figure("of a DEL", "DEL requests", p50, "", None),
    figure("of an idle minute", "idle minute requests", p50, "", None),
    figure(
        "octets on the node's network: of an ADD",
        "ADD octets",
        p50,
        "",
        None,
    ),
    figure("of a DEL", "DEL octets", p50, "", None),
    figure("of an idle minute", "idle minute octets", p50, "", None),
];

impl Report {
    /// Nothing is measured yet.
    #[must_use]
    pub fn new(facts: Facts, seed: u64) -> Self {
        Self {
            tortie: None,
            ptp: None,
            bridge: None,
            facts,
            seed,
            stores: BTreeMap::new(),
        }
    }

    /// Adds what a world measured.
    pub fn add(&mut self, store: Store, measures: Measures) {
        let all = self.stores.entry(store.name().to_owned()).or_default();
        all.take(measures);
        if store == Store::Local {
            self.tortie = Beside::of("tortie", all);
            self.ptp = Beside::of("ptp", all);
            self.bridge = Beside::of("bridge", all);
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

    /// The facts and the tables in Markdown: plugins beside each other, figures, and what is asked of the API server.
    #[must_use]
    pub fn markdown(&self) -> String {
        let runs = format!("{} runs, seed {}", self.facts.runs, self.seed);
        let mut text = format!("{}\n\n", self.facts.measured(&runs));
        // Writing to a string cannot fail.
        if let Some(beside) = self.beside() {
            let _ = writeln!(text, "{beside}\n");
        }
        let _ = writeln!(text, "{}\n\n{}", self.figures(), self.requests());
        text
    }

    /// `None` when it was not measured.
    fn beside(&self) -> Option<Table> {
        let tortie = self.tortie.as_ref()?;
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header([
            "with the embedded store",
            "goal",
            "tortie",
            "ptp, host-local",
            "bridge, host-local",
        ]);
        for (what, goal, figure) in BESIDE {
            let shown =
                |of: Option<&Beside>| of.map_or_else(|| "—".to_owned(), |of| number(figure(of)));
            let (ptp, bridge) = (shown(self.ptp.as_ref()), shown(self.bridge.as_ref()));
            table.add_row([what, goal, &number(figure(tortie)), &ptp, &bridge]);
        }
        Some(table)
    }

    fn value(&self, store: &str, figure: &Figure) -> Option<f64> {
        let samples = self.stores.get(store)?.samples.get(figure.samples)?;
        Some((figure.statistic)(samples))
    }

    fn figures(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header([
            "what",
            "goal",
            "Calico",
            "API server",
            "Calico's ratio",
            "embedded store",
        ]);
        for figure in FIGURES {
            let [kube, local] =
                [Store::Kube, Store::Local].map(|store| self.value(store.name(), figure));
            let ratio = kube.zip(figure.calico).map(|(ours, calico)| {
                let ratio = if figure.is_rate {
                    ours / calico
                } else {
                    calico / ours
                };
                format!("{ratio:.0}×")
            });
            let shown = |value: Option<f64>| value.map_or_else(|| "—".to_owned(), number);
            table.add_row([
                figure.what.to_owned(),
                figure.goal.to_owned(),
                shown(figure.calico),
                shown(kube),
                ratio.unwrap_or_else(|| "—".to_owned()),
                shown(local),
            ]);
        }
        table
    }

    fn requests(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(["for one", "requests to the API server"]);
        let kube = self.stores.get(Store::Kube.name());
        for (command, requests) in kube.iter().flat_map(|measures| &measures.requests) {
            let each = requests
                .iter()
                .map(|(what, count)| format!("{} {what}", number(*count)));
            table.add_row([command.clone(), each.collect::<Vec<_>>().join(", ")]);
        }
        table
    }

    /// Puts the tables into a document, in place of those in it.
    ///
    /// # Errors
    /// When the document lacks the marks, or cannot be read or written.
    pub fn write_into(&self, path: &Path) -> anyhow::Result<()> {
        write_between(path, (BEGIN, END), &self.markdown())
            .with_context(|| path.display().to_string())
    }
}

/// Three digits of it.
fn number(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

fn p50(samples: &[f64]) -> f64 {
    quantile(samples, 50)
}

fn p99(samples: &[f64]) -> f64 {
    quantile(samples, 99)
}

fn quantile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let at = (last * percent).div_ceil(100);
    sorted.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new(Facts::default(), 7);
        let mut kube = Measures::default();
        for milliseconds in [9.0, 7.0, 8.0] {
            kube.note("ADD ms", milliseconds);
        }
        kube.note("8 ADD each second", 97.0);
        let asked = BTreeMap::from([("PUT ipamblocks".to_owned(), 1.0)]);
        kube.requests.insert("ADD".to_owned(), asked);
        report.add(Store::Kube, kube);
        report
    }

    #[test]
    fn the_table_has_quantiles_ratios_and_gaps() {
        let markdown = report().markdown();
        let cells = |row: &str| {
            let line = markdown.lines().find(|line| line.contains(row)).unwrap();
            let cells = line.split('|').map(|cell| cell.trim().to_owned());
            cells.skip(2).take(5).collect::<Vec<_>>()
        };
        let add = ["≤ 9", "103", "8.00", "13×", "—"];
        assert_eq!(cells("block half full: p50"), add);
        assert_eq!(
            cells("8 at a time: each second"),
            ["≥ 250", "9.70", "97.0", "10×", "—"]
        );
        assert_eq!(cells("DEL: p50"), ["≤ 10", "112", "—", "—", "—"]);
        assert!(markdown.contains("1.00 PUT ipamblocks"), "{markdown}");
    }

    #[test]
    fn plugins_beside_each_other_stand_first_in_the_json_and_in_a_table_of_their_own() {
        let mut report = report();
        assert!(!report.markdown().contains("bridge"));
        let mut beside = Measures::default();
        for name in ["tortie", "ptp"] {
            for (command, milliseconds) in [("ADD", [2.0, 1.0, 9.0]), ("DEL", [3.0, 4.0, 5.0])] {
                for took in milliseconds {
                    beside.note(format!("{name} {command} ms"), took);
                }
                beside.note(format!("{name} {command} each second, 8 at a time"), 500.0);
            }
        }
        report.add(Store::Local, beside);
        let json = report.json().unwrap();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["tortie"]["add_p50_ms"], 2.0);
        assert_eq!(value["ptp"]["add_p99_ms"], 9.0);
        assert_eq!(value["ptp"]["del_p50_ms"], 4.0);
        assert_eq!(value["tortie"]["pods_per_s_8"], 500.0);
        assert_eq!(value["tortie"]["dels_per_s_8"], 500.0);
        assert!(value.get("bridge").is_none(), "it was not there");
        let again = Report::parse(&json).unwrap().markdown();
        assert_eq!(again, report.markdown());
        let row = again.lines().find(|line| line.contains("≤ 1.0")).unwrap();
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        assert_eq!(cells[2..6], ["≤ 1.0", "2.00", "2.00", "—"]);
    }

    #[test]
    fn a_report_comes_back_from_its_json_and_is_not_taken_for_one_of_the_other_bench() {
        let report = report();
        let json = report.json().unwrap();
        assert_eq!(Report::parse(&json).unwrap().markdown(), report.markdown());
        assert!(Report::parse(r#"{"facts": {}, "versions": {}, "rows": []}"#).is_err());
    }

    #[test]
    fn the_published_tables_are_those_of_the_committed_result() {
        crate::report::published("cni.json", (BEGIN, END), |json| {
            Report::parse(json).unwrap().markdown()
        });
    }
}
