//! The corpora of the fuzz targets for messages and sessions, and that what these guard against is found.

#[path = "../../tests/fuzz/src/replay.rs"]
mod replay;
#[path = "../../tests/fuzz/src/targets.rs"]
mod targets;

const ROUNDS: u32 = 8;
/// Lengths and flags that mean something.
const OCTETS: &[u8] = &[0, 1, 0x40, 0x80, 0xff];

#[test]
fn the_message_target_holds_for_its_corpus() {
    replay::replay("message", ROUNDS, OCTETS, targets::message);
}

/// That the check fails for what it guards against.
fn fails(name: &str, run: impl FnOnce() + std::panic::UnwindSafe) {
    let result = std::panic::catch_unwind(run);
    assert!(result.is_err(), "{name}: nothing was found");
}

#[test]
fn each_invariant_of_the_targets_can_fail() {
    fails(
        "attributes that read otherwise",
        targets::sabotage::attributes,
    );
    fails("a faulty UPDATE sent", targets::sabotage::faulty_update);
    fails("a cut message sent", targets::sabotage::cut_message);
    fails("counts of another moment", targets::sabotage::counts);
    fails("routes that stay", targets::sabotage::routes_that_stay);
    fails("bytes that were lost", targets::sabotage::lost_bytes);
}

#[test]
fn the_session_target_holds_for_its_corpus() {
    replay::replay("session", ROUNDS, OCTETS, targets::session);
}
