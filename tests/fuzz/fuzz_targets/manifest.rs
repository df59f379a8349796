//! libFuzzer's entry to [`targets::manifest`].
#![no_main]

#[path = "../src/api_targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::manifest(data));
