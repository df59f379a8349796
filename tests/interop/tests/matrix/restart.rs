//! Graceful restart (RFC 4724) by kill -9 of either side, and over NOTIFICATIONs (RFC 8538).

use std::net::IpAddr;
use std::process::Child;
use std::time::Duration;

use bgp::config::Config;
use bgp::event::Event;
use bgp_io::{Command, Output};
use interop::plan::{Graceful, Plan};
use interop::{Begin, Daemon, FAR, Kind, NEAR, OurSpeaker, Unseen, eventually};
use ipnet::IpNet;
use lab::{RouteChange, RouteMonitor};

use crate::place::{
    BLOCK, OURS, OUTSIDE, Place, SECOND, THEIRS, down, external, is_session_up, learned, prefix,
    sent, with_external,
};

fn graceful(how: Graceful) -> Plan {
    external().with(|neighbour| neighbour.graceful = how)
}

/// Whether the daemon writes to the kernel.
fn has_kernel(kind: Kind) -> bool {
    matches!(kind, Kind::Bird2 | Kind::Bird1)
}

#[track_caller]
fn wait_in_kernel(place: &Place, wanted: &str) {
    let net: IpNet = wanted.parse().unwrap();
    eventually(&format!("its kernel has {wanted}"), || {
        let routes = place.far.netlink().unwrap().routes().unwrap();
        match routes.iter().any(|route| route.destination == net) {
            true => Ok(()),
            false => Err(format!("{routes:?}")),
        }
    });
}

daemons_test!(
    its_routes_are_kept_over_its_death,
    [bird2, bird1, frr, gobgp]
);
fn its_routes_are_kept_over_its_death(place: &Place) {
    let mut daemon = place.start(&graceful(Graceful::On));
    let mut ours = place.ours(with_external(|_| {}), &[BLOCK]);
    assert_eq!(learned(&mut ours, OUTSIDE), [IpAddr::V4(FAR)]);
    daemon.wait_seen(BLOCK, |_| true);
    daemon.kill().unwrap();
    let mut lost = Vec::new();
    let mut note_lost = |output: &Output| match output {
        Output::Route(change) if change.best.is_none() => lost.push(change.prefix),
        _ => {}
    };
    let kept = ours.wait_for("the session goes down", |output| {
        note_lost(output);
        match output {
            Output::Event(Event::SessionDown { routes_kept, .. }) => Some(*routes_kept),
            _ => None,
        }
    });
    assert!(kept, "{}", daemon.said());
    daemon.restart().unwrap();
    ours.wait_for("the session comes back and its table is whole", |output| {
        note_lost(output);
        matches!(output, Output::Event(Event::EndOfRib { .. })).then_some(())
    });
    assert_eq!(lost, [], "withdrawn in between {}", daemon.said());
    daemon.wait_seen(BLOCK, |_| true);
    ours.stop();
}

daemons_test!(
    it_keeps_our_routes_over_our_death,
    [bird2, bird1, frr, gobgp]
);
fn it_keeps_our_routes_over_our_death(place: &Place) {
    let daemon = place.start(&graceful(Graceful::On));
    let ours = Killed::start(place, &[BLOCK, SECOND]);
    for prefix in [BLOCK, SECOND] {
        daemon.wait_seen(prefix, |_| true);
        if has_kernel(place.kind) {
            wait_in_kernel(place, prefix);
        }
    }
    let kernel = has_kernel(place.kind).then(|| RouteMonitor::open(&place.far).unwrap());
    drop(ours);
    wait_down(daemon.as_ref());
    for prefix in [BLOCK, SECOND] {
        daemon.seen(prefix.parse().unwrap()).unwrap();
    }
    let mut ours = restarted(place, with_external(|_| {}));
    ours.wait_for("the session stands", is_session_up);
    daemon.wait_gone(SECOND);
    daemon.wait_seen(BLOCK, |seen| !seen.stale);
    if let Some(mut kernel) = kernel {
        let of = |prefix: &str| prefix.parse::<IpNet>().unwrap();
        let events = kernel.wait(Duration::ZERO).unwrap();
        let mut deleted = events
            .into_iter()
            .filter(|event| event.change == RouteChange::Deleted)
            .map(|event| event.route.destination);
        assert!(
            deleted.all(|destination| destination != of(BLOCK)),
            "deletions of {BLOCK} in its kernel"
        );
    }
    ours.stop();
}

daemons_test!(
    a_dead_daemon_is_not_taken_for_one_whose_table_lacks_a_route,
    [frr, gobgp]
);
fn a_dead_daemon_is_not_taken_for_one_whose_table_lacks_a_route(place: &Place) {
    let mut daemon = place.start(&graceful(Graceful::On));
    let seen = |daemon: &dyn Daemon| daemon.seen(BLOCK.parse().unwrap());
    let living = seen(daemon.as_ref());
    assert!(matches!(living, Err(Unseen::Absent(_))), "{living:?}");
    daemon.kill().unwrap();
    let dead = seen(daemon.as_ref());
    assert!(matches!(dead, Err(Unseen::Silent(_))), "{dead:?}");
}

/// Our speaker as a process; SIGKILL ends it when this is dropped.
struct Killed(Child);

impl Killed {
    fn start(place: &Place, prefixes: &[&str]) -> Self {
        let mut command = place.near.command(env!("CARGO_BIN_EXE_interop-speaker"));
        command
            .args([OURS.to_string(), NEAR.to_string()])
            .args([THEIRS.to_string(), FAR.to_string()])
            .args(prefixes);
        Self(command.spawn().unwrap())
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // One that has ended already is no fault of the test.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// Our speaker, come back after a death, with [`BLOCK`] only.
fn restarted(place: &Place, config: Config) -> OurSpeaker {
    OurSpeaker::start(&place.near, Begin::Restarting, config, &[prefix(BLOCK)]).unwrap()
}

#[track_caller]
fn wait_down(daemon: &dyn Daemon) {
    eventually("it notices", || {
        match daemon.established(IpAddr::V4(NEAR)) {
            Ok(()) => Err("still established"),
            Err(_) => Ok(()),
        }
        .map_err(str::to_owned)
    });
}

// GoBGP, when it has not restarted, does not say that it went on forwarding: RFC 4724 §4.2 lets nothing of it stay.
daemons_test!(routes_outlive_an_expired_hold_timer, [frr]);
fn routes_outlive_an_expired_hold_timer(place: &Place) {
    let short = graceful(Graceful::OverNotifications).with(|neighbour| neighbour.hold_time = 3);
    let mut daemon = place.start(&short);
    let lasting = with_external(|peer| peer.options.notification_restart = true);
    let mut ours = place.ours(lasting, &[BLOCK]);
    learned(&mut ours, OUTSIDE);
    let fresh = daemon.wait_seen(BLOCK, |_| true);
    daemon.freeze().unwrap();
    let (reason, kept) = down(&mut ours);
    assert_eq!(sent(reason).code, 4);
    assert!(kept);
    daemon.thaw().unwrap();
    let mut lost = 0;
    ours.wait_for("the session is back", |output| {
        if let Output::Route(change) = output {
            lost += usize::from(change.best.is_none());
        }
        is_session_up(output)
    });
    assert_eq!(lost, 0, "withdrawn in between");
    daemon.wait_established(IpAddr::V4(NEAR));
    daemon.wait_seen(BLOCK, |seen| *seen == fresh);
    ours.stop();
}

// After a reset GoBGP waits for half a minute.
daemons_test!(routes_outlive_a_notification_of_its, [frr]);
fn routes_outlive_a_notification_of_its(place: &Place) {
    let daemon = place.start(&graceful(Graceful::OverNotifications));
    let mut ours = place.ours(
        with_external(|peer| peer.options.notification_restart = true),
        &[BLOCK],
    );
    learned(&mut ours, OUTSIDE);
    daemon.wait_seen(BLOCK, |_| true);
    daemon.reset(IpAddr::V4(NEAR)).unwrap();
    let (_, kept) = down(&mut ours);
    assert!(kept);
    ours.wait_for("the session is back", is_session_up);
    daemon.wait_seen(BLOCK, |_| true);
    ours.stop();
}

daemons_test!(
    it_keeps_our_routes_over_a_notification_of_ours,
    [frr, gobgp]
);
fn it_keeps_our_routes_over_a_notification_of_ours(place: &Place) {
    let daemon = place.start(&graceful(Graceful::OverNotifications));
    let waiting = |hold_time: u64, port: u16| {
        let mut configured = with_external(|peer| {
            peer.options.notification_restart = true;
            peer.hold_time = Duration::from_secs(hold_time);
            peer.passive = port != 179;
        });
        configured.listen_port = port;
        configured
    };
    let mut ours = place.ours(waiting(240, 179), &[BLOCK]);
    ours.wait_for("the session stands", is_session_up);
    let fresh = daemon.wait_seen(BLOCK, |_| true);
    // Another hold time ends the session with 6/6; as long as we listen elsewhere, it cannot come back.
    ours.tell(Command::Config(Box::new(waiting(180, 1790))));
    let text = sent(down(&mut ours).0);
    assert_eq!((text.code, text.subcode), (6, 6), "{text}");
    daemon.wait_seen(BLOCK, |seen| seen.stale);
    ours.tell(Command::Config(Box::new(waiting(180, 179))));
    ours.wait_for("the session is back", is_session_up);
    daemon.wait_seen(BLOCK, |seen| *seen == fresh);
    ours.stop();
}
