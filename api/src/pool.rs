//! `IPPool`: a range pods get their addresses from.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::metadata::Resource;

/// An `IPPool` object.
pub type IPPool = Resource<IPPoolSpec>;

/// When packets between nodes are put in a tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EncapMode {
    /// Never; the empty text means the same.
    #[default]
    #[serde(alias = "")]
    Never,
    /// Always.
    Always,
    /// Only between nodes that share no subnet.
    CrossSubnet,
}

/// What a pool's addresses may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AllowedUse {
    /// Pods.
    Workload,
    /// A node's own tunnel devices.
    Tunnel,
    /// Services of type LoadBalancer.
    LoadBalancer,
}

/// The wanted state of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IPPoolSpec {
    /// Range; immutable.
    pub cidr: IpNet,
    /// Prefix length of a block: 20–32 for IPv4 (26 by default), 116–128 for IPv6 (122). Immutable.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub block_size: Option<u8>,
    /// IPIP; IPv4 only.
    #[serde(default)]
    pub ipip_mode: EncapMode,
    /// VXLAN.
    #[serde(default)]
    pub vxlan_mode: EncapMode,
    /// Masquerade what leaves all pools.
    #[serde(default)]
    pub nat_outgoing: bool,
    /// No new allocations; existing addresses stay routed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
    /// Do not announce.
    #[serde(
        default,
        rename = "disableBGPExport",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub disable_bgp_export: bool,
    /// Which nodes may use the pool; all when empty or absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<String>,
    /// Uses; workloads and tunnels when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_uses: Option<Vec<AllowedUse>>,
    /// Fields not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl IPPoolSpec {
    /// Prefix length of the pool's blocks, with the default filled in.
    pub fn block_len(&self) -> u8 {
        self.block_size.unwrap_or(match self.cidr {
            IpNet::V4(_) => 26,
            IpNet::V6(_) => 122,
        })
    }

    /// Which namespaces' pods may use the pool; `None`: all.
    pub fn namespace_selector(&self) -> Option<&str> {
        let text = self.extra.get("namespaceSelector")?.as_str()?;
        Some(text).filter(|text| !text.is_empty())
    }

    /// Whether only who names the pool gets an address of it.
    pub fn is_manual(&self) -> bool {
        self.extra.get("assignmentMode").and_then(Value::as_str) == Some("Manual")
    }

    /// Whether addresses may be given to `wanted`.
    pub fn allows(&self, wanted: AllowedUse) -> bool {
        match &self.allowed_uses {
            Some(uses) => uses.contains(&wanted),
            None => wanted != AllowedUse::LoadBalancer,
        }
    }
}
