//! Top-of-rack routers: machines of the first rack that run BIRD, each with an eBGP session to every node. All announce a default route
//! and the same network outside, where each of them has the same host.

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
/// How long one ping may take.
const PING: Duration = Duration::from_secs(1);

/// A top-of-rack router.
#[derive(Debug)]
pub struct Tor {
    /// `tor1`, `tor2`, …
    pub site: Site,
    bird: Child,
}

impl Tor {
    /// An error when its BIRD has ended.
    pub(crate) fn check(&mut self) -> io::Result<()> {
        still_runs(&mut self.bird)
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
        let mut manifest = String::new();
        for number in 1..=self.options.tors {
            let name = format!("tor{number}");
            let site = self
                .topology
                .attach(&name, FIRST_HOST + number - 1, 1)
                .and_then(|site| prepare(&site).map(|()| site))
                .map_err(LabError::system(format!("attach {name}")))?;
            let bird = self.spawn_bird(&program, &site)?;
            // Writing to a String cannot fail.
            let _ = write!(
                manifest,
                "---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {{name: {name}}}
spec: {{peerIP: {}, asNumber: {ASN}}}
",
                site.address
            );
            self.tors.push(Tor { site, bird });
        }
        let path = Path::new(BASE).join("tors.yaml");
        fs::write(&path, manifest).map_err(LabError::system("write the routers' resources"))?;
        self.apply(&path)
    }

    fn spawn_bird(&self, program: &Path, site: &Site) -> Result<Child, LabError> {
        let directory = Path::new(BASE).join(&site.name);
        fs::create_dir_all(&directory)
            .and_then(|()| fs::write(directory.join("bird.conf"), self.bird_config(site)))
            .map_err(LabError::system("write BIRD's configuration"))?;
        let mut command = site.namespace.command(program);
        command.arg("-f").stdin(Stdio::null());
        for (flag, file) in [("-c", "bird.conf"), ("-s", "bird.ctl"), ("-P", "bird.pid")] {
            command.arg(flag).arg(directory.join(file));
        }
        spawn_logged(command, &site.name)
    }

    fn bird_config(&self, site: &Site) -> String {
        let own = site.address;
        let mut text = format!(
            "log stderr all;
router id {own};
protocol device {{ scan time 1; }}
protocol direct {{ ipv4; }}
protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}
protocol static outside {{ ipv4; route {OUTSIDE} unreachable; route 0.0.0.0/0 unreachable; }}
"
        );
        for node in &self.topology.sites {
            let _ = write!(
                text,
                "protocol bgp {} {{
  local {own} as {ASN};
  neighbor {} as {};
  connect delay time 1; connect retry time 2; error wait time 1, 2;
  ipv4 {{ import all; export where source = RTS_STATIC; }};
}}
",
                node.name, node.address, self.options.asn
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

/// Makes a machine a router with the host outside on it.
fn prepare(site: &Site) -> io::Result<()> {
    site.namespace.set_sysctl("net/ipv4/ip_forward", "1")?;
    site.namespace
        .netlink()?
        .add_address("lo", Ipv4Net::from(HOST))
        .map_err(crate::NetlinkError::into_io)
}
