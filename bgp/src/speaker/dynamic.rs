//! Peers that are not configured one by one: who connects from a range becomes one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::action::Refused;
use crate::config::{Config, PeerConfig};
use crate::rib::source::SourceId;
use crate::speaker::Speaker;
use crate::speaker::restart::Retention;
use crate::types::PeerName;

/// A peer made from a template.
#[derive(Debug)]
pub(super) struct Instance {
    template: PeerName,
    address: IpAddr,
}

impl Speaker {
    /// The peers that a configuration means: those it names, and those made from templates that still fit.
    pub(super) fn peers_meant(&mut self, config: &Config) -> BTreeMap<PeerName, PeerConfig> {
        let is_peer = |peer: &PeerConfig| peer.options.dynamic.is_none();
        let mut peers: BTreeMap<PeerName, PeerConfig> = config
            .peers
            .iter()
            .filter(|(_, peer)| is_peer(peer))
            .map(|(name, peer)| (name.clone(), peer.clone()))
            .collect();
        self.instances.retain(|name, instance| {
            let template = config.peers.get(&instance.template);
            let taken = peers.values().any(|peer| peer.address == instance.address);
            let made = template.and_then(|template| made_from(template, instance.address));
            match made.filter(|_| !taken) {
                Some(made) => peers.insert(name.clone(), made).is_none(),
                None => false,
            }
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
        let of_template = |instance: &&Instance| instance.template == *template;
        let count = self.instances.values().filter(of_template).count();
        !u32::try_from(count).is_ok_and(|count| count < limit)
    }

    /// Makes a peer for an address of a range.
    pub(super) fn make_dynamic(&mut self, address: IpAddr) -> Result<SourceId, Refused> {
        let config = self.config.clone().ok_or(Refused::UnknownAddress)?;
        let mut refused = Refused::UnknownAddress;
        for (template, peer) in &config.peers {
            let Some(made) = made_from(peer, address) else {
                continue;
            };
            let limit = peer.options.dynamic.map_or(0, |dynamic| dynamic.limit);
            if self.is_full(template, limit) {
                refused = Refused::RangeFull;
                continue;
            }
            let name = PeerName(format!("{template}/{address}").into());
            let instance = Instance {
                template: template.clone(),
                address,
            };
            self.instances.insert(name.clone(), instance);
            self.add_peer(&name, &made, &config);
            return self.by_name.get(&name).copied().ok_or(refused);
        }
        Err(refused)
    }

    /// Forgets the peers made from templates that have neither connection nor routes left.
    pub(super) fn remove_idle_instances(&mut self) {
        let is_idle = |name: &&PeerName| {
            let id = self.by_name.get(*name);
            id.and_then(|id| self.slots.get(id)).is_none_or(|slot| {
                slot.peer.connections().next().is_none() && slot.retention == Retention::None
            })
        };
        let idle: Vec<PeerName> = self.instances.keys().filter(is_idle).cloned().collect();
        for name in idle {
            self.instances.remove(&name);
            if let Some(id) = self.by_name.get(&name).copied() {
                self.remove_peer(&name, id);
            }
        }
    }
}

/// The peer of this address; `None` when `template` is none, or its range is another one.
fn made_from(template: &PeerConfig, address: IpAddr) -> Option<PeerConfig> {
    let dynamic = template.options.dynamic?;
    dynamic.range.contains(&address).then(|| {
        let mut made = template.clone();
        made.address = address;
        made.passive = true;
        made.options.dynamic = None;
        made
    })
}
