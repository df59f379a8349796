//! BGP sessions as the kernel sees them: established TCP connections on port 179 (RFC 4271 §8.2.1), each end counted.

use std::net::Ipv4Addr;

use crate::cluster::Lab;
use crate::netns::NetNs;
use crate::topology::Site;

/// Port of BGP.
pub(crate) const BGP_PORT: u16 = 179;
/// `TCP_ESTABLISHED` as /proc/net/tcp prints it.
const ESTABLISHED: &str = "01";

/// One node's view of its session with another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionEnd {
    /// The node that was looked at.
    pub node: String,
    /// The other node.
    pub peer: String,
    /// Address of the other node.
    pub peer_address: Ipv4Addr,
    /// Whether a connection is established.
    pub established: bool,
}

impl SessionEnd {
    pub(crate) fn fault(&self) -> Option<String> {
        let Self {
            node,
            peer,
            peer_address,
            established,
        } = self;
        (!established).then(|| format!("session {node} -> {peer} ({peer_address}) not established"))
    }
}

/// Both ends of every session: of the full mesh, or of each node with each living reflector and of those with each other; of those with
/// living top-of-rack routers the node's end.
pub(crate) fn read(lab: &Lab) -> Vec<SessionEnd> {
    let living = lab
        .reflectors
        .iter()
        .filter(|reflector| reflector.is_alive());
    let reflectors: Vec<&Site> = living.map(|reflector| &reflector.site).collect();
    let nodes: Vec<&Site> = lab.topology.sites.iter().collect();
    let everybody = [nodes.as_slice(), reflectors.as_slice()].concat();
    let mut ends = Vec::new();
    for site in &nodes {
        if lab.options.reflectors > 0 {
            ends_of(site, &reflectors, &mut ends);
        } else if lab.options.tors == 0 {
            ends_of(site, &nodes, &mut ends);
        }
        ends_with_tors(lab, site, &mut ends);
    }
    for site in &reflectors {
        ends_of(site, &everybody, &mut ends);
    }
    ends
}

fn ends_of(site: &Site, peers: &[&Site], ends: &mut Vec<SessionEnd>) {
    let connected = established_peers(&site.namespace);
    let others = peers.iter().filter(|peer| peer.name != site.name);
    ends.extend(others.map(|peer| SessionEnd {
        node: site.name.clone(),
        peer: peer.name.clone(),
        peer_address: peer.address,
        established: connected.contains(&peer.address),
    }));
}

fn ends_with_tors(lab: &Lab, site: &Site, ends: &mut Vec<SessionEnd>) {
    let connected = established_peers(&site.namespace);
    let living = lab.tors.iter().filter(|tor| tor.is_alive());
    ends.extend(living.map(|tor| {
        let peer_address = tor.address_in(site.rack);
        SessionEnd {
            node: site.name.clone(),
            peer: tor.site.name.clone(),
            peer_address,
            established: connected.contains(&peer_address),
        }
    }));
}

/// The remote addresses of all established connections with port 179 at either end.
#[must_use]
pub fn established_peers(namespace: &NetNs) -> Vec<Ipv4Addr> {
    let (v4, v6) = namespace.run(|| {
        // An IPv6 socket that listens for both families carries IPv4 connections too, listed in the other file.
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        (
            read("/proc/thread-self/net/tcp"),
            read("/proc/thread-self/net/tcp6"),
        )
    });
    v4.lines()
        .chain(v6.lines())
        .filter_map(parse_line)
        .collect()
}

/// `sl local:port remote:port state …`, addresses as hexadecimal 32-bit words in host order.
fn parse_line(line: &str) -> Option<Ipv4Addr> {
    let mut fields = line.split_whitespace().skip(1);
    let (_, local_port) = parse_endpoint(fields.next()?)?;
    let (remote, remote_port) = parse_endpoint(fields.next()?)?;
    let established = fields.next()? == ESTABLISHED;
    (established && (local_port == BGP_PORT || remote_port == BGP_PORT)).then_some(remote)
}

fn parse_endpoint(text: &str) -> Option<(Ipv4Addr, u16)> {
    let (address, port) = text.split_once(':')?;
    // The last word of an IPv4-mapped IPv6 address is the IPv4 address.
    let word = address.get(address.len().checked_sub(8)?..)?;
    let address = u32::from_str_radix(word, 16).ok()?;
    Some((
        Ipv4Addr::from(address.to_ne_bytes()),
        u16::from_str_radix(port, 16).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn established_connections_of_port_179_are_found_in_both_families() {
        let v4 = "   1: 0B010A0A:00B3 0C010A0A:D431 01 00000000:00000000 00:00000000 00000000     0        0 1 1";
        let v6 = "   0: 0000000000000000FFFF00000B010A0A:D431 0000000000000000FFFF00000D010A0A:00B3 01 0:0";
        assert_eq!(parse_line(v4), Some(Ipv4Addr::new(10, 10, 1, 12)));
        assert_eq!(parse_line(v6), Some(Ipv4Addr::new(10, 10, 1, 13)));
    }

    #[test]
    fn listening_sockets_and_other_ports_are_no_sessions() {
        assert_eq!(parse_line("   0: 00000000:00B3 00000000:0000 0A 0:0"), None);
        assert_eq!(parse_line("   1: 0B010A0A:0050 0C010A0A:D431 01 0:0"), None);
    }
}
