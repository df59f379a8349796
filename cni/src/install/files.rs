//! Files that appear under their names whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::FlockOperation;

/// What [`put`] found to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The file is new, or was another one.
    Written,
    /// It had this content and mode already.
    Unchanged,
}

/// Makes `path` a file of this content and mode by renaming a finished one over it. A program that runs from the old
/// file keeps it. Installers that work side by side take turns.
pub(super) fn put(path: &Path, content: &[u8], mode: u32) -> io::Result<Change> {
    if is_there(path, content, mode) {
        return Ok(Change::Unchanged);
    }
    let (directory, name) = path
        .parent()
        .zip(path.file_name())
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let lock = File::open(directory)?;
    // A file system without locks has one installer at a time, as a rule.
    let _ = rustix::fs::flock(&lock, FlockOperation::LockExclusive);
    // Runtimes read names that end in .conf, .conflist or .json.
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(".tmp");
    let temporary = directory.join(temporary);
    let written = write_new(&temporary, content, mode).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    // After a crash of the machine there is the old file or the new one.
    lock.sync_all()?;
    if is_there(path, content, mode) {
        Ok(Change::Written)
    } else {
        Err(io::Error::other(
            "it has not the content that was written a moment ago",
        ))
    }
}

/// Also replaces what an installer that was killed has left.
fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(content)?;
    // The mode of a new file went through the umask.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

fn is_there(path: &Path, content: &[u8], mode: u32) -> bool {
    let same = |file: &fs::Metadata| {
        file.is_file()
            && file.permissions().mode() & 0o7777 == mode
            && file.len() == content.len() as u64
    };
    fs::symlink_metadata(path).is_ok_and(|file| same(&file))
        && fs::read(path).is_ok_and(|found| found == content)
}
