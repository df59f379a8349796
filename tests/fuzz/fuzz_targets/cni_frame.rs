//! libFuzzer's entry to [`cni_targets::frame`].
#![no_main]

#[path = "../src/cni_targets.rs"]
mod cni_targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| cni_targets::frame(data));
