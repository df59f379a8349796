//! Waiting for the kernel and for files, always with a deadline.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify;

use crate::sys;

/// How often a state is looked at for which the kernel sends no notification (e.g. TCP sessions becoming established).
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Whether `fd` is readable within `timeout`.
pub(crate) fn readable(fd: RawFd, timeout: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // The descriptor belongs to a socket that the caller borrows for the whole call.
        let fd = sys::borrow(fd);
        let mut poll = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        match rustix::event::poll(&mut poll, Some(&timespec(left))) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

/// Waits until `path` exists, told by inotify on its directory (which must exist). `alive` is asked a few times a second and ends the
/// wait with its error. Returns whether the path came before the deadline.
///
/// # Errors
/// What inotify answers, or what `alive` returns.
pub(crate) fn for_path(
    path: &Path,
    deadline: Instant,
    mut alive: impl FnMut() -> io::Result<()>,
) -> io::Result<bool> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(
        &watch,
        directory,
        inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO,
    )?;
    while !path.exists() {
        alive()?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let mut poll = [PollFd::new(&watch, PollFlags::IN)];
        let slice = left.min(Duration::from_millis(200));
        rustix::event::poll(&mut poll, Some(&timespec(slice)))?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&watch, &mut buffer);
        while events.next().is_ok() {}
    }
    Ok(true)
}

/// Looks at a state again and again until `look` returns something, or until the deadline (`None`).
pub fn until<T>(deadline: Instant, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::park_timeout(LOOK_AGAIN);
    }
}
