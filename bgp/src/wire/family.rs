//! Address families as they stand on the wire.

use std::fmt;

use crate::types::AfiSafi;

/// An AFI and SAFI as received (RFC 4760 §3), spoken here or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Family {
    /// Address Family Identifier.
    pub afi: u16,
    /// Subsequent Address Family Identifier.
    pub safi: u8,
}

impl Family {
    /// The family in our own terms; `None` when it is not spoken here.
    pub const fn known(self) -> Option<AfiSafi> {
        match (self.afi, self.safi) {
            (1, 1) => Some(AfiSafi::Ipv4Unicast),
            (2, 1) => Some(AfiSafi::Ipv6Unicast),
            _ => None,
        }
    }
}

impl From<AfiSafi> for Family {
    fn from(family: AfiSafi) -> Self {
        match family {
            AfiSafi::Ipv4Unicast => Self { afi: 1, safi: 1 },
            AfiSafi::Ipv6Unicast => Self { afi: 2, safi: 1 },
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.known() {
            Some(AfiSafi::Ipv4Unicast) => f.write_str("IPv4 unicast"),
            Some(AfiSafi::Ipv6Unicast) => f.write_str("IPv6 unicast"),
            None => write!(f, "AFI {} SAFI {}", self.afi, self.safi),
        }
    }
}

impl fmt::Display for AfiSafi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Family::from(*self).fmt(f)
    }
}
