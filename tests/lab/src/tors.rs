//! Top-of-rack routers: machines that run BIRD and have a port in every rack, each with an eBGP session to every node. They take the
//! mesh's place: all announce a default route, which carries what goes from node to node, and the same network outside, where each of them
//! has the same host.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;

use crate::cluster::{Lab, LabError, spawn_logged, still_runs};
use crate::enter::BASE;
use crate::options::Mode;
use crate::probe::ping::Pinger;
use crate::topology::Site;
use crate::wait;

/// Last octet of the address of the first one, above the reflectors'.
const FIRST_HOST: u8 = 6;
/// Their AS, so that a prefix's paths differ in nothing that counts.
const ASN: u32 = 65_001;
/// What they announce besides a default route.
pub(crate) const OUTSIDE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 0), 24);
/// A host in [`OUTSIDE`].
const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Where Debian's `birdc` looks, on each machine its own.
const CONTROL_SOCKET: &str = "/run/bird/bird.ctl";
/// How long one ping may take.
const PING: Duration = Duration::from_secs(1);

/// A top-of-rack router.
#[derive(Debug)]
pub struct Tor {
    /// `tor1`, `tor2`, …
    pub site: Site,
    /// Its address in each rack, in their order.
    addresses: Vec<Ipv4Addr>,
    /// `None` after it was killed.
    bird: Option<Child>,
}

impl Tor {
    /// Its address in a rack, by the rack's number.
    ///
    /// # Panics
    /// When there is no such rack.
    #[must_use]
    pub fn address_in(&self, rack: u8) -> Ipv4Addr {
        self.addresses[usize::from(rack) - 1]
    }

    /// Whether its BIRD was not killed.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.bird.is_some()
    }

    /// An error when its BIRD has ended by itself.
    pub(crate) fn check(&mut self) -> io::Result<()> {
        self.bird.as_mut().map_or(Ok(()), still_runs)
    }
}

/// BIRD, on PATH or where Debian installs it.
#[must_use]
pub fn find_bird() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    directories
        .map(|directory| directory.join("bird"))
        .find(|program| program.is_file())
}

impl Lab {
    /// Attaches the routers, starts their BIRD, and tells the cluster of them.
    pub(crate) fn start_tors(&mut self) -> Result<(), LabError> {
        if self.options.tors == 0 {
            return Ok(());
        }
        let program = find_bird()
            .ok_or_else(|| io::Error::other("no program `bird`: install the Debian package bird2"))
            .map_err(LabError::system("find BIRD 2, which --tor needs"))?;
        let mut manifest = String::from(
            "apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {nodeToNodeMeshEnabled: false}
",
        );
        for number in 1..=self.options.tors {
            let name = format!("tor{number}");
            let mut tor = self
                .attach_tor(&name, FIRST_HOST + number - 1)
                .map_err(LabError::system(format!("attach {name}")))?;
            tor.bird = Some(self.spawn_bird(&program, &tor)?);
            for node in &self.topology.sites {
                // Writing to a String cannot fail.
                let _ = write!(
                    manifest,
                    "---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {{name: {name}-{node}}}
spec: {{node: {node}, peerIP: {}, asNumber: {ASN}}}
",
                    tor.address_in(node.rack),
                    node = node.name,
                );
            }
            self.tors.push(tor);
        }
        let path = Path::new(BASE).join("tors.yaml");
        fs::write(&path, manifest).map_err(LabError::system("write the routers' resources"))?;
        self.apply(&path)
    }

    /// Whether packets between nodes follow the default routes that the routers announce.
    pub(crate) fn goes_by_tors(&self) -> bool {
        self.options.tors > 0 && self.options.reflectors == 0 && self.options.mode == Mode::Bgp
    }

    /// A machine with a port in every rack that forwards.
    fn attach_tor(&self, name: &str, host: u8) -> io::Result<Tor> {
        let site = self.topology.attach(name, host, 1)?;
        let mut addresses = vec![site.address];
        for rack in &self.topology.racks[1..] {
            let ifname = format!("eth{}", rack.number - 1);
            let address = self
                .topology
                .attach_again(&site, &ifname, host, rack.number)?;
            addresses.push(address);
        }
        prepare(&site, self.topology.racks.len())?;
        Ok(Tor {
            site,
            addresses,
            bird: None,
        })
    }

    /// Kills the BIRD of a router with SIGKILL and waits until it is gone. What it wrote to its kernel stays.
    ///
    /// # Errors
    /// When it was gone before.
    pub fn kill_tor(&mut self, index: usize) -> io::Result<()> {
        let bird = self.tors[index].bird.take();
        let mut bird = bird.ok_or_else(|| io::Error::other("was killed before"))?;
        bird.kill()?;
        bird.wait().map(drop)
    }

    /// Starts the BIRD of a router again, after [`Lab::kill_tor`].
    ///
    /// # Errors
    /// See [`LabError`].
    pub fn restart_tor(&mut self, index: usize) -> Result<(), LabError> {
        let program = find_bird()
            .ok_or_else(|| io::Error::other("no program `bird`"))
            .map_err(LabError::system("find BIRD 2"))?;
        let bird = self.spawn_bird(&program, &self.tors[index])?;
        self.tors[index].bird = Some(bird);
        Ok(())
    }

    fn spawn_bird(&self, program: &Path, tor: &Tor) -> Result<Child, LabError> {
        let site = &tor.site;
        let directory = Path::new(BASE).join(&site.name);
        let config = directory.join("bird.conf");
        fs::create_dir_all(&directory)
            .and_then(|()| fs::write(&config, self.bird_config(tor)))
            .map_err(LabError::system("write BIRD's configuration"))?;
        let mut command = site.namespace.command(program);
        command
            .args(["-f", "-s", CONTROL_SOCKET, "-c"])
            .arg(config)
            .stdin(Stdio::null());
        spawn_logged(command, &site.name)
    }

    fn bird_config(&self, tor: &Tor) -> String {
        let mut text = format!(
            "log stderr all;
router id {};
protocol device {{ scan time 1; }}
protocol direct {{ ipv4; }}
protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}
protocol static outside {{ ipv4; route {OUTSIDE} unreachable; route 0.0.0.0/0 unreachable; }}
",
            tor.site.address
        );
        for node in &self.topology.sites {
            let _ = write!(
                text,
                "protocol bgp {} {{
  local {} as {ASN};
  neighbor {} as {};
  connect delay time 1; connect retry time 2; error wait time 1, 2;
  ipv4 {{ import all; export where source = RTS_STATIC; }};
}}
",
                node.name,
                tor.address_in(node.rack),
                node.address,
                self.options.asn
            );
        }
        text
    }

    /// Pings the host outside from the first pod of each node; what does not answer is named. The routers may still be writing their
    /// kernels: each has the lab's patience.
    pub(crate) fn ping_outside(&self) -> Vec<String> {
        let deadline = Instant::now() + self.options.patience;
        let mut faults = Vec::new();
        for site in &self.topology.sites {
            let Some(pod) = self.pods.iter().find(|pod| pod.node == site.name) else {
                continue;
            };
            let answered = Pinger::open(&pod.namespace, 1).map(|mut pinger| {
                wait::until(deadline, || {
                    let answer = pinger.ping(HOST, PING);
                    answer.is_ok_and(|took| took.is_some()).then_some(())
                })
            });
            match answered {
                Ok(Some(())) => {}
                Ok(None) => {
                    faults.push(format!("ping {} -> {HOST} outside: no answer", pod.label()))
                }
                Err(error) => {
                    faults.push(format!("ping {} -> {HOST} outside: {error}", pod.label()))
                }
            }
        }
        faults
    }
}

/// Makes a machine a router with the host outside on it. A node that sends by it what it could send itself is not told so.
fn prepare(site: &Site, ports: usize) -> io::Result<()> {
    site.namespace.set_sysctl("net/ipv4/ip_forward", "1")?;
    let ports = (0..ports).map(|port| format!("eth{port}"));
    for port in ports.chain(["all".to_owned()]) {
        let key = format!("net/ipv4/conf/{port}/send_redirects");
        site.namespace.set_sysctl(&key, "0")?;
    }
    site.namespace
        .netlink()?
        .add_address("lo", Ipv4Net::from(HOST))
        .map_err(crate::NetlinkError::into_io)
}
