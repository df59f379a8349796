//! Builds programs as a release has them: with the C library inside, so that they run in an empty root and on any host.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// Where cargo put what it built.
pub(crate) struct Built {
    /// The target directory.
    pub(crate) target: PathBuf,
    /// The programs' directory within it.
    pub(crate) folder: PathBuf,
}

/// Builds packages for this machine's kind.
pub(crate) fn build(profile: &str, packages: &[&str]) -> anyhow::Result<Built> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let triple = host_triple()?;
    // Only with a named target are build scripts and macros built without these flags.
    let mut flags = env::var("RUSTFLAGS").unwrap_or_default();
    flags.push_str(" -C target-feature=+crt-static -C strip=symbols");
    let mut command = Command::new(cargo);
    command
        .current_dir(&root)
        .args([
            "build",
            "--locked",
            "--profile",
            profile,
            "--target",
            &triple,
        ])
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", flags.trim());
    for package in packages {
        command.args(["--package", package]);
    }
    let status = command.status().context("running cargo build")?;
    ensure!(status.success(), "cargo build: {status}");
    let folder = target
        .join(&triple)
        .join(if profile == "dev" { "debug" } else { profile });
    Ok(Built { target, folder })
}

/// What rustc builds for by itself.
fn host_triple() -> anyhow::Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .arg("-vV")
        .output()
        .context("running rustc -vV")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .with_context(|| format!("rustc -vV names no host: {text}"))
}
