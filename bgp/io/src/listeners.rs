//! The listening sockets that a configuration wants, and how one set of them follows another without a gap.
//!
//! A new socket may bind to a part of what an old one has, or to more: `0.0.0.0:179` after `10.0.0.1:179`. Both bear
//! SO_REUSEPORT for that moment only, so that another program never shares our port unseen; the old one goes when the new one
//! listens, or cannot.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bgp::config::Config;
use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tracing::debug;

use crate::driver::FromTask;
use crate::listener;
use crate::security::Security;
use crate::socket::Port;

/// See the module.
pub(crate) struct Listeners {
    wanted: BTreeMap<SocketAddr, Listener>,
    /// Wanted no more, and still listening until the others do.
    retiring: BTreeMap<SocketAddr, Listener>,
}

struct Listener {
    task: AbortHandle,
    /// Once it listens.
    socket: Option<Arc<TcpListener>>,
    /// It listens, or failed to.
    is_settled: bool,
}

impl Listeners {
    pub(crate) const fn new() -> Self {
        Self {
            wanted: BTreeMap::new(),
            retiring: BTreeMap::new(),
        }
    }

    /// Starts and ends what a new configuration asks for; gives the addresses that are wanted no more.
    pub(crate) fn configure(
        &mut self,
        config: &Config,
        security: &watch::Sender<Security>,
        driver: &mpsc::Sender<FromTask>,
        tasks: &mut JoinSet<()>,
    ) -> Vec<SocketAddr> {
        let wanted = listener::addresses(config);
        let gone = self
            .wanted
            .extract_if(.., |address, _| !wanted.contains(address));
        let mut not_wanted = Vec::new();
        for (address, old) in gone {
            not_wanted.push(address);
            if old.share(true) {
                self.retiring.insert(address, old);
            } else {
                old.task.abort();
            }
        }
        for address in wanted {
            if let Some(old) = self.retiring.remove(&address) {
                old.share(false);
                self.wanted.insert(address, old);
            }
            let port = if self.retiring.is_empty() {
                Port::Exclusive
            } else {
                Port::SharedUntilListening
            };
            self.wanted.entry(address).or_insert_with(|| {
                let task = listener::run(address, port, security.subscribe(), driver.clone());
                Listener {
                    task: tasks.spawn(task),
                    socket: None,
                    is_settled: false,
                }
            });
        }
        self.retire();
        not_wanted
    }

    /// What became of an attempt to listen.
    pub(crate) fn settled(&mut self, address: SocketAddr, socket: Option<Arc<TcpListener>>) {
        if let Some(listener) = self.wanted.get_mut(&address) {
            listener.socket = socket;
            listener.is_settled = true;
        }
        self.retire();
    }

    fn retire(&mut self) {
        if self.wanted.values().all(|listener| listener.is_settled) {
            for old in std::mem::take(&mut self.retiring).into_values() {
                old.task.abort();
            }
        }
    }
}

impl Listener {
    /// Lets others bind to its port, or no longer; false when it does not listen itself.
    fn share(&self, shared: bool) -> bool {
        let Some(socket) = &self.socket else {
            return false;
        };
        let result: io::Result<()> = SockRef::from(&**socket).set_reuse_port(shared);
        if let Err(error) = &result {
            debug!(%error, shared, "SO_REUSEPORT");
        }
        result.is_ok()
    }
}
