//! `cargo xtask check`: the steps in order, each named before it runs.

use std::process::Command;

use anyhow::{Context, ensure};

use crate::{attributes, contract, layers, licences, metadata, sizes};

/// Runs every step; stops at the first that fails.
pub(crate) fn run() -> anyhow::Result<()> {
    step("format", || cargo(&["fmt", "--all", "--check"]))?;
    let tree = metadata::read()?;
    step("layers", || layers::check(&tree))?;
    step("licences", || licences::check(&tree))?;
    step("contract", contract::check)?;
    step("attributes of tests", attributes::check)?;
    step("clippy", || {
        cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ])
    })?;
    step("generated files", || {
        cargo(&[
            "test",
            "--quiet",
            "--locked",
            "--package",
            "datastore-local",
            "--test",
            "generated",
        ])
    })?;
    step("sizes (a report)", sizes::report)
}

fn step(name: &str, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    println!("check: {name}");
    work().with_context(|| format!("step {name:?}"))
}

fn cargo(arguments: &[&str]) -> anyhow::Result<()> {
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let status = Command::new(&program)
        .args(arguments)
        .status()
        .with_context(|| format!("running {program}"))?;
    ensure!(status.success(), "cargo {} failed", arguments.join(" "));
    Ok(())
}
