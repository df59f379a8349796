//! Our own restart (RFC 4724 §4.1): what is awaited before the first selection of routes is complete, and before what a
//! former process left in the kernel is stale.
//!
//! | report of a peer | on | to |
//! |---|---|---|
//! | Session | session, graceful restart agreed, R bit clear | EndOfRib |
//! | Session | session without graceful restart, or R bit set | Updates |
//! | EndOfRib | End-of-RIB of each family | made |
//! | Updates | End-of-RIB of each family; KEEPALIVE after UPDATEs, or after [`SILENCE`] without any | made |
//! | EndOfRib, Updates | session down | Session |
//! | any | [`Config::deferral_time`](crate::config::Config::deferral_time) after the start | made |
//!
//! | waits for | peers in state |
//! |---|---|
//! | a peer's paths taking part in the decision | Session, EndOfRib of that peer |
//! | [`Event::SelectionComplete`], End-of-RIB, learned routes to peers that may hold our former ones | Session, EndOfRib |
//! | [`Event::PeersReported`] | any of the three |
//!
//! A peer whose R bit is set may itself wait for us, and one without graceful restart sends no End-of-RIB: the RFC has
//! neither awaited. But the kernel's routes that only they can name again have to last until they did.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::PeerConfig;
use crate::event::Event;
use crate::policy::{Match, Term, Verdict};
use crate::rib::source::SourceId;
use crate::route::RouteSource;
use crate::speaker::Speaker;
use crate::types::AfiSafi;
use crate::wire::capability::GracefulRestart;

/// A KEEPALIVE this long after the last UPDATE says that the table is out: speakers put KEEPALIVEs between the UPDATEs of a
/// long one.
const PAUSE: Duration = Duration::from_secs(1);
/// A KEEPALIVE this long after the session came up says that there is no table: routers may take some seconds to begin.
pub(super) const SILENCE: Duration = Duration::from_secs(10);

/// How far a stage of the restart is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Peers are awaited, or there is no configuration yet.
    Running,
    /// Over; its event goes out after the last change.
    Due,
    /// Reported.
    Reported,
}

/// A peer whose routes are awaited.
#[derive(Debug)]
pub(super) struct Awaiting {
    pub(super) until: Instant,
    report: Report,
}

/// How a peer says that it has sent its routes.
#[derive(Debug)]
enum Report {
    /// There is no session, and whether we offer graceful restart on it.
    Session { graceful: bool },
    /// By End-of-RIB of these families.
    EndOfRib(BTreeSet<AfiSafi>),
    /// As it comes first.
    Updates {
        /// Families whose End-of-RIB did not come.
        families: BTreeSet<AfiSafi>,
        /// When a KEEPALIVE counts.
        counts_from: Instant,
    },
}

impl Awaiting {
    /// The first selection waits as well.
    pub(super) const fn holds_selection(&self) -> bool {
        matches!(
            self.report,
            Report::Session { graceful: true } | Report::EndOfRib(_)
        )
    }
}

impl Speaker {
    /// A new peer of a restarting speaker is awaited.
    pub(super) fn awaiting_for_new_peer(
        &self,
        peer: &PeerConfig,
        deferral_time: Duration,
    ) -> Option<Awaiting> {
        let restarts = self.restarting && self.selection == Stage::Running;
        (restarts && !peer.options.shutdown).then(|| Awaiting {
            until: self.now + deferral_time,
            report: Report::Session {
                graceful: peer.graceful_restart,
            },
        })
    }

    /// Nobody knows who connects from a range: its peers are awaited until there are as many as there may be, or the
    /// time is over.
    pub(super) fn await_ranges(&mut self, deferral_time: Duration) {
        if self.restarting && self.has_open_range() {
            self.ranges_until = Some(self.now + deferral_time);
        }
    }

    pub(super) fn report_session_up(&mut self, id: SourceId) {
        let counts_from = self.now + SILENCE;
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let Some((restart, families)) = slot
            .peer
            .agreement()
            .map(|agreement| (agreement.restart.clone(), agreement.families.clone()))
        else {
            return;
        };
        let Some(awaiting) = &mut slot.awaiting else {
            return;
        };
        match restart {
            // A peer that restarts as well may wait for us: nobody may wait for the other (RFC 4724 §4.1).
            Some(GracefulRestart {
                restarting: false, ..
            }) => awaiting.report = Report::EndOfRib(families),
            Some(_) | None => {
                awaiting.report = Report::Updates {
                    families,
                    counts_from,
                };
                self.decide_by(id);
            }
        }
    }

    pub(super) fn report_session_down(&mut self, id: SourceId) {
        let is_running = self.selection == Stage::Running;
        if let Some(slot) = self.slots.get_mut(&id)
            && let Some(awaiting) = &mut slot.awaiting
        {
            let graceful = slot.peer.config.graceful_restart;
            awaiting.report = Report::Session {
                graceful: graceful && is_running,
            };
            self.rib.table.source_mut(id).deferred = awaiting.holds_selection();
        }
    }

    /// Routes came.
    pub(super) fn report_update(&mut self, id: SourceId) {
        let now = self.now;
        if let Some(slot) = self.slots.get_mut(&id)
            && let Some(awaiting) = &mut slot.awaiting
            && let Report::Updates { counts_from, .. } = &mut awaiting.report
        {
            *counts_from = now + PAUSE;
        }
    }

    pub(super) fn report_end_of_rib(&mut self, id: SourceId, family: AfiSafi) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        if let Some(awaiting) = &mut slot.awaiting
            && let Report::EndOfRib(families) | Report::Updates { families, .. } =
                &mut awaiting.report
        {
            families.remove(&family);
            if families.is_empty() {
                self.release(id);
            }
        }
    }

    pub(super) fn report_keepalive(&mut self, id: SourceId) {
        let awaiting = self.slots.get(&id).and_then(|slot| slot.awaiting.as_ref());
        if let Some(awaiting) = awaiting
            && let Report::Updates { counts_from, .. } = awaiting.report
            && counts_from <= self.now
        {
            self.release(id);
        }
    }

    /// Whoever had its time is awaited no longer.
    pub(super) fn report_timeout(&mut self, id: SourceId) {
        let awaiting = self.slots.get(&id).and_then(|slot| slot.awaiting.as_ref());
        if awaiting.is_some_and(|awaiting| awaiting.until <= self.now) {
            self.release(id);
        }
    }

    /// Ends the stages of which nobody is awaited any more.
    pub(super) fn check_selection(&mut self) {
        if self.config.is_some() && self.reported == Stage::Running {
            self.check_stages();
        }
        self.rib.end_of_rib_allowed =
            !self.restarting || (self.originations_complete && self.selection != Stage::Running);
    }

    fn check_stages(&mut self) {
        if let Some(until) = self.ranges_until
            && (until <= self.now || !self.has_open_range())
        {
            self.ranges_until = None;
        }
        let awaited = |holds: fn(&Awaiting) -> bool| {
            let mut awaiting = self
                .slots
                .values()
                .filter_map(|slot| slot.awaiting.as_ref());
            self.ranges_until.is_some() || awaiting.any(holds)
        };
        let (selection, reported) = (!awaited(Awaiting::holds_selection), !awaited(|_| true));
        if self.selection == Stage::Running && selection {
            self.selection = Stage::Due;
            self.let_learned_routes_out();
        }
        if self.reported == Stage::Running && self.selection != Stage::Running && reported {
            self.reported = Stage::Due;
        }
    }

    /// What a stage that is over has to say, once every change of before was reported.
    pub(super) fn poll_stage(&mut self) -> Option<Event> {
        if self.rib.has_work() || self.rib.table.has_unreported() {
            return None;
        }
        let stages = [
            (&mut self.selection, Event::SelectionComplete),
            (&mut self.reported, Event::PeersReported),
        ];
        let (stage, event) = stages
            .into_iter()
            .find(|(stage, _)| **stage == Stage::Due)?;
        *stage = Stage::Reported;
        Some(event)
    }

    /// A peer is awaited no longer.
    pub(super) fn release(&mut self, id: SourceId) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.awaiting = None;
        }
        self.decide_by(id);
    }

    /// The paths of a peer take part in the decision from here on.
    fn decide_by(&mut self, id: SourceId) {
        self.rib.table.source_mut(id).deferred = false;
        self.rib.table.reconsider(id);
    }

    fn let_learned_routes_out(&mut self) {
        if self.restarting {
            let ids: Vec<SourceId> = self.slots.keys().copied().collect();
            ids.into_iter().for_each(|id| self.join_groups(id));
        }
    }

    /// What keeps learned routes from a peer that may hold those of our former process, until there are better ones than
    /// the first that came. One that says of itself that it kept nothing has nothing to lose by them.
    pub(super) fn held_back(&self, restart: Option<&GracefulRestart>) -> Option<Term> {
        let kept = |restart: &GracefulRestart| {
            let families = &restart.families;
            families.is_empty() || families.iter().any(|family| family.forwarding)
        };
        let holds =
            self.restarting && self.selection == Stage::Running && restart.is_some_and(kept);
        holds.then(|| Term {
            name: Arc::from("learned, before the first selection is complete"),
            matches: vec![Match::PeerType(vec![RouteSource::Ebgp, RouteSource::Ibgp])],
            edits: Vec::new(),
            verdict: Verdict::Reject,
        })
    }
}
