//! `bench cni` from outside the worlds.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use lab::Store;

use super::Scenario;
use super::report::Report;
use super::scenario::{Measures, inside};
use crate::facts::Facts;

/// Beginning of the line on which a world tells its result.
const RESULT: &str = "result: ";

/// What is to be measured.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where objects are kept. Default: both, the API server's only where `.ci/setup` has built one.
    #[arg(long, value_delimiter = ',', value_enum)]
    pub store: Vec<Store>,
    /// What to measure. Default: all.
    #[arg(long, value_delimiter = ',', value_enum)]
    pub scenarios: Vec<Scenario>,
    /// Runs of each scenario, each in a world of its own.
    #[arg(long, default_value_t = 3)]
    pub runs: usize,
    /// Timed rounds of scenario `beside`.
    #[arg(long, default_value_t = 8)]
    pub rounds: usize,
    /// Whom scenario `beside` measures: `tortie`, `ptp`, `bridge`. Default: all that are installed.
    #[arg(long, value_delimiter = ',', value_parser = ["tortie", "ptp", "bridge"])]
    pub plugins: Vec<String>,
    /// From which names and the order of pods follow. Default: another one each time, which is printed.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Write the result here as JSON, after every world. At its top, for each of `tortie`, `ptp` and `bridge` that scenario `beside`
    /// measured: `add_p50_ms`, `add_p99_ms`, `del_p50_ms`, `del_p99_ms`, `pods_per_s_8`, `dels_per_s_8`.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Write the tables into this document, between their marks.
    #[arg(long)]
    pub into: Option<PathBuf>,
}

/// Measures, prints the tables, and writes what was asked for.
///
/// # Errors
/// When a world fails: with what its programs said.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let seed = arguments.seed.unwrap_or_else(crate::random::seed);
    if lab::is_inside() {
        let (Some(&store), Some(&scenario)) =
            (arguments.store.first(), arguments.scenarios.first())
        else {
            anyhow::bail!("a world has one store and one scenario");
        };
        let measures = inside(store, scenario, seed, arguments)?;
        println!("{RESULT}{}", serde_json::to_string(&measures)?);
        return Ok(ExitCode::SUCCESS);
    }
    let stores = stores(&arguments.store);
    let scenarios = match &arguments.scenarios[..] {
        [] => Scenario::value_variants(),
        chosen => chosen,
    };
    eprintln!("seed {seed}");
    let mut report = Report::new(Facts::gather(arguments.runs), seed);
    for run in 0..arguments.runs {
        // Stores take turns, so that what else the machine does falls on both.
        for scenario in scenarios {
            for store in stores.iter().filter(|store| scenario.is_for(**store)) {
                eprintln!("run {}, {}: {scenario}", run + 1, store.name());
                let of_run = seed.wrapping_add(run as u64);
                let measures = world(*store, *scenario, of_run, arguments)?;
                report.add(*store, measures);
                report.facts.end();
                if let Some(path) = &arguments.json {
                    std::fs::write(path, report.json()?)?;
                }
            }
        }
    }
    match &arguments.into {
        Some(document) => report.write_into(document)?,
        None => println!("{}", report.markdown()),
    }
    Ok(ExitCode::SUCCESS)
}

/// The programs of the API server are not everywhere.
fn stores(chosen: &[Store]) -> Vec<Store> {
    if !chosen.is_empty() {
        return chosen.to_vec();
    }
    let kube = std::env::var_os("TORTIE_KUBE")
        .map(PathBuf::from)
        .or_else(|| {
            let home = std::env::var_os("HOME")?;
            Some(Path::new(&home).join(".cache/tortie/kube"))
        });
    if kube.is_some_and(|folder| folder.join("kube-apiserver").exists()) {
        return vec![Store::Kube, Store::Local];
    }
    eprintln!("there is no API server to be measured with: .ci/setup builds one, given Go");
    vec![Store::Local]
}

/// Runs this program again as the first process of a world.
fn world(
    store: Store,
    scenario: Scenario,
    seed: u64,
    arguments: &Arguments,
) -> anyhow::Result<Measures> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args([
            "cni",
            "--store",
            store.name(),
            "--scenarios",
            &scenario.to_string(),
        ])
        .args(["--seed", &seed.to_string()])
        .args(["--rounds", &arguments.rounds.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if !arguments.plugins.is_empty() {
        command.args(["--plugins", &arguments.plugins.join(",")]);
    }
    lab::as_init(&mut command);
    let child = command.spawn().map_err(|error| {
        anyhow::anyhow!("new namespaces: {error}. {}", lab::refusal_advice(&error))
    })?;
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "{scenario}, seed {seed}: {}",
        output.status
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let told = text.lines().find_map(|line| line.strip_prefix(RESULT));
    let told = told.with_context(|| format!("{scenario}: the world told nothing"))?;
    Ok(serde_json::from_str(told)?)
}
