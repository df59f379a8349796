//! The namespace's devices, and the routes that are written.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use ipnet::Ipv4Net;

use crate::random::Random;

/// The devices that peers are reached by: their names and this host's addresses.
pub(super) const DEVICES: [(&str, Ipv4Addr); 2] = [
    ("up0", Ipv4Addr::new(10, 66, 0, 1)),
    ("up1", Ipv4Addr::new(10, 67, 0, 1)),
];
/// Peers that routes lead to.
const PEERS: u32 = 64;
/// The routing protocol's number: BGP's, as the agent writes it.
pub(super) const PROTOCOL: u8 = 12;

/// How long devices may take until they are up; a loaded machine may need a second.
const UP_WITHIN: Duration = Duration::from_secs(30);
/// How often that is asked.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Makes the devices, and waits until they are up: rows on others would wait for them.
pub(super) fn furnish() -> anyhow::Result<()> {
    let mut batch = "link set lo up\n".to_owned();
    for (name, addr) in DEVICES {
        batch.push_str(&format!(
            "link add {name} type veth peer name {name}-far\naddress add {addr}/16 dev {name}\nlink set {name}-far up\nlink set {name} up\n"
        ));
    }
    ip(&["-batch", "-"], &batch)?;
    let deadline = Instant::now() + UP_WITHIN;
    loop {
        let shown = ip(&["-oneline", "link", "show", "up"], "")?;
        let shown = String::from_utf8_lossy(&shown);
        let are_up = DEVICES.iter().all(|(name, _)| {
            let mut lines = shown.lines();
            lines.any(|line| line.contains(&format!(" {name}@")) && line.contains(" state UP "))
        });
        if are_up {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "devices are not up: {shown}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Runs ip with this on its standard input; what it printed.
pub(super) fn ip(arguments: &[&str], input: &str) -> anyhow::Result<Vec<u8>> {
    program("ip", arguments, input)
}

/// Runs a program with this on its standard input; what it printed.
pub(super) fn program(name: &str, arguments: &[&str], input: &str) -> anyhow::Result<Vec<u8>> {
    let mut child = Command::new(name)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("running {name}"))?;
    let mut stdin = child.stdin.take().context("it was asked for")?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "{name} {arguments:?}: {}",
        output.status
    );
    Ok(output.stdout)
}

/// A route to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) prefix: Ipv4Net,
    /// Number of the peer it leads to.
    peer: u32,
}

impl Wanted {
    /// The peer's address on a device's network.
    pub(super) fn gateway(&self, device: usize) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(DEVICES[device].1) + 1 + self.peer)
    }
}

/// Routes in the order of their prefixes. All lead to one peer, or to many.
pub(super) fn routes(count: u32, seed: u64, peers: Peers) -> impl Iterator<Item = Wanted> {
    let mut random = Random(seed);
    // A slot of 16 addresses each, in 11.0.0.0/8: up to 2²⁰.
    let first = u32::from(Ipv4Addr::new(11, 0, 0, 0));
    (0..count).map(move |slot| {
        let length = 28 + u8::try_from(random.below(5)).unwrap_or_default();
        let addr = Ipv4Addr::from(first + 16 * slot);
        let prefix = Ipv4Net::new(addr, length).unwrap_or_default();
        let peer = match peers {
            Peers::One => 0,
            Peers::Many => random.below(PEERS),
        };
        Wanted { prefix, peer }
    })
}

/// How many peers routes lead to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Peers {
    One,
    Many,
}

/// That the kernel has as many routes of ours, leading through this device: told by iproute2.
pub(super) fn ensure_routes(count: u32, device: usize) -> anyhow::Result<()> {
    let (name, _) = DEVICES[device];
    let protocol = PROTOCOL.to_string();
    let shown = ip(
        &["-4", "route", "show", "dev", name, "protocol", &protocol],
        "",
    )?;
    let lines = shown.iter().filter(|byte| **byte == b'\n').count();
    ensure!(
        lines == count as usize,
        "{lines} routes lead through {name} instead of {count}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_follow_from_the_seed_and_do_not_overlap() {
        let some = |seed| routes(1000, seed, Peers::Many).map(|route| (route.prefix, route.peer));
        assert!(some(1).eq(some(1)));
        assert!(!some(1).eq(some(2)));
        let prefixes: Vec<Ipv4Net> = some(3).map(|(prefix, _)| prefix).collect();
        let mut pairs = prefixes.windows(2);
        assert!(pairs.all(|pair| pair[0].broadcast() < pair[1].network()));
    }
}
