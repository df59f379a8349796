//! `tortiectl node diags`: what a bug report needs, in one archive: the agent's answers, the kernel's tables, files,
//! logs. What cannot be had is named in its place. The environment of no process is taken along.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, Header};

use crate::agent::ask_text;
use crate::cli::Diags;
use crate::print::outln;

/// Questions for the agent.
const AGENT: [&str; 5] = [
    "/status",
    "/problems",
    "/config",
    "/bgp/peers",
    "/bgp/routes",
];
/// Programs that read the kernel.
const COMMANDS: [&[&str]; 10] = [
    &["ip", "-d", "link"],
    &["ip", "-d", "addr"],
    &["ip", "-d", "-4", "route", "show", "table", "all"],
    &["ip", "-d", "-6", "route", "show", "table", "all"],
    &["ip", "rule"],
    &["ip", "-d", "nexthop"],
    &["ip", "neigh"],
    &["bridge", "fdb"],
    &["ss", "-tnpi"],
    &["uname", "-a"],
];
/// Files that are taken as they are.
const FILES: [&str; 10] = [
    "/var/lib/calico/nodename",
    "/var/lib/calico/mtu",
    "/etc/os-release",
    "/proc/version",
    "/proc/modules",
    "/proc/net/dev",
    "/proc/net/snmp",
    "/proc/net/softnet_stat",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv4/conf/all/rp_filter",
];
/// Directories whose files are taken.
const DIRECTORIES: [&str; 1] = ["/etc/cni/net.d"];
/// Octets of one file, at most: the end of a log counts.
const FILE_MAX: usize = 16 * 1024 * 1024;

/// `tortiectl node diags`.
pub(crate) fn collect(diags: &Diags) -> anyhow::Result<()> {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let name = format!("diags-{seconds}");
    let directory = diags.output_dir.clone().unwrap_or_else(std::env::temp_dir);
    let path = directory.join(format!("{name}.tar.gz"));
    let file = File::create_new(&path).with_context(|| format!("creating {}", path.display()))?;
    outln!("Collecting diagnostics");
    write(file, &path, &name, diags).with_context(|| format!("writing {}", path.display()))?;
    outln!("\nDiags saved to {}", path.display());
    Ok(())
}

fn write(file: impl Write, path: &Path, name: &str, diags: &Diags) -> io::Result<()> {
    let mut archive = Archive {
        tar: Builder::new(GzEncoder::new(file, Compression::default())),
        root: name.into(),
    };
    for question in AGENT {
        let answer = ask_text(&diags.socket, question);
        let text = answer.unwrap_or_else(|error| format!("no answer: {error:#}\n"));
        archive.add(&format!("agent{question}.json"), text.as_bytes())?;
    }
    for command in COMMANDS {
        archive.add(&format!("commands/{}", command.join("_")), &output(command))?;
    }
    for file in FILES {
        archive.add_file(Path::new(file))?;
    }
    let directories = DIRECTORIES
        .iter()
        .map(Path::new)
        .chain([diags.log_dir.as_path()]);
    for directory in directories {
        for file in files_in(directory) {
            // The archive itself may be written there.
            if file != path {
                archive.add_file(&file)?;
            }
        }
    }
    archive.tar.into_inner()?.finish()?.flush()
}

struct Archive<W: Write> {
    tar: Builder<W>,
    root: PathBuf,
}

impl<W: Write> Archive<W> {
    fn add(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        self.tar
            .append_data(&mut header, self.root.join(name), content)
    }

    fn add_file(&mut self, path: &Path) -> io::Result<()> {
        let content = match fs::read(path) {
            Ok(content) => content,
            Err(error) => format!("not read: {error}\n").into_bytes(),
        };
        let from = content.len().saturating_sub(FILE_MAX);
        self.add(&format!("files{}", path.display()), &content[from..])
    }
}

/// What a program prints, or why it did not.
fn output(command: &[&str]) -> Vec<u8> {
    let [program, arguments @ ..] = command else {
        return Vec::new();
    };
    match Command::new(program).args(arguments).output() {
        Ok(output) => [output.stdout, output.stderr].concat(),
        Err(error) => format!("not run: {program}: {error}\n").into_bytes(),
    }
}

/// The regular files of a directory, by name; none when it cannot be read.
fn files_in(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files
}
