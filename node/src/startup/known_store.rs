//! Whether the datastore is the one that an earlier agent of this node read.

use std::path::Path;
use std::time::Duration;

use datastore::version::Cursor;
use felix_io::workload;
use tracing::{info, warn};

use super::{Startup, StartupError, files};

/// How often an unknown datastore is looked at again.
const RETRY: Duration = Duration::from_secs(1);
/// A log line for every so many looks.
const LOG_EVERY: u32 = 30;

impl Startup<'_> {
    /// Waits while pods live here and the datastore lacks what an earlier agent read from it: it is another one or an
    /// older copy, and what it lacks is unknown. Without pods it is taken as it is.
    pub(super) async fn wait_for_known_store(&self, note: &Path) -> Result<(), StartupError> {
        self.wait_while_unknown(note, async || self.living_pods().await)
            .await
    }

    async fn wait_while_unknown(
        &self,
        note: &Path,
        living_pods: impl AsyncFn() -> usize,
    ) -> Result<(), StartupError> {
        let mut looked = 0_u32;
        while let Some((identity, cursor)) = files::note_of_read(note) {
            if self.holds(&identity, &cursor).await? {
                return Ok(());
            }
            let pods = living_pods().await;
            if pods == 0 {
                info!(
                    "the datastore is another one than before, or an older copy; no pod lives here, so it is taken"
                );
                return Ok(());
            }
            if looked.is_multiple_of(LOG_EVERY) {
                warn!(
                    pods,
                    note = %note.display(),
                    "the datastore lacks what was read from it before: it is another one, or an older copy; nothing is \
                     done until it is back, or until `tortiectl datastore accept`"
                );
            }
            looked += 1;
            tokio::time::sleep(RETRY).await;
        }
        Ok(())
    }

    async fn holds(&self, identity: &str, cursor: &Cursor) -> Result<bool, StartupError> {
        let failed = || self.failed("asking which datastore it is");
        let now = self.store.identity().await.map_err(failed())?;
        if *now != *identity {
            return Ok(false);
        }
        self.store.contains(cursor).await.map_err(failed())
    }

    /// Pods whose devices this node has.
    async fn living_pods(&self) -> usize {
        let mut pods = 0;
        for prefix in &self.params.interface_prefixes {
            match workload::host_ends(prefix.clone()).await {
                Ok(ends) => pods += ends.len(),
                // Unknown is not none.
                Err(error) => {
                    warn!(%error, "reading the pods' devices");
                    pods += 1;
                }
            }
        }
        pods
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use api::key::{Key, Kind};
    use api::params::Params;
    use datastore::memory::MemoryStore;
    use datastore::scope::Scope;
    use datastore::store::{Expect, Op, Store};

    use super::*;
    use crate::startup::tests::Fake;

    /// A folder with a note, which goes with it.
    struct Note(PathBuf);

    impl Note {
        /// What an agent noted that read this much of a store.
        fn of(test: &str, identity: &str, cursor: &Cursor) -> Self {
            let name = format!("tortie-note-{test}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            files::write_read(&path, identity, cursor).unwrap();
            Self(path)
        }
    }

    impl Drop for Note {
        fn drop(&mut self) {
            // A test may have removed it.
            let _ = std::fs::remove_file(&self.0);
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

    /// Looks until the wait ends, `looks` times at most; how often the pods were counted then, `None` when it did not end.
    async fn waited(
        store: &MemoryStore,
        note: &Path,
        pods: usize,
        looks: usize,
        mut between: impl FnMut(usize),
    ) -> Option<usize> {
        let (params, host) = (Params::from_env([]).unwrap(), Fake(Vec::new()));
        let startup = Startup {
            params: &params,
            host: &host,
            store: Arc::new(store.clone()),
            kubernetes: None,
        };
        let looked = AtomicUsize::new(0);
        let count = async || {
            looked.fetch_add(1, Ordering::Relaxed);
            pods
        };
        let waiting = startup.wait_while_unknown(note, count);
        tokio::pin!(waiting);
        for look in 0..looks {
            tokio::select! {
                ended = &mut waiting => {
                    ended.unwrap();
                    return Some(looked.load(Ordering::Relaxed));
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
        let note = Note::of("known", &identity, &cursor(&store).await);
        write(&store, "b").await;
        assert_eq!(waited(&store, &note.0, 1, 1, |_| ()).await, Some(0));
        let none = std::env::temp_dir().join("tortie-note-that-is-not-there");
        assert_eq!(waited(&store, &none, 1, 1, |_| ()).await, Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_copy_or_another_datastore_is_waited_for_while_pods_live_here() {
        let store = MemoryStore::new();
        write(&store, "a").await;
        let copy = store.copy();
        write(&store, "b").await;
        let identity = store.identity().await.unwrap();
        let newest = cursor(&store).await;
        let other = Note::of("other", "another", &newest);
        let older = Note::of("older", &identity, &newest);
        store.restore(&copy);
        for note in [&other, &older] {
            let before = store.revision();
            assert_eq!(waited(&store, &note.0, 1, 50, |_| ()).await, None);
            assert_eq!(store.revision(), before, "nothing is written meanwhile");
            assert_eq!(waited(&store, &note.0, 0, 1, |_| ()).await, Some(1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_ends_when_the_operator_accepts_the_datastore() {
        let store = MemoryStore::new();
        let note = Note::of("accepted", "another", &cursor(&store).await);
        // What `tortiectl datastore accept` does.
        let accept = |look| {
            if look == 3 {
                std::fs::remove_file(&note.0).unwrap();
            }
        };
        let looked = waited(&store, &note.0, 1, 50, accept).await;
        assert!(looked.is_some_and(|looked| looked > 3), "{looked:?}");
    }
}
