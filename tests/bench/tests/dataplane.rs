//! `bench dataplane` itself: each work by each way, with few routes.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its place fails where it stands"
)]

#[macro_use]
extern crate harness;

use std::process::Command;

use serde_json::Value;

fn main() -> std::process::ExitCode {
    harness::run()
}

#[test]
fn each_work_is_done_and_counted_in_the_kernel_by_each_way() {
    for (program, id) in [("ip", "iproute2"), ("nft", "nft")] {
        if Command::new(program).arg("-V").output().is_err() {
            harness::skip(id, &format!("no program `{program}`"));
        }
    }
    let json = std::env::temp_dir().join(format!("tortie-bench-fib-{}.json", std::process::id()));
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args([
            "dataplane",
            "--routes",
            "2000",
            "--runs",
            "1",
            "--seed",
            "7",
        ])
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("unshare: ") {
        harness::skip("namespaces", &said);
    }
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    std::fs::remove_file(&json).unwrap();
    let works = report["dataplane"].as_array().unwrap();
    let ways = works.iter().map(|work| {
        let ways = work["ways"].as_object().unwrap();
        (work["work"].as_str().unwrap(), ways.len())
    });
    let all = [
        ("add", 7),
        ("resync", 5),
        ("idle", 2),
        ("move", 6),
        ("rules", 2),
    ];
    assert_eq!(ways.collect::<Vec<_>>(), all);
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("the peer of 2000 routes moves"), "{shown}");
}
