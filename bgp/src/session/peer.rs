//! A peer: its connections (one, or two while a collision is open), when to connect, and collision detection
//! (RFC 4271 §6.8, §8.2.1.2).
//!
//! There is no delay before the first connection. A peer that connects while we wait to retry (state Active) is let in at
//! once, one in state Idle is refused.
//! What follows the end of the last connection:
//!
//! | ended by | next attempt |
//! |---|---|
//! | the far end closing an established session | at once (the peer restarts) |
//! | a failed connect, a close before Established | 0.25 s, doubling to ConnectRetryTime, jittered: state Active |
//! | the far end's operator, by a Cease (RFC 4486 §4: shut down, de-configured, reset, changed), three times in 300 s | as a failed connect |
//! | 2/4, to an OPEN with capabilities | as a failed connect, without capabilities (RFC 5492 §3) until the configuration changes |
//! | 2/7: a capability that we lack is required | 30 s: state Idle |
//! | an error, sent or received | 5 s, doubling to 30 s, forgotten after 300 s: state Idle (RFC 4271 §8.1.1, IdleHoldTime) |
//! | our own reset | at once |
//! | our own shutdown | when the configuration takes it back: state Idle |

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::action::{Action, ConnectRequest, Refused, Ttl};
use crate::config::PeerConfig;
use crate::event::DownReason;
use crate::session::connection::{Connection, Direction, Ending, Outcome};
use crate::session::jitter::Jitter;
use crate::session::offer::{Agreement, Offer};
use crate::status::PeerState;
use crate::types::{ConnId, PeerName, RouterId};
use crate::wire::capability::GracefulRestart;
use crate::wire::notification::Notification;
use crate::wire::refresh::RouteRefresh;
use crate::wire::update::Update;

const IDLE_HOLD_TIME: Duration = Duration::from_secs(5);
const IDLE_HOLD_TIME_MAX: Duration = Duration::from_secs(30);
/// Errors in a row after which the wait is [`IDLE_HOLD_TIME_MAX`].
const IDLE_HOLDS_TO_THE_LONGEST: u32 = 3;
/// Errors older than this do not lengthen the next IdleHoldTime.
const ERRORS_FORGOTTEN_AFTER: Duration = Duration::from_secs(300);
/// After the first failed attempt. Nodes that start together refuse each other while their listeners come up.
const RETRY_TIME_FIRST: Duration = Duration::from_millis(250);
/// ConnectRetryTime is never shorter than this.
const RETRY_TIME_MIN: Duration = Duration::from_secs(1);
/// So often within [`ERRORS_FORGOTTEN_AFTER`] a Cease of the far end's operator is no error.
const DELIBERATE_ENDS_MAX: u32 = 3;
/// A session that stood shorter than this is retried like one that never stood.
const SESSION_WORTH_HURRY: Duration = Duration::from_secs(1);

/// What IdleHoldTime follows on.
const fn is_error(reason: &DownReason) -> bool {
    matches!(
        reason,
        DownReason::NotificationSent(_)
            | DownReason::NotificationReceived(_)
            | DownReason::SendHoldTimerExpired
    )
}

/// Our OPEN was refused for this (RFC 5492 §3, §5: 4 its optional parameters, 7 a capability that we lack).
fn is_refusal(reason: &DownReason, subcode: u8) -> bool {
    match reason {
        DownReason::NotificationReceived(text) => text.code == 2 && text.subcode == subcode,
        _ => false,
    }
}

/// Cease of somebody's doing at the far end, who wants the session back as soon as it can be: RFC 4486 §4, subcodes 2, 3,
/// 4 and 6.
fn is_deliberate(reason: &DownReason) -> bool {
    match reason {
        DownReason::NotificationReceived(text) => {
            text.code == 6 && matches!(text.subcode, 2 | 3 | 4 | 6)
        }
        _ => false,
    }
}

/// One configured peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: PeerName,
    pub(crate) config: PeerConfig,
    connections: Vec<Connection>,
    wait: Wait,
    errors: u32,
    /// Attempts that failed since a session stood, or since the start.
    failed_attempts: u32,
    last_error_at: Option<Instant>,
    /// Why the last connection ended.
    pub(crate) last_error: Option<DownReason>,
    /// When the peer entered the state it shows.
    pub(crate) since: Instant,
    /// BGP Identifier of its last accepted OPEN.
    pub(crate) router_id: Option<RouterId>,
    /// It refused our OPEN for its optional parameters: the next one goes without.
    pub(crate) plain_open: bool,
    /// A session with it stood in this process.
    pub(crate) was_established: bool,
    outputs: VecDeque<PeerOutput>,
}

/// What the peer waits for while it has no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// Nothing: a connection is there.
    None,
    /// The peer itself (passive).
    Incoming,
    /// ConnectRetryTimer: state Active.
    Retry(Instant),
    /// IdleHoldTimer: state Idle.
    IdleHold(Instant),
    /// The configuration to want a session again: state Idle.
    Shutdown,
}

impl Wait {
    /// How a peer without a past begins.
    const fn first(config: &PeerConfig, now: Instant) -> Self {
        if config.options.shutdown {
            Self::Shutdown
        } else if config.passive {
            Self::Incoming
        } else {
            Self::Retry(now)
        }
    }
}

/// What became of an event.
#[derive(Debug)]
pub(crate) enum PeerOutput {
    /// A session stands on this connection.
    Up(ConnId),
    /// The session is over.
    Down(Down),
    /// A connection that was not established failed; whether for another reason than the one before.
    Failed(DownReason, bool),
    /// Routes.
    Update(Box<Update>),
    /// A refresh message.
    Refresh(RouteRefresh),
    /// A KEEPALIVE of an established session.
    Keepalive,
}

/// The end of an established session.
#[derive(Debug)]
pub(crate) struct Down {
    pub(crate) conn: ConnId,
    pub(crate) reason: DownReason,
    /// The peer's graceful restart capability, when the end leaves its routes usable: no NOTIFICATION passed (RFC 4724
    /// §4.2), or none but a Hard Reset would matter (RFC 8538 §4).
    pub(crate) restart: Option<GracefulRestart>,
}

/// What a peer needs from the speaker.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) jitter: &'a mut Jitter,
    pub(crate) actions: &'a mut VecDeque<Action>,
    pub(crate) next_conn: &'a mut u64,
    /// Our side of an OPEN to this peer.
    pub(crate) offer: &'a Offer,
}

impl Peer {
    pub(crate) fn new(name: PeerName, config: PeerConfig, now: Instant) -> Self {
        let wait = Wait::first(&config, now);
        Self {
            name,
            config,
            connections: Vec::new(),
            wait,
            errors: 0,
            failed_attempts: 0,
            last_error_at: None,
            last_error: None,
            since: now,
            router_id: None,
            plain_open: false,
            was_established: false,
            outputs: VecDeque::new(),
        }
    }

    /// Next result of what was handled last.
    pub(crate) fn poll(&mut self) -> Option<PeerOutput> {
        self.outputs.pop_front()
    }

    /// The state to show: that of the connection that is farthest.
    pub(crate) fn state(&self) -> PeerState {
        let farthest = self.connections.iter().map(Connection::state).max();
        farthest.unwrap_or(match self.wait {
            Wait::IdleHold(_) | Wait::Shutdown => PeerState::Idle,
            Wait::None | Wait::Incoming | Wait::Retry(_) => PeerState::Active,
        })
    }

    /// The established connection.
    pub(crate) fn established(&self) -> Option<&Connection> {
        self.connections
            .iter()
            .find(|connection| connection.is_established())
    }

    /// What the established session agreed on.
    pub(crate) fn agreement(&self) -> Option<&Agreement> {
        self.established().and_then(Connection::agreement)
    }

    pub(crate) fn connection_mut(&mut self, conn: ConnId) -> Option<&mut Connection> {
        self.connections
            .iter_mut()
            .find(|connection| connection.id == conn)
    }

    /// Connections with messages of the session itself to send.
    pub(crate) fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.connections.iter()
    }

    /// Whether a connection of the peer is accepted.
    pub(crate) fn wants_incoming(&self) -> Result<(), Refused> {
        if self.config.options.shutdown {
            return Err(Refused::Shutdown);
        }
        if self.is_held() {
            return Err(Refused::IdleHold);
        }
        match self.agreement() {
            Some(agreement) if agreement.restart.is_none() => Err(Refused::Established),
            Some(_) | None => Ok(()),
        }
    }

    /// The IdleHoldTimer runs.
    pub(crate) const fn is_held(&self) -> bool {
        matches!(self.wait, Wait::IdleHold(_))
    }

    /// The peer connected to us (RFC 4271 §8.1.4, event 17), and [is wanted](Self::wants_incoming).
    pub(crate) fn handle_accepted(
        &mut self,
        cx: &mut Context<'_>,
        conn: ConnId,
        remote: SocketAddr,
        local: SocketAddr,
    ) {
        let before = self.state();
        // A peer has one connection of its own at a time: an older one that got nowhere is dead.
        let is_superseded = |connection: &Connection| {
            connection.direction == Direction::Incoming && !connection.is_established()
        };
        if let Some(position) = self.connections.iter().position(is_superseded) {
            let mut old = self.connections.remove(position);
            let ending = old.drop_silently(DownReason::TcpClosed);
            cx.actions.push_back(Action::Close {
                conn: old.id,
                farewell: ending.farewell.unwrap_or_default(),
            });
        }
        // A wait to retry goes on: the peer may die before it says OPEN.
        self.connections.push(Connection::incoming(
            conn,
            remote,
            local,
            cx.offer.clone(),
            cx.now,
        ));
        self.note_state(cx.now, before);
    }

    /// Our connection stands (event 16).
    pub(crate) fn handle_connected(
        &mut self,
        cx: &mut Context<'_>,
        conn: ConnId,
        local: SocketAddr,
    ) {
        let before = self.state();
        // OPENs were exchanged on the other one. To send OPEN here, too, could make the peer close that one while it
        // becomes established at this end.
        let lost = self
            .connections
            .iter()
            .any(|other| other.id != conn && other.agreement().is_some());
        let Some(connection) = self.connection_mut(conn) else {
            return;
        };
        if lost {
            let ending = connection.drop_silently(DownReason::Collision);
            self.ended(cx, conn, ending);
        } else {
            connection.handle_connected(cx.now, local);
        }
        self.note_state(cx.now, before);
    }

    /// The transport is gone, or never came (event 18).
    pub(crate) fn handle_closed(&mut self, cx: &mut Context<'_>, conn: ConnId, reason: DownReason) {
        let before = self.state();
        if let Some(connection) = self.connection_mut(conn) {
            let ending = connection.lost(reason);
            self.ended(cx, conn, ending);
        }
        self.note_state(cx.now, before);
    }

    /// Handles the next message of a connection; false when there is none.
    pub(crate) fn handle_message(&mut self, cx: &mut Context<'_>, conn: ConnId) -> bool {
        let before = self.state();
        let Some(connection) = self.connection_mut(conn) else {
            return false;
        };
        let Some(outcome) = connection.handle_message(cx.now, cx.jitter) else {
            return false;
        };
        self.take(cx, conn, outcome);
        self.note_state(cx.now, before);
        true
    }

    /// Ends every connection with `notification`; the next attempt follows at once.
    pub(crate) fn reset(&mut self, cx: &mut Context<'_>, notification: &Notification) {
        let before = self.state();
        self.stop(cx, notification);
        self.errors = 0;
        self.failed_attempts = 0;
        self.plain_open = false;
        self.wait = Wait::first(&self.config, cx.now);
        self.note_state(cx.now, before);
    }

    /// Ends every connection with `notification` as an error: the next attempt waits.
    pub(crate) fn stop(&mut self, cx: &mut Context<'_>, notification: &Notification) {
        let before = self.state();
        while let Some(connection) = self.connections.first_mut() {
            let conn = connection.id;
            let ending = connection.stop(notification);
            self.ended(cx, conn, ending);
        }
        self.note_state(cx.now, before);
    }

    /// The peer was shut down (RFC 4271 §8.1.2, event 2), or is not any more (event 1).
    pub(crate) fn shutdown_changed(&mut self, cx: &mut Context<'_>) {
        let text = self.config.options.shutdown_text.clone();
        let text = text.as_deref().unwrap_or_default();
        self.reset(cx, &Notification::administrative_shutdown(text));
    }

    /// Whether we connect was configured anew.
    pub(crate) fn passive_changed(&mut self, cx: &mut Context<'_>) {
        if self.connections.is_empty() {
            self.wait = Wait::first(&self.config, cx.now);
        }
    }

    /// Next deadline of the peer or its connections.
    pub(crate) fn deadline(&self) -> Option<(Instant, &'static str)> {
        let wait = match self.wait {
            Wait::None | Wait::Incoming | Wait::Shutdown => None,
            Wait::Retry(at) => Some((at, "connect retry timer")),
            Wait::IdleHold(at) => Some((at, "idle hold timer")),
        };
        self.connections
            .iter()
            .filter_map(Connection::deadline)
            .chain(wait)
            .min()
    }

    /// Handles what is due.
    pub(crate) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        let before = self.state();
        if let Wait::Retry(at) | Wait::IdleHold(at) = self.wait
            && at <= cx.now
        {
            self.wait = if self.config.passive {
                Wait::Incoming
            } else {
                Wait::None
            };
            let needless = |connection: &Connection| {
                connection.direction == Direction::Outgoing || connection.agreement().is_some()
            };
            if self.wait == Wait::None && !self.connections.iter().any(needless) {
                // Event 9 in Active, event 13 in Idle.
                self.connect(cx);
            }
        }
        let conns: Vec<ConnId> = self.connections.iter().map(|c| c.id).collect();
        for conn in conns {
            while let Some(outcome) = self
                .connection_mut(conn)
                .and_then(|connection| connection.handle_timeout(cx.now, cx.jitter))
            {
                self.take(cx, conn, outcome);
            }
        }
        self.note_state(cx.now, before);
    }

    fn connect(&mut self, cx: &mut Context<'_>) {
        *cx.next_conn += 1;
        let conn = ConnId(*cx.next_conn);
        let remote = self.config.endpoint().socket_address();
        let retry = cx.now
            + cx.jitter
                .shorten(self.config.connect_retry_time.max(RETRY_TIME_MIN));
        self.connections.push(Connection::outgoing(
            conn,
            remote,
            cx.offer.clone(),
            cx.now,
            retry,
        ));
        cx.actions.push_back(Action::Connect(ConnectRequest {
            conn,
            peer: self.name.clone(),
            remote,
            local_address: self.config.local_address,
            password: self.config.password.clone(),
            ttl: self.ttl(cx.offer),
        }));
    }

    fn take(&mut self, cx: &mut Context<'_>, conn: ConnId, outcome: Outcome) {
        match outcome {
            Outcome::Nothing => {}
            Outcome::OpenAccepted => self.open_accepted(cx, conn),
            Outcome::Established => self.became_established(cx, conn),
            Outcome::Update(update) => self.outputs.push_back(PeerOutput::Update(update)),
            Outcome::Keepalive => self.outputs.push_back(PeerOutput::Keepalive),
            Outcome::Refresh(refresh) => self.outputs.push_back(PeerOutput::Refresh(refresh)),
            Outcome::Ended(ending) => self.ended(cx, conn, ending),
        }
    }

    /// Collision detection (RFC 4271 §6.8): of two connections, the one that the speaker with the higher identifier opened
    /// stays. That speaker decides as soon as it knows the other's identifier. The other one waits until it has read
    /// OPEN on both: without, it cannot know whether the peer still wants its own connection.
    fn open_accepted(&mut self, cx: &mut Context<'_>, conn: ConnId) {
        let Some(connection) = self.connection_mut(conn) else {
            return;
        };
        let Some(router_id) = connection.agreement().map(|agreement| agreement.router_id) else {
            return;
        };
        let own_stays = connection.offer().keeps_own_connection(router_id);
        let mine_stays = (connection.direction == Direction::Outgoing) == own_stays;
        self.router_id = Some(router_id);
        let rival = self.connections.iter().find(|other| {
            let exchanging = match other.state() {
                PeerState::OpenSent => own_stays || mine_stays,
                PeerState::OpenConfirm => true,
                PeerState::Idle
                | PeerState::Connect
                | PeerState::Active
                | PeerState::Established => false,
            };
            other.id != conn && exchanging
        });
        let loser = match rival.map(|rival| rival.id) {
            Some(_) if !mine_stays => Some(conn),
            rival => rival,
        };
        if let Some(connection) = loser.and_then(|loser| self.connection_mut(loser)) {
            // Event 23.
            let loser = connection.id;
            let ending = connection.stop(&Notification::collision_resolution());
            let ending = Ending {
                reason: DownReason::Collision,
                ..ending
            };
            self.ended(cx, loser, ending);
        }
        if let Some(connection) = self.connection_mut(conn) {
            connection.confirm(cx.now);
        }
    }

    /// A peer with graceful restart that completes a second session has lost the first one (RFC 4724 §4.2). That is
    /// judged here and not when its connection comes in: a peer that decides a collision the other way may have
    /// opened one, but will not send KEEPALIVE on it.
    fn became_established(&mut self, cx: &mut Context<'_>, conn: ConnId) {
        self.failed_attempts = 0;
        let others: Vec<ConnId> = self
            .connections
            .iter()
            .map(|connection| connection.id)
            .filter(|other| *other != conn)
            .collect();
        for other in others {
            let Some(connection) = self.connection_mut(other) else {
                continue;
            };
            let ending = match connection.state() {
                PeerState::Established => connection.drop_silently(DownReason::PeerRestarted),
                PeerState::OpenSent | PeerState::OpenConfirm => Ending {
                    reason: DownReason::Collision,
                    ..connection.stop(&Notification::collision_resolution())
                },
                PeerState::Connect | PeerState::Active | PeerState::Idle => {
                    connection.drop_silently(DownReason::Collision)
                }
            };
            self.ended(cx, other, ending);
        }
        self.wait = Wait::None;
        self.was_established = true;
        self.outputs.push_back(PeerOutput::Up(conn));
    }

    /// Forgets a connection that has ended, and decides when to try again.
    fn ended(&mut self, cx: &mut Context<'_>, conn: ConnId, ending: Ending) {
        let Some(position) = self.connections.iter().position(|c| c.id == conn) else {
            return;
        };
        let stood_since = self.connections.remove(position).since;
        if let Some(farewell) = ending.farewell {
            cx.actions.push_back(Action::Close { conn, farewell });
        }
        let is_news = ending.reason != DownReason::Collision
            && self.last_error.as_ref() != Some(&ending.reason);
        if is_news {
            self.last_error = Some(ending.reason.clone());
        }
        if is_error(&ending.reason) {
            self.give_up_connecting(cx);
        }
        if self.connections.is_empty() {
            let stood = ending.session.is_some() && cx.now - stood_since >= SESSION_WORTH_HURRY;
            self.wait = self.next_wait(cx, &ending.reason, stood);
        }
        let Some(session) = ending.session else {
            self.outputs
                .push_back(PeerOutput::Failed(ending.reason, is_news));
            return;
        };
        let routes_stay = match &ending.reason {
            DownReason::TcpClosed | DownReason::PeerRestarted => true,
            // RFC 8538 §4.1, §4.2.
            DownReason::NotificationSent(text) | DownReason::NotificationReceived(text) => {
                session.notification_restart && !text.is_hard_reset()
            }
            DownReason::SendHoldTimerExpired => session.notification_restart,
            DownReason::ConnectFailed(_)
            | DownReason::SocketRefused(_)
            | DownReason::Ambiguous(_)
            | DownReason::Collision
            | DownReason::ConnectTimedOut => false,
        };
        self.outputs.push_back(PeerOutput::Down(Down {
            conn,
            reason: ending.reason,
            restart: session.restart.filter(|_| routes_stay),
        }));
    }

    /// Idle has no connection: after an error, what we were opening beside the one that failed is given up.
    fn give_up_connecting(&mut self, cx: &mut Context<'_>) {
        let opening = |connection: &mut Connection| connection.state() == PeerState::Connect;
        let opening: Vec<ConnId> = self
            .connections
            .extract_if(.., opening)
            .map(|connection| connection.id)
            .collect();
        cx.actions
            .extend(opening.into_iter().map(|conn| Action::Close {
                conn,
                farewell: Vec::new(),
            }));
    }

    fn next_wait(&mut self, cx: &mut Context<'_>, reason: &DownReason, stood: bool) -> Wait {
        let wait = self.wait_after(cx, reason, stood);
        match wait {
            Wait::Retry(_) | Wait::IdleHold(_) if self.config.options.shutdown => Wait::Shutdown,
            Wait::Retry(_) if self.config.passive => Wait::Incoming,
            Wait::None | Wait::Incoming | Wait::Retry(_) | Wait::IdleHold(_) | Wait::Shutdown => {
                wait
            }
        }
    }

    fn wait_after(&mut self, cx: &mut Context<'_>, reason: &DownReason, stood: bool) -> Wait {
        match reason {
            DownReason::TcpClosed | DownReason::PeerRestarted if stood => Wait::Retry(cx.now),
            DownReason::ConnectTimedOut => Wait::Retry(cx.now),
            DownReason::TcpClosed
            | DownReason::PeerRestarted
            | DownReason::ConnectFailed(_)
            | DownReason::SocketRefused(_)
            | DownReason::Ambiguous(_)
            | DownReason::Collision => self.retry_wait(cx),
            DownReason::NotificationSent(_)
            | DownReason::NotificationReceived(_)
            | DownReason::SendHoldTimerExpired => {
                let forgotten = self
                    .last_error_at
                    .is_none_or(|at| cx.now - at >= ERRORS_FORGOTTEN_AFTER);
                self.errors = if forgotten { 0 } else { self.errors + 1 };
                self.last_error_at = Some(cx.now);
                if is_refusal(reason, 4) && !self.plain_open {
                    self.plain_open = true;
                    return self.retry_wait(cx);
                }
                if is_refusal(reason, 7) {
                    // Nothing that we can change: the operator reads which capability it is.
                    self.errors = self.errors.max(IDLE_HOLDS_TO_THE_LONGEST);
                }
                if self.errors < DELIBERATE_ENDS_MAX && is_deliberate(reason) {
                    return self.retry_wait(cx);
                }
                let time = IDLE_HOLD_TIME * 2_u32.saturating_pow(self.errors.min(8));
                let time = time.min(IDLE_HOLD_TIME_MAX);
                Wait::IdleHold(cx.now + cx.jitter.shorten(time))
            }
        }
    }

    fn retry_wait(&mut self, cx: &mut Context<'_>) -> Wait {
        let growing = RETRY_TIME_FIRST * 2_u32.saturating_pow(self.failed_attempts.min(8));
        self.failed_attempts = self.failed_attempts.saturating_add(1);
        let longest = self.config.connect_retry_time.max(RETRY_TIME_MIN);
        Wait::Retry(cx.now + cx.jitter.shorten(growing.min(longest)))
    }

    fn note_state(&mut self, now: Instant, before: PeerState) {
        if self.state() != before {
            self.since = now;
        }
    }

    /// TTLs towards the peer: GTSM when configured (RFC 5082 §3), 1 for eBGP without multihop, else the kernel's.
    pub(crate) fn ttl(&self, offer: &Offer) -> Ttl {
        match self.config.ttl_security {
            Some(hops) => Ttl {
                sent: Some(255),
                accepted_min: Some(255 - hops.saturating_sub(1)),
            },
            None if offer.asn != offer.peer_asn && !self.config.multihop => Ttl {
                sent: Some(1),
                accepted_min: None,
            },
            None => Ttl::KERNEL,
        }
    }
}
