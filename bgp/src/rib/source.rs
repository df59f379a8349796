//! Where paths come from, as the decision and the export rules see it.

use std::net::IpAddr;

use crate::rib::table::Path;
use crate::types::{AfiSafi, Asn, PeerName, RouterId};
use crate::wire::update::PeerKind;

/// A dense number for a configured peer, or for ourselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SourceId(pub(crate) u32);

impl SourceId {
    /// Routes originated here.
    pub(crate) const OWN: Self = Self(0);

    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Of how many sessions and refreshes before the present one paths are told apart: a path says in one octet of which it is,
/// and dead ones may be there for a while.
const RETAINED_MAX: u8 = 32;

/// A source of paths.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) peer: Option<PeerName>,
    pub(crate) kind: PeerKind,
    pub(crate) asn: Asn,
    pub(crate) address: IpAddr,
    /// TCP port it is connected to; tells apart what shares an address.
    pub(crate) port: u16,
    /// BGP Identifier of the last session.
    pub(crate) router_id: RouterId,
    /// Route reflector client.
    pub(crate) client: bool,
    /// After our own restart: its paths wait for its End-of-RIB.
    pub(crate) deferred: bool,
    pub(crate) held: Held,
}

/// What decides how a path of a source looks when it is sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Provenance {
    /// Originated here.
    pub(crate) own: bool,
    pub(crate) kind: PeerKind,
    /// Route reflector client.
    pub(crate) client: bool,
    /// ORIGINATOR_ID of what is reflected.
    pub(crate) router_id: RouterId,
}

/// What the table has of a source.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held {
    families: [FamilyHeld; 2],
    /// Paths in the table, dead ones included.
    pub(crate) paths: usize,
    /// Prefixes whose best route names the source.
    pub(crate) bests: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct FamilyHeld {
    counts: Counts,
    /// Number of the present session, or of the next one.
    session: u8,
    /// The paths of so many sessions before are kept as stale (RFC 4724 §4.2), where a refresh counts as one (RFC 7313 §4).
    retained: u8,
}

/// Paths of a family that are not dead.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    present: Tally,
    stale: Tally,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    received: usize,
    accepted: usize,
}

/// Of which session a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    /// The present one.
    Present,
    /// The one before, and it is retained over the peer's restart.
    Stale,
    /// An earlier one: it is as good as removed.
    Dead,
}

impl Source {
    pub(crate) fn age(&self, family: AfiSafi, path: &Path) -> Age {
        let held = &self.held.families[slot(family)];
        if path.session == held.session {
            Age::Present
        } else if held.session.wrapping_sub(path.session) <= held.retained {
            Age::Stale
        } else {
            Age::Dead
        }
    }

    /// Number that the paths of the present session have.
    pub(crate) fn session(&self, family: AfiSafi) -> u8 {
        self.held.families[slot(family)].session
    }

    pub(crate) fn counts(&self, family: AfiSafi) -> Counts {
        self.held.families[slot(family)].counts
    }

    /// The present session's paths become stale, or dead; those that were stale are dead.
    pub(crate) fn end_session(&mut self, family: AfiSafi, retained: bool) {
        let held = &mut self.held.families[slot(family)];
        held.session = held.session.wrapping_add(1);
        held.retained = u8::from(retained);
        held.counts = Counts {
            present: Tally::default(),
            stale: if retained {
                held.counts.present
            } else {
                Tally::default()
            },
        };
    }

    /// The present session's paths become stale, and those that were stay so; false when that was done so often that they
    /// stay as they are.
    pub(crate) fn retain_all(&mut self, family: AfiSafi) -> bool {
        let held = &mut self.held.families[slot(family)];
        if held.retained >= RETAINED_MAX {
            return false;
        }
        held.session = held.session.wrapping_add(1);
        held.retained += 1;
        let Counts { present, stale } = &mut held.counts;
        stale.received += present.received;
        stale.accepted += present.accepted;
        *present = Tally::default();
        true
    }

    /// Stale paths are dead; returns how many there were.
    pub(crate) fn end_retention(&mut self, family: AfiSafi) -> usize {
        let held = &mut self.held.families[slot(family)];
        held.retained = 0;
        std::mem::take(&mut held.counts.stale).received
    }

    /// Counts a path that is there from now on.
    pub(crate) fn count(&mut self, family: AfiSafi, path: &Path) {
        if let Some(tally) = self.tally(family, path) {
            tally.received += 1;
            tally.accepted += usize::from(path.refusal.is_none());
        }
    }

    /// Takes back what [`Self::count`] did.
    pub(crate) fn discount(&mut self, family: AfiSafi, path: &Path) {
        if let Some(tally) = self.tally(family, path) {
            tally.received -= 1;
            tally.accepted -= usize::from(path.refusal.is_none());
        }
    }

    fn tally(&mut self, family: AfiSafi, path: &Path) -> Option<&mut Tally> {
        let age = self.age(family, path);
        let counts = &mut self.held.families[slot(family)].counts;
        match age {
            Age::Present => Some(&mut counts.present),
            Age::Stale => Some(&mut counts.stale),
            Age::Dead => None,
        }
    }
}

impl Counts {
    /// In the Adj-RIB-In.
    pub(crate) const fn received(&self) -> usize {
        self.present.received + self.stale.received
    }

    /// Of these, those that take part in the decision.
    pub(crate) const fn accepted(&self) -> usize {
        self.present.accepted + self.stale.accepted
    }

    /// Of those received, those of the session before.
    pub(crate) const fn stale(&self) -> usize {
        self.stale.received
    }
}

/// Place of a family in small arrays.
const fn slot(family: AfiSafi) -> usize {
    match family {
        AfiSafi::Ipv4Unicast => 0,
        AfiSafi::Ipv6Unicast => 1,
    }
}
