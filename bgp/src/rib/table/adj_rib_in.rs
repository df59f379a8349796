//! Paths come and go.

use ipnet::IpNet;

use crate::event::RouteRefusal;
use crate::rib::export::family_of;
use crate::rib::source::{SourceId, slot};
use crate::rib::table::{AttributesId, Path, PrefixId, Table};
use crate::types::AfiSafi;
use crate::wire::attr::PathAttributes;

impl Table {
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
        if !self.received.is_empty() {
            self.set_received(id, source, None);
        }
        self.announce_id(id, source, attributes, refusal);
    }

    /// As [`Self::announce`], of a route whose attributes the import policy edited; `received` are those it came with.
    pub(crate) fn announce_edited(
        &mut self,
        prefix: IpNet,
        source: SourceId,
        attributes: AttributesId,
        received: AttributesId,
    ) {
        let id = self.find_or_add(prefix);
        self.set_received(id, source, Some(received));
        self.announce_id(id, source, attributes, None);
    }

    fn set_received(&mut self, id: PrefixId, source: SourceId, new: Option<AttributesId>) {
        let old = match new {
            Some(new) => {
                self.retain(new);
                self.received.insert((id, source), new)
            }
            None => self.received.remove(&(id, source)),
        };
        if let Some(old) = old {
            self.release(old);
        }
    }

    fn announce_id(
        &mut self,
        id: PrefixId,
        source: SourceId,
        attributes: AttributesId,
        refusal: Option<RouteRefusal>,
    ) {
        self.retain(attributes);
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
        self.count(self.family(id), old, Some(path));
        if let Some(old) = old {
            self.release(old.attributes);
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
        if !self.received.is_empty() {
            self.set_received(id, source, None);
        }
        self.release(old.attributes);
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

    /// Removes a source's routes of a family; only stale ones if `stale_only`. Returns how many. Walks the table until
    /// the last one is found.
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

    /// Judges a source's routes anew, by the attributes they came with. The judge tells why a route is refused, or its
    /// edited attributes if it has any.
    pub(crate) fn rejudge(
        &mut self,
        source: SourceId,
        judge: impl Fn(IpNet, &PathAttributes) -> Result<Option<PathAttributes>, RouteRefusal>,
    ) {
        for id in self.ids() {
            if !self.is_in_use(id) {
                continue;
            }
            let entry = &self.entries[id.index()];
            let Some(path) = entry
                .paths
                .iter()
                .find(|path| path.source == source)
                .copied()
            else {
                continue;
            };
            let received = self.received.get(&(id, source)).copied();
            let received = received.unwrap_or(path.attributes);
            let (edited, refusal) = match judge(entry.prefix, &self.attributes(received).unpack()) {
                Ok(edited) => (edited, None),
                Err(refusal) => (None, Some(refusal)),
            };
            let is_edited = edited.is_some();
            let attributes = match edited {
                Some(edited) => self.acquire(&edited),
                None => {
                    self.retain(received);
                    received
                }
            };
            if (attributes, refusal) != (path.attributes, path.refusal) {
                let new = Path {
                    attributes,
                    refusal,
                    ..path
                };
                self.replace(id, path, new, is_edited.then_some(received));
            }
            self.release(attributes);
        }
    }

    /// Puts `new` in the place of `old`, a path of the same source.
    fn replace(&mut self, id: PrefixId, old: Path, new: Path, received: Option<AttributesId>) {
        self.retain(new.attributes);
        // Before the old attributes go: they may be those received.
        self.set_received(id, new.source, received);
        let paths = &mut self.entries[id.index()].paths;
        if let Some(path) = paths.iter_mut().find(|path| path.source == new.source) {
            *path = new;
        }
        self.count(self.family(id), Some(old), Some(new));
        self.release(old.attributes);
        self.watch(new.attributes);
        self.mark_undecided(id);
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
}
