//! What touches many prefixes at once, in slices: the routes of an ended session, another import policy, a next hop that
//! went away.
//!
//! The fact counts at once: a path that died takes no part in any decision and in no number from then on. What is left
//! for the sweep is to find such paths and to decide their prefixes. It goes round the table in a circle; a request is
//! done when it went round once since it was made, however many came after it.

use std::net::IpAddr;

use smallvec::SmallVec;

use crate::rib::source::{Age, SourceId};
use crate::rib::table::{PathKey, PrefixId, Table};

/// Requests that are not done, and how far the circle is.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    position: usize,
    requests: Vec<Request>,
    /// Prefixes found that are to be sent anew.
    readvertised: Vec<PrefixId>,
}

#[derive(Debug)]
struct Request {
    wanted: Wanted,
    /// Prefixes still to visit.
    left: usize,
}

/// What is to be done with a prefix that the sweep visits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Remove a source's dead paths; decide anew where it has stale ones.
    Clean(SourceId),
    /// Decide anew where the source has a path.
    Reconsider(SourceId),
    /// Name the source's paths to the caller, for its import policy has changed.
    CheckImport(SourceId),
    /// Send anew where the source has a path: it looks otherwise when it is sent.
    Readvertise(SourceId),
    /// Decide anew where a path uses this next hop.
    NextHop(IpAddr),
    /// Decide anew where there are several paths.
    Several,
}

impl Sweep {
    /// The table has one more place, and so has every circle.
    pub(super) fn lengthen(&mut self) {
        for request in &mut self.requests {
            request.left += 1;
        }
    }
}

impl Table {
    pub(super) fn request(&mut self, wanted: Wanted) {
        let left = self.entries.len();
        let requests = &mut self.sweep.requests;
        match requests.iter_mut().find(|one| one.wanted == wanted) {
            Some(request) => request.left = left,
            None => requests.push(Request { wanted, left }),
        }
    }

    pub(super) fn is_wanted(&self, wanted: Wanted) -> bool {
        self.sweep.requests.iter().any(|one| one.wanted == wanted)
    }

    /// There is something to sweep for.
    pub(crate) fn is_sweeping(&self) -> bool {
        !self.sweep.requests.is_empty()
    }

    /// Prefixes that the sweep found and that are to be sent anew.
    pub(crate) fn take_readvertised(&mut self) -> Vec<PrefixId> {
        std::mem::take(&mut self.sweep.readvertised)
    }

    /// Visits at most `budget` prefixes. Returns the paths whose source's import policy has changed: to be given to
    /// [`Self::check_import`].
    pub(crate) fn sweep(&mut self, budget: usize) -> Vec<(PrefixId, PathKey)> {
        let mut to_check = Vec::new();
        let mut budget = budget;
        while budget > 0 && self.is_sweeping() {
            if self.sweep.position >= self.entries.len() {
                self.sweep.position = 0;
            }
            let start = self.sweep.position;
            let shortest = self.sweep.requests.iter().map(|one| one.left).min();
            let count = budget
                .min(self.entries.len() - start)
                .min(shortest.unwrap_or(0));
            let wanted: Vec<Wanted> = self.sweep.requests.iter().map(|one| one.wanted).collect();
            let requests = Requests::new(&wanted, self.sources.len());
            for index in start..start + count {
                let id = PrefixId(u32::try_from(index).expect("ids are 32 bit"));
                self.visit(id, &requests, &mut to_check);
            }
            self.sweep.position = start + count;
            budget -= count;
            let sources = &self.sources;
            self.sweep.requests.retain_mut(|request| {
                request.left -= count;
                let found_all = match request.wanted {
                    Wanted::Clean(id) => sources[id.index()]
                        .as_ref()
                        .is_none_or(|source| source.held.paths == 0),
                    Wanted::Reconsider(_)
                    | Wanted::CheckImport(_)
                    | Wanted::Readvertise(_)
                    | Wanted::NextHop(_)
                    | Wanted::Several => false,
                };
                request.left > 0 && !found_all
            });
        }
        self.remove_left_sources();
        to_check
    }

    fn visit(
        &mut self,
        id: PrefixId,
        requests: &Requests,
        to_check: &mut Vec<(PrefixId, PathKey)>,
    ) {
        let entry = &self.entries[id.index()];
        if !entry.in_use {
            return;
        }
        let readvertised = |source: SourceId| requests.of_source[source.index()].readvertise;
        let mut paths = entry.paths.iter();
        if entry.best().is_some_and(|best| readvertised(best.source))
            || paths.any(|path| readvertised(path.source))
        {
            self.sweep.readvertised.push(id);
        }
        if entry.paths.is_empty() {
            return;
        }
        let mut decide = requests.several && entry.paths.len() > 1;
        let mut dead: SmallVec<[PathKey; 4]> = SmallVec::new();
        for path in entry.paths.iter() {
            let request = requests.of_source[path.source.index()];
            let age = self.source(path.source).age(entry.family, path);
            match age {
                Age::Dead if request.clean => dead.push(path.key()),
                Age::Dead => {}
                Age::Stale | Age::Present => {
                    decide |= request.reconsider || (request.clean && age == Age::Stale);
                    if request.check_import {
                        to_check.push((id, path.key()));
                    }
                }
            }
            if !requests.next_hops.is_empty() {
                let next_hop = self.next_hop(path.attributes);
                decide |= next_hop.is_some_and(|hop| requests.next_hops.contains(&hop.address()));
            }
        }
        if decide {
            self.mark_undecided(id);
        }
        for path in dead {
            self.remove_path(id, path);
        }
    }
}

/// All requests of one slice, by source.
struct Requests {
    of_source: Vec<OfSource>,
    next_hops: Vec<IpAddr>,
    several: bool,
}

#[derive(Clone, Copy, Default)]
struct OfSource {
    clean: bool,
    reconsider: bool,
    check_import: bool,
    readvertise: bool,
}

impl Requests {
    fn new(wanted: &[Wanted], sources: usize) -> Self {
        let mut requests = Self {
            of_source: vec![OfSource::default(); sources],
            next_hops: Vec::new(),
            several: false,
        };
        for one in wanted {
            match one {
                Wanted::Clean(source) => requests.of_source[source.index()].clean = true,
                Wanted::Reconsider(source) => requests.of_source[source.index()].reconsider = true,
                Wanted::Readvertise(source) => {
                    requests.of_source[source.index()].readvertise = true;
                }
                Wanted::CheckImport(source) => {
                    requests.of_source[source.index()].check_import = true
                }
                Wanted::NextHop(address) => requests.next_hops.push(*address),
                Wanted::Several => requests.several = true,
            }
        }
        requests
    }
}
