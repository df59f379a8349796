//! The programs of an image.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};

use crate::release::{self, Built};

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

/// Builds them for this machine's kind.
pub(super) fn build(profile: &str) -> anyhow::Result<Programs> {
    let packages = PROGRAMS.map(|(package, _)| package);
    let Built { target, folder } = release::build(profile, &packages)?;
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
