//! What packets look like on their way: between nodes, and beyond the cluster.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::time::Instant;

use crate::cluster::Lab;
use crate::netns::NetNs;
use crate::options::Path;
use crate::probe::capture::{Capture, Content, Packet};
use crate::runtime::Pod;
use crate::topology::Site;
use crate::wait;

/// Calico's VXLAN network identifier.
const VNI: u32 = 4096;
/// Where the machine outside of the cluster is plugged in: the last octet of its address, and the rack.
const WORLD: (u8, u8) = (250, 1);

/// Looks at a cluster of two racks with three nodes or more and a pod on each: how packets between nodes travel while everybody pings
/// everybody, and which source a machine beyond the cluster sees. What is wrong, in words.
///
/// # Errors
/// What the kernel answers.
pub fn faults(lab: &Lab) -> io::Result<Vec<String>> {
    let [first, second, third] = &lab.topology.sites[..3] else {
        return Err(io::Error::other("three nodes"));
    };
    let switch = &lab.topology.racks[usize::from(first.rack) - 1].switch;
    let mut at_router = Capture::open(&lab.topology.router)?;
    let mut at_switch = Capture::open(switch)?;
    let mut faults = lab.prove().faults;
    let (across, within) = (at_router.drain()?, at_switch.drain()?);
    for (packets, to) in [(&across, second), (&within, third)] {
        faults.extend(between(lab, packets, first, to));
    }
    faults.extend(outside(lab, first)?);
    Ok(faults)
}

fn pod_of<'a>(lab: &'a Lab, site: &Site) -> &'a Pod {
    let mut pods = lab.pods.iter();
    pods.find(|pod| pod.node == site.name)
        .expect("every node has a pod")
}

/// Of each family every packet between the first pods of two nodes must travel as the mode has it.
fn between(lab: &Lab, packets: &[Packet], from: &Site, to: &Site) -> Vec<String> {
    let (sender, receiver) = (pod_of(lab, from), pod_of(lab, to));
    let addresses = sender.addresses().zip(receiver.addresses());
    let wrong = addresses.filter_map(|pods| {
        let nodes = (from.address_like(pods.0), to.address_like(pods.0));
        let seen: BTreeSet<Way> = (packets.iter())
            .filter_map(|packet| way(packet, nodes, pods))
            .collect();
        let mode = lab.options.mode_of(pods.0);
        let expected = BTreeSet::from([Way::Right(mode.path(from.rack == to.rack).into())]);
        let (from, to) = (&from.name, &to.name);
        (seen != expected).then(|| {
            format!(
                "packets from {} to {} ({from} to {to}) travel {seen:?}, expected {expected:?}",
                pods.0, pods.1
            )
        })
    });
    wrong.collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Right(Tunnel),
    /// In a tunnel, but not from node to node, or in VXLAN of another identifier.
    Wrong(Tunnel),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tunnel {
    None,
    Vxlan,
    Ipip,
}

impl From<Path> for Tunnel {
    fn from(path: Path) -> Self {
        match path {
            Path::Plain => Self::None,
            Path::Vxlan => Self::Vxlan,
            Path::Ipip => Self::Ipip,
        }
    }
}

/// How a packet between these pods travels; `None` for any other.
fn way(packet: &Packet, nodes: (IpAddr, IpAddr), pods: (IpAddr, IpAddr)) -> Option<Way> {
    let of_pods = |packet: &Packet| (packet.source, packet.destination) == pods;
    if of_pods(packet) {
        return Some(Way::Right(Tunnel::None));
    }
    let (tunnel, right) = match &packet.content {
        Content::Vxlan {
            vni,
            inner: Some(inner),
        } if of_pods(inner) => (Tunnel::Vxlan, *vni == VNI),
        Content::Ipip(inner) if of_pods(inner) => (Tunnel::Ipip, packet.protocol == 4),
        _ => return None,
    };
    if right && (packet.source, packet.destination) == nodes {
        Some(Way::Right(tunnel))
    } else {
        Some(Way::Wrong(tunnel))
    }
}

/// A machine that knows nothing of pods must see the node where the pool says so: that of IPv4, and that of IPv6 once it is told to.
fn outside(lab: &Lab, node: &Site) -> io::Result<Vec<String>> {
    let (host, rack) = WORLD;
    let world = lab.topology.attach("world", host, rack)?;
    let pod = pod_of(lab, node);
    let mut faults = Vec::new();
    for address in pod.addresses() {
        let there = socket(&world.namespace, world.address_like(address))?;
        there.set_read_timeout(Some(lab.options.patience))?;
        let sees = |wanted: IpAddr| -> Option<String> {
            let mut last = None;
            let deadline = Instant::now() + lab.options.patience;
            // A flow that is known keeps its translation: each look is a new one.
            let seen = wait::until(deadline, || {
                last = seen(&pod.namespace, address, &there).ok();
                (last == Some(wanted)).then_some(())
            });
            let told =
                || format!("from {address} the world sees a packet of {last:?}, not {wanted}");
            seen.is_none().then(told)
        };
        if address.is_ipv6() {
            faults.extend(sees(address));
            let patch = r#"{"spec":{"natOutgoing":true}}"#;
            lab.patch_as_operator("ippool", "default-ipv6-ippool", patch)
                .map_err(io::Error::other)?;
        }
        faults.extend(sees(node.address_like(address)));
    }
    // What leaves no pool keeps its source, with the translation of both families on.
    faults.extend(lab.prove().faults);
    Ok(faults)
}

fn socket(namespace: &NetNs, address: IpAddr) -> io::Result<UdpSocket> {
    namespace.run(|| UdpSocket::bind((address, 0)))
}

/// The source of a packet that a pod sends.
fn seen(pod: &NetNs, address: IpAddr, there: &UdpSocket) -> io::Result<IpAddr> {
    socket(pod, address)?.send_to(b"hello", there.local_addr()?)?;
    Ok(there.recv_from(&mut [0; 16])?.1.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(source: [u8; 4], destination: [u8; 4], protocol: u8, content: Content) -> Packet {
        Packet {
            source: source.into(),
            destination: destination.into(),
            protocol,
            content,
        }
    }

    #[test]
    fn a_packet_in_another_tunnel_or_between_others_than_the_nodes_is_seen_as_such() {
        let (a, b) = ([192, 168, 0, 1], [192, 168, 0, 2]);
        let (n, m) = ([10, 10, 1, 11], [10, 10, 2, 12]);
        let (pods, nodes) = ((a.into(), b.into()), (n.into(), m.into()));
        let bare = packet(a, b, 1, Content::Other);
        let inner = || Box::new(bare.clone());
        let vxlan = |vni| Content::Vxlan {
            vni,
            inner: Some(inner()),
        };
        for (packet, expected) in [
            (bare.clone(), Some(Way::Right(Tunnel::None))),
            (packet(b, a, 1, Content::Other), None),
            (
                packet(n, m, 17, vxlan(4096)),
                Some(Way::Right(Tunnel::Vxlan)),
            ),
            (packet(n, m, 17, vxlan(1)), Some(Way::Wrong(Tunnel::Vxlan))),
            (
                packet(n, [10, 10, 1, 1], 17, vxlan(4096)),
                Some(Way::Wrong(Tunnel::Vxlan)),
            ),
            (
                packet(n, m, 4, Content::Ipip(inner())),
                Some(Way::Right(Tunnel::Ipip)),
            ),
            (
                packet(m, n, 4, Content::Ipip(inner())),
                Some(Way::Wrong(Tunnel::Ipip)),
            ),
        ] {
            assert_eq!(way(&packet, nodes, pods), expected, "{packet:?}");
        }
    }
}
