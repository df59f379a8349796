//! `bench bgp`, `bench attacks`, `bench cni` and `bench dataplane` measure, `bench table` writes docs/performance.md's tables from what was measured.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bench::daemon::Kind;
use bench::facts::Facts;
use bench::plan::{Family, PLANS, Phase, Plan};
use bench::report::Report;
use bench::scenario::Outcome;
use bench::world::World;
use bench::{attacks, cni, dataplane, scenario, world};
use clap::{Parser, Subcommand};

/// Measures the project's parts beside others.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// BGP daemons under the same load.
    ///
    /// One run of tortie, bird1, bird, frr, rustybgp and openbgpd takes 5 to 9 minutes on two cores, the first the longest; gobgp and bird3
    /// add 1 to 3. A phase that reaches its limit is reported as that, and neither it nor what follows from it is tried again with that daemon.
    Bgp(Bgp),
    /// Hostile peers of `tortie-rr`: what each attack costs, beside honest sessions.
    ///
    /// One run takes about 3 minutes.
    Attacks(attacks::Arguments),
    /// Pods: what CNI ADD and DEL take with this project's programs, over a real API server and over the embedded store.
    ///
    /// One run takes about 3 minutes on two cores. Nothing of Calico runs: its figures in the table are from an earlier measurement.
    Cni(cni::Arguments),
    /// Routes and packet rules: what it takes to write them into the kernel and to read them again, beside other senders.
    ///
    /// One run takes 2 to 4 minutes on two cores.
    Dataplane(dataplane::Arguments),
    /// The tables of a result, in Markdown.
    Table(Tables),
}

#[derive(clap::Args)]
struct Bgp {
    /// Runs of each scenario with each daemon; the medians count. Daemons take turns within a run.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Daemons; those that are not installed are left out. Default: all.
    #[arg(long, value_delimiter = ',')]
    daemons: Vec<Kind>,
    /// Scenarios by name. Default: all.
    #[arg(long, value_delimiter = ',')]
    scenarios: Vec<String>,
    /// Decides about routes; each run has the next one. Default: another one each time.
    #[arg(long)]
    seed: Option<u64>,
    /// Longest phase in seconds. Default: 60, and 120 for the scenario with a million prefixes.
    #[arg(long)]
    limit: Option<u64>,
    /// Write the result here as JSON, after every run.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the tables into this document, between their marks.
    #[arg(long)]
    into: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Tables {
    /// What `bench bgp --json`, `bench cni --json` or `bench dataplane --json` wrote.
    result: PathBuf,
    /// Write them into this document, between their marks.
    #[arg(long)]
    into: Option<PathBuf>,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().what {
        What::Bgp(arguments) => bgp(&arguments),
        What::Attacks(arguments) => attacks::run(&arguments),
        What::Cni(arguments) => cni::run(&arguments),
        What::Dataplane(arguments) => dataplane::run(&arguments),
        What::Table(arguments) => table(&arguments).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("bench: {error:#}");
        ExitCode::FAILURE
    })
}

fn table(arguments: &Tables) -> anyhow::Result<()> {
    let into = arguments.into.as_deref();
    let text = std::fs::read_to_string(&arguments.result)?;
    if let Ok(dataplane) = dataplane::Report::parse(&text) {
        match into {
            Some(document) => dataplane.write_into(document)?,
            None => println!("{}", dataplane.markdown()),
        }
        return Ok(());
    }
    match (cni::Report::parse(&text), into) {
        (Ok(pods), Some(document)) => pods.write_into(document),
        (Ok(pods), None) => {
            println!("{}", pods.markdown());
            Ok(())
        }
        (Err(_), into) => show(&Report::read(&arguments.result)?, into),
    }
}

fn show(report: &Report, into: Option<&Path>) -> anyhow::Result<()> {
    match into {
        Some(document) => report.write_into(document),
        None => {
            println!("{}", report.markdown());
            Ok(())
        }
    }
}

fn bgp(arguments: &Bgp) -> anyhow::Result<ExitCode> {
    for name in &arguments.scenarios {
        let names: Vec<&str> = PLANS.iter().map(|plan| plan.name).collect();
        anyhow::ensure!(
            names.contains(&name.as_str()),
            "no scenario is called {name:?}; there are {}",
            names.join(", ")
        );
    }
    if let Some(code) = world::enter()? {
        return Ok(code);
    }
    // Others on the machine disturb less; without the right to it, they disturb more.
    let _ = rustix::process::setpriority_process(None, -10);
    let wanted = if arguments.daemons.is_empty() {
        Kind::ALL.to_vec()
    } else {
        arguments.daemons.clone()
    };
    let (kinds, missing): (Vec<Kind>, Vec<Kind>) = wanted
        .into_iter()
        .partition(|kind| kind.program(Family::V4).is_some());
    for kind in missing {
        eprintln!("{kind} is not installed: left out");
    }
    let directory = std::env::temp_dir().join(format!("tortie-bench-{}", std::process::id()));
    let seed = arguments.seed.unwrap_or_else(bench::random::seed);
    eprintln!("seed {seed}");
    let mut runs = Runs {
        arguments,
        seed,
        report: Report::new(Facts::gather(arguments.runs), &kinds, seed),
        kinds,
        directory,
        begin: Instant::now(),
        late: BTreeSet::new(),
        failed: BTreeSet::new(),
    };
    for number in 1..=arguments.runs {
        runs.run(number)?;
    }
    show(&runs.report, None)?;
    if let Some(document) = &arguments.into {
        runs.report.write_into(document)?;
    }
    // Nothing of it is of use any more.
    let _ = std::fs::remove_dir_all(&runs.directory);
    for (scenario, kind) in &runs.failed {
        eprintln!("failed: {scenario} with {kind}");
    }
    Ok(if runs.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

struct Runs<'a> {
    arguments: &'a Bgp,
    seed: u64,
    kinds: Vec<Kind>,
    report: Report,
    directory: PathBuf,
    begin: Instant,
    /// Phases that reached their limit: not tried again.
    late: BTreeSet<(&'static str, Kind, Phase)>,
    /// Scenarios that failed: not tried again either.
    failed: BTreeSet<(&'static str, Kind)>,
}

impl Runs<'_> {
    /// One run of everything.
    fn run(&mut self, number: usize) -> anyhow::Result<()> {
        let chosen = &self.arguments.scenarios;
        let plans = PLANS
            .iter()
            .filter(|plan| chosen.is_empty() || chosen.iter().any(|name| name == plan.name));
        for plan in plans {
            for kind in self.kinds.clone() {
                let there = kind.program(plan.family).is_some() && kind.serves(plan);
                if there && !self.failed.contains(&(plan.name, kind)) {
                    self.one(number, plan, kind);
                }
            }
        }
        self.report.facts.end();
        if let Some(path) = &self.arguments.json {
            std::fs::write(path, self.report.json()?)?;
        }
        let done = self.begin.elapsed();
        let rest = done / u32::try_from(number)? * u32::try_from(self.arguments.runs - number)?;
        eprintln!(
            "run {number} of {} is done after {} s; what remains takes about {} s",
            self.arguments.runs,
            done.as_secs(),
            rest.as_secs()
        );
        Ok(())
    }

    fn one(&mut self, number: usize, plan: &'static Plan, kind: Kind) {
        let limit = self.arguments.limit.map_or(plan.limit, Duration::from_secs);
        let left_out = |phase: &&Phase| {
            !kind.can(plan, **phase) || self.late.contains(&(plan.name, kind, **phase))
        };
        let skip: Vec<Phase> = plan.phases.iter().filter(left_out).copied().collect();
        let seed = self.seed.wrapping_add(u64::try_from(number).unwrap_or(0));
        let (world, directory) = (World::PRIVATE, &self.directory);
        let outcome = scenario::run(plan, kind, world, directory, limit, &skip, seed);
        match outcome {
            Ok(outcome) => {
                let seconds = self.begin.elapsed().as_secs();
                eprintln!(
                    "{seconds:5} s, run {number}, {}: {kind}: {}",
                    plan.name,
                    line(&outcome)
                );
                self.report.add(plan, kind, &outcome.phases);
                for (phase, why) in outcome.late {
                    eprintln!(
                        "{}: {kind}: {} reached its limit: {why}",
                        plan.name,
                        phase.name()
                    );
                    self.late.insert((plan.name, kind, phase));
                }
            }
            Err(error) => {
                self.failed.insert((plan.name, kind));
                eprintln!("{error:#}");
            }
        }
    }
}

/// Wall seconds / CPU seconds of the daemon / CPU seconds of the peers.
fn line(outcome: &Outcome) -> String {
    let phases = outcome.phases.iter().map(|(phase, measured)| {
        let wall = measured
            .wall_seconds
            .map_or_else(|| "limit".to_owned(), |seconds| format!("{seconds:.4}"));
        format!(
            "{} {wall}/{:.3}/{:.3}",
            phase.name(),
            measured.cpu_seconds,
            measured.peers_cpu_seconds
        )
    });
    phases.collect::<Vec<_>>().join(", ")
}
