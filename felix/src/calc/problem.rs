//! Why something the operator asked for is not done.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use api::key::{Key, Kind};
use ipnet::IpNet;

use super::next_hop::NextHopLoss;
use super::peers::SecretRef;

/// The least MTU of a device with IPv6 (RFC 8200 §5).
pub(super) const IPV6_MTU_MIN: u32 = 1280;

/// What a [`Problem`] is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// An object.
    Object(Key),
    /// A route.
    Prefix(IpNet),
    /// This node's own tunnel device.
    Device(&'static str),
    /// A next hop of BGP routes.
    NextHop(IpAddr),
    /// All objects of a kind.
    Kind(Kind),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(key) => key.fmt(f),
            Self::Prefix(prefix) => write!(f, "route {prefix}"),
            Self::Device(name) => write!(f, "device {name}"),
            Self::NextHop(next_hop) => write!(f, "next hop {next_hop}"),
            Self::Kind(kind) => f.write_str(kind.name()),
        }
    }
}

/// Something skipped: object, field and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// What is concerned.
    pub subject: Subject,
    /// Its field, as in the manifest; empty when it is the whole.
    pub field: &'static str,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            subject,
            field,
            reason,
        } = self;
        if field.is_empty() {
            write!(f, "{subject}: {reason}")
        } else {
            write!(f, "{subject}: {field}: {reason}")
        }
    }
}

/// Why something is skipped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The object cannot be used; the reader's words.
    Invalid(Arc<str>),
    /// Another object has the same value and was first.
    Duplicate {
        /// The value.
        value: String,
        /// The object that has it.
        of: Key,
    },
    /// There is no IPAMBlock for this node's BlockAffinity, so the range is not announced.
    NoBlock {
        /// Its range.
        range: IpNet,
    },
    /// The IPAMBlock of this node's BlockAffinity belongs to another, so the range is not announced.
    BlockOfAnother {
        /// Owner's node name; absent when nobody owns it.
        owner: Option<String>,
    },
    /// The block shares addresses with a block of another owner, so it is not announced as a whole.
    Overlaps {
        /// The other block.
        other: Key,
    },
    /// A pod here has an address of a range that Kubernetes has given to another node.
    RangeOfAnother {
        /// The pod's.
        address: IpAddr,
        /// Where it lies.
        range: IpNet,
        /// The other node's name.
        node: String,
    },
    /// The node that owns the block has no Node object with an address of this family.
    OwnerUnknown {
        /// The node's name.
        node: String,
    },
    /// The owner's tunnel address is not known.
    OwnerHasNoTunnelAddress {
        /// The node's name.
        node: String,
    },
    /// The pool's former tunnel is used, as BGP knows no way.
    NotByBgp,
    /// No next hop of the BGP route leads anywhere.
    NextHopUnreachable {
        /// The next hops.
        next_hops: Vec<IpAddr>,
    },
    /// Packets for the next hop go nowhere.
    NextHopLost(NextHopLoss),
    /// This node's Node object lacks what is needed.
    OwnNodeLacks {
        /// The field.
        field: &'static str,
    },
    /// No device of the host carries the node's address.
    NoParent {
        /// The address.
        address: IpAddr,
    },
    /// No pool covers a block that is in use.
    NoPool,
    /// A setting asks for a larger MTU than packets between nodes can have.
    MtuTooLarge {
        /// The variable.
        setting: &'static str,
        /// Bytes asked for.
        asked: u32,
        /// Bytes used.
        used: u32,
    },
    /// IPv6 cannot be used over a tunnel of such an MTU.
    MtuTooSmall {
        /// The variable that could ask for more.
        setting: &'static str,
        /// Bytes that there are.
        used: u32,
    },
    /// The pool lies within another one that treats packets otherwise.
    Inside {
        /// The pool's range.
        range: IpNet,
        /// The other's.
        outer_range: IpNet,
        /// The other one.
        outer: Key,
    },
    /// The field is known but not supported; acting without it would be wrong.
    Unsupported,
    /// The password is not known, and without it the session is not wanted.
    PasswordMissing {
        /// Where it should stand.
        secret: SecretRef,
        /// Why it could not be read, and where it was looked for.
        why: Option<Arc<str>>,
    },
    /// The password cannot be read any more; the last known one stays in use.
    PasswordStale {
        /// Where it should stand.
        secret: SecretRef,
        /// Why it cannot be read, and where it was looked for.
        why: Arc<str>,
    },
    /// A BGPFilter does not exist or is not valid, and without it the session is not wanted.
    FilterMissing {
        /// Its name.
        name: String,
    },
    /// An explicit peer has the address of a mesh peer and takes its place.
    ReplacesMeshPeer {
        /// The address.
        address: IpAddr,
    },
    /// Other Node objects have the node's address.
    AddressShared {
        /// The address.
        address: IpAddr,
        /// Their names.
        others: Vec<String>,
        /// The one of them all that sessions are made for.
        holder: String,
    },
    /// The datastore refuses to say which objects of the kind there are.
    KindRefused {
        /// In its words.
        why: Arc<str>,
    },
    /// Two peers at one address have passwords that differ.
    PasswordDiffers {
        /// The address.
        address: IpAddr,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(why) => f.write_str(why),
            Self::Duplicate { value, of } => write!(f, "{value} is taken by {of}"),
            Self::NoBlock { range } => write!(
                f,
                "there is no IPAMBlock {range}, and an affinity alone is not announced"
            ),
            Self::BlockOfAnother { owner } => write!(
                f,
                "its IPAMBlock belongs to {}, so it is not announced",
                owner.as_deref().unwrap_or("nobody")
            ),
            Self::Overlaps { other } => write!(
                f,
                "shares addresses with {other} of another owner; only addresses in use are announced, one by one"
            ),
            Self::RangeOfAnother {
                address,
                range,
                node,
            } => write!(
                f,
                "{address} is of {range}, the range that Kubernetes has given to node {node:?}, which may give it to a pod of its \
                 own: make this pod anew"
            ),
            Self::OwnerUnknown { node } => {
                write!(f, "owner {node:?} has no Node object with an address")
            }
            Self::OwnerHasNoTunnelAddress { node } => {
                write!(f, "owner {node:?} has no tunnel address yet")
            }
            Self::NotByBgp => {
                f.write_str("BGP knows no way: through the tunnel of the pool's former mode, as long as the nodes keep it")
            }
            Self::NextHopUnreachable { next_hops } => {
                let hops: Vec<String> = next_hops.iter().map(ToString::to_string).collect();
                write!(f, "no route to the next hop {}", hops.join(", "))
            }
            Self::NextHopLost(loss) => write!(f, "unreachable: {loss}"),
            Self::OwnNodeLacks { field } => write!(f, "this node's Node object has no {field}"),
            Self::NoParent { address } => {
                write!(
                    f,
                    "no device of this host carries the node's address {address}"
                )
            }
            Self::NoPool => f.write_str(
                "no pool covers this block of this node any more: its pods are reached until they are gone, and no new \
                 one gets an address of it",
            ),
            Self::MtuTooLarge {
                setting,
                asked,
                used,
            } => write!(
                f,
                "{setting}={asked} is more than the host's devices carry less the tunnel's header; {used} is used"
            ),
            Self::MtuTooSmall { setting, used } => write!(
                f,
                "its MTU would be {used}, and IPv6 needs at least {IPV6_MTU_MIN}: the device is not used for IPv6, and pods with an \
                 IPv6 address are refused; set {setting} to 0 or at least {IPV6_MTU_MIN}, and give the host's devices room for \
                 the tunnel's header"
            ),
            Self::Inside {
                range,
                outer_range,
                outer,
            } => write!(
                f,
                "{range} must not overlap {outer}, whose spec.cidr is {outer_range} and whose ipipMode or vxlanMode is another: \
                 this pool's is used for {range}"
            ),
            Self::Unsupported => f.write_str("not supported, so the whole object is left out"),
            Self::PasswordMissing { secret, why } => {
                write!(
                    f,
                    "no password is known for {secret}, so the session is held down"
                )?;
                why.iter().try_for_each(|why| write!(f, ": {why}"))
            }
            Self::PasswordStale { secret, why } => write!(
                f,
                "the password of {secret} cannot be read any more, and the last known one stays in use: {why}"
            ),
            Self::FilterMissing { name } => write!(
                f,
                "there is no valid BGPFilter {name:?}, so the session is held down"
            ),
            Self::AddressShared {
                address,
                others,
                holder,
            } => write!(
                f,
                "{address} is also the address of Node {}; sessions are made for {holder:?}, the oldest that an agent wrote",
                others.join(", ")
            ),
            Self::KindRefused { why } => write!(
                f,
                "cannot be read, so addresses of Services are announced as before, and none by itself that was not; ranges are not \
                 concerned: {why}. The rule that allows it is in manifests/base/rbac.yaml"
            ),
            Self::PasswordDiffers { address } => write!(
                f,
                "another peer at {address} has another password, and the kernel keeps one for an address: connections from there need that one"
            ),
            Self::ReplacesMeshPeer { address } => {
                write!(f, "takes the place of the mesh session to {address}")
            }
        }
    }
}
