//! The whole speaker: one value that owns sessions and routes, driven through `handle_*` and `poll_*`.
//!
//! ```text
//!                 handle_config, _originate, _next_hop
//!                                  │
//!  handle_accepted, _connected,    ▼                    poll_route, _event,
//!  _bytes, _closed, _timeout ─► peer ─► rib ─► groups ─► poll_transmit, _writable
//!                                  └──────────────────► poll_action, _timeout
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;

use crate::action::Action;
use crate::config::{Config, Endpoint};
use crate::event::{DownReason, Event};
use crate::rib::source::SourceId;
use crate::rib::{Rib, Transmitted};
use crate::route::{Origination, Reachability, RouteChange};
use crate::session::connection::Connection;
use crate::session::jitter::Jitter;
use crate::session::offer::{Offer, OwnRestart};
use crate::session::peer::{Context, Peer};
use crate::types::{AfiSafi, ConnId, PeerName};
use crate::wire::update::FirstAsCheck;

mod accept;
mod configure;
mod dynamic;
mod identity;
mod limits;
mod refresh;
mod restart;
mod routes;
mod selection;
mod sessions;
mod view;

pub use view::RoutesFrom;

use accept::Unmatched;
use restart::Retention;
use selection::{Awaiting, Stage};

/// Prefixes decided at one call; what is left follows at [`Speaker::handle_timeout`].
const DECISIONS_PER_CALL: usize = 16_384;

/// Prefixes visited at one call by what touches many at once: the end of a session, another policy, a next hop.
const SWEPT_PER_CALL: usize = 16_384;

/// Why the speaker wakes at the end of [`Config::deferral_time`].
const DEFERRAL: &str = "deferral of route selection";

/// A BGP speaker.
///
/// After each `handle_*` the caller drains [`poll_action`](Self::poll_action), [`poll_route`](Self::poll_route),
/// [`poll_event`](Self::poll_event) and [`poll_writable`](Self::poll_writable), and sets one timer from
/// [`poll_timeout`](Self::poll_timeout). `now` never goes backwards.
#[derive(Debug)]
pub struct Speaker {
    now: Instant,
    jitter: Jitter,
    config: Option<Arc<Config>>,
    slots: BTreeMap<SourceId, Slot>,
    by_name: BTreeMap<PeerName, SourceId>,
    by_endpoint: BTreeMap<Endpoint, SourceId>,
    /// The addresses for which templates have peers, each with its zone.
    instances: BTreeMap<PeerName, BTreeSet<Endpoint>>,
    /// Of these, some that may have neither connection nor routes left.
    idle: Vec<SourceId>,
    /// Connections that came in and are nobody's yet.
    unmatched: BTreeMap<ConnId, Unmatched>,
    conns: BTreeMap<ConnId, SourceId>,
    next_conn: u64,
    rib: Rib,
    originated: BTreeMap<IpNet, Origination>,
    timers: BTreeSet<(Instant, SourceId)>,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
    writable: VecDeque<ConnId>,
    noted: BTreeSet<ConnId>,
    /// The predecessor's routes still forward.
    restarting: bool,
    originations_complete: bool,
    selection: Stage,
    reported: Stage,
    /// Own restart: peers from ranges are awaited.
    ranges_until: Option<Instant>,
}

/// A peer and what the speaker keeps beside it.
#[derive(Debug)]
struct Slot {
    peer: Peer,
    /// Of which template it is made.
    template: Option<PeerName>,
    /// Connections that `conns` names for this peer.
    known: Vec<ConnId>,
    armed: Option<Instant>,
    /// Own restart: its routes are awaited.
    awaiting: Option<Awaiting>,
    /// The peer's restart: its routes are kept.
    retention: Retention,
    /// Families that RFC 4760 §7 made deaf until the session ends.
    disabled: BTreeSet<AfiSafi>,
    /// Families whose End-of-RIB came in this session.
    ended: BTreeSet<AfiSafi>,
    /// Families that the peer sends again, and until when that is awaited.
    refreshing: BTreeMap<AfiSafi, Instant>,
    /// See [`PeerStatus`](crate::status::PeerStatus).
    shared_router_id: Option<IpNet>,
    /// Families of which a warning was given that the prefix limit is near.
    warned: BTreeSet<AfiSafi>,
    /// Graceful restart was negotiated on the last session.
    restart_negotiated: bool,
}

impl Slot {
    /// There is nothing to remember.
    fn is_idle(&self) -> bool {
        let retained = self.retention != Retention::None;
        self.peer.connections().next().is_none() && !retained && !self.peer.is_held()
    }

    fn deadline(&self) -> Option<(Instant, &'static str)> {
        let awaiting = self
            .awaiting
            .as_ref()
            .map(|awaiting| (awaiting.until, DEFERRAL));
        let refreshing = self.refreshing.values();
        let refreshing = refreshing.map(|until| (*until, "end of a route refresh"));
        self.peer
            .deadline()
            .into_iter()
            .chain(awaiting)
            .chain(self.retention.deadline())
            .chain(refreshing)
            .min()
    }
}

impl Speaker {
    /// A speaker that starts with nothing. `seed` decides jitter and hashing, never results.
    pub fn new(seed: u64, now: Instant) -> Self {
        Self {
            now,
            jitter: Jitter::new(seed),
            config: None,
            slots: BTreeMap::new(),
            by_name: BTreeMap::new(),
            by_endpoint: BTreeMap::new(),
            instances: BTreeMap::new(),
            idle: Vec::new(),
            unmatched: BTreeMap::new(),
            conns: BTreeMap::new(),
            next_conn: 0,
            rib: Rib::new(seed),
            originated: BTreeMap::new(),
            timers: BTreeSet::new(),
            actions: VecDeque::new(),
            events: VecDeque::new(),
            writable: VecDeque::new(),
            noted: BTreeSet::new(),
            restarting: false,
            originations_complete: false,
            selection: Stage::Running,
            reported: Stage::Running,
            ranges_until: None,
        }
    }

    /// A speaker whose predecessor's routes still forward (RFC 4724 §4.1): it says so in its OPEN, a peer's routes enter
    /// the decision at that peer's End-of-RIB, and [`Event::SelectionComplete`] says when all did or had their time
    /// ([`Config::deferral_time`], per peer). Until then peers that may hold its former routes are sent its own ones only.
    /// Its End-of-RIB waits for that and for
    /// [`handle_originations_complete`](Self::handle_originations_complete). [`Event::PeersReported`] waits for peers
    /// without End-of-RIB, too. The first configuration must be whole: a peer that comes with a later one is not waited
    /// for once the selection is complete.
    pub fn restarting(seed: u64, now: Instant) -> Self {
        let mut speaker = Self::new(seed, now);
        speaker.restarting = true;
        speaker.rib.end_of_rib_allowed = false;
        speaker
    }

    /// A new configuration. Sessions whose own wire-visible fields changed are reset, those of removed peers end with
    /// Cease/Peer De-configured; changed policies and next hop rules are applied to the routes at hand.
    pub fn handle_config(&mut self, now: Instant, config: Config) {
        self.now = now;
        self.configure(Arc::new(config));
        self.work();
    }

    /// An [`Action::Connect`] succeeded; `local` is the address the kernel chose.
    pub fn handle_connected(&mut self, now: Instant, conn: ConnId, local: SocketAddr) {
        self.on_connection(now, conn, |peer, cx| peer.handle_connected(cx, conn, local));
    }

    /// An [`Action::Connect`] failed, or a connection that was accepted cannot be used; `reason` is the system's words, and
    /// the option that it refuses, if it is that.
    pub fn handle_connect_failed(&mut self, now: Instant, conn: ConnId, reason: &str) {
        let reason = DownReason::ConnectFailed(reason.to_owned());
        self.on_connection(now, conn, |peer, cx| peer.handle_closed(cx, conn, reason));
    }

    /// The system refuses what a peer needs of a socket that is not the peer's alone, or of a connection that goes on
    /// without it: told as an event, and by the peer's status until something else goes wrong with it.
    pub fn handle_socket_refused(&mut self, now: Instant, peer: &PeerName, fault: String) {
        self.now = now;
        let id = self.by_name.get(peer);
        if let Some(slot) = id.and_then(|id| self.slots.get_mut(id)) {
            slot.peer.last_error = Some(DownReason::SocketRefused(fault.clone()));
        }
        self.events.push_back(Event::SocketRefused {
            peer: peer.clone(),
            fault,
        });
    }

    /// Bytes arrived, in any cut.
    pub fn handle_bytes(&mut self, now: Instant, conn: ConnId, bytes: &[u8]) {
        self.now = now;
        let matched = self.match_by_open(conn, bytes);
        let bytes = matched.as_deref().unwrap_or(bytes);
        let Some(id) = self.conns.get(&conn).copied() else {
            return;
        };
        if let Some(connection) = self.connection_mut(conn) {
            connection.extend(bytes);
        }
        while self.with_peer(id, |peer, cx| peer.handle_message(cx, conn)) == Some(true) {
            self.take_outputs(id);
        }
        self.settle(id);
        self.work();
    }

    /// The transport ended: end of stream, reset, or a failed write.
    pub fn handle_closed(&mut self, now: Instant, conn: ConnId) {
        self.on_connection(now, conn, |peer, cx| {
            peer.handle_closed(cx, conn, DownReason::TcpClosed);
        });
    }

    /// Announce `prefix` as our own, or `None` to withdraw it.
    pub fn handle_originate(
        &mut self,
        now: Instant,
        prefix: IpNet,
        origination: Option<Origination>,
    ) {
        self.now = now;
        self.originate(prefix.trunc(), origination);
        self.work();
    }

    /// A restarting speaker has all its own routes: from here on End-of-RIB may be sent.
    pub fn handle_originations_complete(&mut self, now: Instant) {
        self.now = now;
        self.originations_complete = true;
        self.work();
    }

    /// Whether a next hop can be reached, and how far away it is; until told, it can, at no cost. About one that is not
    /// [watched](Self::poll_next_hop_watch), nothing is noted.
    pub fn handle_next_hop(&mut self, now: Instant, next_hop: IpAddr, reachability: Reachability) {
        self.now = now;
        self.rib.set_next_hop(next_hop, reachability);
        self.work();
    }

    /// Does what is due: expired timers, and one slice of outstanding work.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        while let Some((at, id)) = self.timers.first().copied()
            && at <= now
        {
            self.with_peer(id, Peer::handle_timeout);
            self.take_outputs(id);
            self.report_timeout(id);
            self.restart_timeout(id);
            self.refresh_timeout(id);
            self.settle(id);
        }
        self.expire_unmatched();
        self.work();
    }

    /// The next deadline and its reason; one that is not in the future means there is work left.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if self.rib.has_work() {
            return Some((self.now, "routes to decide"));
        }
        if self.rib.is_interrupted() {
            return Some((self.now, "routes to pack"));
        }
        let first = self.timers.first();
        let of_peer = first.and_then(|(_, id)| self.slots.get(id)?.deadline());
        let of_ranges = self.ranges_until.map(|until| (until, DEFERRAL));
        let unmatched = self.unmatched.values();
        let of_unmatched = unmatched.map(|one| (one.until, "open of an incoming connection"));
        of_peer
            .into_iter()
            .chain(of_ranges)
            .chain(of_unmatched)
            .min()
    }

    /// Next request to the transport.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// A connection that has something to send and had nothing before. Call
    /// [`poll_transmit`](Self::poll_transmit) for it whenever its socket has room, until that appends nothing.
    pub fn poll_writable(&mut self) -> Option<ConnId> {
        while let Some(id) = self.rib.next_woken() {
            let conn = self
                .slots
                .get(&id)
                .and_then(|slot| slot.peer.established())
                .map(|connection| connection.id);
            if let Some(conn) = conn {
                self.note_writable(conn);
                self.note_pending(id, conn);
            }
        }
        self.writable.pop_front()
    }

    /// Appends whole messages to `out` until at least `room` octets were appended or nothing is left; returns how many
    /// octets. The last message may exceed `room`. With less than `room`, [`poll_writable`](Self::poll_writable) tells
    /// when there is more: after the next [`handle_timeout`](Self::handle_timeout), due at once, when much work was done
    /// for little to send.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        conn: ConnId,
        room: usize,
        out: &mut Vec<u8>,
    ) -> usize {
        self.now = now;
        let start = out.len();
        let Some(id) = self.conns.get(&conn).copied() else {
            self.noted.remove(&conn);
            return 0;
        };
        let slot = self.slots.get_mut(&id);
        let Some(connection) = slot.and_then(|slot| slot.peer.connection_mut(conn)) else {
            return 0;
        };
        connection.take_control(out);
        let established = connection.is_established();
        let room = room.saturating_sub(out.len() - start);
        let drained =
            !established || !matches!(self.rib.transmit(id, room, out), Transmitted::Full);
        if drained {
            self.noted.remove(&conn);
        } else {
            self.note_pending(id, conn);
        }
        self.report_withheld();
        out.len() - start
    }

    /// Next prefix whose best route changed. Changes of one prefix between two calls are one.
    pub fn poll_route(&mut self) -> Option<RouteChange> {
        self.rib.table.poll_change()
    }

    /// Next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front().or_else(|| self.poll_stage())
    }

    /// A next hop that received routes began to use (`true`), or that is used no longer, for whoever tracks
    /// reachability and answers with [`handle_next_hop`](Self::handle_next_hop).
    pub fn poll_next_hop_watch(&mut self) -> Option<(IpAddr, bool)> {
        self.rib.table.poll_watch()
    }

    fn on_connection(
        &mut self,
        now: Instant,
        conn: ConnId,
        handle: impl FnOnce(&mut Peer, &mut Context<'_>),
    ) {
        self.now = now;
        self.unmatched.remove(&conn);
        if let Some(id) = self.conns.get(&conn).copied() {
            self.with_peer(id, handle);
            self.settle(id);
            self.work();
        }
    }

    fn connection_mut(&mut self, conn: ConnId) -> Option<&mut Connection> {
        let id = self.conns.get(&conn)?;
        self.slots.get_mut(id)?.peer.connection_mut(conn)
    }

    fn with_peer<R>(
        &mut self,
        id: SourceId,
        handle: impl FnOnce(&mut Peer, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let offer = self.offer(id)?;
        let slot = self.slots.get_mut(&id)?;
        let mut cx = Context {
            now: self.now,
            jitter: &mut self.jitter,
            actions: &mut self.actions,
            next_conn: &mut self.next_conn,
            offer: &offer,
        };
        Some(handle(&mut slot.peer, &mut cx))
    }

    /// Our side of an OPEN to a peer.
    fn offer(&self, id: SourceId) -> Option<Offer> {
        let config = self.config.as_ref()?;
        let peer = &self.slots.get(&id)?.peer;
        let restart = peer.config.graceful_restart.then(|| OwnRestart {
            time: peer.config.restart_time.unwrap_or(config.restart_time),
            restarting: self.restarting && self.selection == Stage::Running,
            forwarding: self.restarting || peer.was_established,
            notification: peer.config.options.notification_restart,
        });
        Some(Offer {
            asn: peer.config.local_asn.unwrap_or(config.asn),
            router_id: config.router_id,
            hold_time: peer.config.hold_time,
            keepalive_time: peer.config.options.keepalive_time,
            families: peer.config.families.clone(),
            restart,
            add_paths: peer.config.options.add_paths,
            ipv6_next_hops: peer.config.options.ipv6_next_hops,
            peer_asn: peer.config.asn,
            first_as: if peer.config.options.enforce_first_as {
                FirstAsCheck::Enforce
            } else {
                FirstAsCheck::Off
            },
            role: peer.config.options.role,
            strict_role: peer.config.options.strict_role,
            plain: peer.plain_open,
        })
    }

    fn cluster_id(&self) -> Ipv4Addr {
        let config = self.config.as_ref();
        config.map_or(Ipv4Addr::UNSPECIFIED, |config| {
            config.cluster_id.unwrap_or(config.router_id.0)
        })
    }

    /// Brings the speaker's indexes up to a peer's state after something happened to it.
    fn settle(&mut self, id: SourceId) {
        self.take_outputs(id);
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let present: Vec<ConnId> = slot.peer.connections().map(|c| c.id).collect();
        if slot.known != present {
            for gone in slot.known.iter().filter(|conn| !present.contains(conn)) {
                self.conns.remove(gone);
                self.noted.remove(gone);
            }
            self.conns.extend(present.iter().map(|conn| (*conn, id)));
            slot.known = present;
        }
        let deadline = slot.deadline().map(|(at, _)| at);
        if slot.armed != deadline {
            if let Some(at) = slot.armed {
                self.timers.remove(&(at, id));
            }
            if let Some(at) = deadline {
                self.timers.insert((at, id));
            }
            slot.armed = deadline;
        }
        let with_control = |connection: &&Connection| connection.has_control();
        let ready: Vec<ConnId> = slot
            .peer
            .connections()
            .filter(with_control)
            .map(|connection| connection.id)
            .collect();
        if slot.template.is_some() && slot.is_idle() {
            self.idle.push(id);
        }
        for conn in ready {
            self.note_writable(conn);
        }
    }

    /// UPDATEs wait for a connection: from here on it is watched whether the peer reads (RFC 9687).
    fn note_pending(&mut self, id: SourceId, conn: ConnId) {
        let now = self.now;
        if self
            .connection_mut(conn)
            .is_some_and(|connection| connection.note_pending(now))
        {
            self.settle(id);
        }
    }

    fn note_writable(&mut self, conn: ConnId) {
        if self.noted.insert(conn) {
            self.writable.push_back(conn);
        }
    }

    /// One slice of the sweep, one of decisions, and what follows from there being none left.
    fn work(&mut self) {
        self.remove_idle_instances();
        self.check_selection();
        self.sweep(SWEPT_PER_CALL);
        self.rib.decide(DECISIONS_PER_CALL);
        self.rib.resume(SWEPT_PER_CALL);
    }
}
