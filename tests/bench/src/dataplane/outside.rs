//! `bench dataplane` from outside the namespaces.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, ensure};
use clap::ValueEnum as _;

use super::inside::{self, Task};
use super::report::Report;
use super::{Spent, Way, Work};
use crate::facts::Facts;

/// What is to be measured.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// What to do. Default: all.
    #[arg(long, value_delimiter = ',', value_enum)]
    pub works: Vec<Work>,
    /// By what. Default: all.
    #[arg(long, value_delimiter = ',', value_enum)]
    pub ways: Vec<Way>,
    /// Numbers of routes; a peer's move and idleness have the first only.
    #[arg(long, value_delimiter = ',', default_values_t = [100_000, 1_000_000])]
    pub routes: Vec<u32>,
    /// Runs of each, each in a process and a namespace of its own.
    #[arg(long, default_value_t = 3)]
    pub runs: usize,
    /// From which prefixes, peers and pools follow. Default: another one each time, which is printed.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Write the result here as JSON, after every run.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Write the table into this document, between its marks.
    #[arg(long)]
    pub into: Option<PathBuf>,
    /// For this program's own use: measure one thing in this namespace.
    #[arg(long, hide = true)]
    pub inside: bool,
}

/// Measures, prints the table, and writes what was asked for.
///
/// # Errors
/// When something cannot be measured: with what its program said.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let seed = arguments.seed.unwrap_or_else(crate::random::seed);
    if arguments.inside {
        let (Some(&work), Some(&way), Some(&routes)) = (
            arguments.works.first(),
            arguments.ways.first(),
            arguments.routes.first(),
        ) else {
            anyhow::bail!("one work, one way and one number of routes are measured at a time");
        };
        let task = Task {
            work,
            way,
            routes,
            seed,
        };
        println!("{}", serde_json::to_string(&inside::run(task)?)?);
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("seed {seed}");
    let tasks = tasks(arguments, seed);
    let mut report = Report::new(Facts::gather(arguments.runs), seed);
    for run in 0..arguments.runs {
        // Ways take turns, so that what else the machine does falls on all.
        for task in &tasks {
            let seed = seed.wrapping_add(run as u64);
            let task = Task { seed, ..*task };
            let spent = apart(task)
                .with_context(|| format!("{} by {}, seed {seed}", task.work, task.way))?;
            eprintln!(
                "run {}, {} of {} by {}: {:.4} s, CPU {:.4} s, {:.0} MiB",
                run + 1,
                task.work,
                task.routes,
                task.way,
                spent.seconds,
                spent.cpu_seconds,
                spent.peak_mib
            );
            report.add(task.work, task.routes, task.way, spent);
        }
        report.facts.end();
        if let Some(path) = &arguments.json {
            std::fs::write(path, report.json()?)?;
        }
    }
    match &arguments.into {
        Some(document) => report.write_into(document)?,
        None => println!("{}", report.markdown()),
    }
    Ok(ExitCode::SUCCESS)
}

fn tasks(arguments: &Arguments, seed: u64) -> Vec<Task> {
    let chosen = |work: &Work| arguments.works.is_empty() || arguments.works.contains(work);
    let mut tasks = Vec::new();
    for work in Work::value_variants().iter().copied().filter(chosen) {
        let numbers = match work {
            Work::Add | Work::Resync => &arguments.routes[..],
            Work::Move | Work::Idle => arguments.routes.get(..1).unwrap_or_default(),
            // Has none.
            Work::Rules => &[0],
        };
        for routes in numbers {
            let ways = work.ways().iter();
            let ways = ways.filter(|way| arguments.ways.is_empty() || arguments.ways.contains(way));
            tasks.extend(ways.map(|way| Task {
                work,
                way: *way,
                routes: *routes,
                seed,
            }));
        }
    }
    tasks
}

/// Runs this program again in a network of its own.
fn apart(task: Task) -> anyhow::Result<Spent> {
    let mut command = Command::new("unshare");
    command.arg("--net");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    let output = command
        .arg(std::env::current_exe()?)
        .args(["dataplane", "--inside"])
        .args(["--works", &task.work.to_string()])
        .args(["--ways", &task.way.to_string()])
        .args(["--routes", &task.routes.to_string()])
        .args(["--seed", &task.seed.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("running unshare, of util-linux")?;
    ensure!(output.status.success(), "new namespaces: {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}
