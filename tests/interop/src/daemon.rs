//! A daemon's process, its directory and its log.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Killed when dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    directory: PathBuf,
}

impl Daemon {
    /// A new directory for a daemon, with its configuration in `conf`.
    pub(crate) fn directory(name: &str, config: &str) -> io::Result<PathBuf> {
        let directory = Path::new(lab::BASE).join(name);
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("conf"), config)?;
        Ok(directory)
    }

    /// Starts `command`; all it says goes to the file `log` of the directory.
    pub(crate) fn spawn(mut command: Command, directory: PathBuf) -> io::Result<Self> {
        let log = File::create(directory.join("log"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Self { child, directory })
    }

    /// An error with the log when it has ended.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("ended ({status}): {}", self.log())),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// The first of `programs` that is there; names without a slash are looked for on PATH and in the directories of administrators' tools.
pub(crate) fn find(programs: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    directories.push(PathBuf::from("/usr/sbin"));
    programs
        .iter()
        .flat_map(|program| {
            directories
                .iter()
                .map(move |directory| directory.join(program))
        })
        .find(|program| program.is_file())
}

/// What a command printed, when it succeeded.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
