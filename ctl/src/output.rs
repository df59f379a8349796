//! Objects on the terminal: tables with calicoctl's columns, YAML, JSON, names.

use api::key::Kind;
use api::object::Object;
use api::pool::EncapMode;
use ipnet::IpNet;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::Format;

/// Least width of a column, and blanks between two.
const COLUMN: (usize, usize) = (5, 3);

/// Prints objects of one kind. `single` is an object asked for by name, `default_asn` the AS of nodes that name none.
pub(crate) fn objects(
    kind: Kind,
    objects: &[Object],
    format: Format,
    single: bool,
    default_asn: u32,
) -> anyhow::Result<()> {
    let values = || objects.iter().map(to_value).collect::<Vec<_>>();
    match format {
        Format::Ps | Format::Wide => {
            let wide = format == Format::Wide;
            let rows: Vec<Vec<String>> = objects
                .iter()
                .map(|object| row(object, wide, default_asn))
                .collect();
            print!("{}", table(&headings(kind, wide), &rows));
            println!();
        }
        Format::Name => {
            for object in objects {
                println!("{}/{}", kind.name().to_lowercase(), object.metadata().name);
            }
        }
        Format::Yaml | Format::Json => {
            let mut values = values();
            let shown = match (single, values.pop()) {
                (true, Some(value)) => value,
                (_, last) => {
                    values.extend(last);
                    list(kind, &values)
                }
            };
            data(&shown, format)?;
        }
    }
    Ok(())
}

fn to_value(object: &Object) -> Value {
    serde_json::from_slice(&object.encode()).expect("an object encodes as JSON")
}

fn list(kind: Kind, items: &[Value]) -> Value {
    json!({
        "apiVersion": api::metadata::api_version(),
        "kind": format!("{kind}List"),
        "items": items,
    })
}

/// Prints any value as JSON or YAML.
pub(crate) fn data(value: &impl Serialize, format: Format) -> anyhow::Result<()> {
    if format == Format::Yaml {
        print!("{}", serde_saphyr::to_string(value)?);
    } else {
        println!("{}", serde_json::to_string_pretty(value)?);
    }
    Ok(())
}

/// Left-aligned columns, upper-case headings.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = headings.iter().map(|text| text.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(cells) {
            let width = (*width).max(COLUMN.0) + COLUMN.1;
            line.push_str(&format!("{cell:<width$}"));
        }
        format!("{}\n", line.trim_end())
    };
    let mut text = line(&mut headings.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

fn headings(kind: Kind, wide: bool) -> Vec<&'static str> {
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

/// All cells of an object; a narrow table has fewer headings and shows as many.
fn row(object: &Object, wide: bool, default_asn: u32) -> Vec<String> {
    let name = object.metadata().name.clone();
    let mode = |mode: EncapMode| format!("{mode:?}");
    let mut cells = match object {
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
    };
    cells.truncate(headings(object.kind(), wide).len());
    cells
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
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_end_without_blanks() {
        let rows = vec![
            vec!["tor".to_owned(), "192.0.2.1".to_owned()],
            vec!["a-long-name".to_owned(), String::new()],
        ];
        let text = table(&["NAME", "PEERIP"], &rows);
        assert_eq!(
            text,
            "NAME          PEERIP\ntor           192.0.2.1\na-long-name\n"
        );
    }
}
