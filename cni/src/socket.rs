//! Octets and one descriptor over a Unix stream socket.
//!
//! Both calls do one system call on a descriptor in whatever mode it is: blocking in the plugin, non-blocking in the
//! agent (inside its runtime's readiness guard).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Sends a first piece of `octets`, and `descriptor` with it. Answers how many octets went.
pub fn send(
    socket: BorrowedFd<'_>,
    octets: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.as_slice();
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other(
            "no room for the descriptor in a control message",
        ));
    }
    let pieces = [IoSlice::new(octets)];
    let sent = sendmsg(socket, &pieces, &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(sent)
}

/// Receives what is there, at most `room.len()` octets, and the descriptor that came with it.
///
/// 0 octets: the other side has closed. The descriptor is closed on exec. Of several descriptors in one message the
/// first is kept, the others are closed.
pub fn receive(socket: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut pieces = [IoSliceMut::new(room)];
    let received = recvmsg(socket, &mut pieces, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptor = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            for received in descriptors {
                descriptor.get_or_insert(received);
            }
        }
    }
    Ok((received.bytes, descriptor))
}
