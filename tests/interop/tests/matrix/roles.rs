//! What two ASes are to each other (RFC 9234).

use bgp::config::PeerConfig;
use bgp::event::{DownReason, Event};
use bgp::types::Role;
use bgp_io::Output;

use crate::place::{BLOCK, OURS, OUTSIDE, Place, external, learned, with_external};

fn with(role: Role) -> impl FnOnce(&mut PeerConfig) {
    move |peer| {
        peer.options.role = Some(role);
        peer.options.strict_role = true;
    }
}

daemons_test!(
    routes_to_a_customer_are_marked_and_its_own_are_taken,
    [bird2, frr]
);
fn routes_to_a_customer_are_marked_and_its_own_are_taken(place: &Place) {
    let daemon = place.start(&external().with(|neighbour| neighbour.role = Some("customer")));
    let mut ours = place.ours(with_external(with(Role::Provider)), &[BLOCK]);
    let block = daemon.wait_seen(BLOCK, |_| true);
    assert_eq!(block.only_to_customers, Some(OURS), "{block:?}");
    learned(&mut ours, OUTSIDE);
    ours.stop();
}

daemons_test!(what_a_provider_marked_is_taken_as_a_customer, [bird2, frr]);
fn what_a_provider_marked_is_taken_as_a_customer(place: &Place) {
    let daemon = place.start(&external().with(|neighbour| neighbour.role = Some("provider")));
    let mut ours = place.ours(with_external(with(Role::Customer)), &[BLOCK]);
    let block = daemon.wait_seen(BLOCK, |_| true);
    assert_eq!(block.only_to_customers, None, "{block:?}");
    learned(&mut ours, OUTSIDE);
    ours.stop();
}

daemons_test!(roles_that_do_not_fit_refuse_the_session, [bird2, frr]);
fn roles_that_do_not_fit_refuse_the_session(place: &Place) {
    let _daemon = place.start(&external().with(|neighbour| neighbour.role = Some("provider")));
    let mut ours = place.ours(with_external(with(Role::Provider)), &[BLOCK]);
    // Who reads the other's OPEN first says it: RFC 9234 §4.2, Role Mismatch.
    ours.wait_for("a connection fails for the roles", |output| match output {
        Output::Event(Event::ConnectionFailed {
            reason: DownReason::NotificationSent(text) | DownReason::NotificationReceived(text),
            ..
        }) => ((text.code, text.subcode) == (2, 11)).then_some(()),
        _ => None,
    });
    ours.stop();
}
