//! The task of one listening address: binds, retries, accepts, keeps the MD5 keys of the peers on the socket.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bgp::config::{Config, Password};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tracing::warn;

use crate::driver::FromTask;
use crate::socket;
use crate::sockopt::set_md5;

/// Time between attempts to bind, and after a failed accept.
const RETRY_TIME: Duration = Duration::from_secs(3);

/// What a listening socket needs to know of the peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Security {
    keys: BTreeMap<IpAddr, Password>,
    /// Some peer takes only segments with TTL 255 (RFC 5082), the SYN-ACK included.
    full_ttl: bool,
}

impl Security {
    pub(crate) fn of(config: &Config) -> Self {
        let key = |peer: &bgp::config::PeerConfig| {
            let is_one = peer.options.dynamic.is_none();
            Some((peer.address, peer.password.clone().filter(|_| is_one)?))
        };
        Self {
            keys: config.peers.values().filter_map(key).collect(),
            full_ttl: config
                .peers
                .values()
                .any(|peer| peer.ttl_security.is_some()),
        }
    }
}

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
    let mut applied = Security::default();
    apply(
        &listener,
        address,
        &mut applied,
        &security.borrow_and_update().clone(),
    );
    let bound = listener.local_addr().unwrap_or(address);
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
                apply(&listener, address, &mut applied, &wanted);
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, remote)) => {
                    if driver.send(FromTask::Accepted(stream, remote)).await.is_err() {
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

fn apply(listener: &TcpListener, address: SocketAddr, applied: &mut Security, wanted: &Security) {
    let mut failed = Vec::new();
    for peer in applied.keys.keys() {
        if !wanted.keys.contains_key(peer) && same_family(*peer, address) {
            failed.extend(
                set_md5(listener, *peer, None)
                    .err()
                    .map(|error| (*peer, error)),
            );
        }
    }
    for (peer, key) in &wanted.keys {
        if applied.keys.get(peer) != Some(key) && same_family(*peer, address) {
            failed.extend(
                set_md5(listener, *peer, Some(key))
                    .err()
                    .map(|error| (*peer, error)),
            );
        }
    }
    for (peer, error) in failed {
        warn!(%address, %peer, %error, "TCP MD5 key of a peer cannot be set; its connections fail");
    }
    if wanted.full_ttl
        && !applied.full_ttl
        && let Err(error) = socket::set_ttl_sent(listener, address.ip(), 255)
    {
        warn!(%address, %error, "TTL 255 cannot be set; peers with ttlSecurity cannot connect");
    }
    *applied = wanted.clone();
}

fn same_family(peer: IpAddr, listening: SocketAddr) -> bool {
    peer.is_ipv4() == listening.is_ipv4()
}
