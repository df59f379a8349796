//! What sockets need to know of the peers: TCP MD5 keys (RFC 2385) by far address, and who wants full TTLs (RFC 5082).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bgp::config::{Config, Password};
use bgp::types::PeerName;
use ipnet::IpNet;

/// A key, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) password: Password,
    pub(crate) peer: PeerName,
}

/// Taken from a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Security {
    /// Of single addresses.
    peers: BTreeMap<IpAddr, Key>,
    /// Of ranges from which anybody may connect.
    ranges: BTreeMap<IpNet, Key>,
    /// Take only segments with TTL 255 less some hops (RFC 5082), the SYN-ACK included.
    pub(crate) full_ttl: BTreeSet<PeerName>,
}

impl Security {
    pub(crate) fn of(config: &Config) -> Self {
        let mut security = Self::default();
        for (name, peer) in &config.peers {
            if peer.ttl_security.is_some() {
                security.full_ttl.insert(name.clone());
            }
            let Some(password) = peer.password.clone() else {
                continue;
            };
            let key = Key {
                password,
                peer: name.clone(),
            };
            match peer.options.dynamic {
                Some(dynamic) => {
                    security.ranges.entry(dynamic.range.trunc()).or_insert(key);
                }
                None => {
                    security.peers.insert(peer.address, key);
                }
            }
        }
        security
    }

    /// The key for one far address, found as the kernel does: by the longest prefix.
    pub(crate) fn key_of(&self, address: IpAddr) -> Option<&Key> {
        self.peers.get(&address).or_else(|| {
            let around = |(range, _): &(&IpNet, &Key)| range.contains(&address);
            let ranges = self.ranges.iter().filter(around);
            let (_, key) = ranges.max_by_key(|(range, _)| range.prefix_len())?;
            Some(key)
        })
    }

    /// Every key with the addresses it is for.
    pub(crate) fn keys(&self) -> BTreeMap<IpNet, &Key> {
        let peers = self.peers.iter();
        let peers = peers.map(|(address, key)| (IpNet::from(*address), key));
        self.ranges
            .iter()
            .map(|(range, key)| (*range, key))
            .chain(peers)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_has_the_key() {
        let key = |text: &str| Key {
            password: Password(text.into()),
            peer: PeerName(text.into()),
        };
        let security = Security {
            peers: [("10.0.0.7".parse().unwrap(), key("one"))].into(),
            ranges: [
                ("10.0.0.0/8".parse().unwrap(), key("wide")),
                ("10.0.0.0/24".parse().unwrap(), key("narrow")),
            ]
            .into(),
            full_ttl: BTreeSet::new(),
        };
        for (address, name) in [
            ("10.0.0.7", Some("one")),
            ("10.0.0.8", Some("narrow")),
            ("10.0.1.8", Some("wide")),
            ("11.0.0.7", None),
        ] {
            let found = security.key_of(address.parse().unwrap());
            assert_eq!(found.map(|key| &*key.peer.0), name, "{address}");
        }
        assert_eq!(security.keys().len(), 3);
    }
}
