//! What a peer may not send: UPDATEs with faults, and too many prefixes.

use crate::event::Event;
use crate::rib::source::SourceId;
use crate::speaker::Speaker;
use crate::types::AfiSafi;
use crate::wire::notification::Notification;
use crate::wire::update::{Action, Fault};

impl Speaker {
    /// Tells of an UPDATE's faults and disables families; false when that ended the session.
    pub(super) fn note_faults(&mut self, id: SourceId, faults: &[Fault]) -> bool {
        for fault in faults {
            let peer = self.slots[&id].peer.name.clone();
            if let Action::DisableFamily(family) = fault.action {
                if !self.disable(id, family, fault) {
                    return false;
                }
            } else {
                self.events.push_back(Event::AttributeFault {
                    peer,
                    fault: fault.to_string(),
                });
            }
        }
        true
    }

    /// RFC 4760 §7: the peer's routes of the family go, later ones are ignored. A session that has no other family left
    /// is of no use and ends.
    fn disable(&mut self, id: SourceId, family: AfiSafi, fault: &Fault) -> bool {
        let Some(slot) = self.slots.get_mut(&id) else {
            return false;
        };
        let first = slot.disabled.insert(family);
        let agreement = slot.peer.agreement();
        let deaf = agreement.is_some_and(|a| a.families.is_subset(&slot.disabled));
        let peer = slot.peer.name.clone();
        if first {
            let removed = self.rib.table.source(id).counts(family).received();
            self.rib.table.end_session(id, family, false);
            // There is nothing to wait for of what is ignored.
            self.report_end_of_rib(id, family);
            self.events.push_back(Event::FamilyDisabled {
                peer,
                family,
                fault: fault.to_string(),
                removed,
            });
        }
        if deaf {
            // RFC 7606 §5.3 for the last family: the data field is left empty, the attribute is not kept.
            let notification = Notification::optional_attribute(&[]);
            self.with_peer(id, |peer, cx| peer.stop(cx, &notification));
        }
        !deaf
    }

    /// More prefixes than configured end the session (RFC 4486 §4, subcode 1); of more than the warning threshold, an
    /// event tells once, until there are fewer again.
    pub(super) fn check_prefix_limit(&mut self, id: SourceId) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let (limit, warning) = {
            let config = &slot.peer.config;
            (config.prefix_limit, config.options.prefix_warning)
        };
        if limit.is_none() && warning.is_none() {
            return;
        }
        for family in [AfiSafi::Ipv4Unicast, AfiSafi::Ipv6Unicast] {
            let received = self.rib.table.source(id).counts(family).received();
            let beyond = |most: u32| usize::try_from(most).is_ok_and(|most| received > most);
            if let Some(limit) = limit.filter(|limit| beyond(*limit)) {
                let notification = Notification::max_prefixes(family, limit);
                self.with_peer(id, |peer, cx| peer.stop(cx, &notification));
                return;
            }
            if !warning.is_some_and(beyond) {
                slot.warned.remove(&family);
            } else if slot.warned.insert(family) {
                self.events.push_back(Event::PrefixLimitNear {
                    peer: slot.peer.name.clone(),
                    family,
                    received,
                    limit,
                });
            }
        }
    }
}
