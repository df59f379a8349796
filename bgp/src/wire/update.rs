//! UPDATE (RFC 4271 §4.3), decoded under the rules of RFC 7606.

use std::collections::BTreeSet;
use std::net::IpAddr;

use bytes::Bytes;

use crate::types::{AfiSafi, Asn};
use crate::wire::attr::{AsnWidth, AttributeCode, NextHop, PathAttributes};
use crate::wire::family::Family;
use crate::wire::nlri::{Nlri, PathIds};
use crate::wire::notification::Notification;
use crate::wire::reader::Reader;

pub(in crate::wire) mod draft;
pub mod encode;
mod fault;
pub(in crate::wire) mod multiprotocol;

use draft::Draft;

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
    /// Those of them whose prefixes come with path identifiers (RFC 7911).
    pub add_paths: BTreeSet<AfiSafi>,
    /// IPv4 prefixes may come with IPv6 next hops (RFC 8950).
    pub ipv6_next_hops: bool,
    /// Whether an eBGP peer must put its own AS first.
    pub first_as: FirstAsCheck,
}

impl ReceiveContext {
    /// Whether prefixes of a family come with path identifiers.
    pub fn path_ids(&self, family: AfiSafi) -> PathIds {
        if self.add_paths.contains(&family) {
            PathIds::Present
        } else {
            PathIds::Absent
        }
    }
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
///
/// `unreach` is to be applied before `reach`: a prefix in both is announced (RFC 4271 §4.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Announced routes. Not empty exactly when `attributes` is there.
    pub reach: Vec<Reach>,
    /// Withdrawn routes, announced ones that RFC 7606 says to treat so included.
    pub unreach: Vec<Nlri>,
    /// Attributes of `reach`.
    pub attributes: Option<PathAttributes>,
    /// What was wrong, without ending the session; no more than a few for each attribute code. Only [`Action::DisableFamily`] is left for the caller to do.
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
/// ```text
/// +-------------------------------+-------------------------------+
/// |   withdrawn routes length     |  withdrawn routes ...
/// +-------------------------------+-------------------------------+
/// |   path attributes length      |  path attributes ...
/// +-------------------------------+-------------------------------+
/// |  NLRI, to the end of the message ...
/// +---------------------------------------------------------------+
/// ```
///
/// # Errors
/// The NOTIFICATION of a fault whose action is a session reset.
pub fn decode_update(body: &Bytes, context: &ReceiveContext) -> Result<Update, Notification> {
    let mut reader = Reader::new(body);
    let withdrawn_field = length_and_field(&mut reader)?;
    let attributes_field = length_and_field(&mut reader)?;
    let nlri_field = reader.rest();
    let mut draft = Draft::new(body);
    draft.read_attributes(attributes_field, context)?;

    let mut unreach = Vec::new();
    unreach.extend(read_classic(&mut draft, withdrawn_field, context)?);
    let announced = read_classic(&mut draft, nlri_field, context)?;
    let has_reach = !nlri_field.is_empty() || draft.seen.contains(AttributeCode::MP_REACH_NLRI);
    let is_empty = withdrawn_field.is_empty() && !has_reach;
    let end_of_rib = end_of_rib(&draft, is_empty, context);
    unreach.extend(draft.unreach.take());
    check_presence(&mut draft, has_reach, !nlri_field.is_empty())?;
    check_first_as(&mut draft, has_reach, context)?;

    let mut reach = Vec::new();
    if let Some(routes) = draft.reach.take() {
        reach.push(checked(&mut draft, AttributeCode::MP_REACH_NLRI, routes)?);
    }
    if let (Some(nlri), Some(next_hop)) = (&announced, draft.next_hop) {
        let routes = Reach {
            next_hop: NextHop::V4(next_hop),
            nlri: nlri.clone(),
        };
        reach.push(checked(&mut draft, AttributeCode::NEXT_HOP, routes)?);
    } else if let Some(nlri) = announced {
        // NEXT_HOP is missing or malformed, which is a fault already: these are withdrawn.
        unreach.push(nlri);
    }

    // RFC 7606 §5.2: there are attributes and yet no routes that could be withdrawn for them.
    let strong = draft
        .faults
        .iter()
        .any(|fault| fault.action > Action::Discard);
    if strong && !has_reach && !draft.is_only(AttributeCode::MP_UNREACH_NLRI) {
        return Err(draft
            .reset
            .unwrap_or_else(Notification::malformed_attribute_list));
    }
    let mut update = Update {
        reach,
        unreach,
        attributes: Some(draft.attributes),
        faults: draft.faults,
        end_of_rib,
    };
    update.apply_faults();
    Ok(update)
}

impl Update {
    /// Does what the faults call for, and drops what is empty then.
    fn apply_faults(&mut self) {
        for fault in &self.faults {
            if let Action::DisableFamily(family) = fault.action {
                self.reach.retain(|reach| reach.nlri.family() != family);
                self.unreach.retain(|nlri| nlri.family() != family);
            }
        }
        let withdraw = |fault: &Fault| fault.action == Action::TreatAsWithdraw;
        if self.faults.iter().any(withdraw) {
            self.unreach
                .extend(self.reach.drain(..).map(|reach| reach.nlri));
        }
        self.reach.retain(|reach| !reach.nlri.is_empty());
        self.unreach.retain(|nlri| !nlri.is_empty());
        if self.reach.is_empty() {
            self.attributes = None;
        }
    }
}

/// RFC 4724 §2. The multiprotocol form is taken for IPv4 too.
fn end_of_rib(draft: &Draft<'_>, is_empty: bool, context: &ReceiveContext) -> Option<AfiSafi> {
    if !is_empty || !draft.faults.is_empty() {
        return None;
    }
    if draft.seen.count() == 0 {
        return Some(AfiSafi::Ipv4Unicast).filter(|family| context.families.contains(family));
    }
    let nlri = draft.unreach.as_ref().filter(|nlri| nlri.is_empty())?;
    Some(nlri.family()).filter(|_| draft.is_only(AttributeCode::MP_UNREACH_NLRI))
}

/// RFC 7606 §3 a leaves it to RFC 4271 §6.3 when a field reaches over the end: 3/1.
fn length_and_field<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Notification> {
    let malformed = |_| Notification::malformed_attribute_list();
    let length = reader.u16().map_err(malformed)?;
    reader.take(usize::from(length)).map_err(malformed)
}

/// Reads one of the two IPv4 fields; `None` when it is empty or IPv4 was not negotiated.
fn read_classic(
    draft: &mut Draft<'_>,
    field: &[u8],
    context: &ReceiveContext,
) -> Result<Option<Nlri>, Notification> {
    let family = AfiSafi::Ipv4Unicast;
    if field.is_empty() {
        return Ok(None);
    }
    if !context.families.contains(&family) {
        let family = Family::from(family);
        draft.fault(None, Reason::Family { family }, Action::Discard, &[])?;
        return Ok(None);
    }
    Nlri::new(
        family,
        context.path_ids(family),
        draft.body.slice_ref(field),
    )
    .map(Some)
    .map_err(|error| Reason::Prefix(error).notification(None, &[]))
}

/// RFC 7606 §3 d. LOCAL_PREF of an iBGP peer may be missing: RFC 4271 §5.1.5 asks the sender for it, §5 does not
/// make it mandatory.
fn check_presence(
    draft: &mut Draft<'_>,
    has_reach: bool,
    has_classic_reach: bool,
) -> Result<(), Notification> {
    let needed = [
        (AttributeCode::ORIGIN, has_reach),
        (AttributeCode::AS_PATH, has_reach),
        (AttributeCode::NEXT_HOP, has_classic_reach),
    ];
    for (code, needed) in needed {
        if needed && !draft.seen.contains(code) {
            draft.fault(Some(code), Reason::Missing, Action::TreatAsWithdraw, &[])?;
        }
    }
    Ok(())
}

/// RFC 4271 §6.3, RFC 7606 §7.2.
fn check_first_as(
    draft: &mut Draft<'_>,
    has_reach: bool,
    context: &ReceiveContext,
) -> Result<(), Notification> {
    let code = AttributeCode::AS_PATH;
    let bad_path = draft
        .faults
        .iter()
        .any(|fault| fault.attribute == Some(code));
    let enforced = context.first_as == FirstAsCheck::Enforce && context.peer == PeerKind::Ebgp;
    let found = draft.attributes.as_path.first_as();
    if !enforced || !has_reach || bad_path || found == Some(context.peer_asn) {
        return Ok(());
    }
    let reason = Reason::FirstAs {
        found,
        required: context.peer_asn,
    };
    draft.fault(Some(code), reason, Action::TreatAsWithdraw, &[])
}

/// Another host can have this address (RFC 4271 §6.3): not 0.0.0.0/8, 127.0.0.0/8, multicast, broadcast and what IPv6 has in
/// their place (RFC 6890). 240.0.0.0/4 can: networks use it, and the kernel routes it.
fn can_be_next_hop(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [first, ..] = address.octets();
            !(first == 0
                || address.is_loopback()
                || address.is_multicast()
                || address.is_broadcast())
        }
        IpAddr::V6(address) => {
            !(address.is_unspecified() || address.is_loopback() || address.is_multicast())
        }
    }
}

/// Next hops must be able to be hosts (RFC 4271 §6.3); prefixes that are not unicast are ignored alone.
fn checked(
    draft: &mut Draft<'_>,
    next_hop_of: AttributeCode,
    mut routes: Reach,
) -> Result<Reach, Notification> {
    let found = routes.next_hop.address();
    if !can_be_next_hop(found) {
        let reason = Reason::NextHop { found };
        draft.fault(Some(next_hop_of), reason, Action::TreatAsWithdraw, &[])?;
    }
    if let [first, others @ ..] = routes.nlri.remove_not_unicast().as_slice() {
        // One fault however many they are: a message holds thousands.
        let reason = Reason::NotUnicast {
            first: *first,
            others: others.len(),
        };
        draft.fault(None, reason, Action::Discard, &[])?;
    }
    Ok(routes)
}
