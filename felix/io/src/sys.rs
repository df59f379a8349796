//! The one place for unsafe code.
#![expect(
    unsafe_code,
    reason = "tokio registers a descriptor on the caller's word only; rustix has no call for a namespace's type"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_sys::Socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a socket for readiness with the current tokio runtime.
pub(crate) fn readable(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: `Socket` owns its descriptor from `socket(2)`, gives out the same one on each call and
    // closes it in `drop` only; the AsyncFd owns the `Socket` and nobody clones it.
    let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    registered.map_err(io::Error::from)
}

/// `NS_GET_NSTYPE` of linux/nsfs.h.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// The `CLONE_NEW…` flag of a namespace's type; the descriptor must be one of a namespace.
pub(crate) fn namespace_type(namespace: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: ioctl_nsfs(2): this request takes no argument and writes to no memory; the descriptor is open for the
    // whole call, as it is borrowed.
    match unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_NSTYPE) } {
        -1 => Err(io::Error::last_os_error()),
        flag => Ok(flag),
    }
}
