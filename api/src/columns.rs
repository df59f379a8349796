//! calicoctl's columns of each kind.

use ipnet::IpNet;

use crate::bgp::{BGPConfiguration, BGPPeer};
use crate::bgp_filter::BGPFilter;
use crate::cluster::ClusterInformation;
use crate::endpoint::WorkloadEndpoint;
use crate::felix::FelixConfiguration;
use crate::ipam::{BlockAffinity, IPAMBlock, IPAMConfig, IPAMHandle, IPReservation};
use crate::node::Node;
use crate::node_status::CalicoNodeStatus;
use crate::pool::{EncapMode, IPPool};
use crate::service::{EndpointSlice, Service};

/// Headings of a table, and those that a wide one has more.
pub(crate) struct Headings(&'static [&'static str], &'static [&'static str]);

impl Headings {
    pub(crate) fn list(&self, wide: bool) -> Vec<&'static str> {
        let more = if wide { self.1 } else { &[] };
        [self.0, more].concat()
    }
}

pub(crate) const IP_POOL: Headings = Headings(
    &["NAME", "CIDR", "SELECTOR"],
    &[
        "NAT",
        "IPIPMODE",
        "VXLANMODE",
        "DISABLED",
        "DISABLEBGPEXPORT",
    ],
);

pub(crate) fn ip_pool(pool: &IPPool, _: u32) -> Vec<String> {
    let mode = |mode: EncapMode| format!("{mode:?}");
    let spec = &pool.spec;
    let selector = spec.node_selector.as_deref();
    vec![
        pool.metadata.name.clone(),
        spec.cidr.to_string(),
        selector.unwrap_or("all()").to_owned(),
        spec.nat_outgoing.to_string(),
        mode(spec.ipip_mode),
        mode(spec.vxlan_mode),
        spec.disabled.to_string(),
        spec.disable_bgp_export.to_string(),
    ]
}

pub(crate) const NODE: Headings = Headings(&["NAME"], &["ASN", "IPV4", "IPV6"]);

pub(crate) fn node(node: &Node, default_asn: u32) -> Vec<String> {
    let bgp = node.spec.bgp.clone().unwrap_or_default();
    let asn = bgp
        .as_number
        .map_or_else(|| format!("({default_asn})"), |asn| asn.to_string());
    let name = node.metadata.name.clone();
    vec![name, asn, net(bgp.ipv4_address), net(bgp.ipv6_address)]
}

pub(crate) const BGP_CONFIGURATION: Headings =
    Headings(&["NAME", "LOGSEVERITY", "MESHENABLED", "ASNUMBER"], &[]);

pub(crate) fn bgp_configuration(config: &BGPConfiguration, _: u32) -> Vec<String> {
    vec![
        config.metadata.name.clone(),
        optional(config.spec.log_severity_screen.as_ref()),
        optional(config.spec.node_to_node_mesh_enabled),
        optional(config.spec.as_number),
    ]
}

pub(crate) const BGP_PEER: Headings = Headings(&["NAME", "PEERIP", "NODE", "ASN"], &[]);

pub(crate) fn bgp_peer(peer: &BGPPeer, _: u32) -> Vec<String> {
    let spec = &peer.spec;
    let node = [&spec.node, &spec.node_selector]
        .into_iter()
        .find(|text| !text.is_empty());
    vec![
        peer.metadata.name.clone(),
        spec.peer_ip.clone(),
        node.cloned().unwrap_or_else(|| "(global)".to_owned()),
        spec.as_number
            .map_or_else(String::new, |asn| asn.to_string()),
    ]
}

pub(crate) const BGP_FILTER: Headings = Headings(
    &[
        "NAME",
        "NUMEXPORTV4",
        "NUMIMPORTV4",
        "NUMEXPORTV6",
        "NUMIMPORTV6",
    ],
    &[],
);

pub(crate) fn bgp_filter(filter: &BGPFilter, _: u32) -> Vec<String> {
    let spec = &filter.spec;
    let lists = [
        &spec.export_v4,
        &spec.import_v4,
        &spec.export_v6,
        &spec.import_v6,
    ];
    let counts = lists.map(|rules| rules.len().to_string());
    std::iter::once(filter.metadata.name.clone())
        .chain(counts)
        .collect()
}

pub(crate) const FELIX_CONFIGURATION: Headings = Headings(&["NAME"], &["NODESELECTOR", "SETTINGS"]);

pub(crate) fn felix_configuration(config: &FelixConfiguration, _: u32) -> Vec<String> {
    let spec = &config.spec;
    let settings: Vec<String> = spec
        .fields
        .iter()
        .map(|(field, value)| format!("{field}={value}"))
        .collect();
    vec![
        config.metadata.name.clone(),
        optional(spec.node_selector.as_ref()),
        settings.join(","),
    ]
}

pub(crate) const CLUSTER_INFORMATION: Headings = Headings(
    &[
        "NAME",
        "CLUSTERGUID",
        "CLUSTERTYPE",
        "CALICOVERSION",
        "DATASTOREREADY",
    ],
    &[],
);

pub(crate) fn cluster_information(info: &ClusterInformation, _: u32) -> Vec<String> {
    let spec = &info.spec;
    vec![
        info.metadata.name.clone(),
        spec.cluster_guid.clone(),
        spec.cluster_type.clone(),
        spec.calico_version.clone(),
        spec.is_ready().to_string(),
    ]
}

pub(crate) const WORKLOAD_ENDPOINT: Headings = Headings(
    &["WORKLOAD", "NODE", "NETWORKS", "INTERFACE"],
    &["NAME", "PROFILES"],
);

pub(crate) fn workload_endpoint(endpoint: &WorkloadEndpoint, _: u32) -> Vec<String> {
    let spec = &endpoint.spec;
    let workload = [&spec.pod, &spec.workload]
        .into_iter()
        .find(|text| !text.is_empty());
    let networks: Vec<String> = spec.ip_networks.iter().map(ToString::to_string).collect();
    vec![
        workload.cloned().unwrap_or_default(),
        spec.node.clone(),
        networks.join(","),
        spec.interface_name.clone(),
        endpoint.metadata.name.clone(),
        spec.profiles.join(","),
    ]
}

pub(crate) const CALICO_NODE_STATUS: Headings = Headings(&["NAME", "NODE", "CLASSES"], &[]);

pub(crate) fn calico_node_status(status: &CalicoNodeStatus, _: u32) -> Vec<String> {
    let spec = &status.spec;
    vec![
        status.metadata.name.clone(),
        spec.node.clone(),
        spec.classes.join(","),
    ]
}

pub(crate) const IPAM_CONFIG: Headings = Headings(
    &["NAME", "STRICTAFFINITY", "AUTOALLOCATEBLOCKS"],
    &["MAXBLOCKSPERHOST"],
);

pub(crate) fn ipam_config(config: &IPAMConfig, _: u32) -> Vec<String> {
    vec![
        config.metadata.name.clone(),
        config.spec.strict_affinity.to_string(),
        config.spec.auto_allocate_blocks.to_string(),
        config.spec.max_blocks_per_host.to_string(),
    ]
}

pub(crate) const IP_RESERVATION: Headings = Headings(&["NAME", "CIDRS"], &[]);

pub(crate) fn ip_reservation(reservation: &IPReservation, _: u32) -> Vec<String> {
    vec![
        reservation.metadata.name.clone(),
        reservation.spec.reserved_cidrs.join(","),
    ]
}

pub(crate) const IPAM_BLOCK: Headings =
    Headings(&["NAME", "CIDR", "AFFINITY", "IN USE", "FREE"], &[]);

pub(crate) fn ipam_block(block: &IPAMBlock, _: u32) -> Vec<String> {
    let used = block.spec.allocations.iter().flatten().count();
    vec![
        block.metadata.name.clone(),
        block.spec.cidr.to_string(),
        optional(block.spec.affinity.as_ref()),
        used.to_string(),
        (block.spec.allocations.len() - used).to_string(),
    ]
}

pub(crate) const BLOCK_AFFINITY: Headings = Headings(&["NAME", "NODE", "CIDR", "STATE"], &[]);

pub(crate) fn block_affinity(affinity: &BlockAffinity, _: u32) -> Vec<String> {
    vec![
        affinity.metadata.name.clone(),
        affinity.spec.node.clone(),
        affinity.spec.cidr.to_string(),
        format!("{:?}", affinity.spec.state),
    ]
}

pub(crate) const IPAM_HANDLE: Headings = Headings(&["NAME", "HANDLEID", "BLOCKS"], &[]);

pub(crate) fn ipam_handle(handle: &IPAMHandle, _: u32) -> Vec<String> {
    let counts = handle.spec.block.iter();
    let blocks: Vec<String> = counts
        .map(|(block, count)| format!("{block} ({count})"))
        .collect();
    vec![
        handle.metadata.name.clone(),
        handle.spec.handle_id.clone(),
        blocks.join(", "),
    ]
}

fn optional(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn net(net: Option<IpNet>) -> String {
    net.map_or_else(String::new, |net| net.to_string())
}

pub(crate) const SERVICE: Headings = Headings(
    &["NAMESPACE", "NAME", "TYPE"],
    &["CLUSTERIPS", "EXTERNALIPS", "POLICY"],
);

pub(crate) fn service(service: &Service, _: u32) -> Vec<String> {
    let spec = &service.spec;
    let list = |all: &[std::net::IpAddr]| {
        let all: Vec<String> = all.iter().map(ToString::to_string).collect();
        all.join(",")
    };
    vec![
        service.metadata.namespace.clone(),
        service.metadata.name.clone(),
        spec.kind.clone(),
        list(&spec.cluster_ips),
        list(&spec.external_ips),
        spec.external_traffic_policy.clone().unwrap_or_default(),
    ]
}

pub(crate) const ENDPOINT_SLICE: Headings =
    Headings(&["NAMESPACE", "NAME", "SERVICE"], &["TYPE", "NODES"]);

pub(crate) fn endpoint_slice(slice: &EndpointSlice, _: u32) -> Vec<String> {
    let nodes: Vec<&str> = slice.spec.nodes.iter().map(String::as_str).collect();
    vec![
        slice.metadata.namespace.clone(),
        slice.metadata.name.clone(),
        slice.spec.service.clone(),
        slice.spec.address_type.clone(),
        nodes.join(","),
    ]
}

#[cfg(test)]
mod tests {
    use crate::key::{Key, Kind};
    use crate::object::Object;

    #[test]
    fn each_kind_has_as_many_cells_as_wide_headings() {
        for kind in Kind::ALL {
            let mut object = serde_json::json!({"metadata": {"name": "x"}, "spec": {}});
            for (field, value) in [
                ("cidr", serde_json::json!("10.0.0.0/26")),
                ("node", "n".into()),
                ("handleID", "h".into()),
                ("allocations", serde_json::json!([])),
                ("unallocated", serde_json::json!([])),
            ] {
                object["spec"][field] = value;
            }
            let key = Key::new(kind, "x");
            let object = Object::decode(&key, object.to_string().as_bytes()).unwrap();
            assert_eq!(object.cells(1).len(), kind.headings(true).len(), "{kind}");
        }
    }
}
