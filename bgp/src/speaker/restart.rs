//! The peers' graceful restart (RFC 4724 §4.2): their routes outlive their session. Ours is in `selection.rs`.
//!
//! | state | on | to |
//! |---|---|---|
//! | none | transport lost, graceful restart negotiated | away: routes stale, Restart Time runs |
//! | away | session back, F bit | back: stale routes wait for End-of-RIB |
//! | away | session back without F bit, or Restart Time over | none: stale routes removed |
//! | back | End-of-RIB, or none within [`STALE_TIME_MAX`] | none: routes still stale removed |
//! | back | transport lost again before End-of-RIB | away: what was still stale removed, the rest stale |
//! | away, back | session down with a NOTIFICATION | none: all routes removed |
//!
//! With the N bit of both sides (RFC 8538), an error, an expired hold timer or a NOTIFICATION other than a Hard Reset is
//! taken as "transport lost".

use std::time::{Duration, Instant};

use crate::event::{Event, StaleEnd};
use crate::rib::source::SourceId;
use crate::speaker::{Slot, Speaker};
use crate::types::AfiSafi;
use crate::wire::capability::GracefulRestart;

/// Longest wait for the End-of-RIB of a peer that is back (RFC 4724 §4.2 leaves the bound to us): longer than a restarted
/// speaker defers its own End-of-RIB by default.
pub(super) const STALE_TIME_MAX: Duration = Duration::from_secs(360);

/// The peer's restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retention {
    None,
    Away { until: Instant },
    Back { until: Instant },
}

impl Retention {
    pub(super) const fn deadline(self) -> Option<(Instant, &'static str)> {
        match self {
            Self::None => None,
            Self::Away { until } => Some((until, "restart time of the peer")),
            Self::Back { until } => Some((until, "end-of-rib of the restarted peer")),
        }
    }
}

impl Speaker {
    pub(super) fn restart_session_up(&mut self, id: SourceId) {
        let now = self.now;
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let Some(agreement) = slot.peer.agreement() else {
            return;
        };
        let restart = agreement.restart.clone();
        let families = agreement.families.clone();
        slot.restart_negotiated = restart.is_some();
        if slot.retention == Retention::None {
            return;
        }
        slot.retention = Retention::Back {
            until: now + STALE_TIME_MAX,
        };
        for family in [AfiSafi::Ipv4Unicast, AfiSafi::Ipv6Unicast] {
            let preserved = restart
                .as_ref()
                .and_then(|restart| restart.family(family))
                .is_some_and(|entry| entry.forwarding);
            if !preserved || !families.contains(&family) {
                self.drop_stale(id, family, StaleEnd::ForwardingNotPreserved);
            }
        }
        self.end_retention_without_stale(id);
    }

    /// Returns whether routes are kept.
    pub(super) fn restart_session_down(
        &mut self,
        id: SourceId,
        restart: Option<&GracefulRestart>,
    ) -> bool {
        let mut kept = false;
        for family in [AfiSafi::Ipv4Unicast, AfiSafi::Ipv6Unicast] {
            let retained = restart.and_then(|restart| restart.family(family)).is_some();
            let slot = self.slots.get_mut(&id);
            let refreshing = slot.is_some_and(|slot| slot.refreshing.remove(&family).is_some());
            if retained && refreshing {
                self.rib.table.retain_all(id, family);
            } else {
                if retained {
                    self.drop_stale(id, family, StaleEnd::RestartedAgain);
                }
                self.rib.table.end_session(id, family, retained);
            }
            kept |= retained;
        }
        let until = self.now + restart.map_or(Duration::ZERO, |restart| restart.time);
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.retention = if kept {
                Retention::Away { until }
            } else {
                Retention::None
            };
        }
        kept
    }

    /// The peer has sent everything of a family.
    pub(super) fn end_of_rib(&mut self, id: SourceId, family: AfiSafi) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let peer = slot.peer.name.clone();
        slot.ended.insert(family);
        self.events.push_back(Event::EndOfRib { peer, family });
        self.report_end_of_rib(id, family);
        if matches!(self.slots[&id].retention, Retention::Back { .. }) {
            self.drop_stale(id, family, StaleEnd::EndOfRib);
            self.end_retention_without_stale(id);
        }
    }

    /// Handles the expiry of what this module waits for.
    pub(super) fn restart_timeout(&mut self, id: SourceId) {
        let now = self.now;
        let Some(slot) = self.slots.get(&id) else {
            return;
        };
        let reason = match slot.retention {
            Retention::Away { until } if until <= now => StaleEnd::RestartTimeOver,
            Retention::Back { until } if until <= now => StaleEnd::EndOfRibMissing,
            Retention::None | Retention::Away { .. } | Retention::Back { .. } => return,
        };
        for family in [AfiSafi::Ipv4Unicast, AfiSafi::Ipv6Unicast] {
            self.drop_stale(id, family, reason);
        }
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.retention = Retention::None;
        }
    }

    pub(super) fn drop_stale(&mut self, id: SourceId, family: AfiSafi, reason: StaleEnd) {
        let count = self.rib.table.end_retention(id, family);
        if count > 0 {
            let peer = self.slots[&id].peer.name.clone();
            self.events.push_back(Event::StaleRoutesRemoved {
                peer,
                count,
                reason,
            });
        }
    }

    fn end_retention_without_stale(&mut self, id: SourceId) {
        let source = self.rib.table.source(id);
        let no_stale = |family: &AfiSafi| source.counts(*family).stale() == 0;
        if [AfiSafi::Ipv4Unicast, AfiSafi::Ipv6Unicast]
            .iter()
            .all(no_stale)
            && let Some(Slot { retention, .. }) = self.slots.get_mut(&id)
        {
            *retention = Retention::None;
        }
    }
}
