//! `cargo lab --kubelet` as a program, and what it leaves when killed.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use lab::{Report, kubelet, wait_until};

use crate::PATIENCE;

/// The program, with the image built before.
fn cargo_lab() -> Command {
    if let Err(reason) = kubelet::available() {
        harness::skip("kubelet", &reason);
    }
    kubelet::build_image(kubelet::profile()).unwrap_or_else(|error| panic!("{error}"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command.args(["--kubelet", "--json", "--dual-stack"]);
    command
}

/// What the program proves with an overlay, and that nothing stays. Returns its words when it could not begin.
fn proved(mode: &str) -> Result<(), String> {
    let output = cargo_lab()
        .args(["--pods", "1", "--mode", mode])
        .output()
        .unwrap();
    if output.stdout.is_empty() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let report: Report = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{report:#?}");
    // Two pods, both ways, of both families.
    assert_eq!((report.pings.sent, report.pings.lost), (4, 0));
    assert!(report.source_address_kept);
    assert_eq!(report.nodes.len(), 2);
    assert_eq!(report.left_behind, Vec::<String>::new());
    Ok(())
}

#[test]
fn pods_of_real_kubelets_are_proved_and_nothing_is_left_behind() {
    proved("vxlan").unwrap_or_else(|words| panic!("{words}"));
}

#[test]
fn vxlan_crosssubnet_is_proved_and_nothing_is_left_behind() {
    proved("vxlan-crosssubnet").unwrap_or_else(|words| panic!("{words}"));
}

#[test]
fn ipip_is_proved_and_nothing_is_left_behind_or_the_module_is_named() {
    if let Err(words) = proved("ipip") {
        let wanted = "mode ipip needs the kernel module `ipip`";
        assert!(words.contains(wanted), "{words}");
        harness::skip("ipip", "this kernel has no ipip: run `modprobe ipip`");
    }
}

/// Processes below `pid`, with their names and PID namespaces.
fn below(pid: u32) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    let mut waiting = vec![pid];
    while let Some(pid) = waiting.pop() {
        let threads = fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten();
        for thread in threads {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace() {
                waiting.push(child.parse().unwrap());
                let name = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
                if let Ok(namespace) = fs::read_link(format!("/proc/{child}/ns/pid")) {
                    found.push((name.trim().to_owned(), namespace));
                }
            }
        }
    }
    found
}

fn living(namespaces: &BTreeSet<PathBuf>) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|process| {
            fs::read_link(process.path().join("ns/pid"))
                .is_ok_and(|namespace| namespaces.contains(&namespace))
        })
        .count()
}

#[test]
fn no_container_shim_mount_or_group_outlives_a_killed_launcher() {
    let mut launcher: Child = cargo_lab()
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let own = fs::read_link("/proc/self/ns/pid").unwrap();
    // The agent is the last to come: by then there are shims and containers.
    let seen = wait_until(Instant::now() + PATIENCE, || {
        let processes = below(launcher.id());
        processes
            .iter()
            .any(|(name, _)| name == "tortie-node")
            .then_some(processes)
    });
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    let seen = seen.expect("an agent runs in a container");
    assert!(
        seen.iter()
            .any(|(name, _)| name.starts_with("containerd-shim"))
    );
    let namespaces: BTreeSet<PathBuf> = seen
        .into_iter()
        .map(|(_, namespace)| namespace)
        .filter(|namespace| *namespace != own)
        .collect();
    let gone = || (living(&namespaces) == 0).then_some(());
    assert!(wait_until(Instant::now() + PATIENCE, gone).is_some());
    let swept = || kubelet::sweep().unwrap().is_empty().then_some(());
    assert!(wait_until(Instant::now() + PATIENCE, swept).is_some());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("tortie-lab"), "{mounts}");
}

#[test]
fn a_mode_without_an_overlay_is_refused_before_anything_is_built() {
    let output = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["--kubelet", "--mode", "ipip-crosssubnet"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8_lossy(&output.stderr);
    let wanted = "the modes are bgp, ipip, vxlan and vxlan-crosssubnet";
    assert!(
        words.lines().count() == 1 && words.contains(wanted),
        "{words}"
    );
}
