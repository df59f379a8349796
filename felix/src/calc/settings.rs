//! What the graph must know besides the objects of the cluster.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use api::params::{
    self, Backend, EndpointToHostAction, NatOutgoingExclusions, ProgramClusterRoutes,
    RouterIdSource, ServiceLoopPrevention, Values,
};
use ipnet::IpNet;

use crate::desired::{Checksums, RouteKey, RowKey};
use crate::ownership::{BgpRoutes, ExternalRoutes, Ownership, PROTOCOL_BOOT, TABLE_MAIN};

/// Where routes to other nodes' blocks come from, by the encapsulation of their pool. VXLAN pools are always routed from
/// the blocks themselves, prefixes outside every pool always from BGP. Names and meaning of Felix's
/// `programClusterRoutes`; what Felix would not own, BGP does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClusterRoutes {
    /// IPIP and plain pools from blocks.
    Enabled,
    /// IPIP and plain pools from BGP.
    Disabled,
    /// IPIP pools from blocks, plain ones from BGP.
    #[default]
    EnabledIpipOnly,
    /// Plain pools from blocks, IPIP ones from BGP.
    EnabledNoEncapOnly,
}

impl ClusterRoutes {
    /// BGPConfiguration's word; one of a newer release is none.
    pub(super) fn of_bgp(word: &str) -> Option<Self> {
        match word {
            "Enabled" => Some(Self::Enabled),
            "Disabled" => Some(Self::Disabled),
            "EnabledIPIPOnly" => Some(Self::EnabledIpipOnly),
            "EnabledNoEncapOnly" => Some(Self::EnabledNoEncapOnly),
            _ => None,
        }
    }

    /// Whether IPIP pools are among them.
    pub(super) const fn ipip(self) -> bool {
        matches!(self, Self::Enabled | Self::EnabledIpipOnly)
    }

    /// Whether pools without tunnel are among them.
    pub(super) const fn plain(self) -> bool {
        matches!(self, Self::Enabled | Self::EnabledNoEncapOnly)
    }
}

/// Next hops of a BGP route, as many as Calico's speaker gives the kernel.
const MULTIPATH: u16 = 16;

/// Which learned routes are advertised to peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LearnedRoutes {
    /// Those inside pools that are exported: what a node does.
    #[default]
    InPools,
    /// Also those outside every pool: for a reflector that knows no pools.
    All,
}

/// Own addresses that the speaker listens on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listen {
    /// All, unless BGPConfiguration's `bindMode` is `NodeIP`.
    #[default]
    Everywhere,
    /// The node's only: several speakers may share a machine.
    NodeAddresses,
}

/// Which parts of the pools are each node's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BlocksFrom {
    /// IPAM's blocks.
    #[default]
    Ipam,
    /// The ranges that Kubernetes gives to nodes; IPAM's objects are not looked at.
    PodCidrs,
}

/// Destinations outside all pools that pods reach under their own addresses all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NatExclusions {
    /// None.
    #[default]
    PoolsOnly,
    /// The cluster's nodes.
    PoolsAndHosts,
}

/// What settings follow from besides parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFacts {
    /// `net/ipv4/conf/default/rp_filter`.
    pub rp_filter: Arc<str>,
    /// Whether it has IPv6 at all.
    pub has_ipv6: bool,
    /// Whether it has next-hop objects (since Linux 5.3).
    pub has_next_hop_objects: bool,
    /// Whether hardware gets the checksums of what VXLAN devices send wrong (until Linux 5.7).
    pub breaks_checksums: bool,
}

impl Default for KernelFacts {
    /// Of a kernel that cannot be asked.
    fn default() -> Self {
        Self {
            rp_filter: Arc::from("1"),
            has_ipv6: false,
            has_next_hop_objects: false,
            breaks_checksums: false,
        }
    }
}

/// Settings of one node.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node's name.
    pub node_name: String,
    /// What carries packets between nodes.
    pub backend: Backend,
    /// Protocol number of workload routes and of VXLAN tunnel routes; other than 3, of all routes but BGP's.
    pub device_route_protocol: u8,
    /// Names of pods' devices begin with one of these.
    pub interface_prefixes: Vec<String>,
    /// Foreign routes on pods' devices.
    pub external_routes: ExternalRoutes,
    /// VXLAN network identifier.
    pub vxlan_vni: u32,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// Overrides what the pools say.
    pub vxlan_enabled: Option<bool>,
    /// MTU of the VXLAN device; from the parent's when absent.
    pub vxlan_mtu_bytes: Option<u32>,
    /// MTU of the VXLAN device of IPv6; from the parent's when absent.
    pub vxlan_mtu_v6_bytes: Option<u32>,
    /// Whether the kernel gets checksums of VXLAN devices wrong that it leaves to hardware.
    pub kernel_breaks_checksums: bool,
    /// Who computes them.
    pub vxlan_checksums: Checksums,
    /// Overrides what the pools say.
    pub ipip_enabled: Option<bool>,
    /// MTU of the IPIP device; from the parent's when absent.
    pub ipip_mtu_bytes: Option<u32>,
    /// Who routes to other nodes' blocks.
    pub cluster_routes: ClusterRoutes,
    /// Ranges that tunnel packets are taken from besides the nodes' addresses.
    pub external_nodes: Vec<IpNet>,
    /// Whether pods may send to their own node.
    pub pods_reach_host: bool,
    /// What happens to forwarded packets to Services' addresses that nobody translated.
    pub service_loops: ServiceLoopPrevention,
    /// Whether pods that ask for it send under prefixes that are not theirs.
    pub source_spoofing: bool,
    /// Whether pods are reached under floating addresses.
    pub floating_ips: bool,
    /// Whether pods may send packets to VXLAN's port.
    pub vxlan_from_pods: bool,
    /// Whether pods may send packets in IPIP.
    pub ipip_from_pods: bool,
    /// Metric of workload routes and of routes from BGP.
    pub normal_route_metric: u32,
    /// `src` of IPv4 workload routes.
    pub device_route_source: Option<Ipv4Addr>,
    /// `src` of IPv6 workload routes.
    pub device_route_source6: Option<Ipv6Addr>,
    /// Turn on forwarding between interfaces.
    pub ip_forwarding: bool,
    /// Whether the kernel has IPv6, wanted or not.
    pub has_ipv6: bool,
    /// Whether anything of IPv6 is written into the kernel or announced.
    pub ipv6_support: bool,
    /// What pods' devices get as `rp_filter`: what `conf.default.rp_filter` was when the agent started, else `1`.
    pub rp_filter: Arc<str>,
    /// What NAT-outgoing leaves alone besides pools.
    pub nat_exclusions: NatExclusions,
    /// The address that NAT-outgoing gives; that of the device by which a packet leaves when absent.
    pub nat_address: Option<Ipv4Addr>,
    /// The ports that NAT gives TCP and UDP; the kernel's choice when absent.
    pub nat_ports: Option<RangeInclusive<u16>>,
    /// NAT-outgoing is for packets that leave by such a device: a name, or a beginning with `+`. All when absent.
    pub nat_interface: Option<Arc<str>>,
    /// BGP Identifier.
    pub router_id: RouterIdSource,
    /// How long a restarted speaker waits for each peer's routes.
    pub deferral_time: Duration,
    /// Most equal BGP paths used side by side for one prefix: 1 for the best only.
    pub multipath: u16,
    /// Which learned routes are advertised to peers.
    pub learned_routes: LearnedRoutes,
    /// Whether addresses of Services are announced: not by a reflector, where no packet for them could be translated.
    pub announces_services: bool,
    /// Ranges of Services' cluster addresses, in the place of BGPConfiguration's.
    pub service_cluster_ranges: Vec<IpNet>,
    /// Which own addresses the speaker listens on when BGPConfiguration does not say it.
    pub listen: Listen,
    /// Where nodes' blocks come from.
    pub blocks_from: BlocksFrom,
    /// How many routes with one BGP next hop are worth a next-hop object of the kernel; `None` where it has none.
    pub next_hop_object_routes: Option<usize>,
}

/// For so many routes the time to write each of them when their next hop moves is worth an object.
const NEXT_HOP_OBJECT_ROUTES: usize = 1000;

impl Settings {
    /// Calico's defaults.
    pub fn new(node_name: impl Into<String>) -> Self {
        Self {
            node_name: node_name.into(),
            backend: Backend::Bgp,
            device_route_protocol: PROTOCOL_BOOT,
            interface_prefixes: vec!["cali".to_owned()],
            external_routes: ExternalRoutes::Remove,
            vxlan_vni: 4096,
            vxlan_port: 4789,
            vxlan_enabled: None,
            vxlan_mtu_bytes: None,
            vxlan_mtu_v6_bytes: None,
            kernel_breaks_checksums: false,
            vxlan_checksums: Checksums::AsIs,
            ipip_enabled: None,
            ipip_mtu_bytes: None,
            cluster_routes: ClusterRoutes::default(),
            normal_route_metric: 1024,
            device_route_source: None,
            device_route_source6: None,
            ip_forwarding: true,
            has_ipv6: true,
            ipv6_support: true,
            rp_filter: Arc::from("1"),
            nat_exclusions: NatExclusions::default(),
            nat_address: None,
            nat_ports: None,
            nat_interface: None,
            external_nodes: Vec::new(),
            pods_reach_host: false,
            service_loops: ServiceLoopPrevention::Drop,
            source_spoofing: false,
            floating_ips: false,
            vxlan_from_pods: false,
            ipip_from_pods: false,
            router_id: RouterIdSource::NodeAddress,
            deferral_time: Duration::from_secs(120),
            multipath: MULTIPATH,
            learned_routes: LearnedRoutes::default(),
            announces_services: true,
            service_cluster_ranges: Vec::new(),
            listen: Listen::default(),
            blocks_from: BlocksFrom::default(),
            next_hop_object_routes: None,
        }
    }

    /// From the environment.
    pub fn from_params(
        node_name: impl Into<String>,
        values: &Values,
        kernel: &KernelFacts,
    ) -> Self {
        let some = |bytes: u32| (bytes != 0).then_some(bytes);
        Self {
            backend: values.backend,
            device_route_protocol: values.device_route_protocol,
            interface_prefixes: values.interface_prefixes.clone(),
            external_routes: if values.remove_external_routes {
                ExternalRoutes::Remove
            } else {
                ExternalRoutes::Keep
            },
            vxlan_vni: values.vxlan_vni,
            vxlan_port: values.vxlan_port,
            vxlan_enabled: values.vxlan_enabled,
            vxlan_mtu_bytes: some(values.vxlan_mtu_bytes),
            vxlan_mtu_v6_bytes: some(values.vxlan_mtu_v6_bytes),
            kernel_breaks_checksums: kernel.breaks_checksums,
            vxlan_checksums: match values.checksum_offload_broken {
                Some(true) => Checksums::Kernel,
                None if kernel.breaks_checksums => Checksums::Kernel,
                Some(false) | None => Checksums::AsIs,
            },
            ipip_enabled: values.ipip_enabled,
            ipip_mtu_bytes: some(values.ipip_mtu_bytes),
            cluster_routes: match values.program_cluster_routes {
                ProgramClusterRoutes::Enabled => ClusterRoutes::Enabled,
                ProgramClusterRoutes::Disabled => ClusterRoutes::Disabled,
                ProgramClusterRoutes::EnabledIpipOnly => ClusterRoutes::EnabledIpipOnly,
                ProgramClusterRoutes::EnabledNoEncapOnly => ClusterRoutes::EnabledNoEncapOnly,
            },
            device_route_source: values.device_route_source,
            device_route_source6: values.device_route_source6,
            ip_forwarding: values.ip_forwarding,
            has_ipv6: kernel.has_ipv6,
            ipv6_support: values.ipv6_support && kernel.has_ipv6,
            nat_exclusions: match values.nat_outgoing_exclusions {
                NatOutgoingExclusions::IpPoolsOnly => NatExclusions::PoolsOnly,
                NatOutgoingExclusions::IpPoolsAndHostIps => NatExclusions::PoolsAndHosts,
            },
            nat_address: values.nat_outgoing_address,
            nat_ports: values.nat_ports.clone(),
            nat_interface: values.nat_interface_filter.as_deref().map(Arc::from),
            external_nodes: values.external_nodes.clone(),
            pods_reach_host: values.endpoint_to_host != EndpointToHostAction::Drop,
            service_loops: values.service_loop_prevention,
            source_spoofing: values.source_spoofing,
            floating_ips: values.floating_ips,
            vxlan_from_pods: values.allow_vxlan_from_workloads,
            ipip_from_pods: values.allow_ipip_from_workloads,
            normal_route_metric: values.normal_route_priority,
            rp_filter: Arc::clone(&kernel.rp_filter),
            router_id: values.router_id,
            service_cluster_ranges: values.advertise_cluster_ips.clone(),
            blocks_from: if values.use_pod_cidr {
                BlocksFrom::PodCidrs
            } else {
                BlocksFrom::Ipam
            },
            next_hop_object_routes: kernel
                .has_next_hop_objects
                .then_some(NEXT_HOP_OBJECT_ROUTES),
            ..Self::new(node_name)
        }
    }

    /// These with what parameters say by now; what is no parameter stays.
    #[must_use]
    pub fn with_live(&self, values: &Values) -> Self {
        let kernel = KernelFacts {
            breaks_checksums: self.kernel_breaks_checksums,
            ..KernelFacts::default()
        };
        Self {
            deferral_time: self.deferral_time,
            multipath: self.multipath,
            learned_routes: self.learned_routes,
            announces_services: self.announces_services,
            listen: self.listen,
            blocks_from: self.blocks_from,
            // The same kernel, and whether IPv6 is used was decided at the start.
            has_ipv6: self.has_ipv6,
            ipv6_support: self.ipv6_support,
            rp_filter: Arc::clone(&self.rp_filter),
            next_hop_object_routes: self.next_hop_object_routes,
            ..Self::from_params(self.node_name.clone(), values, &kernel)
        }
    }

    /// Which rows of the kernel are this agent's.
    pub fn ownership(&self) -> Ownership {
        Ownership {
            interface_prefixes: self.interface_prefixes.clone(),
            device_route_protocol: self.device_route_protocol,
            bgp_routes: if self.backend == Backend::Bgp {
                BgpRoutes::Ours
            } else {
                BgpRoutes::Foreign
            },
            external_routes: self.external_routes,
        }
    }

    /// Key of the route to a pod of this node: what CNI ADD waits for.
    pub fn workload_route_key(&self, addr: IpAddr) -> RowKey {
        RowKey::Route(self.route_key(IpNet::from(addr), self.normal_route_metric))
    }

    /// BGP Identifier of a node with this address.
    pub(crate) fn router_id(&self, node_address: Option<Ipv4Addr>) -> Ipv4Addr {
        match self.router_id {
            RouterIdSource::Literal(id) => id,
            RouterIdSource::Hash => params::router_id_of_name(&self.node_name),
            RouterIdSource::NodeAddress => {
                node_address.unwrap_or_else(|| params::router_id_of_name(&self.node_name))
            }
        }
    }

    /// The kernel shows metric 1024 for an IPv6 route without one.
    pub(crate) fn route_key(&self, dst: IpNet, metric: u32) -> RouteKey {
        RouteKey {
            table: TABLE_MAIN,
            dst,
            tos: 0,
            metric: match dst {
                IpNet::V6(_) if metric == 0 => 1024,
                IpNet::V4(_) | IpNet::V6(_) => metric,
            },
        }
    }
}
