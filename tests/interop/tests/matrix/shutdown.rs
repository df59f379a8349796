//! An operator ends a session and says why (RFC 9003).

use std::net::IpAddr;

use bgp_io::Command;
use interop::{NEAR, config};

use crate::place::{
    BLOCK, OURS, OUTSIDE, Place, down, external, learned, received, sent, with_external,
};

const WORDS: &str = "moved to rack 7";

daemons_test!(its_operators_words_reach_ours, [bird2, bird1, frr, gobgp]);
fn its_operators_words_reach_ours(place: &Place) {
    let daemon = place.start(&external());
    let mut ours = place.ours(with_external(|_| {}), &[BLOCK]);
    daemon.wait_seen(BLOCK, |_| true);
    learned(&mut ours, OUTSIDE);
    daemon.shut_down(IpAddr::V4(NEAR), WORDS).unwrap();
    let (reason, kept) = down(&mut ours);
    let text = received(reason);
    // RFC 4486 §4: Administrative Shutdown.
    assert_eq!((text.code, text.subcode), (6, 2), "{text}");
    assert!(text.text.contains(WORDS), "{text}");
    assert!(!kept);
    ours.stop();
}

daemons_test!(our_operators_words_reach_it, [bird2, bird1, frr, gobgp]);
fn our_operators_words_reach_it(place: &Place) {
    let daemon = place.start(&external());
    let with_words = with_external(|peer| peer.options.shutdown_text = Some(WORDS.into()));
    let mut ours = place.ours(with_words, &[BLOCK]);
    daemon.wait_seen(BLOCK, |_| true);
    learned(&mut ours, OUTSIDE);
    ours.tell(Command::Config(Box::new(config(OURS, NEAR, []))));
    let (reason, _) = down(&mut ours);
    let text = sent(reason);
    assert_eq!((text.code, text.subcode), (6, 2), "{text}");
    daemon.wait_said(WORDS);
    daemon.wait_gone(BLOCK);
    ours.stop();
}
