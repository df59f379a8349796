//! The task of one listening address: binds, retries, accepts, keeps the MD5 keys of the peers on the socket.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bgp::config::Config;
use bgp::types::PeerName;
use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tracing::warn;

use crate::driver::FromTask;
use crate::security::{Key, Security};
use crate::socket;
use crate::sockopt::set_md5;

/// Time between attempts to bind, and after a failed accept.
const RETRY_TIME: Duration = Duration::from_secs(3);

/// Where a configuration wants to be reached: its addresses, or else every IPv4 address, and every IPv6 address if a peer
/// has one.
pub(crate) fn addresses(config: &Config) -> Vec<SocketAddr> {
    let port = config.listen_port;
    if !config.listen_addresses.is_empty() {
        let addresses = config.listen_addresses.iter();
        return addresses
            .map(|address| SocketAddr::new(*address, port))
            .collect();
    }
    let mut all = vec![SocketAddr::from(([0, 0, 0, 0], port))];
    if config.peers.values().any(|peer| peer.address.is_ipv6()) {
        all.push(SocketAddr::from(([0u16; 8], port)));
    }
    all
}

/// Listens until it is dropped.
pub(crate) async fn run(
    address: SocketAddr,
    mut security: watch::Receiver<Security>,
    driver: mpsc::Sender<FromTask>,
) {
    let listener = bind(address, &driver).await;
    let bound = listener.local_addr().unwrap_or(address);
    let mut listening = Listening {
        listener,
        address: bound,
        applied: Security::default(),
        driver,
    };
    let wanted = security.borrow_and_update().clone();
    listening.apply(&wanted).await;
    let driver = listening.driver.clone();
    if driver.send(FromTask::Listening(bound)).await.is_err() {
        return;
    }
    loop {
        tokio::select! {
            changed = security.changed() => {
                if changed.is_err() {
                    return;
                }
                let wanted = security.borrow_and_update().clone();
                listening.apply(&wanted).await;
            }
            accepted = listening.listener.accept() => match accepted {
                Ok((stream, remote)) => {
                    let key = listening.applied.key_of(remote.ip()).cloned();
                    if driver.send(FromTask::Accepted { stream, remote, key }).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    // Out of descriptors, mostly: to try again at once would only burn the processor.
                    warn!(%address, %error, "accepting a BGP connection failed");
                    tokio::time::sleep(RETRY_TIME).await;
                }
            },
        }
    }
}

async fn bind(address: SocketAddr, driver: &mpsc::Sender<FromTask>) -> TcpListener {
    loop {
        match socket::listen(address) {
            Ok(listener) => return listener,
            Err(error) => {
                let error = error.to_string();
                // A driver that is gone drops this task, too.
                let _ = driver.send(FromTask::ListenFailed { address, error }).await;
                tokio::time::sleep(RETRY_TIME).await;
            }
        }
    }
}

/// A socket that listens, and what was set on it.
struct Listening {
    listener: TcpListener,
    address: SocketAddr,
    applied: Security,
    driver: mpsc::Sender<FromTask>,
}

impl Listening {
    async fn apply(&mut self, wanted: &Security) {
        let had = std::mem::take(&mut self.applied);
        let (had_keys, wanted_keys) = (had.keys(), wanted.keys());
        for (peers, key) in &had_keys {
            if !wanted_keys.contains_key(peers) {
                self.set_key(*peers, key, false).await;
            }
        }
        for (peers, key) in &wanted_keys {
            if had_keys.get(peers).map(|key| &key.password) != Some(&key.password) {
                self.set_key(*peers, key, true).await;
            }
        }
        if !wanted.full_ttl.is_empty()
            && let Err(error) = socket::set_ttl_sent(&self.listener, self.address.ip(), 255)
        {
            for peer in &wanted.full_ttl {
                self.refused(peer, "TTL 255", &error).await;
            }
        }
        self.applied = wanted.clone();
    }

    async fn set_key(&self, peers: IpNet, key: &Key, wanted: bool) {
        if peers.network().is_ipv4() != self.address.is_ipv4() {
            return;
        }
        let password = wanted.then_some(&key.password);
        if let Err(error) = set_md5(&self.listener, peers, password) {
            let what = format!("TCP MD5 key for {peers}");
            self.refused(&key.peer, &what, &error).await;
        }
    }

    async fn refused(&self, peer: &PeerName, what: &str, error: &io::Error) {
        let message = FromTask::Refused {
            peer: peer.clone(),
            fault: format!("listening on {}: {what}: {error}", self.address),
        };
        // A driver that is gone drops this task, too.
        let _ = self.driver.send(message).await;
    }
}
