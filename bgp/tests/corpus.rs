//! The fuzz targets' corpora, replayed; and mutated a little, which finds what broke since. The mutations are others each time:
//! `FUZZ_SEED=<n>`, which a failing run has printed, makes them again.

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;

#[path = "../../tests/fuzz/src/targets.rs"]
mod targets;

/// The inputs of a target, by name.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fuzz/corpus")
        .join(target);
    let entries = std::fs::read_dir(&folder).expect("the corpus is committed");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("readable").path())
        .collect();
    paths.sort();
    assert!(
        paths.len() >= 10,
        "{} holds {} inputs",
        folder.display(),
        paths.len()
    );
    let read = |path: PathBuf| {
        let data = std::fs::read(&path).expect("readable");
        (path, data)
    };
    paths.into_iter().map(read).collect()
}

/// The seed of a run: what the environment says, else a new one. Printed either way.
#[expect(
    clippy::disallowed_methods,
    reason = "how a test is told which failing run to repeat"
)]
fn seed() -> u64 {
    let seed = match std::env::var("FUZZ_SEED") {
        Ok(text) => text.parse().expect("FUZZ_SEED: a number below 2^64"),
        Err(_) => RandomState::new().hash_one(()),
    };
    println!("FUZZ_SEED={seed}");
    seed
}

fn replay(target: &str, run: fn(&[u8])) {
    let mut random = seed();
    let mut roll = |below: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).expect("31 bits") % below.max(1)
    };
    for (path, data) in corpus(target) {
        println!("{}", path.display());
        run(&data);
        for round in 0..8 {
            println!("  mutation {round}");
            let mut mutated = data.clone();
            for _ in 0..=roll(3) {
                let at = roll(mutated.len());
                match mutated.get_mut(at) {
                    Some(octet) if roll(4) > 0 => *octet = [0, 1, 0x40, 0x80, 0xff][roll(5)],
                    Some(_) => mutated.truncate(at),
                    None => {}
                }
            }
            run(&mutated);
        }
    }
}

#[test]
fn the_message_target_holds_for_its_corpus() {
    replay("message", targets::message);
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
    replay("session", targets::session);
}
