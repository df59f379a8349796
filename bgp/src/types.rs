//! Numbers and names that the whole speaker shares.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::Arc;

/// An autonomous system number, 4 octets (RFC 6793).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Asn(pub u32);

impl Asn {
    /// What a 4-octet number is called towards a 2-octet speaker (RFC 6793 §9).
    pub const TRANS: Self = Self(23456);
}

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a text is no AS number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("AS number {0:?}: must be 1 to 4294967295, plain or dotted (65000.1)")]
pub struct AsnError(String);

impl FromStr for Asn {
    type Err = AsnError;

    /// Reads asplain and asdot (RFC 5396). 0 is refused (RFC 7607).
    fn from_str(text: &str) -> Result<Self, AsnError> {
        let refused = || AsnError(text.to_owned());
        let number = match text.split_once('.') {
            None => text.parse::<u32>().map_err(|_| refused())?,
            Some((high, low)) => {
                let high = high.parse::<u16>().map_err(|_| refused())?;
                let low = low.parse::<u16>().map_err(|_| refused())?;
                (u32::from(high) << 16) | u32::from(low)
            }
        };
        if number == 0 {
            Err(refused())
        } else {
            Ok(Self(number))
        }
    }
}

/// A BGP Identifier (RFC 4271 §4.2, RFC 6286): any non-zero 32-bit number, written as an IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouterId(pub Ipv4Addr);

impl fmt::Display for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the configuration calls a peer: `Mesh_10_0_0_2`, `Global_10_0_0_3`, `Node_10_0_0_4`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerName(pub Arc<str>);

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One transport connection, numbered by the speaker (outgoing) or by the caller through
/// [`ConnId::incoming`]; never used twice in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

impl ConnId {
    /// The caller's `n`-th accepted connection. The top bit keeps it apart from the speaker's own numbers.
    pub const fn incoming(n: u64) -> Self {
        Self(n | (1 << 63))
    }
}

/// Tells the paths that one peer sends of a prefix apart (RFC 7911 §2): the peer's number, which nobody else knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathId(pub u32);

impl PathId {
    /// Of the only path, on a session whose UPDATEs have no path identifiers.
    pub const ONLY: Self = Self(0);
}

/// What we are to an eBGP peer (RFC 9234 §3): decides where routes may go on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The peer is our customer.
    Provider,
    /// We are a route server, the peer its client.
    RouteServer,
    /// The peer is a route server.
    RouteServerClient,
    /// The peer is our provider.
    Customer,
    /// Both exchange their own and their customers' routes.
    Peer,
}

impl Role {
    /// As it stands in the capability (§4.1).
    pub const fn code(self) -> u8 {
        match self {
            Self::Provider => 0,
            Self::RouteServer => 1,
            Self::RouteServerClient => 2,
            Self::Customer => 3,
            Self::Peer => 4,
        }
    }

    /// The role of a code; `None` for one that is not assigned.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Provider),
            1 => Some(Self::RouteServer),
            2 => Some(Self::RouteServerClient),
            3 => Some(Self::Customer),
            4 => Some(Self::Peer),
            _ => None,
        }
    }

    /// What the peer must be (§4.2).
    pub const fn counterpart(self) -> Self {
        match self {
            Self::Provider => Self::Customer,
            Self::Customer => Self::Provider,
            Self::RouteServer => Self::RouteServerClient,
            Self::RouteServerClient => Self::RouteServer,
            Self::Peer => Self::Peer,
        }
    }

    /// Routes to the peer may go on to its customers only.
    pub const fn marks_sent(self) -> bool {
        matches!(self, Self::Provider | Self::RouteServer | Self::Peer)
    }

    /// Routes of the peer may go on to our customers only, and the peer gets none that may go to customers only.
    pub const fn marks_received(self) -> bool {
        matches!(self, Self::Customer | Self::RouteServerClient | Self::Peer)
    }
}

/// Address family and subsequent family (RFC 4760), the two that are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AfiSafi {
    /// AFI 1, SAFI 1.
    Ipv4Unicast,
    /// AFI 2, SAFI 1.
    Ipv6Unicast,
}

impl AfiSafi {
    /// The family of a prefix.
    pub const fn of(prefix: ipnet::IpNet) -> Self {
        match prefix {
            ipnet::IpNet::V4(_) => Self::Ipv4Unicast,
            ipnet::IpNet::V6(_) => Self::Ipv6Unicast,
        }
    }
}
