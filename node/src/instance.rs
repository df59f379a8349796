//! One agent a host, and one host a node.
//!
//! Two agents of one host would take each other's sockets and undo each other's routes: a lock on a file keeps the second
//! one from starting. Two hosts of one node name, as a cloned disk makes them (`/var/lib/calico/nodename`), share a Node
//! and its blocks: each agent signs the Node, and who finds another's name under a Node that it signed says so.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::startup::host::kernel_hostname;

/// The annotation of a Node that its agent signs with.
pub const ANNOTATION: &str = "networking.tortie.dev/agent";

/// Who an agent is: one run of the program on one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Random: no other run has it.
    pub id: String,
    /// The kernel's host name.
    pub host: String,
    /// RFC 3339 time of the process' start.
    pub started: String,
}

impl Instance {
    /// This run, which started then.
    pub fn new(started: String) -> io::Result<Self> {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        Ok(Self {
            id: id.trim().to_owned(),
            host: kernel_hostname(),
            started,
        })
    }

    /// As the annotation has it.
    pub fn sign(&self) -> String {
        serde_json::to_string(self).expect("three texts make JSON")
    }

    /// From the annotation. What cannot be read is nobody's name.
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// Why the process does not start.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error(
        "another agent runs on this host: {holder} holds {}; stop it first, there can be one",
        path.display()
    )]
    Held {
        /// The file.
        path: PathBuf,
        /// What the holder wrote into it.
        holder: String,
    },
    /// The system refused.
    #[error("{}: {doing}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was to be done.
        doing: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// The lock that keeps a second agent from starting while the value lives; the kernel releases it however the process
/// ends.
#[derive(Debug)]
pub struct HostLock(
    /// Open, for the lock's sake.
    #[expect(dead_code, reason = "closing it releases the lock")]
    File,
);

impl HostLock {
    /// Takes the lock that belongs to an admin socket: the socket's path with the ending `lock`. `holder` is what
    /// another process reports.
    pub fn take(admin_socket: &Path, holder: &str) -> Result<Self, LockError> {
        let path = admin_socket.with_extension("lock");
        let failed = |doing| {
            let path = path.clone();
            move |source| LockError::File {
                path,
                doing,
                source,
            }
        };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failed("creating its directory"))?;
        }
        // Not truncated: until the lock is had it is the holder's.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed("opening the lock file"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Nothing to read is as good as an error: a holder without a name.
                let _ = file.read_to_string(&mut holder);
                let holder = match holder.trim() {
                    "" => "a process that has just started".to_owned(),
                    named => named.to_owned(),
                };
                return Err(LockError::Held { path, holder });
            }
            Err(TryLockError::Error(source)) => return Err(failed("locking the file")(source)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(format!("{holder}\n").as_bytes()))
            .map_err(failed("writing the lock file"))?;
        Ok(Self(file))
    }
}

/// This process, for people.
pub fn holder(program: &str, node: Option<&str>, started: &str) -> String {
    let id = std::process::id();
    match node {
        Some(node) => format!("{program} of node {node}, process {id}, started {started}"),
        None => format!("{program}, process {id}, started {started}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("tortie-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn a_second_process_is_told_who_holds_the_lock_and_the_next_one_gets_it() {
        let directory = place("lock");
        let socket = directory.join("new/admin.sock");
        let first = HostLock::take(&socket, "tortie-node of node n1, process 7").unwrap();
        let error = HostLock::take(&socket, "tortie-node of node n2, process 8").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("tortie-node of node n1, process 7") && text.contains("new/admin.lock"),
            "{text}"
        );
        assert!(!text.contains("n2"), "{text}");
        drop(first);
        drop(HostLock::take(&socket, "short").unwrap());
        let written = std::fs::read_to_string(directory.join("new/admin.lock")).unwrap();
        assert_eq!(written, "short\n", "nothing of the former holder is left");
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_signature_reads_back_and_no_two_runs_have_the_same() {
        let instance = Instance::new("2026-01-01T00:00:00Z".to_owned()).unwrap();
        assert_eq!(Instance::read(&instance.sign()), Some(instance.clone()));
        let other = Instance::new("2026-01-01T00:00:00Z".to_owned()).unwrap();
        assert_ne!(instance, other);
        assert_eq!(Instance::read("n1"), None);
    }
}
