//! Packet rules of this node: what pods send out of all pools gets an address of the node, and what the node itself sends
//! into a tunnel gets the tunnel's; packets of tunnels and of pods are only taken from where they may come.

mod filter;
mod floating;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use api::bgp::BGPConfigurationSpec;
use bgp::config::Config;
use ipnet::IpNet;

use super::host::Host;
use super::local::{Local, Tunnel};
use super::pool::Pools;
use super::settings::{NatExclusions, Settings};
use super::workload::Workloads;
use crate::desired::{AddrKey, ElementKey};
use crate::ownership::{IPIP_DEVICE, vxlan_device};
use crate::rules::{Action, Chain, Family, Hook, Match, POSTROUTING, Rule, Ruleset};

/// `IPPROTO_TCP`, `IPPROTO_UDP`.
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Where Calico's chains stand: after the usual source NAT.
const NAT_PRIORITY: i32 = 110;
const NAT_OUTGOING: &str = "nat-cali-nat-outgoing";

/// Names of sets, Calico's.
struct Sets {
    /// Pools with `natOutgoing`.
    masqueraded: &'static str,
    /// All pools.
    pools: &'static str,
    /// Addresses of nodes.
    hosts: &'static str,
    /// Others that tunnel packets are taken from.
    external: &'static str,
    /// Ranges of Services' addresses.
    services: &'static str,
}

const fn sets(family: Family) -> &'static Sets {
    match family {
        Family::V4 => &SETS_V4,
        Family::V6 => &SETS_V6,
    }
}

const SETS_V4: Sets = Sets {
    masqueraded: "cali40masq-ipam-pools",
    pools: "cali40network-ip-pools",
    hosts: "cali40all-hosts-net",
    external: "cali40external-nodes",
    services: "cali40service-ips",
};
const SETS_V6: Sets = Sets {
    masqueraded: "cali60masq-ipam-pools",
    pools: "cali60network-ip-pools",
    hosts: "cali60all-hosts-net",
    external: "cali60external-nodes",
    services: "cali60service-ips",
};

/// What the rules follow from.
pub(super) struct Facts<'a> {
    pub(super) settings: &'a Settings,
    pub(super) local: &'a Local,
    pub(super) pools: &'a Pools,
    pub(super) hosts: &'a BTreeMap<String, Host>,
    pub(super) workloads: &'a Workloads,
    /// BGPConfiguration `default`, which has the ranges of Services' addresses.
    pub(super) services: Option<&'a BGPConfigurationSpec>,
    pub(super) peers: Option<&'a Config>,
    /// Peers that are pods of this node, and its own address on the device of each.
    pub(super) on_pods: &'a BTreeMap<IpAddr, AddrKey>,
}

impl Facts<'_> {
    /// The table of a family; none if the node has nothing of it.
    pub(super) fn table(&self, family: Family) -> Option<Ruleset> {
        if family == Family::V6 && !self.settings.ipv6_support {
            return None;
        }
        let mut ruleset = Ruleset::default();
        let mut postrouting = Vec::new();
        self.floating_ips(family, &mut ruleset, &mut postrouting);
        self.nat_outgoing(family, &mut ruleset, &mut postrouting);
        self.tunnel_masquerade(family, &mut postrouting);
        if !postrouting.is_empty() {
            ruleset.chains.push(Chain {
                name: "nat-POSTROUTING",
                hook: Some(Hook {
                    kind: "nat",
                    number: POSTROUTING,
                    priority: NAT_PRIORITY,
                }),
                rules: postrouting,
            });
        }
        self.filter(family, &mut ruleset);
        Some(ruleset)
    }

    /// What is in the address sets of a family's table.
    pub(super) fn elements(&self, family: Family, table: Option<&Ruleset>) -> Vec<ElementKey> {
        let set = sets(family).hosts;
        if !table.is_some_and(|table| table.address_sets.contains(set)) {
            return Vec::new();
        }
        let set: Arc<str> = Arc::from(set);
        let addresses = self.hosts.values().flat_map(Host::all_addresses);
        addresses
            .filter(|addr| Family::of(*addr) == family)
            .map(|addr| ElementKey {
                family,
                set: Arc::clone(&set),
                addr,
            })
            .collect()
    }

    /// The nodes, as sets that rules may ask.
    fn nodes(&self, family: Family, ruleset: &mut Ruleset) -> Vec<&'static str> {
        let sets = sets(family);
        let of_family = |range: &&IpNet| Family::of(range.addr()) == family;
        let external = self.settings.external_nodes.iter().filter(of_family);
        let external: Vec<IpNet> = external.copied().collect();
        ruleset.address_sets.insert(sets.hosts);
        if external.is_empty() {
            return vec![sets.hosts];
        }
        (ruleset.sets).insert(sets.external, IpNet::aggregate(&external));
        vec![sets.hosts, sets.external]
    }

    fn nat_outgoing(&self, family: Family, ruleset: &mut Ruleset, postrouting: &mut Vec<Rule>) {
        let of_family = |range: &IpNet| Family::of(range.addr()) == family;
        let masqueraded: Vec<IpNet> = self.pools.masqueraded().filter(of_family).collect();
        if masqueraded.is_empty() {
            return;
        }
        let sets = sets(family);
        let pools: Vec<IpNet> = self.pools.of_workloads().filter(of_family).collect();
        let mut matches = vec![
            Match::Source(sets.masqueraded),
            Match::NotDestination(sets.pools),
        ];
        (ruleset.sets).insert(sets.masqueraded, IpNet::aggregate(&masqueraded));
        (ruleset.sets).insert(sets.pools, IpNet::aggregate(&pools));
        if self.settings.nat_exclusions == NatExclusions::PoolsAndHosts {
            matches.extend((self.nodes(family, ruleset).into_iter()).map(Match::NotDestination));
        }
        if let Some(pattern) = &self.settings.nat_interface {
            matches.push(Match::OutputDevice(pattern.clone()));
        }
        let to = self.settings.nat_address.map(IpAddr::V4);
        let to = to.filter(|addr| Family::of(*addr) == family);
        let rules = self.translations(family, matches, |ports| match to {
            Some(addr) => Action::SourceNat(addr, ports),
            None => Action::Masquerade(ports),
        });
        ruleset.chains.push(Chain {
            name: NAT_OUTGOING,
            hook: None,
            rules,
        });
        postrouting.push(Rule {
            matches: Vec::new(),
            action: Action::Jump(NAT_OUTGOING),
        });
    }

    /// What the host sends into a tunnel under another of its addresses is answered past the tunnel otherwise.
    fn tunnel_masquerade(&self, family: Family, postrouting: &mut Vec<Rule>) {
        let ipip = self.local.ipip.filter(|_| family == Family::V4);
        let devices = [
            ipip.map(|_| IPIP_DEVICE),
            self.vxlan(family).map(|_| vxlan_device(family)),
        ];
        for device in devices.into_iter().flatten() {
            let matches = vec![
                Match::OutputDevice(device.into()),
                Match::SourceOfAnotherDevice,
            ];
            postrouting.extend(self.translations(family, matches, Action::Masquerade));
        }
    }

    /// The same translation with the ports that each transport protocol may use.
    fn translations(
        &self,
        family: Family,
        matches: Vec<Match>,
        action: impl Fn(Option<RangeInclusive<u16>>) -> Action,
    ) -> Vec<Rule> {
        let asked = self.settings.nat_ports.clone();
        let of_protocol = |protocol, ports: RangeInclusive<u16>| Rule {
            matches: [matches.clone(), vec![Match::Protocol(protocol)]].concat(),
            action: action(Some(ports)),
        };
        let tcp = asked.clone().map(|ports| of_protocol(TCP, ports));
        let udp = asked.or_else(|| self.beside_vxlan(family));
        let udp = udp.map(|ports| of_protocol(UDP, ports));
        let rest = Rule {
            matches: matches.clone(),
            action: action(None),
        };
        tcp.into_iter().chain(udp).chain([rest]).collect()
    }

    fn vxlan(&self, family: Family) -> Option<Tunnel> {
        self.local.families[family].vxlan
    }

    /// Ports without that of VXLAN: an answer to it would be taken for a tunnel's packet.
    fn beside_vxlan(&self, family: Family) -> Option<RangeInclusive<u16>> {
        self.vxlan(family)?;
        Some(match self.settings.vxlan_port.checked_add(1) {
            Some(first) => first.max(1024)..=u16::MAX,
            None => 1024..=u16::MAX - 1,
        })
    }
}
