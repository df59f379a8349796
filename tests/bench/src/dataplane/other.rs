//! iproute2 and nft.

use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{WaitId, WaitIdOptions};

use super::network::{DEVICES, PROTOCOL, Wanted};
use super::{Spent, ours};
use crate::usage::Processes;

/// How often its memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A batch for `ip -batch`.
pub(super) fn batch(routes: impl Iterator<Item = Wanted>, verb: &str, device: usize) -> String {
    let mut text = String::new();
    for route in routes {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "route {verb} {} via {} dev {} proto {PROTOCOL}",
            route.prefix,
            route.gateway(device),
            DEVICES[device].0
        );
    }
    text
}

/// Has the object of a route's peer lead through another device's network.
pub(super) fn replace_object(peer: &Wanted, device: usize) -> anyhow::Result<Spent> {
    let number = ours::id(peer).0.to_string();
    let gateway = peer.gateway(device).to_string();
    let protocol = PROTOCOL.to_string();
    let words = [
        "nexthop",
        "replace",
        "id",
        &number,
        "via",
        &gateway,
        "dev",
        DEVICES[device].0,
        "protocol",
        &protocol,
    ];
    run("ip", &words)
}

/// Runs a program to its end, and says what it took.
pub(super) fn run(name: &str, arguments: &[&str]) -> anyhow::Result<Spent> {
    let begin = Instant::now();
    let mut child = Command::new(name)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("running {name}"))?;
    let processes = Processes::of(child.id());
    let ended = AtomicBool::new(false);
    let (seconds, cpu, peak) = thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut peak = 0;
            while !ended.load(Ordering::Relaxed) {
                peak = processes.peak_kib().unwrap_or_default().max(peak);
                thread::sleep(LOOK_EVERY);
            }
            peak
        });
        let pid = rustix::process::Pid::from_child(&child);
        // What it took is there until it is waited for.
        let waited = rustix::process::waitid(
            WaitId::Pid(pid),
            WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
        );
        let seconds = begin.elapsed().as_secs_f64();
        ended.store(true, Ordering::Relaxed);
        let peak = looking.join().unwrap_or_default();
        waited.map(|_| (seconds, processes.cpu(), peak))
    })?;
    let status = child.wait()?;
    ensure!(status.success(), "{name} {arguments:?}: {status}");
    Ok(Spent {
        seconds,
        cpu_seconds: cpu?.as_secs_f64(),
        peak_mib: peak as f64 / 1024.0,
    })
}
