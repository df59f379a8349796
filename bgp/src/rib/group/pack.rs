//! From prefixes to UPDATEs: the changed ones for everybody, all or some for one member.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::event::ExportRefusal;
use crate::policy::{Applied, Subject, edit};
use crate::rib::export::{NotFor, export};
use crate::rib::group::{Audience, Chunk, Group, GroupKey, Part, SLICE, Sent, Walk, Withheld};
use crate::rib::policy::{decide, permits};
use crate::rib::source::SourceId;
use crate::rib::table::{AttributesId, PrefixId, Table};
use crate::wire::attr::{NextHop, PathAttributes};
use crate::wire::refresh::RefreshKind;
use crate::wire::update::encode::{MessageLimit, encode_attributes, write_reach, write_unreach};

impl Group {
    /// Packs all that changed.
    pub(crate) fn pack_all(&mut self, table: &mut Table) {
        while !self.dirty.is_empty() {
            self.pack(table);
        }
    }

    /// Turns a slice of the changed prefixes into a chunk.
    pub(super) fn pack(&mut self, table: &mut Table) {
        let count = self.dirty.len().min(SLICE);
        let ids: Vec<PrefixId> = self.dirty.drain(..count).collect();
        if self.sent.len() < table.ids_end() {
            self.sent.resize(table.ids_end(), None);
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
        let mut chunk = Chunk {
            readers: self.members.len(),
            ..Chunk::default()
        };
        let mut withdrawn: Vec<(Audience, PrefixId)> = Vec::new();
        for run in reach.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            self.pack_run(table, run, &mut chunk, &mut withdrawn);
        }
        for id in &unreach {
            self.forget(table, *id, &mut withdrawn);
        }
        withdrawn.sort_unstable();
        for run in withdrawn.chunk_by(|a, b| a.0 == b.0) {
            let mut prefixes = run.iter().map(|(_, id)| table.prefix(*id));
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
        if !chunk.bytes.is_empty() {
            self.log_octets += chunk.bytes.len();
            self.log.push_back(chunk);
            self.trim_log();
        }
    }

    /// Prefixes that share one attribute set and one source.
    fn pack_run(
        &mut self,
        table: &mut Table,
        run: &[(AttributesId, SourceId, PrefixId)],
        chunk: &mut Chunk,
        withdrawn: &mut Vec<(Audience, PrefixId)>,
    ) {
        let (attributes, source, _) = run[0];
        let exported = export(
            table.attributes(attributes),
            source,
            table.source(source),
            &self.key,
        );
        let exported = match exported {
            Ok(exported) => exported,
            Err(reason) => {
                for (_, _, id) in run {
                    if reason == NotFor::NoNextHop {
                        self.withhold(table.prefix(*id), ExportRefusal::NoNextHop);
                    }
                    self.forget(table, *id, withdrawn);
                }
                return;
            }
        };
        if self.key.policy.terms.is_empty() {
            self.pack_same(table, exported, run, chunk, withdrawn);
        } else {
            self.pack_by_terms(table, &exported, run, chunk, withdrawn);
        }
    }

    /// As [`Self::pack_run`], with a verdict and edits for each prefix.
    fn pack_by_terms(
        &mut self,
        table: &mut Table,
        exported: &PathAttributes,
        run: &[(AttributesId, SourceId, PrefixId)],
        chunk: &mut Chunk,
        withdrawn: &mut Vec<(Audience, PrefixId)>,
    ) {
        let mut alike: BTreeMap<Applied, Vec<(AttributesId, SourceId, PrefixId)>> = BTreeMap::new();
        for member in run {
            let (attributes, source, id) = *member;
            let prefix = table.prefix(id);
            let subject = Subject {
                prefix,
                attributes: table.attributes(attributes),
                source: table.route_source(source),
                peer: table.source(source).peer.as_ref(),
            };
            match decide(&self.key.policy, &subject) {
                Some(applied) => alike.entry(applied).or_default().push(*member),
                None => self.forget(table, id, withdrawn),
            }
        }
        for (applied, run) in alike {
            let mut edited = exported.clone();
            edit(&self.key.policy.terms, &applied, &mut edited);
            self.pack_same(table, edited, &run, chunk, withdrawn);
        }
    }

    /// Prefixes that are sent with the same attributes.
    fn pack_same(
        &mut self,
        table: &mut Table,
        exported: PathAttributes,
        run: &[(AttributesId, SourceId, PrefixId)],
        chunk: &mut Chunk,
        withdrawn: &mut Vec<(Audience, PrefixId)>,
    ) {
        let Some((_, source, _)) = run.first().copied() else {
            return;
        };
        let next_hop = exported.next_hop.expect("export sets the next hop");
        let encoded = encode_attributes(&exported, self.key.width);
        let new = Sent {
            attributes: table.acquire(exported),
            source,
        };
        let from_member = self.members.contains_key(&source);
        let mut changed = Vec::with_capacity(run.len());
        for (_, _, id) in run {
            if self.note_sent(table, *id, new, from_member, withdrawn) {
                changed.push(*id);
            }
        }
        table.release(new.attributes);
        let start = chunk.bytes.len();
        if write_all(
            &mut chunk.bytes,
            table,
            &encoded,
            &next_hop,
            &changed,
            self.key.limit,
        ) {
            chunk.close_part(if from_member {
                Audience::Except(source)
            } else {
                Audience::All
            });
        } else {
            chunk.bytes.truncate(start);
            for id in changed {
                self.withhold(table.prefix(id), ExportRefusal::TooLong);
                self.forget(table, id, withdrawn);
            }
        }
    }

    /// Enters what is about to be sent; false when it is what was sent last.
    fn note_sent(
        &mut self,
        table: &mut Table,
        id: PrefixId,
        new: Sent,
        from_member: bool,
        withdrawn: &mut Vec<(Audience, PrefixId)>,
    ) -> bool {
        let old = self.sent[id.index()];
        if old == Some(new) {
            return false;
        }
        table.retain(new.attributes);
        match old {
            Some(old) => {
                table.release(old.attributes);
                if from_member && old.source != new.source {
                    withdrawn.push((Audience::Only(new.source), id));
                }
            }
            None => table.hold(id),
        }
        self.sent[id.index()] = Some(new);
        true
    }

    fn withhold(&mut self, prefix: IpNet, reason: ExportRefusal) {
        self.withheld.push(Withheld { prefix, reason });
    }

    fn forget(
        &mut self,
        table: &mut Table,
        id: PrefixId,
        withdrawn: &mut Vec<(Audience, PrefixId)>,
    ) {
        if let Some(old) = self.sent[id.index()].take() {
            withdrawn.push((Audience::Except(old.source), id));
            table.release(old.attributes);
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
        for _ in 0..SLICE {
            let Some(prefix) = member.owed.pop_first() else {
                break;
            };
            let sent = table.find(prefix).and_then(|id| {
                let sent = self.sent.get(id.index()).copied().flatten()?;
                (sent.source != peer).then_some((sent.attributes, id))
            });
            match sent {
                Some(entry) => reach.push(entry),
                None => unreach.push(prefix),
            }
        }
        let mut bytes = Vec::new();
        let mut prefixes = unreach.into_iter();
        while write_unreach(&mut bytes, self.key.family, &mut prefixes, self.key.limit) > 0 {}
        write_state(&mut bytes, table, reach, &self.key);
        member.push_messages(&bytes);
    }

    /// Writes a slice of everything sent, for a member that is new or asked for it.
    pub(super) fn walk(&mut self, table: &Table, peer: SourceId, walk: Walk) {
        let Some(member) = self.members.get_mut(&peer) else {
            return;
        };
        let next = (walk.next + SLICE).min(self.sent.len());
        let mut reach = Vec::new();
        for index in walk.next..next {
            if let Some(sent) = self.sent[index]
                && sent.source != peer
            {
                let id = PrefixId(u32::try_from(index).expect("ids are 32 bit"));
                reach.push((sent.attributes, id));
            }
        }
        let mut bytes = Vec::new();
        write_state(&mut bytes, table, reach, &self.key);
        member.push_messages(&bytes);
        member.walk = Some(Walk { next, ..walk });
        if next == self.sent.len() {
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

/// Announces prefixes with what was sent of them last, sorted by attribute set.
fn write_state(
    out: &mut Vec<u8>,
    table: &Table,
    mut reach: Vec<(AttributesId, PrefixId)>,
    key: &GroupKey,
) {
    reach.sort_unstable();
    for run in reach.chunk_by(|a, b| a.0 == b.0) {
        let attributes = table.attributes(run[0].0);
        let encoded = encode_attributes(attributes, key.width);
        let next_hop = attributes.next_hop.expect("export sets the next hop");
        let ids: Vec<PrefixId> = run.iter().map(|(_, id)| *id).collect();
        let fits = write_all(out, table, &encoded, &next_hop, &ids, key.limit);
        assert!(fits, "what was packed once fits again");
    }
}

/// Writes as many messages as the prefixes take; false when not even one prefix fits.
fn write_all(
    out: &mut Vec<u8>,
    table: &Table,
    encoded: &[u8],
    next_hop: &NextHop,
    ids: &[PrefixId],
    limit: MessageLimit,
) -> bool {
    let mut prefixes = ids.iter().map(|id| table.prefix(*id));
    loop {
        match write_reach(out, encoded, next_hop, &mut prefixes, limit) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}
