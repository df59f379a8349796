//! The whole speaker: one value that owns sessions and routes, driven through `handle_*` and `poll_*`.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use ipnet::IpNet;

use crate::action::{Action, Refused};
use crate::config::Config;
use crate::event::Event;
use crate::route::{Origination, RouteChange};
use crate::status::{PeerStatus, RouteStatus};
use crate::types::ConnId;

/// A BGP speaker.
///
/// After each `handle_*` the caller drains [`poll_action`](Self::poll_action), [`poll_event`](Self::poll_event),
/// [`poll_route`](Self::poll_route) and [`poll_writable`](Self::poll_writable), and sets one timer from
/// [`poll_timeout`](Self::poll_timeout). `now` never goes backwards.
#[derive(Debug)]
pub struct Speaker {
    now: Instant,
    config: Option<Config>,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
}

impl Speaker {
    /// A speaker that starts with nothing. `seed` decides jitter only.
    pub fn new(seed: u64, now: Instant) -> Self {
        let _ = seed;
        Self {
            now,
            config: None,
            actions: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// A speaker whose predecessor's routes still forward (RFC 4724 §4.1): it says so in its OPEN, a peer's routes enter
    /// the decision at that peer's End-of-RIB, and [`Event::SelectionComplete`] tells when all did or had their time
    /// ([`Config::deferral_time`], per peer).
    pub fn restarting(seed: u64, now: Instant) -> Self {
        Self::new(seed, now)
    }

    /// A new configuration. Sessions whose own wire-visible fields changed are reset, those of removed peers end with
    /// Cease/Peer De-configured; changed policies are applied to the routes at hand.
    pub fn handle_config(&mut self, now: Instant, config: Config) {
        self.now = now;
        self.config = Some(config);
    }

    /// A connection came in. `conn` is from [`ConnId::incoming`].
    ///
    /// # Errors
    /// Not wanted: the caller closes it, the speaker knows nothing of it.
    pub fn handle_accepted(
        &mut self,
        now: Instant,
        conn: ConnId,
        remote: SocketAddr,
        local: SocketAddr,
    ) -> Result<(), Refused> {
        self.now = now;
        let _ = (conn, remote, local);
        Err(Refused::UnknownAddress)
    }

    /// An [`Action::Connect`] succeeded; `local` is the address the kernel chose.
    pub fn handle_connected(&mut self, now: Instant, conn: ConnId, local: SocketAddr) {
        self.now = now;
        let _ = (conn, local);
    }

    /// An [`Action::Connect`] failed; `reason` is the system's words.
    pub fn handle_connect_failed(&mut self, now: Instant, conn: ConnId, reason: &str) {
        self.now = now;
        let _ = (conn, reason);
    }

    /// Bytes arrived, in any cut.
    pub fn handle_bytes(&mut self, now: Instant, conn: ConnId, bytes: &[u8]) {
        self.now = now;
        let _ = (conn, bytes);
    }

    /// The transport ended: end of stream, reset, or a failed write.
    pub fn handle_closed(&mut self, now: Instant, conn: ConnId) {
        self.now = now;
        let _ = conn;
    }

    /// Announce `prefix` as our own, or `None` to withdraw it.
    pub fn handle_originate(
        &mut self,
        now: Instant,
        prefix: IpNet,
        origination: Option<Origination>,
    ) {
        self.now = now;
        let _ = (prefix, origination);
    }

    /// A restarting speaker has all its own routes: from here on End-of-RIB may be sent.
    pub fn handle_originations_complete(&mut self, now: Instant) {
        self.now = now;
    }

    /// Whether a next hop can be reached; until told, it can.
    pub fn handle_next_hop(&mut self, now: Instant, next_hop: IpAddr, reachable: bool) {
        self.now = now;
        let _ = (next_hop, reachable);
    }

    /// Does what is due: expired timers, and one slice of outstanding work.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
    }

    /// The next deadline and its reason; one that is not in the future means there is work left.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }

    /// Next request to the transport.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// A connection that has something to send and had nothing before. Call
    /// [`poll_transmit`](Self::poll_transmit) for it whenever its socket has room, until that appends nothing.
    pub fn poll_writable(&mut self) -> Option<ConnId> {
        None
    }

    /// Appends whole messages to `out` until at least `room` octets were appended or nothing is left; returns how many
    /// octets. The last message may exceed `room`.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        conn: ConnId,
        room: usize,
        out: &mut Vec<u8>,
    ) -> usize {
        self.now = now;
        let _ = (conn, room, out);
        0
    }

    /// Next prefix whose best route changed. Changes of one prefix between two calls are one.
    pub fn poll_route(&mut self) -> Option<RouteChange> {
        None
    }

    /// Next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// A next hop that routes began to use (`true`) or ceased to use, for whoever tracks reachability.
    pub fn poll_next_hop_watch(&mut self) -> Option<(IpAddr, bool)> {
        None
    }

    /// Every peer, by name.
    pub fn peers(&self, now: Instant) -> Vec<PeerStatus> {
        let _ = now;
        Vec::new()
    }

    /// Every prefix with its paths, in order of prefix.
    pub fn routes(&self) -> Vec<RouteStatus> {
        Vec::new()
    }
}
