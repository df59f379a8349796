//! The best path of each prefix: deciding it, telling of changes, explaining it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use smallvec::SmallVec;

use crate::rib::decision::{self, Candidate};
use crate::rib::export::LOCAL_PREF_DEFAULT;
use crate::rib::source::{Age, SourceId};
use crate::rib::table::sweep::Wanted;
use crate::rib::table::{AttributesId, Best, Explained, Path, PathKey, PrefixId, Table};
use crate::route::{BestRoute, Reachability, RouteChange, RouteSource};
use crate::status::DecisionStep;
use crate::types::AfiSafi;
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
        let family = entry.family;
        let chosen = self.choose(family, &entry.paths, |_, _| ());
        let new = chosen.map(|path| Best {
            source: path.source,
            attributes: path.attributes,
            stale: self.source(path.source).age(family, &path) == Age::Stale,
        });
        let old = entry.best();
        let ecmp_changed = (self.multipath > 1 || !self.ecmp.is_empty()) && self.decide_ecmp(id);
        if new == old && !ecmp_changed {
            return false;
        }
        if let Some(best) = new {
            self.retain(best.attributes);
            self.source_mut(best.source).held.bests += 1;
        }
        if let Some(best) = old {
            self.release(best.attributes);
            self.source_mut(best.source).held.bests -= 1;
        }
        let entry = &mut self.entries[id.index()];
        entry.set_best(new);
        if !entry.unreported {
            entry.unreported = true;
            self.unreported.push_back(id);
        }
        let advertised = |best: Option<Best>| best.map(|best| (best.source, best.attributes));
        advertised(new) != advertised(old)
    }

    /// Finds the next hops to use side by side; true when they are others than before.
    fn decide_ecmp(&mut self, id: PrefixId) -> bool {
        let (family, paths) = (self.family(id), &self.entries[id.index()].paths);
        let mut equals: Vec<(Path, DecisionStep)> = Vec::new();
        let best = self.choose(family, paths, |path, step| {
            if step.is_tie_break() {
                equals.push((*path, step));
            }
        });
        // The later a path lost, the sooner it is taken.
        equals.sort_by_key(|(path, step)| (std::cmp::Reverse(*step), path.key()));
        let others = equals.iter().map(|(path, _)| path);
        let mut next_hops: Vec<IpAddr> = Vec::new();
        for path in best.iter().chain(others) {
            if let Some(next_hop) = self.next_hop(path.attributes)
                && next_hops.len() < usize::from(self.multipath)
                && !next_hops.contains(&next_hop.address())
            {
                next_hops.push(next_hop.address());
            }
        }
        next_hops.sort_unstable();
        let new = (next_hops.len() > 1).then(|| next_hops.into_boxed_slice());
        if self.ecmp.get(&id) == new.as_ref() {
            return false;
        }
        match new {
            Some(new) => drop(self.ecmp.insert(id, new)),
            None => drop(self.ecmp.remove(&id)),
        }
        true
    }

    /// Sets how many paths may be used side by side.
    pub(crate) fn set_multipath(&mut self, most: u16) {
        let most = most.max(1);
        if std::mem::replace(&mut self.multipath, most) == most {
            return;
        }
        self.request(Wanted::Several);
    }

    /// The paths of a prefix that one may be chosen from: taken, of nobody who is awaited, with a next hop that can be reached.
    pub(crate) fn eligible(&self, id: PrefixId) -> impl Iterator<Item = Path> + '_ {
        let entry = &self.entries[id.index()];
        let paths = entry.paths.iter().copied();
        paths.filter(|path| self.takes_part(entry.family, path) && self.can_be_reached(path))
    }

    fn takes_part(&self, family: AfiSafi, path: &Path) -> bool {
        let source = self.source(path.source);
        path.refusal.is_none() && !source.deferred && source.age(family, path) != Age::Dead
    }

    fn can_be_reached(&self, path: &Path) -> bool {
        let next_hop = self.next_hop(path.attributes);
        let next_hop = next_hop.filter(|_| path.source != SourceId::OWN);
        next_hop.is_none_or(|next_hop| {
            self.next_hops.reachability(next_hop.address()) != Reachability::Unreachable
        })
    }

    fn choose(
        &self,
        family: AfiSafi,
        paths: &[Path],
        mut removed: impl FnMut(&Path, DecisionStep),
    ) -> Option<Path> {
        let usable: SmallVec<[Path; 4]> = paths
            .iter()
            .copied()
            .filter(|path| self.takes_part(family, path))
            .collect();
        let candidates: SmallVec<[Candidate; 4]> =
            usable.iter().map(|path| self.candidate(path)).collect();
        decision::decide(&candidates, |index, step| removed(&usable[index], step))
            .map(|index| usable[index])
    }

    fn candidate(&self, path: &Path) -> Candidate {
        let source = self.source(path.source);
        let attributes = self.attributes(path.attributes);
        let own = path.source == SourceId::OWN;
        let reachability = match attributes.next_hop {
            Some(next_hop) if !own => self.next_hops.reachability(next_hop.address()),
            Some(_) | None => Reachability::default(),
        };
        let (reachable, interior_cost) = match reachability {
            Reachability::Reachable { cost } => (true, cost),
            Reachability::Unreachable => (false, u32::MAX),
        };
        let as_path_length = attributes.as_path.length();
        let cluster_list_length = attributes.cluster_list_length();
        Candidate {
            own,
            reachable,
            local_pref: attributes.local_pref.unwrap_or(LOCAL_PREF_DEFAULT),
            as_path_length: u32::try_from(as_path_length).unwrap_or(u32::MAX),
            origin: attributes.origin_code(),
            med: attributes.med.unwrap_or(0),
            neighbour_as: attributes
                .as_path
                .first_as()
                .or((source.kind == PeerKind::Ebgp).then_some(source.asn))
                .map(|asn| asn.0),
            ebgp: source.kind == PeerKind::Ebgp,
            interior_cost,
            router_id: attributes
                .originator_id
                .unwrap_or(source.router_id)
                .0
                .to_bits(),
            cluster_list_length: u32::try_from(cluster_list_length).unwrap_or(u32::MAX),
            peer_address: source.address,
            peer_instance: (source.port, path.source.0),
            path_id: path.path_id.0,
        }
    }

    // Loc-RIB changes

    /// Next prefix whose best route changed since it was last reported.
    pub(crate) fn poll_change(&mut self) -> Option<RouteChange> {
        while let Some(id) = self.unreported.pop_front() {
            let entry = &mut self.entries[id.index()];
            entry.unreported = false;
            let best = entry.best();
            let known = std::mem::replace(&mut entry.reported, best.is_some());
            let prefix = self.prefix(id);
            let change = best.map(|best| self.best_route(id, best));
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

    fn best_route(&self, id: PrefixId, best: Best) -> BestRoute {
        let source = self.source(best.source);
        let next_hop = self.next_hop(best.attributes);
        let next_hops = match self.ecmp.get(&id) {
            Some(all) => all.to_vec(),
            None => next_hop.iter().map(|hop| hop.address()).collect(),
        };
        BestRoute {
            next_hops,
            source: self.route_source(best.source),
            local_pref: (self.attributes(best.attributes).local_pref).unwrap_or(LOCAL_PREF_DEFAULT),
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
        if let Some(next_hop) = self.next_hop(attributes) {
            self.next_hops.watch(next_hop.address());
        }
    }

    /// Next address that routes began (`true`) or ceased to use.
    pub(crate) fn poll_watch(&mut self) -> Option<(IpAddr, bool)> {
        self.next_hops.poll_watch()
    }

    /// Notes what the kernel's routes say of a next hop, and reconsiders its routes.
    pub(crate) fn set_next_hop(&mut self, next_hop: IpAddr, reachability: Reachability) {
        if !self.next_hops.set(next_hop, reachability) {
            return;
        }
        self.request(Wanted::NextHop(next_hop));
    }

    // Views

    /// At most `most` places of the table from one on, each prefix with its paths and what the decision says of each; and the
    /// place after them, if there is one.
    pub(crate) fn view(
        &self,
        from: usize,
        most: usize,
    ) -> (Vec<(IpNet, Vec<Explained>)>, Option<usize>) {
        let end = from.saturating_add(most).min(self.entries.len());
        let ids = from.min(end)..end;
        let slice = ids
            .map(|index| PrefixId(u32::try_from(index).expect("ids are 32 bit")))
            .filter(|id| self.is_in_use(*id))
            .map(|id| {
                (
                    self.prefix(id),
                    self.explain(id, &self.entries[id.index()].paths),
                )
            })
            .filter(|(_, explained)| !explained.is_empty())
            .collect();
        (slice, (end < self.entries.len()).then_some(end))
    }

    fn explain(&self, id: PrefixId, paths: &[Path]) -> Vec<Explained> {
        let mut lost: BTreeMap<PathKey, DecisionStep> = BTreeMap::new();
        let family = self.family(id);
        let best = self.choose(family, paths, |path, step| {
            lost.insert(path.key(), step);
        });
        let used = self.ecmp.get(&id).map_or(&[][..], |used| used);
        let explain = |path: &Path| {
            let lost = lost.get(&path.key()).copied();
            let next_hop = self.next_hop(path.attributes);
            let multipath = lost.is_some_and(DecisionStep::is_tie_break)
                && next_hop.is_some_and(|hop| used.contains(&hop.address()));
            Explained {
                path: *path,
                stale: self.source(path.source).age(family, path) == Age::Stale,
                lost,
                multipath,
            }
        };
        let mut explained: Vec<Explained> = paths
            .iter()
            .filter(|path| self.source(path.source).age(family, path) != Age::Dead)
            .map(explain)
            .collect();
        explained.sort_by_key(|one| {
            let is_best = best.is_some_and(|best| best.key() == one.path.key());
            (
                !is_best,
                one.lost.is_none(),
                std::cmp::Reverse(one.lost),
                one.path.key(),
            )
        });
        explained
    }
}
