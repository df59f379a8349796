//! The corpus of the fuzz target for the relay: messages as server and clients write them.

#[path = "../../../tests/fuzz/src/relay_targets.rs"]
mod relay_targets;
#[path = "../../../tests/fuzz/src/replay.rs"]
mod replay;

/// Lengths and tags (field number × 8 + wire type) that mean something.
const OCTETS: &[u8] = &[
    0, 1, 2, 3, 4, 5, 0x08, 0x0a, 0x10, 0x12, 0x18, 0x1a, 0x22, 0x2a, 0x80, 0xff,
];

#[test]
fn the_relay_target_holds_for_its_corpus() {
    replay::replay("relay", 200, OCTETS, |data| {
        relay_targets::message(data);
    });
}

#[test]
fn every_message_of_the_corpus_can_be_read() {
    for (path, data) in replay::corpus("relay") {
        assert!(relay_targets::message(&data), "{}", path.display());
    }
}
