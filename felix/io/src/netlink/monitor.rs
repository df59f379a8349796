//! Notifications: one socket for all groups, so that they come in the order of their causes.

use std::io;
use std::os::fd::AsFd;

use felix::kernel::KernelEvent;
use netlink_sys::Socket;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::decode::{self, Names};
use super::link;
use super::nexthop::NextHops;
use super::nftables;
use super::socket::{self, Requests};
use super::uapi::nftables::NFNLGRP_NFTABLES;
use super::uapi::*;
use super::wire::Messages;
use crate::sys;

const GROUPS: [u32; 9] = [
    RTNLGRP_LINK,
    RTNLGRP_NEIGH,
    RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV4_ROUTE,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV6_ROUTE,
    RTNLGRP_IPV4_NETCONF,
    RTNLGRP_IPV6_NETCONF,
    RTNLGRP_NEXTHOP,
];

/// Datagrams read per wake-up before other tasks get their turn.
const DATAGRAMS_PER_TURN: usize = 64;

/// The subscribed socket, its names and a buffer.
pub(crate) struct Monitor {
    socket: AsyncFd<Socket>,
    names: Names,
    buffer: Box<[u8]>,
}

impl Monitor {
    /// Subscribes in the calling thread's namespace; must be called within a tokio runtime.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = socket::open(&GROUPS)?;
        socket.set_non_blocking(true)?;
        Ok(Self {
            socket: sys::readable(socket)?,
            names: known()?,
            buffer: vec![0; 64 * 1024].into_boxed_slice(),
        })
    }

    /// Forwards until the receiver is dropped. While its channel is full nothing is read: the
    /// socket's buffer is the queue, and when the kernel drops from it, that becomes an overrun.
    pub(crate) async fn run(mut self, events: mpsc::Sender<KernelEvent>) {
        let mut read = Vec::new();
        loop {
            tokio::select! {
                () = events.closed() => return,
                // Cancel-safe: nothing is read before it resolves.
                ready = self.socket.readable() => match ready {
                    Ok(mut ready) => ready.clear_ready(),
                    Err(error) => {
                        tracing::error!(%error, "kernel notifications ended");
                        return;
                    }
                },
            }
            while self.turn(&mut read) == Turn::More || !read.is_empty() {
                for event in read.drain(..) {
                    if events.send(event).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Reads a bounded number of datagrams.
    fn turn(&mut self, out: &mut Vec<KernelEvent>) -> Turn {
        let socket = self.socket.get_ref().as_fd();
        for _ in 0..DATAGRAMS_PER_TURN {
            match rustix::net::recv(socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    for message in Messages(&self.buffer[..length]) {
                        decode::events(&message, socket, &mut self.names, out);
                    }
                }
                Err(Errno::AGAIN) => return Turn::Empty,
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => {
                    // What is queued now is older than what was lost: passed on after the overrun it
                    // would undo what the receiver reads from the kernel.
                    socket::discard(socket, &mut self.buffer);
                    self.names = known().unwrap_or_default();
                    out.push(KernelEvent::Overrun);
                }
                Err(errno) => {
                    tracing::error!(error = %errno, "cannot read kernel notifications");
                    return Turn::Empty;
                }
            }
        }
        Turn::More
    }
}

/// Tells of writes to the agent's nftables tables.
pub(crate) struct RulesMonitor {
    socket: AsyncFd<Socket>,
    buffer: Box<[u8]>,
}

impl RulesMonitor {
    /// Subscribes in the calling thread's namespace; must be called within a tokio runtime.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = socket::open_netfilter(&[NFNLGRP_NFTABLES])?;
        socket.set_non_blocking(true)?;
        Ok(Self {
            socket: sys::readable(socket)?,
            buffer: vec![0; 64 * 1024].into_boxed_slice(),
        })
    }

    /// Sends [`KernelEvent::RulesChanged`] for what was written, once for all that waits in the socket, until the
    /// receiver is dropped.
    pub(crate) async fn run(mut self, events: mpsc::Sender<KernelEvent>) {
        loop {
            tokio::select! {
                () = events.closed() => return,
                // Cancel-safe: nothing is read before it resolves.
                ready = self.socket.readable() => match ready {
                    Ok(mut ready) => ready.clear_ready(),
                    Err(error) => {
                        tracing::error!(%error, "notifications of packet rules ended");
                        return;
                    }
                },
            }
            if self.changed() && events.send(KernelEvent::RulesChanged).await.is_err() {
                return;
            }
        }
    }

    /// Reads the socket to its end; whether the agent's tables may have changed.
    fn changed(&mut self) -> bool {
        let mut changed = false;
        loop {
            let socket = self.socket.get_ref().as_fd();
            match rustix::net::recv(socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    let mut messages = Messages(&self.buffer[..length]);
                    changed |= messages.any(|message| nftables::is_about_ours(&message));
                }
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => changed = true,
                Err(_) => return changed,
            }
        }
    }
}

/// The events of a datagram of notifications or of a dump. Devices are known by the RTM_NEWLINK messages that stand before in the same
/// datagram; what lies on other devices is left out. The tasks of a node use [`Kernel`](crate::Kernel); this is for octets that were
/// recorded, or that no kernel sent (`tests/fuzz`).
pub fn decode(datagram: &[u8]) -> Vec<KernelEvent> {
    let mut names = Names::default();
    let mut events = Vec::new();
    for message in Messages(datagram) {
        // No socket: an unknown index stays one.
        decode::events(&message, std::io::stdin().as_fd(), &mut names, &mut events);
    }
    events
}

/// The devices and next-hop objects there are. Without them names are looked up one by one.
fn known() -> io::Result<Names> {
    let mut requests = Requests::open()?;
    let mut names = Names::new(&link::list(&mut requests)?);
    names.next_hops = NextHops::read(&mut requests)?;
    Ok(names)
}

/// Whether the socket was read to its end.
#[derive(PartialEq, Eq)]
enum Turn {
    Empty,
    More,
}
