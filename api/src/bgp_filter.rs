//! `BGPFilter`: which routes a peer's session takes and gives.

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::bgp::as_number_of;
use crate::metadata::Resource;

/// A `BGPFilter` object.
pub type BGPFilter = Resource<BGPFilterSpec>;

/// Rules by direction and family. Of each list the first rule that matches a route decides; a route that none matches
/// goes on to what holds without a filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BGPFilterSpec {
    /// IPv4 routes sent to the peer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub export_v4: Vec<BGPFilterRule>,
    /// IPv4 routes received from the peer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub import_v4: Vec<BGPFilterRule>,
    /// IPv6 routes sent to the peer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub export_v6: Vec<BGPFilterRule>,
    /// IPv6 routes received from the peer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub import_v6: Vec<BGPFilterRule>,
    /// Fields not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A rule: all conditions that are given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BGPFilterRule {
    /// The route's prefix is compared with this one; with `matchOperator`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cidr: Option<IpNet>,
    /// Narrows the lengths of prefixes inside `cidr`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix_length: Option<PrefixLength>,
    /// `Equal`, `NotEqual`, `In` (the prefix itself or inside it), `NotIn`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_operator: Option<String>,
    /// `RemotePeers`: learned by BGP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Name of the outgoing interface; `*` stands for any text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// `eBGP` or `iBGP`: only for such sessions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_type: Option<String>,
    /// The route has this community.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub communities: Option<Communities>,
    /// AS_PATH begins with these.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "as_numbers")]
    pub as_path_prefix: Vec<u32>,
    /// The route's priority, as a metric of the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// `Accept` or `Reject`.
    pub action: String,
    /// Changes made in order to a route that is accepted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<Operation>,
    /// Fields not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Lengths of prefixes, both ends included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PrefixLength {
    /// Least; the CIDR's own when less or absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<u8>,
    /// Most; any when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u8>,
}

/// A condition on communities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Communities {
    /// Exactly one: `65000:100` or, large, `65000:100:200`.
    pub values: Vec<String>,
}

/// One change: exactly one field is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Operation {
    /// Adds a community, if it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add_community: Option<AddCommunity>,
    /// Puts AS numbers in front of AS_PATH.
    #[serde(rename = "prependASPath", skip_serializing_if = "Option::is_none")]
    pub prepend_as_path: Option<PrependAsPath>,
    /// Sets the priority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_priority: Option<SetPriority>,
}

/// Content of `addCommunity`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AddCommunity {
    /// `65000:100` or, large, `65000:100:200`.
    pub value: String,
}

/// Content of `prependASPath`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PrependAsPath {
    /// In the order in which they stand in the path afterwards.
    #[serde(deserialize_with = "as_numbers")]
    pub prefix: Vec<u32>,
}

/// Content of `setPriority`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SetPriority {
    /// As a metric of the kernel: 1 to 2147483646.
    pub value: u32,
}

/// A community in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CommunityValue {
    /// RFC 1997.
    Standard(u16, u16),
    /// RFC 8092.
    Large(u32, u32, u32),
}

impl CommunityValue {
    /// Reads `65000:100` or `65000:100:200`.
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        match *parts.as_slice() {
            [high, low] => Some(Self::Standard(high.parse().ok()?, low.parse().ok()?)),
            [global, one, two] => {
                let (one, two) = (one.parse().ok()?, two.parse().ok()?);
                Some(Self::Large(global.parse().ok()?, one, two))
            }
            _ => None,
        }
    }
}

fn as_numbers<'de, D: Deserializer<'de>>(source: D) -> Result<Vec<u32>, D::Error> {
    let values: Option<Vec<Value>> = Option::deserialize(source)?;
    let number = |value: &Value| {
        as_number_of(value)
            .ok_or_else(|| serde::de::Error::custom(format!("{value} is no AS number")))
    };
    values.unwrap_or_default().iter().map(number).collect()
}
