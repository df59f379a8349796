//! libFuzzer's entry to [`targets::selector`].
#![no_main]

#[path = "../src/api_targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::selector(data));
