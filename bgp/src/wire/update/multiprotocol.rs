//! MP_REACH_NLRI and MP_UNREACH_NLRI (RFC 4760 §3, §4; RFC 2545 §3).

use std::net::{IpAddr, Ipv4Addr};

use crate::types::AfiSafi;
use crate::wire::attr::NextHop;
use crate::wire::family::Family;
use crate::wire::nlri::Nlri;
use crate::wire::reader::{ReadError, Reader};
use crate::wire::update::draft::{Draft, Flaw, Received};
use crate::wire::update::{Action, Reach, Reason, ReceiveContext};

/// ```text
/// +-------------------------------+---------------+---------------+
/// |              AFI              |     SAFI      | next hop len  |
/// +-------------------------------+---------------+---------------+
/// |  next hop ...                 |   reserved    |  NLRI ...
/// +-------------------------------+---------------+---------------+
/// ```
pub(in crate::wire) fn decode_reach<'a>(
    draft: &mut Draft<'a>,
    received: &Received<'a>,
    context: &ReceiveContext,
) -> Result<(), Flaw> {
    let mut reader = Reader::new(received.value);
    let short = |_: ReadError| Reason::Length {
        found: received.value.len(),
        allowed: "at least 5 and the next hop",
    };
    let family = family(&mut reader, context).map_err(|error| error.or(short))?;
    let unreadable = |reason| Flaw {
        reason,
        action: Some(disable(family, context)),
    };
    let next_hop_length = reader.u8().map_err(|error| unreadable(short(error)))?;
    let mut next_hop = reader
        .sub(usize::from(next_hop_length))
        .map_err(|error| unreadable(short(error)))?;
    reader.u8().map_err(|error| unreadable(short(error)))?;
    let next_hop = decode_next_hop(&mut next_hop, family, context).map_err(unreadable)?;
    let nlri = Nlri::new(
        family,
        context.path_ids(family),
        draft.body.slice_ref(reader.rest()),
    )
    .map_err(|error| unreadable(Reason::Prefix(error)))?;
    draft.reach = Some(Reach { next_hop, nlri });
    Ok(())
}

/// ```text
/// +-------------------------------+---------------+---------------+
/// |              AFI              |     SAFI      |  NLRI ...
/// +-------------------------------+---------------+---------------+
/// ```
pub(in crate::wire) fn decode_unreach<'a>(
    draft: &mut Draft<'a>,
    received: &Received<'a>,
    context: &ReceiveContext,
) -> Result<(), Flaw> {
    let mut reader = Reader::new(received.value);
    let short = |_: ReadError| Reason::Length {
        found: received.value.len(),
        allowed: "at least 3",
    };
    let family = family(&mut reader, context).map_err(|error| error.or(short))?;
    let nlri = Nlri::new(
        family,
        context.path_ids(family),
        draft.body.slice_ref(reader.rest()),
    )
    .map_err(|error| Flaw {
        reason: Reason::Prefix(error),
        action: Some(disable(family, context)),
    })?;
    draft.unreach = Some(nlri);
    Ok(())
}

/// Why there is no family to go on with.
enum NoFamily {
    Short(ReadError),
    NotNegotiated(Family),
}

impl NoFamily {
    fn or(self, short: impl Fn(ReadError) -> Reason) -> Flaw {
        match self {
            Self::Short(error) => short(error).into(),
            Self::NotNegotiated(family) => Flaw {
                reason: Reason::Family { family },
                action: Some(Action::Discard),
            },
        }
    }
}

fn family(reader: &mut Reader<'_>, context: &ReceiveContext) -> Result<AfiSafi, NoFamily> {
    let afi = reader.u16().map_err(NoFamily::Short)?;
    let safi = reader.u8().map_err(NoFamily::Short)?;
    let family = Family { afi, safi };
    family
        .known()
        .filter(|known| context.families.contains(known))
        .ok_or(NoFamily::NotNegotiated(family))
}

/// Routes that cannot be read end the family (RFC 7606 §5.3, RFC 4760 §7), and with the last family the session.
fn disable(family: AfiSafi, context: &ReceiveContext) -> Action {
    if context.families.iter().any(|other| *other != family) {
        Action::DisableFamily(family)
    } else {
        Action::SessionReset
    }
}

/// RFC 7606 §7.11: a length that the family does not have makes the rest unreadable. That of an IPv4 prefix's next hop tells its
/// family (RFC 8950 §3).
fn decode_next_hop(
    reader: &mut Reader<'_>,
    family: AfiSafi,
    context: &ReceiveContext,
) -> Result<NextHop, Reason> {
    let found = reader.remaining();
    let (allowed, next_hop_family) = match family {
        AfiSafi::Ipv4Unicast if context.ipv6_next_hops && found != 4 => {
            ("4, 16 or 32", AfiSafi::Ipv6Unicast)
        }
        AfiSafi::Ipv4Unicast => ("4", family),
        AfiSafi::Ipv6Unicast => ("16 or 32", family),
    };
    let wrong = |_: ReadError| Reason::NextHopLength {
        found,
        allowed,
        family,
    };
    let next_hop = match next_hop_family {
        AfiSafi::Ipv4Unicast => {
            NextHop::V4(reader.array::<4>().map(Ipv4Addr::from).map_err(wrong)?)
        }
        AfiSafi::Ipv6Unicast => {
            let global = reader.ipv6().map_err(wrong)?;
            let link_local = if reader.is_empty() {
                None
            } else {
                let address = reader.ipv6().map_err(wrong)?;
                // Some speakers fill the second half with zeros or repeat the first.
                Some(address).filter(|address| address.is_unicast_link_local())
            };
            match link_local {
                // Of a speaker without a global address: it writes ::, or the link-local address twice.
                Some(alone) if global.is_unspecified() || global == alone => {
                    NextHop::from(IpAddr::V6(alone))
                }
                _ => NextHop::V6 { global, link_local },
            }
        }
    };
    reader.finish().map_err(wrong)?;
    Ok(next_hop)
}
