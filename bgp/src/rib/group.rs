//! Adj-RIB-Out of all peers with one group key: attributes are computed and UPDATEs encoded once, then copied to
//! each peer at the peer's own pace.
//!
//! ```text
//!  changed prefixes ─► pack ─► log of chunks ─┬─► peer at the end of the log
//!  (a set: the newest state counts)           ├─► peer some chunks behind
//!       sent: what the log has said last ─────┴─► peer that is told by prefix (new, refreshing, overtaken by the log)
//! ```
//! What a member gets next is the first row that holds:
//!
//! | state | since | it gets | until |
//! |---|---|---|---|
//! | log | a chunk was packed that it has not taken | the chunk's parts for it | it has the last chunk; one that the log overtakes has *missed* the chunk's prefixes |
//! | changes | a prefix changed, or the first pass through the table is not over | nothing yet: they are packed for all | none is left |
//! | pending | *missed* or *walk* put prefixes there | what `sent` says of them now | none is left |
//! | missed | the log overtook it, it came from another group, or the two differ | the next slice becomes *pending* | none is left |
//! | transition | it came from another group | prefixes of which the groups said different things are *missed* | all are compared |
//! | walk | it joined, or asked for a refresh | BoRR if that was enhanced; the next slice becomes *pending*; EoRR | the table's end |
//! | end of RIB | it joined | End-of-RIB, once that is allowed | that is sent |
//!
//! Nothing is packed before some peer has room. Bounds, in octets: a chunk (`CHUNK_OCTETS`), the logs of all groups together
//! (`LOG_OCTETS_IN_ALL`), what is pending for a member (8 for each place of a slice) and what it has missed (one bit for
//! each prefix of the table; some 16 octets for each further path of it). No message waits for one member alone: those are
//! written when there is room for them.
//!
//! A new group goes through the table in slices, too; what it has not come to yet needs no mark when it changes.
//!
//! Where all paths of a prefix are sent (RFC 7911), each has a place of its own: a number beside the prefix, which is also its
//! path identifier. What is *pending* and *missed* are places; where the best path alone is sent, all have the number 0.
//!
//! A peer never gets its own routes back: a part of a chunk has an [`Audience`]. When the best route of a prefix moves
//! to a peer of the group, that peer alone gets a withdrawal of what it was sent before.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use ipnet::IpNet;

use crate::config::{NextHopMode, RoutePolicy};
use crate::event::ExportRefusal;
use crate::rib::Transmitted;
use crate::rib::exported::{ExportId, Exports};
use crate::rib::ids::IdSet;
use crate::rib::source::SourceId;
use crate::rib::table::{Place, PrefixId, Table};
use crate::types::{AfiSafi, Asn, Role};
use crate::wire::attr::AsnWidth;
use crate::wire::refresh::{RefreshKind, RouteRefresh};
use crate::wire::update::PeerKind;
use crate::wire::update::encode::{MessageLimit, write_end_of_rib};

mod log;
mod member;
mod pack;
mod transition;

use log::Log;
use member::{Member, Walk};
use pack::State;
pub(crate) use transition::Transition;

/// Slices that one transmission works through before it lets others have their turn.
const SLICES_AT_ONCE: usize = 2;
/// A chunk that has this many octets takes no further attribute set.
const CHUNK_OCTETS: usize = 1 << 20;
/// Octets of all groups' logs.
const LOG_OCTETS_IN_ALL: usize = 16 << 20;
/// Octets that each log may have, however many there are.
const LOG_OCTETS_LEAST: usize = 1 << 20;

/// Everything that decides how routes look when they are sent. Peers that agree in it share one Adj-RIB-Out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupKey {
    pub(crate) family: AfiSafi,
    pub(crate) kind: PeerKind,
    /// AS put in front towards eBGP.
    pub(crate) local_asn: Asn,
    /// Next hop "self".
    pub(crate) local_address: IpAddr,
    /// IPv4 prefixes may have IPv6 next hops (RFC 8950).
    pub(crate) ipv6_next_hops: bool,
    pub(crate) next_hop: NextHopMode,
    pub(crate) client: bool,
    pub(crate) cluster_id: Ipv4Addr,
    pub(crate) width: AsnWidth,
    pub(crate) limit: MessageLimit,
    /// What we are to these peers of another AS (RFC 9234).
    pub(crate) role: Option<Role>,
    /// All paths are sent, with path identifiers (RFC 7911).
    pub(crate) add_paths: bool,
    pub(crate) policy: RoutePolicy,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Group {
    key: GroupKey,
    exports: Exports,
    /// Tells the groups apart for as long as there are any.
    serial: u64,
    /// Prefixes from this id on have not been packed yet, in the first pass through the table.
    unscanned: Option<usize>,
    /// Some of those have been packed all the same, because they changed.
    out_of_order: bool,
    /// Most prefixes packed, walked or compared at a time.
    slice: usize,
    /// Members of other groups that are told the differences to what this one said.
    dependents: usize,
    /// Prefixes packed since [`Self::take_repacked`], while there are dependents.
    repacked: Vec<Place>,
    /// By prefix id: what was packed last.
    sent: Vec<Option<Sent>>,
    /// The same of the prefix's paths with other numbers than 0.
    sent_others: BTreeMap<Place, Sent>,
    /// How many of these there are, and how many of each source.
    sent_count: usize,
    sent_of: Vec<usize>,
    /// Changed prefixes, in the order of their changes.
    dirty: VecDeque<PrefixId>,
    is_dirty: IdSet,
    log: Log,
    members: BTreeMap<SourceId, Member>,
    /// Members whose End-of-RIB is not sent.
    awaiting_end_of_rib: usize,
    withheld: Vec<Withheld>,
}

/// What was sent of a prefix, and whose route it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    exported: ExportId,
    source: SourceId,
}

/// A row of the module's table.
#[derive(Clone, Copy, Debug)]
enum Step {
    Log,
    Changes,
    Pending,
    Missed,
    Transition(Transition),
    Walk(Walk),
    EndOfRib,
    Drained,
}

/// A route that could not be sent, the first of those with one reason since that was last told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Withheld {
    pub(crate) prefix: IpNet,
    pub(crate) reason: ExportRefusal,
}

impl Group {
    pub(crate) fn new(key: GroupKey, serial: u64, slice: usize) -> Self {
        Self {
            log: Log::new(key.add_paths.then_some(key.family)),
            key,
            exports: Exports::new(),
            serial,
            unscanned: Some(0),
            out_of_order: false,
            slice,
            dependents: 0,
            repacked: Vec::new(),
            sent: Vec::new(),
            sent_others: BTreeMap::new(),
            sent_count: 0,
            sent_of: Vec::new(),
            dirty: VecDeque::new(),
            is_dirty: IdSet::default(),
            members: BTreeMap::new(),
            awaiting_end_of_rib: 0,
            withheld: Vec::new(),
        }
    }

    pub(crate) const fn key(&self) -> &GroupKey {
        &self.key
    }

    pub(crate) const fn family(&self) -> AfiSafi {
        self.key.family
    }

    pub(crate) fn has(&self, peer: SourceId) -> bool {
        self.members.contains_key(&peer)
    }

    pub(crate) const fn serial(&self) -> u64 {
        self.serial
    }

    /// Nobody needs the group any more.
    pub(crate) fn is_unused(&self) -> bool {
        self.members.is_empty() && self.dependents == 0
    }

    /// Shares [`LOG_OCTETS_IN_ALL`] among so many groups.
    pub(crate) fn share_log(&mut self, groups: usize) {
        self.log.limit = (LOG_OCTETS_IN_ALL / groups.max(1)).max(LOG_OCTETS_LEAST);
    }

    /// Adds a member that holds nothing.
    pub(crate) fn join(&mut self, peer: SourceId) {
        // What was not packed yet is still to come by the log.
        let unscanned = self.unscanned.filter(|_| !self.out_of_order);
        let end = unscanned.unwrap_or(usize::MAX);
        self.awaiting_end_of_rib += 1;
        let member = Member {
            walk: (end > 0).then_some(Walk::initial(end)),
            awaits_end_of_rib: true,
            ..Member::at(self.log.end())
        };
        self.members.insert(peer, member);
    }

    /// Removes a member; returns where it came from if the two groups are not compared yet.
    pub(crate) fn leave(&mut self, table: &mut Table, peer: SourceId) -> Option<Transition> {
        let mut member = self.remove_member(table, peer)?;
        member.forget_all(table);
        member.transition
    }

    fn remove_member(&mut self, table: &mut Table, peer: SourceId) -> Option<Member> {
        let member = self.members.remove(&peer)?;
        self.awaiting_end_of_rib -= usize::from(member.awaits_end_of_rib);
        self.log.remove_reader(member.chunk);
        self.log.trim(table, &mut self.members);
        Some(member)
    }

    /// Gives back a slice of what the group holds; false when nothing is left.
    pub(crate) fn dissolve(&mut self, table: &mut Table, budget: usize) -> bool {
        let kept = self.dirty.len().saturating_sub(budget);
        for id in self.dirty.drain(kept..) {
            table.unhold(id);
        }
        let kept = self.sent.len().saturating_sub(budget);
        for (index, sent) in self.sent.drain(kept..).enumerate() {
            if let Some(sent) = sent {
                self.exports.release(table, sent.exported);
                table.unhold(id_of(kept + index));
            }
        }
        for _ in 0..budget {
            let Some((place, sent)) = self.sent_others.pop_first() else {
                break;
            };
            self.exports.release(table, sent.exported);
            table.unhold(place.id);
        }
        !(self.dirty.is_empty() && self.sent.is_empty() && self.sent_others.is_empty())
    }

    /// The state of a prefix is to be told to every member.
    pub(crate) fn mark_dirty(
        &mut self,
        table: &mut Table,
        id: PrefixId,
        woken: &mut Vec<SourceId>,
    ) {
        let yet_to_come = self.unscanned.is_some_and(|first| id.index() >= first);
        if yet_to_come {
            if self.dependents == 0 && !self.out_of_order {
                return;
            }
            self.out_of_order = true;
        }
        if !self.is_dirty.insert(id) {
            return;
        }
        if self.dirty.is_empty() {
            woken.extend(self.members.keys());
        }
        table.hold(id);
        self.dirty.push_back(id);
    }

    /// Everything is to be told to a member again. Asked for again before it is over, it begins anew.
    pub(crate) fn refresh(&mut self, peer: SourceId, enhanced: bool) {
        if let Some(member) = self.members.get_mut(&peer) {
            member.walk = Some(Walk::refresh(enhanced));
        }
    }

    /// Members whose initial table is out and whose End-of-RIB was held back.
    pub(crate) fn members_awaiting_end_of_rib(&self) -> impl Iterator<Item = SourceId> + '_ {
        let members = (self.awaiting_end_of_rib > 0).then_some(&self.members);
        members
            .into_iter()
            .flatten()
            .filter(|(_, member)| member.awaits_end_of_rib)
            .map(|(peer, _)| *peer)
    }

    /// Routes that a member was or will be sent.
    pub(crate) fn advertised(&self, peer: SourceId) -> usize {
        let own = self.sent_of.get(peer.index()).copied().unwrap_or(0);
        self.sent_count - own
    }

    /// Routes that could not be sent, the first of each reason, named for every member.
    pub(crate) fn take_withheld(&mut self) -> Vec<(SourceId, Withheld)> {
        if self.withheld.is_empty() {
            return Vec::new();
        }
        let withheld = std::mem::take(&mut self.withheld);
        let named = |peer: &SourceId| withheld.iter().map(|w| (*peer, *w)).collect::<Vec<_>>();
        self.members.keys().flat_map(named).collect()
    }

    /// Gives memory back after the table became shorter.
    pub(crate) fn trim(&mut self, table: &Table) {
        self.sent.truncate(table.ids_end());
        self.sent.shrink_to_fit();
        self.exports.trim();
        self.dirty.shrink_to_fit();
        self.is_dirty.trim();
    }

    /// Appends messages for a member until `out` has `end` octets. `origin` is the group it comes from, while the two are
    /// compared.
    pub(crate) fn transmit(
        &mut self,
        table: &mut Table,
        peer: SourceId,
        origin: Option<&Self>,
        end_of_rib: bool,
        (out, end): (&mut Vec<u8>, usize),
    ) -> Transmitted {
        let mut slices = 0;
        loop {
            if out.len() >= end {
                return Transmitted::Full;
            }
            let step = self.step(peer, end_of_rib);
            match step {
                Step::Drained => return Transmitted::Drained,
                Step::Log => {
                    self.copy_from_log(table, peer, end, out);
                    continue;
                }
                Step::Pending => {
                    self.write_pending(table, peer, end, out);
                    continue;
                }
                Step::EndOfRib => {
                    self.end_of_rib_sent(peer);
                    write_end_of_rib(out, self.key.family);
                    continue;
                }
                Step::Changes | Step::Missed | Step::Transition(_) | Step::Walk(_) => {}
            }
            if slices == SLICES_AT_ONCE {
                return Transmitted::Paused;
            }
            slices += 1;
            match (step, origin) {
                (Step::Changes, _) => self.pack(table),
                (Step::Missed, _) => self.take_missed(peer),
                (Step::Transition(transition), Some(origin)) => {
                    self.compare(table, peer, origin, transition);
                }
                (Step::Transition(_), None) => self.end_transition(peer),
                (Step::Walk(walk), _) => self.walk(table, peer, walk, (&mut *out, end)),
                (Step::Log | Step::Pending | Step::EndOfRib | Step::Drained, _) => {}
            }
        }
    }

    fn step(&self, peer: SourceId, end_of_rib: bool) -> Step {
        let Some(member) = self.members.get(&peer) else {
            return Step::Drained;
        };
        if member.chunk < self.log.end() {
            Step::Log
        } else if !self.dirty.is_empty() || self.unscanned.is_some() {
            Step::Changes
        } else if !member.pending.is_empty() {
            Step::Pending
        } else if member.has_missed() {
            Step::Missed
        } else if let Some(transition) = member.transition {
            Step::Transition(transition)
        } else if let Some(walk) = member.walk {
            Step::Walk(walk)
        } else if member.awaits_end_of_rib && end_of_rib {
            Step::EndOfRib
        } else {
            Step::Drained
        }
    }

    fn end_of_rib_sent(&mut self, peer: SourceId) {
        if let Some(member) = self.members.get_mut(&peer) {
            member.awaits_end_of_rib = false;
            self.awaiting_end_of_rib -= 1;
        }
    }

    fn copy_from_log(&mut self, table: &mut Table, peer: SourceId, end: usize, out: &mut Vec<u8>) {
        if let Some(member) = self.members.get_mut(&peer)
            && self.log.copy(peer, member, end, out)
        {
            self.log.trim(table, &mut self.members);
        }
    }

    /// What was packed last.
    fn sent_at(&self, place: Place) -> Option<Sent> {
        match place.number {
            0 => self.sent.get(place.id.index()).copied().flatten(),
            _ => self.sent_others.get(&place).copied(),
        }
    }

    /// Enters what is packed; gives what was before.
    fn set_sent(&mut self, place: Place, new: Option<Sent>) -> Option<Sent> {
        match (place.number, new) {
            (0, new) => std::mem::replace(&mut self.sent[place.id.index()], new),
            (_, Some(new)) => self.sent_others.insert(place, new),
            (_, None) => self.sent_others.remove(&place),
        }
    }

    /// Places of the other numbers than 0 of a range of prefixes.
    fn others_of(&self, ids: Range<usize>) -> impl Iterator<Item = (Place, Sent)> + '_ {
        let [first, end] = [ids.start, ids.end].map(|index| Place::from(id_of(index)));
        let others = (!self.sent_others.is_empty()).then(|| self.sent_others.range(first..end));
        others
            .into_iter()
            .flatten()
            .map(|(place, sent)| (*place, *sent))
    }

    /// What a member is told of a place; `None` when it is to have no route.
    fn told(&self, peer: SourceId, place: Place) -> Option<ExportId> {
        let sent = self.sent_at(place);
        sent.filter(|sent| sent.source != peer)
            .map(|sent| sent.exported)
    }

    /// A set of this group and one of `other` are written alike.
    fn looks_same(&self, table: &Table, one: ExportId, other: &Self, two: ExportId) -> bool {
        self.exports.hash(one) == other.exports.hash(two)
            && self.exports.encoded(table, &self.key, one)
                == other.exports.encoded(table, &other.key, two)
    }

    /// Writes pending prefixes.
    fn write_pending(&mut self, table: &mut Table, peer: SourceId, end: usize, out: &mut Vec<u8>) {
        let Some(member) = self.members.get_mut(&peer) else {
            return;
        };
        let mut pending = std::mem::take(&mut member.pending);
        let states: Vec<State> = pending
            .iter()
            .map(|place| (self.told(peer, *place), *place))
            .collect();
        let done = self.write_states(table, &states, end, out);
        pending
            .drain(..done)
            .for_each(|place| table.unhold(place.id));
        if let Some(member) = self.members.get_mut(&peer) {
            member.pending = pending;
        }
    }

    /// The next slice of what a member missed becomes pending.
    fn take_missed(&mut self, peer: SourceId) {
        let Some(member) = self.members.get_mut(&peer) else {
            return;
        };
        // The table's mark that the id is named goes along.
        let missed = std::iter::from_fn(|| member.pop_missed());
        let slice: Vec<Place> = missed.take(self.slice).collect();
        let states = self.states(peer, slice.into_iter());
        if let Some(member) = self.members.get_mut(&peer) {
            member.pending = states.into_iter().map(|(_, place)| place).collect();
        }
    }

    /// The next slice of everything sent, for a member that is new or asked for it. What has no room becomes pending.
    fn walk(
        &mut self,
        table: &mut Table,
        peer: SourceId,
        walk: Walk,
        (out, room_end): (&mut Vec<u8>, usize),
    ) {
        let family = self.key.family;
        let marker = |kind, out: &mut Vec<u8>| RouteRefresh::new(family, kind).encode(out);
        if walk.next == 0 && walk.enhanced {
            marker(RefreshKind::Begin, out);
        }
        let end = walk.end.min(self.sent.len());
        let next = (walk.next + self.slice).min(end);
        let slice = self.sent[walk.next.min(next)..next].iter().zip(walk.next..);
        let told = slice.filter_map(|(sent, index)| Some((Place::from(id_of(index)), (*sent)?)));
        let told = told.chain(self.others_of(walk.next.min(next)..next));
        let told = told.filter(|(_, sent)| sent.source != peer);
        let mut states: Vec<State> = told
            .map(|(place, sent)| (Some(sent.exported), place))
            .collect();
        states.sort_unstable();
        let done = self.write_states(table, &states, room_end, out);
        let left: Vec<Place> = states[done..].iter().map(|(_, place)| *place).collect();
        left.iter().for_each(|place| table.hold(place.id));
        let is_over = next >= end && left.is_empty();
        if is_over && walk.enhanced {
            marker(RefreshKind::End, out);
        }
        if let Some(member) = self.members.get_mut(&peer) {
            member.pending = left;
            member.walk = (!is_over).then_some(Walk { next, ..walk });
        }
    }

    /// What a member is told of places, those with one set side by side.
    fn states(&self, peer: SourceId, places: impl Iterator<Item = Place>) -> Vec<State> {
        let mut states: Vec<State> = places
            .map(|place| (self.told(peer, place), place))
            .collect();
        states.sort_unstable();
        states
    }
}

fn id_of(index: usize) -> PrefixId {
    PrefixId(u32::try_from(index).expect("ids are 32 bit"))
}

#[cfg(test)]
mod tests;
