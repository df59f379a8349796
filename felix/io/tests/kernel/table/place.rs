//! The node that the table is about, made by iproute2, and a listener that is not ours.

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use felix_io::workload::{self, Families, PairSpec, PodNetwork};
use felix_io::{Kernel, netns};

use crate::node::ip;

pub(super) struct Place {
    pub(super) kernel: Kernel,
    pub(super) pod: OwnedFd,
}

impl Place {
    /// `eth0` with 10.0.0.1/24 and fd00::1/64, default routes, and a pod's pair `cali1` as the CNI plugin makes it.
    pub(super) async fn new() -> Self {
        if Command::new("ip").arg("-V").output().is_err() {
            harness::skip(
                "iproute2",
                "no program `ip`: the kernel's state is read by it",
            );
        }
        if Command::new("nft").arg("-v").output().is_err() {
            harness::skip(
                "nft",
                "no program `nft` (package nftables): another reader of the rules",
            );
        }
        for line in [
            "ip link set lo up",
            "ip link add eth0 type veth peer name world0",
            "ip link set world0 up",
            "ip link set eth0 up",
            "ip addr add 10.0.0.1/24 dev eth0",
            "ip addr add fd00::1/64 dev eth0 nodad",
            "ip route add default via 10.0.0.254 proto 4",
            "ip -6 route add default via fd00::fe proto 4",
        ] {
            command(line);
        }
        let pod = crate::namespace::new();
        let spec = PairSpec {
            families: Families::Dual,
            pod_mac: Some(crate::node::mac(5)),
            ..crate::node::pair("cali1", "eth0")
        };
        let addresses = vec![ip("10.1.1.5"), ip("fd01::5")];
        let netns = pod.try_clone().unwrap();
        workload::attach(netns, spec, PodNetwork::new(addresses))
            .await
            .unwrap();
        let kernel = Kernel::open().unwrap();
        Self { kernel, pod }
    }

    /// Runs a program inside the pod.
    pub(super) fn in_pod(&self, line: &str) {
        let line = line.to_owned();
        self.inside(move || command(&line));
    }

    /// The MAC that the pod is told when it asks for an address.
    pub(super) fn asks_for(&self, addr: &'static str) -> Option<String> {
        self.inside(move || {
            let socket = UdpSocket::bind(("10.1.1.7", 0)).unwrap();
            // An address that nobody has is an error of a later packet.
            drop(socket.send_to(b"?", (addr, 9)));
            let patience = Instant::now() + Duration::from_secs(60);
            loop {
                let entry = super::shown::printed(&format!("ip neigh show {addr} dev eth0"));
                let state = entry[0]["state"][0].as_str().unwrap_or_default();
                if state == "FAILED" {
                    return None;
                }
                if let Some(mac) = entry[0]["lladdr"].as_str() {
                    command(&format!("ip neigh del {addr} dev eth0"));
                    return Some(mac.to_owned());
                }
                assert!(Instant::now() < patience, "{entry}");
                // A moment for the kernel, which asks three times.
                std::thread::sleep(Duration::from_millis(10));
            }
        })
    }

    /// Does this on a thread in the pod's network namespace.
    pub(super) fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let pod = self.pod.try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            runtime.unwrap().block_on(netns::run(pod, work)).unwrap()
        });
        thread.join().unwrap()
    }
}

/// Runs a program, its arguments separated by blanks. `sysctl NAME=VALUE` needs none.
pub(super) fn command(line: &str) {
    if let Some((name, value)) = line
        .strip_prefix("sysctl ")
        .and_then(|set| set.split_once('='))
    {
        let path = super::shown::path_of(name);
        return std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap());
    let output = command.args(words).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {error}");
}

/// Skips the test on a kernel without IPIP.
pub(super) fn needs_ipip() {
    let probe = "ip link add probe0 type ipip local 192.0.2.1 remote 192.0.2.2";
    let output = Command::new("ip").args(probe.split(' ').skip(1)).output();
    match output {
        Ok(output) if output.status.success() => command("ip link del probe0"),
        _ => harness::skip(
            "ipip",
            "the kernel has no ipip; `cargo test -p lab --test uml` has one",
        ),
    }
}

/// `ip monitor`.
pub(super) struct Monitor {
    program: Child,
    lines: Receiver<String>,
}

/// A route that comes and goes: what was told before it has been read.
const MARK: &str = "192.0.2.99";

impl Monitor {
    pub(super) fn start() -> Self {
        let mut program = Command::new("ip")
            .args(["-N", "monitor", "link", "address", "route", "neigh"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(program.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let monitor = Self { program, lines };
        // It listens once it tells.
        let patience = Instant::now() + Duration::from_secs(60);
        loop {
            mark();
            if let Ok(line) = monitor.lines.recv_timeout(Duration::from_millis(100))
                && line.contains(MARK)
            {
                return monitor;
            }
            assert!(Instant::now() < patience, "`ip monitor` tells nothing");
        }
    }

    /// What was told to be deleted up to now.
    pub(super) fn deleted(mut self) -> Vec<String> {
        command(&format!("ip route add blackhole {MARK}/32 proto 5"));
        let mut deleted = Vec::new();
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(60)).unwrap();
            if line.contains(MARK) && line.contains("proto 5") {
                break;
            }
            // Neighbours that the kernel learned come and go.
            let is_learned = line.contains(" lladdr ") && !line.contains("PERMANENT");
            if line.starts_with("Deleted") && !line.contains(MARK) && !is_learned {
                deleted.push(line);
            }
        }
        command(&format!("ip route del blackhole {MARK}/32"));
        self.program.kill().unwrap();
        self.program.wait().unwrap();
        deleted
    }
}

fn mark() {
    command(&format!("ip route add blackhole {MARK}/32 proto 4"));
    command(&format!("ip route del blackhole {MARK}/32"));
}
