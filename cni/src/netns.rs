//! Opening the pod's network namespace.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FsWord, Mode, OFlags, fstat, fstatfs, open, stat};
use rustix::io::Errno;

/// `NSFS_MAGIC` of linux/magic.h: the file system of namespaces.
const NSFS_MAGIC: FsWord = 0x6e73_6673;

/// Why a path is no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetnsError {
    /// It cannot be opened.
    #[error("cannot be opened")]
    Open(#[source] Errno),
    /// It is an ordinary file, perhaps the mount point of a namespace that is gone.
    #[error("is no namespace")]
    NotANamespace,
    /// It is the namespace the plugin itself runs in.
    #[error("is the plugin's own namespace")]
    Own,
}

/// Opens the namespace at `path`, for handing over. Whether it is a *network* namespace the agent finds out.
///
/// The plugin's own namespace is refused unless `own_allowed`.
pub fn open_netns(path: &str, own_allowed: bool) -> Result<OwnedFd, NetnsError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let netns = open(path, flags, Mode::empty()).map_err(NetnsError::Open)?;
    let file_system = fstatfs(netns.as_fd()).map_err(NetnsError::Open)?;
    if file_system.f_type != NSFS_MAGIC {
        return Err(NetnsError::NotANamespace);
    }
    let found = fstat(netns.as_fd()).map_err(NetnsError::Open)?;
    // Without /proc nobody can tell, and the namespace is taken for another.
    if !own_allowed
        && let Ok(own) = stat("/proc/self/ns/net")
        && (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino)
    {
        return Err(NetnsError::Own);
    }
    Ok(netns)
}
