//! Packets that go no further: those of tunnels that no node sent, and those of pods under addresses that are not theirs.

use super::{Facts, UDP};
use crate::rules::{Action, Chain, Family, Hook, INPUT, Match, OUTPUT, PREROUTING, Rule, Ruleset};

/// `IPPROTO_IPIP`, `IPPROTO_ICMPV6`.
const IPIP: u8 = 4;
const ICMPV6: u8 = 58;
/// Before connections are tracked.
const RAW_PRIORITY: i32 = -300;
/// Where filters stand.
const FILTER_PRIORITY: i32 = 0;
const FROM_WORKLOADS: &str = "raw-cali-from-workloads";
const TO_HOST: &str = "filter-cali-wl-to-host";

impl Facts<'_> {
    pub(super) fn filter(&self, family: Family, ruleset: &mut Ruleset) {
        let untracked = self.untracked(family);
        let workloads = self.workloads_chain(family);
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
            ruleset.chains.push(to_host(family));
            input.extend(self.at_workloads(TO_HOST));
        }
        if !input.is_empty() {
            (ruleset.chains).push(base("filter-INPUT", INPUT, FILTER_PRIORITY, input));
        }
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
    fn workloads_chain(&self, family: Family) -> Chain {
        let mut dropped = vec![vec![Match::NoReversePath]];
        if family == Family::V4 && !self.settings.ipip_from_pods {
            dropped.push(vec![Match::Protocol(IPIP)]);
        }
        if !self.settings.vxlan_from_pods {
            dropped.push(self.to_vxlan());
        }
        let rules = dropped.into_iter().map(drop).collect();
        chain(FROM_WORKLOADS, rules)
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

/// What pods send to their own node: answers, and how they find their IPv6 gateway.
fn to_host(family: Family) -> Chain {
    let mut taken = vec![vec![Match::Established]];
    if family == Family::V6 {
        // Listeners' reports and router solicitations; neighbour solicitations and advertisements (RFC 2710, RFC 4861).
        for types in [130..=133, 135..=136] {
            taken.push(vec![Match::Protocol(ICMPV6), Match::IcmpType(types)]);
        }
    }
    let taken = taken.into_iter().map(|matches| Rule {
        matches,
        action: Action::Return,
    });
    chain(TO_HOST, taken.chain([drop(Vec::new())]).collect())
}

fn drop(matches: Vec<Match>) -> Rule {
    Rule {
        matches,
        action: Action::Drop,
    }
}

fn chain(name: &'static str, rules: Vec<Rule>) -> Chain {
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
