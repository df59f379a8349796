//! Packet rules of this node: what pods send out of all pools gets an address of the node, and what the node itself sends
//! into a tunnel gets the tunnel's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::host::Host;
use super::local::{Local, Tunnel};
use super::pool::Pools;
use super::settings::{NatExclusions, Settings};
use crate::ownership::{IPIP_DEVICE, vxlan_device};
use crate::rules::{
    Action, Chain, Family, Hook, Match, OUTPUT, POSTROUTING, PREROUTING, Rule, Ruleset,
};

/// `IPPROTO_TCP`, `IPPROTO_UDP`.
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Where Calico's chains stand: after the usual source NAT.
const NAT_PRIORITY: i32 = 110;
/// Before connections are tracked.
const RAW_PRIORITY: i32 = -300;
const NAT_OUTGOING: &str = "nat-cali-nat-outgoing";

/// Names of sets, Calico's.
struct Sets {
    /// Pools with `natOutgoing`.
    masqueraded: &'static str,
    /// All pools.
    pools: &'static str,
    /// Nodes.
    hosts: &'static str,
}

const SETS_V4: Sets = Sets {
    masqueraded: "cali40masq-ipam-pools",
    pools: "cali40network-ip-pools",
    hosts: "cali40all-hosts-net",
};
const SETS_V6: Sets = Sets {
    masqueraded: "cali60masq-ipam-pools",
    pools: "cali60network-ip-pools",
    hosts: "cali60all-hosts-net",
};

/// What the rules follow from.
pub(super) struct Facts<'a> {
    pub(super) settings: &'a Settings,
    pub(super) local: &'a Local,
    pub(super) pools: &'a Pools,
    pub(super) hosts: &'a BTreeMap<String, Host>,
}

impl Facts<'_> {
    /// The table of a family; none if no rule is needed.
    pub(super) fn table(&self, family: Family) -> Option<Ruleset> {
        if family == Family::V6 && !self.settings.ipv6_support {
            return None;
        }
        let mut ruleset = Ruleset::default();
        let mut postrouting = Vec::new();
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
        self.untracked(family, &mut ruleset);
        (!ruleset.chains.is_empty()).then_some(ruleset)
    }

    fn nat_outgoing(&self, family: Family, ruleset: &mut Ruleset, postrouting: &mut Vec<Rule>) {
        let of_family = |range: &IpNet| Family::of(range.addr()) == family;
        let masqueraded: Vec<IpNet> = self.pools.masqueraded().filter(of_family).collect();
        if masqueraded.is_empty() {
            return;
        }
        let sets = match family {
            Family::V4 => &SETS_V4,
            Family::V6 => &SETS_V6,
        };
        let pools: Vec<IpNet> = self.pools.of_workloads().filter(of_family).collect();
        let mut matches = vec![
            Match::Source(sets.masqueraded),
            Match::NotDestination(sets.pools),
        ];
        (ruleset.sets).insert(sets.masqueraded, IpNet::aggregate(&masqueraded));
        (ruleset.sets).insert(sets.pools, IpNet::aggregate(&pools));
        if self.settings.nat_exclusions == NatExclusions::PoolsAndHosts {
            let hosts = self.hosts.values().flat_map(Host::addresses);
            let hosts: BTreeSet<IpNet> = hosts.map(IpNet::from).filter(of_family).collect();
            let hosts: Vec<IpNet> = hosts.into_iter().collect();
            (ruleset.sets).insert(sets.hosts, IpNet::aggregate(&hosts));
            matches.push(Match::NotDestination(sets.hosts));
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

    /// The two directions between two VXLAN devices have unrelated ports: tracked, they would only fill the table.
    fn untracked(&self, family: Family, ruleset: &mut Ruleset) {
        if self.vxlan(family).is_none() {
            return;
        }
        for (name, number) in [("raw-PREROUTING", PREROUTING), ("raw-OUTPUT", OUTPUT)] {
            ruleset.chains.push(Chain {
                name,
                hook: Some(Hook {
                    kind: "filter",
                    number,
                    priority: RAW_PRIORITY,
                }),
                rules: vec![Rule {
                    matches: vec![
                        Match::Protocol(UDP),
                        Match::DestinationPort(self.settings.vxlan_port),
                    ],
                    action: Action::NoTrack,
                }],
            });
        }
    }
}
