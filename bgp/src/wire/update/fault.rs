//! What was wrong with an UPDATE, and what was done about it (RFC 7606 §2).

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::types::{AfiSafi, Asn};
use crate::wire::attr::AttributeCode;
use crate::wire::attr::as_path::PathError;
use crate::wire::family::Family;
use crate::wire::nlri::PrefixError;
use crate::wire::notification::Notification;

/// One error in one UPDATE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it was; `None` for the message as a whole and its classic IPv4 fields.
    pub attribute: Option<AttributeCode>,
    /// What it was.
    pub reason: Reason,
    /// What it calls for. The strongest action of an UPDATE's faults was applied to all of it.
    pub action: Action,
}

/// Ways to deal with an error, the weakest first (RFC 7606 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// The attribute or prefix is as if it had not been sent.
    Discard,
    /// All announced routes of the message are taken as withdrawn.
    TreatAsWithdraw,
    /// All routes of the family are forgotten, further ones ignored until the session ends (RFC 4760 §7).
    DisableFamily(AfiSafi),
    /// The session ends with a NOTIFICATION.
    SessionReset,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// Optional and Transitive bits are not those of the attribute.
    #[error("flags {found:#04x}, must be {required:#04x}")]
    Flags {
        /// The flags received.
        found: u8,
        /// The Optional and Transitive bits it must have.
        required: u8,
    },
    /// The attribute has a length it cannot have.
    #[error("length {found}, must be {allowed}")]
    Length {
        /// The length received.
        found: usize,
        /// In words.
        allowed: &'static str,
    },
    /// A path attribute reaches over the end of the attributes (RFC 7606 §4).
    #[error("attribute needs {needed} octets, {left} left")]
    Overrun {
        /// Octets it takes.
        needed: usize,
        /// Octets there were.
        left: usize,
    },
    /// The attribute was there before.
    #[error("stands there more than once")]
    Repeated,
    /// A mandatory attribute is missing.
    #[error("is missing")]
    Missing,
    /// Well-known by its flags, and unknown.
    #[error("is flagged well-known, and unknown")]
    UnknownWellKnown,
    /// ORIGIN has an undefined value.
    #[error("value {found}, must be 0, 1 or 2")]
    Origin {
        /// The value received.
        found: u8,
    },
    /// AS_PATH or AS4_PATH cannot be read.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The leftmost AS is not the peer's.
    #[error("first AS is {}, must be the peer's {required}", OrNone(*.found))]
    FirstAs {
        /// The first AS, if a sequence leads.
        found: Option<Asn>,
        /// The peer's AS.
        required: Asn,
    },
    /// AS 0 (RFC 7607).
    #[error("AS 0 is no AS number")]
    AsZero,
    /// The next hop is no host's address.
    #[error("next hop {found} is no host address")]
    NextHop {
        /// The address received.
        found: IpAddr,
    },
    /// A next hop of a length that its family does not have.
    #[error("next hop of {found} octets, must be {allowed} for {family}")]
    NextHopLength {
        /// The length received.
        found: usize,
        /// In words.
        allowed: &'static str,
        /// The family.
        family: AfiSafi,
    },
    /// A prefix cannot be read.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// Prefixes that no unicast route can have.
    #[error("{first} and {others} other prefixes are not unicast")]
    NotUnicast {
        /// The first of them.
        first: IpNet,
        /// How many more there were.
        others: usize,
    },
    /// The family was not negotiated.
    #[error("{family} was not negotiated")]
    Family {
        /// The family.
        family: Family,
    },
    /// Not taken from an eBGP peer.
    #[error("is for iBGP only")]
    FromEbgp,
    /// Not taken from a peer with 4-octet AS numbers (RFC 6793 §6).
    #[error("comes from a peer that writes 4-octet AS numbers")]
    FromFourOctetPeer,
}

impl Reason {
    /// The NOTIFICATION to send when this ends the session (RFC 4271 §6.3). `whole` is the attribute as received.
    pub(in crate::wire) fn notification(
        &self,
        attribute: Option<AttributeCode>,
        whole: &[u8],
    ) -> Notification {
        let multiprotocol = matches!(
            attribute,
            Some(AttributeCode::MP_REACH_NLRI | AttributeCode::MP_UNREACH_NLRI)
        );
        match self {
            Self::Repeated | Self::Overrun { .. } => Notification::malformed_attribute_list(),
            Self::UnknownWellKnown => Notification::unrecognized_well_known(whole),
            Self::Missing => {
                Notification::missing_well_known(attribute.map_or(0, |attribute| attribute.0))
            }
            Self::Flags { .. } => Notification::attribute_flags(whole),
            // RFC 4760 §7.
            _ if multiprotocol => Notification::optional_attribute(whole),
            Self::Length { .. } => Notification::attribute_length(whole),
            Self::Origin { .. } => Notification::invalid_origin(whole),
            Self::Path(_) | Self::FirstAs { .. } => Notification::malformed_as_path(),
            Self::NextHop { .. } | Self::NextHopLength { .. } => {
                Notification::invalid_next_hop(whole)
            }
            Self::Prefix(_) | Self::NotUnicast { .. } => Notification::invalid_network_field(),
            Self::AsZero | Self::Family { .. } | Self::FromEbgp | Self::FromFourOctetPeer => {
                Notification::optional_attribute(whole)
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.attribute {
            Some(code) => write!(f, "{code}: {}: {}", self.reason, self.action),
            None => write!(f, "{}: {}", self.reason, self.action),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Discard => f.write_str("ignored"),
            Self::TreatAsWithdraw => f.write_str("routes taken as withdrawn"),
            Self::DisableFamily(family) => write!(f, "{} disabled", Family::from(*family)),
            Self::SessionReset => f.write_str("session reset"),
        }
    }
}

struct OrNone(Option<Asn>);

impl fmt::Display for OrNone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(asn) => asn.fmt(f),
            None => f.write_str("none"),
        }
    }
}
