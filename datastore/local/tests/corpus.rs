//! The fuzz target's corpus, messages as server and clients write them, replayed; and mutated a little, which finds what broke since.

use std::path::PathBuf;

#[path = "../../../tests/fuzz/src/relay_targets.rs"]
mod relay_targets;

/// The inputs of a target, by name.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fuzz/corpus")
        .join(target);
    let entries = std::fs::read_dir(&folder).expect("the corpus is committed");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("readable").path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 10, "{} inputs", paths.len());
    let read = |path: PathBuf| {
        let data = std::fs::read(&path).expect("readable");
        (path, data)
    };
    paths.into_iter().map(read).collect()
}

/// Lengths and tags (field number × 8 + wire type) that mean something.
const TELLING: &[u8] = &[
    0, 1, 2, 3, 4, 5, 0x08, 0x0a, 0x10, 0x12, 0x18, 0x1a, 0x22, 0x2a, 0x80, 0xff,
];

fn replay(target: &str, run: fn(&[u8]) -> bool) {
    let mut random = seed();
    println!("RELAY_FUZZ_SEED={random}");
    let mut roll = |below: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).expect("31 bits") % below.max(1)
    };
    for (path, data) in corpus(target) {
        println!("{}", path.display());
        assert!(run(&data), "a message of the corpus can be read");
        for round in 0..200 {
            println!("  mutation {round}");
            let mut mutated = data.clone();
            for _ in 0..=roll(3) {
                let at = roll(mutated.len());
                match mutated.get_mut(at) {
                    Some(octet) if roll(4) > 0 => *octet = TELLING[roll(TELLING.len())],
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

/// Another one for every run, unless the environment names one.
fn seed() -> u64 {
    let named = std::env::var("RELAY_FUZZ_SEED").ok();
    named.map_or_else(
        || {
            let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
            now.as_secs() ^ u64::from(now.subsec_nanos()) << 20
        },
        |text| text.parse().expect("RELAY_FUZZ_SEED is a number"),
    )
}

#[test]
fn the_relay_target_holds_for_its_corpus() {
    replay("relay", relay_targets::message);
}
