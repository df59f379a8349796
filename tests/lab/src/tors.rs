//! Top-of-rack routers: machines that run BIRD and have a port in every rack, each with an eBGP session of each family to every node. They take the
//! mesh's place: all announce a default route, which carries what goes from node to node, and the same network outside, where each of them
//! has the same host.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

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
/// What they announce besides a default route, and a host there.
const OUTSIDE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 0), 24);
const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The same of IPv6.
const OUTSIDE6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0), 48);
const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 1);
/// Where Debian's `birdc` looks, on each machine its own.
const CONTROL_SOCKET: &str = "/run/bird/bird.ctl";
/// How long one ping may take.
const PING: Duration = Duration::from_secs(1);

/// A top-of-rack router.
#[derive(Debug)]
pub struct Tor {
    /// `tor1`, `tor2`, …
    pub site: Site,
    /// Its addresses in each rack, in their order, IPv4 first.
    addresses: Vec<Vec<IpAddr>>,
    router_id: Ipv4Addr,
    /// `None` after it was killed.
    bird: Option<Child>,
}

impl Tor {
    /// Its addresses in a rack, by the rack's number, IPv4 first.
    ///
    /// # Panics
    /// When there is no such rack.
    #[must_use]
    pub fn addresses_in(&self, rack: u8) -> &[IpAddr] {
        &self.addresses[usize::from(rack) - 1]
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
                for address in tor.addresses_in(node.rack) {
                    // Writing to a String cannot fail.
                    let _ = write!(
                        manifest,
                        "---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {{name: {name}-{node}-v{}}}
spec: {{node: {node}, peerIP: \"{address}\", asNumber: {ASN}}}
",
                        version(*address),
                        node = node.name,
                    );
                }
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
        let mut addresses = vec![site.addresses().collect()];
        for rack in &self.topology.racks[1..] {
            let ifname = format!("eth{}", rack.number - 1);
            let address = self
                .topology
                .attach_again(&site, &ifname, host, rack.number)?;
            addresses.push(address);
        }
        let hosts: Vec<IpAddr> = (self.outsides().iter()).map(|(.., host)| *host).collect();
        prepare(&site, self.topology.racks.len(), &hosts)?;
        Ok(Tor {
            site,
            addresses,
            router_id: Ipv4Addr::new(10, 10, 1, host),
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
",
            tor.router_id
        );
        for (version, everywhere, outside, _) in self.outsides() {
            let _ = write!(
                text,
                "protocol direct {{ ipv{version}; }}
protocol kernel {{ ipv{version} {{ import none; export where source = RTS_BGP; }}; }}
protocol static {{ ipv{version}; route {outside} unreachable; route {everywhere} unreachable; }}
"
            );
        }
        for node in &self.topology.sites {
            for (own, nodes) in tor.addresses_in(node.rack).iter().zip(node.addresses()) {
                let version = version(*own);
                let _ = write!(
                    text,
                    "protocol bgp {}v{version} {{
  local {own} as {ASN};
  neighbor {nodes} as {};
  connect delay time 1; connect retry time 2; error wait time 1, 2;
  ipv{version} {{ import all; export where source = RTS_STATIC; }};
}}
",
                    node.name, self.options.asn
                );
            }
        }
        text
    }

    /// Of each family what is outside: the version of IP, everywhere, the routers' network, and the host in it.
    fn outsides(&self) -> Vec<(u8, IpNet, IpNet, IpAddr)> {
        let families = self.options.families;
        let v4 = (families.has_v4()).then(|| {
            let everywhere = IpNet::from(Ipv4Net::default());
            (4, everywhere, OUTSIDE.into(), HOST.into())
        });
        let v6 = (families.has_v6()).then(|| {
            let everywhere = IpNet::from(Ipv6Net::default());
            (6, everywhere, OUTSIDE6.into(), HOST6.into())
        });
        v4.into_iter().chain(v6).collect()
    }

    /// What nodes must have routes to by way of the routers.
    pub(crate) fn announced_by_tors(&self) -> Vec<IpNet> {
        let outsides = self.outsides().into_iter();
        outsides
            .flat_map(|(_, everywhere, outside, _)| [everywhere, outside])
            .collect()
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
            for (_, _, _, host) in self.outsides() {
                let answered = Pinger::open_for(&pod.namespace, 1, host).map(|mut pinger| {
                    wait::until(deadline, || {
                        let answer = pinger.ping(host, PING);
                        answer.is_ok_and(|took| took.is_some()).then_some(())
                    })
                });
                let why = match answered {
                    Ok(Some(())) => continue,
                    Ok(None) => "no answer".to_owned(),
                    Err(error) => error.to_string(),
                };
                faults.push(format!("ping {} -> {host} outside: {why}", pod.label()));
            }
        }
        faults
    }
}

/// Makes a machine a router with the hosts outside on it. A node that sends by it what it could send itself is not told so.
fn prepare(site: &Site, ports: usize, hosts: &[IpAddr]) -> io::Result<()> {
    site.namespace.set_sysctl("net/ipv4/ip_forward", "1")?;
    let ports = (0..ports).map(|port| format!("eth{port}"));
    for port in ports.chain(["all".to_owned()]) {
        let key = format!("net/ipv4/conf/{port}/send_redirects");
        site.namespace.set_sysctl(&key, "0")?;
    }
    if hosts.iter().any(IpAddr::is_ipv6) {
        let forwarding = "net/ipv6/conf/all/forwarding";
        site.namespace.set_sysctl(forwarding, "1")?;
    }
    let mut netlink = site.namespace.netlink()?;
    for host in hosts {
        let added = match *host {
            IpAddr::V4(host) => netlink.add_address("lo", host.into()),
            IpAddr::V6(host) => netlink.add_address6("lo", host.into()),
        };
        added.map_err(crate::NetlinkError::into_io)?;
    }
    Ok(())
}

fn version(address: IpAddr) -> u8 {
    if address.is_ipv4() { 4 } else { 6 }
}
