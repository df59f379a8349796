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
    /// A method of detection cannot be used.
    #[error("{variable}: {source}")]
    Method {
        /// IP_AUTODETECTION_METHOD, or the variable of IPv6.
        variable: &'static str,
        /// Why not.
        source: MethodError,
    },
    /// Nothing was detected and nothing is stored.
    #[error(
        "{variable}: no {family} address found with {variable}_AUTODETECTION_METHOD={method:?} among {interfaces}; set {variable} to this node's address ({example}), or choose another method"
    )]
    NotDetected {
        /// IP or IP6.
        variable: &'static str,
        /// IPv4 or IPv6.
        family: &'static str,
        /// An address for the variable.
        example: &'static str,
        /// Method.
        method: String,
        /// The host's interfaces.
        interfaces: String,
    },
    /// No address at all.
    #[error(
        "IP={ip:?}: the node has neither an IPv4 nor an IPv6 address, and CALICO_NETWORKING_BACKEND={backend} needs one; set IP or IP6 to `autodetect` or to this node's address"
    )]
    NoAddress {
        /// As given.
        ip: String,
        /// As given.
        backend: &'static str,
    },
    /// Another node has it.
    #[error(
        "{variable}: node {other} has the address {address} already; give each node its own, or set DISABLE_NODE_IP_CHECK=true"
    )]
    Duplicate {
        /// IP or IP6.
        variable: &'static str,
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

/// The node's addresses with the prefix lengths of their subnets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Of IPv4.
    pub ipv4: Option<IpNet>,
    /// Of IPv6.
    pub ipv6: Option<IpNet>,
}

impl Addresses {
    /// What a Node object has.
    pub fn of(node: &Node) -> Self {
        node.spec
            .bgp
            .as_ref()
            .map_or_else(Self::default, |bgp| Self {
                ipv4: bgp.ipv4_address,
                ipv6: bgp.ipv6_address,
            })
    }

    /// The address of one family.
    pub const fn get(&self, family: Family) -> Option<IpNet> {
        match family {
            Family::V4 => self.ipv4,
            Family::V6 => self.ipv6,
        }
    }

    /// The families with an address.
    pub fn families(&self) -> Vec<Family> {
        let all = [Family::V4, Family::V6].into_iter();
        all.filter(|family| self.get(*family).is_some()).collect()
    }
}

/// What the environment says about a family's address.
struct Wanted<'a> {
    source: AddressSource,
    method: &'a str,
    variable: &'static str,
    method_variable: &'static str,
    name: &'static str,
    example: &'static str,
}

fn wanted(values: &Values, family: Family) -> Wanted<'_> {
    match family {
        Family::V4 => Wanted {
            source: values.ip,
            method: &values.ip_autodetection_method,
            variable: "IP",
            method_variable: "IP_AUTODETECTION_METHOD",
            name: "IPv4",
            example: "10.0.0.5/24",
        },
        Family::V6 => Wanted {
            // An IPv6 address is looked for only when asked.
            source: match values.ip6 {
                AddressSource::Keep => AddressSource::None,
                asked => asked,
            },
            method: &values.ip6_autodetection_method,
            variable: "IP6",
            method_variable: "IP6_AUTODETECTION_METHOD",
            name: "IPv6",
            example: "fd00::5/64",
        },
    }
}

/// Refuses methods of detection that cannot be used.
pub fn check_methods(values: &Values) -> Result<(), NodeError> {
    method(&wanted(values, Family::V4))?;
    method(&wanted(values, Family::V6)).map(|_| ())
}

fn method(wanted: &Wanted<'_>) -> Result<Method, NodeError> {
    Method::parse(wanted.method).map_err(|source| NodeError::Method {
        variable: wanted.method_variable,
        source,
    })
}

/// The node's address of one family with the prefix length of its subnet, and a warning for the log when there is one.
pub fn address(
    values: &Values,
    family: Family,
    stored: Option<IpNet>,
    host: &dyn Host,
) -> Result<(Option<IpNet>, Option<String>), NodeError> {
    let unlocal = |addr: IpNet| {
        (!is_local(addr.addr(), host))
            .then(|| format!("the node's address {addr} is on none of its interfaces"))
    };
    let wanted = wanted(values, family);
    match (wanted.source, stored) {
        (AddressSource::Address(addr), _) => {
            let net = match family {
                Family::V4 => with_local_mask(host, addr),
                // As calico/node has it: a bare IPv6 address stands for itself alone.
                Family::V6 => IpNet::from(addr),
            };
            Ok((Some(net), unlocal(net)))
        }
        (AddressSource::Cidr(net), _) => Ok((Some(net), unlocal(net))),
        (AddressSource::None | AddressSource::Keep, Some(stored)) => {
            Ok((Some(stored), unlocal(stored)))
        }
        (AddressSource::None, None) => Ok((None, None)),
        (AddressSource::Keep | AddressSource::Autodetect, stored) => {
            let method = method(&wanted)?;
            let kept = stored.and_then(|stored| method.keep(host, stored.addr()));
            match (kept.or_else(|| method.detect(host, family)), stored) {
                (Some(found), _) => {
                    let warning = without_kubernetes(&method, host, &wanted, found);
                    Ok((Some(found), warning))
                }
                (None, Some(stored)) => Ok((
                    Some(stored),
                    Some(format!(
                        "no {} address detected with {:?}; keeping {stored}",
                        wanted.name, wanted.method
                    )),
                )),
                (None, None) => Err(NodeError::NotDetected {
                    variable: wanted.variable,
                    family: wanted.name,
                    example: wanted.example,
                    method: wanted.method.to_owned(),
                    interfaces: named_interfaces(host),
                }),
            }
        }
    }
}

fn without_kubernetes(
    method: &Method,
    host: &dyn Host,
    wanted: &Wanted<'_>,
    taken: IpNet,
) -> Option<String> {
    let asked = matches!(method, Method::KubernetesInternalIp);
    (asked && host.internal_ips().is_none()).then(|| {
        format!(
            "{}=kubernetes-internal-ip: there is no Kubernetes Node to ask; {taken} was found by first-found",
            wanted.method_variable
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

/// What else a start writes into its Node.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// AS number, when one is given.
    pub as_number: Option<u32>,
    /// The host's interfaces.
    pub interfaces: Vec<NodeInterface>,
    /// CALICO_K8S_NODE_REF.
    pub kubernetes_node: Option<&'a str>,
    /// Time of the object's creation, RFC 3339, if it is new.
    pub now: String,
}

/// The Node object with this start's facts in it; fields of others are kept.
pub fn with_facts(
    stored: Option<Node>,
    name: &str,
    addresses: Addresses,
    facts: &Facts<'_>,
) -> Node {
    let mut node = stored.unwrap_or_else(|| {
        let mut new = Node::new(&Key::new(Kind::Node, name), NodeSpec::default());
        new.metadata.creation_timestamp = Some(facts.now.clone());
        new
    });
    node.spec.interfaces.clone_from(&facts.interfaces);
    if let Some(reference) = facts.kubernetes_node {
        let reference = serde_json::json!([{"nodeName": reference, "orchestrator": "k8s"}]);
        node.spec.extra.insert("orchRefs".to_owned(), reference);
    }
    let bgp = node.spec.bgp.get_or_insert_with(NodeBGPSpec::default);
    bgp.ipv4_address = addresses.ipv4;
    bgp.ipv6_address = addresses.ipv6;
    if facts.as_number.is_some() {
        bgp.as_number = facts.as_number;
    }
    node
}

/// The Node object without its address of this family; `None` when it has none.
pub fn without_address(mut node: Node, family: Family) -> Option<Node> {
    let bgp = node.spec.bgp.as_mut()?;
    match family {
        Family::V4 => bgp.ipv4_address.take()?,
        Family::V6 => bgp.ipv6_address.take()?,
    };
    if *bgp == NodeBGPSpec::default() {
        node.spec.bgp = None;
    }
    Some(node)
}

/// Fails when another node has one of our addresses.
pub fn check_duplicate(name: &str, own: Addresses, nodes: &[Node]) -> Result<(), NodeError> {
    for (family, variable) in [(Family::V4, "IP"), (Family::V6, "IP6")] {
        let Some(address) = own.get(family).map(|net| net.addr()) else {
            continue;
        };
        let has_it = |node: &&Node| {
            let other = Addresses::of(node).get(family);
            node.metadata.name != name && other.map(|net| net.addr()) == Some(address)
        };
        if let Some(other) = nodes.iter().find(has_it) {
            return Err(NodeError::Duplicate {
                variable,
                other: other.metadata.name.clone(),
                address: address.to_string(),
            });
        }
    }
    Ok(())
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
