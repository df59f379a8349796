//! A request socket: batches with one acknowledgement per message, dumps, deadlines.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt::{
    Timeout, set_socket_recv_buffer_size, set_socket_recv_buffer_size_force, set_socket_timeout,
};
use rustix::net::{RecvFlags, SendFlags};

use super::uapi::{
    NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE,
    NLMSG_ERROR, NLMSGERR_ATTR_MSG,
};
use super::wire::{Attrs, Batch, HEADER_BYTES, Message, Messages, Writer, u32_at};

/// Most messages of a datagram: 128 acknowledgements fit the default receive buffer of 208 KiB.
pub(crate) const BATCH_MESSAGES: usize = 128;
/// Most bytes of a datagram.
pub(crate) const BATCH_BYTES: usize = 32 * 1024;

/// Receive buffer asked for; an ordinary user gets what `net.core.rmem_max` allows.
const RECEIVE_BUFFER_BYTES: usize = 16 * 1024 * 1024;
/// The kernel's dump datagrams have at most 32 KiB.
const DATAGRAM_BYTES: usize = 64 * 1024;
/// The kernel answers before `send` returns; this only bounds what should never happen.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often a dump that changed while it was read is tried, and a batch whose answers are all lost.
const ATTEMPTS: usize = 5;

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text} (errno {errno})")]
pub(crate) struct Failure {
    /// errno, positive.
    pub(crate) errno: i32,
    /// The kernel's extended words where it gave some, else errno's.
    pub(crate) text: String,
}

impl Failure {
    /// From an errno alone.
    pub(crate) fn from_errno(errno: i32) -> Self {
        Self {
            errno,
            text: errno_text(errno),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self {
            errno: error.raw_os_error().unwrap_or(libc::EIO),
            text: error.to_string(),
        }
    }
}

impl From<rustix::io::Errno> for Failure {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::from_errno(errno.raw_os_error())
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        let kind = io::Error::from_raw_os_error(failure.errno).kind();
        io::Error::new(kind, failure)
    }
}

/// Result of an exchange that may be repeated.
pub(crate) enum Broken {
    /// Answers were lost (receive buffer full) or the dump is inconsistent.
    Again(Failure),
    /// No use in trying again.
    Final(Failure),
}

/// A blocking rtnetlink socket of one thread.
pub(crate) struct Requests {
    socket: Socket,
    sequence: u32,
    buffer: Box<[u8]>,
    /// Answers were lost: what is queued is all that will come.
    lossy: bool,
}

impl AsFd for Requests {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Requests {
    /// Opens one in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        Self::on(open(&[])?)
    }

    /// Opens one for the kernel's packet filter.
    pub(crate) fn open_netfilter() -> io::Result<Self> {
        Self::on(open_netfilter(&[])?)
    }

    fn on(socket: Socket) -> io::Result<Self> {
        set_socket_timeout(&socket, Timeout::Recv, Some(DEADLINE))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; DATAGRAM_BYTES].into_boxed_slice(),
            lossy: false,
        })
    }

    /// Sends all messages and returns one result per message, in order. An error of one does not
    /// keep the others from being carried out. Answers that were lost are asked for by sending the
    /// unanswered messages again, so messages must be idempotent.
    pub(crate) fn exchange(&mut self, batch: &Batch) -> Vec<Result<(), Failure>> {
        let mut results = vec![None; batch.len()];
        let mut last = Failure::from_errno(libc::EIO);
        let mut idle = 0;
        while idle < ATTEMPTS {
            let unanswered = missing(&results);
            match self.exchange_once(batch, &mut results, &mut |_| ()) {
                Ok(()) => break,
                Err(Broken::Again(failure)) => last = failure,
                Err(Broken::Final(failure)) => {
                    last = failure;
                    break;
                }
            }
            if missing(&results) == unanswered {
                idle += 1;
            }
        }
        results
            .into_iter()
            .map(|result| result.unwrap_or_else(|| Err(last.clone())))
            .collect()
    }

    /// One acknowledged request.
    pub(crate) fn request(
        &mut self,
        kind: u16,
        flags: u16,
        fill: impl FnOnce(&mut Writer<'_>),
    ) -> Result<(), Failure> {
        let mut batch = Batch::default();
        batch.request(kind, flags, fill);
        self.exchange(&batch).pop().unwrap_or(Ok(()))
    }

    /// One request that is answered by an object; `read` sees it.
    pub(crate) fn query<T>(
        &mut self,
        kind: u16,
        fill: impl FnOnce(&mut Writer<'_>),
        read: impl Fn(Message<'_>) -> Option<T>,
    ) -> Result<Option<T>, Failure> {
        let mut batch = Batch::default();
        batch.request(kind, 0, fill);
        let mut results = vec![None];
        let mut found = None;
        match self.exchange_once(&batch, &mut results, &mut |message| found = read(message)) {
            Ok(()) => results.pop().flatten().unwrap_or(Ok(())).map(|()| found),
            Err(Broken::Again(failure) | Broken::Final(failure)) => Err(failure),
        }
    }

    /// Sends a batch that is carried out as a whole or not at all: its first and last message are not acknowledged, and
    /// the kernel answers nothing before it has done the whole.
    pub(crate) fn transaction(&mut self, batch: &Batch) -> Result<(), Failure> {
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::with_capacity(batch.bytes_len());
        for index in 0..batch.len() {
            self.sequence = self.sequence.wrapping_add(1);
            batch.copy(index, self.sequence, &mut datagram);
        }
        rustix::net::send(&self.socket, &datagram, SendFlags::empty())?;
        let last = self.sequence.wrapping_sub(1);
        let deadline = Instant::now() + DEADLINE;
        self.lossy = false;
        loop {
            let length = match self.receive(deadline) {
                Ok(length) => length,
                // Whether it was carried out was lost with the answers; the reader of notifications sees it.
                Err(Broken::Again(failure) | Broken::Final(failure)) => return Err(failure),
            };
            for message in Messages(self.buffer.get(..length).unwrap_or_default()) {
                let ours = message.sequence.wrapping_sub(first) < self.sequence.wrapping_sub(first);
                if message.kind != NLMSG_ERROR || !ours {
                    continue;
                }
                verdict(&message)?;
                if message.sequence == last {
                    return Ok(());
                }
            }
        }
    }

    /// Reads a table: `read` turns each object into zero or more items. A table that changed while
    /// it was read is read again.
    pub(crate) fn dump<T>(
        &mut self,
        kind: u16,
        fill: impl Fn(&mut Writer<'_>),
        mut read: impl FnMut(Message<'_>, &mut Vec<T>),
    ) -> Result<Vec<T>, Failure> {
        attempts(|| {
            let mut items = Vec::new();
            self.dump_once(kind, &fill, &mut |message| read(message, &mut items))?;
            Ok(items)
        })
    }

    /// Reads a table once: `read` sees each object. What it saw is void when the table changed meanwhile.
    pub(crate) fn dump_once(
        &mut self,
        kind: u16,
        fill: impl Fn(&mut Writer<'_>),
        read: &mut dyn FnMut(Message<'_>),
    ) -> Result<(), Broken> {
        let mut batch = Batch::default();
        batch.message(kind, NLM_F_REQUEST | NLM_F_DUMP, fill);
        let mut results = vec![None];
        self.exchange_once(&batch, &mut results, read)?;
        results
            .pop()
            .flatten()
            .unwrap_or(Ok(()))
            .map_err(Broken::Final)
    }

    /// Sends the messages without a result yet and reads until each has one.
    fn exchange_once(
        &mut self,
        batch: &Batch,
        results: &mut [Option<Result<(), Failure>>],
        data: &mut dyn FnMut(Message<'_>),
    ) -> Result<(), Broken> {
        let pending: Vec<usize> = results
            .iter()
            .enumerate()
            .filter(|(_, r)| r.is_none())
            .map(|(i, _)| i)
            .collect();
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::with_capacity(batch.bytes_len());
        for index in &pending {
            self.sequence = self.sequence.wrapping_add(1);
            batch.copy(*index, self.sequence, &mut datagram);
        }
        rustix::net::send(&self.socket, &datagram, SendFlags::empty())
            .map_err(|errno| Broken::Final(errno.into()))?;
        let deadline = Instant::now() + DEADLINE;
        self.lossy = false;
        let mut left = pending.len();
        let mut interrupted = false;
        while left > 0 {
            let length = self.receive(deadline)?;
            for message in Messages(self.buffer.get(..length).unwrap_or_default()) {
                let Some(index) = usize::try_from(message.sequence.wrapping_sub(first))
                    .ok()
                    .and_then(|offset| pending.get(offset))
                else {
                    // An answer to a request whose deadline had passed.
                    continue;
                };
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        let slot = &mut results[*index];
                        left -= usize::from(slot.is_none());
                        *slot = Some(verdict(&message));
                    }
                    _ => data(message),
                }
            }
        }
        if interrupted {
            let text = "the table changed while it was read".to_owned();
            return Err(Broken::Again(Failure {
                errno: libc::EINTR,
                text,
            }));
        }
        Ok(())
    }

    /// One datagram into the buffer; its length.
    fn receive(&mut self, deadline: Instant) -> Result<usize, Broken> {
        use rustix::io::Errno;
        loop {
            let mut flags = RecvFlags::TRUNC;
            flags.set(RecvFlags::DONTWAIT, self.lossy);
            match rustix::net::recv(&self.socket, &mut self.buffer[..], flags) {
                Ok((_, length)) if length > self.buffer.len() => {
                    let text = format!("a netlink message of {length} bytes was cut");
                    return Err(Broken::Final(Failure {
                        errno: libc::EMSGSIZE,
                        text,
                    }));
                }
                Ok((_, length)) => return Ok(length),
                // What was not lost is still to be read.
                Err(Errno::NOBUFS) => self.lossy = true,
                Err(Errno::AGAIN) if self.lossy => {
                    self.lossy = false;
                    return Err(Broken::Again(Failure::from_errno(libc::ENOBUFS)));
                }
                Err(Errno::AGAIN | Errno::INTR) if Instant::now() < deadline => {}
                Err(Errno::AGAIN | Errno::INTR) => {
                    let text = format!("no answer from the kernel within {DEADLINE:?}");
                    return Err(Broken::Final(Failure {
                        errno: libc::ETIMEDOUT,
                        text,
                    }));
                }
                Err(errno) => return Err(Broken::Final(errno.into())),
            }
        }
    }
}

/// Tries what may have to be done again, a few times.
pub(crate) fn attempts<T>(mut attempt: impl FnMut() -> Result<T, Broken>) -> Result<T, Failure> {
    let mut last = Failure::from_errno(libc::EIO);
    for _ in 0..ATTEMPTS {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(Broken::Again(failure)) => last = failure,
            Err(Broken::Final(failure)) => return Err(failure),
        }
    }
    Err(last)
}

/// How many messages have no answer yet.
fn missing(results: &[Option<Result<(), Failure>>]) -> usize {
    results.iter().filter(|result| result.is_none()).count()
}

/// Throws away what waits in the socket.
pub(crate) fn discard(socket: BorrowedFd<'_>, buffer: &mut [u8]) {
    use rustix::io::Errno;
    loop {
        match rustix::net::recv(socket, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// As [`open`], of the kernel's packet filter.
pub(crate) fn open_netfilter(groups: &[u32]) -> io::Result<Socket> {
    open_protocol(NETLINK_NETFILTER, groups)
}

/// A socket with acknowledgement options and a large receive buffer, subscribed to `groups`.
pub(crate) fn open(groups: &[u32]) -> io::Result<Socket> {
    open_protocol(NETLINK_ROUTE, groups)
}

fn open_protocol(protocol: isize, groups: &[u32]) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.set_cap_ack(true)?;
    socket.set_ext_ack(true)?;
    // Kernels before 4.20 do not know it; dumps are then unfiltered and filtered here.
    if let Err(error) = socket.set_netlink_get_strict_chk(true) {
        tracing::debug!(%error, "no strict checking of dump requests");
    }
    if set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES).is_err() {
        set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES)?;
    }
    socket.bind(&SocketAddr::new(0, 0))?;
    for group in groups {
        socket.add_membership(*group)?;
    }
    Ok(socket)
}

/// What an acknowledgement or the end of a dump says.
fn verdict(message: &Message<'_>) -> Result<(), Failure> {
    let code = u32_at(message.payload, 0).map_or(0, u32::cast_signed);
    if code == 0 {
        return Ok(());
    }
    let errno = code.saturating_neg();
    let words = if message.flags & NLM_F_ACK_TLVS == 0 {
        None
    } else {
        let skip = match message.kind {
            NLMSG_ERROR => 4 + echoed_bytes(message),
            _ => 4,
        };
        Attrs::after(message.payload, skip)
            .find(NLMSGERR_ATTR_MSG)
            .and_then(|attr| attr.text().map(str::to_owned))
    };
    Err(match words {
        Some(words) => Failure {
            errno,
            text: format!("{words}: {}", errno_text(errno)),
        },
        None => Failure::from_errno(errno),
    })
}

/// Bytes of the request that an error message repeats.
fn echoed_bytes(message: &Message<'_>) -> usize {
    if message.flags & NLM_F_CAPPED != 0 {
        return HEADER_BYTES;
    }
    u32_at(message.payload, 4)
        .and_then(|length| usize::try_from(length).ok())
        .unwrap_or(HEADER_BYTES)
        .next_multiple_of(4)
}

/// errno in words, without the number.
fn errno_text(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    text.split(" (os error")
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::uapi::{AF_UNSPEC, IFLA_IFNAME, RTM_GETLINK};

    #[test]
    fn answers_that_do_not_fit_the_receive_buffer_are_asked_for_again() {
        let mut requests = Requests::open().unwrap();
        // The kernel's minimum holds about three acknowledgements.
        set_socket_recv_buffer_size(&requests, 1).unwrap();
        let mut batch = Batch::default();
        for n in 0..BATCH_MESSAGES {
            let name = format!("none{n}");
            batch.request(RTM_GETLINK, 0, |writer| {
                writer.ifinfo(AF_UNSPEC, 0, 0, 0);
                writer.attr_str(IFLA_IFNAME, &name);
            });
        }
        for (n, result) in requests.exchange(&batch).into_iter().enumerate() {
            let errno = result.err().map(|failure| failure.errno);
            assert_eq!(errno, Some(libc::ENODEV), "message {n}");
        }
    }
}
