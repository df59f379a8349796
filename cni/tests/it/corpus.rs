//! The corpora of the fuzz targets for the plugin's input and the agent's socket.

#[path = "../../../tests/fuzz/src/cni_targets.rs"]
mod cni_targets;
#[path = "../../../tests/fuzz/src/replay.rs"]
mod replay;

const ROUNDS: u32 = 64;
/// What means something in JSON, in a frame's head or in CNI_ARGS.
const OCTETS: &[u8] = b"\0\x01\x40\x80\xff{}[]\",:;=.0-";

#[test]
fn the_configuration_target_holds_for_its_corpus() {
    replay::replay(
        "cni_configuration",
        ROUNDS,
        OCTETS,
        cni_targets::configuration,
    );
}

#[test]
fn the_frame_target_holds_for_its_corpus() {
    replay::replay("cni_frame", ROUNDS, OCTETS, cni_targets::frame);
}
