//! `CalicoNodeStatus`: somebody asks what a node's BGP is doing, and the node answers in the object's status.
//!
//! Times are RFC 3339 in UTC; BIRD's, which Calico passes on, have no zone and on the day itself no date.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::metadata::Resource;

/// Longest time between two answers, in seconds: a day.
pub const UPDATE_PERIOD_SECONDS_MAX: u32 = 86_400;

/// A `CalicoNodeStatus` object.
pub type CalicoNodeStatus = Resource<CalicoNodeStatusSpec>;

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CalicoNodeStatusSpec {
    /// The node that answers.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// `Agent`, `BGP`, `Routes`: what is asked for ([`Class::from_name`]).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// How often it is answered anew; 0 or absent: only when what is asked changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_period_seconds: Option<u32>,
    /// Fields not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A part of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// [`AgentStatus`].
    Agent,
    /// [`BgpStatus`].
    Bgp,
    /// [`RoutesStatus`].
    Routes,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Agent, Self::Bgp, Self::Routes];

    /// As it stands in objects.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "Agent",
            Self::Bgp => "BGP",
            Self::Routes => "Routes",
        }
    }

    /// The class of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }
}

/// The answer: `status` of the object. A part that was not asked for is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// RFC 3339 time of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_updated: Option<String>,
    /// Asked for as `Agent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentStatus>,
    /// Asked for as `BGP`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bgp: Option<BgpStatus>,
    /// Asked for as `Routes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routes: Option<RoutesStatus>,
}

/// The speaker of each family. One speaker has both here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentStatus {
    /// IPv4.
    #[serde(rename = "birdV4")]
    pub v4: SpeakerStatus,
    /// IPv6.
    #[serde(rename = "birdV6")]
    pub v6: SpeakerStatus,
}

/// A speaker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SpeakerStatus {
    /// Whether it speaks and has chosen its routes.
    pub state: Readiness,
    /// Of the program.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// BGP Identifier.
    #[serde(rename = "routerID", skip_serializing_if = "Option::is_none")]
    pub router_id: Option<Ipv4Addr>,
    /// When it started.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_boot_time: String,
    /// When its peers or policies changed last.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_reconfiguration_time: String,
}

/// Whether a speaker is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each variant is its word")]
pub enum Readiness {
    Ready,
    #[default]
    NotReady,
}

/// Sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BgpStatus {
    /// Sessions over IPv4 that stand.
    #[serde(rename = "numberEstablishedV4")]
    pub established_v4: usize,
    /// Sessions over IPv4 that do not.
    #[serde(rename = "numberNotEstablishedV4")]
    pub not_established_v4: usize,
    /// Sessions over IPv6 that stand.
    #[serde(rename = "numberEstablishedV6")]
    pub established_v6: usize,
    /// Sessions over IPv6 that do not.
    #[serde(rename = "numberNotEstablishedV6")]
    pub not_established_v6: usize,
    /// Peers over IPv4.
    #[serde(rename = "peersV4", skip_serializing_if = "Vec::is_empty")]
    pub peers_v4: Vec<PeerStatus>,
    /// Peers over IPv6.
    #[serde(rename = "peersV6", skip_serializing_if = "Vec::is_empty")]
    pub peers_v6: Vec<PeerStatus>,
}

/// A peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its address.
    #[serde(rename = "peerIP")]
    pub address: IpAddr,
    /// Where it comes from.
    #[serde(rename = "type")]
    pub origin: PeerType,
    /// State of RFC 4271 §8.2.2: `Established`.
    pub state: String,
    /// When it entered that state.
    pub since: String,
}

/// What makes a node have a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerType {
    /// The node-to-node mesh.
    NodeMesh,
    /// A BGPPeer for some nodes.
    NodePeer,
    /// A BGPPeer for all nodes.
    GlobalPeer,
}

/// Routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoutesStatus {
    /// IPv4.
    #[serde(rename = "routesV4", skip_serializing_if = "Vec::is_empty")]
    pub v4: Vec<RouteStatus>,
    /// IPv6.
    #[serde(rename = "routesV6", skip_serializing_if = "Vec::is_empty")]
    pub v6: Vec<RouteStatus>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    /// Whether packets follow it.
    #[serde(rename = "type")]
    pub table: RouteTable,
    /// Where it leads.
    pub destination: IpNet,
    /// Next hop; [`NO_GATEWAY`] for one that leads to a device, and for a blackhole.
    pub gateway: String,
    /// Device, `blackhole` or `unreachable`; empty when the next hop leads nowhere.
    pub interface: String,
    /// Who told it.
    pub learned_from: LearnedFrom,
}

/// What stands where a route has no next hop.
pub const NO_GATEWAY: &str = "N/A";

/// The table a route is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RouteTable {
    /// It is what the kernel follows.
    #[serde(rename = "FIB")]
    Fib,
    /// It is known, and another one is better, or it cannot be used.
    #[serde(rename = "RIB")]
    Rib,
}

/// Who told a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnedFrom {
    /// What kind of source.
    #[serde(rename = "sourceType")]
    pub source: RouteSource,
    /// The peer, where it was one.
    #[serde(rename = "peerIP", skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
}

/// What kind of source told a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RouteSource {
    /// The kernel.
    Kernel,
    /// This node originates it.
    Static,
    /// A subnet of one of the node's devices.
    Direct,
    /// A node of the mesh.
    NodeMesh,
    /// A peer that a BGPPeer names.
    #[serde(rename = "BGPPeer")]
    BgpPeer,
}

impl CalicoNodeStatusSpec {
    /// What is asked for, each class once. Names that are none are left out.
    pub fn asked(&self) -> Vec<Class> {
        let asked = |class: &Class| self.classes.iter().any(|name| name == class.name());
        Class::ALL.into_iter().filter(asked).collect()
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_calicos_names_and_nothing_that_was_not_asked_for() {
        let status = NodeStatus {
            last_updated: Some("2026-01-02T03:04:05Z".to_owned()),
            bgp: Some(BgpStatus {
                established_v4: 1,
                peers_v4: vec![PeerStatus {
                    address: Ipv4Addr::new(10, 0, 0, 2).into(),
                    origin: PeerType::NodeMesh,
                    state: "Established".to_owned(),
                    since: "2026-01-02T03:00:00Z".to_owned(),
                }],
                ..BgpStatus::default()
            }),
            ..NodeStatus::default()
        };
        let wanted = serde_json::json!({
            "lastUpdated": "2026-01-02T03:04:05Z",
            "bgp": {
                "numberEstablishedV4": 1, "numberNotEstablishedV4": 0,
                "numberEstablishedV6": 0, "numberNotEstablishedV6": 0,
                "peersV4": [{"peerIP": "10.0.0.2", "type": "NodeMesh", "state": "Established", "since": "2026-01-02T03:00:00Z"}],
            },
        });
        assert_eq!(serde_json::to_value(&status).unwrap(), wanted);
    }

    #[test]
    fn classes_are_taken_once_and_in_one_order() {
        let spec = CalicoNodeStatusSpec {
            classes: ["Routes", "x", "Agent", "Routes"]
                .map(String::from)
                .to_vec(),
            ..CalicoNodeStatusSpec::default()
        };
        assert_eq!(spec.asked(), [Class::Agent, Class::Routes]);
    }
}
