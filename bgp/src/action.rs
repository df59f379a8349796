//! What the speaker asks of the transport.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::config::Password;
use crate::types::{ConnId, PeerName};

/// A request to the owner of the sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a connection; answered by `handle_connected` or `handle_connect_failed`.
    Connect(ConnectRequest),
    /// End a connection. The speaker has forgotten it already: no event about it has an effect any more.
    Close {
        /// Which one.
        conn: ConnId,
        /// Last bytes to write before the close, after what `poll_transmit` gave: a NOTIFICATION, or nothing.
        farewell: Vec<u8>,
    },
}

/// How to connect to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// Number of the new connection.
    pub conn: ConnId,
    /// Whom it leads to.
    pub peer: PeerName,
    /// Address and port to connect to.
    pub remote: SocketAddr,
    /// Own address to bind to; the kernel chooses when absent.
    pub local_address: Option<IpAddr>,
    /// TCP MD5 key (RFC 2385).
    pub password: Option<Password>,
    /// TTLs of the connection.
    pub ttl: Ttl,
}

/// IP TTL (hop limit) of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ttl {
    /// Sent; `None` leaves the kernel's default.
    pub sent: Option<u8>,
    /// Least value accepted (RFC 5082); `None` accepts any.
    pub accepted_min: Option<u8>,
}

impl Ttl {
    /// The kernel's defaults.
    pub const KERNEL: Self = Self {
        sent: None,
        accepted_min: None,
    };
}

/// Why a connection that came in is not wanted. The caller closes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    /// No peer has this address.
    UnknownAddress,
    /// The address is in a range, and as many peers as the range may have are there.
    RangeFull,
    /// The peer is shut down ([`PeerOptions::shutdown`](crate::config::PeerOptions)).
    Shutdown,
    /// The peer is Idle after an error (RFC 4271 §8.2.2: Idle refuses all incoming connections).
    IdleHold,
    /// Several peers have this address, and as many connections as may wait for their OPENs do.
    TooManyUnmatched,
    /// The peer's session stands, and it did not offer graceful restart (RFC 4271 §6.8).
    Established,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownAddress => "no configured peer has this address",
            Self::RangeFull => "the range of dynamic peers is full",
            Self::Shutdown => "the peer is administratively shut down",
            Self::IdleHold => "the peer is idle after an error",
            Self::TooManyUnmatched => "too many connections wait for their OPENs",
            Self::Established => "the peer's session is established",
        })
    }
}

impl std::error::Error for Refused {}
