//! Where Calico keeps each object in etcd.
//!
//! | kind | path |
//! |---|---|
//! | `IPAMBlock` | `/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-26` |
//! | `BlockAffinity` | `/calico/ipam/v2/host/<node>/ipv4/block/10.0.0.0-26`, `virtual` in place of `host` for that type |
//! | `IPAMHandle` | `/calico/ipam/v2/handle/<handle id>` |
//! | `IPAMConfig` | `/calico/ipam/v2/config` |
//! | `WorkloadEndpoint` | `/calico/resources/v3/projectcalico.org/workloadendpoints/<namespace>/<name>` |
//! | the others | `/calico/resources/v3/projectcalico.org/<plural>/<name>` |
//!
//! The path of an affinity or a handle holds more than its name does (the node apart from the block, the type, the case
//! of the id), so paths are made from objects. Names can be made from paths.

use ipnet::IpNet;

use crate::ipam::{affinity_name, block_cidr, block_name};
use crate::key::{Key, Kind};
use crate::object::Object;

const RESOURCES: &str = "/calico/resources/v3/projectcalico.org/";
const BLOCKS: &str = "/calico/ipam/v2/assignment/";
const HOST_AFFINITIES: &str = "/calico/ipam/v2/host/";
const VIRTUAL_AFFINITIES: &str = "/calico/ipam/v2/virtual/";
const HANDLES: &str = "/calico/ipam/v2/handle/";
const CONFIG: &str = "/calico/ipam/v2/config";

/// Beginnings of the paths of all objects of a kind.
pub fn prefixes(kind: Kind) -> Vec<String> {
    match kind {
        Kind::IPAMBlock => vec![BLOCKS.to_owned()],
        Kind::BlockAffinity => vec![HOST_AFFINITIES.to_owned(), VIRTUAL_AFFINITIES.to_owned()],
        Kind::IPAMHandle => vec![HANDLES.to_owned()],
        Kind::IPAMConfig => vec![CONFIG.to_owned()],
        _ => vec![format!("{RESOURCES}{}/", kind.plural())],
    }
}

/// The path of an object.
pub fn of(object: &Object) -> String {
    match object {
        Object::IPAMBlock(block) => format!("{BLOCKS}{}", block_part(block.spec.cidr)),
        Object::BlockAffinity(affinity) => {
            let spec = &affinity.spec;
            let prefix = match spec.affinity_type.as_str() {
                "virtual" => VIRTUAL_AFFINITIES,
                _ => HOST_AFFINITIES,
            };
            format!("{prefix}{}/{}", spec.node, block_part(spec.cidr))
        }
        Object::IPAMHandle(handle) => format!("{HANDLES}{}", handle.spec.handle_id),
        Object::IPAMConfig(_) => CONFIG.to_owned(),
        _ => resource(&object.key()),
    }
}

/// The path of a name, for the kinds whose names say it all: all but `BlockAffinity` and `IPAMHandle`.
pub fn of_key(key: &Key) -> Option<String> {
    match key.kind {
        Kind::IPAMBlock => Some(format!("{BLOCKS}{}", block_part(block_cidr(&key.name)?))),
        Kind::BlockAffinity | Kind::IPAMHandle => None,
        Kind::IPAMConfig => Some(CONFIG.to_owned()),
        _ => Some(resource(key)),
    }
}

/// The name that stands at a path; `None` when it is none of ours.
pub fn parse(path: &str) -> Option<Key> {
    if path == CONFIG {
        return Some(Key::new(Kind::IPAMConfig, "default"));
    }
    if let Some(rest) = path.strip_prefix(RESOURCES) {
        return parse_resource(rest);
    }
    if let Some(rest) = path.strip_prefix(BLOCKS) {
        return Some(Key::new(
            Kind::IPAMBlock,
            block_name(parse_block_part(rest)?),
        ));
    }
    if let Some(id) = path.strip_prefix(HANDLES) {
        return (!id.is_empty()).then(|| Key::new(Kind::IPAMHandle, id.to_lowercase()));
    }
    let rest = path
        .strip_prefix(HOST_AFFINITIES)
        .or_else(|| path.strip_prefix(VIRTUAL_AFFINITIES))?;
    let (node, block) = rest.split_once('/')?;
    let cidr = parse_block_part(block)?;
    (!node.is_empty()).then(|| Key::new(Kind::BlockAffinity, affinity_name(node, cidr)))
}

fn resource(key: &Key) -> String {
    let plural = key.kind.plural();
    if key.kind.namespaced() {
        format!("{RESOURCES}{plural}/{}/{}", key.namespace, key.name)
    } else {
        format!("{RESOURCES}{plural}/{}", key.name)
    }
}

fn parse_resource(rest: &str) -> Option<Key> {
    let (plural, rest) = rest.split_once('/')?;
    let kind = Kind::from_plural(plural)?;
    let (namespace, name) = if kind.namespaced() {
        rest.split_once('/')?
    } else {
        ("", rest)
    };
    let whole =
        !name.is_empty() && !name.contains('/') && namespace.is_empty() != kind.namespaced();
    // IPAM's own kinds have paths of their own.
    let here = of_key(&Key::namespaced(kind, namespace, name))
        .is_some_and(|path| path.starts_with(RESOURCES));
    (whole && here).then(|| Key::namespaced(kind, namespace, name))
}

fn block_part(cidr: IpNet) -> String {
    let family = match cidr {
        IpNet::V4(_) => "ipv4",
        IpNet::V6(_) => "ipv6",
    };
    format!("{family}/block/{}-{}", cidr.addr(), cidr.prefix_len())
}

fn parse_block_part(text: &str) -> Option<IpNet> {
    let range = text
        .strip_prefix("ipv4/block/")
        .or_else(|| text.strip_prefix("ipv6/block/"))?;
    let (addr, len) = range.rsplit_once('-')?;
    let cidr = IpNet::new(addr.parse().ok()?, len.parse().ok()?).ok()?;
    (block_part(cidr) == text).then_some(cidr)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(kind: Kind, metadata: &serde_json::Value, spec: &serde_json::Value) -> Object {
        let json = json!({"metadata": metadata, "spec": spec}).to_string();
        Object::decode(&Key::new(kind, "x"), json.as_bytes()).expect("a test's object is right")
    }

    #[test]
    fn each_kind_has_the_path_calico_gives_it_and_comes_back() {
        let slots = json!({"cidr": "fd00::/122", "allocations": [], "unallocated": []});
        for (object, path) in [
            (
                object(
                    Kind::IPPool,
                    &json!({"name": "p"}),
                    &json!({"cidr": "10.0.0.0/8"}),
                ),
                "/calico/resources/v3/projectcalico.org/ippools/p",
            ),
            (
                object(Kind::Node, &json!({"name": "n.1"}), &json!({})),
                "/calico/resources/v3/projectcalico.org/nodes/n.1",
            ),
            (
                object(
                    Kind::WorkloadEndpoint,
                    &json!({"name": "n--1-k8s-a-eth0", "namespace": "ns"}),
                    &json!({}),
                ),
                "/calico/resources/v3/projectcalico.org/workloadendpoints/ns/n--1-k8s-a-eth0",
            ),
            (
                object(
                    Kind::FelixConfiguration,
                    &json!({"name": "node.n1"}),
                    &json!({"vxlanPort": 4790}),
                ),
                "/calico/resources/v3/projectcalico.org/felixconfigurations/node.n1",
            ),
            (
                object(
                    Kind::ClusterInformation,
                    &json!({"name": "default"}),
                    &json!({"datastoreReady": true}),
                ),
                "/calico/resources/v3/projectcalico.org/clusterinformations/default",
            ),
            (
                object(Kind::IPAMBlock, &json!({"name": "fd00---122"}), &slots),
                "/calico/ipam/v2/assignment/ipv6/block/fd00::-122",
            ),
            (
                object(
                    Kind::BlockAffinity,
                    &json!({"name": "node-1-10-0-0-0-26"}),
                    &json!({"node": "node-1", "cidr": "10.0.0.0/26"}),
                ),
                "/calico/ipam/v2/host/node-1/ipv4/block/10.0.0.0-26",
            ),
            (
                object(
                    Kind::BlockAffinity,
                    &json!({"name": "lb-10-0-0-0-26"}),
                    &json!({"node": "lb", "cidr": "10.0.0.0/26", "type": "virtual"}),
                ),
                "/calico/ipam/v2/virtual/lb/ipv4/block/10.0.0.0-26",
            ),
            (
                object(
                    Kind::IPAMHandle,
                    &json!({"name": "k8s-pod-network.ab"}),
                    &json!({"handleID": "k8s-pod-network.AB"}),
                ),
                "/calico/ipam/v2/handle/k8s-pod-network.AB",
            ),
            (
                object(Kind::IPAMConfig, &json!({"name": "default"}), &json!({})),
                "/calico/ipam/v2/config",
            ),
        ] {
            assert_eq!(of(&object), path);
            assert_eq!(parse(path), Some(object.key()), "{path}");
            let from_key = of_key(&object.key());
            assert!(from_key.is_none_or(|from_key| from_key == path), "{path}");
            assert!(
                prefixes(object.kind())
                    .iter()
                    .any(|prefix| path.starts_with(prefix)),
                "{path}"
            );
        }
    }

    #[test]
    fn what_is_none_of_ours_is_no_name() {
        for path in [
            "",
            "/calico/resources/v3/projectcalico.org/ippools/",
            "/calico/resources/v3/projectcalico.org/ippools/a/b",
            "/calico/resources/v3/projectcalico.org/workloadendpoints/a",
            "/calico/resources/v3/projectcalico.org/ipamblocks/10-0-0-0-26",
            "/calico/resources/v3/projectcalico.org/networkpolicies/a",
            "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0",
            "/calico/ipam/v2/assignment/ipv6/block/10.0.0.0-26",
            "/calico/ipam/v2/host/node-1",
            "/calico/ipam/v2/config/x",
            "/calico/v1/Ready",
        ] {
            assert_eq!(parse(path), None, "{path}");
        }
    }
}
