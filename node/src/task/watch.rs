//! Watching the datastore: every object of the kinds the calculation needs, into its mailbox.
//!
//! Until the first listing nothing is in sync; after it the calculation goes on with what it knows while the store is
//! away.

use std::sync::Arc;
use std::time::Duration;

use api::key::{Key, Kind};
use api::object::Object;
use api::validate::validate;
use datastore::store::{KeyValue, Store, WatchEvent};
use datastore::watcher::{Update, Watcher};
use felix::calc::Graph;
use ipam::Ipam;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::task::calc::{Inbox, Seen, State};

/// First and longest wait before another attempt.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How often a lost store is asked whether it is back.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// What the task is made of.
pub struct WatchTask {
    /// Objects.
    pub store: Arc<dyn Store>,
    /// Which.
    pub kinds: Vec<Kind>,
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

    async fn follow(self) {
        let backoff = |attempt: u32| -> futures_util::future::BoxFuture<'static, ()> {
            let doubled = BACKOFF
                .0
                .saturating_mul(1 << attempt.saturating_sub(1).min(10));
            Box::pin(tokio::time::sleep(doubled.min(BACKOFF.1)))
        };
        let mut watcher = Watcher::new(Arc::clone(&self.store), self.kinds.clone(), backoff);
        let mut lost = false;
        loop {
            let update = tokio::select! {
                update = watcher.next() => update,
                // A watch that goes on says nothing before the next change.
                () = answered(&*self.store), if lost => {
                    lost = false;
                    info!(socket = self.socket, "datastore is back");
                    continue;
                }
            };
            if let Update::Lost(error) = &update {
                if !std::mem::replace(&mut lost, true) {
                    warn!(socket = self.socket, %error, "datastore lost; going on with what is known");
                }
                continue;
            }
            if std::mem::take(&mut lost) {
                info!(socket = self.socket, "datastore is back");
            }
            self.update(update);
        }
    }

    fn update(&self, update: Update) {
        match update {
            Update::Put(item) => {
                if let Some(ipam) = &self.ipam {
                    ipam.observe(&WatchEvent::Put(item.clone()));
                }
                self.calc.object(item.key.clone(), seen(&item));
            }
            Update::Delete { key, revision } => {
                let gone = WatchEvent::Delete {
                    key: key.clone(),
                    revision,
                };
                if let Some(ipam) = &self.ipam {
                    ipam.observe(&gone);
                }
                let state = State::Absent;
                self.calc.object(key, Seen { revision, state });
            }
            Update::InSync(revision) => {
                // What was listed rather than watched may have left gaps in what IPAM observed.
                if let Some(ipam) = &self.ipam {
                    ipam.forget();
                }
                for kind in &self.kinds {
                    self.calc.in_sync(*kind, revision);
                }
            }
            Update::Lost(_) => {}
        }
    }
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
pub fn seen(item: &KeyValue) -> Seen {
    let state = match Object::decode(&item.key, &item.value) {
        Ok(object) => {
            let faults: Vec<String> = validate(&object).iter().map(ToString::to_string).collect();
            if faults.is_empty() {
                State::Present(Box::new(object))
            } else {
                State::Invalid(faults.join("; ").into())
            }
        }
        Err(error) => State::Invalid(error.message.into()),
    };
    Seen {
        revision: item.revision,
        state,
    }
}

/// Tells the calculation what this process wrote. Only of kinds that are watched: an echo is remembered until the watch
/// says the same, which it never does of others (IPAMHandle).
pub fn echo(calc: &Inbox, written: &[WatchEvent]) {
    for event in written {
        let key = match event {
            WatchEvent::Put(item) => &item.key,
            WatchEvent::Delete { key, .. } => key,
            WatchEvent::Progress(_) => continue,
        };
        if !Graph::KINDS.contains(&key.kind) {
            continue;
        }
        match event {
            WatchEvent::Put(item) => calc.echo(item.key.clone(), seen(item)),
            WatchEvent::Delete { key, revision } => {
                let (revision, state) = (*revision, State::Absent);
                calc.echo(key.clone(), Seen { revision, state });
            }
            WatchEvent::Progress(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::calc::InputKey;

    #[test]
    fn what_no_watch_will_confirm_is_not_echoed() {
        let (calc, mut facts) = Inbox::new();
        let written: Vec<WatchEvent> = [Kind::IPAMHandle, Kind::IPAMConfig, Kind::IPAMBlock]
            .into_iter()
            .flat_map(|kind| {
                let key = Key::new(kind, "one");
                let put = KeyValue {
                    key: key.clone(),
                    value: "{}".into(),
                    revision: 1,
                };
                [
                    WatchEvent::Put(put),
                    WatchEvent::Delete { key, revision: 2 },
                ]
            })
            .collect();
        echo(&calc, &written);
        let told: Vec<InputKey> = facts.take_now(9).into_iter().map(|(key, _)| key).collect();
        let block = Key::new(Kind::IPAMBlock, "one");
        assert_eq!(told, [InputKey::Echo(block)]);
    }
}
