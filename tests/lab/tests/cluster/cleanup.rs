//! `cargo lab` as a program: its exit code, its object, and what it leaves when killed.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lab::{Programs, Report};
use rustix::process::{Pid, Signal};

/// The program, with the product built before.
fn cargo_lab() -> Command {
    Programs::build(lab::Store::Local).unwrap_or_else(|error| panic!("{error}"));
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

/// `cargo lab` with a place of its own for what it notes of a kept lab.
struct KeptLab(PathBuf);

impl KeptLab {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let state = format!("tortie-kept-{name}-{}", std::process::id());
        let kept = Self(std::env::temp_dir().join(state));
        fs::create_dir_all(&kept.0).unwrap();
        let (done, text) =
            kept.call(&[&["--keep", "--nodes", "2", "--pods", "1"], arguments].concat());
        assert!(done, "{text}");
        kept
    }

    /// Whether it succeeded, and what it said.
    fn call(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = cargo_lab();
        let output = command
            .env("TMPDIR", &self.0)
            .args(arguments)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        (output.status.success(), text)
    }

    fn says(&self, arguments: &[&str], expected: &str) {
        let (done, text) = self.call(arguments);
        assert!(done && text.contains(expected), "{arguments:?}: {text}");
    }

    fn end(self) {
        let (done, text) = self.call(&["down"]);
        assert!(done, "{text}");
        let (_, text) = self.call(&["exec", "n1", "--", "true"]);
        assert!(text.contains("no lab is up"), "{text}");
        fs::remove_dir(&self.0).expect("nothing is left in it");
    }
}

#[test]
fn a_kept_lab_runs_commands_on_its_machines_until_it_is_taken_down() {
    let kept = KeptLab::start("rr", &["--rr", "1"]);
    // With the node's own settings, so that it reads the lab's store.
    kept.says(&["exec", "n2", "--", "tortiectl", "get", "nodes"], "n1");
    kept.says(&["exec", "rr1", "tortiectl", "bgp", "peers"], "10.10.1.11");
    let (done, text) = kept.call(&["exec", "n9", "--", "true"]);
    assert!(!done && text.contains("it has n1, n2, rr1"), "{text}");
    kept.end();
}

#[test]
fn a_kept_lab_runs_commands_on_its_routers() {
    crate::tors::needs_bird();
    let kept = KeptLab::start("tor", &["--tor", "2"]);
    for tor in ["tor1", "tor2"] {
        kept.says(&["exec", tor, "birdc", "show", "protocols"], "Established");
    }
    kept.end();
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
