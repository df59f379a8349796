//! `bench cni` itself: worlds of the embedded store.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its place fails where it stands"
)]

#[macro_use]
extern crate harness;

use std::path::Path;
use std::process::Command;

use lab::{Programs, Store};
use serde_json::Value;

fn main() -> std::process::ExitCode {
    harness::run()
}

/// Runs `bench cni` over the embedded store: its report and what it printed.
fn bench(arguments: &[&str]) -> (Value, String) {
    let programs = Programs::build(Store::Local).unwrap();
    let name = format!("tortie-bench-{}-{}.json", arguments[1], std::process::id());
    let json = std::env::temp_dir().join(name);
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["cni", "--store", "local", "--runs", "1", "--seed", "7"])
        .args(arguments)
        .arg("--json")
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
    (report, String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn every_claim_of_a_block_is_seen_in_the_other_nodes_fib() {
    let (report, table) = bench(&["--scenarios", "claims"]);
    let samples = &report["stores"]["local"]["samples"];
    let seen = samples["claim to remote FIB ms"].as_array().unwrap();
    assert_eq!(seen.len(), 20, "a node may own 20 blocks");
    assert!(table.contains("until it is in the other node's FIB"));
}

#[test]
fn each_plugin_that_is_installed_has_its_figures_under_the_same_names() {
    let (report, table) = bench(&["--scenarios", "beside", "--rounds", "1"]);
    let installed = |name: &str| {
        let folders = ["/usr/lib/cni", "/opt/cni/bin"].map(Path::new);
        let mut folders = folders.into_iter();
        folders.any(|folder| folder.join(name).exists() && folder.join("host-local").exists())
    };
    for plugin in ["tortie", "ptp", "bridge"] {
        if plugin != "tortie" && !installed(plugin) {
            assert!(report.get(plugin).is_none(), "{plugin}");
            continue;
        }
        for figure in [
            "add_p50_ms",
            "add_p99_ms",
            "del_p50_ms",
            "del_p99_ms",
            "pods_per_s_8",
            "dels_per_s_8",
        ] {
            let value = report[plugin][figure].as_f64();
            assert!(
                value.is_some_and(|value| value > 0.0),
                "{plugin} {figure}: {value:?}"
            );
        }
    }
    assert!(table.contains("with the embedded store"));
}
