use std::net::Ipv4Addr;

use super::*;
use crate::types::{AfiSafi, Asn, RouterId};
use crate::wire::refresh::RefreshKind;
use crate::wire::update::encode::write_end_of_rib;

const SECOND: Duration = Duration::from_secs(1);

#[expect(
    clippy::disallowed_methods,
    reason = "an Instant to count from; nothing else is read from the clock"
)]
fn start() -> Instant {
    Instant::now()
}

fn offer(own: u8, hold_time: Duration) -> Offer {
    Offer {
        asn: Asn(65000),
        router_id: RouterId(Ipv4Addr::new(10, 0, 0, own)),
        hold_time,
        keepalive_time: None,
        families: [AfiSafi::Ipv4Unicast].into(),
        restart: None,
        add_paths: crate::config::AddPaths::default(),
        ipv6_next_hops: false,
        role: None,
        strict_role: false,
        peer_asn: Asn(65000),
        first_as: crate::wire::update::FirstAsCheck::Off,
        plain: false,
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn connecting(now: Instant) -> Connection {
    let remote = address("10.0.0.2:179");
    Connection::outgoing(
        ConnId(1),
        remote,
        offer(1, 90 * SECOND),
        now,
        now + 5 * SECOND,
    )
}

struct Session {
    now: Instant,
    connection: Connection,
    jitter: Jitter,
}

impl Session {
    fn open_sent() -> Self {
        let now = start();
        let mut connection = connecting(now);
        connection.handle_connected(now, address("10.0.0.1:40000"));
        Self {
            now,
            connection,
            jitter: Jitter::new(1),
        }
    }

    fn open_confirm() -> Self {
        let mut session = Self::open_sent();
        assert!(matches!(
            session.receive(&open()),
            Some(Outcome::OpenAccepted)
        ));
        session.connection.confirm(session.now);
        session
    }

    fn established() -> Self {
        let mut session = Self::open_confirm();
        assert!(matches!(
            session.receive(&keepalive()),
            Some(Outcome::Established)
        ));
        session.sent();
        session
    }

    fn receive(&mut self, bytes: &[u8]) -> Option<Outcome> {
        self.connection.extend(bytes);
        self.connection.handle_message(self.now, &mut self.jitter)
    }

    fn sent(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.connection.take_control(&mut out);
        out
    }

    fn wait(&mut self, time: Duration) -> Option<Outcome> {
        self.now += time;
        self.connection.handle_timeout(self.now, &mut self.jitter)
    }
}

fn open() -> Vec<u8> {
    let mut out = Vec::new();
    let mut peer = offer(2, 60 * SECOND);
    peer.peer_asn = Asn(65000);
    peer.message().encode(&mut out);
    out
}

fn keepalive() -> Vec<u8> {
    let mut out = Vec::new();
    write_keepalive(&mut out);
    out
}

fn update() -> Vec<u8> {
    let mut out = Vec::new();
    write_end_of_rib(&mut out, AfiSafi::Ipv4Unicast);
    out
}

fn refresh() -> Vec<u8> {
    let mut out = Vec::new();
    RouteRefresh::new(AfiSafi::Ipv4Unicast, RefreshKind::Request).encode(&mut out);
    out
}

fn notification() -> Vec<u8> {
    let mut out = Vec::new();
    Notification::administrative_shutdown("bye").encode(&mut out);
    out
}

/// Code and subcode with which a connection ended from our side; what the farewell ends with must say the same.
fn ended_with(outcome: Option<Outcome>) -> (u8, u8) {
    let Some(Outcome::Ended(Ending {
        reason: DownReason::NotificationSent(text),
        farewell,
        ..
    })) = outcome
    else {
        panic!("{outcome:?}");
    };
    let mut framer = Framer::new();
    framer.extend(&farewell.expect("the transport is there"));
    let mut last = None;
    while let Some(message) = framer.next_message().expect("in order") {
        last = Some(message);
    }
    let last = last.expect("a NOTIFICATION");
    assert_eq!(last.kind, MessageType::Notification);
    let sent = Notification::decode(&last.body).expect("in order");
    assert_eq!((sent.code, sent.subcode), (text.code, text.subcode));
    (text.code, text.subcode)
}

#[test]
fn messages_that_a_state_does_not_take_end_it_with_its_fsm_error() {
    for message in [keepalive(), update(), refresh()] {
        assert_eq!(ended_with(Session::open_sent().receive(&message)), (5, 1));
    }
    for message in [open(), update(), refresh()] {
        assert_eq!(
            ended_with(Session::open_confirm().receive(&message)),
            (5, 2)
        );
    }
    assert_eq!(ended_with(Session::established().receive(&open())), (5, 3));
}

#[test]
fn established_takes_keepalive_update_and_refresh() {
    let mut session = Session::established();
    assert!(matches!(
        session.receive(&keepalive()),
        Some(Outcome::Keepalive)
    ));
    assert!(matches!(
        session.receive(&update()),
        Some(Outcome::Update(_))
    ));
    assert!(matches!(
        session.receive(&refresh()),
        Some(Outcome::Refresh(_))
    ));
    assert!(session.connection.is_established());
}

#[test]
fn a_notification_ends_every_state_without_an_answer() {
    for mut session in [
        Session::open_sent(),
        Session::open_confirm(),
        Session::established(),
    ] {
        let stood = session.connection.is_established();
        let outcome = session.receive(&notification());
        let Some(Outcome::Ended(ending)) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(matches!(&ending.reason, DownReason::NotificationReceived(text) if text.code == 6));
        assert_eq!(ending.farewell, Some(Vec::new()));
        assert_eq!(ending.session.is_some(), stood);
        assert!(
            session.receive(&keepalive()).is_none(),
            "nothing has an effect any more"
        );
    }
}

#[test]
fn a_header_that_is_none_ends_every_state() {
    for mut session in [
        Session::open_sent(),
        Session::open_confirm(),
        Session::established(),
    ] {
        assert_eq!(ended_with(session.receive(&[0; 19])), (1, 1));
    }
}

#[test]
fn an_open_that_does_not_suit_is_refused_by_its_subcode() {
    let refused = |change: &dyn Fn(&mut Offer)| {
        let mut peer = offer(2, 60 * SECOND);
        change(&mut peer);
        let mut bytes = Vec::new();
        peer.message().encode(&mut bytes);
        ended_with(Session::open_sent().receive(&bytes))
    };
    assert_eq!(refused(&|peer| peer.asn = Asn(65001)), (2, 2));
    assert_eq!(
        refused(&|peer| peer.router_id = RouterId(Ipv4Addr::new(10, 0, 0, 1))),
        (2, 3)
    );
    assert_eq!(refused(&|peer| peer.hold_time = 2 * SECOND), (2, 6));
    assert_eq!(
        refused(&|peer| peer.families = [AfiSafi::Ipv6Unicast].into()),
        (2, 7)
    );
}

#[test]
fn hold_time_is_the_lesser_of_both_and_keepalives_come_at_a_third_of_it() {
    let mut session = Session::established();
    let agreement = session.connection.agreement().expect("agreed");
    assert_eq!(agreement.hold_time, 60 * SECOND);
    let (at, reason) = session.connection.deadline().expect("a timer");
    assert_eq!(reason, "keepalive timer");
    assert!(at - session.now <= 20 * SECOND && at - session.now >= 15 * SECOND);
    assert!(matches!(session.wait(20 * SECOND), Some(Outcome::Nothing)));
    assert_eq!(session.sent(), keepalive());
}

#[test]
fn keepalives_come_as_often_as_asked_but_at_a_third_of_the_hold_time_at_least() {
    for (asked, expected) in [(5, 5), (20, 20), (100, 20)] {
        let agreed = Offer {
            keepalive_time: Some(asked * SECOND),
            ..offer(1, 90 * SECOND)
        };
        let agreed = agreed.agree(&offer(2, 60 * SECOND).message());
        let agreement = agreed.expect("an acceptable OPEN");
        assert_eq!(agreement.hold_time, 60 * SECOND, "asked for {asked} s");
        assert_eq!(agreement.keepalive_time, expected * SECOND);
        let now = start();
        let timers = Timers::start(now, &agreement, &mut Jitter::new(1));
        let at = timers.keepalive.expect("a hold time") - now;
        assert!(
            at <= expected * SECOND && at >= expected * SECOND * 3 / 4,
            "{at:?}"
        );
    }
}

#[test]
fn the_hold_timer_ends_a_silent_session_and_any_update_restarts_it() {
    let mut session = Session::established();
    session.now += 59 * SECOND;
    session.receive(&update());
    while let Some(outcome) = session.wait(Duration::ZERO) {
        assert!(matches!(outcome, Outcome::Nothing));
    }
    session.sent();
    session.now += 59 * SECOND;
    while let Some(outcome) = session.wait(Duration::ZERO) {
        assert!(
            matches!(outcome, Outcome::Nothing),
            "hold timer runs from the UPDATE"
        );
    }
    assert_eq!(ended_with(session.wait(SECOND)), (4, 0));
}

#[test]
fn without_an_open_the_connection_ends_after_four_minutes() {
    let mut session = Session::open_sent();
    assert!(session.wait(239 * SECOND).is_none());
    assert_eq!(ended_with(session.wait(SECOND)), (4, 0));
}

#[test]
fn connecting_is_given_up_at_the_connect_retry_time() {
    let now = start();
    let mut connection = connecting(now);
    let mut jitter = Jitter::new(1);
    assert!(
        connection
            .handle_timeout(now + 4 * SECOND, &mut jitter)
            .is_none()
    );
    let outcome = connection.handle_timeout(now + 5 * SECOND, &mut jitter);
    let Some(Outcome::Ended(Ending { reason, .. })) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(reason, DownReason::ConnectTimedOut);
}

#[test]
fn a_peer_that_does_not_read_is_given_up_by_the_send_hold_timer() {
    let mut session = Session::established();
    let outcome = loop {
        // It does send, so the hold timer never expires; what we send is never taken.
        session.now += 10 * SECOND;
        session.receive(&keepalive());
        match session.wait(Duration::ZERO) {
            None | Some(Outcome::Nothing) => {}
            Some(outcome) => break outcome,
        }
        assert!(
            session.connection.control.len() <= keepalive().len(),
            "keepalives do not pile up"
        );
    };
    let Outcome::Ended(Ending {
        reason: DownReason::SendHoldTimerExpired,
        session: Some(_),
        ..
    }) = outcome
    else {
        panic!("{outcome:?}");
    };
}

#[test]
fn a_hold_time_of_zero_needs_no_keepalives() {
    let mut session = Session::open_sent();
    let mut bytes = Vec::new();
    offer(2, Duration::ZERO).message().encode(&mut bytes);
    session.receive(&bytes);
    session.connection.confirm(session.now);
    session.receive(&keepalive());
    session.sent();
    assert!(session.connection.is_established());
    assert_eq!(session.connection.deadline(), None);
    assert!(session.wait(100_000 * SECOND).is_none());
    // But who does not read is ended all the same.
    assert!(session.connection.note_pending(session.now));
    assert!(session.wait(479 * SECOND).is_none());
    assert!(!session.connection.note_pending(session.now));
    let outcome = session.wait(SECOND);
    let Some(Outcome::Ended(Ending { reason, .. })) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(reason, DownReason::SendHoldTimerExpired);
}

#[test]
fn with_a_hold_time_of_zero_open_confirm_ends_after_four_minutes() {
    let mut session = Session::open_sent();
    let mut bytes = Vec::new();
    offer(2, Duration::ZERO).message().encode(&mut bytes);
    session.receive(&bytes);
    session.connection.confirm(session.now);
    session.sent();
    assert!(session.wait(239 * SECOND).is_none());
    assert_eq!(ended_with(session.wait(SECOND)), (4, 0));
}

#[test]
fn a_hold_timer_that_was_held_up_lets_what_waits_be_read_first() {
    let mut session = Session::established();
    // The process stood still for longer than the Hold Time of 60 s.
    assert!(matches!(session.wait(70 * SECOND), Some(Outcome::Nothing)));
    assert!(matches!(
        session.receive(&keepalive()),
        Some(Outcome::Keepalive)
    ));
    session.sent();
    for _ in 0..3 {
        session.wait(15 * SECOND);
        session.sent();
    }
    assert!(session.connection.is_established(), "45 s of 60");
    // And one after which nothing comes.
    let mut session = Session::established();
    session.wait(70 * SECOND);
    session.sent();
    let mut outcome = session.wait(SECOND);
    while let Some(Outcome::Nothing) = outcome {
        outcome = session.wait(Duration::ZERO);
    }
    assert_eq!(ended_with(outcome), (4, 0));
}

#[test]
fn stopping_an_established_session_says_why() {
    let mut session = Session::established();
    let ending = session.connection.stop(&Notification::peer_deconfigured());
    assert_eq!(ended_with(Some(Outcome::Ended(ending))), (6, 3));
}

#[test]
fn a_connection_that_never_stood_is_dropped_without_a_word() {
    let mut connection = connecting(start());
    let ending = connection.stop(&Notification::peer_deconfigured());
    assert_eq!(ending.farewell, Some(Vec::new()));
}
