//! Names of resources.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kinds of resource. The order is the order in which `tortiectl` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// `IPPool`.
    IPPool,
    /// `Node`.
    Node,
    /// `BGPConfiguration`.
    BGPConfiguration,
    /// `BGPPeer`.
    BGPPeer,
    /// `BGPFilter`.
    BGPFilter,
    /// `FelixConfiguration`.
    FelixConfiguration,
    /// `ClusterInformation`.
    ClusterInformation,
    /// `WorkloadEndpoint`, the one kind with a namespace.
    WorkloadEndpoint,
    /// `IPAMConfig`.
    IPAMConfig,
    /// `IPAMBlock`.
    IPAMBlock,
    /// `BlockAffinity`.
    BlockAffinity,
    /// `IPAMHandle`.
    IPAMHandle,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::IPPool,
        Self::Node,
        Self::BGPConfiguration,
        Self::BGPPeer,
        Self::BGPFilter,
        Self::FelixConfiguration,
        Self::ClusterInformation,
        Self::WorkloadEndpoint,
        Self::IPAMConfig,
        Self::IPAMBlock,
        Self::BlockAffinity,
        Self::IPAMHandle,
    ];

    /// As in a manifest: `IPPool`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IPPool => "IPPool",
            Self::Node => "Node",
            Self::BGPConfiguration => "BGPConfiguration",
            Self::BGPPeer => "BGPPeer",
            Self::BGPFilter => "BGPFilter",
            Self::FelixConfiguration => "FelixConfiguration",
            Self::ClusterInformation => "ClusterInformation",
            Self::WorkloadEndpoint => "WorkloadEndpoint",
            Self::IPAMConfig => "IPAMConfig",
            Self::IPAMBlock => "IPAMBlock",
            Self::BlockAffinity => "BlockAffinity",
            Self::IPAMHandle => "IPAMHandle",
        }
    }

    /// Lower-case plural, as in a path: `ippools`.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::IPPool => "ippools",
            Self::Node => "nodes",
            Self::BGPConfiguration => "bgpconfigurations",
            Self::BGPPeer => "bgppeers",
            Self::BGPFilter => "bgpfilters",
            Self::FelixConfiguration => "felixconfigurations",
            Self::ClusterInformation => "clusterinformations",
            Self::WorkloadEndpoint => "workloadendpoints",
            Self::IPAMConfig => "ipamconfigs",
            Self::IPAMBlock => "ipamblocks",
            Self::BlockAffinity => "blockaffinities",
            Self::IPAMHandle => "ipamhandles",
        }
    }

    /// The kind of this name, as in a manifest.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The kind of this lower-case plural, as in a path.
    pub fn from_plural(plural: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.plural() == plural)
    }

    /// Whether objects of this kind live in a namespace.
    pub const fn namespaced(self) -> bool {
        matches!(self, Self::WorkloadEndpoint)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of one object: kind, namespace (empty unless the kind has one) and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// Kind.
    pub kind: Kind,
    /// Namespace, or the empty string.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// A cluster-scoped object.
    pub fn new(kind: Kind, name: impl Into<String>) -> Self {
        Self {
            kind,
            namespace: String::new(),
            name: name.into(),
        }
    }

    /// An object in a namespace.
    pub fn namespaced(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}({})", self.kind, self.name)
        } else {
            write!(f, "{}({}/{})", self.kind, self.namespace, self.name)
        }
    }
}
