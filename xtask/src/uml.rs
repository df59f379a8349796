//! A User Mode Linux kernel for `cargo lab --kernel uml` and its tests, built from Debian's source package.
//!
//! It is GPL-2.0: it lies in the user's cache, and is never part of this repository or of an image.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

/// Names a kernel that is there already, as the lab reads it.
const KERNEL: &str = "TORTIE_UML_KERNEL";
/// Added to the kernel's defaults for User Mode Linux.
const CONFIG: &str = "tests/lab/uml/config";
/// Debian's package that depends on the one with the source.
const META_PACKAGE: &str = "linux-source";
const NEEDED: [&str; 8] = [
    "apt-get", "dpkg-deb", "tar", "xz", "make", "gcc", "flex", "bison",
];

/// Options of `cargo xtask uml`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Build it though there is one.
    #[arg(long)]
    again: bool,
    /// Commands of make side by side.
    #[arg(long, default_value_t = 2)]
    jobs: u16,
}

/// Prints the path of the kernel, which is built if there is none.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if let Some(named) = std::env::var_os(KERNEL) {
        let named = PathBuf::from(named);
        ensure!(
            named.is_file(),
            "{KERNEL} names {}, which is no file",
            named.display()
        );
        println!("{}", named.display());
        return Ok(());
    }
    let home =
        std::env::var_os("HOME").context("HOME is not set, so there is no place for the kernel")?;
    let cache = Path::new(&home).join(".cache/tortie");
    let kernel = cache.join("uml");
    if arguments.again || !kernel.is_file() {
        for program in NEEDED {
            ensure!(
                Command::new(program).arg("--version").output().is_ok(),
                "no program `{program}`, which building the kernel needs (Debian: build-essential flex bison bc xz-utils)"
            );
        }
        let place = cache.join("uml-source");
        let built = build(&place, arguments.jobs)?;
        // As a whole: a test may start it at any time.
        let new = cache.join("uml.new");
        run_in(&place, "strip", &["-o", text(&new)?, text(&built)?])?;
        fs::rename(&new, &kernel).with_context(|| format!("writing {}", kernel.display()))?;
        fs::remove_dir_all(&place).with_context(|| format!("removing {}", place.display()))?;
    }
    println!("{}", kernel.display());
    Ok(())
}

/// Fetches, unpacks, configures and builds below `place`; the kernel's path.
fn build(place: &Path, jobs: u16) -> anyhow::Result<PathBuf> {
    let wished = fs::read_to_string(CONFIG).with_context(|| format!("reading {CONFIG}"))?;
    if place.exists() {
        fs::remove_dir_all(place)?;
    }
    fs::create_dir_all(place.join("out"))?;
    let shown = output_of("apt-cache", &["show", "--no-all-versions", META_PACKAGE])?;
    let package = source_package(&shown)
        .with_context(|| format!("{META_PACKAGE} names no package with the source:\n{shown}"))?;
    eprintln!("fetching {package}");
    run_in(place, "apt-get", &["download", "--quiet=2", package])?;
    let fetched = fs::read_dir(place)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .context("apt-get downloaded nothing")?;
    run_in(place, "dpkg-deb", &["-x", text(&fetched)?, "package"])?;
    fs::remove_file(&fetched)?;
    let archive = format!("package/usr/src/{package}.tar.xz");
    run_in(place, "tar", &["-xf", &archive])?;
    fs::remove_dir_all(place.join("package"))?;

    let tree = place.join(package);
    let make = |target: &str| {
        let jobs = format!("-j{jobs}");
        run_in(&tree, "make", &["-s", "ARCH=um", "O=../out", &jobs, target])
    };
    let config = place.join("out/.config");
    make("defconfig")?;
    let defaults = fs::read_to_string(&config)?;
    fs::write(&config, format!("{defaults}{wished}"))?;
    make("olddefconfig")?;
    let got = fs::read_to_string(&config)?;
    for option in missing(&wished, &got) {
        eprintln!("this kernel does not know {option}");
    }
    eprintln!("building it");
    make("linux")?;
    Ok(place.join("out/linux"))
}

/// The package with the source, of what `apt-cache show` says of the one that depends on it.
fn source_package(shown: &str) -> Option<&str> {
    let depends = shown
        .lines()
        .find_map(|line| line.strip_prefix("Depends: "))?;
    let packages = depends
        .split(',')
        .filter_map(|one| one.split_whitespace().next());
    packages
        .into_iter()
        .find(|name| name.starts_with("linux-source-"))
}

/// Options that were wished for and did not come into force.
fn missing<'a>(wished: &'a str, got: &str) -> Vec<&'a str> {
    let lines = wished.lines().filter(|line| line.ends_with("=y"));
    let absent = lines.filter(|line| !got.lines().any(|has| has == *line));
    absent.filter_map(|line| line.strip_suffix("=y")).collect()
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is no text", path.display()))
}

fn run_in(directory: &Path, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new(program)
        .current_dir(directory)
        .args(arguments)
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("starting {program}"))?;
    ensure!(
        status.success(),
        "`{program} {}` failed: {status}",
        arguments.join(" ")
    );
    Ok(())
}

fn output_of(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("starting {program}"))?;
    if !output.status.success() {
        bail!(
            "`{program} {}`: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_the_package_that_the_other_depends_on() {
        let shown =
            "Package: linux-source\nDepends: linux-source-6.1 (= 6.1.192-2), binutils\nSize: 1";
        assert_eq!(source_package(shown), Some("linux-source-6.1"));
        assert_eq!(
            source_package("Package: linux-source\nDepends: binutils"),
            None
        );
    }

    #[test]
    fn what_a_kernel_does_not_know_is_told() {
        let wished = "# text\nCONFIG_NET_IPIP=y\nCONFIG_NETKIT=y\nCONFIG_SMP=n\n";
        assert_eq!(
            missing(wished, "CONFIG_NET_IPIP=y\n# CONFIG_NETKIT is not set\n"),
            ["CONFIG_NETKIT"]
        );
    }

    #[test]
    fn the_committed_wishes_hold_what_the_lab_needs() {
        let wished = fs::read_to_string(Path::new("..").join(CONFIG)).unwrap();
        for needed in [
            "HOSTFS",
            "USER_NS",
            "NET_NS",
            "PID_NS",
            "VETH",
            "BRIDGE",
            "NET_IPIP",
            "VXLAN",
            "NF_TABLES",
            "NFT_MASQ",
            "UML_TIME_TRAVEL_SUPPORT",
        ] {
            let line = format!("CONFIG_{needed}=y");
            assert!(wished.lines().any(|has| has == line), "{line}");
        }
    }
}
