//! The corpus of the fuzz target for notifications, recorded from the kernel.

#[path = "../../../tests/fuzz/src/netlink_targets.rs"]
mod netlink_targets;
#[path = "../../../tests/fuzz/src/replay.rs"]
mod replay;

/// Lengths, families and flags that mean something.
const OCTETS: &[u8] = &[
    0, 1, 2, 3, 4, 7, 8, 10, 16, 20, 24, 26, 28, 0x40, 0x80, 0xff,
];

#[test]
fn the_notifications_target_holds_for_its_corpus() {
    replay::replay("netlink", 200, OCTETS, netlink_targets::notifications);
}
