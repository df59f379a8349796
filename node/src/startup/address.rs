//! Which address is the node's: literal, given with its prefix, or detected.
//!
//! The prefix length kept here is the definition of "same subnet" for CrossSubnet, so a bare literal takes the mask of
//! the interface that has it.

use std::net::IpAddr;
use std::sync::LazyLock;

use ipnet::IpNet;
use regex::Regex;

/// An interface of the host, up or down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostInterface {
    /// Name.
    pub name: String,
    /// Kernel index: interfaces are visited from the highest down.
    pub ifindex: u32,
    /// Addresses with prefix length, host bits kept.
    pub addresses: Vec<IpNet>,
}

/// What detection may ask of the host.
pub trait Host: Sync {
    /// All interfaces, in the kernel's order.
    fn interfaces(&self) -> &[HostInterface];
    /// The local address the kernel would use towards `destination` (a name or an address).
    fn source_towards(&self, destination: &str, family: Family) -> Option<IpAddr>;
    /// The InternalIPs of the Kubernetes Node; `None` outside of Kubernetes.
    fn internal_ips(&self) -> Option<&[IpAddr]> {
        None
    }
    /// Whether the kernel has IPv6.
    fn has_ipv6(&self) -> bool {
        true
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the variants are the families")]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Interfaces detection never looks at (`first-found`, `skip-interface`), and that a Node's list leaves out.
static EXCLUDED: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(EXCLUDED_NAMES).expect("a constant that the tests compile"));

const EXCLUDED_NAMES: &str = concat!(
    "^docker.*|^cbr.*|^dummy.*|^podman.*|^virbr.*|^lxcbr.*|^veth.*|^lo|^br-.*|^cali.*|^tunl.*|^flannel.*|",
    "^kube-ipvs.*|^cni.*|^vxlan\\.calico.*|^vxlan-v6\\.calico.*|^wireguard\\.cali.*|^wg-v6\\.cali.*|^nodelocaldns.*"
);

/// Why a method of detection cannot be used at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MethodError {
    /// No such method.
    #[error(
        "{0:?} is no method: first-found, interface=REGEX,…, skip-interface=REGEX,…, cidr=CIDR,…, can-reach=DESTINATION \
         and kubernetes-internal-ip are"
    )]
    Unknown(String),
    /// A regular expression does not parse.
    #[error("{text:?} is no regular expression: {reason}")]
    Regex {
        /// As given.
        text: String,
        /// The parser's words.
        reason: String,
    },
    /// A CIDR does not parse.
    #[error("{0:?} is no CIDR (10.0.0.0/8)")]
    Cidr(String),
    /// A method lacks what stands after `=`.
    #[error("{0:?} names nothing after the `=`")]
    Empty(String),
}

/// A method of detection.
#[derive(Clone, Debug)]
pub enum Method {
    /// First address in visiting order, default exclusions apply.
    FirstFound,
    /// Interfaces whose name matches; default exclusions do not apply.
    Interface(Regex),
    /// As `FirstFound`, these left out too.
    SkipInterface(Regex),
    /// First address inside one of these.
    Cidr(Vec<IpNet>),
    /// The source address of a packet to this destination.
    CanReach(String),
    /// The first InternalIP of the Kubernetes Node; outside of Kubernetes as `FirstFound`.
    KubernetesInternalIp,
}

impl Method {
    /// Reads a method: IP_AUTODETECTION_METHOD's value, empty for the default.
    pub fn parse(text: &str) -> Result<Self, MethodError> {
        if text.is_empty() || text == "first-found" {
            return Ok(Self::FirstFound);
        }
        if text == "kubernetes-internal-ip" {
            return Ok(Self::KubernetesInternalIp);
        }
        let (method, rest) = text
            .split_once('=')
            .ok_or_else(|| MethodError::Unknown(text.to_owned()))?;
        let parts: Vec<&str> = rest
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .collect();
        if parts.is_empty() {
            return Err(MethodError::Empty(text.to_owned()));
        }
        match method {
            "interface" => any_of(&parts).map(Self::Interface),
            "skip-interface" => any_of(&parts).map(Self::SkipInterface),
            "cidr" => parts
                .iter()
                .map(|part| {
                    part.parse()
                        .map_err(|_| MethodError::Cidr((*part).to_owned()))
                })
                .collect::<Result<_, _>>()
                .map(Self::Cidr),
            "can-reach" => Ok(Self::CanReach(rest.trim().to_owned())),
            _ => Err(MethodError::Unknown(text.to_owned())),
        }
    }

    /// The node's address of one family by this method.
    pub fn detect(&self, host: &dyn Host, family: Family) -> Option<IpNet> {
        self.among(host, family, |_| true)
    }

    /// An address as it stands on the host now, if it stands there and the method allows it: another one that the method
    /// would rather take, such as a newer interface's or a virtual router's, is no reason to leave it.
    pub fn keep(&self, host: &dyn Host, addr: IpAddr) -> Option<IpNet> {
        let standing = self.among(host, Family::of(addr), |found| found == addr)?;
        let local = host.interfaces().iter();
        let mut addresses = local.flat_map(|interface| &interface.addresses);
        addresses.any(|net| *net == standing).then_some(standing)
    }

    fn among(
        &self,
        host: &dyn Host,
        family: Family,
        wanted: impl Fn(IpAddr) -> bool + Copy,
    ) -> Option<IpNet> {
        match self {
            Self::FirstFound => first(host, family, |name| !EXCLUDED.is_match(name), wanted),
            Self::KubernetesInternalIp => match host.internal_ips() {
                Some(addresses) => {
                    let mut addresses = addresses.iter().copied();
                    let internal = addresses.find(|addr| Family::of(*addr) == family)?;
                    wanted(internal).then(|| with_local_mask(host, internal))
                }
                None => Self::FirstFound.among(host, family, wanted),
            },
            Self::Interface(regex) => first(host, family, |name| regex.is_match(name), wanted),
            Self::SkipInterface(regex) => first(
                host,
                family,
                |name| !EXCLUDED.is_match(name) && !regex.is_match(name),
                wanted,
            ),
            Self::Cidr(cidrs) => first(
                host,
                family,
                |_| true,
                |addr| wanted(addr) && cidrs.iter().any(|cidr| cidr.contains(&addr)),
            ),
            Self::CanReach(destination) => {
                let source = host.source_towards(destination, family)?;
                wanted(source).then(|| with_local_mask(host, source))
            }
        }
    }
}

/// One regular expression that matches what any of `parts` matches. Each must be valid by itself.
fn any_of(parts: &[&str]) -> Result<Regex, MethodError> {
    for part in parts {
        Regex::new(part).map_err(|error| MethodError::Regex {
            text: (*part).to_owned(),
            reason: error.to_string(),
        })?;
    }
    let joined = format!("({})", parts.join(")|("));
    Regex::new(&joined).map_err(|error| MethodError::Regex {
        text: joined.clone(),
        reason: error.to_string(),
    })
}

/// The first address in visiting order (highest interface index first) that counts.
fn first(
    host: &dyn Host,
    family: Family,
    interface: impl Fn(&str) -> bool,
    wanted: impl Fn(IpAddr) -> bool,
) -> Option<IpNet> {
    let mut interfaces: Vec<&HostInterface> = host.interfaces().iter().collect();
    interfaces.sort_by_key(|interface| std::cmp::Reverse(interface.ifindex));
    interfaces
        .into_iter()
        .filter(|candidate| interface(&candidate.name))
        .flat_map(|candidate| &candidate.addresses)
        .find(|net| {
            let addr = net.addr();
            Family::of(addr) == family && global_unicast(addr) && wanted(addr)
        })
        .copied()
}

/// Neither link-local, loopback, multicast, broadcast nor unspecified.
fn global_unicast(addr: IpAddr) -> bool {
    let link_local = match addr {
        IpAddr::V4(addr) => addr.is_link_local() || addr.is_broadcast(),
        IpAddr::V6(addr) => addr.is_unicast_link_local(),
    };
    !(link_local || addr.is_loopback() || addr.is_multicast() || addr.is_unspecified())
}

/// `addr` with the prefix length of the interface that has it; a host prefix when none has.
pub fn with_local_mask(host: &dyn Host, addr: IpAddr) -> IpNet {
    host.interfaces()
        .iter()
        .flat_map(|interface| &interface.addresses)
        .find(|net| net.addr() == addr)
        .copied()
        .unwrap_or_else(|| IpNet::from(addr))
}

/// Whether an interface is one of the host's own rather than of containers or tunnels.
pub(super) fn counts(interface: &HostInterface) -> bool {
    !EXCLUDED.is_match(&interface.name)
}

/// The interfaces a Node object lists: sorted by name, default exclusions, addresses that are not global and those of
/// families the node has no address of left out.
pub fn listed_interfaces(host: &dyn Host, families: &[Family]) -> Vec<api::node::NodeInterface> {
    let mut listed: Vec<_> = host
        .interfaces()
        .iter()
        .filter(|interface| counts(interface))
        .map(|interface| api::node::NodeInterface {
            name: interface.name.clone(),
            addresses: interface
                .addresses
                .iter()
                .map(IpNet::addr)
                .filter(|addr| global_unicast(*addr) && families.contains(&Family::of(*addr)))
                .collect(),
        })
        .filter(|interface| !interface.addresses.is_empty())
        .collect();
    listed.sort();
    listed
}

#[cfg(test)]
mod tests;
