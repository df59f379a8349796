//! From prefixes to UPDATEs: the changed ones for everybody, all or some for one member.

use std::borrow::Cow;
use std::collections::BTreeMap;

use ipnet::IpNet;
use smallvec::{SmallVec, smallvec};

use crate::event::ExportRefusal;
use crate::policy::{Applied, Subject, edit};
use crate::rib::export::{NotFor, export, remove_internal};
use crate::rib::group::{Audience, Chunk, Group, GroupKey, Member, Part, Sent, Walk, Withheld};
use crate::rib::policy::{decide, permits};
use crate::rib::source::SourceId;
use crate::rib::table::{AttributesId, PrefixId, Table};
use crate::wire::attr::PathAttributes;
use crate::wire::refresh::RefreshKind;
use crate::wire::update::encode::{MessageLimit, append_attributes, write_reach, write_unreach};

/// A best route: its attributes as received, who sent it, of what.
type Route = (AttributesId, SourceId, PrefixId);

/// A chunk in the making.
#[derive(Default)]
struct Packing {
    chunk: Chunk,
    withdrawn: Vec<(Audience, PrefixId)>,
    /// Prefixes of the present run whose members are to be told.
    changed: Vec<PrefixId>,
    /// Attributes of the present run, encoded.
    encoded: Vec<u8>,
    /// An attribute set that the present run's was compared with, and whether it looks the same.
    compared: Option<(AttributesId, bool)>,
}

impl Group {
    /// Turns a slice of the changed prefixes into a chunk, or else of those that were never packed.
    pub(super) fn pack(&mut self, table: &mut Table) {
        let first_pass = self.dirty.is_empty();
        let ids = if first_pass {
            self.scan(table)
        } else {
            let count = self.dirty.len().min(self.slice);
            self.dirty.drain(..count).collect()
        };
        if self.sent.len() < table.ids_end() {
            self.sent.resize(table.ids_end(), None);
        }
        if self.is_dirty.len() < table.ids_end() {
            self.is_dirty.resize(table.ids_end(), false);
        }
        if self.followers > 0 {
            self.repacked.extend(&ids);
        }
        let mut reach = Vec::new();
        let mut unreach = Vec::new();
        for id in ids {
            self.is_dirty[id.index()] = false;
            let prefix = table.prefix(id);
            match table.best(id) {
                Some(best)
                    if !self.key.policy.terms.is_empty()
                        || permits(&self.key.policy, prefix, best.source == SourceId::OWN) =>
                {
                    reach.push((best.attributes, best.source, id));
                }
                Some(_) | None => unreach.push(id),
            }
        }
        reach.sort_unstable();
        let mut packing = Packing::default();
        for run in reach.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            for treatment in treat(&self.key, table, run) {
                self.pack_treated(table, &treatment, &mut packing);
            }
        }
        for id in &unreach {
            self.forget(table, *id, &mut packing);
        }
        let Packing {
            mut chunk,
            mut withdrawn,
            ..
        } = packing;
        withdrawn.sort_unstable();
        for run in withdrawn.chunk_by(|a, b| a.0 == b.0) {
            let mut prefixes = run.iter().map(|(_, id)| table.prefix(*id)).peekable();
            while write_unreach(
                &mut chunk.bytes,
                self.key.family,
                &mut prefixes,
                self.key.limit,
            ) > 0
            {}
            chunk.close_part(run[0].0);
        }
        // The ids were named by the set of changed prefixes until here.
        reach.iter().for_each(|(_, _, id)| table.unhold(*id));
        unreach.iter().for_each(|id| table.unhold(*id));
        chunk.first_pass = first_pass;
        let is_for = |member: &Member| !first_pass || member.transit.is_none();
        if !chunk.bytes.is_empty() && self.members.values().any(is_for) {
            chunk.readers = self.members.len();
            self.log_octets += chunk.bytes.len();
            self.log.push_back(chunk);
            self.trim_log();
        }
    }

    /// The next prefixes of the first pass, each named once more.
    fn scan(&mut self, table: &mut Table) -> Vec<PrefixId> {
        let first = self.unscanned.unwrap_or(usize::MAX).min(table.ids_end());
        let next = (first + self.slice).min(table.ids_end());
        self.unscanned = (next < table.ids_end()).then_some(next);
        let mut ids = Vec::new();
        for index in first..next {
            let id = PrefixId(u32::try_from(index).expect("ids are 32 bit"));
            if table.is_in_use(id) && table.family(id) == self.key.family {
                table.hold(id);
                ids.push(id);
            }
        }
        ids
    }

    fn pack_treated(
        &mut self,
        table: &mut Table,
        treatment: &Treatment<'_>,
        packing: &mut Packing,
    ) {
        let run = &treatment.run;
        match &treatment.sent {
            Ok(exported) => self.pack_same(table, exported, run, packing),
            Err(reason) => {
                for (_, _, id) in run.iter() {
                    if *reason == NotFor::NoNextHop {
                        self.withhold(table.prefix(*id), ExportRefusal::NoNextHop);
                    }
                    self.forget(table, *id, packing);
                }
            }
        }
    }

    /// Prefixes of one attribute set and source that are sent with the same attributes.
    fn pack_same(
        &mut self,
        table: &mut Table,
        exported: &PathAttributes,
        run: &[Route],
        packing: &mut Packing,
    ) {
        let Some((attributes, source, _)) = run.first().copied() else {
            return;
        };
        let new = Sent { attributes, source };
        let from_member = self.members.contains_key(&source);
        packing.changed.clear();
        packing.compared = None;
        for (_, _, id) in run {
            if self.note_sent(table, *id, new, exported, packing) {
                packing.changed.push(*id);
            }
        }
        if packing.changed.is_empty() {
            return;
        }
        let too_long = packing.write(table, exported, &self.key);
        packing.chunk.close_part(if from_member {
            Audience::Except(source)
        } else {
            Audience::All
        });
        for prefix in too_long {
            self.withhold(prefix, ExportRefusal::TooLong);
            if let Some(id) = table.find(prefix) {
                self.forget(table, id, packing);
            }
        }
    }

    /// Enters what is about to be sent; false when it is what was sent last.
    fn note_sent(
        &mut self,
        table: &mut Table,
        id: PrefixId,
        new: Sent,
        exported: &PathAttributes,
        packing: &mut Packing,
    ) -> bool {
        let old = self.sent[id.index()];
        if old == Some(new) {
            return false;
        }
        let same = old.is_some_and(|old| self.looks_same(table, id, old, new, exported, packing));
        table.retain(new.attributes);
        self.count_sent(new.source);
        match old {
            Some(old) => {
                table.release(old.attributes);
                self.discount_sent(old.source);
                if old.source != new.source && self.members.contains_key(&new.source) {
                    packing.withdrawn.push((Audience::Only(new.source), id));
                }
            }
            None => table.hold(id),
        }
        self.sent[id.index()] = Some(new);
        !same
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

    /// Another attribute set of the same source that makes no difference to this group.
    fn looks_same(
        &self,
        table: &Table,
        id: PrefixId,
        old: Sent,
        new: Sent,
        exported: &PathAttributes,
        packing: &mut Packing,
    ) -> bool {
        if old.source != new.source {
            return false;
        }
        let by_terms = !self.key.policy.terms.is_empty();
        let (before, after) = (
            table.attributes(old.attributes),
            table.attributes(new.attributes),
        );
        if !by_terms && before.differs_for_every_peer(&after) {
            return false;
        }
        if let Some((compared, same)) = packing.compared
            && compared == old.attributes
            && !by_terms
        {
            return same;
        }
        let same = self.made_of(table, id, old).as_ref() == Some(exported);
        packing.compared = Some((old.attributes, same));
        same
    }

    /// What a route looks like to this group.
    pub(super) fn made_of(
        &self,
        table: &Table,
        id: PrefixId,
        sent: Sent,
    ) -> Option<PathAttributes> {
        let route = [(sent.attributes, sent.source, id)];
        let treatments = treat(&self.key, table, &route);
        let mut made = treatments
            .into_iter()
            .filter_map(|treated| treated.sent.ok());
        made.next()
    }

    fn withhold(&mut self, prefix: IpNet, reason: ExportRefusal) {
        self.withheld.push(Withheld { prefix, reason });
    }

    fn forget(&mut self, table: &mut Table, id: PrefixId, packing: &mut Packing) {
        if let Some(old) = self.sent[id.index()].take() {
            packing.withdrawn.push((Audience::Except(old.source), id));
            table.release(old.attributes);
            self.discount_sent(old.source);
            // The caller's set of changed prefixes names the id, so it is not freed here.
            table.unhold(id);
        }
    }

    /// Writes the present state of prefixes that a member missed.
    pub(super) fn repay(&mut self, table: &Table, peer: SourceId) {
        let Some(member) = self.members.get_mut(&peer) else {
            return;
        };
        let mut reach = Vec::new();
        let mut unreach = Vec::new();
        for _ in 0..self.slice {
            let Some(prefix) = member.owed.pop_first() else {
                break;
            };
            let sent = table.find(prefix).and_then(|id| {
                let sent = self.sent.get(id.index()).copied().flatten()?;
                (sent.source != peer).then_some((sent.attributes, sent.source, id))
            });
            match sent {
                Some(entry) => reach.push(entry),
                None => unreach.push(prefix),
            }
        }
        let mut bytes = Vec::new();
        let mut prefixes = unreach.into_iter().peekable();
        while write_unreach(&mut bytes, self.key.family, &mut prefixes, self.key.limit) > 0 {}
        write_state(&mut bytes, table, reach, &self.key);
        member.push_messages(&bytes);
    }

    /// Writes a slice of everything sent, for a member that is new or asked for it.
    pub(super) fn walk(&mut self, table: &Table, peer: SourceId, walk: Walk) {
        let Some(member) = self.members.get_mut(&peer) else {
            return;
        };
        let end = walk.end.min(self.sent.len());
        let next = (walk.next + self.slice).min(end);
        let mut reach = Vec::new();
        for index in walk.next..next {
            if let Some(sent) = self.sent[index]
                && sent.source != peer
            {
                let id = PrefixId(u32::try_from(index).expect("ids are 32 bit"));
                reach.push((sent.attributes, sent.source, id));
            }
        }
        let mut bytes = Vec::new();
        write_state(&mut bytes, table, reach, &self.key);
        member.push_messages(&bytes);
        member.walk = Some(Walk { next, ..walk });
        if next == end {
            member.walk = None;
            if walk.enhanced {
                member.push_refresh(self.key.family, RefreshKind::End);
            }
        }
    }
}

impl Chunk {
    /// What was written since the last part is for this audience; nothing written makes no part.
    fn close_part(&mut self, audience: Audience) {
        let end = self.bytes.len();
        if self.parts.last().map_or(0, |part| part.end) < end {
            self.parts.push(Part { audience, end });
        }
    }
}

impl Packing {
    /// Writes as many messages as the changed prefixes take; returns those that fit into none.
    fn write(&mut self, table: &Table, exported: &PathAttributes, key: &GroupKey) -> Vec<IpNet> {
        self.encoded.clear();
        append_attributes(exported, key.width, &mut self.encoded);
        let prefixes = self.changed.iter().map(|id| table.prefix(*id));
        write_all(
            &mut self.chunk.bytes,
            &self.encoded,
            exported,
            prefixes,
            key.limit,
        )
    }
}

/// What a group makes of routes.
struct Treatment<'a> {
    run: Cow<'a, [Route]>,
    sent: Result<PathAttributes, NotFor>,
}

/// What a group makes of routes that share their attributes and their source and pass its filter of prefixes.
fn treat<'a>(key: &GroupKey, table: &Table, run: &'a [Route]) -> SmallVec<[Treatment<'a>; 1]> {
    let Some((attributes, source, _)) = run.first().copied() else {
        return SmallVec::new();
    };
    let received = table.attributes(attributes).unpack();
    if key.policy.terms.is_empty() {
        let sent = export(received, source, table.source(source), key);
        let run = Cow::Borrowed(run);
        return smallvec![Treatment { run, sent }];
    }
    let (alike, barred) = judge_each(key, table, &received, run);
    let exported = export(received, source, table.source(source), key);
    let edited = |(applied, run): (Applied, Vec<Route>)| {
        let mut sent = exported.clone();
        if let Ok(sent) = &mut sent {
            edit(&key.policy.terms, &applied, sent);
            remove_internal(sent, key.kind);
        }
        let run = Cow::Owned(run);
        Treatment { run, sent }
    };
    let mut treatments: SmallVec<[Treatment<'a>; 1]> = alike.into_iter().map(edited).collect();
    treatments.push(Treatment {
        run: Cow::Owned(barred),
        sent: Err(NotFor::Policy),
    });
    treatments
}

/// The routes by the terms whose edits they get, and those that a term or the filter holds back.
fn judge_each(
    key: &GroupKey,
    table: &Table,
    received: &PathAttributes,
    run: &[Route],
) -> (BTreeMap<Applied, Vec<Route>>, Vec<Route>) {
    let mut alike: BTreeMap<Applied, Vec<Route>> = BTreeMap::new();
    let mut barred = Vec::new();
    for route in run {
        let (_, source, id) = *route;
        let subject = Subject {
            prefix: table.prefix(id),
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

/// Announces what was sent last of these prefixes.
fn write_state(out: &mut Vec<u8>, table: &Table, mut reach: Vec<Route>, key: &GroupKey) {
    reach.sort_unstable();
    let mut encoded = Vec::new();
    for run in reach.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
        for treatment in treat(key, table, run) {
            if let Ok(exported) = &treatment.sent {
                encoded.clear();
                append_attributes(exported, key.width, &mut encoded);
                let prefixes = treatment.run.iter().map(|(_, _, id)| table.prefix(*id));
                write_all(out, &encoded, exported, prefixes, key.limit);
            }
        }
    }
}

/// Writes as many messages as the prefixes take; returns those that fit into none.
fn write_all(
    out: &mut Vec<u8>,
    encoded: &[u8],
    exported: &PathAttributes,
    prefixes: impl Iterator<Item = IpNet>,
    limit: MessageLimit,
) -> Vec<IpNet> {
    let next_hop = exported.next_hop.expect("export sets the next hop");
    let mut prefixes = prefixes.peekable();
    let mut too_long = Vec::new();
    loop {
        match write_reach(out, encoded, &next_hop, &mut prefixes, limit) {
            Ok(0) => return too_long,
            Ok(_) => {}
            Err(_) => too_long.extend(prefixes.next()),
        }
    }
}
