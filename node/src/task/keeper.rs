//! Keeps what start-up wrote true: the node's address, its tunnel addresses, the MTU file. What is there when the process
//! starts stays until the calculation knows every fact.

use std::sync::Arc;
use std::time::Duration;

use api::params::Params;
use datastore::store::Store;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::startup::host::LiveHost;
use crate::startup::{Startup, chain, files};
use crate::task::calc::CalcView;

/// After a failure it is tried again this soon.
const RETRY_EVERY: Duration = Duration::from_secs(5);

/// What the task is made of.
pub struct Keeper {
    /// Settings.
    pub params: Arc<Params>,
    /// Node name.
    pub node: String,
    /// Objects.
    pub store: Arc<dyn Store>,
    /// Tells of changed pools and of the MTU.
    pub view: watch::Receiver<CalcView>,
    /// MTU for pods while the graph knows none.
    pub last_mtu_bytes: Option<u32>,
    /// End of the process.
    pub cancel: CancellationToken,
}

impl Keeper {
    /// Runs until the token is cancelled.
    pub async fn run(self) {
        let cancel = self.cancel.clone();
        tokio::select! {
            () = self.keep() => {}
            () = cancel.cancelled() => {}
        }
    }

    async fn keep(mut self) {
        let every = self
            .params
            .autodetect_poll_interval
            .max(Duration::from_secs(1));
        let mut poll = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
        let mut pools_done = 0;
        let mut mtu_written = None;
        let mut retry = false;
        if self.view.wait_for(|view| view.in_sync).await.is_err() {
            return;
        }
        loop {
            let (pools, mtu) = {
                let view = self.view.borrow_and_update();
                (view.pools_generation, view.pod_mtu_bytes)
            };
            let mut failed = false;
            if let Some(mtu) = mtu.or(self.last_mtu_bytes)
                && mtu_written != Some(mtu)
            {
                match files::write_mtu(mtu) {
                    Ok(()) => mtu_written = Some(mtu),
                    Err(error) => {
                        warn!(error = chain(&error), "MTU file; trying again");
                        failed = true;
                    }
                }
            }
            if pools != pools_done || retry {
                failed |= !self.tunnels().await;
                pools_done = pools;
            }
            retry = failed;
            tokio::select! {
                changed = self.view.changed() => if changed.is_err() { return },
                _ = poll.tick() => self.address().await,
                () = tokio::time::sleep(RETRY_EVERY), if retry => {}
            }
        }
    }

    async fn tunnels(&self) -> bool {
        let Ok(host) = LiveHost::read() else {
            return false;
        };
        let startup = Startup {
            params: &self.params,
            host: &host,
            store: Arc::clone(&self.store),
        };
        match startup.refresh_tunnels(&self.node).await {
            Ok(()) => true,
            Err(error) => {
                warn!(error = chain(&error), "tunnel addresses");
                false
            }
        }
    }

    async fn address(&self) {
        let host = match LiveHost::read() {
            Ok(host) => host,
            Err(error) => {
                warn!(%error, "reading the host's interfaces");
                return;
            }
        };
        let startup = Startup {
            params: &self.params,
            host: &host,
            store: Arc::clone(&self.store),
        };
        if let Err(error) = startup.refresh(&self.node).await {
            warn!(error = chain(&error), "node address");
        }
    }
}
