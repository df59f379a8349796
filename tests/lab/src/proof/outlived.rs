//! A reflector or a top-of-rack router is killed and comes back while numbered packets run between pods: none is lost.

use std::io;
use std::time::{Duration, Instant};

use crate::cluster::{Lab, LabError};
use crate::netlink::RouteMonitor;
use crate::probe::stream::Stream;
use crate::report::PacketCounts;

const PER_SECOND: u32 = 100;
/// Streams at the same time, each from a node to the next.
const STREAMS_MAX: usize = 8;
/// How long the reflector is away: long enough for its peers to notice and for packets to be lost if anything was.
const ABSENCE: Duration = Duration::from_secs(3);

/// What was counted, and what did not hold.
pub(crate) struct Outlived {
    pub(crate) packets: PacketCounts,
    pub(crate) faults: Vec<String>,
}

/// Kills the first reflector and starts it again.
pub(crate) fn reflector(lab: &mut Lab) -> Result<Outlived, LabError> {
    let name = lab.reflectors[0].site.name.clone();
    let mut monitors = open_monitors(lab).map_err(LabError::system("watch the nodes' routes"))?;
    let streams = start_streams(lab).map_err(LabError::system("start the packets"))?;
    lab.kill_reflector(0)
        .map_err(LabError::system(format!("kill {name}")))?;
    let mut faults = Vec::new();
    let mut deleted = |faults: &mut Vec<String>, when: &str| -> io::Result<()> {
        let until = Instant::now() + ABSENCE;
        for (node, monitor) in &mut monitors {
            for route in monitor.deleted_until(until)? {
                faults.push(format!("{node} deleted {route:?} {when} {name}"));
            }
        }
        Ok(())
    };
    let watching = || LabError::system("watch the nodes' routes");
    deleted(&mut faults, "after the death of").map_err(watching())?;
    if !lab.wait_sessions()? {
        faults.push(format!("without {name} the other sessions do not stand"));
    }
    lab.restart_reflector(0)?;
    if !lab.wait_sessions()? {
        faults.push(format!("the sessions with {name} do not come back"));
    }
    deleted(&mut faults, "after the return of").map_err(watching())?;
    let while_away = format!("while {name} was killed and came back");
    let packets = count(streams, &while_away, &mut faults)?;
    Ok(Outlived { packets, faults })
}

/// Kills the BIRD of the first top-of-rack router, cuts the machine off once no node uses it any more, and brings both back.
///
/// The packets run until it is cut off. When it is back, nodes may use it before it has heard of all their blocks: only a router can know
/// when it is ready.
pub(crate) fn tor(lab: &mut Lab) -> Result<Outlived, LabError> {
    let name = lab.tors[0].site.name.clone();
    let mut faults = Vec::new();
    let streams = start_streams(lab).map_err(LabError::system("start the packets"))?;
    lab.kill_tor(0)
        .map_err(LabError::system(format!("kill BIRD of {name}")))?;
    if lab.wait_converged()?.is_none() {
        faults.push(format!("nodes still use {name} after its BIRD's death"));
    }
    set_ports(lab, Ports::Down).map_err(LabError::system(format!("cut {name} off")))?;
    let watching = || LabError::system("watch the nodes' routes");
    let until = Instant::now() + ABSENCE;
    for (node, monitor) in &mut open_monitors(lab).map_err(watching())? {
        for route in monitor.deleted_until(until).map_err(watching())? {
            faults.push(format!("{node} deleted {route:?} after {name} was cut off"));
        }
    }
    let packets = count(streams, &format!("while {name} was away"), &mut faults)?;
    set_ports(lab, Ports::Up).map_err(LabError::system(format!("connect {name}")))?;
    lab.restart_tor(0)?;
    if lab.wait_converged()?.is_none() {
        faults.push(format!("nodes do not use {name} again"));
    }
    Ok(Outlived { packets, faults })
}

#[derive(Clone, Copy)]
enum Ports {
    Up,
    Down,
}

/// The switches' ends of the first router's cables.
fn set_ports(lab: &Lab, ports: Ports) -> io::Result<()> {
    let name = &lab.tors[0].site.name;
    for rack in &lab.topology.racks {
        let mut netlink = rack.switch.netlink()?;
        let set = match ports {
            Ports::Up => netlink.set_up(name),
            Ports::Down => netlink.set_down(name),
        };
        set.map_err(crate::NetlinkError::into_io)?;
    }
    Ok(())
}

fn count(
    streams: Vec<Stream>,
    when: &str,
    faults: &mut Vec<String>,
) -> Result<PacketCounts, LabError> {
    let mut packets = PacketCounts::default();
    for stream in streams {
        let outcome = stream
            .finish()
            .map_err(LabError::system("count the packets"))?;
        packets.sent += outcome.sent;
        packets.lost += outcome.lost.len() as u64;
        if !outcome.lost.is_empty() {
            faults.push(format!(
                "{}: {} of {} packets lost {when}",
                outcome.name,
                outcome.lost.len(),
                outcome.sent
            ));
        }
    }
    Ok(packets)
}

fn open_monitors(lab: &Lab) -> io::Result<Vec<(String, RouteMonitor)>> {
    let sites = lab.topology.sites.iter();
    sites
        .map(|site| Ok((site.name.clone(), RouteMonitor::open(&site.namespace)?)))
        .collect()
}

/// From the first pod of each node to that of the next, of each family that they have.
fn start_streams(lab: &Lab) -> io::Result<Vec<Stream>> {
    let first_pods: Vec<_> = lab
        .topology
        .sites
        .iter()
        .filter_map(|site| lab.pods.iter().find(|pod| pod.node == site.name))
        .collect();
    let receivers = first_pods.iter().cycle().skip(1);
    let pairs = first_pods.iter().zip(receivers).take(STREAMS_MAX);
    let streams = pairs.flat_map(|(from, to)| Stream::of_families(from, to, PER_SECOND));
    streams.collect()
}
