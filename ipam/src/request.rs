//! What is asked of IPAM, and what it answers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::pool::AllowedUse;
use datastore::store::Change;
use ipnet::IpNet;

use crate::time::Timestamp;

/// A request for addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignRequest {
    /// Labels of the node, for the pools' `nodeSelector`.
    pub node_labels: BTreeMap<String, String>,
    /// Labels of the pod's namespace, for the pools' `namespaceSelector`. Without them no pool that has one is used.
    pub namespace_labels: Option<BTreeMap<String, String>>,
    /// Who holds the addresses: `<network>.<container id>` for a pod. Asking again under the same handle gives the same
    /// addresses again.
    pub handle_id: String,
    /// `pod`, `namespace`, `node`, `type`; `node` and `timestamp` are added when absent.
    pub attributes: BTreeMap<String, String>,
    /// What for.
    pub allowed_use: AllowedUse,
    /// Which addresses.
    pub wanted: Wanted,
    /// Now.
    pub now: Timestamp,
}

/// Which addresses are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Any.
    Any {
        /// How many IPv4 addresses.
        ipv4: usize,
        /// How many IPv6 addresses.
        ipv6: usize,
        /// Names or CIDRs of the only pools to use, whatever nodes they select; empty: the pools that select the node.
        pools: Vec<String>,
    },
    /// This one. The block limit, node selectors and namespace selectors are not applied.
    Address(IpAddr),
}

impl Wanted {
    /// One IPv4 address from any pool.
    pub const fn one_ipv4() -> Self {
        Self::Any {
            ipv4: 1,
            ipv6: 0,
            pools: Vec::new(),
        }
    }
}

/// Addresses given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// As /32 and /128, IPv4 first.
    pub addresses: Vec<IpNet>,
    /// Name of the pool of each address, in the order of `addresses`; empty for an address of before whose pool is gone.
    pub pools: Vec<String>,
    /// Blocks this assignment made the node's own.
    pub claimed: Vec<IpNet>,
    /// The handle held all of them before; nothing was written for this request.
    pub existing: bool,
}

/// An outcome, and what was written for it, so that the caller can act on it before its watch delivers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed<T> {
    /// The outcome.
    pub outcome: T,
    /// The changes, in the order in which they were made.
    pub written: Vec<Change>,
}

/// An address to be released, if it is still the one that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseAddress {
    /// Address.
    pub address: IpAddr,
    /// Release only if this handle holds it.
    pub handle_id: Option<String>,
    /// Release only if it was given out at this sequence number of its block.
    pub sequence_number: Option<u64>,
}

/// What a release did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Now free.
    pub released: Vec<IpAddr>,
    /// Were free already.
    pub unallocated: Vec<IpAddr>,
    /// Left alone, and why.
    pub refused: Vec<(IpAddr, ReleaseRefused)>,
}

/// Why an address was not released.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseRefused {
    /// Somebody else holds it.
    #[error("held by handle {holder:?}, expected {expected:?}")]
    Handle {
        /// Who holds it.
        holder: Option<String>,
        /// Who was expected.
        expected: String,
    },
    /// It was released and given out again in the meantime.
    #[error("given out at sequence number {found:?}, expected {expected}")]
    SequenceNumber {
        /// Number stored.
        found: Option<u64>,
        /// Number expected.
        expected: u64,
    },
}
