//! `cargo xtask image`: the programs as a container image, made without a container engine.
//!
//! ```text
//! cargo build (static) ─► one layer (tar, gzip) ─► config ─► manifest ─► archive: OCI layout, and manifest.json beside it
//! ```
//!
//! The image starts from nothing, so the programs must not need a dynamic loader or a library. They are linked with
//! the C library in it; what that one still opens at run time are `/etc/hosts` and `/etc/resolv.conf`, which a
//! kubelet mounts: names of hosts are looked up there and by DNS, never by other modules of nsswitch.conf.
//!
//! The same programs give the same archive, octet for octet.
//!
//! Source: OCI image specification 1.1 (image layout, manifest, config, layer); Docker's `docker save`.

mod archive;
mod layer;
mod programs;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Args;

/// An archive that is larger is a mistake: nobody waits for it in a rolling update.
const ARCHIVE_MAX_BYTES: u64 = 30_000_000;

/// Makes an image of the programs; needs no container engine.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// How the programs are built. `dist` takes minutes; the size is checked for it only.
    #[arg(long, default_value = "dist")]
    profile: String,
    /// The archive; by default target/image/tortie-VERSION.tar.
    #[arg(long)]
    output: Option<PathBuf>,
    /// The image's name without a tag; the tag is the version.
    #[arg(long, default_value = "docker.io/library/tortie")]
    name: String,
}

/// Builds the programs and writes the archive.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    // All packages of the workspace have one version.
    let version = env!("CARGO_PKG_VERSION");
    let programs = programs::build(&arguments.profile)?;
    let layer = layer::make(&programs)?;
    let name = format!("{}:{version}", arguments.name);
    let output = arguments
        .output
        .clone()
        .unwrap_or_else(|| programs.target.join(format!("image/tortie-{version}.tar")));
    let digest = write(&output, &name, version, &layer)?;
    let size = fs::metadata(&output)?.len();
    println!(
        "{}: {name}, {digest}, {:.1} MB\ntry: ctr -n k8s.io images import {}",
        output.display(),
        size as f64 / 1e6,
        output.display()
    );
    ensure!(
        arguments.profile != "dist" || size < ARCHIVE_MAX_BYTES,
        "the archive has {size} bytes; allowed: less than {ARCHIVE_MAX_BYTES}"
    );
    Ok(())
}

/// Under its name the archive is always whole.
fn write(output: &Path, name: &str, version: &str, layer: &layer::Layer) -> anyhow::Result<String> {
    if let Some(directory) = output.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("make the directory {}", directory.display()))?;
    }
    let mut partial = output.as_os_str().to_owned();
    // Two of these may run side by side.
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = PathBuf::from(partial);
    let writing = || format!("write {}", partial.display());
    let file = fs::File::create(&partial).with_context(writing)?;
    let digest = archive::write(file, name, version, layer).with_context(writing)?;
    fs::rename(&partial, output).with_context(|| format!("write {}", output.display()))?;
    Ok(digest)
}
