//! Builds the bench as a release image is built, and runs it.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context, ensure};

/// Runs the bench with these arguments.
pub(crate) fn run(arguments: &[OsString]) -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // What `bench cni` measures lies beside it, too.
    const PRODUCT: [&str; 5] = ["node", "cni", "ctl", "datastore-local", "route-reflector"];
    let step = |words: &[&str], arguments: &[OsString]| {
        let mut command = Command::new(&cargo);
        let status = command
            .args(words)
            .args(["--profile", "dist", "--package", "bench"])
            .args(arguments)
            .status()
            .context("running cargo")?;
        ensure!(status.success(), "cargo {}: {status}", words.join(" "));
        anyhow::Ok(())
    };
    // Both programs: the bench starts the speaker that lies beside it.
    let product = PRODUCT.iter().flat_map(|package| ["--package", package]);
    let product: Vec<OsString> = match arguments.first() {
        Some(what) if what == "cni" => product.map(OsString::from).collect(),
        _ => Vec::new(),
    };
    step(&["build"], &product)?;
    let mut run = vec![
        "--quiet".into(),
        "--bin".into(),
        "bench".into(),
        "--".into(),
    ];
    run.extend_from_slice(arguments);
    step(&["run"], &run)
}
