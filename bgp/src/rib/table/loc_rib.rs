//! The best path of each prefix: deciding it, telling of changes, explaining it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use smallvec::SmallVec;

use crate::rib::decision::{self, Candidate};
use crate::rib::export::LOCAL_PREF_DEFAULT;
use crate::rib::source::SourceId;
use crate::rib::table::{AttributesId, Best, Explained, Path, PrefixId, Table};
use crate::route::{BestRoute, RouteChange, RouteSource};
use crate::status::DecisionStep;
use crate::wire::update::PeerKind;

impl Table {
    pub(super) fn mark_undecided(&mut self, id: PrefixId) {
        let entry = &mut self.entries[id.index()];
        if !entry.undecided {
            entry.undecided = true;
            self.undecided.push_back(id);
        }
    }

    pub(crate) fn has_undecided(&self) -> bool {
        !self.undecided.is_empty()
    }

    pub(crate) fn has_unreported(&self) -> bool {
        !self.unreported.is_empty()
    }

    pub(crate) fn next_undecided(&mut self) -> Option<PrefixId> {
        self.undecided.pop_front()
    }

    /// Runs the decision process for a prefix; true when what is to be advertised may have changed. A change of the stale
    /// mark alone is reported to the Loc-RIB's reader, but nothing to advertise.
    pub(crate) fn decide(&mut self, id: PrefixId) -> bool {
        self.entries[id.index()].undecided = false;
        let entry = &self.entries[id.index()];
        let chosen = self.choose(&entry.paths, |_, _| ());
        let new = chosen.map(|path| Best {
            source: path.source,
            attributes: path.attributes,
            stale: path.stale,
        });
        let old = entry.best;
        if new == old {
            return false;
        }
        if let Some(best) = new {
            self.attributes.retain(best.attributes.0);
        }
        if let Some(best) = old {
            self.attributes.release(best.attributes.0);
        }
        let entry = &mut self.entries[id.index()];
        entry.best = new;
        if !entry.unreported {
            entry.unreported = true;
            self.unreported.push_back(id);
        }
        let advertised = |best: Option<Best>| best.map(|best| (best.source, best.attributes));
        advertised(new) != advertised(old)
    }

    fn choose(
        &self,
        paths: &[Path],
        mut removed: impl FnMut(SourceId, DecisionStep),
    ) -> Option<Path> {
        let usable: SmallVec<[Path; 4]> = paths
            .iter()
            .copied()
            .filter(|path| path.refusal.is_none() && !self.source(path.source).deferred)
            .collect();
        let candidates: SmallVec<[Candidate; 4]> =
            usable.iter().map(|path| self.candidate(path)).collect();
        decision::decide(&candidates, |index, step| {
            removed(usable[index].source, step)
        })
        .map(|index| usable[index])
    }

    fn candidate(&self, path: &Path) -> Candidate {
        let source = self.source(path.source);
        let attributes = self.attributes(path.attributes);
        let own = path.source == SourceId::OWN;
        let reachable = own
            || attributes
                .next_hop
                .is_none_or(|next_hop| !self.unreachable.contains(&next_hop.address()));
        let as_path_length = attributes.as_path.length();
        Candidate {
            own,
            reachable,
            local_pref: attributes.local_pref.unwrap_or(LOCAL_PREF_DEFAULT),
            as_path_length: u32::try_from(as_path_length).unwrap_or(u32::MAX),
            origin: attributes.origin.code(),
            med: attributes.med.unwrap_or(0),
            neighbour_as: attributes.as_path.first_as().map(|asn| asn.0),
            ebgp: source.kind == PeerKind::Ebgp,
            interior_cost: 0,
            router_id: attributes
                .originator_id
                .unwrap_or(source.router_id)
                .0
                .to_bits(),
            cluster_list_length: u32::try_from(attributes.cluster_list.len()).unwrap_or(u32::MAX),
            peer_address: source.address,
        }
    }

    // Loc-RIB changes

    /// Next prefix whose best route changed since it was last reported.
    pub(crate) fn poll_change(&mut self) -> Option<RouteChange> {
        while let Some(id) = self.unreported.pop_front() {
            let entry = &mut self.entries[id.index()];
            entry.unreported = false;
            let known = std::mem::replace(&mut entry.reported, entry.best.is_some());
            let (prefix, best) = (entry.prefix, entry.best);
            let change = best.map(|best| self.best_route(best));
            self.free_if_unused(id);
            if change.is_some() || known {
                return Some(RouteChange {
                    prefix,
                    best: change,
                });
            }
        }
        None
    }

    fn best_route(&self, best: Best) -> BestRoute {
        let source = self.source(best.source);
        let next_hop = self.attributes(best.attributes).next_hop;
        BestRoute {
            next_hops: next_hop.iter().map(|hop| hop.address()).collect(),
            source: self.route_source(best.source),
            peer: source.peer.clone(),
            stale: best.stale,
        }
    }

    pub(crate) fn route_source(&self, id: SourceId) -> RouteSource {
        match (id, self.source(id).kind) {
            (SourceId::OWN, _) => RouteSource::Local,
            (_, PeerKind::Ebgp) => RouteSource::Ebgp,
            (_, PeerKind::Ibgp) => RouteSource::Ibgp,
        }
    }

    // Next hops

    pub(super) fn watch(&mut self, attributes: AttributesId) {
        if let Some(next_hop) = self.attributes(attributes).next_hop {
            let address = next_hop.address();
            if self.watched.insert(address, true).is_none() {
                self.new_watches.push_back(address);
            }
        }
    }

    /// Next address that routes began to use.
    pub(crate) fn poll_watch(&mut self) -> Option<IpAddr> {
        self.new_watches.pop_front()
    }

    /// Notes whether a next hop can be reached and reconsiders its routes.
    pub(crate) fn set_next_hop(&mut self, next_hop: IpAddr, reachable: bool) {
        let changed = if reachable {
            self.unreachable.remove(&next_hop)
        } else {
            self.unreachable.insert(next_hop)
        };
        if !changed {
            return;
        }
        for id in self.ids() {
            let entry = &self.entries[id.index()];
            let uses = |path: &Path| {
                self.attributes(path.attributes)
                    .next_hop
                    .is_some_and(|hop| hop.address() == next_hop)
            };
            if entry.in_use && entry.paths.iter().any(uses) {
                self.mark_undecided(id);
            }
        }
    }

    // Views

    /// Every prefix in order, with its paths and what the decision says of each.
    pub(crate) fn view(&self) -> Vec<(IpNet, Vec<Explained>)> {
        let mut all: Vec<(IpNet, Vec<Explained>)> = self
            .entries
            .iter()
            .filter(|entry| entry.in_use && !entry.paths.is_empty())
            .map(|entry| (entry.prefix, self.explain(&entry.paths)))
            .collect();
        all.sort_by_key(|(prefix, _)| *prefix);
        all
    }

    fn explain(&self, paths: &[Path]) -> Vec<Explained> {
        let mut lost: BTreeMap<SourceId, DecisionStep> = BTreeMap::new();
        let best = self.choose(paths, |source, step| {
            lost.insert(source, step);
        });
        let mut explained: Vec<Explained> = paths
            .iter()
            .map(|path| (*path, lost.get(&path.source).copied()))
            .collect();
        explained.sort_by_key(|(path, step)| {
            let is_best = best.is_some_and(|best| best.source == path.source);
            (
                !is_best,
                step.is_none(),
                std::cmp::Reverse(*step),
                path.source,
            )
        });
        explained
    }
}
