//! The one place for unsafe code.
#![expect(
    unsafe_code,
    reason = "tokio registers a descriptor on the caller's word only"
)]

use std::io;

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
