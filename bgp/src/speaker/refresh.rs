//! Route refresh (RFC 2918) and enhanced route refresh (RFC 7313), both sides.
//!
//! | state of a family | on | to |
//! |---|---|---|
//! | idle | BoRR, and its End-of-RIB came if the peer sends one | refreshing: its routes stale |
//! | refreshing | route announced | that route fresh |
//! | refreshing | BoRR | refreshing: its routes stale, and those that still were stay so |
//! | refreshing | EoRR, or none within [`STALE_TIME_MAX`] | idle: stale routes removed |
//! | refreshing | session down | idle: what the end of the session makes of routes |

use crate::event::StaleEnd;
use crate::rib::source::SourceId;
use crate::speaker::Speaker;
use crate::speaker::restart::STALE_TIME_MAX;
use crate::types::AfiSafi;
use crate::wire::refresh::{RefreshKind, RouteRefresh};

impl Speaker {
    pub(super) fn refresh(&mut self, id: SourceId, refresh: RouteRefresh) {
        let Some(agreement) = self.slots.get(&id).and_then(|slot| slot.peer.agreement()) else {
            return;
        };
        // RFC 2918 §4: a family that was not negotiated is ignored.
        let family = refresh.family.known();
        let Some(family) = family.filter(|family| agreement.families.contains(family)) else {
            return;
        };
        let enhanced = agreement.enhanced_refresh;
        match refresh.kind {
            RefreshKind::Request => self.rib.refresh(id, family, enhanced),
            RefreshKind::Begin if enhanced => self.refresh_began(id, family),
            RefreshKind::End if enhanced => self.refresh_ended(id, family, StaleEnd::RefreshEnded),
            RefreshKind::Begin | RefreshKind::End | RefreshKind::Unknown(_) => {}
        }
    }

    fn refresh_began(&mut self, id: SourceId, family: AfiSafi) {
        let until = self.now + STALE_TIME_MAX;
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        // RFC 7313 §4: a BoRR before the End-of-RIB of a peer with graceful restart is ignored.
        let sends_end_of_rib = slot.restart_negotiated && !slot.ended.contains(&family);
        if sends_end_of_rib || slot.disabled.contains(&family) {
            return;
        }
        slot.refreshing.insert(family, until);
        self.rib.table.retain_all(id, family);
    }

    fn refresh_ended(&mut self, id: SourceId, family: AfiSafi, reason: StaleEnd) {
        let slot = self.slots.get_mut(&id);
        if slot.is_some_and(|slot| slot.refreshing.remove(&family).is_some()) {
            self.drop_stale(id, family, reason);
        }
    }

    /// Ends refreshes whose EoRR did not come.
    pub(super) fn refresh_timeout(&mut self, id: SourceId) {
        let now = self.now;
        for family in [AfiSafi::Ipv4Unicast, AfiSafi::Ipv6Unicast] {
            let until = self
                .slots
                .get(&id)
                .and_then(|slot| slot.refreshing.get(&family));
            if until.is_some_and(|until| *until <= now) {
                self.refresh_ended(id, family, StaleEnd::RefreshEndMissing);
            }
        }
    }
}
