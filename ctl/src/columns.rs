//! calicoctl's columns of each kind.

use api::key::Kind;
use api::object::Object;
use api::pool::EncapMode;
use ipnet::IpNet;

/// Headings of a kind's table.
pub(crate) fn headings(kind: Kind, wide: bool) -> Vec<&'static str> {
    let (narrow, more): (&[_], &[_]) = match kind {
        Kind::IPPool => (
            &["NAME", "CIDR", "SELECTOR"],
            &[
                "NAT",
                "IPIPMODE",
                "VXLANMODE",
                "DISABLED",
                "DISABLEBGPEXPORT",
            ],
        ),
        Kind::Node => (&["NAME"], &["ASN", "IPV4", "IPV6"]),
        Kind::BGPConfiguration => (&["NAME", "LOGSEVERITY", "MESHENABLED", "ASNUMBER"], &[]),
        Kind::BGPPeer => (&["NAME", "PEERIP", "NODE", "ASN"], &[]),
        Kind::BGPFilter => (
            &[
                "NAME",
                "NUMEXPORTV4",
                "NUMIMPORTV4",
                "NUMEXPORTV6",
                "NUMIMPORTV6",
            ],
            &[],
        ),
        Kind::FelixConfiguration => (&["NAME"], &["NODESELECTOR", "SETTINGS"]),
        Kind::ClusterInformation => (
            &[
                "NAME",
                "CLUSTERGUID",
                "CLUSTERTYPE",
                "CALICOVERSION",
                "DATASTOREREADY",
            ],
            &[],
        ),
        Kind::WorkloadEndpoint => (
            &["WORKLOAD", "NODE", "NETWORKS", "INTERFACE"],
            &["NAME", "PROFILES"],
        ),
        Kind::IPAMConfig => (
            &["NAME", "STRICTAFFINITY", "AUTOALLOCATEBLOCKS"],
            &["MAXBLOCKSPERHOST"],
        ),
        Kind::IPAMBlock => (&["NAME", "CIDR", "AFFINITY", "IN USE", "FREE"], &[]),
        Kind::BlockAffinity => (&["NAME", "NODE", "CIDR", "STATE"], &[]),
        Kind::IPAMHandle => (&["NAME", "HANDLEID", "BLOCKS"], &[]),
    };
    let more = if wide { more } else { &[] };
    [narrow, more].concat()
}

/// The cells of an object below its kind's wide headings; a narrow table shows the first of them. `default_asn` is the AS
/// of nodes that name none.
pub(crate) fn cells(object: &Object, default_asn: u32) -> Vec<String> {
    let name = object.metadata().name.clone();
    let mode = |mode: EncapMode| format!("{mode:?}");
    match object {
        Object::IPPool(pool) => vec![
            name,
            pool.spec.cidr.to_string(),
            pool.spec
                .node_selector
                .clone()
                .unwrap_or_else(|| "all()".to_owned()),
            pool.spec.nat_outgoing.to_string(),
            mode(pool.spec.ipip_mode),
            mode(pool.spec.vxlan_mode),
            pool.spec.disabled.to_string(),
            pool.spec.disable_bgp_export.to_string(),
        ],
        Object::Node(node) => {
            let bgp = node.spec.bgp.clone().unwrap_or_default();
            let asn = bgp
                .as_number
                .map_or_else(|| format!("({default_asn})"), |asn| asn.to_string());
            vec![name, asn, net(bgp.ipv4_address), net(bgp.ipv6_address)]
        }
        Object::BGPConfiguration(config) => vec![
            name,
            config.spec.log_severity_screen.clone().unwrap_or_else(dash),
            optional(config.spec.node_to_node_mesh_enabled),
            optional(config.spec.as_number),
        ],
        Object::BGPPeer(peer) => {
            let spec = &peer.spec;
            let node = [&spec.node, &spec.node_selector]
                .into_iter()
                .find(|text| !text.is_empty());
            vec![
                name,
                spec.peer_ip.clone(),
                node.cloned().unwrap_or_else(|| "(global)".to_owned()),
                spec.as_number
                    .map_or_else(String::new, |asn| asn.to_string()),
            ]
        }
        Object::BGPFilter(filter) => {
            let spec = &filter.spec;
            let lists = [
                &spec.export_v4,
                &spec.import_v4,
                &spec.export_v6,
                &spec.import_v6,
            ];
            let counts = lists.map(|rules| rules.len().to_string());
            std::iter::once(name).chain(counts).collect()
        }
        Object::FelixConfiguration(config) => {
            let spec = &config.spec;
            let settings: Vec<String> = spec
                .fields
                .iter()
                .map(|(field, value)| format!("{field}={value}"))
                .collect();
            vec![
                name,
                optional(spec.node_selector.clone()),
                settings.join(","),
            ]
        }
        Object::ClusterInformation(info) => {
            let spec = &info.spec;
            vec![
                name,
                spec.cluster_guid.clone(),
                spec.cluster_type.clone(),
                spec.calico_version.clone(),
                spec.is_ready().to_string(),
            ]
        }
        Object::WorkloadEndpoint(endpoint) => {
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
                name,
                spec.profiles.join(","),
            ]
        }
        Object::IPAMConfig(config) => vec![
            name,
            config.spec.strict_affinity.to_string(),
            config.spec.auto_allocate_blocks.to_string(),
            config.spec.max_blocks_per_host.to_string(),
        ],
        Object::IPAMBlock(block) => {
            let used = block.spec.allocations.iter().flatten().count();
            vec![
                name,
                block.spec.cidr.to_string(),
                block.spec.affinity.clone().unwrap_or_else(dash),
                used.to_string(),
                (block.spec.allocations.len() - used).to_string(),
            ]
        }
        Object::BlockAffinity(affinity) => vec![
            name,
            affinity.spec.node.clone(),
            affinity.spec.cidr.to_string(),
            format!("{:?}", affinity.spec.state),
        ],
        Object::IPAMHandle(handle) => vec![
            name,
            handle.spec.handle_id.clone(),
            handle
                .spec
                .block
                .iter()
                .map(|(block, count)| format!("{block} ({count})"))
                .collect::<Vec<_>>()
                .join(", "),
        ],
    }
}

fn dash() -> String {
    "-".to_owned()
}

fn optional(value: Option<impl ToString>) -> String {
    value.map_or_else(dash, |value| value.to_string())
}

fn net(net: Option<IpNet>) -> String {
    net.map_or_else(String::new, |net| net.to_string())
}

#[cfg(test)]
mod tests {
    use api::key::Key;

    use super::*;

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
            assert_eq!(
                cells(&object, 1).len(),
                headings(kind, true).len(),
                "{kind}"
            );
        }
    }
}
