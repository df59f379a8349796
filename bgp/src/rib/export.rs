//! What the attributes of a route become on the way to a group of peers (RFC 4271 §5.1, RFC 4456 §8, RFC 1997).

use std::net::Ipv4Addr;

use crate::config::NextHopMode;
use crate::rib::group::GroupKey;
use crate::rib::source::Provenance;
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
    /// It may go to customers only, and the group is none (RFC 9234 §5).
    Role,
    /// The export policy says no.
    Policy,
}

/// Turns attributes into those to send.
pub(crate) fn export(
    mut attributes: PathAttributes,
    from: &Provenance,
    to: &GroupKey,
) -> Result<PathAttributes, NotFor> {
    let own = from.own;
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
    attributes.next_hop = Some(next_hop(&attributes, from, to)?);
    let sent = &mut attributes;
    match to.kind {
        PeerKind::Ibgp => {
            if !own && from.kind == PeerKind::Ibgp {
                reflect(sent, from, to)?;
            }
            sent.local_pref.get_or_insert(LOCAL_PREF_DEFAULT);
        }
        PeerKind::Ebgp => {
            if !own {
                // RFC 4271 §5.1.4: a neighbour's MED is not for other neighbours.
                sent.med = None;
            }
            sent.as_path = sent.as_path.prepend(to.local_asn, 1);
            if let Some(role) = to.role {
                // RFC 9234 §5.
                match sent.only_to_customers() {
                    Some(_) if role.marks_received() => return Err(NotFor::Role),
                    None if role.marks_sent() => sent.set_only_to_customers(to.local_asn),
                    Some(_) | None => {}
                }
            }
        }
    }
    remove_internal(sent, to.kind);
    Ok(attributes)
}

/// Takes out what only peers of our own AS may be sent, whoever put it in: LOCAL_PREF (RFC 4271 §5.1.5), ORIGINATOR_ID and
/// CLUSTER_LIST (RFC 4456 §8), non-transitive extended communities (RFC 4360 §6).
pub(crate) fn remove_internal(sent: &mut PathAttributes, to: PeerKind) {
    if to == PeerKind::Ibgp {
        return;
    }
    sent.local_pref = None;
    sent.originator_id = None;
    sent.cluster_list = Box::default();
    if !sent.extended_communities.iter().all(|c| c.is_transitive()) {
        let kept = sent.extended_communities.iter().copied();
        sent.extended_communities = kept
            .filter(|c| ExtendedCommunity::is_transitive(*c))
            .collect();
    }
}

/// RFC 4271 §5.1.3. Of an IPv6 next hop only the global address goes on: the link-local one beside it is for peers that share
/// a subnet with that next hop (RFC 2545 §3), and which do is not known here. One that is link-local alone means nothing to
/// another peer, and one of another family nothing to a peer that did not agree to it (RFC 8950 §4): an eBGP neighbour's is
/// replaced by our own address, and what another speaker of our AS sent is not passed on.
fn next_hop(
    attributes: &PathAttributes,
    from: &Provenance,
    to: &GroupKey,
) -> Result<NextHop, NotFor> {
    let unchanged = match (to.next_hop, to.kind) {
        (NextHopMode::Keep, _) | (NextHopMode::Auto, PeerKind::Ibgp) => attributes.next_hop,
        (NextHopMode::Auto, PeerKind::Ebgp) | (NextHopMode::SelfAddress, _) => None,
    };
    match unchanged {
        Some(next_hop) if !next_hop.is_link_local() && to.takes(&next_hop) => {
            return Ok(next_hop.without_link_local());
        }
        Some(_) if from.kind == PeerKind::Ibgp => return Err(NotFor::NoNextHop),
        Some(_) | None => {}
    }
    let address = NextHop::from(to.local_address);
    if to.takes(&address) {
        Ok(address)
    } else {
        Err(NotFor::NoNextHop)
    }
}

impl GroupKey {
    /// The peers understand a next hop.
    fn takes(&self, next_hop: &NextHop) -> bool {
        let family = next_hop.family();
        let extended = self.ipv6_next_hops && family == AfiSafi::Ipv6Unicast;
        family == self.family || extended
    }
}

/// RFC 4456 §6 and §8.
fn reflect(sent: &mut PathAttributes, from: &Provenance, to: &GroupKey) -> Result<(), NotFor> {
    if !from.client && !to.client {
        return Err(NotFor::Ibgp);
    }
    sent.originator_id.get_or_insert(from.router_id);
    let longer: Vec<Ipv4Addr> = std::iter::once(to.cluster_id)
        .chain(sent.cluster_list.iter().copied())
        .collect();
    sent.cluster_list = longer.into();
    Ok(())
}

/// Attributes of an own route.
pub(crate) fn own_attributes(next_hop: Option<NextHop>, local_pref: u32) -> PathAttributes {
    PathAttributes {
        next_hop,
        local_pref: Some(local_pref),
        ..PathAttributes::default()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::config::RoutePolicy;
    use crate::route::NORMAL_LOCAL_PREF;
    use crate::types::{Asn, Role, RouterId};
    use crate::wire::attr::AsnWidth;
    use crate::wire::attr::as_path::AsPath;
    use crate::wire::update::encode::MessageLimit;

    const SELF: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const FAR: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);

    fn to(kind: PeerKind) -> GroupKey {
        GroupKey {
            family: AfiSafi::Ipv4Unicast,
            kind,
            local_asn: Asn(65000),
            local_address: IpAddr::V4(SELF),
            ipv6_next_hops: false,
            role: None,
            next_hop: NextHopMode::Auto,
            client: false,
            cluster_id: Ipv4Addr::new(7, 7, 7, 7),
            width: AsnWidth::Four,
            limit: MessageLimit::Standard,
            add_paths: false,
            policy: RoutePolicy::accept_all(),
        }
    }

    fn from(kind: PeerKind) -> Provenance {
        Provenance {
            own: false,
            kind,
            client: false,
            router_id: RouterId(FAR),
        }
    }

    fn learned() -> PathAttributes {
        PathAttributes {
            as_path: AsPath::sequence(&[Asn(65001)]),
            next_hop: Some(NextHop::V4(FAR)),
            med: Some(5),
            local_pref: Some(300),
            ..PathAttributes::default()
        }
    }

    #[test]
    fn ebgp_to_ibgp_keeps_med_and_next_hop_and_gets_a_local_pref() {
        let mut attributes = learned();
        attributes.local_pref = None;
        let sent = export(attributes, &from(PeerKind::Ebgp), &to(PeerKind::Ibgp));
        let sent = sent.expect("sent");
        assert_eq!(sent.local_pref, Some(100));
        assert_eq!(sent.med, Some(5));
        assert_eq!(sent.next_hop, Some(NextHop::V4(FAR)));
        assert_eq!(sent.originator_id, None);
    }

    #[test]
    fn to_ebgp_nothing_of_ibgp_is_left() {
        let mut attributes = learned();
        attributes.originator_id = Some(RouterId(FAR));
        attributes.cluster_list = vec![FAR].into();
        let sent = export(attributes, &from(PeerKind::Ibgp), &to(PeerKind::Ebgp));
        let sent = sent.expect("sent");
        let path: Vec<Asn> = sent.as_path.asns().collect();
        assert_eq!(path, vec![Asn(65000), Asn(65001)]);
        assert_eq!(
            (sent.local_pref, sent.med, sent.originator_id),
            (None, None, None)
        );
        assert!(sent.cluster_list.is_empty());
        assert_eq!(sent.next_hop, Some(NextHop::V4(SELF)));
    }

    #[test]
    fn reflection_adds_originator_once_and_own_cluster_in_front() {
        let mut client = from(PeerKind::Ibgp);
        client.client = true;
        let sent = export(learned(), &client, &to(PeerKind::Ibgp)).expect("sent");
        assert_eq!(sent.originator_id, Some(RouterId(FAR)));
        assert_eq!(*sent.cluster_list, [Ipv4Addr::new(7, 7, 7, 7)]);
        let first = RouterId(Ipv4Addr::new(3, 3, 3, 3));
        let mut reflected = learned();
        reflected.originator_id = Some(first);
        reflected.cluster_list = vec![FAR].into();
        let sent = export(reflected, &client, &to(PeerKind::Ibgp)).expect("sent");
        assert_eq!(sent.originator_id, Some(first));
        assert_eq!(*sent.cluster_list, [Ipv4Addr::new(7, 7, 7, 7), FAR]);
    }

    #[test]
    fn clients_hear_of_all_and_others_of_clients_only() {
        let plain = from(PeerKind::Ibgp);
        let refused = export(learned(), &plain, &to(PeerKind::Ibgp));
        assert_eq!(refused, Err(NotFor::Ibgp));
        let mut to_client = to(PeerKind::Ibgp);
        to_client.client = true;
        assert!(export(learned(), &plain, &to_client).is_ok());
    }

    #[test]
    fn link_local_next_hops_do_not_leave_their_link() {
        let global: std::net::Ipv6Addr = "2001:db8::9".parse().unwrap();
        let link_local: std::net::Ipv6Addr = "fe80::9".parse().unwrap();
        let own: std::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
        let mut client = from(PeerKind::Ibgp);
        client.client = true;
        let sent = |global, beside, source: &Provenance, mode| {
            let mut attributes = learned();
            attributes.next_hop = Some(NextHop::V6 {
                global,
                link_local: beside,
            });
            let mut key = to(PeerKind::Ibgp);
            key.family = AfiSafi::Ipv6Unicast;
            key.local_address = own.into();
            key.next_hop = mode;
            export(attributes, source, &key).map(|sent| sent.next_hop)
        };
        let plain = |global| Ok(Some(NextHop::from(IpAddr::V6(global))));
        let ebgp = from(PeerKind::Ebgp);
        for mode in [NextHopMode::Auto, NextHopMode::Keep] {
            let both = sent(global, Some(link_local), &client, mode);
            assert_eq!(both, plain(global), "reflected without its companion");
            let alone = sent(link_local, None, &client, mode);
            assert_eq!(alone, Err(NotFor::NoNextHop));
            assert_eq!(sent(link_local, None, &ebgp, mode), plain(own));
        }
        let own_address = sent(link_local, None, &client, NextHopMode::SelfAddress);
        assert_eq!(own_address, plain(own));
    }

    #[test]
    fn an_ipv6_next_hop_of_an_ipv4_prefix_goes_to_who_agreed_to_it() {
        let far: std::net::Ipv6Addr = "2001:db8::9".parse().unwrap();
        let own: std::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
        let mut client = from(PeerKind::Ibgp);
        client.client = true;
        let sent = |source: &Provenance, kind, agreed, local_address: IpAddr| {
            let mut attributes = learned();
            attributes.next_hop = Some(NextHop::from(IpAddr::V6(far)));
            let mut key = to(kind);
            key.ipv6_next_hops = agreed;
            key.local_address = local_address;
            export(attributes, source, &key).map(|sent| sent.next_hop)
        };
        let v4 = IpAddr::V4(SELF);
        let plain = |address: IpAddr| Ok(Some(NextHop::from(address)));
        let ebgp = from(PeerKind::Ebgp);
        for source in [&client, &ebgp] {
            assert_eq!(sent(source, PeerKind::Ibgp, true, v4), plain(far.into()));
        }
        let refused = Err(NotFor::NoNextHop);
        assert_eq!(sent(&client, PeerKind::Ibgp, false, v4), refused);
        assert_eq!(sent(&ebgp, PeerKind::Ibgp, false, v4), plain(v4));
        // Next hop self on an IPv6 session.
        assert_eq!(
            sent(&ebgp, PeerKind::Ebgp, true, own.into()),
            plain(own.into())
        );
        assert_eq!(sent(&ebgp, PeerKind::Ebgp, false, own.into()), refused);
    }

    #[test]
    fn a_role_marks_what_is_for_customers_and_keeps_it_from_all_others() {
        let sent = |role, otc: Option<u32>| {
            let mut attributes = learned();
            if let Some(asn) = otc {
                attributes.set_only_to_customers(Asn(asn));
            }
            let mut key = to(PeerKind::Ebgp);
            key.role = Some(role);
            let sent = export(attributes, &from(PeerKind::Ebgp), &key);
            sent.map(|sent| sent.only_to_customers().map(|asn| asn.0))
        };
        for down in [Role::Provider, Role::RouteServer] {
            assert_eq!(sent(down, None), Ok(Some(65000)));
            assert_eq!(sent(down, Some(7)), Ok(Some(7)));
        }
        for up in [Role::Customer, Role::RouteServerClient] {
            assert_eq!(sent(up, None), Ok(None));
            assert_eq!(sent(up, Some(7)), Err(NotFor::Role));
        }
        assert_eq!(sent(Role::Peer, None), Ok(Some(65000)));
        assert_eq!(sent(Role::Peer, Some(7)), Err(NotFor::Role));
    }

    #[test]
    fn well_known_communities_hold_learned_routes_back() {
        let verdict = |community, kind| {
            let mut attributes = learned();
            attributes.communities = vec![community].into();
            export(attributes, &from(PeerKind::Ebgp), &to(kind)).map(|_| ())
        };
        let barred = Err(NotFor::Community);
        assert_eq!(verdict(Community::NO_ADVERTISE, PeerKind::Ibgp), barred);
        assert_eq!(verdict(Community::NO_EXPORT, PeerKind::Ebgp), barred);
        assert_eq!(
            verdict(Community::NO_EXPORT_SUBCONFED, PeerKind::Ebgp),
            barred
        );
        assert_eq!(verdict(Community::NO_EXPORT, PeerKind::Ibgp), Ok(()));
    }

    #[test]
    fn own_routes_name_the_sessions_address_or_their_own_next_hop() {
        let mut own = from(PeerKind::Ibgp);
        own.own = true;
        let sent = |next_hop, to: &GroupKey| {
            let attributes = own_attributes(next_hop, NORMAL_LOCAL_PREF);
            export(attributes, &own, to).map(|sent| sent.next_hop)
        };
        let far = Some(NextHop::V4(FAR));
        assert_eq!(sent(None, &to(PeerKind::Ibgp)), Ok(Some(NextHop::V4(SELF))));
        assert_eq!(sent(far, &to(PeerKind::Ibgp)), Ok(far));
        assert_eq!(sent(far, &to(PeerKind::Ebgp)), Ok(Some(NextHop::V4(SELF))));
        let mut own_address = to(PeerKind::Ibgp);
        own_address.next_hop = NextHopMode::SelfAddress;
        assert_eq!(sent(far, &own_address), Ok(Some(NextHop::V4(SELF))));
        let mut v6 = to(PeerKind::Ibgp);
        v6.family = AfiSafi::Ipv6Unicast;
        assert_eq!(sent(None, &v6), Err(NotFor::NoNextHop));
    }
}
