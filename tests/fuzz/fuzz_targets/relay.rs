//! libFuzzer's entry to [`relay_targets::message`].
#![no_main]

#[path = "../src/relay_targets.rs"]
mod relay_targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    relay_targets::message(data);
});
