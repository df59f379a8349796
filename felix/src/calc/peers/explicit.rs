//! Peers that a BGPPeer names for this node.

use std::net::{IpAddr, SocketAddr};

use api::bgp::{BGPPeerSpec, PeerAddress};
use api::key::Key;
use api::selector::Selector;
use bgp::config::PeerConfig;
use bgp::types::Asn;

use super::super::host::Host;
use super::super::problem::Reason;
use super::{Builder, DEFAULT_PORT, Refusal, Remote, Scope, problem, refusal, session};

impl Builder<'_> {
    pub(super) fn forward(&mut self) {
        for wanted in [Scope::Global, Scope::Node] {
            let inputs = self.inputs;
            for (key, peer) in super::in_order(inputs.peers) {
                if Scope::of(&peer.spec) == wanted
                    && peer.spec.local_workload_selector.is_empty()
                    && let Err(Refusal { field, reason }) = self.forward_peer(key, &peer.spec)
                {
                    self.problems.push(problem(key, field, reason));
                }
            }
        }
    }

    fn forward_peer(&mut self, key: &Key, spec: &BGPPeerSpec) -> Result<(), Refusal> {
        if !self.has_peer(spec, &self.inputs.settings.node_name, self.own)? {
            return Ok(());
        }
        let mut held = Ok(());
        for remote in self.remotes(spec)? {
            let at = SocketAddr::new(remote.address, remote.port);
            let Some(mut config) = self.session(&remote, Some(spec)) else {
                continue;
            };
            if !self.is_free(key, &remote) {
                continue;
            }
            self.taken.insert(at, key.clone());
            match self
                .complete(key, spec, &mut config)
                .and_then(|()| gateway(spec))
            {
                Ok(gateway) => {
                    if let Some(gateway) = gateway {
                        self.gateways.entry(remote.address).or_insert(gateway);
                    }
                    let name = session::peer_name(Scope::of(spec).class(), &remote);
                    self.peers.insert(name, config);
                }
                Err(refusal) => held = Err(refusal),
            }
        }
        held
    }

    /// Whether no object before this one has the address and port; told otherwise.
    pub(super) fn is_free(&mut self, key: &Key, remote: &Remote) -> bool {
        let at = SocketAddr::new(remote.address, remote.port);
        let Some(of) = self.taken.get(&at) else {
            return true;
        };
        let reason = Reason::Duplicate {
            value: at.to_string(),
            of: of.clone(),
        };
        self.problems.push(problem(key, "spec.peerIP", reason));
        false
    }

    /// Gives a session what it must not be without. A session that is held down for lack of it still has its address:
    /// the mesh would go without.
    pub(super) fn complete(
        &mut self,
        key: &Key,
        spec: &BGPPeerSpec,
        config: &mut PeerConfig,
    ) -> Result<(), Refusal> {
        config.password = self.password(key, spec)?;
        if let Some(peer) = self.inputs.peers.get(key) {
            super::options::apply(&peer.options, config)?;
        }
        let filters = self.inputs.filters_of(spec)?;
        self.apply_filters(&filters, config)
    }

    /// Whether a node is one of those that have the peer.
    pub(super) fn has_peer(
        &self,
        spec: &BGPPeerSpec,
        name: &str,
        host: &Host,
    ) -> Result<bool, Refusal> {
        if !spec.node.is_empty() {
            return Ok(spec.node == name);
        }
        if spec.node_selector.is_empty() {
            return Ok(true);
        }
        let selector = parse_selector("spec.nodeSelector", &spec.node_selector)?;
        Ok(selector.matches(&host.labels))
    }

    fn remotes(&self, spec: &BGPPeerSpec) -> Result<Vec<Remote>, Refusal> {
        if spec.peer_selector.is_empty() {
            self.addressed(spec).map(|remote| vec![remote])
        } else {
            self.selected_nodes(spec)
        }
    }

    fn addressed(&self, spec: &BGPPeerSpec) -> Result<Remote, Refusal> {
        let PeerAddress { addr, port } = parse_peer_ip(&spec.peer_ip)?;
        let asn = spec.as_number.filter(|asn| *asn != 0).ok_or_else(|| {
            let why = "missing: a peer given by address needs its AS number, 1 to 4294967295";
            refusal("spec.asNumber", Reason::Invalid(why.into()))
        })?;
        let Some(own) = self.own_address(addr) else {
            let field = match addr {
                IpAddr::V4(_) => "spec.bgp.ipv4Address",
                IpAddr::V6(_) => "spec.bgp.ipv6Address",
            };
            return Err(refusal("spec.peerIP", Reason::OwnNodeLacks { field }));
        };
        let node = self.node_at(addr, port);
        Ok(Remote {
            address: addr,
            port: port
                .or_else(|| node.map(|(name, _)| self.inputs.listen_port(name)))
                .unwrap_or(DEFAULT_PORT),
            named_port: port,
            asn: Asn(asn),
            // Calico knows it only of peers by selector, so that the two ends of a session may disagree.
            cluster_id: node.and_then(|(_, host)| host.cluster_id),
            passive: Scope::of(spec) == Scope::Global
                && node.is_some()
                && addr.to_string() > own.to_string(),
        })
    }

    fn selected_nodes(&self, spec: &BGPPeerSpec) -> Result<Vec<Remote>, Refusal> {
        let selector = parse_selector("spec.peerSelector", &spec.peer_selector)?;
        let own = &self.inputs.settings.node_name;
        Ok(self
            .inputs
            .hosts
            .iter()
            .filter(|(name, host)| *name != own && selector.matches(&host.labels))
            .flat_map(|(name, host)| self.node_remotes(name, host))
            .collect())
    }
}

/// By which gateway the peer is reached; `None` when the host knows itself.
fn gateway(spec: &BGPPeerSpec) -> Result<Option<IpAddr>, Refusal> {
    let Some(text) = &spec.reachable_by else {
        return Ok(None);
    };
    let peer = PeerAddress::parse(&spec.peer_ip).map(|peer| peer.addr);
    let of_its_family = |gateway: &IpAddr| peer.is_some_and(|at| at.is_ipv4() == gateway.is_ipv4());
    let gateway = text.parse().ok().filter(of_its_family).ok_or_else(|| {
        let why = format!("{text:?}: must be an address of the same family as spec.peerIP");
        refusal("spec.reachableBy", Reason::Invalid(why.into()))
    })?;
    Ok(Some(gateway))
}

pub(super) fn parse_peer_ip(text: &str) -> Result<PeerAddress, Refusal> {
    PeerAddress::parse(text).ok_or_else(|| {
        let why = format!("{text:?}: must be an address, IPv4:port or [IPv6]:port");
        refusal("spec.peerIP", Reason::Invalid(why.into()))
    })
}

pub(super) fn parse_selector(field: &'static str, text: &str) -> Result<Selector, Refusal> {
    Selector::parse(text).map_err(|error| refusal(field, Reason::Invalid(error.to_string().into())))
}
