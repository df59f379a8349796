//! Whether the datastore is the one that an earlier agent of this node read.
//!
//! ```text
//! known    it holds what was read                              start-up goes on
//! unknown  it does not, and pods live here                     waits until it does, or until the operator accepts it
//! accepted the operator took away the note of what was read,   what pods hold is written back before anything else
//!          or no pod lives here                                (`write_back.rs`)
//! ```

use std::time::Duration;

use datastore::version::Cursor;
use tracing::{info, warn};

use super::write_back::Living;
use super::{Startup, StartupError, What, chain, files};
use crate::own::Own;
use crate::task::watch::Notes;

/// How often an unknown datastore is looked at again.
const RETRY: Duration = Duration::from_secs(1);
/// A log line for every so many looks.
const LOG_EVERY: u32 = 30;

const UNKNOWN: &str = "the datastore lacks what was read from it before: it is another one, or an older copy; nothing is \
                       done until it is back, or until `tortiectl datastore accept`";

/// What the datastore is to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Datastore {
    /// It holds what was read before, or nothing was.
    Known,
    /// It may lack what was read before, and counts all the same.
    Accepted,
}

impl Startup<'_> {
    /// Waits while pods live here and the datastore lacks what an earlier agent read from it: it is another one or an
    /// older copy, and what it lacks is unknown. Without pods it is taken as it is.
    pub(super) async fn wait_for_known_store(
        &self,
        name: &str,
        notes: &Notes,
    ) -> Result<Datastore, StartupError> {
        self.wait_while_unknown(name, notes, async || self.living_or_unknown().await)
            .await
    }

    async fn wait_while_unknown(
        &self,
        name: &str,
        notes: &Notes,
        living: impl AsyncFn() -> Option<Living>,
    ) -> Result<Datastore, StartupError> {
        let note = notes.read.as_path();
        let mut looked = 0_u32;
        while let Some((identity, cursor)) = files::note_of_read(note) {
            let own = Own::load(name.to_owned(), &notes.own);
            if self.holds(&identity, &cursor).await? && !self.has_lost(&own, &living).await? {
                return Ok(Datastore::Known);
            }
            // An agent that ends before all is written back finds it again.
            if !notes.own.exists() {
                files::write(&notes.own, "")?;
            }
            // Unknown is not none.
            let pods = living().await.map_or(1, |living| living.pods.len());
            if pods == 0 {
                info!(
                    "the datastore is another one than before, or an older copy; no pod lives here, so it is taken"
                );
                return Ok(Datastore::Accepted);
            }
            if looked.is_multiple_of(LOG_EVERY) {
                warn!(
                    pods,
                    note = %note.display(),
                    "{UNKNOWN}"
                );
            }
            looked += 1;
            self.waits.on(What::Acceptance, UNKNOWN);
            tokio::time::sleep(RETRY).await;
        }
        // Both are written together, and the operator takes away the one.
        Ok(if notes.own.exists() {
            Datastore::Accepted
        } else {
            Datastore::Known
        })
    }

    async fn holds(&self, identity: &str, cursor: &Cursor) -> Result<bool, StartupError> {
        let failed = || self.failed("asking which datastore it is");
        let now = self.store.identity().await.map_err(failed())?;
        if *now != *identity {
            return Ok(false);
        }
        self.store.contains(cursor).await.map_err(failed())
    }

    /// Whether the datastore lacks what this node wrote last, though it has counted further since: a write of a block, or the
    /// block of a living pod.
    async fn has_lost(
        &self,
        own: &Own,
        living: impl AsyncFn() -> Option<Living>,
    ) -> Result<bool, StartupError> {
        let lacking = own.lacking_in(&*self.store).await;
        let doing = "comparing this node's blocks with those of before";
        let lacking = lacking.map_err(self.failed(doing))?;
        if lacking.writes || lacking.addresses.is_empty() {
            return Ok(lacking.writes);
        }
        let living = living().await;
        let mut addresses = lacking.addresses.into_iter();
        // Unknown is not none.
        Ok(addresses.any(|address| living.as_ref().is_none_or(|living| living.holds(address))))
    }

    /// What the kernel shows; `None` when it does not answer.
    async fn living_or_unknown(&self) -> Option<Living> {
        let living = self.living().await;
        living
            .inspect_err(|error| warn!(error = chain(error), "start-up"))
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use api::key::{Key, Kind};
    use api::params::Params;
    use datastore::memory::MemoryStore;
    use datastore::scope::Scope;
    use datastore::store::{Expect, Op, Store};

    use super::*;
    use crate::scratch::Scratch;
    use crate::startup::tests::Fake;

    /// A folder with notes, which go with it.
    struct Noted {
        notes: Notes,
        _folder: Scratch,
    }

    impl Noted {
        fn none() -> Self {
            let folder = Scratch::new();
            let [read, own] = ["read", "own"].map(|name| folder.path().join(name));
            Self {
                notes: Notes { read, own },
                _folder: folder,
            }
        }

        /// What an agent noted that read this much of a store.
        fn of(identity: &str, cursor: &Cursor) -> Self {
            let noted = Self::none();
            files::write_read(&noted.notes.read, identity, cursor).unwrap();
            noted
        }
    }

    async fn write(store: &MemoryStore, name: &str) {
        let put = Op::Put {
            key: Key::new(Kind::IPPool, name),
            value: "{}".into(),
            expect: Expect::Any,
        };
        store.write(put).await.unwrap();
    }

    async fn cursor(store: &MemoryStore) -> Cursor {
        store.list(Kind::Node, &Scope::All).await.unwrap().cursor
    }

    /// Looks until the wait ends, `looks` times at most; how often the pods were counted then and what the datastore is,
    /// `None` when it did not end.
    async fn waited(
        store: &MemoryStore,
        noted: &Noted,
        pods: usize,
        looks: usize,
        mut between: impl FnMut(usize),
    ) -> Option<(usize, Datastore)> {
        let (params, host) = (Params::from_env([]).unwrap(), Fake(Vec::new()));
        let startup = Startup {
            waits: crate::startup::Waits::default(),
            params: &params,
            host: &host,
            store: Arc::new(store.clone()),
            kubernetes: None,
        };
        let looked = AtomicUsize::new(0);
        let count = async || {
            looked.fetch_add(1, Ordering::Relaxed);
            Some(Living::of_pods(pods))
        };
        let waiting = startup.wait_while_unknown("n1", &noted.notes, count);
        tokio::pin!(waiting);
        for look in 0..looks {
            tokio::select! {
                ended = &mut waiting => {
                    return Some((looked.load(Ordering::Relaxed), ended.unwrap()));
                }
                () = tokio::time::sleep(RETRY) => between(look),
            }
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn a_datastore_that_holds_what_was_read_is_not_waited_for() {
        let store = MemoryStore::new();
        write(&store, "a").await;
        let identity = store.identity().await.unwrap();
        let noted = Noted::of(&identity, &cursor(&store).await);
        write(&store, "b").await;
        let known = Some((0, Datastore::Known));
        assert_eq!(waited(&store, &noted, 1, 1, |_| ()).await, known);
        assert_eq!(waited(&store, &Noted::none(), 1, 1, |_| ()).await, known);
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_copy_or_another_datastore_is_waited_for_while_pods_live_here() {
        let store = MemoryStore::new();
        write(&store, "a").await;
        let copy = store.copy();
        write(&store, "b").await;
        let identity = store.identity().await.unwrap();
        let newest = cursor(&store).await;
        let other = Noted::of("another", &newest);
        let older = Noted::of(&identity, &newest);
        store.restore(&copy);
        for noted in [&other, &older] {
            let before = store.revision();
            assert_eq!(waited(&store, noted, 1, 50, |_| ()).await, None);
            assert_eq!(store.revision(), before, "nothing is written meanwhile");
            let taken = Some((1, Datastore::Accepted));
            assert_eq!(waited(&store, noted, 0, 1, |_| ()).await, taken);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_ends_when_the_operator_accepts_the_datastore() {
        let store = MemoryStore::new();
        let noted = Noted::of("another", &cursor(&store).await);
        // What `tortiectl datastore accept` does.
        let accept = |look| {
            if look == 3 {
                std::fs::remove_file(&noted.notes.read).unwrap();
            }
        };
        let (looked, datastore) = waited(&store, &noted, 1, 50, accept).await.unwrap();
        assert!(looked > 3, "{looked:?}");
        assert_eq!(datastore, Datastore::Accepted);
        // Also for the next agent, should this one end before it has read everything.
        let again = waited(&store, &noted, 1, 1, |_| ()).await;
        assert_eq!(again, Some((0, Datastore::Accepted)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_copy_that_has_counted_further_since_lacks_writes_of_own_blocks() {
        let store = MemoryStore::new();
        let block = |sequence_number: u64, slot: Option<u8>| {
            let attributes = serde_json::json!([{"handle_id": "h", "secondary": {"node": "n1"}}]);
            let spec = serde_json::json!({"cidr": "10.0.0.0/32", "affinity": "host:n1",
                "allocations": [slot], "unallocated": [], "attributes": attributes,
                "sequenceNumber": sequence_number});
            serde_json::json!({"metadata": {"name": "10-0-0-0-32"}, "spec": spec}).to_string()
        };
        let key = Key::new(Kind::IPAMBlock, "10-0-0-0-32");
        let write = async |value: Option<String>| {
            let (key, expect) = (key.clone(), Expect::Any);
            let op = match value {
                Some(value) => Op::Put {
                    key,
                    value: value.into(),
                    expect,
                },
                None => Op::Delete { key, expect },
            };
            store.write(op).await.unwrap();
        };
        write(Some(block(7, Some(0)))).await;
        let identity = store.identity().await.unwrap();
        let noted = Noted::of(&identity, &cursor(&store).await);
        let mut own = Own::new("n1".to_owned());
        store.objects().iter().for_each(|object| own.put(object));
        own.save(&noted.notes.own).unwrap();
        // The pods that live in the tests' kernel hold 10.0.0.0 and what follows.
        for (now, pods, is_known) in [
            (Some(block(7, Some(0))), 1, true),
            (Some(block(8, None)), 1, true),
            (Some(block(6, None)), 1, false),
            (None, 1, false),
        ] {
            write(now.clone()).await;
            let waited = waited(&store, &noted, pods, 1, |_| ()).await;
            assert_eq!(waited.is_some(), is_known, "{now:?}");
        }
        // Without a pod the block may have been given up.
        let taken = waited(&store, &noted, 0, 1, |_| ()).await;
        assert_eq!(taken, Some((1, Datastore::Known)));
    }
}
