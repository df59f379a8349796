//! libFuzzer's entry to [`netlink_targets::notifications`].
#![no_main]

#[path = "../src/netlink_targets.rs"]
mod netlink_targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| netlink_targets::notifications(data));
