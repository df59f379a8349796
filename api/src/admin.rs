//! What the agent answers on its admin socket (HTTP over a Unix socket, JSON): read by `tortiectl` and by probes.
//!
//! Fields are added, never changed or removed; readers ignore what they do not know.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Where the agent listens.
pub const SOCKET_PATH: &str = "/var/run/calico/tortie-admin.sock";

/// [`Peer::peer_type`] of another node of the mesh.
pub const MESH: &str = "node-to-node mesh";

/// `GET /status`: the agent at a glance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Node name.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// RFC 3339 time of the process' start.
    pub started: String,
    /// The node's IPv4 address.
    pub ipv4_address: Option<IpNet>,
    /// BGP Identifier.
    pub router_id: Option<Ipv4Addr>,
    /// `bird`, `vxlan` or `none`.
    pub backend: String,
    /// The datastore's whole content has been read.
    pub datastore_in_sync: bool,
    /// The first write of the kernel is complete.
    pub dataplane_in_sync: bool,
    /// The speaker has made its first choice of routes.
    pub bgp_selection_complete: bool,
    /// Pods of this node.
    pub local_endpoints: usize,
    /// Rows (routes, neighbours, devices …) wanted in the kernel.
    pub rows_wanted: usize,
    /// Of these, rows that are not there yet.
    pub rows_pending: usize,
    /// BGP sessions by state.
    pub sessions: BTreeMap<String, usize>,
    /// How many entries `GET /problems` has.
    pub problems: usize,
}

/// One of `GET /bgp/peers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Name of the session: `Mesh_10_0_0_2`.
    pub name: String,
    /// The peer's address.
    pub address: IpAddr,
    /// Its AS.
    pub asn: u32,
    /// `node-to-node mesh`, `global` or `node specific`.
    pub peer_type: String,
    /// State of RFC 4271 §8.2.2: `Established`.
    pub state: String,
    /// RFC 3339 time at which it entered that state.
    pub since: String,
    /// BGP Identifier of its last OPEN.
    #[serde(default)]
    pub router_id: Option<Ipv4Addr>,
    /// Own address of the session.
    #[serde(default)]
    pub local_address: Option<IpAddr>,
    /// Negotiated Hold Time; 0 means none.
    #[serde(default)]
    pub hold_time_seconds: Option<u64>,
    /// Prefixes by family (`ipv4 unicast`).
    #[serde(default)]
    pub prefixes: BTreeMap<String, PrefixCounts>,
    /// Why the last session or connection ended.
    #[serde(default)]
    pub last_error: Option<String>,
    /// Where graceful restart stands.
    #[serde(default)]
    pub graceful_restart: String,
}

/// Numbers of prefixes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixCounts {
    /// Announced by the peer.
    pub received: usize,
    /// Of these, taking part in the decision.
    pub accepted: usize,
    /// Announced to the peer.
    pub advertised: usize,
}

/// One of `GET /bgp/routes`: a prefix with its paths, the best first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// The prefix.
    pub prefix: IpNet,
    /// Its paths.
    pub paths: Vec<Path>,
}

/// A path of a [`Route`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Path {
    /// Session it came from; absent for an own route.
    #[serde(default)]
    pub peer: Option<String>,
    /// The peer's number for it, where the peer may send several of one prefix (RFC 7911).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_id: Option<u32>,
    /// `local`, `ebgp` or `ibgp`.
    pub source: String,
    /// NEXT_HOP.
    #[serde(default)]
    pub next_hop: Option<IpAddr>,
    /// `best`, `multipath`, or why it is neither.
    pub standing: String,
    /// Kept over the peer's restart, not refreshed yet.
    #[serde(default)]
    pub stale: bool,
    /// AS_PATH.
    #[serde(default)]
    pub as_path: String,
    /// LOCAL_PREF.
    #[serde(default)]
    pub local_pref: u32,
    /// MULTI_EXIT_DISC.
    #[serde(default)]
    pub med: Option<u32>,
    /// ORIGIN.
    #[serde(default)]
    pub origin: String,
    /// Communities.
    #[serde(default)]
    pub communities: Vec<String>,
}

/// One of `GET /problems`: something that is not as the operator wants it, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// What it is about: an object, a kernel row, a session.
    pub subject: String,
    /// Why, with the value and what is allowed.
    pub reason: String,
}

/// One of `GET /config`: a setting, its value and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Setting {
    /// Variable.
    pub name: String,
    /// Value in force.
    pub value: String,
    /// `default`, `environment variable NAME`, or the field of an object in the datastore.
    pub origin: String,
}
