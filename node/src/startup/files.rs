//! Directories and files on the host.

use std::fs;
use std::path::Path;

use api::params::Params;

use super::StartupError;

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

/// Writes the pod MTU, decimal without a newline, for CNI plugins.
pub fn write_mtu(mtu_bytes: u32) -> Result<(), StartupError> {
    write(
        &Path::new(STATE_DIRECTORY).join("mtu"),
        &mtu_bytes.to_string(),
    )
}

/// The pod MTU that an earlier agent wrote, in bytes.
pub fn read_mtu() -> Option<u32> {
    let text = fs::read_to_string(Path::new(STATE_DIRECTORY).join("mtu")).ok()?;
    text.trim().parse().ok()
}

/// Replaces a file as a whole, so that a reader never sees half of it.
fn write(path: &Path, text: &str) -> Result<(), StartupError> {
    let failed = |source| StartupError::File {
        path: path.display().to_string(),
        doing: "writing the file",
        source,
    };
    let fresh = path.with_extension("new");
    fs::write(&fresh, text).map_err(failed)?;
    fs::rename(&fresh, path).map_err(failed)
}
