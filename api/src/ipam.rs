//! `IPAMBlock`, `BlockAffinity`, `IPAMHandle`, `IPAMConfig`, `IPReservation`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::attachment::hex;
use crate::metadata::Resource;
use crate::node::address_with_len;

/// The longest name of an affinity, in octets; Calico cuts longer ones though objects may have 253.
const AFFINITY_NAME_MAX: usize = 252;
/// Hex digits of the digest at the end of a name that was cut.
const AFFINITY_DIGITS: usize = 11;

/// Field of an attribute.
const RELEASED_AT: &str = "releasedAt";
/// The longest time that released addresses may be kept, in seconds.
pub const COOLDOWN_SECONDS_MAX: u32 = 1200;

/// An `IPAMBlock` object; its name is [`block_name`] of its CIDR.
pub type IPAMBlock = Resource<IPAMBlockSpec>;
/// A `BlockAffinity` object; its name is [`affinity_name`].
pub type BlockAffinity = Resource<BlockAffinitySpec>;
/// An `IPAMHandle` object; its name is the handle id in lower case.
pub type IPAMHandle = Resource<IPAMHandleSpec>;
/// The `IPAMConfig` object named `default`.
pub type IPAMConfig = Resource<IPAMConfigSpec>;
/// An `IPReservation` object.
pub type IPReservation = Resource<IPReservationSpec>;

/// A block of addresses, one slot an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IPAMBlockSpec {
    /// Range.
    pub cidr: IpNet,
    /// `host:<node>` or `virtual:<name>`; absent when nobody owns the block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<String>,
    /// RFC 3339 time of the claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_claim_time: Option<String>,
    /// One slot an address: `null` free, else an index into `attributes`.
    pub allocations: Vec<Option<usize>>,
    /// Free ordinals in the order in which they are given out.
    pub unallocated: Vec<usize>,
    /// Who holds addresses.
    #[serde(default)]
    pub attributes: Vec<AllocationAttribute>,
    /// Grows by one at each write.
    #[serde(default)]
    pub sequence_number: u64,
    /// Ordinal (as text) → `sequenceNumber` at allocation.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sequence_number_for_allocation: BTreeMap<String, u64>,
    /// Tombstone of the Kubernetes store.
    #[serde(default)]
    pub deleted: bool,
    /// Deprecated by Calico, still required by its CRD.
    #[serde(default)]
    pub strict_affinity: bool,
    /// Fields not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Who holds an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocationAttribute {
    /// Handle id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle_id: Option<String>,
    /// `pod`, `namespace`, `node`, `timestamp`, `type`; of an address that cools down, who had it last.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secondary: BTreeMap<String, String>,
    /// Fields not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl AllocationAttribute {
    /// When the address was released, as RFC 3339 has it; since then it cools down and is nobody's.
    pub fn released_at(&self) -> Option<&str> {
        match self.extra.get(RELEASED_AT)? {
            Value::Null => None,
            Value::String(text) => Some(text),
            // Something that is no time is there all the same.
            _ => Some(""),
        }
    }

    /// The address was released at this time.
    pub fn set_released_at(&mut self, rfc3339: String) {
        self.extra.insert(RELEASED_AT.to_owned(), rfc3339.into());
    }
}

/// Progress of a claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AffinityState {
    /// The block is about to be claimed.
    Pending,
    /// The block is this node's; the empty text means the same.
    #[default]
    #[serde(alias = "")]
    Confirmed,
    /// The block is being given up.
    PendingDeletion,
}

/// A node's claim on a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockAffinitySpec {
    /// Progress.
    #[serde(default)]
    pub state: AffinityState,
    /// Node name.
    pub node: String,
    /// Block.
    pub cidr: IpNet,
    /// `host` or `virtual`.
    #[serde(default = "host", rename = "type")]
    pub affinity_type: String,
    /// Tombstone: the text `true` or `false`, as in Calico's CRD.
    #[serde(default = "text_false", deserialize_with = "bool_text")]
    pub deleted: String,
    /// Fields not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl IPAMBlockSpec {
    /// A block that says nothing but its range: nobody owns it, and no address of it is given out.
    pub fn of_nobody(cidr: IpNet) -> Self {
        Self {
            cidr,
            affinity: None,
            affinity_claim_time: None,
            allocations: Vec::new(),
            unallocated: Vec::new(),
            attributes: Vec::new(),
            sequence_number: 0,
            sequence_number_for_allocation: BTreeMap::new(),
            deleted: false,
            strict_affinity: false,
            extra: Map::new(),
        }
    }
}

impl BlockAffinitySpec {
    /// A node's settled claim to a block.
    pub fn confirmed(node: &str, cidr: IpNet) -> Self {
        Self {
            state: AffinityState::Confirmed,
            node: node.to_owned(),
            cidr,
            affinity_type: host(),
            deleted: text_false(),
            extra: Map::new(),
        }
    }
}

fn host() -> String {
    "host".to_owned()
}

/// Reads a boolean, too: the v3 API has one where the v1 CRD has a text.
fn bool_text<'de, D: Deserializer<'de>>(source: D) -> Result<String, D::Error> {
    match Value::deserialize(source)? {
        Value::Bool(value) => Ok(value.to_string()),
        Value::String(text) if text == "true" || text == "false" => Ok(text),
        other => Err(serde::de::Error::custom(format!(
            "{other} is neither \"true\" nor \"false\""
        ))),
    }
}

fn text_false() -> String {
    "false".to_owned()
}

/// Which blocks a handle has addresses in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IPAMHandleSpec {
    /// Handle id, case kept.
    #[serde(rename = "handleID")]
    pub handle_id: String,
    /// Block CIDR → number of addresses.
    #[serde(default)]
    pub block: BTreeMap<String, u32>,
    /// Tombstone.
    #[serde(default)]
    pub deleted: bool,
    /// Fields not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Rules for allocation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IPAMConfigSpec {
    /// Never borrow from another node's block.
    pub strict_affinity: bool,
    /// Claim blocks on demand.
    pub auto_allocate_blocks: bool,
    /// 0 means 20.
    pub max_blocks_per_host: u32,
    /// How long a released address is kept from being given out again.
    #[serde(skip_serializing_if = "is_zero")]
    pub ip_cooldown_seconds: u32,
    /// Fields not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Definitions of older Calicos do not know the field.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_zero(seconds: &u32) -> bool {
    *seconds == 0
}

impl Default for IPAMConfigSpec {
    fn default() -> Self {
        Self {
            strict_affinity: false,
            auto_allocate_blocks: true,
            max_blocks_per_host: 0,
            ip_cooldown_seconds: 0,
            extra: Map::new(),
        }
    }
}

/// Addresses that are given to nobody who does not ask for them by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IPReservationSpec {
    /// Ranges and single addresses, as texts: one that cannot be read must not undo the others.
    #[serde(rename = "reservedCIDRs")]
    pub reserved_cidrs: Vec<String>,
    /// Fields not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl IPReservationSpec {
    /// The ranges that can be read; an address is the range of itself.
    pub fn ranges(&self) -> impl Iterator<Item = IpNet> {
        let texts = self.reserved_cidrs.iter();
        texts.filter_map(|text| address_with_len(text.trim()).map(|net| net.trunc()))
    }
}

/// `10.0.0.0/26` → `10-0-0-0-26`.
pub fn block_name(cidr: IpNet) -> String {
    cidr.to_string().replace(['.', ':', '/'], "-")
}

/// The range a block is named after: the reverse of [`block_name`].
pub fn block_cidr(name: &str) -> Option<IpNet> {
    let (addr, len) = name.rsplit_once('-')?;
    let len = len.parse().ok()?;
    // Four numbers could be part of an IPv6 address only beside an empty group, which is not a number.
    let addr = match addr.replace('-', ".").parse::<Ipv4Addr>() {
        Ok(addr) => IpAddr::V4(addr),
        Err(_) => IpAddr::V6(addr.replace('-', ":").parse().ok()?),
    };
    let cidr = IpNet::new(addr, len).ok()?;
    (block_name(cidr) == name).then_some(cidr)
}

/// `<node>-<block name>`. Where that is longer than an object's name may be, the node's name is cut and the first digits of
/// the SHA-256 of `<node>+<block name>` follow, as Calico has it.
pub fn affinity_name(node: &str, cidr: IpNet) -> String {
    let block = block_name(cidr);
    let name = format!("{node}-{block}");
    if name.len() <= AFFINITY_NAME_MAX {
        return name;
    }
    let kept = AFFINITY_NAME_MAX - block.len() - AFFINITY_DIGITS - "--".len();
    let node_kept = node.get(..kept).unwrap_or(node);
    let digest = Sha256::digest(format!("{node}+{block}"));
    format!("{node_kept}-{block}-{}", hex(&digest, AFFINITY_DIGITS))
}

/// The range of an affinity of `node`'s: the reverse of [`affinity_name`]. `None` for names of other nodes' affinities, but for
/// a node whose name ends so that both spell the same.
pub fn affinity_cidr(node: &str, name: &str) -> Option<IpNet> {
    let named = |block: &str| block_cidr(block).filter(|cidr| affinity_name(node, *cidr) == name);
    if let Some(block) = name.strip_prefix(node) {
        return named(block.strip_prefix('-')?);
    }
    let (cut, _digest) = name.rsplit_once('-')?;
    let mut dashes = cut.match_indices('-');
    dashes.find_map(|(at, _)| {
        let is_of_node = node.starts_with(&cut[..at]);
        is_of_node.then(|| named(&cut[at + 1..])).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_affinities_are_named_as_calico_names_them() {
        for (cidr, block, affinity) in [
            ("10.0.0.0/26", "10-0-0-0-26", "n1-10-0-0-0-26"),
            ("fd00:10::/122", "fd00-10---122", "n1-fd00-10---122"),
        ] {
            let cidr = cidr.parse().unwrap();
            assert_eq!(block_name(cidr), block);
            assert_eq!(affinity_name("n1", cidr), affinity);
            assert_eq!(affinity_cidr("n1", affinity), Some(cidr));
            assert_eq!(affinity_cidr("n", affinity), None);
        }
    }

    #[test]
    fn an_affinity_of_a_long_node_name_is_cut_as_calico_cuts_it() {
        let node = "n".repeat(253);
        // The first digits of `printf %s+10-0-0-0-26 $node | sha256sum`.
        for (cidr, kept, end) in [
            ("10.0.0.0/26", 228, "-10-0-0-0-26-eb36c8ed6c6"),
            ("fd00:10::/122", 226, "-fd00-10---122-e9b6088fcf3"),
        ] {
            let cidr = cidr.parse().unwrap();
            let name = affinity_name(&node, cidr);
            assert_eq!(name, format!("{}{end}", "n".repeat(kept)));
            assert_eq!(name.len(), AFFINITY_NAME_MAX);
            assert_eq!(affinity_cidr(&node, &name), Some(cidr));
            assert_eq!(affinity_cidr(&"n".repeat(252), &name), None);
        }
        // The longest that is whole, and the first that is cut.
        let cidr: IpNet = "10.0.0.0/26".parse().unwrap();
        for (length, is_whole) in [(240, true), (241, false)] {
            let node = "m".repeat(length);
            let name = affinity_name(&node, cidr);
            assert_eq!(name == format!("{node}-10-0-0-0-26"), is_whole);
            assert_eq!(affinity_cidr(&node, &name), Some(cidr));
        }
    }

    #[test]
    fn without_an_ipamconfig_blocks_are_claimed_on_demand_and_may_be_borrowed_from() {
        let config = IPAMConfigSpec::default();
        assert!(config.auto_allocate_blocks && !config.strict_affinity);
        assert_eq!(config.max_blocks_per_host, 0);
    }
}
