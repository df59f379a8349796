//! What the speaker tells about itself on request: `tortiectl bgp peers` and `bgp routes`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::event::{DownReason, RouteRefusal};
use crate::route::RouteSource;
use crate::types::{AfiSafi, Asn, PathId, PeerName, RouterId};

/// One peer as it stands.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Configured name.
    pub name: PeerName,
    /// Configured address.
    pub address: IpAddr,
    /// Configured AS.
    pub asn: Asn,
    /// Its AS is the one we are in, as far as it knows.
    pub is_internal: bool,
    /// FSM state.
    pub state: PeerState,
    /// The configuration wants no session; the state is Idle then.
    pub admin_shutdown: bool,
    /// When it entered that state.
    pub since: Instant,
    /// Time in Established, if it is.
    pub uptime: Option<Duration>,
    /// BGP Identifier of its last OPEN.
    pub router_id: Option<RouterId>,
    /// Own address of the session.
    pub local_address: Option<IpAddr>,
    /// Negotiated Hold Time; zero means none.
    pub hold_time: Option<Duration>,
    /// Prefixes by negotiated (or retained) family.
    pub prefixes: BTreeMap<AfiSafi, PrefixCounts>,
    /// A prefix of another router whose ORIGINATOR_ID is our BGP Identifier, heard from this peer: that router has it, too, and
    /// nothing of it is taken (RFC 4456 §8).
    pub shared_router_id: Option<IpNet>,
    /// Why the last session or connection ended.
    pub last_error: Option<DownReason>,
    /// Where graceful restart stands.
    pub graceful_restart: GracefulRestartState,
}

impl PeerStatus {
    /// The state for people: `Idle (admin shutdown)` where no session is wanted.
    pub fn state_text(&self) -> String {
        if self.admin_shutdown {
            format!("{} (admin shutdown)", self.state)
        } else {
            self.state.to_string()
        }
    }
}

/// Numbers of prefixes of one family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixCounts {
    /// In the peer's Adj-RIB-In.
    pub received: usize,
    /// Of these, those that take part in the decision.
    pub accepted: usize,
    /// In its Adj-RIB-Out.
    pub advertised: usize,
}

/// States of RFC 4271 §8.2.2, of the connection that is farthest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerState {
    /// Waiting after an error before the next attempt, or shut down.
    Idle,
    /// A connection is being opened.
    Connect,
    /// Waiting for the peer to connect, or for the time of the next attempt.
    Active,
    /// OPEN sent.
    OpenSent,
    /// OPEN accepted.
    OpenConfirm,
    /// The session stands.
    Established,
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "Idle",
            Self::Connect => "Connect",
            Self::Active => "Active",
            Self::OpenSent => "OpenSent",
            Self::OpenConfirm => "OpenConfirm",
            Self::Established => "Established",
        })
    }
}

/// Graceful restart as seen from here (RFC 4724).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GracefulRestartState {
    /// Not negotiated on the last session.
    Off,
    /// Negotiated; nothing is going on.
    Ready,
    /// We restarted and wait until the peer has sent its routes.
    AwaitingRoutes,
    /// The peer is away; its routes are kept until this instant.
    RetainingUntil(Instant),
    /// The peer is back; retained routes wait to be refreshed.
    Refreshing,
}

/// A prefix with every path known for it.
#[derive(Clone, Debug)]
pub struct RouteStatus {
    /// The prefix.
    pub prefix: IpNet,
    /// The best path first, the others in the order in which the decision removed them, last removed first.
    pub paths: Vec<PathStatus>,
}

/// One path.
#[derive(Clone, Debug)]
pub struct PathStatus {
    /// Who announced it; `None` for our own.
    pub peer: Option<PeerName>,
    /// The peer's number for it, if the peer may send several of one prefix (RFC 7911).
    pub path_id: Option<PathId>,
    /// Kind of source.
    pub source: RouteSource,
    /// NEXT_HOP; `None` for an own route that takes each session's address.
    pub next_hop: Option<IpAddr>,
    /// What the decision process says about it.
    pub standing: PathStanding,
    /// Retained over the peer's restart.
    pub stale: bool,
    /// AS_PATH in text.
    pub as_path: String,
    /// LOCAL_PREF that the decision used.
    pub local_pref: u32,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// ORIGIN: `igp`, `egp` or `incomplete`.
    pub origin: &'static str,
    /// Communities in text.
    pub communities: Vec<String>,
}

/// The verdict on one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathStanding {
    /// The best one.
    Best,
    /// Equal to the best up to the interior cost: used beside it.
    Multipath,
    /// Lost at this step.
    Lost(DecisionStep),
    /// Takes no part.
    Refused(RouteRefusal),
    /// Waits for its peer's End-of-RIB after our own restart.
    Deferred,
}

/// The steps by which candidates are removed, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DecisionStep {
    /// Own routes before learned ones.
    OwnRoute,
    /// A next hop that cannot be reached takes no part (RFC 4271 §9.1.2.1).
    NextHopReachable,
    /// Highest LOCAL_PREF (§9.1.1).
    LocalPref,
    /// §9.1.2.2 a: fewest AS numbers.
    AsPathLength,
    /// b: lowest ORIGIN.
    Origin,
    /// c: lowest MULTI_EXIT_DISC among paths of one neighbouring AS.
    MultiExitDisc,
    /// d: eBGP before iBGP.
    EbgpOverIbgp,
    /// e: lowest interior cost to the next hop.
    InteriorCost,
    /// f: lowest BGP Identifier, or ORIGINATOR_ID in its place (RFC 4456 §9).
    RouterId,
    /// RFC 4456 §9: shortest CLUSTER_LIST.
    ClusterListLength,
    /// g: lowest peer address.
    PeerAddress,
}

impl DecisionStep {
    /// A path that lost here is as good as the best one: the step only settles on one of several. BIRD's `merge paths`
    /// and FRR's `bestpath as-path multipath-relax` draw the line at the same place.
    pub const fn is_tie_break(self) -> bool {
        match self {
            Self::OwnRoute
            | Self::NextHopReachable
            | Self::LocalPref
            | Self::AsPathLength
            | Self::Origin
            | Self::MultiExitDisc
            | Self::EbgpOverIbgp
            | Self::InteriorCost => false,
            Self::RouterId | Self::ClusterListLength | Self::PeerAddress => true,
        }
    }
}
