//! What the speaker is told to be. A new value replaces the old one; only sessions whose own wire-visible fields
//! changed are reset.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::policy::{Edit, Term};
use crate::types::{AfiSafi, Asn, PeerName, Role, RouterId};

/// The whole configuration of one speaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Own AS.
    pub asn: Asn,
    /// BGP Identifier.
    pub router_id: RouterId,
    /// TCP port to listen on, 179 unless configured.
    pub listen_port: u16,
    /// Own addresses to listen on; empty listens on every address.
    pub listen_addresses: BTreeSet<IpAddr>,
    /// Cluster id when this speaker reflects routes (RFC 4456).
    pub cluster_id: Option<Ipv4Addr>,
    /// Restart Time told to peers (RFC 4724 §3), at most 4095 s. A change is told with the next OPEN.
    pub restart_time: Duration,
    /// How long a restarting speaker waits for End-of-RIB of its peers before it selects routes (RFC 4724 §4.1).
    pub deferral_time: Duration,
    /// Most paths used side by side for one prefix; 0 and 1 use the best one only. Paths are equal when the decision
    /// process tells them apart by nothing before the BGP Identifier (RFC 4271 §9.1.2.2 f); eBGP and iBGP paths are
    /// never mixed. Peers hear of the best one only.
    pub multipath: u16,
    /// The peers, by name. Each has an [`Endpoint`] of its own: of several names for one, the first counts. A peer that only
    /// its name has changed goes on as it is.
    pub peers: BTreeMap<PeerName, PeerConfig>,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Where the peer listens and which address its connections come from.
    pub address: IpAddr,
    /// TCP port to connect to.
    pub port: u16,
    /// Own address to connect from; the kernel chooses when absent.
    pub local_address: Option<IpAddr>,
    /// The peer's AS; equal to ours makes it iBGP.
    pub asn: Asn,
    /// AS presented to this peer in place of our own.
    pub local_asn: Option<Asn>,
    /// Families offered.
    pub families: BTreeSet<AfiSafi>,
    /// Wait for the peer to connect, never connect.
    pub passive: bool,
    /// Hold Time offered (RFC 4271 §4.2): 0 or at least 3 s. Calico's default is 240 s.
    pub hold_time: Duration,
    /// ConnectRetryTimer, before jitter.
    pub connect_retry_time: Duration,
    /// TCP MD5 key (RFC 2385). A session that stands goes on with a new key, with its first or without its last one, if
    /// the other end changes, too, before the Hold Time is over: until then each end drops what the other one sends.
    pub password: Option<Password>,
    /// Peer may be this many hops away and no further (RFC 5082); absent leaves TTLs to the kernel for iBGP, and 1 for
    /// eBGP unless `multihop`.
    pub ttl_security: Option<u8>,
    /// eBGP peer that is not on a connected network.
    pub multihop: bool,
    /// Reflect to this peer (RFC 4456).
    pub route_reflector_client: bool,
    /// Next hop put in routes sent to this peer.
    pub next_hop: NextHopMode,
    /// How often our own AS may stand in a received AS_PATH.
    pub allow_own_as: u8,
    /// Offer graceful restart (RFC 4724).
    pub graceful_restart: bool,
    /// Restart Time told to this peer in place of [`Config::restart_time`], at most 4095 s. A change is told with the next
    /// OPEN.
    pub restart_time: Option<Duration>,
    /// Most prefixes accepted from this peer, per family.
    pub prefix_limit: Option<u32>,
    /// Which received routes enter the decision process.
    pub import: RoutePolicy,
    /// Which routes are sent.
    pub export: RoutePolicy,
    /// What few peers need.
    pub options: PeerOptions,
}

impl PeerConfig {
    /// Whether the session is between two ASes, where the speaker's own is `asn`.
    pub fn is_external(&self, asn: Asn) -> bool {
        self.local_asn.unwrap_or(asn) != self.asn
    }

    /// What tells this peer from all others.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            address: self.address,
            scope_id: self.options.scope_id,
            port: self.port,
        }
    }
}

/// What tells a peer from all others, whatever it is called and whoever asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// Where it is.
    pub address: IpAddr,
    /// Zone of a link-local IPv6 address (RFC 4007 §6), else 0.
    pub scope_id: u32,
    /// Where it listens; 0 for one of a range, which is never connected to.
    pub port: u16,
}

impl Endpoint {
    /// The same without a port.
    pub(crate) const fn host(self) -> Self {
        Self { port: 0, ..self }
    }

    /// Where to connect to.
    pub fn socket_address(self) -> SocketAddr {
        match self.address {
            IpAddr::V4(address) => SocketAddr::from((address, self.port)),
            IpAddr::V6(address) => SocketAddrV6::new(address, self.port, 0, self.scope_id).into(),
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(at: SocketAddr) -> Self {
        let address = at.ip().to_canonical();
        let scope_id = match at {
            SocketAddr::V6(at) if address.is_ipv6() => at.scope_id(),
            SocketAddr::V6(_) | SocketAddr::V4(_) => 0,
        };
        Self {
            address,
            scope_id,
            port: at.port(),
        }
    }
}

/// Settings of a peer that are off by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerOptions {
    /// Zone of a link-local IPv6 address (RFC 4007 §6): the index of the interface. Else 0.
    pub scope_id: u32,
    /// KEEPALIVEs are sent this often, before jitter, if that is more often than three times in the negotiated Hold Time
    /// (RFC 4271 §4.4). At least 1 s.
    pub keepalive_time: Option<Duration>,
    /// An event tells when more prefixes than this were received, per family.
    pub prefix_warning: Option<u32>,
    /// Routes of an eBGP peer whose AS_PATH does not begin with the peer's AS are withdrawn (RFC 4271 §6.3). Not for
    /// route servers.
    pub enforce_first_as: bool,
    /// Without a policy of its own, nothing is taken from and sent to an eBGP peer (RFC 8212). A [`RoutePolicy`] without
    /// terms that accepts is no policy.
    pub require_policy: bool,
    /// Routes are kept over NOTIFICATIONs and an expired hold timer, too, if the peer agrees (RFC 8538). Needs
    /// `graceful_restart`.
    pub notification_restart: bool,
    /// Whether all paths of a prefix are sent and taken, if the peer does the other half.
    pub add_paths: AddPaths,
    /// IPv4 prefixes may have IPv6 next hops, in both directions, if the peer agrees (RFC 8950); its own address is the next hop
    /// of IPv4 prefixes on an IPv6 session then.
    pub ipv6_next_hops: bool,
    /// What we are to a peer of another AS (RFC 9234): a peer that says it is something else is refused, routes that are not for
    /// it are kept back, and those it must not have had are not taken.
    pub role: Option<Role>,
    /// A peer that does not say what it is to us is refused, too.
    pub strict_role: bool,
    /// This is no peer but what peers of a range of addresses have in common.
    pub dynamic: Option<DynamicRange>,
    /// The peer stays configured, but there is no session with it: a standing one ends with Cease/Administrative Shutdown and
    /// its routes go (RFC 4271 §8.1.2, ManualStop; ManualStart when this is taken back).
    pub shutdown: bool,
    /// Told to the peer's operator when the peer is shut down or removed (RFC 9003), as an Administrative Shutdown.
    pub shutdown_text: Option<Arc<str>>,
}

/// Several paths of one prefix on one session, in each direction (RFC 7911), for all families. Each path counts for a prefix limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddPaths {
    /// The peer may send several.
    pub receive: bool,
    /// Every path that could be chosen here is sent, not the best one only.
    pub send: bool,
}

/// Addresses from which anybody may connect. Each becomes a peer of its own, named after its template and its address, that
/// lasts as long as its session, or its routes do. It is never connected to. An address that a peer is configured for is that
/// peer's; but where the range has an MD5 key, such a peer can connect to us only with a key of its own, since the kernel
/// goes by addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DynamicRange {
    /// The addresses. The template's own address counts for nothing.
    pub range: IpNet,
    /// Most peers of this range at a time; further ones are refused.
    pub limit: u32,
}

/// NEXT_HOP towards a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NextHopMode {
    /// RFC 4271 §5.1.3: self towards eBGP and for own routes, unchanged otherwise.
    Auto,
    /// Always our own address.
    SelfAddress,
    /// Unchanged even towards eBGP.
    Keep,
}

/// What happens to routes: the terms in order, of which the first that accepts or rejects decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutePolicy {
    /// Terms in order. None costs nothing.
    pub terms: Vec<Term>,
    /// What happens to a route that no term decides on.
    pub default_accept: bool,
    /// Changes made last in every route that passes. No term sees them, and they make no policy of what is none (RFC 8212).
    pub last: Vec<Edit>,
}

impl RoutePolicy {
    /// Lets everything through.
    pub const fn accept_all() -> Self {
        Self {
            terms: Vec::new(),
            default_accept: true,
            last: Vec::new(),
        }
    }

    /// Refuses everything.
    pub const fn reject_all() -> Self {
        Self {
            terms: Vec::new(),
            default_accept: false,
            last: Vec::new(),
        }
    }

    /// Every route passes as it is; so nothing was said about routes (RFC 8212).
    pub const fn accepts_all(&self) -> bool {
        self.terms.is_empty() && self.default_accept
    }
}

/// A TCP MD5 key, at most 80 bytes; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub Arc<str>);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}
