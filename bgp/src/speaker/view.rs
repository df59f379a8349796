//! Answers to `tortiectl`.

use std::time::Instant;

use crate::rib::export::LOCAL_PREF_DEFAULT;
use crate::rib::source::SourceId;
use crate::rib::table::Explained;
use crate::speaker::restart::Retention;
use crate::speaker::{Slot, Speaker};
use crate::status::{
    GracefulRestartState, PathStanding, PathStatus, PeerState, PeerStatus, PrefixCounts,
    RouteStatus,
};
use crate::types::{AfiSafi, PathId};
use crate::wire::attr::Origin;
use crate::wire::update::PeerKind;

/// Where a slice of [`Speaker::routes_slice`] begins; the first one by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoutesFrom(usize);

impl Speaker {
    /// Every peer, by name.
    pub fn peers(&self, now: Instant) -> Vec<PeerStatus> {
        self.by_name
            .values()
            .filter_map(|id| Some(self.peer_status(*id, self.slots.get(id)?, now)))
            .collect()
    }

    /// Every prefix with its paths, in order of prefix.
    pub fn routes(&self) -> Vec<RouteStatus> {
        let mut all = Vec::new();
        let mut next = Some(RoutesFrom::default());
        while let Some(from) = next {
            next = self.routes_slice(from, usize::MAX, &mut all);
        }
        all.sort_by_key(|route| route.prefix);
        all
    }

    /// A slice of the listing in no order, after looking at `most` prefixes; where the next one begins. What changes between
    /// two slices may be listed twice, or missed if it came meanwhile.
    pub fn routes_slice(
        &self,
        from: RoutesFrom,
        most: usize,
        out: &mut Vec<RouteStatus>,
    ) -> Option<RoutesFrom> {
        let (slice, next) = self.rib.table.view(from.0, most);
        out.extend(slice.into_iter().map(|(prefix, paths)| {
            RouteStatus {
                prefix,
                paths: paths
                    .iter()
                    .map(|explained| self.path_status(AfiSafi::of(prefix), explained))
                    .collect(),
            }
        }));
        next.map(RoutesFrom)
    }

    fn peer_status(&self, id: SourceId, slot: &Slot, now: Instant) -> PeerStatus {
        let peer = &slot.peer;
        let state = peer.state();
        let agreement = peer.agreement();
        let prefixes = [AfiSafi::Ipv4Unicast, AfiSafi::Ipv6Unicast]
            .into_iter()
            .map(|family| {
                let counts = self.rib.table.source(id).counts(family);
                let counts = PrefixCounts {
                    received: counts.received(),
                    accepted: counts.accepted(),
                    advertised: self.rib.advertised(id, family),
                };
                (family, counts)
            })
            .filter(|(family, counts)| {
                counts.received > 0 || agreement.is_some_and(|a| a.families.contains(family))
            })
            .collect();
        PeerStatus {
            name: peer.name.clone(),
            address: peer.config.address,
            asn: peer.config.asn,
            is_internal: self.rib.table.source(id).kind == PeerKind::Ibgp,
            state,
            admin_shutdown: peer.config.options.shutdown,
            since: peer.since,
            uptime: (state == PeerState::Established).then(|| now - peer.since),
            router_id: peer.router_id,
            local_address: peer
                .established()
                .and_then(|connection| connection.local)
                .map(|local| local.ip().to_canonical()),
            hold_time: agreement.map(|agreement| agreement.hold_time),
            prefixes,
            shared_router_id: slot.shared_router_id,
            last_error: peer.last_error.clone(),
            graceful_restart: match (slot.retention, &slot.awaiting) {
                (Retention::Away { until }, _) => GracefulRestartState::RetainingUntil(until),
                (Retention::Back { .. }, _) => GracefulRestartState::Refreshing,
                (Retention::None, Some(_)) => GracefulRestartState::AwaitingRoutes,
                (Retention::None, None) if slot.restart_negotiated => GracefulRestartState::Ready,
                (Retention::None, None) => GracefulRestartState::Off,
            },
        }
    }

    fn path_status(&self, family: AfiSafi, explained: &Explained) -> PathStatus {
        let path = &explained.path;
        let table = &self.rib.table;
        let attributes = table.attributes(path.attributes).unpack();
        let source = table.source(path.source);
        let deferred = source.deferred;
        let standing = match (path.refusal, explained.lost) {
            (Some(reason), _) => PathStanding::Refused(reason),
            (None, _) if deferred => PathStanding::Deferred,
            (None, Some(_)) if explained.multipath => PathStanding::Multipath,
            (None, Some(step)) => PathStanding::Lost(step),
            (None, None) => PathStanding::Best,
        };
        let agreement = self.slots.get(&path.source);
        let agreement = agreement.and_then(|slot| slot.peer.agreement());
        let several = agreement.is_some_and(|agreed| agreed.receive.add_paths.contains(&family));
        let plain = attributes.communities.iter().map(ToString::to_string);
        let large = attributes.large_communities.iter().map(ToString::to_string);
        PathStatus {
            peer: source.peer.clone(),
            // Of a peer that is away, one of 0 may be the only path.
            path_id: (several || path.path_id != PathId::ONLY).then_some(path.path_id),
            source: table.route_source(path.source),
            next_hop: attributes.next_hop.map(|next_hop| next_hop.address()),
            standing,
            stale: explained.stale,
            as_path: attributes.as_path.to_string(),
            local_pref: attributes.local_pref.unwrap_or(LOCAL_PREF_DEFAULT),
            med: attributes.med,
            origin: match attributes.origin {
                Origin::Igp => "igp",
                Origin::Egp => "egp",
                Origin::Incomplete => "incomplete",
            },
            communities: plain.chain(large).collect(),
        }
    }
}
