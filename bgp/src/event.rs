//! What happened, with typed reasons: for logs, metrics and `tortiectl`.

use std::fmt;
use std::net::SocketAddr;

use ipnet::IpNet;

use crate::types::{AfiSafi, Asn, PeerName, RouterId};
use crate::wire::notification::Notification;

/// Something an operator or the node wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session reached Established.
    SessionUp {
        /// Whose.
        peer: PeerName,
        /// BGP Identifier in its OPEN.
        router_id: RouterId,
        /// The transport's far end.
        remote: SocketAddr,
    },
    /// A session left Established.
    SessionDown {
        /// Whose.
        peer: PeerName,
        /// Why.
        reason: DownReason,
        /// Its routes are kept as stale until it is back or its Restart Time is over (RFC 4724 §4.2).
        routes_kept: bool,
    },
    /// A connection that was not Established failed.
    ConnectionFailed {
        /// Whose.
        peer: PeerName,
        /// Why.
        reason: DownReason,
        /// The failure before it had another reason, or there was none.
        is_news: bool,
    },
    /// The system refuses what a peer needs of a socket that others use, too, or of one that goes on without it.
    SocketRefused {
        /// Whose: a peer, or a template of peers.
        peer: PeerName,
        /// Which socket, which option with its value, the system's words.
        fault: String,
    },
    /// Several peers have the address and the AS of a connection that came in, and its BGP Identifier does not say whose it
    /// is: it was closed.
    ConnectionAmbiguous {
        /// Its far end.
        remote: SocketAddr,
        /// AS in its OPEN.
        asn: Asn,
        /// BGP Identifier in its OPEN.
        router_id: RouterId,
        /// Who it could have been.
        peers: Vec<PeerName>,
    },
    /// A received route does not enter the decision process: the first of those that one UPDATE announces.
    RouteRefused {
        /// Sender.
        peer: PeerName,
        /// The route.
        prefix: IpNet,
        /// Why.
        reason: RouteRefusal,
    },
    /// An UPDATE held an attribute with a fault that did not end the session (RFC 7606).
    AttributeFault {
        /// Sender.
        peer: PeerName,
        /// Attribute, numbers and action taken.
        fault: String,
    },
    /// Routes of a family could not be read any more: those received are forgotten, further ones are ignored until the
    /// session ends (RFC 4760 §7, RFC 7606 §2 "AFI/SAFI disable").
    FamilyDisabled {
        /// Sender.
        peer: PeerName,
        /// The family.
        family: AfiSafi,
        /// Attribute and numbers.
        fault: String,
        /// Routes removed.
        removed: usize,
    },
    /// The peer sent more prefixes than its warning threshold. Once until it has fewer again.
    PrefixLimitNear {
        /// Sender.
        peer: PeerName,
        /// Of which family.
        family: AfiSafi,
        /// Prefixes received.
        received: usize,
        /// Where the session ends, if anywhere.
        limit: Option<u32>,
    },
    /// A route could not be sent to a peer: the first of those with one reason that were to be sent at one time.
    NotAdvertised {
        /// The peer.
        peer: PeerName,
        /// The route.
        prefix: IpNet,
        /// Why.
        reason: ExportRefusal,
    },
    /// The peer has sent its whole table (RFC 4724 §2).
    EndOfRib {
        /// Sender.
        peer: PeerName,
        /// Of which family.
        family: AfiSafi,
    },
    /// Retained routes that were not refreshed were removed.
    StaleRoutesRemoved {
        /// Whose.
        peer: PeerName,
        /// How many.
        count: usize,
        /// Why now.
        reason: StaleEnd,
    },
    /// The first selection of routes (RFC 4724 §4.1) is over: every peer that sends End-of-RIB and does not restart itself
    /// has sent it, or had its time. Exactly one per speaker; a speaker that is not restarting gives it at its first
    /// configuration.
    SelectionComplete,
    /// Each peer, also one without graceful restart, has sent its routes, or had its time: from here on a prefix without a
    /// best route has none. Until this event the node keeps adopted kernel routes that no [`crate::route::RouteChange`]
    /// mentioned. Exactly one per speaker, after [`Self::SelectionComplete`].
    PeersReported,
}

/// Why a session or connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DownReason {
    /// The transport was closed or reset by the far end.
    TcpClosed,
    /// No transport connection: the option that was refused, if it was that, and the system's words.
    ConnectFailed(String),
    /// The system refuses what the peer needs of a socket ([`Event::SocketRefused`]). Ends nothing by itself.
    SocketRefused(String),
    /// A connection came whose OPEN has this BGP Identifier and fits several peers ([`Event::ConnectionAmbiguous`]).
    Ambiguous(RouterId),
    /// We sent this NOTIFICATION.
    NotificationSent(NotificationText),
    /// The peer sent this NOTIFICATION.
    NotificationReceived(NotificationText),
    /// The peer opened a new connection, so it has restarted (RFC 4724 §4.2).
    PeerRestarted,
    /// No progress in sending for the send hold time (RFC 9687).
    SendHoldTimerExpired,
    /// Lost the comparison of RFC 4271 §6.8.
    Collision,
    /// No answer to the connection attempt within the ConnectRetryTime.
    ConnectTimedOut,
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TcpClosed => f.write_str("connection closed by the peer"),
            Self::ConnectFailed(why) => write!(f, "connecting failed: {why}"),
            Self::Ambiguous(router_id) => write!(
                f,
                "a connection of BGP Identifier {router_id} fits several peers at this address"
            ),
            Self::SocketRefused(fault) => write!(f, "the system refuses: {fault}"),
            Self::NotificationSent(text) => write!(f, "sent {text}"),
            Self::NotificationReceived(text) => write!(f, "received {text}"),
            Self::PeerRestarted => f.write_str("peer opened a new session, so it restarted"),
            Self::SendHoldTimerExpired => f.write_str("peer does not read: send hold timer"),
            Self::Collision => f.write_str("closed in favour of the other connection"),
            Self::ConnectTimedOut => f.write_str("connecting took too long"),
        }
    }
}

/// A NOTIFICATION for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotificationText {
    /// Error code (RFC 4271 §4.5).
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// What the numbers mean, and what the data field says.
    pub text: String,
}

impl NotificationText {
    /// A Hard Reset (RFC 8538 §3): routes are not to be kept.
    pub(crate) const fn is_hard_reset(&self) -> bool {
        self.code == Notification::CEASE && self.subcode == Notification::HARD_RESET
    }
}

impl From<&Notification> for NotificationText {
    fn from(notification: &Notification) -> Self {
        let text = notification.to_string();
        let numbers = format!("{}/{} ", notification.code, notification.subcode);
        Self {
            code: notification.code,
            subcode: notification.subcode,
            text: text.strip_prefix(&numbers).unwrap_or(&text).to_owned(),
        }
    }
}

impl fmt::Display for NotificationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} {}", self.code, self.subcode, self.text)
    }
}

/// Why a received route does not take part in the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteRefusal {
    /// The import policy of the peer says no.
    Policy,
    /// An eBGP peer that must have an import policy has none (RFC 8212 §2.1).
    PolicyMissing,
    /// Our AS stands in AS_PATH more often than `allow_own_as` (RFC 4271 §9.1.2).
    AsLoop,
    /// An AS_SET stands in AS_PATH of an eBGP peer (RFC 9774 §3).
    AsSet,
    /// AS_PATH of an eBGP peer is empty: every speaker puts its own AS in front (RFC 4271 §5.1.2).
    AsPathEmpty,
    /// ORIGINATOR_ID is our BGP Identifier (RFC 4456 §8).
    OriginatorLoop,
    /// Our cluster id stands in CLUSTER_LIST (RFC 4456 §8).
    ClusterLoop,
    /// OTC of a customer, or of another AS from a peer: the route leaked (RFC 9234 §5).
    RouteLeak,
    /// NEXT_HOP is our own address on this session (RFC 4271 §5.1.3).
    NextHopIsSelf,
    /// Next hop is missing or of another family.
    NextHopMissing,
}

impl fmt::Display for RouteRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Policy => "refused by the import policy",
            Self::PolicyMissing => "the eBGP peer has no import policy (RFC 8212)",
            Self::AsLoop => "own AS in AS_PATH",
            Self::AsSet => "AS_SET in AS_PATH from another AS (RFC 9774)",
            Self::AsPathEmpty => "empty AS_PATH from another AS",
            Self::OriginatorLoop => "own router id in ORIGINATOR_ID",
            Self::ClusterLoop => "own cluster id in CLUSTER_LIST",
            Self::RouteLeak => "a leak by its OTC (RFC 9234)",
            Self::NextHopIsSelf => "next hop is our own address",
            Self::NextHopMissing => "no usable next hop in the UPDATE",
        })
    }
}

/// Why a route cannot be sent to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExportRefusal {
    /// The session has no own address of the route's family to name as next hop.
    NoNextHop,
    /// Attributes and one prefix do not fit into one message.
    TooLong,
}

/// What ended the retention of stale routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StaleEnd {
    /// End-of-RIB.
    EndOfRib,
    /// The peer did not come back within its Restart Time.
    RestartTimeOver,
    /// The peer came back, but End-of-RIB did not.
    EndOfRibMissing,
    /// The peer came back, and its session ended again before it had sent them (RFC 4724 §4.2, consecutive restarts).
    RestartedAgain,
    /// End of a route refresh (RFC 7313 §4).
    RefreshEnded,
    /// A route refresh began and did not end.
    RefreshEndMissing,
    /// The peer came back without having preserved its forwarding state.
    ForwardingNotPreserved,
}
