//! The image of pods, and of the containers that hold their namespaces: the machine's static busybox, as `docker save` writes images.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// Where Debian's busybox-static puts it.
pub(super) const PROGRAM: &str = "/bin/busybox";
/// As pods name it.
pub(super) const NAME: &str = "docker.io/library/busybox:lab";
/// Names under which it is called in pods.
const APPLETS: [&str; 9] = [
    "sh", "sleep", "cat", "echo", "hostname", "httpd", "ip", "mkdir", "ping",
];

/// Writes the archive. Without a command a container of it sleeps.
pub(super) fn write(path: &Path) -> io::Result<()> {
    let layer = layer()?;
    let sum: String = Sha256::digest(&layer)
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": {"Cmd": ["/bin/sleep", "2147483647"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{sum}")]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}]);
    let mut tar = Builder::new(File::create(path)?);
    let mut put = |name: &str, content: &[u8]| {
        let mut header = header(EntryType::Regular, 0o644, content.len());
        tar.append_data(&mut header, name, content)
    };
    put("manifest.json", manifest.to_string().as_bytes())?;
    put("config.json", config.to_string().as_bytes())?;
    put("layer.tar", &layer)?;
    tar.into_inner().map(drop)
}

fn layer() -> io::Result<Vec<u8>> {
    let program = fs::read(PROGRAM)?;
    let mut tar = Builder::new(Vec::new());
    tar.append_data(
        &mut header(EntryType::Directory, 0o755, 0),
        "bin/",
        io::empty(),
    )?;
    tar.append_data(
        &mut header(EntryType::Regular, 0o755, program.len()),
        "bin/busybox",
        program.as_slice(),
    )?;
    for applet in APPLETS {
        let mut header = header(EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    tar.into_inner()
}

fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size as u64);
    header
}
