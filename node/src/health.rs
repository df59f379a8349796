//! Whether the agent lives and is ready, as Felix's and BIRD's probes ask it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use api::admin::{MESH, Peer, Problem};
use datastore::store::StoreError;
use tokio::sync::Notify;

/// A loop that has not reported for this long counts as dead (DataplaneWatchdogTimeout).
const SILENCE_MAX: Duration = Duration::from_secs(90);
/// How often every loop reports even when it has nothing to do.
pub const REPORT_EVERY: Duration = Duration::from_secs(10);
/// How long after start-up all sessions must stand rather than one.
pub const BGP_START_WINDOW: Duration = Duration::from_secs(30);
/// Query parameter of `/health/bird-ready` with another window, in milliseconds.
pub const THRESHOLD_MS: &str = "threshold-ms";

/// The loops that report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the task of its name")]
pub enum Loop {
    Calc,
    Dataplane,
    Bgp,
}

/// What the node-to-node mesh is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mesh {
    /// Other nodes' pods are reached by the routes of its sessions.
    LeadsToPods,
    /// Blocks lead there, whether its sessions stand or not. Nobody waits for them: in a rolling update the first node that
    /// speaks BGP is alone with it until the last one does.
    Beside,
}

/// Facts the probes read. Cheap to clone: clones share.
#[derive(Clone, Debug)]
pub struct Health(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    start: Instant,
    started: SystemTime,
    /// Milliseconds after `start` of each loop's last report.
    reports: [AtomicU64; 3],
    datastore_in_sync: AtomicBool,
    first_apply_done: AtomicBool,
    selection_complete: AtomicBool,
    namesake: Mutex<Option<String>>,
    datastore_unknown: Mutex<Option<String>>,
    datastore_lost: Mutex<Option<String>>,
    without_effect: Mutex<Vec<Problem>>,
    kept: AtomicUsize,
    accepted: Notify,
    diverged: Mutex<Option<StoreError>>,
    reported: Notify,
}

impl Health {
    /// Nothing is ready yet; every loop counts as having just reported.
    pub fn new(start: Instant, started: SystemTime) -> Self {
        Self(Arc::new(Shared {
            start,
            started,
            reports: [const { AtomicU64::new(0) }; 3],
            datastore_in_sync: AtomicBool::new(false),
            first_apply_done: AtomicBool::new(false),
            selection_complete: AtomicBool::new(false),
            namesake: Mutex::new(None),
            datastore_unknown: Mutex::new(None),
            datastore_lost: Mutex::new(None),
            without_effect: Mutex::new(Vec::new()),
            kept: AtomicUsize::new(0),
            accepted: Notify::new(),
            diverged: Mutex::new(None),
            reported: Notify::new(),
        }))
    }

    /// Wall-clock time of the start.
    pub fn started(&self) -> SystemTime {
        self.0.started
    }

    /// `which` goes round.
    pub fn report(&self, which: Loop, now: Instant) {
        let elapsed = now.saturating_duration_since(self.0.start).as_millis();
        let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
        self.0.reports[which as usize].store(elapsed, Ordering::Relaxed);
    }

    /// The datastore's whole content was read.
    pub fn set_datastore_in_sync(&self) {
        self.0.datastore_in_sync.store(true, Ordering::Release);
    }

    /// The kernel was written completely for the first time.
    pub fn set_first_apply_done(&self) {
        self.0.first_apply_done.store(true, Ordering::Release);
    }

    /// Another agent runs under this node's name, in words for the operator; `None` when none does. Answers whether that
    /// is news.
    pub fn set_namesake(&self, namesake: Option<String>) -> bool {
        let mut known = self
            .0
            .namesake
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_news = *known != namesake;
        *known = namesake;
        is_news
    }

    /// What [`set_namesake`](Self::set_namesake) was told last.
    pub fn namesake(&self) -> Option<String> {
        let known = self
            .0
            .namesake
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }

    /// What the cluster asks of its network and this version does not do. Answers whether that is news.
    pub fn set_without_effect(&self, problems: Vec<Problem>) -> bool {
        let known = self.0.without_effect.lock();
        let mut known = known.unwrap_or_else(PoisonError::into_inner);
        let is_news = *known != problems;
        *known = problems;
        is_news
    }

    /// What [`set_without_effect`](Self::set_without_effect) was told last.
    pub fn without_effect(&self) -> Vec<Problem> {
        let known = self.0.without_effect.lock();
        known.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The datastore does not hold what was read from it, in words for the operator; `None` when it does. Until then
    /// nothing is taken from it, and no address is given out.
    pub fn set_datastore_unknown(&self, reason: Option<String>) {
        *self.unknown() = reason;
    }

    /// What [`set_datastore_unknown`](Self::set_datastore_unknown) was told last.
    pub fn datastore_unknown(&self) -> Option<String> {
        self.unknown().clone()
    }

    fn unknown(&self) -> MutexGuard<'_, Option<String>> {
        let unknown = self.0.datastore_unknown.lock();
        unknown.unwrap_or_else(PoisonError::into_inner)
    }

    /// What of the datastore cannot be read now, and why, in words for the operator. No probe fails of it: what is known
    /// goes on to lead packets.
    pub fn set_datastore_lost(&self, reason: Option<String>) {
        let lost = self.0.datastore_lost.lock();
        *lost.unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// What [`set_datastore_lost`](Self::set_datastore_lost) was told last.
    pub fn datastore_lost(&self) -> Option<String> {
        let lost = self.0.datastore_lost.lock();
        lost.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// So many objects of other nodes count though the datastore that was accepted lacks them.
    pub fn set_objects_kept(&self, objects: usize) {
        self.0.kept.store(objects, Ordering::Relaxed);
    }

    /// What [`set_objects_kept`](Self::set_objects_kept) was told last.
    pub fn objects_kept(&self) -> usize {
        self.0.kept.load(Ordering::Relaxed)
    }

    /// The operator says that the datastore counts as it is.
    pub fn accept_datastore(&self) {
        self.0.accepted.notify_one();
    }

    /// Waits for [`accept_datastore`](Self::accept_datastore).
    pub async fn datastore_accepted(&self) {
        self.0.accepted.notified().await;
    }

    /// A write showed that the datastore has lost an earlier one ([`StoreError::Diverged`]).
    pub fn report_diverged(&self, error: StoreError) {
        *self.diverged() = Some(error);
        self.0.reported.notify_one();
    }

    /// Waits for [`report_diverged`](Self::report_diverged).
    pub async fn datastore_diverged(&self) -> StoreError {
        loop {
            if let Some(error) = self.diverged().take() {
                return error;
            }
            self.0.reported.notified().await;
        }
    }

    fn diverged(&self) -> MutexGuard<'_, Option<StoreError>> {
        let diverged = self.0.diverged.lock();
        diverged.unwrap_or_else(PoisonError::into_inner)
    }

    /// The speaker has made its first choice of routes.
    pub fn set_selection_complete(&self) {
        self.0.selection_complete.store(true, Ordering::Release);
    }

    /// See [`Self::set_datastore_in_sync`].
    pub fn datastore_in_sync(&self) -> bool {
        self.0.datastore_in_sync.load(Ordering::Acquire)
    }

    /// See [`Self::set_first_apply_done`].
    pub fn first_apply_done(&self) -> bool {
        self.0.first_apply_done.load(Ordering::Acquire)
    }

    /// See [`Self::set_selection_complete`].
    pub fn selection_complete(&self) -> bool {
        self.0.selection_complete.load(Ordering::Acquire)
    }

    /// `/liveness`: every loop goes round.
    pub fn live(&self, now: Instant) -> Result<(), String> {
        for (which, name) in [
            (Loop::Calc, "CalculationGraph"),
            (Loop::Dataplane, "InternalDataplaneMainLoop"),
        ] {
            self.going_round(which, name, now)?;
        }
        Ok(())
    }

    fn going_round(&self, which: Loop, name: &str, now: Instant) -> Result<(), String> {
        let at = Duration::from_millis(self.0.reports[which as usize].load(Ordering::Relaxed));
        let silence = now
            .saturating_duration_since(self.0.start)
            .saturating_sub(at);
        if silence > SILENCE_MAX {
            Err(format!(
                "{name} has been silent for {} s (allowed: {} s)",
                silence.as_secs(),
                SILENCE_MAX.as_secs()
            ))
        } else {
            Ok(())
        }
    }

    /// `/readiness`: the datastore is read and is the one that was, the kernel written, and the node's name is this
    /// agent's alone.
    pub fn ready(&self, now: Instant) -> Result<(), String> {
        self.live(now)?;
        if !self.datastore_in_sync() {
            return Err("the datastore has not been read completely yet".to_owned());
        }
        if !self.first_apply_done() {
            return Err("the kernel has not been written completely yet".to_owned());
        }
        if let Some(namesake) = self.namesake() {
            return Err(namesake);
        }
        if let Some(unknown) = self.datastore_unknown() {
            return Err(unknown);
        }
        Ok(())
    }

    /// The speaker's loop goes round.
    pub fn bgp_live(&self, now: Instant) -> Result<(), String> {
        self.going_round(Loop::Bgp, "BGP speaker", now)
    }

    /// Readiness of BGP: within `window` after the start all sessions that are waited for, later at least one; ready without
    /// peers.
    pub fn bgp_ready(
        &self,
        peers: &[Peer],
        mesh: Mesh,
        window: Duration,
        now: Instant,
    ) -> Result<(), String> {
        let awaited: Vec<&Peer> = peers
            .iter()
            .filter(|peer| mesh == Mesh::LeadsToPods || peer.peer_type != MESH)
            .collect();
        if awaited.is_empty() && !peers.is_empty() {
            return Ok(());
        }
        let down: Vec<String> = awaited
            .iter()
            .filter(|peer| peer.state != "Established")
            .map(|peer| peer.address.to_string())
            .collect();
        let starting = now.saturating_duration_since(self.0.start) < window;
        let refused = if starting {
            !down.is_empty() || !self.selection_complete()
        } else {
            !awaited.is_empty() && down.len() == awaited.len()
        };
        match (refused, down.is_empty()) {
            (false, _) => Ok(()),
            (true, false) => Err(format!(
                "BGP is not ready: BGP not established with {}",
                down.join(",")
            )),
            (true, true) => {
                Err("BGP is not ready: graceful restart has not finished yet".to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str, state: &str) -> Peer {
        Peer {
            name: "Mesh".to_owned(),
            address: address.parse().unwrap(),
            asn: 64512,
            peer_type: MESH.to_owned(),
            state: state.to_owned(),
            since: String::new(),
            router_id: None,
            local_address: None,
            hold_time_seconds: None,
            prefixes: Default::default(),
            last_error: None,
            graceful_restart: String::new(),
        }
    }

    #[test]
    fn ready_needs_datastore_and_kernel_and_silence_ends_life() {
        let start = Instant::now();
        let health = Health::new(start, SystemTime::UNIX_EPOCH);
        assert!(health.ready(start).is_err());
        health.set_datastore_in_sync();
        assert!(health.ready(start).unwrap_err().contains("kernel"));
        health.set_first_apply_done();
        assert_eq!(health.ready(start), Ok(()));
        assert!(health.set_namesake(Some("another".to_owned())));
        assert!(!health.set_namesake(Some("another".to_owned())));
        assert_eq!(health.ready(start), Err("another".to_owned()));
        assert!(health.set_namesake(None));
        assert_eq!(health.ready(start), Ok(()));
        health.set_datastore_lost(Some("it cannot be read".to_owned()));
        assert_eq!(health.ready(start), Ok(()), "what is known leads packets");
        let late = start + Duration::from_secs(91);
        assert!(health.live(late).unwrap_err().contains("91 s"));
        health.report(Loop::Calc, late);
        health.report(Loop::Dataplane, late);
        assert_eq!(health.live(late), Ok(()));
    }

    #[test]
    fn bgp_is_ready_with_all_sessions_at_first_and_with_one_later() {
        let start = Instant::now();
        let health = Health::new(start, SystemTime::UNIX_EPOCH);
        health.set_selection_complete();
        let ready =
            |peers: &[Peer], window, now| health.bgp_ready(peers, Mesh::LeadsToPods, window, now);
        assert_eq!(ready(&[], BGP_START_WINDOW, start), Ok(()));
        let half = [peer("10.0.0.1", "Established"), peer("10.0.0.2", "Active")];
        let why = ready(&half, BGP_START_WINDOW, start).unwrap_err();
        assert!(why.ends_with("not established with 10.0.0.2"), "{why}");
        let later = start + BGP_START_WINDOW;
        assert_eq!(ready(&half, BGP_START_WINDOW, later), Ok(()));
        let hour = Duration::from_secs(3600);
        assert!(ready(&half, hour, later).is_err());
        assert!(ready(&half[1..], BGP_START_WINDOW, later).is_err());
    }

    #[test]
    fn sessions_of_the_mesh_are_not_waited_for_where_blocks_lead_to_pods() {
        let start = Instant::now();
        let health = Health::new(start, SystemTime::UNIX_EPOCH);
        let ready = |peers: &[Peer], mesh| health.bgp_ready(peers, mesh, BGP_START_WINDOW, start);
        let mesh = peer("10.0.0.2", "Active");
        assert_eq!(ready(std::slice::from_ref(&mesh), Mesh::Beside), Ok(()));
        assert!(ready(std::slice::from_ref(&mesh), Mesh::LeadsToPods).is_err());
        let router = Peer {
            peer_type: "global".to_owned(),
            ..peer("10.0.0.254", "Connect")
        };
        let why = ready(&[mesh, router], Mesh::Beside).unwrap_err();
        assert!(why.ends_with("not established with 10.0.0.254"), "{why}");
    }
}
