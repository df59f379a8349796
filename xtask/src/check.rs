//! `cargo xtask check`: the steps in order, each named before it runs.

use std::process::Command;

use anyhow::{Context, ensure};

use crate::{attributes, contract, layers, licences, manifests, metadata, sizes};

/// Runs every step; stops at the first that fails.
pub(crate) fn run() -> anyhow::Result<()> {
    step("format", || {
        cargo(&["fmt", "--all", "--check"])?;
        others(|manifest| cargo(&["fmt", "--manifest-path", manifest, "--check"]))
    })?;
    step("lock files of the workspaces apart", || others(locked))?;
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
    // They bring minutes of building, so only CI lints them.
    if std::env::var_os("CI").is_some() {
        step("clippy of the workspaces apart", || others(lint))?;
    }
    step("generated files", || {
        manifests::check()?;
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

/// The workspaces beside the main one, which an ordinary build does not need.
const OTHERS: [&str; 2] = ["tests/fuzz/Cargo.toml", "tests/oracle/Cargo.toml"];

fn others(work: impl Fn(&str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    OTHERS.iter().try_for_each(|manifest| work(manifest))
}

/// Their lock files name our packages' dependencies, too: CI would stop at one that a change of ours made stale.
fn locked(manifest: &str) -> anyhow::Result<()> {
    cargo(&[
        "tree",
        "--manifest-path",
        manifest,
        "--locked",
        "--quiet",
        "--depth",
        "0",
    ])
}

fn lint(manifest: &str) -> anyhow::Result<()> {
    cargo(&[
        "clippy",
        "--manifest-path",
        manifest,
        "--target-dir",
        "target",
        "--all-targets",
        "--locked",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ])
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
