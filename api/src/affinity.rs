//! Labels of a block's affinity, by which Calico (3.31 and later) finds those of a node without reading all: it would not see
//! one that lacks them.

use data_encoding::BASE32_NOPAD;
use sha3::{Digest, Sha3_256};

use crate::ipam::{BlockAffinity, BlockAffinitySpec};

/// Label: the node's name, hashed since it may be longer than a label's value.
pub const HOSTNAME_HASH: &str = "projectcalico.org/hostname-hash";
/// Label: `host` or `virtual`.
pub const AFFINITY_TYPE: &str = "projectcalico.org/affinity-type";
/// Label: `4` or `6`.
pub const IP_VERSION: &str = "projectcalico.org/ip-version";

/// Gives an affinity the labels that its spec asks for; others stay. Whether that changed something.
pub fn label(affinity: &mut BlockAffinity) -> bool {
    let mut changed = false;
    for (name, value) in labels(&affinity.spec) {
        let before = affinity
            .metadata
            .labels
            .insert(name.to_owned(), value.clone());
        changed |= before != Some(value);
    }
    changed
}

fn labels(spec: &BlockAffinitySpec) -> [(&'static str, String); 3] {
    let version = if spec.cidr.addr().is_ipv4() { "4" } else { "6" };
    [
        (HOSTNAME_HASH, hash(&spec.node)),
        (AFFINITY_TYPE, spec.affinity_type.clone()),
        (IP_VERSION, version.to_owned()),
    ]
}

/// Base32 (RFC 4648, without padding) of SHA3-256.
fn hash(node: &str) -> String {
    BASE32_NOPAD.encode(&Sha3_256::digest(node.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipam::AffinityState;
    use crate::key::{Key, Kind};

    fn affinity(node: &str, cidr: &str) -> BlockAffinity {
        let spec = BlockAffinitySpec {
            state: AffinityState::Confirmed,
            node: node.to_owned(),
            cidr: cidr.parse().unwrap(),
            affinity_type: "host".to_owned(),
            deleted: "false".to_owned(),
            extra: serde_json::Map::new(),
        };
        BlockAffinity::new(&Key::new(Kind::BlockAffinity, "a"), spec)
    }

    #[test]
    fn an_affinity_bears_the_labels_that_calico_lists_by() {
        // Python's base64.b32encode(hashlib.sha3_256(node).digest()), without its padding.
        for (node, cidr, hash, version) in [
            (
                "n1",
                "10.0.0.0/26",
                "DM7EHBDU4L3ELKRER4A46T6QMKAGARQI4CVWBO26S4I2IDAAW6CA",
                "4",
            ),
            (
                "ip-10-0-0-1.ec2.internal",
                "fd00::/122",
                "NPOH4TXXWABNDACH6GUCD3OGLUKARAAB6FF5L75VWAWUC2DY7CCA",
                "6",
            ),
        ] {
            let mut labelled = affinity(node, cidr);
            let own = ("custom".to_owned(), "keep".to_owned());
            labelled.metadata.labels.extend([own]);
            assert!(label(&mut labelled));
            let labels: Vec<(&str, &str)> = labelled
                .metadata
                .labels
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            assert_eq!(
                labels,
                [
                    ("custom", "keep"),
                    (AFFINITY_TYPE, "host"),
                    (HOSTNAME_HASH, hash),
                    (IP_VERSION, version),
                ]
            );
            assert!(!label(&mut labelled), "nothing is left to do");
        }
    }
}
