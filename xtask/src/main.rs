//! One front door for the developers' chores: `cargo xtask check` and friends.

mod attributes;
mod bench;
mod check;
mod contract;
mod image;
mod layers;
mod licences;
mod manifests;
mod metadata;
mod release;
mod sizes;
mod uml;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Chores of the Tortie workspace.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Everything that must hold before a commit: format, clippy, layers, licences, pages that
    /// name tests, attributes of tests, generated files; sizes as a report.
    Check,
    /// Only the layers: which of our packages may see which, and what pure packages must never see.
    Layers,
    /// Only the licences of everything in the lock file.
    Licences,
    /// Only the pages that name tests: each test they name must exist.
    Contract,
    /// Writes manifests/crds from the types of `api`.
    Manifests,
    /// Only the report of long files and functions.
    Sizes,
    /// Makes a container image of the programs, without a container engine.
    Image(image::Arguments),
    /// Builds a User Mode Linux kernel for `cargo lab --kernel uml` from Debian's source package, unless there is one; prints its path.
    Uml(uml::Arguments),
    /// Measures: `bench bgp` for the speaker beside other daemons, `bench table` for the tables of what it measured; each has `--help`.
    Bench {
        /// For the bench itself.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().chore {
        Chore::Check => check::run(),
        Chore::Layers => metadata::read().and_then(|tree| layers::check(&tree)),
        Chore::Licences => metadata::read().and_then(|tree| licences::check(&tree)),
        Chore::Contract => contract::check(),
        Chore::Manifests => manifests::write(),
        Chore::Sizes => sizes::report(),
        Chore::Image(arguments) => image::run(&arguments),
        Chore::Uml(arguments) => uml::run(&arguments),
        Chore::Bench { arguments } => bench::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
