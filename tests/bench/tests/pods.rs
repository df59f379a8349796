//! `bench cni` itself: one world of the embedded store.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its place fails where it stands"
)]

#[macro_use]
extern crate harness;

use std::process::Command;

use lab::{Programs, Store};
use serde_json::Value;

fn main() -> std::process::ExitCode {
    harness::run()
}

#[test]
fn every_claim_of_a_block_is_seen_in_the_other_nodes_fib() {
    let programs = Programs::build(Store::Local).unwrap();
    let json = std::env::temp_dir().join(format!("tortie-bench-pods-{}.json", std::process::id()));
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["cni", "--store", "local", "--scenarios", "claims"])
        .args(["--runs", "1", "--seed", "7", "--json"])
        .arg(&json)
        .env("TORTIE_LAB_PROGRAMS", programs.folder())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("new namespaces: ") {
        harness::skip("namespaces", &said);
    }
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    std::fs::remove_file(&json).unwrap();
    assert_eq!(report["seed"], 7);
    let samples = &report["stores"]["local"]["samples"];
    let seen = samples["claim to remote FIB ms"].as_array().unwrap();
    assert_eq!(seen.len(), 20, "a node may own 20 blocks");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("until it is in the other node's FIB")
    );
}
