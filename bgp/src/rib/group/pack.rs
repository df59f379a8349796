//! From prefixes to UPDATEs: the changed ones for everybody, all or some for one member.

use std::borrow::Cow;
use std::collections::BTreeMap;

use ipnet::IpNet;
use smallvec::{SmallVec, smallvec};

use crate::event::ExportRefusal;
use crate::policy::{Applied, Subject, decide};
use crate::rib::export::NotFor;
use crate::rib::exported::{Encoded, ExportId, Recipe, exported};
use crate::rib::group::log::{Audience, Chunk, path_id_of};
use crate::rib::group::{CHUNK_OCTETS, Group, GroupKey, Sent, Withheld, id_of};
use crate::rib::source::SourceId;
use crate::rib::table::{AttributesId, Place, PrefixId, Table};
use crate::types::PathId;
use crate::wire::attr::PathAttributes;
use crate::wire::nlri::Entry;
use crate::wire::update::encode::{MessageLimit, write_reach, write_unreach};

/// A route to send: its attributes in the Loc-RIB, who sent it, its place.
type Route = (AttributesId, SourceId, Place);

/// What a member is told of a place.
pub(super) type State = (Option<ExportId>, Place);

/// A chunk in the making.
#[derive(Default)]
struct Packing {
    chunk: Chunk,
    withdrawn: Vec<(Audience, Place)>,
    /// Places of the present run that are to be written.
    changed: Vec<Place>,
    /// A set that the present run's was compared with, and whether the two look alike.
    compared: Option<(ExportId, bool)>,
    /// Memory for the attributes of the present run.
    block: Vec<u8>,
}

impl Group {
    /// Turns a slice of the changed prefixes into a chunk, or else of those that were never packed.
    pub(super) fn pack(&mut self, table: &mut Table) {
        let first_pass = self.dirty.is_empty();
        let mut ids = if first_pass {
            self.scan(table)
        } else {
            let count = self.dirty.len().min(self.slice);
            self.dirty.drain(..count).collect()
        };
        if self.sent.len() < table.ids_end() {
            self.sent.resize(table.ids_end(), None);
        }
        let mut packing = Packing::default();
        let mut reach = Vec::new();
        for id in &ids {
            self.is_dirty.remove(*id);
            if self.key.add_paths {
                self.gather_paths(table, *id, &mut reach, &mut packing);
                continue;
            }
            match table.best(*id) {
                Some(best) => reach.push((best.attributes, best.source, Place::from(*id))),
                None => self.forget(table, Place::from(*id), &mut packing),
            }
        }
        if self.dependents > 0 {
            let places = reach.iter().map(|(_, _, place)| *place);
            let gone = packing.withdrawn.iter().map(|(_, place)| *place);
            self.repacked.extend(places.chain(gone));
        }
        reach.sort_unstable();
        let mut runs = reach.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1));
        while packing.chunk.bytes.len() < CHUNK_OCTETS
            && let Some(run) = runs.next()
        {
            for export in export_runs(&self.key, table, run) {
                self.pack_run(table, &export, &mut packing);
            }
        }
        // What has no room any more is packed next, and was named by the table's mark all along.
        let left: Vec<PrefixId> = runs.flatten().map(|(_, _, place)| place.id).collect();
        if !left.is_empty() {
            for id in left.iter().rev() {
                if self.is_dirty.insert(*id) {
                    self.dirty.push_front(*id);
                }
            }
            ids.retain(|id| !self.is_dirty.contains(*id));
        }
        packing.write_withdrawn(table, &self.key);
        packing.chunk.first_pass = first_pass;
        self.publish(table, packing.chunk);
        // The set of changed prefixes named the ids until here.
        ids.iter().for_each(|id| table.unhold(*id));
    }

    /// The paths of a prefix that are to be sent; those sent before that are none of them are forgotten.
    fn gather_paths(
        &mut self,
        table: &mut Table,
        id: PrefixId,
        reach: &mut Vec<Route>,
        packing: &mut Packing,
    ) {
        let first = reach.len();
        reach.extend(table.eligible(id).map(|path| {
            let number = path.number;
            (path.attributes, path.source, Place { id, number })
        }));
        let stays = |place: &Place| reach[first..].iter().any(|(_, _, other)| other == place);
        let others = self.others_of(id.index()..id.index() + 1);
        let sent = std::iter::once(Place::from(id)).chain(others.map(|(place, _)| place));
        let gone: SmallVec<[Place; 4]> = sent.filter(|place| !stays(place)).collect();
        for place in gone {
            self.forget(table, place, packing);
        }
    }

    /// Puts a chunk into the log, if anybody is to have it.
    fn publish(&mut self, table: &mut Table, chunk: Chunk) {
        let is_wanted = self.members.values().any(|member| chunk.is_for(member));
        if !chunk.bytes.is_empty() && is_wanted {
            self.log.push(chunk, self.members.len());
            self.log.trim(table, &mut self.members);
        }
    }

    /// The next prefixes of the first pass, each named once more.
    fn scan(&mut self, table: &mut Table) -> Vec<PrefixId> {
        let first = self.unscanned.unwrap_or(usize::MAX).min(table.ids_end());
        let next = (first + self.slice).min(table.ids_end());
        self.unscanned = (next < table.ids_end()).then_some(next);
        let ids = (first..next).map(id_of);
        let family = self.key.family;
        let ids: Vec<PrefixId> = ids
            .filter(|id| table.is_in_use(*id) && table.family(*id) == family)
            .collect();
        ids.iter().for_each(|id| table.hold(*id));
        ids
    }

    fn pack_run(&mut self, table: &mut Table, export: &ExportRun<'_>, packing: &mut Packing) {
        match &export.sent {
            Ok(exported) => self.pack_same(table, exported, export, packing),
            Err(reason) => {
                for (_, _, place) in export.run.iter() {
                    if *reason == NotFor::NoNextHop {
                        self.withhold(table.prefix(place.id), ExportRefusal::NoNextHop);
                    }
                    self.forget(table, *place, packing);
                }
            }
        }
    }

    /// Prefixes of one attribute set and source that are sent with the same attributes.
    fn pack_same(
        &mut self,
        table: &mut Table,
        exported: &PathAttributes,
        export: &ExportRun<'_>,
        packing: &mut Packing,
    ) {
        let Some((attributes, source, _)) = export.run.first().copied() else {
            return;
        };
        let encoded = Encoded::new(exported, &self.key, std::mem::take(&mut packing.block));
        let recipe = Recipe {
            attributes,
            from: table.provenance(source),
            edits: self.exports.edits(&export.applied),
        };
        let exported = self.exports.acquire(table, recipe, &encoded.block);
        let new = Sent { exported, source };
        packing.changed.clear();
        packing.compared = None;
        for (_, _, place) in export.run.iter() {
            if self.note_sent(table, *place, new, packing) {
                packing.changed.push(*place);
            }
        }
        self.exports.release(table, exported);
        let too_long = packing.write(table, &encoded, &self.key);
        packing.block = encoded.block;
        packing
            .chunk
            .close_part(if self.members.contains_key(&source) {
                Audience::Except(source)
            } else {
                Audience::All
            });
        for place in too_long {
            self.withhold(table.prefix(place.id), ExportRefusal::TooLong);
            self.forget(table, place, packing);
        }
    }

    /// Enters what is about to be sent; false when every member was told so before.
    fn note_sent(
        &mut self,
        table: &mut Table,
        place: Place,
        new: Sent,
        packing: &mut Packing,
    ) -> bool {
        if self.sent_at(place) == Some(new) {
            return false;
        }
        self.exports.retain(new.exported);
        self.count_sent(new.source);
        let Some(old) = self.set_sent(place, Some(new)) else {
            table.hold(place.id);
            return true;
        };
        let is_member = |source: &SourceId| self.members.contains_key(source);
        let other_source = old.source != new.source;
        if other_source && is_member(&new.source) {
            packing.withdrawn.push((Audience::Only(new.source), place));
        }
        // A member that was the source has not been told.
        let was_told = !(other_source && is_member(&old.source));
        let same = was_told && self.is_unchanged(table, old.exported, new.exported, packing);
        self.exports.release(table, old.exported);
        self.discount_sent(old.source);
        !same
    }

    /// Sets that are one, or look alike.
    fn is_unchanged(
        &self,
        table: &Table,
        old: ExportId,
        new: ExportId,
        packing: &mut Packing,
    ) -> bool {
        if old == new {
            return true;
        }
        if let Some((compared, same)) = packing.compared
            && compared == old
        {
            return same;
        }
        let same = self.looks_same(table, old, self, new);
        packing.compared = Some((old, same));
        same
    }

    fn count_sent(&mut self, source: SourceId) {
        if self.sent_of.len() <= source.index() {
            self.sent_of.resize(source.index() + 1, 0);
        }
        self.sent_of[source.index()] += 1;
        self.sent_count += 1;
    }

    fn discount_sent(&mut self, source: SourceId) {
        self.sent_of[source.index()] -= 1;
        self.sent_count -= 1;
    }

    /// Of each reason the first: there may be a million prefixes and a thousand members.
    fn withhold(&mut self, prefix: IpNet, reason: ExportRefusal) {
        if self.withheld.iter().all(|known| known.reason != reason) {
            self.withheld.push(Withheld { prefix, reason });
        }
    }

    fn forget(&mut self, table: &mut Table, place: Place, packing: &mut Packing) {
        if let Some(old) = self.set_sent(place, None) {
            packing
                .withdrawn
                .push((Audience::Except(old.source), place));
            self.exports.release(table, old.exported);
            self.discount_sent(old.source);
            // The caller's set of changed prefixes names the id, so it is not freed here.
            table.unhold(place.id);
        }
    }

    /// Writes what members are told of places until `out` has `end` octets; returns of how many from the first on.
    pub(super) fn write_states(
        &self,
        table: &Table,
        states: &[State],
        end: usize,
        out: &mut Vec<u8>,
    ) -> usize {
        let mut done = 0;
        for run in states.chunk_by(|a, b| a.0 == b.0) {
            let encoded = run[0]
                .0
                .map(|id| self.exports.encoded(table, &self.key, id));
            let places = run.iter().map(|(_, place)| *place);
            let written = if self.key.add_paths {
                let entries = places.map(|place| with_path_id(table, place));
                self.write_run(encoded.as_ref(), entries, end, out)
            } else {
                let entries = places.map(|place| table.prefix(place.id));
                self.write_run(encoded.as_ref(), entries, end, out)
            };
            done += written;
            if written < run.len() {
                return done;
            }
        }
        done
    }

    /// Writes what has one set, or none, until `out` has `end` octets; returns of how many from the first on.
    fn write_run<E: Entry>(
        &self,
        encoded: Option<&Encoded>,
        entries: impl Iterator<Item = E>,
        end: usize,
        out: &mut Vec<u8>,
    ) -> usize {
        let (family, limit) = (self.key.family, self.key.limit);
        let mut entries = entries.peekable();
        let mut done = 0;
        while entries.peek().is_some() && out.len() < end {
            done += match encoded {
                Some(Encoded { next_hop, block }) => {
                    write_reach(out, block, next_hop, &mut entries, limit)
                        // It fitted once, so it is not in `sent` if it does not.
                        .unwrap_or_else(|_| usize::from(entries.next().is_some()))
                }
                None => write_unreach(out, family, &mut entries, limit),
            };
        }
        done
    }
}

impl Packing {
    /// Writes as many messages as the changed prefixes take; returns those that fit into none.
    fn write(&mut self, table: &Table, encoded: &Encoded, key: &GroupKey) -> Vec<Place> {
        let changed = self.changed.iter();
        let out = &mut self.chunk.bytes;
        let too_long = if key.add_paths {
            let entries = changed.map(|place| with_path_id(table, *place));
            write_all(encoded, entries, key.limit, out)
        } else {
            let entries = changed.map(|place| table.prefix(place.id));
            write_all(encoded, entries, key.limit, out)
        };
        let of_place = |number: usize| self.changed[number];
        too_long.into_iter().map(of_place).collect()
    }

    fn write_withdrawn(&mut self, table: &Table, key: &GroupKey) {
        self.withdrawn.sort_unstable();
        for run in self.withdrawn.chunk_by(|a, b| a.0 == b.0) {
            let places = run.iter().map(|(_, place)| *place);
            let out = &mut self.chunk.bytes;
            if key.add_paths {
                let entries = places.map(|place| with_path_id(table, place));
                let mut entries = entries.peekable();
                while write_unreach(out, key.family, &mut entries, key.limit) > 0 {}
            } else {
                let mut entries = places.map(|place| table.prefix(place.id)).peekable();
                while write_unreach(out, key.family, &mut entries, key.limit) > 0 {}
            }
            self.chunk.close_part(run[0].0);
        }
    }
}

/// A place as it is written where all paths are sent.
fn with_path_id(table: &Table, place: Place) -> (Option<PathId>, IpNet) {
    (Some(path_id_of(place.number)), table.prefix(place.id))
}

/// Writes as many messages as it takes; returns the numbers of those entries that fit into none.
fn write_all<E: Entry>(
    encoded: &Encoded,
    entries: impl Iterator<Item = E>,
    limit: MessageLimit,
    out: &mut Vec<u8>,
) -> Vec<usize> {
    let mut entries = entries.peekable();
    let mut done = 0;
    let mut too_long = Vec::new();
    loop {
        match write_reach(out, &encoded.block, &encoded.next_hop, &mut entries, limit) {
            Ok(0) => return too_long,
            Ok(count) => done += count,
            Err(_) => {
                too_long.push(done);
                done += 1;
                entries.next();
            }
        }
    }
}

/// What a group makes of routes.
struct ExportRun<'a> {
    run: Cow<'a, [Route]>,
    applied: Applied,
    sent: Result<PathAttributes, NotFor>,
}

/// What a group makes of routes that share their attributes and their source.
fn export_runs<'a>(
    key: &GroupKey,
    table: &Table,
    run: &'a [Route],
) -> SmallVec<[ExportRun<'a>; 1]> {
    let Some((attributes, source, _)) = run.first().copied() else {
        return SmallVec::new();
    };
    let received = table.attributes(attributes).unpack();
    let from = table.provenance(source);
    if key.policy.accepts_all() {
        let applied = Applied::new();
        return smallvec![ExportRun {
            run: Cow::Borrowed(run),
            sent: exported(received, &from, key, &applied),
            applied,
        }];
    }
    let (alike, barred) = evaluate_each(key, table, &received, run);
    let edited = |(applied, run): (Applied, Vec<Route>)| ExportRun {
        run: Cow::Owned(run),
        sent: exported(received.clone(), &from, key, &applied),
        applied,
    };
    let mut runs: SmallVec<[ExportRun<'a>; 1]> = alike.into_iter().map(edited).collect();
    runs.push(ExportRun {
        run: Cow::Owned(barred),
        applied: Applied::new(),
        sent: Err(NotFor::Policy),
    });
    runs
}

/// The routes by the terms whose edits they get, and those that the policy holds back.
fn evaluate_each(
    key: &GroupKey,
    table: &Table,
    received: &PathAttributes,
    run: &[Route],
) -> (BTreeMap<Applied, Vec<Route>>, Vec<Route>) {
    let mut alike: BTreeMap<Applied, Vec<Route>> = BTreeMap::new();
    let mut barred = Vec::new();
    for route in run {
        let (_, source, place) = *route;
        let subject = Subject {
            prefix: table.prefix(place.id),
            attributes: received,
            source: table.route_source(source),
            peer: table.source(source).peer.as_ref(),
        };
        match decide(&key.policy, &subject) {
            Some(applied) => alike.entry(applied).or_default().push(*route),
            None => barred.push(*route),
        }
    }
    (alike, barred)
}
