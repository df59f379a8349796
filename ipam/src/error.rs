//! Why no address was given, or no block released.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use datastore::store::StoreError;
use ipnet::IpNet;

/// Why no address was given. Nothing was taken for the request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssignError {
    /// No pool may be used. Lasts until pools or labels change.
    #[error("no configured Calico pools{family} for node {node}{}", Reasons(.refused))]
    NoPools {
        /// Node.
        node: String,
        /// Family wanted.
        family: Family,
        /// Each pool of the family, and why it is of no use.
        refused: Vec<(String, PoolRefused)>,
    },
    /// A pool was asked for that does not exist. Lasts.
    #[error(
        "pool {wanted:?}: no IPPool has this name or CIDR; existing: {}",
        existing.join(", ")
    )]
    UnknownPool {
        /// As asked for.
        wanted: String,
        /// Names there are.
        existing: Vec<String>,
    },
    /// The node's blocks are full and it may have no more. Lasts until addresses are released or the limit is raised.
    #[error(
        "node {node}: all {limit} blocks it may own are full (IPAMConfig maxBlocksPerHost, 0 means 20)"
    )]
    BlockLimit {
        /// Node.
        node: String,
        /// Limit in force.
        limit: u32,
    },
    /// The pools that may be used are full. Lasts until addresses are released.
    #[error("no{family} address left for node {node} in pools: {}", pools.join(", "))]
    Exhausted {
        /// Node.
        node: String,
        /// Family wanted.
        family: Family,
        /// Pools looked at.
        pools: Vec<String>,
    },
    /// No pool holds the address asked for. Lasts.
    #[error("address {address}: in no IPPool that is enabled and allows this use{}", Reasons(.refused))]
    NotInPool {
        /// Address.
        address: IpAddr,
        /// The pool that holds it, if any, and why it is of no use.
        refused: Vec<(String, PoolRefused)>,
    },
    /// The address asked for is somebody's. Lasts until it is released.
    #[error("address {address}: in use by handle {}", handle.as_deref().unwrap_or("(none)"))]
    InUse {
        /// Address.
        address: IpAddr,
        /// Who holds it.
        handle: Option<String>,
    },
    /// The address asked for was released too recently.
    #[error(
        "address {address}: was released a moment ago and is kept for {seconds} s more (IPAMConfig ipCooldownSeconds)"
    )]
    Cooling {
        /// Address.
        address: IpAddr,
        /// How much longer.
        seconds: u64,
    },
    /// The address asked for is in a block that must not be used by this node. Lasts.
    #[error(
        "address {address}: its block {block} belongs to {owner}, and IPAMConfig strictAffinity is true"
    )]
    ForeignBlock {
        /// Address.
        address: IpAddr,
        /// Its block.
        block: IpNet,
        /// `host:<node>`, or `nobody`.
        owner: String,
    },
    /// The block that the address asked for would be in lies over another block. Lasts until that one is gone.
    #[error(
        "address {address}: its block {block} would overlap block {other}; allowed: blocks without common addresses"
    )]
    Overlap {
        /// Address.
        address: IpAddr,
        /// Block of the pool's size.
        block: IpNet,
        /// Block that stands there.
        other: IpNet,
    },
    /// An object that is needed makes no sense. Lasts until it is repaired.
    #[error("{object}: {reason}")]
    Corrupt {
        /// Its kind and name.
        object: String,
        /// What is wrong.
        reason: Arc<str>,
    },
    /// Others changed the same objects again and again. Retryable.
    #[error("gave up after {attempts} attempts: others keep changing the same objects")]
    Contended {
        /// Attempts.
        attempts: u32,
    },
    /// The store failed. Retryable as the source says; after [`StoreError::Unavailable`] the addresses may have been
    /// taken: asking again under the same handle gives them, releasing the handle frees them.
    #[error("reading or writing addresses failed")]
    Store(#[from] StoreError),
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of `address`.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => " IPv4",
            Self::V6 => " IPv6",
        })
    }
}

/// Why a pool is of no use for a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolRefused {
    /// `disabled: true`.
    #[error("disabled")]
    Disabled,
    /// It has a deletion timestamp.
    #[error("being deleted")]
    Terminating,
    /// Its condition `Allocatable` is False.
    #[error("not allocatable ({0})")]
    NotAllocatable(String),
    /// Its `allowedUses` lack the use.
    #[error("allowedUses does not contain {0}")]
    Use(&'static str),
    /// `assignmentMode: Manual` and it was not asked for.
    #[error("assignmentMode is Manual and it was not asked for by name")]
    Manual,
    /// Its `nodeSelector` does not match.
    #[error("nodeSelector {0:?} does not match the node's labels")]
    NodeSelector(String),
    /// Its `namespaceSelector` does not match.
    #[error("namespaceSelector {0:?} does not match the namespace's labels")]
    NamespaceSelector(String),
    /// A selector is unreadable: the pool is not used rather than used for everybody.
    #[error("selector {selector:?}: {reason}")]
    BadSelector {
        /// Selector.
        selector: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Its block size is no prefix length within the pool.
    #[error("blockSize {0} does not fit its CIDR")]
    BlockSize(u8),
    /// Its mode of encapsulation is not the one a tunnel address is for.
    #[error("does not use this encapsulation")]
    Encapsulation,
}

struct Reasons<'a>(&'a [(String, PoolRefused)]);

impl fmt::Display for Reasons<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (pool, reason)) in self.0.iter().enumerate() {
            write!(f, "{} {pool}: {reason}", if index == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}
