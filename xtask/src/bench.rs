//! Builds the bench and what it measures as a release is built, and runs it.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context, ensure};

use crate::release;

/// Runs the bench with these arguments.
pub(crate) fn run(arguments: &[OsString]) -> anyhow::Result<()> {
    let mut packages = vec!["bench"];
    // What `bench attacks` and `bench cni` measure lies beside it.
    match arguments.first().and_then(|what| what.to_str()) {
        Some("cni") => {
            packages.extend(["node", "cni", "ctl", "datastore-local", "route-reflector"])
        }
        Some("attacks") => packages.push("route-reflector"),
        _ => {}
    }
    let built = release::build("dist", &packages)?;
    let status = Command::new(built.folder.join("bench"))
        .args(arguments)
        .status()
        .context("running the bench")?;
    ensure!(status.success(), "bench: {status}");
    Ok(())
}
