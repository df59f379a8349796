//! Route notifications, each with the time it was read.

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::message::{self, Route};
use crate::netns::NetNs;

const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV6_ROUTE: u32 = 11;
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;

/// What happened to a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteChange {
    /// Added, or replaced by a new version.
    Added,
    /// Removed.
    Deleted,
}

/// One notification.
#[derive(Clone, Debug)]
pub struct RouteEvent {
    /// When the lab read it, on the monotonic clock.
    pub at: Instant,
    /// Added or deleted.
    pub change: RouteChange,
    /// The route as the kernel describes it.
    pub route: Route,
}

/// A listener on one namespace's route notifications; it hears everything from its opening on.
#[derive(Debug)]
pub struct RouteMonitor {
    socket: Socket,
}

impl RouteMonitor {
    /// Starts to listen in `namespace`.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn open(namespace: &NetNs) -> io::Result<Self> {
        namespace.run(|| {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.set_rx_buf_sz(RECEIVE_BUFFER_BYTES)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            socket.add_membership(RTNLGRP_IPV4_ROUTE)?;
            socket.add_membership(RTNLGRP_IPV6_ROUTE)?;
            Ok(Self { socket })
        })
    }

    /// The events that are there, after waiting up to `timeout` for the first. Empty when none came.
    ///
    /// # Errors
    /// ENOBUFS when the kernel had to drop notifications: what was heard is then no proof of absence.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<Vec<RouteEvent>> {
        let mut events = Vec::new();
        let mut patience = timeout;
        while crate::wait::readable(self.socket.as_raw_fd(), patience)? {
            let (datagram, _) = self.socket.recv_from_full()?;
            let at = Instant::now();
            for part in message::split(&datagram) {
                let change = match part.kind {
                    message::RTM_NEWROUTE => RouteChange::Added,
                    message::RTM_DELROUTE => RouteChange::Deleted,
                    _ => continue,
                };
                events.extend(Route::parse(part.payload).map(|route| RouteEvent {
                    at,
                    change,
                    route,
                }));
            }
            patience = Duration::ZERO;
        }
        Ok(events)
    }

    /// The routes whose deletion is told until `deadline`, or was before.
    ///
    /// # Errors
    /// As [`RouteMonitor::wait`].
    pub fn deleted_until(&mut self, deadline: Instant) -> io::Result<Vec<Route>> {
        let mut deleted = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let events = self.wait(left)?;
            // What was read may be no news of a route: only the clock ends this.
            if events.is_empty() && left.is_zero() {
                return Ok(deleted);
            }
            let gone = events
                .into_iter()
                .filter(|event| event.change == RouteChange::Deleted);
            deleted.extend(gone.map(|event| event.route));
        }
    }

    /// Waits until an event satisfies `wanted` and returns it, or `None` at the deadline.
    ///
    /// # Errors
    /// As [`RouteMonitor::wait`].
    pub fn wait_for(
        &mut self,
        deadline: Instant,
        mut wanted: impl FnMut(&RouteEvent) -> bool,
    ) -> io::Result<Option<RouteEvent>> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let events = self.wait(left)?;
            let is_over = events.is_empty() && left.is_zero();
            if let Some(event) = events.into_iter().find(&mut wanted) {
                return Ok(Some(event));
            }
            if is_over {
                return Ok(None);
            }
        }
    }
}
