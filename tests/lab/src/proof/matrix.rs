//! Everybody to everybody: one ping and one TCP exchange per cell, all senders at the same time.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::cluster::Lab;
use crate::netns::NetNs;
use crate::probe::ping::Pinger;
use crate::probe::tcp::{self, SourceReporter};

/// How long an answer may take. Machines are shared; what is lost stays lost.
const PATIENCE: Duration = Duration::from_secs(3);

/// One sender and one receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// `n1/p0` or `n1`.
    pub from: String,
    /// `n2/p1`.
    pub to: String,
    /// The receiver's address.
    pub address: IpAddr,
    /// Round-trip time, or why there is none.
    pub ping: Result<Duration, String>,
    /// The source address that the receiver of a TCP exchange saw, or why there is none.
    pub source: Result<IpAddr, String>,
    /// What is wrong with that source address: it is not the sender's own.
    pub translated: Option<String>,
}

impl Cell {
    pub(crate) fn faults(&self) -> Vec<String> {
        let Self {
            from,
            to,
            address,
            ping,
            source,
            translated,
        } = self;
        let to = match address {
            IpAddr::V4(_) => to.clone(),
            IpAddr::V6(_) => format!("{to} over IPv6"),
        };
        let mut faults = Vec::new();
        if let Err(error) = ping {
            faults.push(format!("ping {from} -> {to}: {error}"));
        }
        if let Err(error) = source {
            faults.push(format!("TCP exchange {from} -> {to}: {error}"));
        }
        faults.extend(
            translated
                .iter()
                .map(|fault| format!("source address {from} -> {to}: {fault}")),
        );
        faults
    }
}

struct Sender {
    name: String,
    namespace: NetNs,
    own: Vec<IpAddr>,
    targets: Vec<(String, SocketAddr)>,
}

/// Every ordered pair of pods, and every node to each pod of other nodes.
pub(crate) fn measure(lab: &Lab) -> Vec<Cell> {
    let mut reporters = Vec::new();
    let mut cells = Vec::new();
    for pod in &lab.pods {
        for address in pod.addresses() {
            match SourceReporter::open(&pod.namespace, address) {
                Ok(reporter) => reporters.push((pod, reporter)),
                Err(error) => cells.push(unreachable_pod(&pod.label(), address, &error)),
            }
        }
    }
    let target = |to: &(&crate::Pod, SourceReporter)| (to.0.label(), to.1.address());
    let pods = lab.pods.iter().map(|pod| Sender {
        name: pod.label(),
        namespace: pod.namespace.clone(),
        own: pod.addresses().collect(),
        targets: reporters
            .iter()
            .filter(|to| to.0.label() != pod.label())
            .map(target)
            .collect(),
    });
    let nodes = lab.topology.sites.iter().map(|site| Sender {
        name: site.name.clone(),
        namespace: site.namespace.clone(),
        own: node_addresses(&site.namespace),
        targets: reporters
            .iter()
            .filter(|to| to.0.node != site.name)
            .map(target)
            .collect(),
    });
    let senders: Vec<Sender> = pods.chain(nodes).collect();
    let owners = owners_of(&senders);
    std::thread::scope(|scope| {
        let running: Vec<_> = senders
            .iter()
            .enumerate()
            .map(|(index, sender)| {
                let owners = &owners;
                scope.spawn(move || sender.namespace.run(|| send(sender, index, owners)))
            })
            .collect();
        for thread in running {
            cells.extend(thread.join().expect("senders do not panic"));
        }
    });
    cells
}

fn unreachable_pod(pod: &str, address: IpAddr, error: &io::Error) -> Cell {
    let fault = format!("the pod cannot listen on its address {address}: {error}");
    Cell {
        from: pod.to_owned(),
        to: pod.to_owned(),
        address,
        ping: Err(fault.clone()),
        source: Err(fault),
        translated: None,
    }
}

/// A node's own addresses: any of them is a proper source. The tunnel's is used for what leaves through the tunnel.
fn node_addresses(namespace: &NetNs) -> Vec<IpAddr> {
    namespace
        .netlink()
        .ok()
        .and_then(|mut netlink| netlink.addresses().ok())
        .unwrap_or_default()
}

fn owners_of(senders: &[Sender]) -> BTreeMap<IpAddr, String> {
    let pairs = senders.iter().flat_map(|sender| {
        sender
            .own
            .iter()
            .map(|address| (*address, sender.name.clone()))
    });
    pairs.collect()
}

/// Runs on a thread in the sender's namespace.
fn send(sender: &Sender, index: usize, owners: &BTreeMap<IpAddr, String>) -> Vec<Cell> {
    let addresses = sender.targets.iter().map(|(_, target)| target.ip());
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.partition(IpAddr::is_ipv4);
    let identifier = u16::try_from(index).unwrap_or(u16::MAX);
    let mut pings = Pinger::open(&sender.namespace, identifier)
        .map(|mut pinger| pinger.ping_all(&v4, PATIENCE))
        .unwrap_or_default();
    if !v6.is_empty()
        && let Ok(mut pinger) = Pinger::open_v6(&sender.namespace, identifier)
    {
        pings.extend(pinger.ping_all(&v6, PATIENCE));
    }
    let mut cells = Vec::new();
    for (to, target) in &sender.targets {
        let ping = match pings.remove(&target.ip()) {
            Some(Ok(took)) => Ok(took),
            Some(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
                Err("no answer".to_owned())
            }
            Some(Err(error)) => Err(error.to_string()),
            None => Err("not sent".to_owned()),
        };
        let source = tcp::ask_source_here(*target, PATIENCE)
            .map(|seen| seen.source)
            .map_err(|error| error.to_string());
        let translated = source
            .as_ref()
            .ok()
            .filter(|seen| !sender.own.contains(seen))
            .map(|seen| {
                let whose = owners
                    .get(seen)
                    .map(|owner| format!(" ({owner}'s)"))
                    .unwrap_or_default();
                let own: Vec<String> = sender.own.iter().map(IpAddr::to_string).collect();
                format!("receiver saw {seen}{whose}, expected {}", own.join(" or "))
            });
        cells.push(Cell {
            from: sender.name.clone(),
            to: to.clone(),
            address: target.ip(),
            ping,
            source,
            translated,
        });
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_that_is_wrong_with_a_cell_is_a_fault_that_names_it() {
        let right = Cell {
            from: "n1/p0".to_owned(),
            to: "n2/p1".to_owned(),
            address: IpAddr::from([192, 168, 0, 66]),
            ping: Ok(Duration::from_millis(1)),
            source: Ok(IpAddr::from([192, 168, 0, 2])),
            translated: None,
        };
        assert_eq!(right.faults(), Vec::<String>::new());
        let mut cell = right.clone();
        cell.ping = Err("no answer".to_owned());
        assert_eq!(cell.faults(), ["ping n1/p0 -> n2/p1: no answer"]);
        cell.address = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(cell.faults(), ["ping n1/p0 -> n2/p1 over IPv6: no answer"]);
        let mut cell = right.clone();
        cell.source = Err("refused".to_owned());
        assert_eq!(cell.faults(), ["TCP exchange n1/p0 -> n2/p1: refused"]);
        let mut cell = right;
        cell.translated = Some("receiver saw 10.0.0.1".to_owned());
        let fault = "source address n1/p0 -> n2/p1: receiver saw 10.0.0.1";
        assert_eq!(cell.faults(), [fault]);
    }
}
