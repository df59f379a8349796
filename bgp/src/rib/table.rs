//! All paths of all prefixes, and the best of each: Adj-RIBs-In and Loc-RIB in one table by prefix.
//!
//! A prefix keeps the paths of all peers side by side, so the decision reads one short list. What belongs to one peer is
//! found by walking the table: that happens when a session ends, not when routes change.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr};

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use ipnet::IpNet;
use smallvec::SmallVec;

use crate::event::RouteRefusal;
use crate::rib::decision::{self, Candidate};
use crate::rib::export::{LOCAL_PREF_DEFAULT, family_of};
use crate::rib::intern::Interner;
use crate::rib::source::{Source, SourceId, slot};
use crate::route::{BestRoute, RouteChange, RouteSource};
use crate::status::DecisionStep;
use crate::types::{AfiSafi, RouterId};
use crate::wire::attr::PathAttributes;
use crate::wire::update::PeerKind;

/// A dense number for a prefix in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PrefixId(pub(crate) u32);

impl PrefixId {
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A dense number for an attribute set in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AttributesId(u32);

/// One peer's route to a prefix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    pub(crate) source: SourceId,
    pub(crate) attributes: AttributesId,
    pub(crate) refusal: Option<RouteRefusal>,
    pub(crate) stale: bool,
}

/// The Loc-RIB's choice. It has references of its own, for the path may be replaced before the next decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Best {
    pub(crate) source: SourceId,
    pub(crate) attributes: AttributesId,
    stale: bool,
}

#[derive(Debug)]
struct Entry {
    prefix: IpNet,
    paths: SmallVec<[Path; 1]>,
    best: Option<Best>,
    /// Adj-RIBs-Out that name this id.
    holders: u32,
    undecided: bool,
    unreported: bool,
    /// The reader of changes knows a best route.
    reported: bool,
    in_use: bool,
}

/// A path and the step at which it lost; `None` for the best one and for those that take no part.
pub(crate) type Explained = (Path, Option<DecisionStep>);

/// See the module.
#[derive(Debug)]
pub(crate) struct Table {
    index: HashTable<u32>,
    hasher: FixedState,
    entries: Vec<Entry>,
    free: Vec<PrefixId>,
    attributes: Interner<PathAttributes>,
    sources: Vec<Option<Source>>,
    undecided: VecDeque<PrefixId>,
    unreported: VecDeque<PrefixId>,
    /// Tracked next hops: number of paths is not kept, so a next hop is watched once used.
    watched: BTreeMap<IpAddr, bool>,
    new_watches: VecDeque<IpAddr>,
    unreachable: BTreeSet<IpAddr>,
}

impl Table {
    pub(crate) fn new(seed: u64) -> Self {
        let own = Source {
            peer: None,
            kind: PeerKind::Ibgp,
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            router_id: RouterId(Ipv4Addr::UNSPECIFIED),
            client: false,
            deferred: false,
            counts: Default::default(),
        };
        Self {
            index: HashTable::new(),
            hasher: FixedState::with_seed(seed),
            entries: Vec::new(),
            free: Vec::new(),
            attributes: Interner::new(seed),
            sources: vec![Some(own)],
            undecided: VecDeque::new(),
            unreported: VecDeque::new(),
            watched: BTreeMap::new(),
            new_watches: VecDeque::new(),
            unreachable: BTreeSet::new(),
        }
    }

    // Sources

    /// Adds a source; its number stays until [`Self::remove_source`].
    pub(crate) fn add_source(&mut self, source: Source) -> SourceId {
        let vacant = self.sources.iter().position(Option::is_none);
        let position = vacant.unwrap_or_else(|| {
            self.sources.push(None);
            self.sources.len() - 1
        });
        self.sources[position] = Some(source);
        SourceId(u32::try_from(position).expect("peers are fewer than 2^32"))
    }

    /// Forgets a source that has no paths any more.
    pub(crate) fn remove_source(&mut self, id: SourceId) {
        self.sources[id.index()] = None;
    }

    pub(crate) fn source(&self, id: SourceId) -> &Source {
        self.sources[id.index()]
            .as_ref()
            .expect("paths go before their source")
    }

    pub(crate) fn source_mut(&mut self, id: SourceId) -> &mut Source {
        self.sources[id.index()]
            .as_mut()
            .expect("paths go before their source")
    }

    // Attribute sets

    /// Interns a set, with one reference for the caller.
    pub(crate) fn acquire(&mut self, attributes: PathAttributes) -> AttributesId {
        AttributesId(self.attributes.acquire(attributes))
    }

    pub(crate) fn retain(&mut self, id: AttributesId) {
        self.attributes.retain(id.0);
    }

    pub(crate) fn release(&mut self, id: AttributesId) {
        self.attributes.release(id.0);
    }

    pub(crate) fn attributes(&self, id: AttributesId) -> &PathAttributes {
        self.attributes.value(id.0)
    }

    /// Number of attribute sets in use.
    #[cfg(test)]
    pub(crate) fn attribute_sets(&self) -> usize {
        self.attributes.len()
    }

    // Prefixes

    pub(crate) fn find(&self, prefix: IpNet) -> Option<PrefixId> {
        let entries = &self.entries;
        self.index
            .find(self.hasher.hash_one(prefix), |id| {
                entries[*id as usize].prefix == prefix
            })
            .map(|id| PrefixId(*id))
    }

    fn find_or_add(&mut self, prefix: IpNet) -> PrefixId {
        if let Some(id) = self.find(prefix) {
            return id;
        }
        let entry = Entry {
            prefix,
            paths: SmallVec::new(),
            best: None,
            holders: 0,
            undecided: false,
            unreported: false,
            reported: false,
            in_use: true,
        };
        let id = if let Some(id) = self.free.pop() {
            self.entries[id.index()] = entry;
            id
        } else {
            self.entries.push(entry);
            PrefixId(u32::try_from(self.entries.len() - 1).expect("memory ends before ids do"))
        };
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.index
            .insert_unique(hasher.hash_one(prefix), id.0, |id| {
                hasher.hash_one(entries[*id as usize].prefix)
            });
        id
    }

    /// Gives the id of a prefix back once nothing names it.
    pub(crate) fn free_if_unused(&mut self, id: PrefixId) {
        let entry = &mut self.entries[id.index()];
        let used = !entry.paths.is_empty()
            || entry.best.is_some()
            || entry.holders > 0
            || entry.undecided
            || entry.unreported;
        if used || !entry.in_use {
            return;
        }
        entry.in_use = false;
        let hash = self.hasher.hash_one(entry.prefix);
        self.index
            .find_entry(hash, |other| *other == id.0)
            .expect("prefixes in use are indexed")
            .remove();
        self.free.push(id);
    }

    /// An Adj-RIB-Out names this id.
    pub(crate) fn hold(&mut self, id: PrefixId) {
        self.entries[id.index()].holders += 1;
    }

    /// It does no longer.
    pub(crate) fn unhold(&mut self, id: PrefixId) {
        self.entries[id.index()].holders -= 1;
        self.free_if_unused(id);
    }

    pub(crate) fn prefix(&self, id: PrefixId) -> IpNet {
        self.entries[id.index()].prefix
    }

    pub(crate) fn family(&self, id: PrefixId) -> AfiSafi {
        family_of(self.prefix(id))
    }

    pub(crate) fn best(&self, id: PrefixId) -> Option<Best> {
        self.entries[id.index()].best
    }

    /// Every id below this one may be in use.
    pub(crate) fn ids_end(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_in_use(&self, id: PrefixId) -> bool {
        self.entries[id.index()].in_use
    }

    /// Ids of a family's prefixes.
    pub(crate) fn ids_of(&self, family: AfiSafi) -> Vec<PrefixId> {
        self.ids()
            .filter(|id| self.is_in_use(*id) && self.family(*id) == family)
            .collect()
    }

    fn ids(&self) -> impl Iterator<Item = PrefixId> + use<> {
        (0..u32::try_from(self.entries.len()).expect("ids are 32 bit")).map(PrefixId)
    }

    // Adj-RIB-In

    /// A source's route to a prefix, in place of its former one (RFC 4271 §9). The table takes one reference of
    /// `attributes` of its own.
    pub(crate) fn announce(
        &mut self,
        prefix: IpNet,
        source: SourceId,
        attributes: AttributesId,
        refusal: Option<RouteRefusal>,
    ) {
        let id = self.find_or_add(prefix);
        self.attributes.retain(attributes.0);
        let path = Path {
            source,
            attributes,
            refusal,
            stale: false,
        };
        let paths = &mut self.entries[id.index()].paths;
        let old = paths.iter_mut().find(|path| path.source == source);
        let old = match old {
            Some(old) => Some(std::mem::replace(old, path)),
            None => {
                paths.push(path);
                None
            }
        };
        let same = old.is_some_and(|old| {
            old.attributes == attributes && old.refusal == refusal && !old.stale
        });
        self.count(family_of(prefix), old, Some(path));
        if let Some(old) = old {
            self.attributes.release(old.attributes.0);
        }
        if !same {
            self.watch(attributes);
            self.mark_undecided(id);
        }
    }

    /// A source's route to a prefix is gone.
    pub(crate) fn withdraw(&mut self, prefix: IpNet, source: SourceId) {
        if let Some(id) = self.find(prefix) {
            self.remove_path(id, source);
        }
    }

    fn remove_path(&mut self, id: PrefixId, source: SourceId) {
        let paths = &mut self.entries[id.index()].paths;
        let Some(position) = paths.iter().position(|path| path.source == source) else {
            return;
        };
        let old = paths.swap_remove(position);
        self.count(self.family(id), Some(old), None);
        self.attributes.release(old.attributes.0);
        self.mark_undecided(id);
    }

    fn count(&mut self, family: AfiSafi, old: Option<Path>, new: Option<Path>) {
        for (path, is_new) in old
            .map(|p| (p, false))
            .into_iter()
            .chain(new.map(|p| (p, true)))
        {
            let counts = &mut self.source_mut(path.source).counts[slot(family)];
            let fields = [
                (&mut counts.received, true),
                (&mut counts.accepted, path.refusal.is_none()),
                (&mut counts.stale, path.stale),
            ];
            for (field, counted) in fields {
                match (counted, is_new) {
                    (true, true) => *field += 1,
                    (true, false) => *field -= 1,
                    (false, _) => {}
                }
            }
        }
    }

    /// Removes a source's routes of a family; only stale ones if `stale_only`. Returns how many.
    pub(crate) fn purge(&mut self, source: SourceId, family: AfiSafi, stale_only: bool) -> usize {
        let counts = self.source(source).counts[slot(family)];
        let expected = if stale_only {
            counts.stale
        } else {
            counts.received
        };
        let mut left = expected;
        for id in self.ids() {
            if left == 0 {
                break;
            }
            let entry = &self.entries[id.index()];
            let affected = entry.in_use
                && family_of(entry.prefix) == family
                && entry
                    .paths
                    .iter()
                    .any(|path| path.source == source && (path.stale || !stale_only));
            if affected {
                self.remove_path(id, source);
                left -= 1;
            }
        }
        expected
    }

    /// Marks a source's routes of a family as retained over its restart (RFC 4724 §4.2).
    pub(crate) fn mark_stale(&mut self, source: SourceId, family: AfiSafi) {
        for id in self.ids() {
            if !self.is_in_use(id) || self.family(id) != family {
                continue;
            }
            let paths = &mut self.entries[id.index()].paths;
            let Some(path) = paths.iter_mut().find(|path| path.source == source) else {
                continue;
            };
            if !path.stale {
                let old = *path;
                path.stale = true;
                let new = *path;
                self.count(family, Some(old), Some(new));
                self.mark_undecided(id);
            }
        }
    }

    /// Judges a source's routes anew.
    pub(crate) fn rejudge(
        &mut self,
        source: SourceId,
        judge: impl Fn(IpNet, &PathAttributes) -> Option<RouteRefusal>,
    ) {
        for id in self.ids() {
            if !self.is_in_use(id) {
                continue;
            }
            let entry = &mut self.entries[id.index()];
            let prefix = entry.prefix;
            let Some(path) = entry.paths.iter_mut().find(|path| path.source == source) else {
                continue;
            };
            let refusal = judge(prefix, self.attributes.value(path.attributes.0));
            if refusal != path.refusal {
                let old = *path;
                path.refusal = refusal;
                let new = *path;
                self.count(family_of(prefix), Some(old), Some(new));
                self.mark_undecided(id);
            }
        }
    }

    /// A source's paths are to be considered anew: it ceased to be deferred, or what the decision knows of it changed.
    pub(crate) fn reconsider(&mut self, source: SourceId) {
        for id in self.ids() {
            let entry = &self.entries[id.index()];
            if entry.in_use && entry.paths.iter().any(|path| path.source == source) {
                self.mark_undecided(id);
            }
        }
    }

    // Decision

    fn mark_undecided(&mut self, id: PrefixId) {
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

    /// Runs the decision process for a prefix; true when what is to be advertised may have changed.
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

    fn watch(&mut self, attributes: AttributesId) {
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
