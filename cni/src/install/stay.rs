//! SLEEP: until a signal comes, what is on the host follows the pod's service account and the TLS assets, which kubelet
//! replaces while the pod runs.
//!
//! ```text
//! inotify, or a minute ─► settle ─► renew: TLS assets, kubeconfig, network configuration (rename over)
//! SIGTERM, SIGINT ─► end
//! ```

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::install::{Places, Settings, renew};
use crate::plugin::chain;

/// Files that change together are taken together.
const SETTLE: Duration = Duration::from_millis(50);
/// Files are looked at this often whatever inotify says: not every file system notifies.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Signals and changes of files since [`Stay::begin`].
#[derive(Debug)]
pub struct Stay {
    signals: UnixStream,
    /// `None` where the kernel gives no more of them.
    changes: Option<OwnedFd>,
}

impl Stay {
    /// From now on no signal ends the process, and no change of a file is missed.
    ///
    /// # Errors
    /// When signals cannot be caught.
    pub fn begin(places: &Places, settings: &Settings) -> io::Result<Self> {
        let (signals, caught) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM] {
            signal_hook::low_level::pipe::register(signal, caught.try_clone()?)?;
        }
        Ok(Self {
            signals,
            changes: watch(places, settings).ok(),
        })
    }

    /// Renews what is on the host whenever its sources have changed, until a signal comes.
    ///
    /// # Errors
    /// When nothing can be waited for.
    pub fn until_signal(
        &self,
        places: &Places,
        settings: &Settings,
        say: &mut dyn FnMut(&str),
    ) -> io::Result<()> {
        let mut failed = None;
        while !self.wait(LOOK_AGAIN)? {
            // Each change of a few that come together begins this wait anew.
            while self.drain() {
                if self.wait(SETTLE)? {
                    return Ok(());
                }
            }
            let failure = renew(places, settings, say)
                .err()
                .map(|error| chain(&error));
            if let Some(failure) = &failure
                && failed.as_ref() != Some(failure)
            {
                say(&format!(
                    "warning: {failure}; what was installed before stays, trying again"
                ));
            }
            failed = failure;
        }
        Ok(())
    }

    /// Waits for a change; whether a signal came.
    fn wait(&self, at_most: Duration) -> io::Result<bool> {
        let at_most = Timespec {
            tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(at_most.subsec_nanos()),
        };
        let mut events = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let changes = self.changes.as_ref();
        events.extend(changes.map(|changes| PollFd::new(changes, PollFlags::IN)));
        match poll(&mut events, Some(&at_most)) {
            // A signal interrupts, and is there at the next look.
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut look = [PollFd::new(&self.signals, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        Ok(poll(&mut look, Some(&now))? > 0)
    }

    /// Takes all changes that are told; whether there were any.
    fn drain(&self) -> bool {
        let Some(changes) = &self.changes else {
            return false;
        };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(changes, &mut buffer);
        let mut any = false;
        while reader.next().is_ok() {
            any = true;
        }
        any
    }
}

/// Watches the directories whose files are copied or read. One that is not there has nothing to copy.
fn watch(places: &Places, settings: &Settings) -> io::Result<OwnedFd> {
    let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    // A mounted Secret's files change by the renaming of a link beside them.
    let kinds = WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE | WatchFlags::DELETE;
    let directories = [
        places.service_account.clone(),
        places.at(&settings.tls_assets_dir),
    ];
    for directory in directories.iter().filter(|path| path.is_dir()) {
        inotify::add_watch(&changes, directory, kinds)?;
    }
    Ok(changes)
}
