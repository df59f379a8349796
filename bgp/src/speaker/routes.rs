//! UPDATEs into the Adj-RIB-In, own routes, and who is sent what.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::{Config, PeerConfig, RoutePolicy};
use crate::event::{Event, RouteRefusal};
use crate::policy::{Applied, Subject, changes, decide, edit};
use crate::rib::export::own_attributes;
use crate::rib::group::GroupKey;
use crate::rib::source::SourceId;
use crate::rib::table::{AttributesId, PathKey, TooManyPaths};
use crate::route::{NORMAL_LOCAL_PREF, Origination};
use crate::session::peer::Peer;
use crate::speaker::Speaker;
use crate::types::{AfiSafi, Asn, Role, RouterId};
use crate::wire::attr::as_path::SegmentKind;
use crate::wire::attr::{NextHop, PathAttributes};
use crate::wire::nlri::Nlri;
use crate::wire::notification::Notification;
use crate::wire::update::{Reach, Update};

/// What a received route is checked by, apart from its prefix.
pub(super) struct ImportCheck {
    asn: Asn,
    /// The peer is of another AS.
    external: bool,
    /// What the peer knows us by, where that is another AS.
    local_asn: Option<Asn>,
    router_id: RouterId,
    cluster_id: std::net::Ipv4Addr,
    allow_own_as: u8,
    local_address: Option<IpAddr>,
    peer_asn: Asn,
    /// What we are to a peer of another AS.
    role: Option<Role>,
    /// Nothing is taken without a policy (RFC 8212 §2.1).
    pub(super) policy_missing: Option<RouteRefusal>,
}

impl ImportCheck {
    pub(super) fn new(
        config: &Config,
        cluster_id: std::net::Ipv4Addr,
        peer: &Peer,
        local_address: Option<IpAddr>,
    ) -> Self {
        let external = peer.config.is_external(config.asn);
        Self {
            asn: config.asn,
            external,
            peer_asn: peer.config.asn,
            role: peer.config.options.role.filter(|_| external),
            local_asn: peer.config.local_asn.filter(|asn| *asn != config.asn),
            router_id: config.router_id,
            cluster_id,
            allow_own_as: peer.config.allow_own_as,
            local_address,
            policy_missing: policy_missing(config, &peer.config, &peer.config.import)
                .then_some(RouteRefusal::PolicyMissing),
        }
    }

    /// The reason against every route with these attributes.
    pub(super) fn refusal(&self, attributes: &PathAttributes) -> Option<RouteRefusal> {
        let as_path = &attributes.as_path;
        let presented = self.local_asn.map_or(0, |asn| as_path.occurrences(asn));
        if as_path.occurrences(self.asn) + presented > usize::from(self.allow_own_as) {
            return Some(RouteRefusal::AsLoop);
        }
        if self.external {
            if as_path.segments().next().is_none() {
                return Some(RouteRefusal::AsPathEmpty);
            }
            // Within the AS its border decides: a reflector that refused what its clients use would part them.
            let mut segments = as_path.segments();
            if segments.any(|segment| segment.kind == SegmentKind::Set) {
                return Some(RouteRefusal::AsSet);
            }
        }
        if self.is_leak(attributes) {
            return Some(RouteRefusal::RouteLeak);
        }
        if attributes.originator_id == Some(self.router_id) {
            return Some(RouteRefusal::OriginatorLoop);
        }
        if attributes.cluster_list.contains(&self.cluster_id) {
            return Some(RouteRefusal::ClusterLoop);
        }
        let next_hop = attributes.next_hop.map(|next_hop| next_hop.address());
        match next_hop {
            None => Some(RouteRefusal::NextHopMissing),
            Some(_) if next_hop == self.local_address => Some(RouteRefusal::NextHopIsSelf),
            Some(_) => None,
        }
    }
}

impl ImportCheck {
    /// RFC 9234 §5, rules 1 and 2 of what is received.
    fn is_leak(&self, attributes: &PathAttributes) -> bool {
        let otc = || attributes.only_to_customers();
        match self.role {
            None | Some(Role::Customer | Role::RouteServerClient) => false,
            Some(Role::Provider | Role::RouteServer) => otc().is_some(),
            Some(Role::Peer) => otc().is_some_and(|asn| asn != self.peer_asn),
        }
    }

    /// Rule 3.
    fn mark(&self, attributes: &mut PathAttributes) {
        if self.role.is_some_and(Role::marks_received) && attributes.only_to_customers().is_none() {
            attributes.set_only_to_customers(self.peer_asn);
        }
    }
}

/// An eBGP peer that must have a policy has none (RFC 8212).
fn policy_missing(config: &Config, peer: &PeerConfig, policy: &RoutePolicy) -> bool {
    peer.is_external(config.asn) && peer.options.require_policy && policy.accepts_all()
}

impl Speaker {
    pub(super) fn import_check_of(&self, id: SourceId) -> Option<ImportCheck> {
        let config = self.config.as_ref()?;
        let peer = &self.slots.get(&id)?.peer;
        let local = peer.established().and_then(|connection| connection.local);
        let local = local.map(|local| local.ip().to_canonical());
        Some(ImportCheck::new(config, self.cluster_id(), peer, local))
    }

    pub(super) fn update(&mut self, id: SourceId, update: Update) {
        let Some(check) = self.import_check_of(id) else {
            return;
        };
        if !update.faults.is_empty() && !self.note_faults(id, &update.faults) {
            return;
        }
        for (path_id, prefix) in update.unreach.iter().flat_map(Nlri::paths) {
            self.rib.table.withdraw(
                prefix,
                PathKey {
                    source: id,
                    path_id,
                },
            );
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.shared_router_id.take_if(|shown| *shown == prefix);
            }
        }
        if let Some(mut attributes) = update.attributes {
            check.mark(&mut attributes);
            for reach in &update.reach {
                if !self.slots[&id].disabled.contains(&reach.nlri.family()) {
                    attributes.next_hop = Some(reach.next_hop);
                    if self.announce(id, &check, reach, &attributes) == Err(TooManyPaths) {
                        // RFC 4486 §4, subcode 8: what is left out would never come again.
                        let notification = Notification::out_of_resources();
                        self.with_peer(id, |peer, cx| peer.stop(cx, &notification));
                        return;
                    }
                }
            }
        }
        self.check_prefix_limit(id);
        match update.end_of_rib {
            Some(family) => self.end_of_rib(id, family),
            None => self.report_update(id),
        }
    }

    /// `attributes` have the next hop of `reach`.
    fn announce(
        &mut self,
        id: SourceId,
        check: &ImportCheck,
        reach: &Reach,
        attributes: &PathAttributes,
    ) -> Result<(), TooManyPaths> {
        let refusal = check.refusal(attributes).or(check.policy_missing);
        let peer = &self.slots[&id].peer;
        let import = &peer.config.import;
        if refusal.is_none() && !(import.accepts_all() && import.last.is_empty()) {
            return self.announce_by_policy(id, reach, attributes);
        }
        let attributes = self.rib.table.acquire(attributes);
        // One event, however many prefixes an UPDATE has.
        if let Some((reason, prefix)) = refusal.zip(reach.nlri.iter().next()) {
            self.events.push_back(Event::RouteRefused {
                peer: peer.name.clone(),
                prefix,
                reason,
            });
        }
        let mut shared = None;
        let mut outcome = Ok(());
        for (path_id, prefix) in reach.nlri.paths() {
            if refusal == Some(RouteRefusal::OriginatorLoop)
                && !self.originated.contains_key(&prefix)
            {
                shared = Some(prefix);
            }
            let path = PathKey {
                source: id,
                path_id,
            };
            let table = &mut self.rib.table;
            outcome = outcome.and(table.announce(prefix, path, attributes, refusal));
        }
        self.rib.table.release(attributes);
        if shared.is_some()
            && let Some(slot) = self.slots.get_mut(&id)
        {
            slot.shared_router_id = shared;
        }
        outcome
    }

    /// Each set of edits is made and interned once for all routes of an UPDATE.
    fn announce_by_policy(
        &mut self,
        id: SourceId,
        reach: &Reach,
        attributes: &PathAttributes,
    ) -> Result<(), TooManyPaths> {
        let policy = &self.slots[&id].peer.config.import;
        let table = &mut self.rib.table;
        let received = table.acquire(attributes);
        let source = table.route_source(id);
        let mut edited: BTreeMap<Applied, AttributesId> = BTreeMap::new();
        let mut outcome = Ok(());
        for (path_id, prefix) in reach.nlri.paths() {
            let path = PathKey {
                source: id,
                path_id,
            };
            let subject = Subject {
                prefix,
                attributes,
                source,
                peer: table.source(id).peer.as_ref(),
            };
            let announced = match decide(policy, &subject) {
                None => table.announce(prefix, path, received, Some(RouteRefusal::Policy)),
                Some(applied) if !changes(policy, &applied, attributes) => {
                    table.announce(prefix, path, received, None)
                }
                Some(applied) => {
                    let made = *edited.entry(applied).or_insert_with_key(|applied| {
                        let mut made = attributes.clone();
                        edit(policy, applied, &mut made);
                        table.acquire(&made)
                    });
                    table.announce_edited(prefix, path, made, received)
                }
            };
            outcome = outcome.and(announced);
        }
        edited.into_values().for_each(|made| table.release(made));
        table.release(received);
        outcome
    }

    pub(super) fn originate(&mut self, prefix: IpNet, origination: Option<Origination>) {
        match origination {
            Some(origination) => {
                self.originated.insert(prefix, origination);
                let next_hop = origination
                    .next_hop
                    .map(NextHop::from)
                    .filter(|next_hop| next_hop.family() == AfiSafi::of(prefix));
                let local_pref = origination.local_pref.unwrap_or(NORMAL_LOCAL_PREF);
                let attributes = own_attributes(next_hop, local_pref);
                let attributes = self.rib.table.acquire(&attributes);
                let table = &mut self.rib.table;
                let announced = table.announce(prefix, SourceId::OWN, attributes, None);
                debug_assert_eq!(announced, Ok(()), "there are not so many peers");
                table.release(attributes);
            }
            None => {
                if self.originated.remove(&prefix).is_some() {
                    self.rib.table.withdraw(prefix, SourceId::OWN);
                }
            }
        }
    }

    /// Puts the families of an established session under their group keys.
    pub(super) fn join_groups(&mut self, id: SourceId) {
        let Some(slot) = self.slots.get(&id) else {
            return;
        };
        let (Some(connection), Some(agreement)) = (slot.peer.established(), slot.peer.agreement())
        else {
            return;
        };
        let local_address = connection
            .local
            .map_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), |local| {
                local.ip().to_canonical()
            });
        let peer = &slot.peer.config;
        let missing = |config| policy_missing(config, peer, &peer.export);
        // RFC 8212 §2.2.
        let mut policy = if self.config.as_deref().is_some_and(missing) {
            RoutePolicy::reject_all()
        } else {
            peer.export.clone()
        };
        let held_back = self.held_back(agreement.restart.as_ref());
        policy.terms.splice(0..0, held_back);
        let keys: Vec<GroupKey> = agreement
            .families
            .iter()
            .map(|family| GroupKey {
                family: *family,
                kind: agreement.kind,
                local_asn: agreement.local_asn,
                local_address,
                ipv6_next_hops: agreement.ipv6_next_hops,
                next_hop: slot.peer.config.next_hop,
                client: slot.peer.config.route_reflector_client,
                cluster_id: self.cluster_id(),
                width: agreement.asn_width,
                limit: agreement.limit,
                role: peer.options.role,
                add_paths: agreement.add_paths.contains(family),
                policy: policy.clone(),
            })
            .collect();
        for key in keys {
            self.rib.join(id, key);
        }
    }

    pub(super) fn report_withheld(&mut self) {
        for (id, withheld) in self.rib.take_withheld() {
            if let Some(slot) = self.slots.get(&id) {
                self.events.push_back(Event::NotAdvertised {
                    peer: slot.peer.name.clone(),
                    prefix: withheld.prefix,
                    reason: withheld.reason,
                });
            }
        }
    }
}
