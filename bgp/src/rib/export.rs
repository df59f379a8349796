//! What the attributes of a route become on the way to a group of peers (RFC 4271 §5.1, RFC 4456 §8, RFC 1997).

use std::net::Ipv4Addr;

use crate::config::NextHopMode;
use crate::rib::group::GroupKey;
use crate::rib::source::{Source, SourceId};
use crate::types::AfiSafi;
use crate::wire::attr::community::{Community, ExtendedCommunity};
use crate::wire::attr::{NextHop, PathAttributes};
use crate::wire::update::PeerKind;

/// LOCAL_PREF of a route that came without (RFC 4271 leaves the value to us; this is everybody's).
pub(crate) const LOCAL_PREF_DEFAULT: u32 = 100;

/// Why a route is not for a group at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotFor {
    /// From iBGP to iBGP without reflection (RFC 4271 §9.2, RFC 4456 §6).
    Ibgp,
    /// A well-known community (RFC 1997) keeps it here.
    Community,
    /// There is no own address of its family to name as next hop.
    NoNextHop,
}

/// The attributes to send.
pub(crate) fn export(
    attributes: &PathAttributes,
    from: SourceId,
    source: &Source,
    to: &GroupKey,
) -> Result<PathAttributes, NotFor> {
    let own = from == SourceId::OWN;
    if !own {
        let bars = |community: &Community| {
            *community == Community::NO_ADVERTISE
                || (to.kind == PeerKind::Ebgp
                    && matches!(
                        *community,
                        Community::NO_EXPORT | Community::NO_EXPORT_SUBCONFED
                    ))
        };
        if attributes.communities.iter().any(bars) {
            return Err(NotFor::Community);
        }
    }
    let mut sent = attributes.clone();
    sent.next_hop = Some(next_hop(attributes, to)?);
    match to.kind {
        PeerKind::Ibgp => {
            if !own && source.kind == PeerKind::Ibgp {
                reflect(&mut sent, source, to)?;
            }
            sent.local_pref.get_or_insert(LOCAL_PREF_DEFAULT);
        }
        PeerKind::Ebgp => {
            sent.local_pref = None;
            sent.originator_id = None;
            sent.cluster_list = Box::default();
            if !own {
                // RFC 4271 §5.1.4: a neighbour's MED is not for other neighbours.
                sent.med = None;
            }
            sent.as_path = sent.as_path.prepend(to.local_asn, 1);
            if !sent.extended_communities.iter().all(|c| c.is_transitive()) {
                let kept = sent.extended_communities.iter().copied();
                sent.extended_communities = kept
                    .filter(|c| ExtendedCommunity::is_transitive(*c))
                    .collect();
            }
        }
    }
    Ok(sent)
}

fn next_hop(attributes: &PathAttributes, to: &GroupKey) -> Result<NextHop, NotFor> {
    let unchanged = match (to.next_hop, to.kind) {
        (NextHopMode::Keep, _) | (NextHopMode::Auto, PeerKind::Ibgp) => attributes.next_hop,
        (NextHopMode::Auto, PeerKind::Ebgp) | (NextHopMode::SelfAddress, _) => None,
    };
    if let Some(next_hop) = unchanged {
        return Ok(next_hop);
    }
    let address = NextHop::from(to.local_address);
    if address.family() == to.family {
        Ok(address)
    } else {
        Err(NotFor::NoNextHop)
    }
}

/// RFC 4456 §6 and §8.
fn reflect(sent: &mut PathAttributes, source: &Source, to: &GroupKey) -> Result<(), NotFor> {
    if !source.client && !to.client {
        return Err(NotFor::Ibgp);
    }
    sent.originator_id.get_or_insert(source.router_id);
    let longer: Vec<Ipv4Addr> = std::iter::once(to.cluster_id)
        .chain(sent.cluster_list.iter().copied())
        .collect();
    sent.cluster_list = longer.into();
    Ok(())
}

/// Attributes of an own route: LOCAL_PREF as Calico's nodes give it to routes of normal priority, so that mixed clusters
/// agree (2147483647 less the metric 1024).
pub(crate) fn own_attributes(next_hop: Option<NextHop>) -> PathAttributes {
    PathAttributes {
        next_hop,
        local_pref: Some(2_147_482_623),
        ..PathAttributes::default()
    }
}

/// The family of a prefix.
pub(crate) const fn family_of(prefix: ipnet::IpNet) -> AfiSafi {
    match prefix {
        ipnet::IpNet::V4(_) => AfiSafi::Ipv4Unicast,
        ipnet::IpNet::V6(_) => AfiSafi::Ipv6Unicast,
    }
}
