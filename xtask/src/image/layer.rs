//! The image's one layer.

use std::fs;
use std::io::Write;

use anyhow::Context;
use flate2::{Compression, GzBuilder};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::image::programs::Programs;

/// Directories that programs or mounts expect, with their modes.
const DIRECTORIES: [(&str, u32); 8] = [
    ("bin", 0o755),
    ("etc", 0o755),
    ("opt", 0o755),
    ("opt/cni", 0o755),
    ("opt/cni/bin", 0o755),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("var", 0o755),
];

/// Where a program lies.
fn place(program: &str) -> String {
    match program {
        // The installer takes what lies beside it.
        "tortie-cni" => format!("opt/cni/bin/{program}"),
        _ => format!("bin/{program}"),
    }
}

/// Names that Calico's manifests call, and what they lead to.
const LINKS: [(&str, &str); 7] = [
    ("bin/calico", "tortie-node"),
    ("bin/calico-node", "tortie-node"),
    ("bin/calicoctl", "tortiectl"),
    ("bin/tortie-cni", "../opt/cni/bin/tortie-cni"),
    ("opt/cni/bin/calico", "tortie-cni"),
    ("opt/cni/bin/calico-ipam", "tortie-cni"),
    ("opt/cni/bin/install", "tortie-cni"),
];

/// The layer as it is shipped, and what its contents are known by.
pub(super) struct Layer {
    /// Tar, compressed.
    pub(super) gzip: Vec<u8>,
    /// SHA-256 of the tar, which the config names.
    pub(super) diff_id: String,
    /// As the OCI specification names it.
    pub(super) architecture: &'static str,
}

/// Packs the programs and the links to them; owner root, no times, always in one order.
pub(super) fn make(programs: &Programs) -> anyhow::Result<Layer> {
    let mut tar = Builder::new(Vec::new());
    for (path, mode) in DIRECTORIES {
        let mut header = header(EntryType::Directory, mode, 0);
        tar.append_data(&mut header, format!("{path}/"), std::io::empty())?;
    }
    for (program, file) in &programs.files {
        let content = fs::read(file).with_context(|| format!("read {}", file.display()))?;
        let mut header = header(EntryType::Regular, 0o755, content.len());
        tar.append_data(&mut header, place(program), content.as_slice())?;
    }
    for (path, to) in LINKS {
        let mut header = header(EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut header, path, to)?;
    }
    let tar = tar.into_inner()?;
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
    gzip.write_all(&tar)?;
    Ok(Layer {
        gzip: gzip.finish()?,
        diff_id: digest(&tar),
        architecture: programs.architecture,
    })
}

/// A header without owner's name or time.
pub(super) fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size as u64);
    header
}

/// `sha256:` and the sum in hexadecimal.
pub(super) fn digest(content: &[u8]) -> String {
    let sum = Sha256::digest(content);
    let hexadecimal: String = sum.iter().map(|octet| format!("{octet:02x}")).collect();
    format!("sha256:{hexadecimal}")
}
