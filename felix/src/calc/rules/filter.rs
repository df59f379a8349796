//! Packets that go no further: those of tunnels that no node sent, and those of pods under addresses that are not theirs.

use std::sync::Arc;

use api::params::ServiceLoopPrevention;
use ipnet::IpNet;

use super::{Facts, TCP, UDP, sets};
use crate::rules::{
    Action, Chain, FORWARD, Family, Hook, INPUT, Match, OUTPUT, PREROUTING, Rule, Ruleset,
};

/// `IPPROTO_IPIP`, `IPPROTO_ICMPV6`.
const IPIP: u8 = 4;
const ICMPV6: u8 = 58;
/// Before connections are tracked.
const RAW_PRIORITY: i32 = -300;
/// Where filters stand.
const FILTER_PRIORITY: i32 = 0;
/// After other programs' filters: kube-proxy refuses what is for a Service without endpoints, which tells the sender.
const SERVICES_PRIORITY: i32 = 10;
const SERVICES: &str = "filter-cali-cidr-block";
const SOURCES: &str = "raw-cali-rpf-skip";
const FROM_WORKLOADS: &str = "raw-cali-from-workloads";
const TO_HOST: &str = "filter-cali-wl-to-host";

impl Facts<'_> {
    pub(super) fn filter(&self, family: Family, ruleset: &mut Ruleset) {
        let untracked = self.untracked(family);
        let workloads = self.workloads_chain(family, ruleset);
        ruleset.chains.push(workloads);
        let raw = self.at_workloads(FROM_WORKLOADS);
        let raw = raw.chain(untracked.clone()).collect();
        ruleset
            .chains
            .push(base("raw-PREROUTING", PREROUTING, RAW_PRIORITY, raw));
        if let Some(untracked) = untracked {
            let rules = vec![untracked];
            (ruleset.chains).push(base("raw-OUTPUT", OUTPUT, RAW_PRIORITY, rules));
        }
        let mut input = self.tunnels_from_strangers(family, ruleset);
        if !self.settings.pods_reach_host {
            ruleset.chains.push(self.to_host(family));
            input.extend(self.at_workloads(TO_HOST));
        }
        if !input.is_empty() {
            (ruleset.chains).push(base("filter-INPUT", INPUT, FILTER_PRIORITY, input));
        }
        self.service_loops(family, ruleset);
    }

    /// Routers send what is for Services' addresses to a node; what no program there translated would go back to them.
    fn service_loops(&self, family: Family, ruleset: &mut Ruleset) {
        let action = match self.settings.service_loops {
            ServiceLoopPrevention::Drop => Action::Drop,
            ServiceLoopPrevention::Reject => Action::Reject,
            ServiceLoopPrevention::Disabled => return,
        };
        let ranges = self
            .services
            .into_iter()
            .flat_map(|spec| spec.service_ranges());
        let ranges: Vec<IpNet> = ranges
            .filter(|range| Family::of(range.addr()) == family)
            .collect();
        if ranges.is_empty() {
            return;
        }
        let set = sets(family).services;
        ruleset.sets.insert(set, IpNet::aggregate(&ranges));
        let rule = Rule {
            matches: vec![Match::Destination(set)],
            action,
        };
        ruleset.chains.push(chain(SERVICES, vec![rule]));
        let rules = vec![Rule {
            matches: Vec::new(),
            action: Action::Jump(SERVICES),
        }];
        (ruleset.chains).push(base("filter-FORWARD", FORWARD, SERVICES_PRIORITY, rules));
    }

    /// What pods may send under prefixes that are not theirs; whether there is any.
    fn sources(&self, family: Family, ruleset: &mut Ruleset) -> bool {
        if !self.settings.source_spoofing {
            return false;
        }
        let rules = self.workloads.sources();
        let rules = rules.filter(|(_, prefix)| Family::of(prefix.addr()) == family);
        let mut rules: Vec<Rule> = rules
            .map(|(ifname, prefix)| Rule {
                matches: vec![
                    Match::InputDevice(Arc::clone(&ifname.0)),
                    Match::SourceWithin(prefix),
                ],
                action: Action::Return,
            })
            .collect();
        if rules.is_empty() {
            return false;
        }
        rules.push(drop(vec![Match::NoReversePath]));
        ruleset.chains.push(chain(SOURCES, rules));
        true
    }

    /// What pods send goes to a chain first.
    fn at_workloads(&self, chain: &'static str) -> impl Iterator<Item = Rule> {
        let prefixes = self.settings.interface_prefixes.iter();
        prefixes.map(move |prefix| Rule {
            matches: vec![Match::InputDevice(format!("{prefix}+").into())],
            action: Action::Jump(chain),
        })
    }

    /// A pod sends under its own addresses, and no tunnel's packets: masqueraded, they would be its node's.
    fn workloads_chain(&self, family: Family, ruleset: &mut Ruleset) -> Chain {
        let reverse_path = if self.sources(family, ruleset) {
            Rule {
                matches: Vec::new(),
                action: Action::Jump(SOURCES),
            }
        } else {
            drop(vec![Match::NoReversePath])
        };
        let mut dropped = Vec::new();
        if family == Family::V4 && !self.settings.ipip_from_pods {
            dropped.push(vec![Match::Protocol(IPIP)]);
        }
        if !self.settings.vxlan_from_pods {
            dropped.push(self.to_vxlan());
        }
        let rules = [reverse_path]
            .into_iter()
            .chain(dropped.into_iter().map(drop));
        chain(FROM_WORKLOADS, rules.collect())
    }

    /// What pods send to their own node: answers, how they find their IPv6 gateway, and their sessions of BGP with it.
    fn to_host(&self, family: Family) -> Chain {
        let mut taken = vec![vec![Match::Established]];
        if family == Family::V6 {
            // Listeners' reports and router solicitations; neighbour solicitations and advertisements (RFC 2710, RFC 4861).
            for types in [130..=133, 135..=136] {
                taken.push(vec![Match::Protocol(ICMPV6), Match::IcmpType(types)]);
            }
        }
        if let Some(config) = self.peers {
            let of_family = self
                .on_pods
                .values()
                .filter(|key| Family::of(key.addr.addr()) == family);
            taken.extend(of_family.map(|key| {
                vec![
                    Match::InputDevice(Arc::clone(&key.ifname.0)),
                    Match::Protocol(TCP),
                    Match::DestinationPort(config.listen_port),
                ]
            }));
        }
        let taken = taken.into_iter().map(|matches| Rule {
            matches,
            action: Action::Return,
        });
        chain(TO_HOST, taken.chain([drop(Vec::new())]).collect())
    }

    fn to_vxlan(&self) -> Vec<Match> {
        let port = self.settings.vxlan_port;
        vec![Match::Protocol(UDP), Match::DestinationPort(port)]
    }

    /// The two directions between two VXLAN devices have unrelated ports: tracked, they would only fill the table.
    fn untracked(&self, family: Family) -> Option<Rule> {
        self.vxlan(family).map(|_| Rule {
            matches: self.to_vxlan(),
            action: Action::NoTrack,
        })
    }

    /// A stranger's packet in a tunnel would be taken for a pod's.
    fn tunnels_from_strangers(&self, family: Family, ruleset: &mut Ruleset) -> Vec<Rule> {
        let ipip = self.local.ipip.filter(|_| family == Family::V4);
        let ipip = ipip.map(|_| vec![Match::Protocol(IPIP)]);
        let vxlan = self.vxlan(family).map(|_| self.to_vxlan());
        let tunnels: Vec<Vec<Match>> = ipip.into_iter().chain(vxlan).collect();
        if tunnels.is_empty() {
            return Vec::new();
        }
        let nodes = self.nodes(family, ruleset);
        let strangers: Vec<Match> = nodes.into_iter().map(Match::NotSource).collect();
        let tunnels = tunnels.into_iter();
        tunnels
            .map(|tunnel| drop([tunnel, strangers.clone(), vec![Match::ToHost]].concat()))
            .collect()
    }
}

fn drop(matches: Vec<Match>) -> Rule {
    Rule {
        matches,
        action: Action::Drop,
    }
}

pub(super) fn chain(name: &'static str, rules: Vec<Rule>) -> Chain {
    Chain {
        name,
        hook: None,
        rules,
    }
}

fn base(name: &'static str, number: u32, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain {
        name,
        hook: Some(Hook {
            kind: "filter",
            number,
            priority,
        }),
        rules,
    }
}
