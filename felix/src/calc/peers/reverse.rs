//! The other end of a BGPPeer between two nodes: one object makes both of them configure the session.
//!
//! Unless `reversePeering` is `Manual`, a node that a BGPPeer of another node means, by selector or by address and AS, has
//! a session back to every node that has the peer. What a BGPPeer names for the node itself counts before that.

use std::net::SocketAddr;

use api::bgp::BGPPeerSpec;
use api::key::Key;
use bgp::types::Asn;

use super::explicit::{parse_peer_ip, parse_selector};
use super::{Builder, Refusal, Remote, Scope, problem, session};

impl Builder<'_> {
    pub(super) fn reverse(&mut self) {
        let inputs = self.inputs;
        for (key, peer) in super::in_order(inputs.peers) {
            if let Err(Refusal { field, reason }) = self.reverse_peer(key, &peer.spec) {
                let problem = problem(key, field, reason);
                // A node on both ends has told it already.
                if !self.problems.contains(&problem) {
                    self.problems.push(problem);
                }
            }
        }
    }

    fn reverse_peer(&mut self, key: &Key, spec: &BGPPeerSpec) -> Result<(), Refusal> {
        let mode = spec.extra.get("reversePeering");
        let of_pods = !spec.local_workload_selector.is_empty();
        if mode.and_then(|mode| mode.as_str()) == Some("Manual")
            || of_pods
            || !self.is_meant(spec)?
        {
            return Ok(());
        }
        let mut held = Ok(());
        let mirrored = mirrored(spec);
        for remote in self.near_nodes(spec)? {
            let at = SocketAddr::new(remote.address, remote.port);
            if self.taken.contains_key(&at) {
                continue;
            }
            let Some(mut config) = self.session(&remote, Some(&mirrored)) else {
                continue;
            };
            self.taken.insert(at, key.clone());
            match self.complete(key, spec, &mut config) {
                Ok(()) => {
                    let name = session::peer_name(Scope::Node.class(), &remote);
                    self.peers.insert(name, config);
                }
                Err(refusal) => held = Err(refusal),
            }
        }
        held
    }

    /// Whether this node is what the object calls the peer.
    fn is_meant(&self, spec: &BGPPeerSpec) -> Result<bool, Refusal> {
        if !spec.peer_selector.is_empty() {
            let selector = parse_selector("spec.peerSelector", &spec.peer_selector)?;
            return Ok(selector.matches(&self.own.labels));
        }
        if spec.peer_ip.is_empty() {
            return Ok(false);
        }
        let peer = parse_peer_ip(&spec.peer_ip)?;
        let cluster = self.inputs.global_asn();
        let asn = spec.as_number.filter(|asn| *asn != 0).unwrap_or(cluster);
        let listens = self.inputs.listen_port(&self.inputs.settings.node_name);
        Ok(self.own_address(peer.addr) == Some(peer.addr)
            && asn == self.asn.0
            && peer.port.is_none_or(|port| port == listens))
    }

    /// The nodes that have the peer, but for this one; of an object with an address, in that family only.
    fn near_nodes(&self, spec: &BGPPeerSpec) -> Result<Vec<Remote>, Refusal> {
        let family = match spec.peer_ip.as_str() {
            "" => None,
            text => Some(parse_peer_ip(text)?.addr.is_ipv4()),
        };
        let mut remotes = Vec::new();
        for (name, host) in self.inputs.hosts {
            if *name == self.inputs.settings.node_name || !self.has_peer(spec, name, host)? {
                continue;
            }
            for mut remote in self.node_remotes(name, host) {
                if family.is_some_and(|v4| v4 != remote.address.is_ipv4()) {
                    continue;
                }
                // The near node presents this AS on the session; Calico expects its own one, and no session comes up.
                if let Some(asn) = spec.local_as_number {
                    remote.asn = Asn(asn);
                }
                remotes.push(remote);
            }
        }
        Ok(remotes)
    }
}

/// What holds for the far end as well: all but the AS numbers, which are the near end's.
fn mirrored(spec: &BGPPeerSpec) -> BGPPeerSpec {
    BGPPeerSpec {
        local_as_number: None,
        num_allowed_local_as_numbers: None,
        ..spec.clone()
    }
}
