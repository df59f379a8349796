//! Peers that are not configured one by one: who connects from a range becomes one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::action::Refused;
use crate::config::{Config, Endpoint, PeerConfig};
use crate::rib::source::SourceId;
use crate::speaker::{Slot, Speaker};
use crate::types::PeerName;

impl Speaker {
    /// The peers that a configuration means: those it names, and those made from templates that still fit.
    pub(super) fn peers_meant(&mut self, config: &Config) -> BTreeMap<PeerName, PeerConfig> {
        let mut peers: BTreeMap<PeerName, PeerConfig> = config
            .peers
            .iter()
            .filter(|(_, peer)| peer.options.dynamic.is_none())
            .map(|(name, peer)| (name.clone(), peer.clone()))
            .collect();
        let hosts = peers.values().map(|peer| peer.endpoint().host());
        let taken: BTreeSet<Endpoint> = hosts.collect();
        self.instances.retain(|template, hosts| {
            hosts.retain(|host| {
                let from = config.peers.get(template);
                let made = from.and_then(|from| made_from(from, *host));
                match made.filter(|_| !taken.contains(host)) {
                    Some(made) => peers.insert(instance_name(template, *host), made).is_none(),
                    None => false,
                }
            });
            !hosts.is_empty()
        });
        peers
    }

    /// Whether a template has fewer peers than it may have.
    pub(super) fn has_open_range(&self) -> bool {
        let templates = self.config.iter().flat_map(|config| &config.peers);
        templates
            .filter_map(|(name, peer)| Some((name, peer.options.dynamic?)))
            .any(|(name, dynamic)| !self.is_full(name, dynamic.limit))
    }

    fn is_full(&self, template: &PeerName, limit: u32) -> bool {
        let count = self.instances.get(template).map_or(0, BTreeSet::len);
        !u32::try_from(count).is_ok_and(|count| count < limit)
    }

    /// Makes a peer for an address of a range; a link-local one is another on each interface.
    pub(super) fn make_dynamic(&mut self, host: Endpoint) -> Result<SourceId, Refused> {
        let config = self.config.clone().ok_or(Refused::UnknownAddress)?;
        let mut refused = Refused::UnknownAddress;
        for (template, peer) in &config.peers {
            let dynamic = peer.options.dynamic;
            let Some(dynamic) = dynamic.filter(|dynamic| dynamic.range.contains(&host.address))
            else {
                continue;
            };
            if self.is_full(template, dynamic.limit) {
                refused = Refused::RangeFull;
                continue;
            }
            let Some(made) = made_from(peer, host) else {
                continue;
            };
            let of_template = self.instances.entry(template.clone()).or_default();
            of_template.insert(host);
            let name = instance_name(template, host);
            self.add_peer(&name, &made, &config);
            return self.by_name.get(&name).copied().ok_or(refused);
        }
        Err(refused)
    }

    /// The template of a peer of this name.
    pub(super) fn template_of(&self, name: &PeerName, peer: &PeerConfig) -> Option<PeerName> {
        let mut instances = self.instances.iter();
        let host = peer.endpoint().host();
        let is_of = |(template, hosts): &(&PeerName, &BTreeSet<Endpoint>)| {
            hosts.contains(&host) && instance_name(template, host) == *name
        };
        instances.find(is_of).map(|(template, _)| template.clone())
    }

    /// Forgets the peers made from templates that have neither connection nor routes left, nor an error to wait for.
    pub(super) fn remove_idle_instances(&mut self) {
        while let Some(id) = self.idle.pop() {
            let Some(slot) = self.slots.get(&id).filter(|slot| slot.is_idle()) else {
                continue;
            };
            let Slot { template, peer, .. } = slot;
            let (name, host) = (peer.name.clone(), peer.config.endpoint().host());
            if let Some(template) = template
                && let Some(hosts) = self.instances.get_mut(template)
            {
                hosts.remove(&host);
                self.remove_peer(&name, id);
            }
        }
    }
}

/// Named as addresses with zones are written (RFC 4007 §11).
fn instance_name(template: &PeerName, host: Endpoint) -> PeerName {
    let Endpoint {
        address, scope_id, ..
    } = host;
    let name = match scope_id {
        0 => format!("{template}/{address}"),
        zone => format!("{template}/{address}%{zone}"),
    };
    PeerName(Arc::from(name))
}

/// The peer of this address; `None` when `template` is none, or its range is another one.
fn made_from(template: &PeerConfig, host: Endpoint) -> Option<PeerConfig> {
    let dynamic = template.options.dynamic?;
    dynamic.range.contains(&host.address).then(|| {
        let mut made = template.clone();
        made.address = host.address;
        made.options.scope_id = host.scope_id;
        made.port = 0;
        made.passive = true;
        made.options.dynamic = None;
        made
    })
}
