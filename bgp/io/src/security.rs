//! What sockets need to know of the peers: TCP MD5 keys (RFC 2385) by far address, and who wants full TTLs (RFC 5082).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bgp::config::{Config, Endpoint, Password};
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
    /// Of single addresses: the kernel has one key for each. `None` where no peer has one.
    peers: BTreeMap<IpAddr, Option<Key>>,
    /// Of single peers: what connections that we open to them have.
    endpoints: BTreeMap<Endpoint, Option<Key>>,
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
            let key = peer.password.clone().map(|password| Key {
                password,
                peer: name.clone(),
            });
            match (peer.options.dynamic, key) {
                (Some(dynamic), Some(key)) => {
                    security.ranges.entry(dynamic.range.trunc()).or_insert(key);
                }
                (Some(_), None) => {}
                (None, key) => {
                    let of_address = security.peers.entry(peer.address).or_default();
                    *of_address = of_address.take().or_else(|| key.clone());
                    security.endpoints.entry(peer.endpoint()).or_insert(key);
                }
            }
        }
        security
    }

    /// The key that a listening socket has for a far address, found as the kernel does: by the longest prefix.
    pub(crate) fn listening_key(&self, address: IpAddr) -> Option<&Key> {
        let of_peer = self.peers.get(&address).and_then(Option::as_ref);
        of_peer.or_else(|| self.range_key(address))
    }

    fn range_key(&self, address: IpAddr) -> Option<&Key> {
        let around = |(range, _): &(&IpNet, &Key)| range.contains(&address);
        let ranges = self.ranges.iter().filter(around);
        let (_, key) = ranges.max_by_key(|(range, _)| range.prefix_len())?;
        Some(key)
    }

    /// The key that a connection with a far end is to have, which now has this one. `opened` is to whom, if it was us.
    /// A range's key is for those who came by the range: a configured peer without a key keeps what it came with.
    pub(crate) fn key_for<'a>(
        &'a self,
        address: IpAddr,
        opened: Option<Endpoint>,
        present: Option<&'a Key>,
    ) -> Option<&'a Key> {
        if let Some(endpoint) = opened {
            let of_peer = self.endpoints.get(&endpoint);
            return of_peer.map_or(present, Option::as_ref);
        }
        match self.peers.get(&address) {
            Some(Some(key)) => Some(key),
            Some(None) => {
                let by_range = |key: &&Key| self.ranges.values().any(|of| of.peer == key.peer);
                present.filter(by_range)
            }
            None => self.range_key(address),
        }
    }

    /// Every key with the addresses it is for.
    pub(crate) fn keys(&self) -> BTreeMap<IpNet, &Key> {
        let peers = self.peers.iter();
        let peers = peers.filter_map(|(address, key)| Some((IpNet::from(*address), key.as_ref()?)));
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
        let security = Security {
            peers: [("10.0.0.7".parse().unwrap(), Some(key("one")))].into(),
            ranges: [
                ("10.0.0.0/8".parse().unwrap(), key("wide")),
                ("10.0.0.0/24".parse().unwrap(), key("narrow")),
            ]
            .into(),
            ..Security::default()
        };
        for (address, name) in [
            ("10.0.0.7", Some("one")),
            ("10.0.0.8", Some("narrow")),
            ("10.0.1.8", Some("wide")),
            ("11.0.0.7", None),
        ] {
            let found = security.listening_key(address.parse().unwrap());
            assert_eq!(found.map(|key| &*key.peer.0), name, "{address}");
        }
        assert_eq!(security.keys().len(), 3);
    }

    fn key(text: &str) -> Key {
        Key {
            password: Password(text.into()),
            peer: PeerName(text.into()),
        }
    }

    #[test]
    fn a_connection_has_the_key_of_its_own_peer_and_a_ranges_only_if_it_came_by_the_range() {
        let at: IpAddr = "10.0.0.7".parse().unwrap();
        let endpoint = |port| Endpoint {
            address: at,
            scope_id: 0,
            port,
        };
        let plain = Security {
            peers: [(at, None)].into(),
            endpoints: [(endpoint(179), None)].into(),
            ranges: [("10.0.0.0/24".parse().unwrap(), key("range"))].into(),
            ..Security::default()
        };
        let (range, old) = (key("range"), key("old"));
        assert_eq!(plain.key_for(at, Some(endpoint(179)), None), None);
        assert_eq!(
            plain.key_for(at, None, None),
            None,
            "a live session without"
        );
        assert_eq!(plain.key_for(at, None, Some(&old)), None, "taken away");
        assert_eq!(plain.key_for(at, None, Some(&range)), Some(&range));
        let other: IpAddr = "10.0.0.8".parse().unwrap();
        assert_eq!(plain.key_for(other, None, None), Some(&range));
        let two = Security {
            peers: [(at, Some(key("a")))].into(),
            endpoints: [
                (endpoint(179), Some(key("a"))),
                (endpoint(1790), Some(key("b"))),
            ]
            .into(),
            ..Security::default()
        };
        let name = |opened| two.key_for(at, opened, None).map(|key| &*key.peer.0);
        assert_eq!(name(Some(endpoint(179))), Some("a"));
        assert_eq!(name(Some(endpoint(1790))), Some("b"));
        assert_eq!(name(None), Some("a"), "the kernel has one for an address");
    }
}
