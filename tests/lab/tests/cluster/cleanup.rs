//! `cargo lab` as a program: its exit code, its object, and what it leaves when killed.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lab::{Programs, Report};
use rustix::process::{Pid, Signal};

/// The program, with the product built before.
fn cargo_lab() -> Command {
    Programs::build().unwrap_or_else(|error| panic!("{error}"));
    Command::new(env!("CARGO_BIN_EXE_lab"))
}

/// The PID namespaces of the processes that descend from `pid`.
fn inner_pid_namespaces(pid: u32) -> BTreeSet<String> {
    let own = fs::read_link("/proc/self/ns/pid").unwrap();
    let mut found = BTreeSet::new();
    let mut waiting = vec![pid];
    while let Some(pid) = waiting.pop() {
        let children =
            fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        for child in children.split_whitespace() {
            waiting.push(child.parse().unwrap());
            if let Ok(namespace) = fs::read_link(format!("/proc/{child}/ns/pid"))
                && namespace != own
            {
                found.insert(namespace.to_string_lossy().into_owned());
            }
        }
    }
    found
}

fn members(namespaces: &BTreeSet<String>) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|process| {
            fs::read_link(process.path().join("ns/pid"))
                .is_ok_and(|namespace| namespaces.contains(&*namespace.to_string_lossy()))
        })
        .count()
}

#[test]
fn the_object_has_the_promised_fields_and_nothing_is_left_behind() {
    let output = cargo_lab()
        .args(["--json", "--nodes", "4", "--pods", "1"])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let report: Report = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (report.sessions.expected, report.sessions.established),
        (12, 12)
    );
    // 4 pods to 3 others each, and 4 nodes to 3 remote pods each.
    assert_eq!((report.pings.sent, report.pings.lost), (24, 0));
    assert_eq!(
        (
            report.mode.as_str(),
            report.store.as_str(),
            report.nodes.len()
        ),
        ("bgp", "local", 4)
    );
    assert!(
        report.source_address_kept && report.converged_ms.is_some() && report.add_to_fib_ms.n > 0
    );
    assert_eq!(report.left_behind, Vec::<String>::new());
}

/// Starts a lab, lets `end` end it once agents and store run, and looks whether anything lives on.
fn nothing_outlives(end: impl FnOnce(&Child)) {
    let mut lab = cargo_lab()
        .process_group(0)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let progress = BufReader::new(lab.stderr.take().unwrap());
    let started = progress
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains("ok BGP sessions"));
    assert!(started, "the lab did not get that far");
    let inside = inner_pid_namespaces(lab.id());
    assert!(members(&inside) > 4, "store, three agents, process 1");
    end(&lab);
    lab.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while members(&inside) > 0 && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(members(&inside), 0, "processes outlived the lab");
}

#[test]
fn killing_the_lab_ends_everything_inside() {
    nothing_outlives(|lab| {
        rustix::process::kill_process(Pid::from_child(lab), Signal::KILL).unwrap();
    });
}

#[test]
fn an_interrupt_from_the_terminal_ends_everything_inside() {
    // A terminal sends SIGINT to the whole foreground process group.
    nothing_outlives(|lab| {
        rustix::process::kill_process_group(Pid::from_child(lab), Signal::INT).unwrap();
    });
}

#[test]
fn a_kept_lab_runs_commands_on_its_nodes_until_it_is_taken_down() {
    let state = std::env::temp_dir().join(format!("tortie-kept-{}", std::process::id()));
    fs::create_dir_all(&state).unwrap();
    let lab = |arguments: &[&str]| {
        let mut command = cargo_lab();
        command.env("TMPDIR", &state).args(arguments);
        command.output().unwrap()
    };
    let text = |output: &std::process::Output| {
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    };
    let kept = lab(&["--keep", "--nodes", "2", "--pods", "1"]);
    assert!(kept.status.success(), "{}", text(&kept));
    // With the node's own settings, so that it reads the lab's store.
    let nodes = lab(&["exec", "n2", "--", "tortiectl", "get", "nodes"]);
    assert!(
        nodes.status.success() && text(&nodes).contains("n1"),
        "{}",
        text(&nodes)
    );
    let unknown = lab(&["exec", "n9", "--", "true"]);
    assert!(
        !unknown.status.success() && text(&unknown).contains("it has n1, n2"),
        "{}",
        text(&unknown)
    );
    let down = lab(&["down"]);
    assert!(down.status.success(), "{}", text(&down));
    let gone = lab(&["exec", "n1", "--", "true"]);
    assert!(text(&gone).contains("no lab is up"), "{}", text(&gone));
    fs::remove_dir(&state).expect("nothing is left in it");
}

#[test]
fn a_wrong_option_is_an_error_of_usage() {
    let output = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["--mode", "geneve"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("geneve") && text.contains("vxlan-crosssubnet"),
        "{text}"
    );
}
