//! Watching the datastore: every object of the kinds the calculation needs, into its mailbox.
//!
//! List, then watch from the listing's revision. When the watch ends (the store went away, or its history no longer
//! reaches back) all is listed again, and what is missing from the new listing is told as deleted. Until the first
//! listing nothing is in sync; after it the calculation goes on with what it knows while the store is away.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::key::{Key, Kind};
use api::object::Object;
use api::validate::validate;
use datastore::store::{KeyValue, Revision, Store, StoreError, WatchEvent};
use futures_util::StreamExt;
use ipam::Ipam;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::task::calc::{Inbox, Seen, State};

/// First and longest wait before another attempt.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What the task is made of.
pub struct WatchTask {
    /// Objects.
    pub store: Arc<dyn Store>,
    /// Which.
    pub kinds: Vec<Kind>,
    /// Where they go.
    pub calc: Inbox,
    /// Hears of blocks and pools, so that its next decision meets no conflict.
    pub ipam: Arc<Ipam>,
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
        let mut known = BTreeSet::new();
        let mut backoff = BACKOFF.0;
        let mut away = false;
        loop {
            match self.once(&mut known, &mut away).await {
                // The history was too short: listing again mends it at once.
                StoreError::Gone { wanted, oldest } => {
                    info!(wanted, oldest, "datastore history compacted: listing again");
                    backoff = BACKOFF.0;
                    continue;
                }
                error => {
                    warn!(socket = self.socket, %error, "datastore lost; going on with what is known");
                    // A watch that had stood begins the waits anew.
                    if !away {
                        backoff = BACKOFF.0;
                    }
                    away = true;
                }
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    /// One listing and the watch after it, until that ends.
    async fn once(&self, known: &mut BTreeSet<Key>, away: &mut bool) -> StoreError {
        let listing = match self.store.list(&self.kinds).await {
            Ok(listing) => listing,
            Err(error) => return error,
        };
        if std::mem::take(away) {
            info!(
                socket = self.socket,
                revision = listing.revision,
                "datastore is back"
            );
        }
        let present: BTreeSet<Key> = listing.items.iter().map(|item| item.key.clone()).collect();
        for gone in known.difference(&present) {
            self.absent(gone.clone(), listing.revision);
        }
        *known = present;
        // What changed between two watches was not observed.
        self.ipam.forget();
        for item in &listing.items {
            self.present(item);
        }
        for kind in &self.kinds {
            self.calc.in_sync(*kind);
        }
        let mut watch = self.store.watch(self.kinds.clone(), listing.revision);
        loop {
            let event = watch.next().await;
            if let Some(Ok(event)) = &event {
                self.ipam.observe(event);
            }
            match event {
                Some(Ok(WatchEvent::Put(item))) => {
                    known.insert(item.key.clone());
                    self.present(&item);
                }
                Some(Ok(WatchEvent::Delete { key, revision })) => {
                    known.remove(&key);
                    self.absent(key, revision);
                }
                Some(Ok(WatchEvent::Progress(_))) => {}
                Some(Err(error)) => return error,
                None => return StoreError::Unavailable("the watch ended".into()),
            }
        }
    }

    fn present(&self, item: &KeyValue) {
        self.calc.object(item.key.clone(), seen(item));
    }

    fn absent(&self, key: Key, revision: Revision) {
        let state = State::Absent;
        self.calc.object(key, Seen { revision, state });
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

/// Tells the calculation what this process wrote.
pub fn echo(calc: &Inbox, written: &[WatchEvent]) {
    for event in written {
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
