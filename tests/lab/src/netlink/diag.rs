//! TCP sockets of a namespace, asked of the kernel by sock_diag(7): only the established ones come, where /proc/net/tcp lists, and locks, the
//! whole machine's table for each namespace.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use super::message::{self, Request};
use super::{NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, wait_readable};

const PATIENCE: Duration = Duration::from_secs(10);

/// An established connection of one namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    pub(crate) local_port: u16,
    pub(crate) remote: IpAddr,
    pub(crate) remote_port: u16,
}

/// A socket that asks for the sockets of the namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct SockDiag {
    socket: Socket,
    sequence: u32,
}

impl SockDiag {
    /// Opens it in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// All established TCP connections. One over IPv4 may be an IPv6 socket that listens for both families.
    pub(crate) fn established(&mut self) -> io::Result<Vec<Connection>> {
        let mut connections = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            self.dump(family, &mut connections)?;
        }
        Ok(connections)
    }

    fn dump(&mut self, family: i32, connections: &mut Vec<Connection>) -> io::Result<()> {
        self.sequence += 1;
        let request = Request::established_sockets(family);
        let bytes = request.finish(NLM_F_REQUEST | NLM_F_DUMP, self.sequence);
        self.socket.send(&bytes, 0)?;
        loop {
            wait_readable(self.socket.as_raw_fd(), PATIENCE)?;
            let (datagram, _) = self.socket.recv_from_full()?;
            for part in message::split(&datagram) {
                if part.sequence != self.sequence {
                    continue;
                }
                match part.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let code = message::i32_at_start(part.payload);
                        return Err(io::Error::from_raw_os_error(-code));
                    }
                    _ => connections.extend(parse(part.payload)),
                }
            }
        }
    }
}

/// `struct inet_diag_msg`: family, state, timer, retransmissions, then ports (2 each) and addresses (16 each) in network order, …
fn parse(payload: &[u8]) -> Option<Connection> {
    let port = |at: usize| {
        Some(u16::from_be_bytes(
            payload.get(at..at + 2)?.try_into().ok()?,
        ))
    };
    let remote: [u8; 16] = payload.get(24..40)?.try_into().ok()?;
    let remote = match i32::from(*payload.first()?) {
        libc::AF_INET => Ipv4Addr::from(<[u8; 4]>::try_from(&remote[..4]).ok()?).into(),
        libc::AF_INET6 => Ipv6Addr::from(remote).to_canonical(),
        _ => return None,
    };
    Some(Connection {
        local_port: port(4)?,
        remote,
        remote_port: port(6)?,
    })
}
