//! Paths come and go.

use ipnet::IpNet;
use smallvec::SmallVec;

use crate::event::RouteRefusal;
use crate::rib::source::{Age, SourceId};
use crate::rib::table::entry::Paths;
use crate::rib::table::sweep::Wanted;
use crate::rib::table::{AttributesId, Path, PathKey, PrefixId, Table};
use crate::types::AfiSafi;
use crate::wire::attr::PathAttributes;

/// Most paths of one prefix that one source may have: what is done with a prefix takes as long as it has paths.
pub(crate) const PATHS_MAX: usize = 4096;

/// A source has as many paths of one prefix as it may have, or the prefix as many as can be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooManyPaths;

impl Table {
    /// A source's route to a prefix, in place of its former one of that path identifier (RFC 4271 §9, RFC 7911 §3). The table
    /// takes one reference of `attributes` of its own.
    ///
    /// # Errors
    /// Nothing was noted.
    pub(crate) fn announce(
        &mut self,
        prefix: IpNet,
        path: impl Into<PathKey>,
        attributes: AttributesId,
        refusal: Option<RouteRefusal>,
    ) -> Result<(), TooManyPaths> {
        let (id, path) = (self.find_or_add(prefix), path.into());
        self.announce_id(id, path, attributes, refusal)?;
        if !self.received.is_empty() {
            self.set_received(id, path, None);
        }
        Ok(())
    }

    /// As [`Self::announce`], of a route whose attributes the import policy edited; `received` are those it came with.
    ///
    /// # Errors
    /// Nothing was noted.
    pub(crate) fn announce_edited(
        &mut self,
        prefix: IpNet,
        path: PathKey,
        attributes: AttributesId,
        received: AttributesId,
    ) -> Result<(), TooManyPaths> {
        let id = self.find_or_add(prefix);
        self.announce_id(id, path, attributes, None)?;
        self.set_received(id, path, Some(received));
        Ok(())
    }

    fn set_received(&mut self, id: PrefixId, path: PathKey, new: Option<AttributesId>) {
        let old = match new {
            Some(new) => {
                self.retain(new);
                self.received.insert((id, path), new)
            }
            None => self.received.remove(&(id, path)),
        };
        if let Some(old) = old {
            self.release(old);
        }
    }

    fn announce_id(
        &mut self,
        id: PrefixId,
        PathKey { source, path_id }: PathKey,
        attributes: AttributesId,
        refusal: Option<RouteRefusal>,
    ) -> Result<(), TooManyPaths> {
        let family = self.family(id);
        let mut path = Path {
            source,
            path_id,
            attributes,
            number: 0,
            refusal,
            session: self.source(source).session(family),
        };
        let paths = &mut self.entries[id.index()].paths;
        let old = match paths.position(path.key()) {
            Some(position) => {
                path.number = paths[position].number;
                Some(std::mem::replace(&mut paths[position], path))
            }
            None => {
                let Some(number) = room_for(paths, source) else {
                    self.free_if_unused(id);
                    return Err(TooManyPaths);
                };
                path.number = number;
                paths.push(path);
                None
            }
        };
        self.retain(attributes);
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
        Ok(())
    }

    /// A source's route to a prefix is gone.
    pub(crate) fn withdraw(&mut self, prefix: IpNet, path: impl Into<PathKey>) {
        if let Some(id) = self.find(prefix) {
            self.remove_path(id, path.into());
        }
    }

    pub(super) fn remove_path(&mut self, id: PrefixId, path: PathKey) {
        let paths = &mut self.entries[id.index()].paths;
        let Some(position) = paths.position(path) else {
            return;
        };
        let old = paths.remove(position);
        let family = self.family(id);
        let of_source = self.source_mut(path.source);
        of_source.discount(family, &old);
        of_source.held.paths -= 1;
        if !self.received.is_empty() {
            self.set_received(id, path, None);
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
            let is_dead = |path: &&Path| {
                path.source == source && self.source(source).age(entry.family, path) == Age::Dead
            };
            let dead = entry.paths.iter().filter(is_dead).map(Path::key);
            let dead: SmallVec<[PathKey; 4]> = dead.filter(|_| entry.in_use).collect();
            for path in dead {
                self.remove_path(id, path);
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
        path: PathKey,
        check: impl FnOnce(IpNet, &PathAttributes) -> Result<Option<PathAttributes>, RouteRefusal>,
    ) {
        let paths = &self.entries[id.index()].paths;
        let Some(path) = paths.position(path).map(|position| paths[position]) else {
            return;
        };
        let received = self.received.get(&(id, path.key())).copied();
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

    /// Puts `new` in the place of `old`, the same source's path of the same identifier.
    fn replace(&mut self, id: PrefixId, old: Path, new: Path, received: Option<AttributesId>) {
        self.retain(new.attributes);
        // Before the old attributes go: they may be those received.
        self.set_received(id, new.key(), received);
        let paths = &mut self.entries[id.index()].paths;
        if let Some(position) = paths.position(new.key()) {
            paths[position] = new;
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

/// The number of a further path of a source. The last one is kept for our own route.
fn room_for(paths: &Paths, source: SourceId) -> Option<u16> {
    if paths.len() >= usize::from(u16::MAX) && source != SourceId::OWN {
        return None;
    }
    if paths.len() >= PATHS_MAX {
        let of_source = paths.iter().filter(|path| path.source == source);
        if of_source.count() >= PATHS_MAX {
            return None;
        }
    }
    paths.free_number()
}
