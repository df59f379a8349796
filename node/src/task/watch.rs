//! Watching the datastore: every object of the kinds the calculation needs, into its mailbox.
//!
//! Until the first listing nothing is in sync; after it the calculation goes on with what it knows while the store is
//! away.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::key::{Key, Kind};
use api::object::Object;
use api::validate::validate;
use datastore::scope::Scope;
use datastore::store::{Change, KeyValue, Store};
use datastore::watcher::{Update, Watcher};
use felix::calc::Graph;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};
use ipam::Ipam;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::task::calc::{Inbox, Seen, Since, State};

/// First and longest wait before another attempt.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How often a lost store is asked whether it is back.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// What a kind's watcher says.
type Updates = BoxStream<'static, (Kind, Update)>;

/// What the task is made of.
pub struct WatchTask {
    /// Objects.
    pub store: Arc<dyn Store>,
    /// Which.
    pub kinds: Vec<(Kind, Scope)>,
    /// Where they go.
    pub calc: Inbox,
    /// Hears of blocks and pools, so that its next decision meets no conflict. Absent where no pod gets an address.
    pub ipam: Option<Arc<Ipam>>,
    /// What the store's address is called in the log.
    pub socket: String,
    /// End of the process.
    pub cancel: CancellationToken,
}

impl WatchTask {
    /// Runs until the token is cancelled.
    pub async fn run(self) {
        let cancel = self.cancel.clone();
        tokio::select! {
            () = self.follow() => {}
            () = cancel.cancelled() => {}
        }
    }

    /// The updates of some kinds.
    fn updates(&self, wanted: impl Fn(Kind) -> bool) -> impl Iterator<Item = Updates> {
        let kinds = self.kinds.iter().filter(move |(kind, _)| wanted(*kind));
        kinds.map(|(kind, scope)| {
            let kind = *kind;
            let store = Arc::clone(&self.store);
            let watcher = Watcher::new(store, kind, scope.clone(), backoff);
            let updates = stream::unfold(watcher, move |mut watcher| async move {
                let update = watcher.next().await;
                Some(((kind, update), watcher))
            });
            updates.boxed()
        })
    }

    async fn follow(self) {
        // Whether the datastore is locked must be known before anything else is acted on.
        let is_first = |kind| kind == Kind::ClusterInformation;
        let mut updates = stream::select_all(self.updates(is_first));
        let mut rest = !updates.is_empty();
        if !rest {
            updates.extend(self.updates(|_| true));
        }
        let mut lost: BTreeSet<Kind> = BTreeSet::new();
        loop {
            let next = tokio::select! {
                next = updates.next() => next,
                // A watch that goes on says nothing before the next change.
                () = answered(&*self.store), if !lost.is_empty() => {
                    lost.clear();
                    info!(socket = self.socket, "datastore is back");
                    continue;
                }
            };
            let Some((kind, update)) = next else {
                return;
            };
            if let Update::Lost(error) | Update::Diverged(error) = &update {
                if lost.is_empty() {
                    warn!(socket = self.socket, %error, "datastore lost; going on with what is known");
                }
                lost.insert(kind);
                continue;
            }
            if lost.remove(&kind) && lost.is_empty() {
                info!(socket = self.socket, "datastore is back");
            }
            if rest && matches!(update, Update::InSync(_)) {
                rest = false;
                updates.extend(self.updates(|kind| !is_first(kind)));
            }
            self.update(kind, update);
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

fn backoff(attempt: u32) -> BoxFuture<'static, ()> {
    let doubled = BACKOFF
        .0
        .saturating_mul(1 << attempt.saturating_sub(1).min(10));
    Box::pin(tokio::time::sleep(doubled.min(BACKOFF.1)))
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
mod tests {
    use super::*;
    use crate::task::calc::InputKey;

    #[test]
    fn what_no_watch_will_confirm_is_not_echoed() {
        let (calc, mut facts) = Inbox::new();
        let written: Vec<Change> = [Kind::IPAMHandle, Kind::IPAMConfig, Kind::IPAMBlock]
            .into_iter()
            .flat_map(|kind| {
                let key = Key::new(kind, "one");
                let put = KeyValue {
                    key: key.clone(),
                    value: "{}".into(),
                    version: 1.into(),
                };
                let version = 2.into();
                [Change::Put(put), Change::Delete { key, version }]
            })
            .collect();
        echo(&calc, &written);
        let told: Vec<InputKey> = facts.take_now(9).into_iter().map(|(key, _)| key).collect();
        let block = Key::new(Kind::IPAMBlock, "one");
        assert_eq!(told, [InputKey::Echo(block)]);
    }
}
