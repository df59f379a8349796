//! BGP sessions as the kernel sees them: established TCP connections on port 179 (RFC 4271 §8.2.1), each end counted.

use std::io;
use std::net::IpAddr;

use crate::cluster::Lab;
use crate::netlink::Connection;
use crate::netns::NetNs;
use crate::topology::Site;

/// Port of BGP.
pub(crate) const BGP_PORT: u16 = 179;

/// One node's view of its session with another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionEnd {
    /// The node that was looked at.
    pub node: String,
    /// The other node.
    pub peer: String,
    /// Address of the other node.
    pub peer_address: IpAddr,
    /// Whether a connection is established.
    pub established: bool,
    /// Why that is not known, when the kernel did not answer.
    pub unreadable: Option<String>,
}

impl SessionEnd {
    pub(crate) fn fault(&self) -> Option<String> {
        let Self {
            node,
            peer,
            peer_address,
            established,
            unreadable,
        } = self;
        let what = match unreadable {
            Some(error) => format!("not known: the sockets of {node} cannot be read: {error}"),
            None if *established => return None,
            None => "not established".to_owned(),
        };
        Some(format!("session {node} -> {peer} ({peer_address}) {what}"))
    }
}

/// Both ends of every session: of the full mesh, or of each node with each living reflector and of those with each other; of those with
/// living top-of-rack routers the node's end.
pub(crate) fn read(lab: &Lab) -> Vec<SessionEnd> {
    places(lab).iter().flat_map(Place::read).collect()
}

/// Whether all ends are established, the machine of number `first` looked at first. Looks no further than the first that has an end
/// missing, and leaves its number there: while a mesh comes up, that one's sockets answer for all.
pub(crate) fn all_established(lab: &Lab, first: &mut usize) -> bool {
    let places = places(lab);
    let count = places.len();
    for step in 0..count {
        let at = (*first + step) % count;
        if !places[at].read().iter().all(|end| end.established) {
            *first = at;
            return false;
        }
    }
    true
}

/// A machine and whom it should have sessions with, by name and address.
struct Place<'a> {
    site: &'a Site,
    peers: Vec<(String, IpAddr)>,
}

fn places(lab: &Lab) -> Vec<Place<'_>> {
    let living = lab
        .reflectors
        .iter()
        .filter(|reflector| reflector.is_alive());
    let reflectors: Vec<&Site> = living.map(|reflector| &reflector.site).collect();
    let nodes: Vec<&Site> = lab.topology.sites.iter().collect();
    let everybody = [nodes.as_slice(), reflectors.as_slice()].concat();
    let peers_of = |site: &Site, peers: &[&Site]| -> Vec<(String, IpAddr)> {
        let others = peers.iter().filter(|peer| peer.name != site.name);
        others
            .flat_map(|peer| peer.addresses().map(|address| (peer.name.clone(), address)))
            .collect()
    };
    let of_node = |site: &'_ Site| {
        let mut peers = if lab.options.reflectors > 0 {
            peers_of(site, &reflectors)
        } else if lab.options.tors == 0 {
            peers_of(site, &nodes)
        } else {
            Vec::new()
        };
        let living = lab.tors.iter().filter(|tor| tor.is_alive());
        peers.extend(living.flat_map(|tor| {
            let addresses = tor.addresses_in(site.rack).iter();
            addresses.map(|address| (tor.site.name.clone(), *address))
        }));
        peers
    };
    let of_nodes = nodes.iter().map(|site| Place {
        site,
        peers: of_node(site),
    });
    let of_reflectors = reflectors.iter().map(|site| Place {
        site,
        peers: peers_of(site, &everybody),
    });
    of_nodes.chain(of_reflectors).collect()
}

impl Place<'_> {
    fn read(&self) -> Vec<SessionEnd> {
        let connected = established_peers(&self.site.namespace);
        let ends = self
            .peers
            .iter()
            .map(|(peer, address)| end(&self.site.name, peer, *address, &connected));
        ends.collect()
    }
}

fn end(node: &str, peer: &str, address: IpAddr, found: &io::Result<Vec<IpAddr>>) -> SessionEnd {
    SessionEnd {
        node: node.to_owned(),
        peer: peer.to_owned(),
        peer_address: address,
        established: found.as_ref().is_ok_and(|peers| peers.contains(&address)),
        unreadable: found.as_ref().err().map(io::Error::to_string),
    }
}

/// The remote addresses of all established connections with port 179 at either end.
///
/// # Errors
/// What the kernel answers.
pub fn established_peers(namespace: &NetNs) -> io::Result<Vec<IpAddr>> {
    let mut peers = bgp_peers(&namespace.established()?);
    peers.sort_unstable();
    Ok(peers)
}

fn bgp_peers(connections: &[Connection]) -> Vec<IpAddr> {
    connections
        .iter()
        .filter(|connection| [connection.local_port, connection.remote_port].contains(&BGP_PORT))
        .map(|connection| connection.remote)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 10, 1, 12));

    #[test]
    fn a_connection_of_another_port_or_from_another_peer_is_no_session() {
        let connection = |local_port, remote_port| Connection {
            local_port,
            remote: PEER,
            remote_port,
        };
        let found = [connection(179, 4711), connection(4712, 179)];
        assert_eq!(bgp_peers(&found), [PEER, PEER]);
        assert!(bgp_peers(&[connection(80, 1790)]).is_empty());
        let end_with = |peers: Vec<IpAddr>| end("n1", "n2", PEER, &Ok(peers)).fault();
        assert_eq!(end_with(vec![PEER]), None);
        let missing = "session n1 -> n2 (10.10.1.12) not established";
        assert_eq!(end_with(vec![]).as_deref(), Some(missing));
        let other = IpAddr::from([10, 10, 1, 13]);
        assert_eq!(end_with(vec![other]).as_deref(), Some(missing));
    }

    #[test]
    fn sockets_that_cannot_be_read_are_no_sessions() {
        let error = Err(io::Error::other("refused"));
        let fault = end("n1", "n2", PEER, &error).fault().expect("a fault");
        assert!(fault.contains("not known: the sockets of n1 cannot be read: refused"));
    }
}
