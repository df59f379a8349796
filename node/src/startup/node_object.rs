//! This node in the cluster: its Node object.

use std::net::{IpAddr, Ipv4Addr};

use api::key::{Key, Kind};
use api::node::{Node, NodeBGPSpec, NodeInterface, NodeSpec};
use api::params::{AddressSource, RouterIdSource, Values, router_id_of_name};
use ipnet::IpNet;

use super::address::{Family, Host, Method, MethodError, with_local_mask};

/// Why the node has no place in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// IP_AUTODETECTION_METHOD cannot be used.
    #[error("IP_AUTODETECTION_METHOD: {0}")]
    Method(#[from] MethodError),
    /// Nothing was detected and nothing is stored.
    #[error(
        "IP: no IPv4 address found with IP_AUTODETECTION_METHOD={method:?} among {interfaces}; set IP to this node's address (10.0.0.5/24), or choose another method"
    )]
    NotDetected {
        /// Method.
        method: String,
        /// The host's interfaces.
        interfaces: String,
    },
    /// No address at all.
    #[error(
        "IP={ip:?}: the node has no IPv4 address, and CALICO_NETWORKING_BACKEND={backend} needs one; set IP to `autodetect` or to this node's address"
    )]
    NoAddress {
        /// As given.
        ip: String,
        /// As given.
        backend: &'static str,
    },
    /// Another node has it.
    #[error(
        "IP: node {other} has the address {address} already; give each node its own, or set DISABLE_NODE_IP_CHECK=true"
    )]
    Duplicate {
        /// The other node.
        other: String,
        /// The address.
        address: String,
    },
    /// No router id.
    #[error(
        "CALICO_ROUTER_ID: not set, and the node has no IPv4 address to take; allowed: `hash` or a dotted quad"
    )]
    NoRouterId,
}

/// The node's IPv4 address with the prefix length of its subnet, and a warning for the log when there is one.
pub fn ipv4_address(
    values: &Values,
    stored: Option<IpNet>,
    host: &dyn Host,
) -> Result<(Option<IpNet>, Option<String>), NodeError> {
    let unlocal = |addr: IpNet| {
        (!is_local(addr.addr(), host))
            .then(|| format!("the node's address {addr} is on none of its interfaces"))
    };
    match (values.ip, stored) {
        (AddressSource::Address(addr), _) => {
            let net = with_local_mask(host, addr.into());
            Ok((Some(net), unlocal(net)))
        }
        (AddressSource::Cidr(net), _) => {
            let net = IpNet::V4(net);
            Ok((Some(net), unlocal(net)))
        }
        (AddressSource::None | AddressSource::Keep, Some(stored)) => {
            Ok((Some(stored), unlocal(stored)))
        }
        (AddressSource::None, None) => Ok((None, None)),
        (AddressSource::Keep | AddressSource::Autodetect, stored) => {
            let method = Method::parse(&values.ip_autodetection_method)?;
            let kept = stored.and_then(|stored| method.keep(host, stored.addr()));
            match (kept.or_else(|| method.detect(host, Family::V4)), stored) {
                (Some(found), _) => Ok((Some(found), without_kubernetes(&method, found))),
                (None, Some(stored)) => Ok((
                    Some(stored),
                    Some(format!(
                        "no IPv4 address detected with {:?}; keeping {stored}",
                        values.ip_autodetection_method
                    )),
                )),
                (None, None) => Err(NodeError::NotDetected {
                    method: values.ip_autodetection_method.clone(),
                    interfaces: named_interfaces(host),
                }),
            }
        }
    }
}

fn without_kubernetes(method: &Method, taken: IpNet) -> Option<String> {
    matches!(method, Method::KubernetesInternalIp).then(|| {
        format!(
            "IP_AUTODETECTION_METHOD=kubernetes-internal-ip: there is no Kubernetes Node to ask; {taken} was found by \
             first-found"
        )
    })
}

/// Whether the address stands on one of the host's interfaces.
pub fn is_local(addr: IpAddr, host: &dyn Host) -> bool {
    let mut nets = host
        .interfaces()
        .iter()
        .flat_map(|interface| &interface.addresses);
    nets.any(|net| net.addr() == addr)
}

fn named_interfaces(host: &dyn Host) -> String {
    let shown: Vec<String> = host
        .interfaces()
        .iter()
        .map(|interface| {
            let addresses: Vec<String> = interface
                .addresses
                .iter()
                .map(ToString::to_string)
                .collect();
            format!("{} ({})", interface.name, addresses.join(", "))
        })
        .collect();
    shown.join(", ")
}

/// The Node object with this start's facts in it; fields of others are kept. `now` is the time of its creation, RFC 3339,
/// if it is new.
pub fn with_facts(
    stored: Option<Node>,
    name: &str,
    ipv4: Option<IpNet>,
    as_number: Option<u32>,
    interfaces: Vec<NodeInterface>,
    now: &str,
) -> Node {
    let mut node = stored.unwrap_or_else(|| {
        let mut new = Node::new(&Key::new(Kind::Node, name), NodeSpec::default());
        new.metadata.creation_timestamp = Some(now.to_owned());
        new
    });
    node.spec.interfaces = interfaces;
    let bgp = node.spec.bgp.get_or_insert_with(NodeBGPSpec::default);
    bgp.ipv4_address = ipv4;
    if as_number.is_some() {
        bgp.as_number = as_number;
    }
    node
}

/// The Node object without its IPv4 address; `None` when it has none.
pub fn without_address(mut node: Node) -> Option<Node> {
    let bgp = node.spec.bgp.as_mut()?;
    bgp.ipv4_address.take()?;
    if *bgp == NodeBGPSpec::default() {
        node.spec.bgp = None;
    }
    Some(node)
}

/// Fails when another node has our address.
pub fn check_duplicate(name: &str, ipv4: Option<IpNet>, nodes: &[Node]) -> Result<(), NodeError> {
    let Some(own) = ipv4 else {
        return Ok(());
    };
    let address = |node: &Node| {
        let bgp = node.spec.bgp.as_ref()?;
        bgp.ipv4_address.map(|net| net.addr())
    };
    match nodes
        .iter()
        .find(|node| node.metadata.name != name && address(node) == Some(own.addr()))
    {
        Some(other) => Err(NodeError::Duplicate {
            other: other.metadata.name.clone(),
            address: own.addr().to_string(),
        }),
        None => Ok(()),
    }
}

/// The BGP Identifier.
pub fn router_id(
    source: RouterIdSource,
    node: &str,
    ipv4: Option<IpNet>,
) -> Result<Ipv4Addr, NodeError> {
    match (source, ipv4) {
        (RouterIdSource::Hash, _) => Ok(router_id_of_name(node)),
        (RouterIdSource::Literal(id), _) => Ok(id),
        (RouterIdSource::NodeAddress, Some(IpNet::V4(net))) => Ok(net.addr()),
        (RouterIdSource::NodeAddress, _) => Err(NodeError::NoRouterId),
    }
}

#[cfg(test)]
mod tests;
