//! All paths of all prefixes, and the best of each: Adj-RIBs-In and Loc-RIB in one table by prefix.
//!
//! A prefix keeps the paths of all peers side by side, so the decision reads one short list. What belongs to one peer is
//! found by walking the table: that happens when a session ends, not when routes change.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;

use hashbrown::HashTable;
use ipnet::IpNet;

use crate::event::RouteRefusal;
use crate::rib::intern::Interner;
use crate::rib::packed::{self, PackedAttributes};
use crate::rib::source::{Provenance, Source, SourceId};
use crate::status::DecisionStep;
use crate::types::{AfiSafi, Asn, PathId, RouterId};
use crate::wire::attr::{NextHop, PathAttributes};
use crate::wire::update::PeerKind;

mod adj_rib_in;
mod entry;
mod loc_rib;
mod neighbours;
mod next_hops;
mod sweep;

pub(crate) use adj_rib_in::TooManyPaths;
use entry::{Entry, LongPrefixes};
use neighbours::PrefixHasher;
use next_hops::NextHops;
use sweep::{Sweep, Wanted};

/// Memory of this many free ids is not given back.
const FREE_IDS_KEPT: usize = 4096;

/// A dense number for a prefix in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PrefixId(pub(crate) u32);

impl PrefixId {
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A dense number for an attribute set in use, one more than the interner's: so an option of it takes no more room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AttributesId(NonZeroU32);

impl AttributesId {
    fn new(interned: u32) -> Self {
        let number = interned.checked_add(1).and_then(NonZeroU32::new);
        Self(number.expect("memory ends before ids do"))
    }

    /// Place in tables by attribute set.
    pub(crate) const fn index(self) -> usize {
        self.interned() as usize
    }

    const fn interned(self) -> u32 {
        self.0.get() - 1
    }
}

/// What tells a path of a prefix from the prefix's others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PathKey {
    pub(crate) source: SourceId,
    pub(crate) path_id: PathId,
}

impl From<SourceId> for PathKey {
    fn from(source: SourceId) -> Self {
        Self {
            source,
            path_id: PathId::ONLY,
        }
    }
}

/// A route's place in an Adj-RIB-Out: its prefix, and which of the prefix's paths it is, 0 where the best one alone is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) id: PrefixId,
    pub(crate) number: u16,
}

impl From<PrefixId> for Place {
    fn from(id: PrefixId) -> Self {
        Self { id, number: 0 }
    }
}

/// One peer's route to a prefix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    pub(crate) source: SourceId,
    pub(crate) path_id: PathId,
    pub(crate) attributes: AttributesId,
    /// Tells the prefix's paths apart where all are sent: the lowest that was free when it came.
    pub(crate) number: u16,
    pub(crate) refusal: Option<RouteRefusal>,
    /// Of the source, in the prefix's family, that it came in.
    pub(crate) session: u8,
}

impl Path {
    pub(crate) const fn key(&self) -> PathKey {
        PathKey {
            source: self.source,
            path_id: self.path_id,
        }
    }
}

/// The Loc-RIB's choice. It has references of its own, for the path may be replaced before the next decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Best {
    pub(crate) source: SourceId,
    pub(crate) attributes: AttributesId,
    stale: bool,
}

/// A path and what became of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Explained {
    pub(crate) path: Path,
    pub(crate) stale: bool,
    /// `None` for the best one and for those that take no part.
    pub(crate) lost: Option<DecisionStep>,
    /// Its next hop is used beside the best path's.
    pub(crate) multipath: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Table {
    index: HashTable<u32>,
    hasher: PrefixHasher,
    entries: Vec<Entry>,
    long_prefixes: LongPrefixes,
    free: Vec<PrefixId>,
    /// Free ids that were left when memory was last given back, for one above them was in use.
    pinned: usize,
    attributes: Interner,
    /// Where a set is packed before it is known whether it is new.
    scratch: Vec<u8>,
    sources: Vec<Option<Source>>,
    /// Sources that go when nothing names them any more.
    leaving: Vec<SourceId>,
    sweep: Sweep,
    undecided: VecDeque<PrefixId>,
    unreported: VecDeque<PrefixId>,
    /// Attributes as received, of the paths whose attributes an import policy edited.
    received: BTreeMap<(PrefixId, PathKey), AttributesId>,
    /// Most paths used side by side.
    multipath: u16,
    /// Next hops of the prefixes that have more than one, lowest first.
    ecmp: BTreeMap<PrefixId, Box<[IpAddr]>>,
    next_hops: NextHops,
}

impl Table {
    pub(crate) fn new(seed: u64) -> Self {
        let own = Source {
            peer: None,
            kind: PeerKind::Ibgp,
            asn: Asn(0),
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port: 0,
            router_id: RouterId(Ipv4Addr::UNSPECIFIED),
            client: false,
            deferred: false,
            held: Default::default(),
        };
        Self {
            index: HashTable::new(),
            hasher: PrefixHasher::new(seed),
            entries: Vec::new(),
            long_prefixes: LongPrefixes::default(),
            free: Vec::new(),
            pinned: 0,
            attributes: Interner::new(seed),
            scratch: Vec::new(),
            sources: vec![Some(own)],
            leaving: Vec::new(),
            sweep: Sweep::default(),
            undecided: VecDeque::new(),
            unreported: VecDeque::new(),
            received: BTreeMap::new(),
            multipath: 1,
            ecmp: BTreeMap::new(),
            next_hops: NextHops::default(),
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

    /// Removes a source and its paths. Its number is free when the sweep has found the last path, and no best route is
    /// of it.
    pub(crate) fn remove_source(&mut self, id: SourceId) {
        for family in [AfiSafi::Ipv4Unicast, AfiSafi::Ipv6Unicast] {
            self.end_session(id, family, false);
        }
        self.leaving.push(id);
        self.remove_left_sources();
    }

    fn remove_left_sources(&mut self) {
        let sources = &mut self.sources;
        self.leaving.retain(|id| {
            let source = &mut sources[id.index()];
            let named = source
                .as_ref()
                .is_some_and(|source| source.held.paths > 0 || source.held.bests > 0);
            if !named {
                *source = None;
            }
            named
        });
    }

    pub(crate) fn source(&self, id: SourceId) -> &Source {
        self.sources[id.index()]
            .as_ref()
            .expect("paths and best routes go before their source")
    }

    pub(crate) fn provenance(&self, id: SourceId) -> Provenance {
        let source = self.source(id);
        Provenance {
            own: id == SourceId::OWN,
            kind: source.kind,
            client: source.client,
            router_id: source.router_id,
        }
    }

    /// Notes what a session says of its peer; its paths are decided and sent anew if that makes a difference.
    pub(crate) fn set_provenance(&mut self, id: SourceId, new: &Provenance) {
        if self.provenance(id) == *new {
            return;
        }
        let source = self.source_mut(id);
        source.kind = new.kind;
        source.client = new.client;
        source.router_id = new.router_id;
        self.reconsider(id);
        let held = self.source(id).held;
        if held.bests > 0 || held.paths > 0 {
            self.request(Wanted::Readvertise(id));
        }
    }

    pub(crate) fn source_mut(&mut self, id: SourceId) -> &mut Source {
        self.sources[id.index()]
            .as_mut()
            .expect("paths and best routes go before their source")
    }

    // Attribute sets

    /// Interns a set, with one reference for the caller.
    pub(crate) fn acquire(&mut self, attributes: &PathAttributes) -> AttributesId {
        self.scratch.clear();
        packed::pack(attributes, &mut self.scratch);
        let (id, is_new) = self.attributes.acquire(&self.scratch);
        if is_new && let Some(next_hop) = attributes.next_hop {
            self.next_hops.named(next_hop.address());
        }
        AttributesId::new(id)
    }

    /// A hash of octets that nobody else can foresee.
    pub(crate) fn hash(&self, octets: &[u8]) -> u32 {
        self.attributes.hash(octets)
    }

    pub(crate) fn retain(&mut self, id: AttributesId) {
        self.attributes.retain(id.interned());
    }

    pub(crate) fn release(&mut self, id: AttributesId) {
        if let Some(gone) = self.attributes.release(id.interned())
            && let Some(next_hop) = packed::next_hop(&gone)
        {
            self.next_hops.unnamed(next_hop.address());
        }
    }

    pub(crate) fn attributes(&self, id: AttributesId) -> PackedAttributes<'_> {
        PackedAttributes::new(self.attributes.octets(id.interned()))
    }

    fn next_hop(&self, id: AttributesId) -> Option<NextHop> {
        packed::next_hop(self.attributes.octets(id.interned()))
    }

    /// Number of attribute sets in use.
    #[cfg(test)]
    pub(crate) fn attribute_sets(&self) -> usize {
        self.attributes.len()
    }

    // Prefixes

    pub(crate) fn find(&self, prefix: IpNet) -> Option<PrefixId> {
        self.index
            .find(self.hasher.hash(prefix), |id| {
                self.prefix(PrefixId(*id)) == prefix
            })
            .map(|id| PrefixId(*id))
    }

    pub(crate) fn find_or_add(&mut self, prefix: IpNet) -> PrefixId {
        if let Some(id) = self.find(prefix) {
            return id;
        }
        let entry = Entry::new(self.long_prefixes.add(prefix));
        let id = if let Some(id) = self.free.pop() {
            self.pinned = self.pinned.min(self.free.len());
            self.entries[id.index()] = entry;
            id
        } else {
            self.entries.push(entry);
            self.sweep.lengthen();
            PrefixId(u32::try_from(self.entries.len() - 1).expect("memory ends before ids do"))
        };
        let (entries, long, hasher) = (&self.entries, &self.long_prefixes, &self.hasher);
        self.index.insert_unique(hasher.hash(prefix), id.0, |id| {
            hasher.hash(long.get(entries[*id as usize].prefix()))
        });
        id
    }

    /// Gives the id of a prefix back once nothing names it: no path, no best route, no Adj-RIB-Out, no queue.
    pub(crate) fn free_if_unused(&mut self, id: PrefixId) {
        let entry = &mut self.entries[id.index()];
        let used = !entry.paths.is_empty()
            || entry.best().is_some()
            || entry.holders > 0
            || entry.undecided
            || entry.unreported;
        if used || !entry.in_use {
            return;
        }
        entry.in_use = false;
        let stored = entry.prefix();
        let hash = self.hasher.hash(self.long_prefixes.get(stored));
        self.long_prefixes.remove(stored);
        self.index
            .find_entry(hash, |other| *other == id.0)
            .expect("prefixes in use are indexed")
            .remove();
        self.free.push(id);
    }

    /// Gives memory back after a flood; true when there are fewer ids than before. Not during a sweep, which counts them.
    ///
    /// A pass through all ids is paid for by as many that became free.
    pub(crate) fn trim(&mut self) -> bool {
        let free = self.free.len();
        if free < FREE_IDS_KEPT.max(2 * self.pinned) || 4 * free < 3 * self.entries.len() {
            return false;
        }
        let used = self.entries.iter().rposition(|entry| entry.in_use);
        let end = used.map_or(0, |last| last + 1);
        self.entries.truncate(end);
        self.entries.shrink_to_fit();
        self.free.retain(|id| id.index() < end);
        self.free.shrink_to_fit();
        self.pinned = self.free.len();
        let (entries, long, hasher) = (&self.entries, &self.long_prefixes, &self.hasher);
        self.index
            .shrink_to_fit(|id| hasher.hash(long.get(entries[*id as usize].prefix())));
        self.long_prefixes.trim();
        self.undecided.shrink_to_fit();
        self.unreported.shrink_to_fit();
        self.attributes.trim();
        true
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
        self.long_prefixes.get(self.entries[id.index()].prefix())
    }

    pub(crate) fn family(&self, id: PrefixId) -> AfiSafi {
        self.entries[id.index()].family
    }

    pub(crate) fn best(&self, id: PrefixId) -> Option<Best> {
        self.entries[id.index()].best()
    }

    /// Every id below this one may be in use.
    pub(crate) fn ids_end(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_in_use(&self, id: PrefixId) -> bool {
        self.entries[id.index()].in_use
    }

    #[cfg(test)]
    pub(crate) fn ids_in_use(&self) -> Vec<PrefixId> {
        self.ids().filter(|id| self.is_in_use(*id)).collect()
    }

    fn ids(&self) -> impl Iterator<Item = PrefixId> + use<> {
        (0..u32::try_from(self.entries.len()).expect("ids are 32 bit")).map(PrefixId)
    }
}

#[cfg(test)]
mod tests;
