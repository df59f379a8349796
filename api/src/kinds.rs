//! The kinds of resource: one row each. [`Kind`], [`Object`] and all that is told apart by kind come from these rows.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::bgp::{BGPConfiguration, BGPPeer};
use crate::bgp_filter::BGPFilter;
use crate::cluster::ClusterInformation;
use crate::columns::{self, Headings};
use crate::crd::rules::{self, Limits};
use crate::endpoint::WorkloadEndpoint;
use crate::felix::FelixConfiguration;
use crate::ipam::{BlockAffinity, IPAMBlock, IPAMConfig, IPAMHandle, IPReservation};
use crate::metadata::Metadata;
use crate::node::Node;
use crate::node_status::CalicoNodeStatus;
use crate::pool::IPPool;
use crate::service::{EndpointSlice, Service};
use crate::shape::{self, Shape};
use crate::validate::{self, Fault, Naming};

/// What a kind is called, where its objects stand and what they hold.
struct Row {
    name: &'static str,
    plural: &'static str,
    aliases: &'static [&'static str],
    scope: Scope,
    writer: Writer,
    naming: Naming,
    spec: &'static Shape,
    headings: Headings,
    crd: Option<Crd>,
}

/// How a Kubernetes API server keeps the objects of a kind, as Calico's own definitions have it.
pub(crate) struct Crd {
    pub(crate) short_names: &'static [&'static str],
    /// The status is written apart from the rest.
    pub(crate) status: bool,
    /// kubectl's columns.
    pub(crate) columns: &'static [Printed],
    pub(crate) limits: Limits,
}

/// A column of kubectl's: heading, type and JSON path.
pub(crate) struct Printed(
    pub(crate) &'static str,
    pub(crate) &'static str,
    pub(crate) &'static str,
);

#[derive(PartialEq)]
enum Scope {
    Cluster,
    Namespace,
}

/// Who writes the objects of a kind.
#[derive(PartialEq)]
enum Writer {
    /// People, and agents for them to see.
    Shown,
    /// IPAM, for itself.
    Internal,
    /// Others, in kinds of Kubernetes' own: they are only read.
    Kubernetes,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident {
        plural: $plural:literal,
        aliases: $aliases:expr,
        scope: $scope:ident,
        writer: $writer:ident,
        naming: $naming:ident,
        spec: $spec:expr,
        validate: $validate:expr,
        headings: $headings:expr,
        cells: $cells:expr,
        crd: $crd:expr,
    })*) => {
        /// The kinds of resource. The order is the order in which `tortiectl` lists them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        /// An object of any kind.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each variant is its type")]
        pub enum Object {
            $($kind($kind),)*
        }

        const COUNT: usize = [$(Kind::$kind),*].len();

        static TABLE: [Row; COUNT] = [$(Row {
            name: stringify!($kind),
            plural: $plural,
            aliases: &$aliases,
            scope: Scope::$scope,
            writer: Writer::$writer,
            naming: Naming::$naming,
                spec: $spec,
            headings: $headings,
            crd: $crd,
        },)*];

        impl Kind {
            /// Every kind.
            pub const ALL: [Self; COUNT] = [$(Self::$kind),*];
        }

        impl Object {
            pub(crate) fn from_slice(kind: Kind, json: &[u8]) -> Result<Self, serde_json::Error> {
                Ok(match kind {
                    $(Kind::$kind => Self::$kind(serde_json::from_slice(json)?),)*
                })
            }

            pub(crate) fn to_vec(&self) -> Result<Vec<u8>, serde_json::Error> {
                match self {
                    $(Self::$kind(object) => serde_json::to_vec(object),)*
                }
            }

            /// Its kind.
            pub const fn kind(&self) -> Kind {
                match self {
                    $(Self::$kind(_) => Kind::$kind,)*
                }
            }

            /// Its metadata.
            pub const fn metadata(&self) -> &Metadata {
                match self {
                    $(Self::$kind(object) => &object.metadata,)*
                }
            }

            pub(crate) fn validate(&self, faults: &mut Vec<Fault>) {
                match self {
                    $(Self::$kind(object) => ($validate)(object, faults),)*
                }
            }

            /// The cells of an object below its kind's wide headings; a narrow table shows the first of them.
            /// `default_asn` is the AS of nodes that name none.
            pub fn cells(&self, default_asn: u32) -> Vec<String> {
                match self {
                    $(Self::$kind(object) => ($cells)(object, default_asn),)*
                }
            }
        }
    };
}

kinds! {
    /// `IPPool`.
    IPPool {
        plural: "ippools",
        aliases: ["ipp", "ipps", "pool", "pools"],
        scope: Cluster,
        writer: Shown,
        naming: Chosen,
        spec: &shape::IP_POOL,
        validate: validate::pool::check,
        headings: columns::IP_POOL,
        cells: columns::ip_pool,
        crd: Some(Crd {
            short_names: &[],
            status: true,
            columns: &[
                Printed("CIDR", "string", ".spec.cidr"),
                Printed("VXLAN", "string", ".spec.vxlanMode"),
                Printed("IPIP", "string", ".spec.ipipMode"),
                Printed("NAT", "boolean", ".spec.natOutgoing"),
                Printed("Allocatable", "string", ".status.conditions[?(@.type=='Allocatable')].status"),
                Printed("Age", "date", ".metadata.creationTimestamp"),
            ],
            limits: rules::IP_POOL,
        }),
    }
    /// `Node`.
    Node {
        plural: "nodes",
        aliases: ["no", "nos"],
        scope: Cluster,
        writer: Shown,
        naming: Chosen,
        spec: &shape::NODE,
        validate: validate::node::check_node,
        headings: columns::NODE,
        cells: columns::node,
        crd: None,
    }
    /// `BGPConfiguration`.
    BGPConfiguration {
        plural: "bgpconfigurations",
        aliases: ["bgpconfig", "bgpconfigs"],
        scope: Cluster,
        writer: Shown,
        naming: DefaultOrNode,
        spec: &shape::BGP_CONFIGURATION,
        validate: validate::bgp::check_configuration,
        headings: columns::BGP_CONFIGURATION,
        cells: columns::bgp_configuration,
        crd: Some(Crd {
            short_names: &["bgpconfig", "bgpconfigs"],
            status: false,
            columns: &[],
            limits: rules::BGP_CONFIGURATION,
        }),
    }
    /// `BGPPeer`.
    BGPPeer {
        plural: "bgppeers",
        aliases: ["bgpp", "bgpps", "bp", "bps"],
        scope: Cluster,
        writer: Shown,
        naming: Chosen,
        spec: &shape::BGP_PEER,
        validate: validate::bgp::check_peer,
        headings: columns::BGP_PEER,
        cells: columns::bgp_peer,
        crd: Some(Crd {
            short_names: &[],
            status: false,
            columns: &[
                Printed("Node Selector", "string", ".spec.nodeSelector"),
                Printed("Node", "string", ".spec.node"),
                Printed("Local ASN", "string", ".spec.localASNumber"),
                Printed("Peer Selector", "string", ".spec.peerSelector"),
                Printed("Peer IP", "string", ".spec.peerIP"),
                Printed("Peer ASN", "string", ".spec.asNumber"),
            ],
            limits: rules::BGP_PEER,
        }),
    }
    /// `BGPFilter`.
    BGPFilter {
        plural: "bgpfilters",
        aliases: ["bgpf", "bgpfs", "bf", "bfs"],
        scope: Cluster,
        writer: Shown,
        naming: Chosen,
        spec: &shape::BGP_FILTER,
        validate: validate::bgp_filter::check,
        headings: columns::BGP_FILTER,
        cells: columns::bgp_filter,
        crd: Some(Crd {
            short_names: &[],
            status: false,
            columns: &[],
            limits: rules::BGP_FILTER,
        }),
    }
    /// `FelixConfiguration`.
    FelixConfiguration {
        plural: "felixconfigurations",
        aliases: ["felixconfig", "felixconfigs", "fc", "fcs"],
        scope: Cluster,
        writer: Shown,
        naming: Chosen,
        spec: &shape::felix::FELIX_CONFIGURATION,
        validate: validate::felix::check,
        headings: columns::FELIX_CONFIGURATION,
        cells: columns::felix_configuration,
        crd: Some(Crd {
            short_names: &[],
            status: false,
            columns: &[],
            limits: rules::FELIX_CONFIGURATION,
        }),
    }
    /// `ClusterInformation`.
    ClusterInformation {
        plural: "clusterinformations",
        aliases: ["clusterinfo", "clusterinfos", "ci", "cis"],
        scope: Cluster,
        writer: Shown,
        naming: Default,
        spec: &shape::CLUSTER_INFORMATION,
        validate: validate::nothing_more,
        headings: columns::CLUSTER_INFORMATION,
        cells: columns::cluster_information,
        crd: Some(Crd {
            short_names: &["clusterinfo", "clusterinfos"],
            status: false,
            columns: &[
                Printed("Version", "string", ".spec.calicoVersion"),
                Printed("Ready", "boolean", ".spec.datastoreReady"),
                Printed("Types", "string", ".spec.clusterType"),
            ],
            limits: &[],
        }),
    }
    /// `WorkloadEndpoint`, the one kind with a namespace.
    WorkloadEndpoint {
        plural: "workloadendpoints",
        aliases: ["wep", "weps"],
        scope: Namespace,
        writer: Shown,
        naming: Given,
        spec: &shape::WORKLOAD_ENDPOINT,
        validate: validate::node::check_endpoint,
        headings: columns::WORKLOAD_ENDPOINT,
        cells: columns::workload_endpoint,
        crd: None,
    }
    /// `CalicoNodeStatus`.
    CalicoNodeStatus {
        plural: "caliconodestatuses",
        aliases: [],
        scope: Cluster,
        writer: Shown,
        naming: Chosen,
        spec: &shape::CALICO_NODE_STATUS,
        validate: validate::node::check_status,
        headings: columns::CALICO_NODE_STATUS,
        cells: columns::calico_node_status,
        crd: Some(Crd {
            short_names: &[],
            status: true,
            columns: &[
                Printed("Node", "string", ".spec.node"),
                Printed("Classes", "string", ".spec.classes"),
            ],
            limits: &[],
        }),
    }
    /// `IPAMConfig`.
    IPAMConfig {
        plural: "ipamconfigs",
        aliases: ["ipamconfiguration", "ipamconfigurations"],
        scope: Cluster,
        writer: Shown,
        naming: Default,
        spec: &shape::IPAM_CONFIG,
        validate: validate::ipam::check_config,
        headings: columns::IPAM_CONFIG,
        cells: columns::ipam_config,
        crd: Some(Crd {
            short_names: &["ipamconfiguration", "ipamconfigurations"],
            status: false,
            columns: &[
                Printed("StrictAffinity", "boolean", ".spec.strictAffinity"),
                Printed("MaxBlocksPerHost", "integer", ".spec.maxBlocksPerHost"),
                Printed("AutoAllocateBlocks", "boolean", ".spec.autoAllocateBlocks"),
            ],
            limits: rules::IPAM_CONFIG,
        }),
    }
    /// `IPReservation`.
    IPReservation {
        plural: "ipreservations",
        aliases: ["ipr", "iprs", "reservation", "reservations"],
        scope: Cluster,
        writer: Shown,
        naming: Chosen,
        spec: &shape::IP_RESERVATION,
        validate: validate::ipam::check_reservation,
        headings: columns::IP_RESERVATION,
        cells: columns::ip_reservation,
        crd: Some(Crd {
            short_names: &[],
            status: false,
            columns: &[],
            // Whether each of any number of texts is a range is more than an API server will reckon.
            limits: &[],
        }),
    }
    /// `IPAMBlock`.
    IPAMBlock {
        plural: "ipamblocks",
        aliases: ["block", "blocks"],
        scope: Cluster,
        writer: Internal,
        naming: Given,
        spec: &shape::IPAM_BLOCK,
        validate: validate::ipam::check_block,
        headings: columns::IPAM_BLOCK,
        cells: columns::ipam_block,
        crd: Some(Crd {
            short_names: &[],
            status: false,
            columns: &[
                Printed("CIDR", "string", ".spec.cidr"),
                Printed("Affinity", "string", ".spec.affinity"),
                Printed("ClaimTime", "date", ".spec.affinityClaimTime"),
            ],
            limits: &[],
        }),
    }
    /// `BlockAffinity`.
    BlockAffinity {
        plural: "blockaffinities",
        aliases: ["affinity", "affinities"],
        scope: Cluster,
        writer: Internal,
        naming: Given,
        spec: &shape::BLOCK_AFFINITY,
        validate: validate::ipam::check_affinity,
        headings: columns::BLOCK_AFFINITY,
        cells: columns::block_affinity,
        crd: Some(Crd {
            short_names: &["affinity", "affinities"],
            status: false,
            columns: &[
                Printed("CIDR", "string", ".spec.cidr"),
                Printed("Node", "string", ".spec.node"),
                Printed("Type", "string", ".spec.type"),
            ],
            limits: rules::BLOCK_AFFINITY,
        }),
    }
    /// `IPAMHandle`.
    IPAMHandle {
        plural: "ipamhandles",
        aliases: ["handle", "handles"],
        scope: Cluster,
        writer: Internal,
        naming: Given,
        spec: &shape::IPAM_HANDLE,
        validate: validate::ipam::check_handle,
        headings: columns::IPAM_HANDLE,
        cells: columns::ipam_handle,
        crd: Some(Crd {
            short_names: &[],
            status: false,
            columns: &[Printed("ID", "string", ".spec.handleID")],
            limits: &[],
        }),
    }
    /// `Service`, of Kubernetes.
    Service {
        plural: "services",
        aliases: ["svc"],
        scope: Namespace,
        writer: Kubernetes,
        naming: Given,
        spec: &shape::SERVICE,
        validate: validate::nothing_more,
        headings: columns::SERVICE,
        cells: columns::service,
        crd: None,
    }
    /// `EndpointSlice`, of Kubernetes.
    EndpointSlice {
        plural: "endpointslices",
        aliases: [],
        scope: Namespace,
        writer: Kubernetes,
        naming: Given,
        spec: &shape::ENDPOINT_SLICE,
        validate: validate::nothing_more,
        headings: columns::ENDPOINT_SLICE,
        cells: columns::endpoint_slice,
        crd: None,
    }
}

impl Kind {
    fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// As in a manifest: `IPPool`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Lower-case plural, as in a path: `ippools`.
    pub fn plural(self) -> &'static str {
        self.row().plural
    }

    /// Other names that operators type.
    pub fn aliases(self) -> &'static [&'static str] {
        self.row().aliases
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
    pub fn namespaced(self) -> bool {
        self.row().scope == Scope::Namespace
    }

    /// Whether the objects of this kind are nobody's to look at here: IPAM's, or Kubernetes' own.
    pub fn internal(self) -> bool {
        self.row().writer != Writer::Shown
    }

    /// Whether the objects of this kind are Kubernetes' own, and only read.
    pub fn only_read(self) -> bool {
        self.row().writer == Writer::Kubernetes
    }

    /// Headings of the kind's table, as calicoctl has them; [`Object::cells`] stand below.
    pub fn headings(self, wide: bool) -> Vec<&'static str> {
        self.row().headings.list(wide)
    }

    /// `None` when its objects are read from objects of Kubernetes' own kinds.
    pub(crate) fn crd(self) -> Option<&'static Crd> {
        self.row().crd.as_ref()
    }

    pub(crate) fn naming(self) -> Naming {
        self.row().naming
    }

    pub(crate) fn spec(self) -> &'static Shape {
        self.row().spec
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
