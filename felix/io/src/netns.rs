//! Work in another network namespace: on a thread made for it, which then ends, or on one of [`crate::workload::Threads`], which
//! comes back. A worker of the runtime that changed its namespace would run other tasks there.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use crate::sys;

/// Type of the file system that namespaces' descriptors are of (`linux/magic.h`).
const NSFS_MAGIC: libc::c_long = 0x6e73_6673;

/// Runs `work` in the network namespace that `netns` refers to and awaits its value.
///
/// # Errors
/// The thread could not be made, or the descriptor is not a network namespace one may enter.
pub async fn run<T: Send + 'static>(
    netns: OwnedFd,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    on_thread("felix-netns", move || enter(netns.as_fd()).map(|()| work())).await?
}

/// Descriptor of the calling thread's network namespace.
///
/// # Errors
/// `/proc` is not mounted.
pub fn current() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// Runs `work` on a fresh thread and awaits its value.
pub(crate) async fn on_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (reply, answer) = oneshot::channel();
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // Nobody waits any more: the value is dropped, as a cancelled future's would be.
            drop(reply.send(work()));
        })?;
    answer
        .await
        .map_err(|_| io::Error::other("the thread panicked"))
}

/// Moves the calling thread for good.
pub(crate) fn enter(netns: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_into_link_name_space(
        netns,
        Some(LinkNameSpaceType::Network),
    )?)
}

/// Refuses a descriptor that is no network namespace's: the kernel's own answer would blame the interface.
pub(crate) fn check(netns: BorrowedFd<'_>) -> io::Result<()> {
    let refused = |text: String| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    if rustix::fs::fstatfs(netns)?.f_type != NSFS_MAGIC {
        return refused("the descriptor is not one of a namespace".to_owned());
    }
    match sys::namespace_type(netns)? {
        libc::CLONE_NEWNET => Ok(()),
        other => refused(format!(
            "the namespace is of another type than network (CLONE flag {other:#x}, not {:#x})",
            libc::CLONE_NEWNET
        )),
    }
}

/// What is the same for two descriptors of one namespace only.
pub(crate) fn identity(netns: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let found = rustix::fs::fstat(netns)?;
    Ok((found.st_dev, found.st_ino))
}
