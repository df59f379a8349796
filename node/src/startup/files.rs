//! Directories and files on the host.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use api::params::Params;
use datastore::version::Cursor;

use super::StartupError;
use crate::task::watch::Notes;

/// Sockets of the agent.
pub const RUN_DIRECTORY: &str = "/var/run/calico";
/// What outlives a boot.
pub const STATE_DIRECTORY: &str = "/var/lib/calico";

/// Makes the directories, sockets' included: this agent's own socket lives there whatever the backend is.
pub fn make_directories(params: &Params) -> Result<(), StartupError> {
    make(Path::new(RUN_DIRECTORY))?;
    make(Path::new(STATE_DIRECTORY))?;
    match Path::new(&params.nodename_file).parent() {
        Some(directory) => make(directory),
        None => Ok(()),
    }
}

fn make(path: &Path) -> Result<(), StartupError> {
    fs::create_dir_all(path).map_err(|source| StartupError::File {
        path: path.display().to_string(),
        doing: "creating the directory",
        source,
    })
}

/// Content of the nodename file, if there is one.
pub fn read_nodename(params: &Params) -> Option<String> {
    fs::read_to_string(&params.nodename_file).ok()
}

/// Writes the nodename file: from now on the CNI plugin serves pods. Its time of change is the time of the start.
pub fn write_nodename(params: &Params, name: &str) -> Result<(), StartupError> {
    write(Path::new(&params.nodename_file), name)
}

/// Notes that the node's network was told to go, RFC 3339; gone again once the network is there.
pub fn write_shutdown_time(params: &Params, now: &str) -> Result<(), StartupError> {
    let path = Path::new(&params.shutdown_timestamp_file);
    if let Some(directory) = path.parent() {
        make(directory)?;
    }
    write(path, now)
}

/// Makes the file with the pod MTU, decimal without a newline, for CNI plugins; nothing is written while it says so.
pub fn keep_mtu(directory: &Path, mtu_bytes: u32) -> Result<(), StartupError> {
    let path = directory.join("mtu");
    let text = mtu_bytes.to_string();
    match fs::read_to_string(&path) {
        Ok(written) if written == text => Ok(()),
        Ok(_) | Err(_) => write(&path, &text),
    }
}

/// The files that say how far the datastore was read, and what this node has there: it is written back into a datastore that
/// lacks it.
pub fn notes() -> Notes {
    let file = |name| Path::new(STATE_DIRECTORY).join(name);
    Notes {
        read: file("tortie-datastore"),
        own: file("tortie-own"),
    }
}

/// Notes which datastore was read, and how far.
pub fn write_read(path: &Path, identity: &str, cursor: &Cursor) -> Result<(), StartupError> {
    write(path, &format!("{identity} {cursor}\n"))
}

/// What [`write_read`] noted, if there is a note.
pub fn note_of_read(path: &Path) -> Option<(String, Cursor)> {
    let text = fs::read_to_string(path).ok()?;
    let (identity, cursor) = text.trim().split_once(' ')?;
    Some((identity.to_owned(), Cursor::read(cursor)))
}

/// The pod MTU that an earlier agent wrote, in bytes.
pub fn read_mtu() -> Option<u32> {
    let text = fs::read_to_string(Path::new(STATE_DIRECTORY).join("mtu")).ok()?;
    text.trim().parse().ok()
}

/// Replaces a file as a whole, so that a reader never sees half of it.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), StartupError> {
    let failed = |source| StartupError::File {
        path: path.display().to_string(),
        doing: "writing the file",
        source,
    };
    let fresh = path.with_extension("new");
    fs::write(&fresh, text).map_err(failed)?;
    // Whatever the process' mask is: plugins and probes of other users read them.
    fs::set_permissions(&fresh, Permissions::from_mode(0o644)).map_err(failed)?;
    fs::rename(&fresh, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn the_nodename_file_is_as_old_as_the_start() {
        let scratch = Scratch::new();
        let path = scratch.path().join("nodename");
        let file = path.display().to_string();
        let variables = [("CALICO_NODENAME_FILE".to_owned(), file)];
        let params = Params::from_env(variables).unwrap();
        write_nodename(&params, "n1").unwrap();
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let times = FileTimes::new().set_modified(long_ago);
        fs::File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_times(times))
            .unwrap();
        write_nodename(&params, "n1").unwrap();
        assert_ne!(
            fs::metadata(&path).unwrap().modified().unwrap(),
            long_ago,
            "a name that was there is written anew"
        );
        assert_eq!(read_nodename(&params).as_deref(), Some("n1"));
    }

    #[test]
    fn the_mtu_file_is_written_again_after_a_failure_and_after_its_loss() {
        let directory = std::env::temp_dir().join(format!("tortie-mtu-{}", std::process::id()));
        let written = || fs::read_to_string(directory.join("mtu")).ok();
        let error = keep_mtu(&directory, 1450).unwrap_err().to_string();
        assert!(
            error.contains("mtu") && error.contains("writing"),
            "{error}"
        );
        fs::create_dir(&directory).unwrap();
        // What a write that was cut off left, as under another mask.
        fs::write(directory.join("mtu.new"), "").unwrap();
        fs::set_permissions(directory.join("mtu.new"), Permissions::from_mode(0o600)).unwrap();
        keep_mtu(&directory, 1450).unwrap();
        assert_eq!(written().as_deref(), Some("1450"));
        let mode = fs::metadata(directory.join("mtu"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o644, "plugins of other users read it");
        fs::remove_file(directory.join("mtu")).unwrap();
        keep_mtu(&directory, 1450).unwrap();
        keep_mtu(&directory, 1400).unwrap();
        assert_eq!(written().as_deref(), Some("1400"));
        fs::remove_dir_all(&directory).unwrap();
    }
}
