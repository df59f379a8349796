//! The task of one listening address: binds, retries, accepts, keeps the MD5 keys of the peers on the socket.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bgp::config::{Config, PeerConfig};
use bgp::types::PeerName;
use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tracing::warn;

use crate::driver::FromTask;
use crate::security::{Key, Security};
use crate::socket::{self, Port};
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
    let is_ipv6 = |peer: &PeerConfig| match peer.options.dynamic {
        Some(dynamic) => dynamic.range.network().is_ipv6(),
        None => peer.address.is_ipv6(),
    };
    if config.peers.values().any(is_ipv6) {
        all.push(SocketAddr::from(([0u16; 8], port)));
    }
    all
}

/// Listens until it is dropped.
pub(crate) async fn run(
    address: SocketAddr,
    port: Port,
    mut security: watch::Receiver<Security>,
    driver: mpsc::Sender<FromTask>,
) {
    let listener = Arc::new(bind(address, port, &driver).await);
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
    let socket = Arc::clone(&listening.listener);
    let listens = FromTask::Listening {
        wanted: address,
        bound,
        socket,
    };
    if driver.send(listens).await.is_err() {
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
                    let key = listening.applied.listening_key(remote.ip()).cloned();
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

async fn bind(address: SocketAddr, mut port: Port, driver: &mpsc::Sender<FromTask>) -> TcpListener {
    loop {
        match socket::listen(address, port) {
            Ok(listener) => return listener,
            Err(error) => {
                let error = error.to_string();
                // A driver that is gone drops this task, too.
                let _ = driver.send(FromTask::ListenFailed { address, error }).await;
                // The socket that this one follows is gone by then.
                port = Port::Exclusive;
                tokio::time::sleep(RETRY_TIME).await;
            }
        }
    }
}

/// A socket that listens, and what was set on it.
struct Listening {
    listener: Arc<TcpListener>,
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
            && let Err(error) = socket::set_ttl_sent(&*self.listener, self.address.ip(), 255)
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
        if let Err(error) = set_md5(&*self.listener, peers, password) {
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::{IpAddr, Ipv4Addr};

    use bgp::config::{DynamicRange, NextHopMode, PeerOptions, RoutePolicy};
    use bgp::types::{AfiSafi, Asn, RouterId};

    use super::*;

    #[test]
    fn a_template_is_listened_for_by_its_range_whatever_its_own_address() {
        let template = PeerConfig {
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port: 179,
            local_address: None,
            asn: Asn(64512),
            local_asn: None,
            families: BTreeSet::from([AfiSafi::Ipv6Unicast]),
            passive: true,
            hold_time: Duration::from_secs(240),
            connect_retry_time: Duration::from_secs(5),
            password: None,
            ttl_security: None,
            multihop: true,
            route_reflector_client: false,
            next_hop: NextHopMode::Auto,
            allow_own_as: 0,
            graceful_restart: true,
            restart_time: None,
            prefix_limit: None,
            import: RoutePolicy::accept_all(),
            export: RoutePolicy::accept_all(),
            options: PeerOptions {
                dynamic: Some(DynamicRange {
                    range: "2001:db8::/64".parse().unwrap(),
                    limit: 8,
                }),
                ..PeerOptions::default()
            },
        };
        let mut config = Config {
            asn: Asn(64512),
            router_id: RouterId(Ipv4Addr::new(10, 0, 0, 1)),
            listen_port: 179,
            listen_addresses: BTreeSet::new(),
            cluster_id: None,
            restart_time: Duration::from_secs(120),
            deferral_time: Duration::from_secs(120),
            multipath: 1,
            peers: BTreeMap::from([(PeerName("range".into()), template)]),
        };
        let v4: SocketAddr = "0.0.0.0:179".parse().unwrap();
        assert_eq!(addresses(&config), [v4, "[::]:179".parse().unwrap()]);
        config.peers.clear();
        assert_eq!(addresses(&config), [v4]);
    }
}
