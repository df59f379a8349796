//! A daemon's process, its directory and its log.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    directory: PathBuf,
}

impl Process {
    /// A new directory for a daemon, with its configuration in `conf`.
    pub(crate) fn directory(name: &str, config: &str) -> io::Result<PathBuf> {
        let directory = Path::new(lab::BASE).join(name);
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("conf"), config)?;
        Ok(directory)
    }

    /// Starts `command`; all it says goes to the file `log` of the directory.
    pub(crate) fn spawn(mut command: Command, directory: PathBuf) -> io::Result<Self> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(directory.join("log"))?;
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

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.child.kill().and_then(|()| self.child.wait().map(drop))
    }

    pub(crate) const fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(crate) fn directory_path(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.kill();
    }
}

/// Stops a process with SIGSTOP.
pub(crate) fn freeze(process: u32) -> io::Result<()> {
    signal(process, "-STOP")
}

/// Lets it go on.
pub(crate) fn thaw(process: u32) -> io::Result<()> {
    signal(process, "-CONT")
}

fn signal(process: u32, name: &str) -> io::Result<()> {
    let mut kill = Command::new("kill");
    kill.args([name, &process.to_string()]);
    output(&mut kill).map(drop).map_err(io::Error::other)
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
