//! A fuzz target's committed inputs, replayed; and mutated a little, which finds what broke since. Part of each package's tests by
//! its path, beside the targets. The mutations are others each time: `FUZZ_SEED=<n>`, which a failing run has printed, makes
//! them again.

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};

/// The committed inputs of a target, by name.
pub(crate) fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = package
        .ancestors()
        .map(|above| above.join("tests/fuzz/corpus").join(target));
    let folder = folders
        .find(|folder| folder.is_dir())
        .expect("the corpus is committed");
    let entries = std::fs::read_dir(&folder).expect("readable");
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
#[allow(
    clippy::disallowed_methods,
    reason = "how a test is told which failing run to repeat; not every package bans it"
)]
fn seed() -> u64 {
    let seed = match std::env::var("FUZZ_SEED") {
        Ok(text) => text.parse().expect("FUZZ_SEED: a number below 2^64"),
        Err(_) => RandomState::new().hash_one(()),
    };
    println!("FUZZ_SEED={seed}");
    seed
}

/// Runs each input of the corpus, and `rounds` mutations of each: octets replaced by those that mean something to the decoder
/// (`octets`), taken out, or all from one on cut off.
pub(crate) fn replay(target: &str, rounds: u32, octets: &[u8], run: impl Fn(&[u8])) {
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
        for round in 0..rounds {
            println!("  mutation {round}");
            let mut mutated = data.clone();
            for _ in 0..=roll(3) {
                let at = roll(mutated.len());
                match mutated.get_mut(at) {
                    Some(octet) if roll(4) > 0 => *octet = octets[roll(octets.len())],
                    Some(_) if roll(2) > 0 => mutated.truncate(at),
                    Some(_) => {
                        mutated.remove(at);
                    }
                    None => {}
                }
            }
            run(&mutated);
        }
    }
}
