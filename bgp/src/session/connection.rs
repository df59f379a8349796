//! The finite state machine of one transport connection (RFC 4271 §8.2.2).
//!
//! Idle and Active, in which there is no connection, belong to the [peer](super::peer). A peer that connects to us
//! while we connect to it has two of these machines for a while; collision detection (§6.8) is the peer's, too.
//!
//! | State | leaves to | on event of RFC 4271 §8.1 |
//! |---|---|---|
//! | Connect | OpenSent | 16 (connected) |
//! | | ended | 2, 8 (stop), 9 (ConnectRetryTimer), 18 (failed) |
//! | OpenSent | OpenConfirm | 19 (OPEN) |
//! | | ended | 2, 8, 10 (hold timer), 18, 21, 22 (malformed), 23 (collision), 24, 25 (NOTIFICATION), others: 5/1 |
//! | OpenConfirm | Established | 26 (KEEPALIVE) |
//! | | ended | 2, 8, 10, 18, 21, 22, 23, 24, 25, others: 5/2 |
//! | Established | itself | 11 (keepalive timer), 26, 27 (UPDATE), ROUTE-REFRESH |
//! | | ended | 2, 8, 10, 18, 21, 23, 24, 25, 28 (bad UPDATE), 29 (RFC 9687), others: 5/3 |

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::event::{DownReason, NotificationText};
use crate::session::jitter::Jitter;
use crate::session::offer::{Agreement, Offer};
use crate::status::PeerState;
use crate::types::ConnId;
use crate::wire::framer::Framer;
use crate::wire::message::{MessageType, RawMessage, write_keepalive};
use crate::wire::notification::Notification;
use crate::wire::open::Open;
use crate::wire::refresh::RouteRefresh;
use crate::wire::update::{Update, decode_update};

/// Hold time before OPENs are exchanged: RFC 4271 §8.2.2 suggests 4 minutes.
const HOLD_TIME_BEFORE_OPEN: Duration = Duration::from_secs(240);
/// RFC 9687 §3.2: the greater of 8 minutes and twice the hold time. It holds at a Hold Time of 0 as well, beyond §4.3: a peer
/// that never reads would keep memory for ever.
const SEND_HOLD_TIME_MIN: Duration = Duration::from_secs(480);
/// A hold timer that is looked at later than this after its end was held up together with what the peer sent.
const STALL: Duration = Duration::from_millis(500);
/// What is given then to what waits to be read.
const READ_TIME: Duration = Duration::from_secs(1);

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// We did.
    Outgoing,
    /// The peer did.
    Incoming,
}

/// One connection and its FSM.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnId,
    pub(crate) direction: Direction,
    pub(crate) remote: SocketAddr,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) since: Instant,
    state: State,
    framer: Framer,
    /// Messages of the session itself, to be sent before UPDATEs; bounded, since nothing is added while a KEEPALIVE
    /// waits.
    control: Vec<u8>,
    /// Since when `control` waits without progress.
    stalled_since: Option<Instant>,
    offer: Offer,
}

#[derive(Debug)]
enum State {
    Connect(Connect),
    OpenSent(OpenSent),
    OpenConfirm(OpenConfirm),
    Established(Established),
    /// Gone; no event has an effect.
    Ended,
}

#[derive(Debug)]
struct Connect {
    retry: Instant,
}

#[derive(Debug)]
struct OpenSent {
    hold: Instant,
}

#[derive(Debug)]
struct OpenConfirm {
    agreement: Box<Agreement>,
    timers: Timers,
}

#[derive(Debug)]
struct Established {
    agreement: Box<Agreement>,
    timers: Timers,
}

/// HoldTimer and KeepaliveTimer. At a Hold Time of zero there is none, but that OpenConfirm has the first one all the same.
#[derive(Clone, Copy, Debug)]
struct Timers {
    hold: Option<Instant>,
    keepalive: Option<Instant>,
}

/// What an event brought about.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Nothing to tell.
    Nothing,
    /// An acceptable OPEN came: the peer looks for a collision, then calls [`Connection::confirm`].
    OpenAccepted,
    /// The session stands.
    Established,
    /// Routes.
    Update(Box<Update>),
    /// A request for routes, or a marker of an enhanced refresh.
    Refresh(RouteRefresh),
    /// A KEEPALIVE of an established session.
    Keepalive,
    /// The connection is over.
    Ended(Ending),
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) reason: DownReason,
    /// Bytes to send before closing; `None` when the transport is gone already.
    pub(crate) farewell: Option<Vec<u8>>,
    /// What was agreed on, if the session stood.
    pub(crate) session: Option<Box<Agreement>>,
}

impl Connection {
    /// A connection being opened by us: state Connect.
    pub(crate) fn outgoing(
        id: ConnId,
        remote: SocketAddr,
        offer: Offer,
        now: Instant,
        retry: Instant,
    ) -> Self {
        Self {
            id,
            direction: Direction::Outgoing,
            remote,
            local: None,
            since: now,
            state: State::Connect(Connect { retry }),
            framer: Framer::new(),
            control: Vec::new(),
            stalled_since: None,
            offer,
        }
    }

    /// A connection the peer opened (RFC 4271 §8.2.2, Active, event 17): OPEN is sent at once.
    pub(crate) fn incoming(
        id: ConnId,
        remote: SocketAddr,
        local: SocketAddr,
        offer: Offer,
        now: Instant,
    ) -> Self {
        let mut connection = Self::outgoing(id, remote, offer, now, now);
        connection.direction = Direction::Incoming;
        connection.local = Some(local);
        connection.send_open(now);
        connection
    }

    /// The transport stands (event 16).
    pub(crate) fn handle_connected(&mut self, now: Instant, local: SocketAddr) {
        if let State::Connect(_) = self.state {
            self.local = Some(local);
            self.since = now;
            self.send_open(now);
        }
    }

    fn send_open(&mut self, now: Instant) {
        self.offer.message().encode(&mut self.control);
        self.stalled_since = Some(now);
        self.state = State::OpenSent(OpenSent {
            hold: now + HOLD_TIME_BEFORE_OPEN,
        });
    }

    /// Received bytes.
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.framer.extend(bytes);
    }

    /// Handles the next whole message; `None` when there is none.
    pub(crate) fn handle_message(&mut self, now: Instant, jitter: &mut Jitter) -> Option<Outcome> {
        if matches!(self.state, State::Ended) {
            return None;
        }
        let raw = match self.framer.next_message() {
            Ok(raw) => raw?,
            // Event 21.
            Err(notification) => return Some(self.end_with(&notification)),
        };
        if raw.kind == MessageType::Notification {
            return Some(self.handle_notification(&raw.body));
        }
        let outcome = match std::mem::replace(&mut self.state, State::Ended) {
            // Nothing is received before the transport stands.
            State::Connect(_) | State::Ended => Outcome::Nothing,
            State::OpenSent(state) => self.open_sent(now, state, &raw, jitter),
            State::OpenConfirm(state) => self.open_confirm(now, state, &raw),
            State::Established(state) => self.established(now, state, &raw),
        };
        Some(outcome)
    }

    fn open_sent(
        &mut self,
        now: Instant,
        _state: OpenSent,
        raw: &RawMessage,
        jitter: &mut Jitter,
    ) -> Outcome {
        match raw.kind {
            // Event 19, or 22 for an OPEN we cannot accept.
            MessageType::Open => {
                let agreed = Open::decode(&raw.body).and_then(|open| self.offer.agree(&open));
                match agreed {
                    Ok(agreement) => {
                        self.framer.allow_extended();
                        self.since = now;
                        let timers = Timers::start(now, &agreement, jitter);
                        self.state = State::OpenConfirm(OpenConfirm {
                            agreement: Box::new(agreement),
                            timers,
                        });
                        Outcome::OpenAccepted
                    }
                    Err(notification) => self.end_with(&notification),
                }
            }
            MessageType::Update
            | MessageType::Notification
            | MessageType::Keepalive
            | MessageType::RouteRefresh => {
                self.end_with(&Notification::unexpected_in_open_sent(raw.kind))
            }
        }
    }

    fn open_confirm(&mut self, now: Instant, state: OpenConfirm, raw: &RawMessage) -> Outcome {
        match raw.kind {
            // Event 26.
            MessageType::Keepalive => {
                let timers = Timers {
                    hold: after(now, state.agreement.hold_time),
                    ..state.timers
                };
                self.since = now;
                self.state = State::Established(Established {
                    agreement: state.agreement,
                    timers,
                });
                Outcome::Established
            }
            MessageType::Open
            | MessageType::Update
            | MessageType::Notification
            | MessageType::RouteRefresh => {
                self.end_with(&Notification::unexpected_in_open_confirm(raw.kind))
            }
        }
    }

    fn established(&mut self, now: Instant, mut state: Established, raw: &RawMessage) -> Outcome {
        state.timers.hold = after(now, state.agreement.hold_time);
        let decoded = match raw.kind {
            // Event 26.
            MessageType::Keepalive => Ok(Outcome::Keepalive),
            // Event 27, or 28 for an UPDATE that ends the session.
            MessageType::Update => decode_update(&raw.body, &state.agreement.receive)
                .map(|update| Outcome::Update(Box::new(update))),
            MessageType::RouteRefresh => RouteRefresh::decode(&raw.body).map(Outcome::Refresh),
            MessageType::Open | MessageType::Notification => {
                Err(Notification::unexpected_in_established(raw.kind))
            }
        };
        self.state = State::Established(state);
        decoded.unwrap_or_else(|notification| self.end_with(&notification))
    }

    /// Events 24 and 25.
    fn handle_notification(&mut self, body: &Bytes) -> Outcome {
        let notification = match Notification::decode(body) {
            Ok(received) => received,
            Err(unreadable) => unreadable,
        };
        Outcome::Ended(self.drop_silently(DownReason::NotificationReceived(
            NotificationText::from(&notification),
        )))
    }

    /// Answers an accepted OPEN with a KEEPALIVE (event 19, after collision detection).
    pub(crate) fn confirm(&mut self, now: Instant) {
        if let State::OpenConfirm(_) = self.state {
            self.send_keepalive(now);
        }
    }

    /// Ends the connection from our side with a NOTIFICATION: events 2, 8, 23.
    pub(crate) fn stop(&mut self, notification: &Notification) -> Ending {
        if let State::Connect(_) = self.state {
            return self.drop_silently(DownReason::NotificationSent(notification.into()));
        }
        self.finish(notification)
    }

    /// Ends the connection without a word.
    pub(crate) fn drop_silently(&mut self, reason: DownReason) -> Ending {
        Ending {
            reason,
            farewell: Some(Vec::new()),
            session: self.end(),
        }
    }

    /// The far end or the network ended it (event 18).
    pub(crate) fn lost(&mut self, reason: DownReason) -> Ending {
        Ending {
            reason,
            farewell: None,
            session: self.end(),
        }
    }

    fn end(&mut self) -> Option<Box<Agreement>> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Established(state) => Some(state.agreement),
            State::Connect(_) | State::OpenSent(_) | State::OpenConfirm(_) | State::Ended => None,
        }
    }

    fn end_with(&mut self, notification: &Notification) -> Outcome {
        Outcome::Ended(self.finish(notification))
    }

    fn finish(&mut self, notification: &Notification) -> Ending {
        let agreement = self.agreement();
        let hard = notification.wants_routes_gone()
            && agreement.is_some_and(|agreement| agreement.notification_restart);
        let hard = hard.then(|| Notification::hard_reset(notification));
        let notification = hard.as_ref().unwrap_or(notification);
        // What was queued goes first: an OPEN that explains who refuses.
        let mut farewell = std::mem::take(&mut self.control);
        notification.encode(&mut farewell);
        Ending {
            reason: DownReason::NotificationSent(notification.into()),
            farewell: Some(farewell),
            session: self.end(),
        }
    }

    /// The next deadline.
    pub(crate) fn deadline(&self) -> Option<(Instant, &'static str)> {
        let timers = match &self.state {
            State::Connect(state) => return Some((state.retry, "connect retry timer")),
            State::OpenSent(state) => return Some((state.hold, "hold timer before OPEN")),
            State::OpenConfirm(state) => state.timers,
            State::Established(state) => state.timers,
            State::Ended => return None,
        };
        let timers = [
            (timers.hold, "hold timer"),
            (timers.keepalive, "keepalive timer"),
            (self.send_hold(), "send hold timer"),
        ];
        let timers = timers.into_iter();
        timers.filter_map(|(at, reason)| Some((at?, reason))).min()
    }

    fn send_hold(&self) -> Option<Instant> {
        let hold_time = self.agreement()?.hold_time;
        Some(self.stalled_since? + SEND_HOLD_TIME_MIN.max(hold_time * 2))
    }

    /// Handles one expired timer; `None` when none is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant, jitter: &mut Jitter) -> Option<Outcome> {
        let due = |at: Instant| at <= now;
        let send_hold = self.send_hold();
        let timers = match &mut self.state {
            State::Connect(state) => {
                // Event 9.
                let ended = due(state.retry).then_some(DownReason::ConnectTimedOut)?;
                return Some(Outcome::Ended(self.drop_silently(ended)));
            }
            State::OpenSent(state) => {
                let _: () = due(state.hold).then_some(())?;
                // Event 10.
                return Some(self.end_with(&Notification::hold_timer_expired()));
            }
            State::OpenConfirm(state) => &mut state.timers,
            State::Established(state) => &mut state.timers,
            State::Ended => return None,
        };
        let keepalive = timers.keepalive;
        if let Some(at) = timers.hold.filter(|at| due(*at)) {
            if now - at >= STALL {
                timers.hold = Some(now + READ_TIME);
                return Some(Outcome::Nothing);
            }
            // Event 10.
            return Some(self.end_with(&Notification::hold_timer_expired()));
        }
        if send_hold.is_some_and(due) {
            // Event 29 (RFC 9687 §3.3). The peer does not read, so no NOTIFICATION would reach it.
            return Some(Outcome::Ended(
                self.drop_silently(DownReason::SendHoldTimerExpired),
            ));
        }
        if keepalive.is_some_and(due) {
            // Event 11.
            let keepalive_time = self.agreement()?.keepalive_time;
            let next = now + jitter.shorten(keepalive_time);
            if let State::OpenConfirm(OpenConfirm { timers, .. })
            | State::Established(Established { timers, .. }) = &mut self.state
            {
                timers.keepalive = Some(next);
            }
            self.send_keepalive(now);
            return Some(Outcome::Nothing);
        }
        None
    }

    /// Events 11 and 19.
    fn send_keepalive(&mut self, now: Instant) {
        // Keepalives that wait for room say nothing twice; an unsent OPEN is never followed by more than one.
        if self.stalled_since.is_none() || matches!(self.state, State::OpenConfirm(_)) {
            write_keepalive(&mut self.control);
            self.stalled_since.get_or_insert(now);
        }
    }

    /// UPDATEs wait to be sent; true when nothing did. Only without KEEPALIVEs: elsewhere these show whether the peer reads.
    pub(crate) fn note_pending(&mut self, now: Instant) -> bool {
        let is_first = self.stalled_since.is_none()
            && self
                .agreement()
                .is_some_and(|agreement| agreement.hold_time.is_zero());
        if is_first {
            self.stalled_since = Some(now);
        }
        is_first
    }

    /// There are messages of the session itself to send.
    pub(crate) fn has_control(&self) -> bool {
        !self.control.is_empty()
    }

    /// Moves the session's own messages to `out`.
    pub(crate) fn take_control(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.control);
        self.stalled_since = None;
    }

    /// What was agreed on, from OpenConfirm on.
    pub(crate) fn agreement(&self) -> Option<&Agreement> {
        match &self.state {
            State::OpenConfirm(state) => Some(&state.agreement),
            State::Established(state) => Some(&state.agreement),
            State::Connect(_) | State::OpenSent(_) | State::Ended => None,
        }
    }

    /// The session stands.
    pub(crate) fn is_established(&self) -> bool {
        matches!(self.state, State::Established(_))
    }

    /// RFC 4271 name of the state.
    pub(crate) fn state(&self) -> PeerState {
        match self.state {
            State::Connect(_) => PeerState::Connect,
            State::OpenSent(_) => PeerState::OpenSent,
            State::OpenConfirm(_) => PeerState::OpenConfirm,
            State::Established(_) => PeerState::Established,
            State::Ended => PeerState::Idle,
        }
    }

    /// Our side of the exchange.
    pub(crate) const fn offer(&self) -> &Offer {
        &self.offer
    }
}

impl Timers {
    /// For OpenConfirm.
    fn start(now: Instant, agreement: &Agreement, jitter: &mut Jitter) -> Self {
        let has_timers = agreement.hold_time > Duration::ZERO;
        Self {
            hold: after(now, agreement.hold_time).or(Some(now + HOLD_TIME_BEFORE_OPEN)),
            keepalive: has_timers.then(|| now + jitter.shorten(agreement.keepalive_time)),
        }
    }
}

/// The end of a Hold Time that begins now; none of zero.
fn after(now: Instant, hold_time: Duration) -> Option<Instant> {
    (hold_time > Duration::ZERO).then(|| now + hold_time)
}

#[cfg(test)]
mod tests;
