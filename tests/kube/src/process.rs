//! A server's process, and the thread that it lives and dies with.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use crate::error::Error;
use crate::sys;

/// Lines of a log that an error shows.
const LOG_LINES: usize = 25;

/// A command to spawn, and where to answer.
type Order = (Command, SyncSender<io::Result<Child>>);

/// Spawns processes that the kernel kills when this goes, or with the whole test program. A thread of its own does so, since the kernel
/// means the thread that forked, and a test's thread may end before the server.
#[derive(Debug)]
pub struct Keeper {
    /// At most one order waits; the sender waits for its answer in any case.
    orders: SyncSender<Order>,
}

impl Keeper {
    /// A keeper in the namespaces of the calling thread.
    #[must_use]
    pub fn new() -> Self {
        let (orders, received): (_, Receiver<Order>) = sync_channel(1);
        thread::spawn(move || {
            for (mut command, answer) in received {
                sys::die_with_this_thread(&mut command);
                // Nobody waits for the answer only when the asking thread panicked: the child is killed by its drop then.
                let _ = answer.send(command.spawn());
            }
        });
        Self { orders }
    }

    fn spawn(&self, command: Command) -> io::Result<Child> {
        let (answer, answered) = sync_channel(1);
        let gone = || io::Error::other("the spawning thread is gone");
        self.orders.send((command, answer)).map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())?
    }
}

impl Default for Keeper {
    fn default() -> Self {
        Self::new()
    }
}

/// A server's process with its log; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `command`; what it says is added to `<name>.log` in the folder.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(
        keeper: &Keeper,
        name: &str,
        mut command: Command,
        folder: &Path,
    ) -> Result<Self, Error> {
        let log = folder.join(format!("{name}.log"));
        let open = || File::options().create(true).append(true).open(&log);
        let start = || -> io::Result<Child> {
            command.stdin(Stdio::null()).stdout(open()?).stderr(open()?);
            keeper.spawn(command)
        };
        let child = start().map_err(Error::system(format!("start {name}")))?;
        Ok(Self {
            name: name.to_owned(),
            log,
            child,
        })
    }

    /// Ends it with SIGKILL and waits until it is gone. No matter if it was gone before.
    ///
    /// # Errors
    /// What the system answers.
    pub fn kill(&mut self) -> Result<(), Error> {
        let kill = self.child.kill().and_then(|()| self.child.wait().map(drop));
        kill.map_err(Error::system(format!("kill {}", self.name)))
    }

    /// Asks it to end with SIGTERM and waits until it has.
    ///
    /// # Errors
    /// What the system answers.
    pub fn terminate(&mut self) -> Result<(), Error> {
        self.signal(Signal::TERM)?;
        let waited = self.child.wait().map(drop);
        waited.map_err(Error::system(format!("wait for {}", self.name)))
    }

    /// Sends a signal, e.g. STOP and CONT: to its clients it is silent then, not gone.
    ///
    /// # Errors
    /// What the system answers.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        let sent = kill_process(Pid::from_child(&self.child), signal);
        sent.map_err(|error| Error::system(format!("signal {}", self.name))(error.into()))
    }

    /// An error with the end of its log when it has ended.
    ///
    /// # Errors
    /// [`Error::Program`].
    pub fn check(&mut self) -> Result<(), Error> {
        let status = self.child.try_wait();
        match status.map_err(Error::system(format!("wait for {}", self.name)))? {
            None => Ok(()),
            Some(status) => Err(self.fault(match status.signal() {
                Some(signal) => format!("killed by signal {signal}"),
                None => format!("ended with {status}"),
            })),
        }
    }

    /// An error about it, with the end of its log.
    pub(crate) fn fault(&self, what: String) -> Error {
        Error::Program {
            program: self.name.clone(),
            what,
            log: self.log_end(),
        }
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_end(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!(
                "--- the end of the log of {}:\n{}",
                self.name,
                self.log_end()
            );
        }
        // Gone already is as good.
        let _ = self.kill();
    }
}
