//! The fuzz targets' corpora, replayed; and mutated a little, which finds what broke since.

use std::path::PathBuf;

#[path = "../../tests/fuzz/src/api_targets.rs"]
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

fn replay(target: &str, run: fn(&[u8])) {
    let mut random = 1_u64;
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
                    Some(octet) if roll(4) > 0 => *octet = b"{}[]:-\"' \n&*!|0aZ~"[roll(18)],
                    Some(_) => mutated.truncate(at),
                    None => {}
                }
            }
            run(&mutated);
        }
    }
}

#[test]
fn the_selector_target_holds_for_its_corpus() {
    replay("selector", targets::selector);
}

#[test]
fn the_manifest_target_holds_for_its_corpus() {
    replay("manifest", targets::manifest);
}
