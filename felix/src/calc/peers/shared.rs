//! Addresses that more than one Node object has. At most one of these nodes can have it on the network. An object that an
//! agent wrote counts before one that none did, then the oldest: a node does not start with an address that another Node
//! object has.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::key::{Key, Kind};

use super::super::host::Host;
use super::super::problem::{Problem, Reason};
use super::problem;

/// Who has which address.
#[derive(Debug)]
pub(super) struct Holders<'a> {
    /// Names of nodes, the one that counts first.
    by_address: BTreeMap<IpAddr, Vec<&'a str>>,
}

impl<'a> Holders<'a> {
    pub(super) fn of(hosts: &'a BTreeMap<String, Host>) -> Self {
        let mut in_order: Vec<(&String, &Host)> = hosts.iter().collect();
        in_order.sort_by_key(|(name, host)| {
            let created = host.created.as_deref();
            (!host.by_agent, created.is_none(), created, *name)
        });
        let mut by_address: BTreeMap<IpAddr, Vec<&str>> = BTreeMap::new();
        for (name, host) in in_order {
            for address in host.addresses() {
                by_address.entry(address).or_default().push(name);
            }
        }
        Self { by_address }
    }

    /// The node whose sessions an address has.
    pub(super) fn holder(&self, address: IpAddr) -> Option<&'a str> {
        self.by_address.get(&address)?.first().copied()
    }

    /// One for each Node object that shares an address with another.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let shared = self.by_address.iter().filter(|(_, names)| names.len() > 1);
        let of_node = |address: IpAddr, names: &[&str], name: &str| {
            let field = match address {
                IpAddr::V4(_) => "spec.bgp.ipv4Address",
                IpAddr::V6(_) => "spec.bgp.ipv6Address",
            };
            let others = names.iter().filter(|other| **other != name);
            let reason = Reason::AddressShared {
                address,
                others: others.map(|other| (*other).to_owned()).collect(),
                holder: names[0].to_owned(),
            };
            problem(&Key::new(Kind::Node, name), field, reason)
        };
        shared
            .flat_map(|(address, names)| names.iter().map(|name| of_node(*address, names, name)))
            .collect()
    }
}
