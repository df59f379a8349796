//! The programs, linked so that they run in an empty root.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

/// Package and program.
const PROGRAMS: [(&str, &str); 4] = [
    ("cni", "tortie-cni"),
    ("ctl", "tortiectl"),
    ("node", "tortie-node"),
    ("route-reflector", "tortie-rr"),
];

/// Built programs.
pub(super) struct Programs {
    /// The target directory.
    pub(super) target: PathBuf,
    /// Name and file of each.
    pub(super) files: Vec<(&'static str, PathBuf)>,
    /// As the OCI specification names it (Go's names).
    pub(super) architecture: &'static str,
}

/// Builds them for this machine's kind, with the C library inside.
pub(super) fn build(profile: &str) -> anyhow::Result<Programs> {
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
    for (package, _) in PROGRAMS {
        command.args(["--package", package]);
    }
    let status = command.status().context("running cargo build")?;
    ensure!(status.success(), "cargo build: {status}");
    let folder = target
        .join(&triple)
        .join(if profile == "dev" { "debug" } else { profile });
    let mut files = Vec::new();
    for (_, program) in PROGRAMS {
        let path = folder.join(program);
        let content = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        ensure!(
            !asks_for_a_loader(&content)?,
            "{} asks for a dynamic loader, which an empty root does not have: the linker did not take -C target-feature=+crt-static",
            path.display()
        );
        files.push((program, path));
    }
    Ok(Programs {
        target,
        files,
        architecture: architecture()?,
    })
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

fn architecture() -> anyhow::Result<&'static str> {
    match env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        "riscv64" => Ok("riscv64"),
        other => bail!("no image for {other}: allowed: x86_64, aarch64, riscv64"),
    }
}

/// Whether a 64-bit little-endian ELF file has a PT_INTERP header.
///
/// Source: System V ABI, "ELF header" and "Program header".
fn asks_for_a_loader(file: &[u8]) -> anyhow::Result<bool> {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, octets: usize| -> anyhow::Result<u64> {
        let field = file.get(at..at + octets).context("the file ends early")?;
        Ok(field
            .iter()
            .rev()
            .fold(0, |number, octet| number << 8 | u64::from(*octet)))
    };
    ensure!(
        file.starts_with(b"\x7fELF\x02\x01"),
        "no 64-bit little-endian ELF file"
    );
    let (first, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for index in 0..count {
        let at = usize::try_from(first + index * size)?;
        if number(at, 4)? == PT_INTERP {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::asks_for_a_loader;

    #[test]
    fn a_program_that_needs_a_loader_is_seen() {
        // This very program is linked with the C library beside it.
        let this = std::fs::read("/proc/self/exe").unwrap();
        assert!(asks_for_a_loader(&this).unwrap());
        assert!(asks_for_a_loader(b"#!/bin/sh").is_err());
        assert!(asks_for_a_loader(&this[..60]).is_err());
    }
}
