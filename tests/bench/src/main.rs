//! `bench bgp`: the table of docs/performance.md.

use std::path::PathBuf;
use std::process::ExitCode;

use bench::daemon::Kind;
use bench::plan::PLANS;
use bench::report::Report;
use bench::world::World;
use bench::{scenario, world};
use clap::{Parser, Subcommand};

/// Measures the project's parts beside others.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// BGP daemons as route reflectors.
    Bgp(Bgp),
}

#[derive(clap::Args)]
struct Bgp {
    /// Runs of each scenario with each daemon; the medians count.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Daemons; those that are not installed are left out. Default: all.
    #[arg(long, value_delimiter = ',')]
    daemons: Vec<Kind>,
    /// Scenarios by name. Default: all.
    #[arg(long, value_delimiter = ',')]
    scenarios: Vec<String>,
    /// Also write the result here as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match Arguments::parse().what {
        What::Bgp(arguments) => match bgp(&arguments) {
            Ok(code) => code,
            Err(error) => {
                eprintln!("bench: {error:#}");
                ExitCode::FAILURE
            }
        },
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
        .partition(|kind| kind.program().is_some());
    for kind in missing {
        eprintln!("{kind} is not installed: left out");
    }
    let directory = std::env::temp_dir().join(format!("tortie-bench-{}", std::process::id()));
    let mut report = Report::default();
    let mut failures = 0;
    let chosen = |name: &str| {
        arguments.scenarios.is_empty() || arguments.scenarios.iter().any(|other| other == name)
    };
    for plan in PLANS.iter().filter(|plan| chosen(plan.name)) {
        for number in 1..=arguments.runs {
            for kind in &kinds {
                eprintln!("{}, run {number}: {kind}", plan.name);
                match scenario::run(plan, *kind, World::PRIVATE, &directory) {
                    Ok(run) => report.add(plan, *kind, run),
                    Err(error) => {
                        failures += 1;
                        eprintln!("{error:#}");
                    }
                }
            }
        }
    }
    for kind in &kinds {
        println!("{kind}: {}", kind.version());
    }
    println!(
        "medians of {} runs: wall s / CPU s / peak MiB\n",
        arguments.runs
    );
    println!("{}", report.table(&kinds));
    if let Some(path) = &arguments.json {
        std::fs::write(path, report.json(&kinds)?)?;
    }
    // Nothing of it is of use any more.
    let _ = std::fs::remove_dir_all(&directory);
    Ok(if failures == 0 {
        ExitCode::SUCCESS
    } else {
        eprintln!("{failures} runs failed");
        ExitCode::FAILURE
    })
}
