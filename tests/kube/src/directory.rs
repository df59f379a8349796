//! The directory of a cluster: data, keys, logs. It goes with the cluster, and what a killed test left goes with the next.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{FlockOperation, flock};

/// Every directory's name begins so.
const PREFIX: &str = "tortie-kube-";
/// Locked for as long as the cluster lives.
const LOCK: &str = "lock";

/// A directory of one cluster, for the user only.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// A new one below `parent`. Removes those there that no living program holds.
    pub(crate) fn new(parent: &Path) -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        sweep(parent);
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                // Process numbers are used again, and are others in other namespaces.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made?,
            }
            let lock = File::create(path.join(LOCK))?;
            // Somebody who sweeps may hold it for a moment and remove what is there.
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() && path.exists() {
                return Ok(Self { path, _lock: lock });
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("remove {}: {error}", self.path.display());
        }
    }
}

fn sweep(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        // Another user's, or one that is just being made or removed.
        let Ok(lock) = File::open(entry.path().join(LOCK)) else {
            continue;
        };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Its next visitor tries again.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_goes_with_its_owner_and_an_abandoned_one_with_the_next_owner() {
        let parent = std::env::temp_dir().join(format!("kube-lab-sweep-{}", std::process::id()));
        fs::create_dir_all(&parent).expect("can be made");
        let abandoned = parent.join(format!("{PREFIX}abandoned"));
        fs::create_dir(&abandoned).expect("can be made");
        fs::write(abandoned.join(LOCK), "").expect("can be written");
        let first = Directory::new(&parent).expect("can be made");
        assert!(!abandoned.exists());
        let second = Directory::new(&parent).expect("can be made");
        assert!(first.path().exists(), "it is held");
        drop((first, second));
        fs::remove_dir(&parent).expect("nothing is left in it");
    }
}
