//! Applying a configuration: the smallest effect on sessions and routes that makes it true.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::{Config, PeerConfig};
use crate::event::RouteRefusal;
use crate::policy::{Subject, changes, decide, edit};
use crate::rib::source::{Provenance, Source, SourceId};
use crate::route::RouteSource;
use crate::session::peer::Peer;
use crate::speaker::restart::Retention;
use crate::speaker::routes::ImportCheck;
use crate::speaker::selection::Awaiting;
use crate::speaker::{Slot, Speaker};
use crate::types::{AfiSafi, PeerName};
use crate::wire::attr::PathAttributes;
use crate::wire::notification::Notification;
use crate::wire::update::PeerKind;

impl Speaker {
    pub(super) fn configure(&mut self, config: Arc<Config>) {
        let old = self.config.replace(Arc::clone(&config));
        let is_first = old.is_none();
        let all_reset = old.is_some_and(|old| {
            (old.asn, old.router_id, old.cluster_id)
                != (config.asn, config.router_id, config.cluster_id)
        });
        self.rib.table.set_multipath(config.multipath);
        let peers = self.peers_meant(&config);
        let peers = self.match_peers(peers);
        for id in peers.removed {
            let name = self.slots[&id].peer.name.clone();
            self.remove_peer(&name, id);
        }
        // Names may have been exchanged.
        self.by_name.clear();
        for (name, _, id) in &peers.wanted {
            if let Some(id) = id {
                self.by_name.insert(name.clone(), *id);
                self.rename(*id, name);
            }
        }
        for (name, peer, id) in &peers.wanted {
            match id {
                Some(id) => self.change_peer(*id, peer, &config, all_reset),
                None => self.add_peer(name, peer, &config),
            }
        }
        if is_first {
            self.await_ranges(config.deferral_time);
        }
    }

    pub(super) fn add_peer(&mut self, name: &PeerName, peer: &PeerConfig, config: &Config) {
        let awaiting = self.awaiting_for_new_peer(peer, config.deferral_time);
        let id = self.rib.table.add_source(Source {
            peer: Some(name.clone()),
            kind: kind(peer, config),
            asn: peer.asn,
            address: peer.address,
            port: peer.port,
            router_id: config.router_id,
            client: peer.route_reflector_client,
            deferred: awaiting.as_ref().is_some_and(Awaiting::holds_selection),
            held: Default::default(),
        });
        self.by_name.insert(name.clone(), id);
        self.by_endpoint.insert(peer.endpoint(), id);
        let template = self.template_of(name, peer);
        self.slots.insert(
            id,
            Slot {
                peer: Peer::new(name.clone(), peer.clone(), self.now),
                template,
                known: Vec::new(),
                armed: None,
                awaiting,
                retention: Retention::None,
                disabled: BTreeSet::new(),
                ended: BTreeSet::new(),
                refreshing: BTreeMap::new(),
                shared_router_id: None,
                warned: BTreeSet::new(),
                restart_negotiated: false,
            },
        );
        self.with_peer(id, Peer::handle_timeout);
        self.settle(id);
    }

    pub(super) fn remove_peer(&mut self, name: &PeerName, id: SourceId) {
        let text = self.slots[&id].peer.config.options.shutdown_text.clone();
        // RFC 9003 §2 has a text with a shutdown, not with a Peer De-configured.
        let notification = text.map_or_else(Notification::peer_deconfigured, |text| {
            Notification::administrative_shutdown(&text)
        });
        self.with_peer(id, |peer, cx| peer.reset(cx, &notification));
        self.settle(id);
        if let Some(slot) = self.slots.remove(&id) {
            self.by_endpoint.remove(&slot.peer.config.endpoint());
            if let Some(at) = slot.armed {
                self.timers.remove(&(at, id));
            }
        }
        self.by_name.remove(name);
        self.rib.table.remove_source(id);
    }

    fn change_peer(&mut self, id: SourceId, new: &PeerConfig, config: &Config, all_reset: bool) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let old = slot.peer.config.clone();
        if old == *new && !all_reset {
            return;
        }
        slot.peer.config = new.clone();
        let tries_old_key = old.password != new.password && slot.peer.established().is_none();
        self.by_endpoint.remove(&old.endpoint());
        self.by_endpoint.insert(new.endpoint(), id);
        if old.options.shutdown != new.options.shutdown {
            self.shutdown_changed(id);
        }
        if all_reset || on_the_wire(&old) != on_the_wire(new) {
            self.with_peer(id, |peer, cx| {
                peer.reset(cx, &Notification::configuration_change());
            });
            self.settle(id);
            self.forget_retained(id);
            let provenance = Provenance {
                kind: kind(new, config),
                client: new.route_reflector_client,
                ..self.rib.table.provenance(id)
            };
            self.rib.table.set_provenance(id, &provenance);
            let source = self.rib.table.source_mut(id);
            source.asn = new.asn;
            source.port = new.port;
            self.with_peer(id, Peer::handle_timeout);
            self.settle(id);
            return;
        }
        if tries_old_key {
            self.with_peer(id, |peer, cx| {
                peer.reset(cx, &Notification::configuration_change());
            });
            self.settle(id);
            self.with_peer(id, Peer::handle_timeout);
        } else if old.passive != new.passive {
            self.with_peer(id, Peer::passive_changed);
        }
        if old.port != new.port {
            self.rib.table.source_mut(id).port = new.port;
            self.rib.table.reconsider(id);
        }
        let imported = |peer: &PeerConfig| {
            let required = peer.options.require_policy;
            (peer.import.clone(), peer.allow_own_as, required)
        };
        if imported(&old) != imported(new) {
            self.rib.table.request_import_check(id);
        }
        self.join_groups(id);
        self.check_prefix_limit(id);
        self.settle(id);
    }

    /// A peer that is shut down leaves nothing behind, and nobody waits for it.
    fn shutdown_changed(&mut self, id: SourceId) {
        self.with_peer(id, Peer::shutdown_changed);
        self.settle(id);
        self.forget_retained(id);
        if self.slots[&id].peer.config.options.shutdown {
            self.release(id);
        }
        self.with_peer(id, Peer::handle_timeout);
        self.settle(id);
    }

    /// Routes kept over a restart of a peer that has become another one.
    fn forget_retained(&mut self, id: SourceId) {
        for family in [AfiSafi::Ipv4Unicast, AfiSafi::Ipv6Unicast] {
            self.rib.table.end_retention(id, family);
        }
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.retention = Retention::None;
        }
    }

    /// One slice of what touches many prefixes.
    pub(super) fn sweep(&mut self, budget: usize) {
        let mut checks = BTreeMap::new();
        for (prefix, path) in self.rib.sweep(budget) {
            let id = path.source;
            let check = checks.entry(id).or_insert_with(|| self.import_check_of(id));
            let (Some(check), Some(slot)) = (check, self.slots.get(&id)) else {
                continue;
            };
            let peer = &slot.peer;
            let source = self.rib.table.route_source(id);
            self.rib
                .table
                .check_import(prefix, path, |prefix, attributes| {
                    checked_anew(check, peer, source, prefix, attributes)
                });
        }
    }
}

/// What the import policy makes of a route: edited attributes if there are any, or why it is refused.
fn checked_anew(
    check: &ImportCheck,
    peer: &Peer,
    source: RouteSource,
    prefix: IpNet,
    attributes: &PathAttributes,
) -> Result<Option<PathAttributes>, RouteRefusal> {
    if let Some(refusal) = check.refusal(attributes).or(check.policy_missing) {
        return Err(refusal);
    }
    let subject = Subject {
        prefix,
        attributes,
        source,
        peer: Some(&peer.name),
    };
    let import = &peer.config.import;
    let applied = decide(import, &subject).ok_or(RouteRefusal::Policy)?;
    Ok(changes(import, &applied, attributes).then(|| {
        let mut edited = attributes.clone();
        edit(import, &applied, &mut edited);
        edited
    }))
}

fn kind(peer: &PeerConfig, config: &Config) -> PeerKind {
    if peer.is_external(config.asn) {
        PeerKind::Ebgp
    } else {
        PeerKind::Ibgp
    }
}

/// A peer's configuration with everything made equal that takes effect without a new session: where and when to connect,
/// policies, next hop, limits.
fn on_the_wire(peer: &PeerConfig) -> PeerConfig {
    let mut session = peer.clone();
    session.port = 0;
    session.restart_time = None;
    session.passive = false;
    session.connect_retry_time = std::time::Duration::ZERO;
    session.next_hop = crate::config::NextHopMode::Auto;
    session.allow_own_as = 0;
    session.prefix_limit = None;
    session.import = crate::config::RoutePolicy::accept_all();
    session.export = crate::config::RoutePolicy::accept_all();
    session.options.prefix_warning = None;
    session.options.require_policy = false;
    session.options.shutdown = false;
    session.options.shutdown_text = None;
    // The key of a connection that stands is changed under it.
    session.password = None;
    session
}
