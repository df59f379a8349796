//! Watching the datastore: every object of the kinds the calculation needs, into its mailbox.
//!
//! Until the first listing nothing is in sync; after it the calculation goes on with what it knows while the store is
//! away.

mod lost;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use api::key::{Key, Kind};
use api::object::Object;
use api::validate::validate;
use datastore::scope::Scope;
use datastore::store::{Change, Expect, KeyValue, Op, Store, StoreError};
use datastore::version::{Cursor, Order};
use datastore::watcher::{Update, Watcher};
use felix::calc::Graph;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};
use ipam::Ipam;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::health::Health;
use crate::own::{Own, has_addresses};
use crate::startup::{chain, files};
use crate::task::calc::{Inbox, Seen, Since, State};
use lost::{Line, Lost};

/// First and longest wait before another attempt.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How often a lost store is asked whether it is back.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// How long the labelling of this node's affinities may take.
const LABELLING_MAX: Duration = Duration::from_secs(10);

/// How often it is noted how far the datastore was read.
const NOTE_EVERY: Duration = Duration::from_secs(2);

/// Kinds whose objects of other nodes lead packets to them. Where an accepted datastore lacks some, their nodes may not
/// have written them back yet: they count until the agent starts anew, or the datastore says something else of them.
const OF_OTHERS: [Kind; 3] = [Kind::Node, Kind::IPAMBlock, Kind::BlockAffinity];

/// What a kind's watcher says, and how far it has read.
type Updates = BoxStream<'static, (Kind, Update, Option<Cursor>)>;

/// What the task is made of.
pub struct WatchTask {
    /// Objects.
    pub store: Arc<dyn Store>,
    /// Which.
    pub kinds: Vec<(Kind, Scope)>,
    /// Which more, and when.
    pub on_demand: OnDemand,
    /// Where they go.
    pub calc: Inbox,
    /// Hears of blocks and pools, so that its next decision meets no conflict. Absent where no pod gets an address.
    pub ipam: Option<Arc<Ipam>>,
    /// What the store's address is called in the log.
    pub socket: String,
    /// Node name.
    pub node: String,
    /// Where it says that the datastore is unknown.
    pub health: Health,
    /// Files that say how far the datastore was read and what this node has there, for the next agent.
    pub notes: Option<Notes>,
    /// End of the process.
    pub cancel: CancellationToken,
}

/// Kinds that are followed once there are ranges of Services' addresses: in a BGPConfiguration, or from the start.
#[derive(Clone, Debug, Default)]
pub struct OnDemand {
    /// Which.
    pub kinds: Vec<(Kind, Scope)>,
    /// A parameter gives such a range.
    pub from_the_start: bool,
}

/// Files for the next agent.
#[derive(Clone, Debug)]
pub struct Notes {
    /// How far the datastore was read.
    pub read: PathBuf,
    /// What this node has there.
    pub own: PathBuf,
}

/// What was read.
struct Read {
    own: Own,
    identity: Option<Arc<str>>,
    to: Option<Cursor>,
    noted: Option<Cursor>,
    /// Kinds of which nothing may be said yet.
    unlisted: BTreeSet<Kind>,
}

impl WatchTask {
    /// Runs until the token is cancelled.
    pub async fn run(self) {
        let cancel = self.cancel.clone();
        let mut read = Read {
            own: Own::new(self.node.clone()),
            identity: None,
            to: None,
            noted: None,
            unlisted: self.kinds.iter().map(|(kind, _)| *kind).collect(),
        };
        tokio::select! {
            () = self.follow(&mut read) => {}
            () = cancel.cancelled() => {}
        }
        self.note(&mut read);
    }

    /// The updates of some of these kinds. Each time `accepted` changes, the datastore is taken as it is.
    fn updates(
        &self,
        kinds: &[(Kind, Scope)],
        wanted: impl Fn(Kind) -> bool,
        accepted: &watch::Receiver<u64>,
    ) -> impl Iterator<Item = Updates> {
        let kinds = kinds.iter().filter(move |(kind, _)| wanted(*kind));
        kinds.map(move |(kind, scope)| {
            let kind = *kind;
            let store = Arc::clone(&self.store);
            let watcher = Watcher::new(store, kind, scope.clone(), backoff);
            let updates = stream::unfold(
                (watcher, accepted.clone()),
                move |(mut watcher, mut accepted)| async move {
                    loop {
                        tokio::select! {
                            update = watcher.next() => {
                                let read_to = watcher.read_to().cloned();
                                return Some(((kind, update, read_to), (watcher, accepted)));
                            }
                            Ok(()) = accepted.changed() => watcher.accept(),
                        }
                    }
                },
            );
            updates.boxed()
        })
    }

    async fn follow(&self, read: &mut Read) {
        let (accept, accepted) = watch::channel(0_u64);
        // Whether the datastore is locked must be known before anything else is acted on.
        let is_first = |kind| kind == Kind::ClusterInformation;
        let mut updates = stream::select_all(self.updates(&self.kinds, is_first, &accepted));
        let mut rest = !updates.is_empty();
        if !rest {
            updates.extend(self.updates(&self.kinds, |_| true, &accepted));
        }
        let mut demanded = self.on_demand.kinds.is_empty();
        let mut note = tokio::time::interval(NOTE_EVERY);
        let mut lost = Lost::default();
        // Kinds of Services that may not be listed: the datastore's words, and when it said them last.
        let mut refused: BTreeMap<Kind, (Arc<str>, Instant)> = BTreeMap::new();
        // Kinds whose first listing after an acceptance is still to come.
        let mut unlisted: BTreeSet<Kind> = BTreeSet::new();
        // What counts though the accepted datastore lacks it.
        let mut kept: BTreeSet<Key> = BTreeSet::new();
        loop {
            let next = tokio::select! {
                next = updates.next() => next,
                // A watch that goes on says nothing before the next change.
                () = answered(&*self.store), if lost.is_any() => {
                    let line = lost.answers(Instant::now());
                    self.tell(&lost, line, None);
                    continue;
                }
                _ = note.tick() => {
                    // A watch that goes on says nothing before the next change.
                    let settled = |_: &Kind, (_, at): &mut (Arc<str>, Instant)| at.elapsed() >= lost::SETTLED;
                    for (kind, _) in refused.extract_if(.., settled) {
                        self.allowed(kind);
                    }
                    self.note(read);
                    continue;
                }
                error = self.health.datastore_diverged() => {
                    if self.health.datastore_unknown().is_none() {
                        self.diverged(&error, read, &accept).await;
                    }
                    continue;
                }
                () = self.health.datastore_accepted() => {
                    if self.health.datastore_unknown().is_some() && self.write_back(&read.own).await {
                        unlisted.extend(OF_OTHERS);
                        self.accept(&accept, "accepted by the operator");
                        (read.identity, read.to) = (None, None);
                    }
                    continue;
                }
            };
            let Some((kind, update, reached)) = next else {
                return;
            };
            match &update {
                Update::Lost(StoreError::Refused(why)) if self.is_on_demand(kind) => {
                    let before = refused.insert(kind, (Arc::clone(why), Instant::now()));
                    if before.is_none_or(|(before, _)| before != *why) {
                        warn!(%kind, error = %why, "may not be read: addresses of Services are announced as they are known");
                        self.calc.refused(kind, Some(Arc::clone(why)));
                    }
                    self.found(&mut lost, kind);
                    continue;
                }
                Update::Lost(error) => {
                    let (now, wall) = (Instant::now(), SystemTime::now());
                    let line = lost.lose(kind, error.clone(), now, wall);
                    self.tell(&lost, line, Some(error));
                    continue;
                }
                Update::Diverged(error) => {
                    self.found(&mut lost, kind);
                    if self.health.datastore_unknown().is_none() {
                        self.diverged(error, read, &accept).await;
                        if self.health.datastore_unknown().is_none() {
                            (read.identity, read.to) = (None, None);
                        }
                    }
                    continue;
                }
                Update::InSync(_) => {
                    unlisted.remove(&kind);
                    read.unlisted.remove(&kind);
                    if kind == Kind::BlockAffinity && self.ipam.is_some() {
                        label_affinities(&*self.store, &read.own).await;
                    }
                    if read.identity.is_none() {
                        read.identity = self.store.identity().await.ok();
                    }
                }
                // Its kubelet has registered it anew, and its agent has not written there: as good as missing.
                Update::Put(item)
                    if self.is_bare_node_of_another(item)
                        && (unlisted.contains(&kind) || kept.contains(&item.key)) =>
                {
                    kept.insert(item.key.clone());
                    self.health.set_objects_kept(kept.len());
                    continue;
                }
                Update::Put(item) => {
                    kept.remove(&item.key);
                    read.own.put(item);
                }
                Update::Missing { key, .. } if unlisted.contains(&kind) => {
                    warn!(socket = self.socket, %key, "not in the accepted datastore; it counts until the agent starts anew");
                    kept.insert(key.clone());
                    self.health.set_objects_kept(kept.len());
                    continue;
                }
                Update::Delete { key, .. } | Update::Missing { key, .. } => {
                    kept.remove(key);
                    read.own.remove(key);
                }
            }
            self.health.set_objects_kept(kept.len());
            if let Some(reached) = reached {
                read.to = later(read.to.take(), reached);
            }
            self.found(&mut lost, kind);
            if refused.remove(&kind).is_some() {
                self.allowed(kind);
            }
            if read.noted.is_none() && matches!(update, Update::InSync(_)) {
                // At once: an agent that is killed soon after its start must not look like one that never read.
                self.note(read);
            }
            if rest && matches!(update, Update::InSync(_)) {
                rest = false;
                updates.extend(self.updates(&self.kinds, |kind| !is_first(kind), &accepted));
            }
            let from_now_on = self.on_demand.from_the_start && !rest;
            if !demanded && (from_now_on || asks_for_services(&update)) {
                demanded = true;
                info!("ranges of Services' addresses are configured: following Services");
                updates.extend(self.updates(&self.on_demand.kinds, |_| true, &accepted));
            }
            self.update(kind, update);
        }
    }

    fn is_bare_node_of_another(&self, item: &KeyValue) -> bool {
        item.key.kind == Kind::Node && item.key.name != self.node && !has_addresses(item)
    }

    fn is_on_demand(&self, kind: Kind) -> bool {
        self.on_demand.kinds.iter().any(|(known, _)| *known == kind)
    }

    /// A kind that might not be read may be again.
    fn allowed(&self, kind: Kind) {
        info!(%kind, "may be read again");
        self.calc.refused(kind, None);
    }

    /// A kind is read again.
    fn found(&self, lost: &mut Lost, kind: Kind) {
        if lost.is_any() {
            let line = lost.found(kind, Instant::now());
            self.tell(lost, line, None);
        }
    }

    /// Says what cannot be read: in the status, and where there is a line, in the log.
    fn tell(&self, lost: &Lost, line: Option<Line>, error: Option<&StoreError>) {
        let socket = &self.socket;
        self.health
            .set_datastore_lost(lost.reason(self.kinds.len()));
        let error = error.map(ToString::to_string).unwrap_or_default();
        match line {
            Some(Line::Lost { before: 0 }) => {
                warn!(socket, error, "datastore lost; going on with what is known");
            }
            Some(Line::Lost { before }) => warn!(
                socket,
                error,
                times_before = before,
                "datastore lost; going on with what is known"
            ),
            Some(Line::Changed) => warn!(socket, error, "datastore still lost"),
            Some(Line::Back(took)) => {
                info!(socket, after_seconds = took.as_secs(), "datastore is back");
            }
            None => {}
        }
    }

    /// The datastore lacks what was read from it. A node without pods takes it as it is. With pods, what they hold is
    /// written back into an older copy of the same datastore; into another one only when the operator accepts it.
    async fn diverged(&self, error: &StoreError, read: &Read, accept: &watch::Sender<u64>) {
        let own = &read.own;
        if let Some(ipam) = &self.ipam {
            ipam.avoid(own.ranges_of_others());
        }
        if own.pods() == 0 {
            warn!(socket = self.socket, %error, "taken as it is: no pod lives here");
            self.accept(accept, "no pod lives here");
            return;
        }
        self.health.set_datastore_unknown(Some(format!(
            "{error}; nothing is taken from it and no address is given out until `tortiectl datastore accept`"
        )));
        warn!(socket = self.socket, %error, pods = own.pods(), "datastore unknown; going on with what is known");
        let now = self.store.identity().await.ok();
        if now.is_some() && now == read.identity {
            self.write_back(own).await;
        }
    }

    fn accept(&self, accept: &watch::Sender<u64>, why: &str) {
        info!(socket = self.socket, why, "the datastore counts as it is");
        self.store.accept();
        if let Some(ipam) = &self.ipam {
            ipam.accept();
        }
        self.health.set_datastore_unknown(None);
        accept.send_modify(|times| *times += 1);
    }

    /// Whether what this node's pods hold stands in the datastore again.
    async fn write_back(&self, own: &Own) -> bool {
        match own.write_back(&*self.store).await {
            Ok(conflicts) => {
                for conflict in conflicts {
                    warn!(reason = conflict, "not written back");
                }
                info!(
                    socket = self.socket,
                    pods = own.pods(),
                    "what pods here hold is written back"
                );
                true
            }
            Err(error) => {
                warn!(socket = self.socket, %error, "what pods here hold could not be written back");
                false
            }
        }
    }

    /// Writes what is new into the files for the next agent, once everything was listed. What this node has comes first: who
    /// finds how far the datastore was read takes it as known.
    fn note(&self, read: &mut Read) {
        let Some(notes) = self.notes.as_ref().filter(|_| read.unlisted.is_empty()) else {
            return;
        };
        if let Err(error) = read.own.save(&notes.own) {
            warn!(error = chain(&error), "what this node has in the datastore");
            return;
        }
        if let (Some(identity), Some(to)) = (&read.identity, &read.to)
            && read.noted != read.to
        {
            if let Err(error) = files::write_read(&notes.read, identity, to) {
                warn!(error = chain(&error), "how far the datastore was read");
            }
            read.noted.clone_from(&read.to);
        }
    }

    fn update(&self, kind: Kind, update: Update) {
        match update {
            Update::Put(item) => {
                if let Some(ipam) = &self.ipam {
                    ipam.observe(&Change::Put(item.clone()));
                }
                let since = Since::Write(item.version.clone());
                let state = stored(&item);
                self.calc.object(item.key, Seen { since, state });
            }
            Update::Delete { key, version } => {
                if let Some(ipam) = &self.ipam {
                    let (key, version) = (key.clone(), version.clone());
                    ipam.observe(&Change::Delete { key, version });
                }
                self.absent(key, Since::Write(version));
            }
            Update::Missing { key, cursor } => self.absent(key, Since::Listing(cursor)),
            Update::InSync(cursor) => {
                // What was listed rather than watched may have left gaps in what IPAM observed.
                if let Some(ipam) = &self.ipam {
                    ipam.forget();
                }
                self.calc.in_sync(kind, cursor);
            }
            Update::Lost(_) | Update::Diverged(_) => {}
        }
    }

    fn absent(&self, key: Key, since: Since) {
        let state = State::Absent;
        self.calc.object(key, Seen { since, state });
    }
}

/// Whether it is a BGPConfiguration that has ranges of Services' addresses.
fn asks_for_services(update: &Update) -> bool {
    let Update::Put(item) = update else {
        return false;
    };
    item.key.kind == Kind::BGPConfiguration
        && matches!(
            Object::decode(&item.key, &item.value),
            Ok(Object::BGPConfiguration(config)) if config.spec.service_ranges().next().is_some()
        )
}

/// The later of two cursors of one store, the second where they cannot be told apart.
fn later(known: Option<Cursor>, other: Cursor) -> Option<Cursor> {
    match known {
        Some(known) if known.order(&other) == Order::Newer => Some(known),
        _ => Some(other),
    }
}

/// The wait before another attempt at a store that was lost.
pub fn backoff(attempt: u32) -> BoxFuture<'static, ()> {
    let doubled = BACKOFF
        .0
        .saturating_mul(1 << attempt.saturating_sub(1).min(10));
    let wait = doubled.min(BACKOFF.1);
    // Up to half more: those who lost a datastore together do not come back together.
    let chance = u32::try_from(RandomState::new().hash_one(attempt) % 1000).unwrap_or_default();
    Box::pin(tokio::time::sleep(wait + wait * chance / 2000))
}

/// Gives this node's affinities the labels that they lack. What fails is done when they are listed again.
async fn label_affinities(store: &dyn Store, own: &Own) {
    let all = async {
        for key in own.unlabelled_affinities() {
            if let Err(error) = label_affinity(store, &key).await {
                warn!(%key, %error, "it lacks the labels that Calico lists affinities by");
            }
        }
    };
    // Nothing that an older release left undone is worth waiting for.
    if tokio::time::timeout(LABELLING_MAX, all).await.is_err() {
        warn!("affinities without the labels that Calico lists them by are left so");
    }
}

async fn label_affinity(store: &dyn Store, key: &Key) -> Result<(), StoreError> {
    let Some(stored) = store.get(key).await? else {
        return Ok(());
    };
    let Ok(Object::BlockAffinity(mut affinity)) = Object::decode(key, &stored.value) else {
        return Ok(());
    };
    if api::affinity::label(&mut affinity) {
        let put = Op::Put {
            key: key.clone(),
            value: Object::BlockAffinity(affinity).encode().into(),
            expect: Expect::Version(stored.version),
        };
        store.write(put).await?;
    }
    Ok(())
}

/// Asks until the store answers.
async fn answered(store: &dyn Store) {
    let probe = Key::new(Kind::Node, "foo");
    loop {
        tokio::time::sleep(PROBE_EVERY).await;
        if store.get(&probe).await.is_ok() {
            return;
        }
    }
}

/// A stored value as the calculation takes it.
fn stored(item: &KeyValue) -> State {
    match Object::decode(&item.key, &item.value) {
        Ok(object) => {
            let faults: Vec<String> = validate(&object).iter().map(ToString::to_string).collect();
            if faults.is_empty() {
                State::Present(Box::new(object))
            } else {
                State::Invalid(faults.join("; ").into())
            }
        }
        Err(error) => State::Invalid(error.message.into()),
    }
}

/// Tells the calculation what this process wrote. Only of kinds that are watched: an echo is remembered until the watch
/// says the same, which it never does of others (IPAMHandle).
pub fn echo<'a>(calc: &Inbox, written: impl IntoIterator<Item = &'a Change>) {
    let watched = |change: &&Change| Graph::KINDS.contains(&change.key().kind);
    for change in written.into_iter().filter(watched) {
        let state = match change {
            Change::Put(item) => stored(item),
            Change::Delete { .. } => State::Absent,
        };
        calc.echo(change.key().clone(), change.version().clone(), state);
    }
}

#[cfg(test)]
mod tests;
