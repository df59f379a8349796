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
        let mut looked = 0_u32;
        while let Some((identity, cursor)) = files::note_of_read(note) {
            if self.holds(&identity, &cursor).await? {
                return Ok(());
            }
            let pods = self.living_pods().await;
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
