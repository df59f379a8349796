//! Which peers of a new configuration are which of those at hand: a peer is its address, the zone of a link-local one, and
//! its port. What it is called, and which object asks for it, may change under a session.
//!
//! A port that changed while nothing else at that address did is the same peer's: the far end has moved its listening
//! port, and its sessions stand.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::{Endpoint, PeerConfig};
use crate::rib::source::SourceId;
use crate::speaker::Speaker;
use crate::types::PeerName;

/// What becomes of the peers.
pub(super) struct Matched {
    /// In order of name, with the peer at hand if there is one.
    pub(super) wanted: Vec<(PeerName, PeerConfig, Option<SourceId>)>,
    /// At hand and not wanted.
    pub(super) removed: Vec<SourceId>,
}

impl Speaker {
    /// Of several names for one endpoint, the first counts.
    pub(super) fn match_peers(&self, wanted: BTreeMap<PeerName, PeerConfig>) -> Matched {
        let mut present = self.by_endpoint.clone();
        let mut named = BTreeSet::new();
        let mut wanted: Vec<(PeerName, PeerConfig, Option<SourceId>)> = wanted
            .into_iter()
            .filter(|(_, peer)| named.insert(peer.endpoint()))
            .map(|(name, peer)| {
                let id = present.remove(&peer.endpoint());
                (name, peer, id)
            })
            .collect();
        let mut moved: BTreeMap<Endpoint, Vec<&mut Option<SourceId>>> = BTreeMap::new();
        for (_, peer, id) in &mut wanted {
            if id.is_none() {
                moved.entry(peer.endpoint().host()).or_default().push(id);
            }
        }
        for (host, ids) in &mut moved {
            let mut left = present.range(
                *host..=Endpoint {
                    port: u16::MAX,
                    ..*host
                },
            );
            if let ([id], Some((endpoint, at_hand)), None) =
                (&mut ids[..], left.next(), left.next())
            {
                **id = Some(*at_hand);
                let endpoint = *endpoint;
                present.remove(&endpoint);
            }
        }
        Matched {
            wanted,
            removed: present.into_values().collect(),
        }
    }

    /// The peer is called otherwise from here on.
    pub(super) fn rename(&mut self, id: SourceId, name: &PeerName) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.peer.name = name.clone();
            self.rib.table.source_mut(id).peer = Some(name.clone());
        }
    }
}
