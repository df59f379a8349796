//! The fuzz targets' corpora, replayed; and mutated a little, which finds what broke since.

use std::path::PathBuf;

#[path = "../../../tests/fuzz/src/cni_targets.rs"]
mod cni_targets;

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
    assert!(paths.len() >= 10, "{} inputs", paths.len());
    let read = |path: PathBuf| {
        let data = std::fs::read(&path).expect("readable");
        (path, data)
    };
    paths.into_iter().map(read).collect()
}

/// Octets that mean something in JSON, in a frame's head or in CNI_ARGS.
const MEANINGFUL: &[u8] = b"\0\x01\x40\x80\xff{}[]\",:;=.0-";

fn replay(target: &str, run: fn(&[u8])) {
    let mut random = seed();
    println!("CNI_FUZZ_SEED={random}");
    let mut roll = |below: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).expect("31 bits") % below.max(1)
    };
    for (path, data) in corpus(target) {
        println!("{}", path.display());
        run(&data);
        for round in 0..64 {
            println!("  mutation {round}");
            let mut mutated = data.clone();
            for _ in 0..=roll(3) {
                let at = roll(mutated.len());
                match mutated.get_mut(at) {
                    Some(octet) if roll(4) > 0 => *octet = MEANINGFUL[roll(MEANINGFUL.len())],
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
    let named = std::env::var("CNI_FUZZ_SEED").ok();
    named.map_or_else(
        || {
            let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
            now.as_secs() ^ u64::from(now.subsec_nanos()) << 20
        },
        |text| text.parse().expect("CNI_FUZZ_SEED is a number"),
    )
}

#[test]
fn the_configuration_target_holds_for_its_corpus() {
    replay("cni_configuration", cni_targets::configuration);
}

#[test]
fn the_frame_target_holds_for_its_corpus() {
    replay("cni_frame", cni_targets::frame);
}
