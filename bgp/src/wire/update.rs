//! UPDATE (RFC 4271 §4.3), decoded under the rules of RFC 7606.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::types::{AfiSafi, Asn};
use crate::wire::attr::{AsnWidth, NextHop, PathAttributes};
use crate::wire::nlri::Nlri;
use crate::wire::notification::Notification;

pub mod encode;
mod fault;

pub use fault::{Action, Fault, Reason};

/// What decides how a peer's UPDATEs are read; fixed once the session is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiveContext {
    /// The kind of peer: attributes for iBGP are not taken from an eBGP peer.
    pub peer: PeerKind,
    /// The peer's AS.
    pub peer_asn: Asn,
    /// Width of AS numbers negotiated.
    pub asn_width: AsnWidth,
    /// Families negotiated; routes of others are ignored.
    pub families: BTreeSet<AfiSafi>,
    /// Whether an eBGP peer must put its own AS first.
    pub first_as: FirstAsCheck,
}

/// Kind of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerKind {
    /// Another AS.
    Ebgp,
    /// Our own AS.
    Ibgp,
}

/// Whether the leftmost AS must be the eBGP peer's (RFC 4271 §6.3); route servers leave theirs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstAsCheck {
    /// Routes with another first AS are withdrawn.
    Enforce,
    /// Any first AS.
    Off,
}

/// A decoded UPDATE, the faults' actions applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Announced routes. Not empty exactly when `attributes` is there.
    pub reach: Vec<Reach>,
    /// Withdrawn routes, announced ones that RFC 7606 says to treat so included.
    pub unreach: Vec<Nlri>,
    /// Attributes of `reach`.
    pub attributes: Option<PathAttributes>,
    /// What was wrong, without ending the session. Only [`Action::DisableFamily`] is left for the caller to do.
    pub faults: Vec<Fault>,
    /// This is an End-of-RIB marker (RFC 4724 §2).
    pub end_of_rib: Option<AfiSafi>,
}

/// Announced routes of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Their next hop, as NEXT_HOP or MP_REACH_NLRI states it.
    pub next_hop: NextHop,
    /// The prefixes; never empty.
    pub nlri: Nlri,
}

/// Decodes the body of an UPDATE.
///
/// # Errors
/// The NOTIFICATION of a fault whose action is a session reset.
pub fn decode_update(_body: &Bytes, _context: &ReceiveContext) -> Result<Update, Notification> {
    Ok(Update::default())
}
