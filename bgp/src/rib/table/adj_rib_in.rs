//! Paths come and go.

use ipnet::IpNet;

use crate::event::RouteRefusal;
use crate::rib::source::{Age, SourceId};
use crate::rib::table::sweep::Wanted;
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
        let family = self.family(id);
        let path = Path {
            source,
            attributes,
            refusal,
            session: self.source(source).session(family),
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
        let of_source = self.source_mut(source);
        match &old {
            Some(old) => of_source.discount(family, old),
            None => of_source.held.paths += 1,
        }
        of_source.count(family, &path);
        let same = old.is_some_and(|old| {
            let was = (old.attributes, old.refusal, old.session);
            was == (attributes, refusal, path.session)
        });
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

    pub(super) fn remove_path(&mut self, id: PrefixId, source: SourceId) {
        let paths = &mut self.entries[id.index()].paths;
        let Some(position) = paths.iter().position(|path| path.source == source) else {
            return;
        };
        let old = paths.remove(position);
        let family = self.family(id);
        let of_source = self.source_mut(source);
        of_source.discount(family, &old);
        of_source.held.paths -= 1;
        if !self.received.is_empty() {
            self.set_received(id, source, None);
        }
        self.release(old.attributes);
        self.mark_undecided(id);
    }

    /// A source's session, or what it has of one family, is over: its routes are dead, or stale if they are retained
    /// (RFC 4724 §4.2). Of consecutive restarts, only the last one's routes stay.
    pub(crate) fn end_session(&mut self, source: SourceId, family: AfiSafi, retained: bool) {
        self.clean_in_time(source, family);
        self.source_mut(source).end_session(family, retained);
        if self.source(source).held.paths > 0 {
            self.request(Wanted::Clean(source));
        }
    }

    /// A source sends its routes of a family again: those at hand are stale, and those that were stay so (RFC 7313 §4).
    pub(crate) fn retain_all(&mut self, source: SourceId, family: AfiSafi) {
        self.clean_in_time(source, family);
        let done = self.source_mut(source).retain_all(family);
        if done && self.source(source).held.paths > 0 {
            self.request(Wanted::Clean(source));
        }
    }

    /// A path says of which session it is in one octet, so a dead one may not outlive the next 255 sessions.
    fn clean_in_time(&mut self, source: SourceId, family: AfiSafi) {
        let is_wide = self.source(source).session(family) % 64 == 63;
        if is_wide && self.is_wanted(Wanted::Clean(source)) {
            self.clean_at_once(source);
        }
    }

    fn clean_at_once(&mut self, source: SourceId) {
        for id in self.ids() {
            let entry = &self.entries[id.index()];
            let of_source = entry.paths.iter().find(|path| path.source == source);
            let is_dead = |path| self.source(source).age(entry.family, path) == Age::Dead;
            if entry.in_use && of_source.is_some_and(is_dead) {
                self.remove_path(id, source);
            }
        }
    }

    /// A source's stale routes are dead. Returns how many there were.
    pub(crate) fn end_retention(&mut self, source: SourceId, family: AfiSafi) -> usize {
        let count = self.source_mut(source).end_retention(family);
        if count > 0 {
            self.request(Wanted::Clean(source));
        }
        count
    }

    /// A source's routes are to be checked anew: [`Self::sweep`] names them.
    pub(crate) fn request_import_check(&mut self, source: SourceId) {
        if self.source(source).held.paths > 0 {
            self.request(Wanted::CheckImport(source));
        }
    }

    /// Checks one route anew, by the attributes it came with. The check says why it is refused, or its edited attributes
    /// if it has any.
    pub(crate) fn check_import(
        &mut self,
        id: PrefixId,
        source: SourceId,
        check: impl FnOnce(IpNet, &PathAttributes) -> Result<Option<PathAttributes>, RouteRefusal>,
    ) {
        let paths = &self.entries[id.index()].paths;
        let Some(path) = paths.iter().find(|path| path.source == source).copied() else {
            return;
        };
        let received = self.received.get(&(id, source)).copied();
        let received = received.unwrap_or(path.attributes);
        let checked = check(self.prefix(id), &self.attributes(received).unpack());
        let (edited, refusal) = match checked {
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

    /// Puts `new` in the place of `old`, a path of the same source.
    fn replace(&mut self, id: PrefixId, old: Path, new: Path, received: Option<AttributesId>) {
        self.retain(new.attributes);
        // Before the old attributes go: they may be those received.
        self.set_received(id, new.source, received);
        let paths = &mut self.entries[id.index()].paths;
        if let Some(path) = paths.iter_mut().find(|path| path.source == new.source) {
            *path = new;
        }
        let family = self.family(id);
        let of_source = self.source_mut(new.source);
        of_source.discount(family, &old);
        of_source.count(family, &new);
        self.release(old.attributes);
        self.watch(new.attributes);
        self.mark_undecided(id);
    }

    /// A source's paths are to be considered anew: it ceased to be deferred, or what the decision knows of it changed.
    pub(crate) fn reconsider(&mut self, source: SourceId) {
        if self.source(source).held.paths > 0 {
            self.request(Wanted::Reconsider(source));
        }
    }
}
