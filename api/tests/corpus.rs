//! The corpora of the fuzz targets for selectors and manifests.

#[path = "../../tests/fuzz/src/replay.rs"]
mod replay;
#[path = "../../tests/fuzz/src/api_targets.rs"]
mod targets;

const ROUNDS: u32 = 64;
/// What means something in YAML and in selectors.
const OCTETS: &[u8] = b"{}[]:-\"' \n&*!|0aZ~";

#[test]
fn the_selector_target_holds_for_its_corpus() {
    replay::replay("selector", ROUNDS, OCTETS, targets::selector);
}

#[test]
fn the_manifest_target_holds_for_its_corpus() {
    replay::replay("manifest", ROUNDS, OCTETS, targets::manifest);
}
