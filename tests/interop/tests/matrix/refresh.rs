//! The daemon asks for our routes again (RFC 2918, RFC 7313).

use std::net::IpAddr;
use std::time::Duration;

use interop::{NEAR, eventually};
use ipnet::IpNet;
use lab::{RouteChange, RouteMonitor};

use crate::place::{BLOCK, Place, SECOND, external, with_external};

daemons_test!(
    a_refresh_is_answered_and_nothing_is_lost,
    [bird2, bird1, frr, exabgp]
);
fn a_refresh_is_answered_and_nothing_is_lost(place: &Place) {
    let daemon = place.start(&external());
    let ours = place.ours(with_external(|_| {}), &[BLOCK, SECOND]);
    let before = [BLOCK, SECOND].map(|prefix| daemon.wait_seen(prefix, |_| true));
    let near = IpAddr::V4(NEAR);
    let heard = daemon.heard(near).unwrap();
    // Where the daemon writes to the kernel, that sees a route that was lost for a moment.
    let mut kernel = RouteMonitor::open(&place.far).unwrap();
    daemon.ask_refresh(near).unwrap();
    eventually("our routes were said again", || {
        let now = daemon.heard(near)?;
        match now > heard {
            true => Ok(()),
            false => Err(format!("{now}, as before; {}", daemon.said())),
        }
    });
    let after = [BLOCK, SECOND].map(|prefix| daemon.wait_seen(prefix, |_| true));
    assert_eq!(after, before);
    daemon.established(near).unwrap();
    let ours_only: [IpNet; 2] = [BLOCK, SECOND].map(|text| text.parse().unwrap());
    let lost = kernel
        .wait(Duration::ZERO)
        .unwrap()
        .into_iter()
        .filter(|event| event.change == RouteChange::Deleted)
        .filter(|event| ours_only.contains(&event.route.destination))
        .count();
    assert_eq!(lost, 0, "deletions in its kernel");
    ours.stop();
}
